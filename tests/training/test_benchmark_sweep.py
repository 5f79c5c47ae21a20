"""A grid of benchmarks, with a stub in place of the launcher."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from prealign.errors import UserError
from prealign.training.benchmark_sweep import Axis, points, speed, sweep

STUB = """
import json, os, pathlib, subprocess, sys, time
given = dict(word.split("=", 1) for word in sys.argv if "=" in word)
with open({calls!r}, "a") as file:
    print(" ".join(word for word in sys.argv if "=" in word), file=file)
rows, zero = int(given["batch.micro_batch_size"]), given["parallel.zero_stage"]
if zero == "3" and rows >= 8:
    sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate")
if zero == "2":
    print("error: parallel.zero_stage: found 2; expected another")
    print("[launch.py:1] exits with return code = 2")
    sys.exit(2)
if zero == "0":
    child = subprocess.Popen(["sleep", "60"])
    pathlib.Path({child!r}).write_text(str(child.pid))
    time.sleep(60)
stage = {{"tokens_per_second": 100.0 * rows, "mfu": None}}
pathlib.Path(sys.argv[sys.argv.index("--json") + 1]).write_text(json.dumps({{"stages": {{"pretrain": stage}}}}))
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    stub = tmp_path / "stub.py"
    stub.write_text(STUB.format(calls=str(tmp_path / "calls"), child=str(tmp_path / "child")))
    return [sys.executable, str(stub)]


def run(command: list[str], folder: Path, *texts: str, limit: float = 30.0) -> list[dict]:
    return sweep(
        points([Axis.parse(text) for text in texts]), command, folder / "sweep.jsonl", limit, lambda line: None
    )


def test_points_grow_by_the_micro_batch() -> None:
    axes = [Axis.parse("batch.micro_batch_size=16,4"), Axis.parse("parallel.zero_stage=1,3")]
    assert points(axes) == [
        ("parallel.zero_stage=1", "batch.micro_batch_size=4"),
        ("parallel.zero_stage=1", "batch.micro_batch_size=16"),
        ("parallel.zero_stage=3", "batch.micro_batch_size=4"),
        ("parallel.zero_stage=3", "batch.micro_batch_size=16"),
    ]


def test_every_outcome_is_a_row(command: list[str], tmp_path: Path) -> None:
    rows = run(command, tmp_path, "parallel.zero_stage=1,2,3", "batch.micro_batch_size=4,8,16")
    outcomes = {tuple(change.partition("=")[2] for change in row["overrides"]): row["outcome"] for row in rows}
    assert [outcomes["1", size] for size in ("4", "8", "16")] == ["measured"] * 3
    assert outcomes["2", "4"] == "failed: error: parallel.zero_stage: found 2; expected another"
    assert [outcomes["3", size] for size in ("4", "8", "16")] == [
        "measured",
        "out of memory",
        "not tried: 8 rows were out of memory",
    ]
    assert max(map(speed, rows)) == 1600.0
    assert [json.loads(line) for line in (tmp_path / "sweep.jsonl").read_text().splitlines()] == rows
    assert len((tmp_path / "calls").read_text().splitlines()) == 8


def test_it_goes_on_where_it_was_ended(command: list[str], tmp_path: Path) -> None:
    first = run(command, tmp_path, "parallel.zero_stage=1", "batch.micro_batch_size=4,8")
    path = tmp_path / "sweep.jsonl"
    path.write_text(path.read_text()[:-20])  # killed while it wrote the last
    (tmp_path / "calls").unlink()
    again = run(command, tmp_path, "parallel.zero_stage=1", "batch.micro_batch_size=4,8,16")
    assert again[:2] == first
    calls = (tmp_path / "calls").read_text().split("\n")[:-1]
    assert calls == [f"parallel.zero_stage=1 batch.micro_batch_size={size}" for size in (8, 16)]
    # of another command nothing is taken
    (tmp_path / "calls").unlink()
    run([*command, "--more"], tmp_path, "parallel.zero_stage=1", "batch.micro_batch_size=4")
    assert len((tmp_path / "calls").read_text().splitlines()) == 1


def test_a_time_limit_ends_it_and_its_children(command: list[str], tmp_path: Path) -> None:
    began = time.monotonic()
    (row,) = run(command, tmp_path, "parallel.zero_stage=0", "batch.micro_batch_size=4", limit=2.0)
    assert row["outcome"] == "stopped after 2 s"
    assert time.monotonic() - began < 15
    child = int((tmp_path / "child").read_text())
    for _ in range(50):
        if not _runs(child):
            break
        time.sleep(0.1)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.parametrize(
    "text", ["batch.micro_batch_size", "=4", "parallel.zero_stage=", "batch.micro_batch_size=many"]
)
def test_what_is_no_axis(text: str) -> None:
    with pytest.raises(UserError, match=r"^--sweep: found"):
        points([Axis.parse(text)])


def test_files_of_others_stay(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "sweep.jsonl").write_text('{"kind": "train"}\n')
    with pytest.raises(UserError, match="holds something else than a sweep"):
        run(command, tmp_path, "parallel.zero_stage=1", "batch.micro_batch_size=4")
