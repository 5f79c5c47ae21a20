"""A grid of benchmarks, with a stub in place of `launchers/benchmark.py`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launchers.benchmark import show_sweep
from prealign.errors import UserError
from prealign.suites.benchmark_sweep import Axis, Point, Record, Row, combinations, speed, sweep
from prealign.suites.launching import Processes
from tests.processes import wait_for

STUB = """
import json, os, pathlib, signal, subprocess, sys, time
here = pathlib.Path(__file__).parent
given = dict(word.split("=", 1) for word in sys.argv if "=" in word)
with open(here / "calls", "a") as file:
    print(" ".join(word for word in sys.argv if "=" in word), file=file)
rows, zero = int(given["batch.micro_batch_size"]), given["parallel.zero_stage"]
if zero == "3" and rows >= 8:
    sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate")
if zero == "2" and rows == 8:
    os.kill(os.getpid(), signal.SIGKILL)
if zero == "2":
    print("error: found [rank0]; expected another")
    print("[launch.py:1] exits with return code = 2")
    sys.exit(2)
if zero == "0":
    child = subprocess.Popen(["sleep", "60"])
    (here / "child").write_text(str(child.pid))
    time.sleep(60)
stage = {"tokens_per_second": 100.0 * rows, "mfu": None, "peak_memory_gb": 1.0, "seconds_per_step": 1.0}
pathlib.Path(sys.argv[sys.argv.index("--json") + 1]).write_text(json.dumps({"stages": {"pretrain": stage}}))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "benchmark.py").write_text(STUB)
    return tmp_path


def run(folder: Path, *texts: str, limit: float = 30.0, recipe: str = "one", words: tuple[str, ...] = ()) -> list[Row]:
    points = [Point(overrides, recipe) for overrides in combinations([Axis.parse(text) for text in texts])]
    with Processes("python", folder) as processes:
        return sweep(points, words, processes, Record(folder / "sweep.jsonl"), limit, lambda line: None)


def calls(folder: Path) -> list[str]:
    """Overrides of what was run since this was asked last."""
    path = folder / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def test_combinations_grow_by_the_micro_batch() -> None:
    axes = [Axis.parse("batch.micro_batch_size=16,4,4"), Axis.parse("parallel.compile=false,true")]
    assert combinations(axes) == [
        ("parallel.compile=false", "batch.micro_batch_size=4"),
        ("parallel.compile=false", "batch.micro_batch_size=16"),
        ("parallel.compile=true", "batch.micro_batch_size=4"),
        ("parallel.compile=true", "batch.micro_batch_size=16"),
    ]
    assert Axis.parse("align.layers=[0,5],all").values == ("[0, 5]", "all")


def test_every_outcome_is_a_row(folder: Path) -> None:
    rows = run(folder, "parallel.zero_stage=1,2,3", "batch.micro_batch_size=4,8,16")
    outcomes = {tuple(change.partition("=")[2] for change in row["overrides"]): row["outcome"] for row in rows}
    assert [outcomes["1", size] for size in ("4", "8", "16")] == ["measured"] * 3
    assert outcomes["2", "4"] == "failed: error: found [rank0]; expected another"
    assert [outcomes["2", size] for size in ("8", "16")] == ["out of memory", "not tried: 8 rows were out of memory"]
    assert [outcomes["3", size] for size in ("4", "8", "16")] == [
        "measured",
        "out of memory",
        "not tried: 8 rows were out of memory",
    ]
    assert max(map(speed, rows)) == 1600.0
    assert [json.loads(line) for line in (folder / "sweep.jsonl").read_text().splitlines()] == rows
    assert len(calls(folder)) == 7


def test_the_table_has_the_fastest_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_sweep(run(folder, "parallel.zero_stage=1,2", "batch.micro_batch_size=4,16"))
    lines = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert "1,600" in lines[0]
    assert "400" in lines[1]
    assert "rank0" in "".join(lines)  # not taken for markup


def test_it_goes_on_where_it_was_ended(folder: Path) -> None:
    grid = ("parallel.zero_stage=1", "batch.micro_batch_size=4,8")
    first = run(folder, *grid)
    path = folder / "sweep.jsonl"
    path.write_text(path.read_text()[:-20])  # killed while it wrote the last
    calls(folder)
    again = run(folder, "parallel.zero_stage=1", "batch.micro_batch_size=4,8,16")
    assert again[:2] == first
    assert calls(folder) == [f"parallel.zero_stage=1 batch.micro_batch_size={size}" for size in (8, 16)]
    # nothing is taken from another command, or another recipe of that name
    run(folder, *grid, words=("--steps", "9"))
    run(folder, *grid, recipe="two")
    assert len(calls(folder)) == 4


def test_what_failed_is_tried_again(folder: Path) -> None:
    grid = ("parallel.zero_stage=2,3", "batch.micro_batch_size=4,16")
    run(folder, *grid)
    assert len(calls(folder)) == 4
    run(folder, *grid)
    assert calls(folder) == [f"parallel.zero_stage=2 batch.micro_batch_size={size}" for size in (4, 16)]


def test_a_time_limit_ends_it_and_its_children(folder: Path) -> None:
    began = time.monotonic()
    (row,) = run(folder, "parallel.zero_stage=0", "batch.micro_batch_size=4", limit=2.0)
    assert row["outcome"] == "stopped after 2 s"
    assert time.monotonic() - began < 20
    wait_for(lambda: not runs(int((folder / "child").read_text())))


def test_a_signal_ends_it_and_its_children(folder: Path) -> None:
    words = ["--sweep", "parallel.zero_stage=0", "--sweep", "batch.micro_batch_size=4", "--json", f"{folder}/s.jsonl"]
    launcher = f"{sys.executable} {folder}/benchmark.py"
    command = [sys.executable, "launchers/benchmark.py", "--config", "enclone_demo", *words, "--launcher", launcher]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for((folder / "child").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 75
    wait_for(lambda: not runs(int((folder / "child").read_text())))


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.parametrize(
    "text",
    [
        "batch.micro_batch_size",
        "=4",
        "parallel.zero_stage=",
        "batch.micro_batch_size=many",
        "batch.micro_batch_size=true",
        "batch.micro_batch_size=[",
    ],
)
def test_what_is_no_axis(text: str) -> None:
    with pytest.raises(UserError, match=r"^--sweep: found"):
        Axis.parse(text)


@pytest.mark.parametrize("content", ['{"kind": "train"}\n', '{\n "device": "x"\n}\n'], ids=["rows", "a record"])
def test_files_of_others_stay(content: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match="holds something else than a sweep"):
        Record(path)
    assert path.read_text() == content
    with pytest.raises(UserError, match=r"--json: .* cannot be written \(No such file"):
        Record(tmp_path / "nowhere" / "sweep.jsonl")


@pytest.mark.parametrize(
    ("launcher", "message"), [("", "found nothing"), ("a 'b", "No closing quotation"), ("nosuch", "cannot be run")]
)
def test_launchers_that_are_none(launcher: str, message: str, folder: Path) -> None:
    with pytest.raises(UserError, match=f"--launcher: .*{message}"), Processes(launcher, folder) as processes:
        sweep([Point(("batch.micro_batch_size=4",), "x")], [], processes, Record(None), 9.0, lambda line: None)
