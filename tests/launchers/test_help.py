"""Every launcher's help: quick, with an example and the exit codes."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from prealign.errors import EXIT_CODES
from prealign.evaluation.names import MEASUREMENTS
from tests.processes import ROOT

LAUNCHERS = sorted(path.name for path in (ROOT / "launchers").glob("*.py") if path.name != "__init__.py")
PROBE = """
import json, runpy, sys, time
sys.argv = ["launchers/{name}", "{option}"]
try:
    runpy.run_path("launchers/{name}", run_name="__main__")
except SystemExit as ended:
    heavy = sorted({{"torch", "deepspeed", "scipy", "matplotlib", "datasets"}} & sys.modules.keys())
    print("\\n" + json.dumps({{"code": ended.code or 0, "heavy": heavy, "seconds": time.process_time()}}))
"""


def probe(name: str, option: str) -> tuple[dict, str, str]:
    """How a launcher ends with an option (code, heavy modules that it imported, seconds of processor time), its output
    and its errors."""
    script = PROBE.format(name=name, option=option)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    output, _, last = done.stdout.rstrip().rpartition("\n")
    return json.loads(last), output, done.stderr


@pytest.mark.parametrize("name", LAUNCHERS)
def test_help_is_quick_and_has_an_example_and_the_exit_codes(name: str) -> None:
    ended, output, _ = probe(name, "--help")
    assert ended["code"] == 0
    assert ended["heavy"] == []
    assert ended["seconds"] < 1.0
    assert re.search(rf"^    .*launchers/{re.escape(name)} [-\w]", output, re.MULTILINE), "an example"
    for code, meaning in EXIT_CODES.items():
        assert f"{code}  {meaning}" in output
    assert all(len(line) <= 130 for line in output.splitlines())


def test_a_mistyped_option_takes_no_longer() -> None:
    ended, _, errors = probe("pretrain.py", "--hlep")
    assert ended["code"] == 2
    assert ended["heavy"] == []
    assert "usage: pretrain.py" in errors


def test_exit_codes_stand_in_the_guide() -> None:
    guide = (ROOT / "prealign/training/README.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| (\d+) \| (.*?) \|$", guide, re.MULTILINE))
    assert {int(code): meaning for code, meaning in listed.items() if int(code) in EXIT_CODES} == EXIT_CODES
    assert "3" in listed  # of translate.py


def test_every_launcher_stands_in_the_readme_and_has_a_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"].values()
    commands = {script.partition(":")[2] for script in scripts}
    assert [name for name in LAUNCHERS if f"launchers/{name}" not in readme] == []
    of_a_checkout = {"benchmark_data", "gpu_check"}
    assert {Path(name).stem for name in LAUNCHERS} - commands == of_a_checkout


def test_names_of_measurements_are_those_that_are_measured() -> None:
    from prealign.evaluation.measuring import METRICS

    assert tuple(METRICS) == MEASUREMENTS
