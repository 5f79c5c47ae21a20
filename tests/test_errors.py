"""How a launcher ends: exit code, what it prints, and that a rank does not finalize its interpreter."""

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import atexit, os, sys
from prealign.errors import Interrupted, UserError, run

class Kept:
    def __del__(self, write=os.write):
        write(1, b"finalized,")

kept = Kept()
atexit.register(os.write, 1, b"at exit,")

def main():
    print("main,", end="")  # not flushed
    {ending}

run(main)
"""


def _run(ending: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if name != "RANK"}
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(ending=ending)], env=own | environment, text=True, capture_output=True
    )


@pytest.mark.parametrize(
    ("ending", "code"), [("return", 0), ("raise UserError('wrong')", 2), ("raise Interrupted", 75)]
)
def test_a_rank_ends_with_its_code_and_output_but_does_not_finalize_the_interpreter(ending: str, code: int) -> None:
    ended = _run(ending, RANK="0")
    assert ended.returncode == code
    assert sorted(ended.stdout.split(",")) == ["", "at exit", "main"]
    assert ended.stderr == ("error: wrong\n" if code == 2 else "")


def test_a_program_of_one_process_ends_as_any_other() -> None:
    ended = _run("return")
    assert ended.returncode == 0
    assert "finalized" in ended.stdout


def test_what_main_does_not_handle_keeps_its_traceback() -> None:
    ended = _run("raise ZeroDivisionError", RANK="0")
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr
    assert "finalized" not in ended.stdout


@pytest.mark.parametrize(
    ("ending", "line"),
    [
        ("raise OSError(28, 'No space left on device', '/full/file')", "'/full/file' cannot be written (No space left"),
        ("open('/tmp/' + 'x' * 300)", "cannot be written (File name too long); make room, or choose another place"),
    ],
)
def test_what_a_place_lacks_is_one_line(ending: str, line: str) -> None:
    ended = _run(ending)
    assert ended.returncode == 2
    assert line in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_output_that_cannot_be_written_does_not_change_the_code() -> None:
    ended = _run("sys.stdout = open('/dev/full', 'w'); print('x'); raise Interrupted", RANK="0")
    assert ended.returncode == 75


def test_another_rank_names_itself() -> None:
    ended = _run("raise UserError('wrong')", RANK="3")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error (rank 3 on ")
