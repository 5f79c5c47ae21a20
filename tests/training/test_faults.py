"""What goes wrong in a long run: NaN, leaps of the loss, dead and hanging ranks, a full disk, a request to stop."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from prealign.config import Recipe, dump_recipe
from tests.conftest import tiny_recipe
from tests.processes import ROOT, finish, free_port, metrics, start

STEPS = 20


def recipe_of(data_dir: Path, **changes: Any) -> Recipe:
    english = tiny_recipe(data_dir).languages["en"].model_dump()
    sections: dict[str, Any] = {
        "stages": ["pretrain"],
        "languages": {
            "en": english | {"tokens": (STEPS - 5) * 512},
            "clone": {"tokens": 5 * 512, "clone_of": "en", "clone_share": 0.2},
        },
        "checkpoint": {"every": 4, "keep": 2},
        "evaluation": {"every": 10, "tokens": 2000, "probe_words": 50},
        "anomalies": {"window": 4, "spike": "skip", "sigmas": 20.0},
    }
    return tiny_recipe(data_dir, **(sections | changes))


def run(
    recipe: Recipe, folder: Path, disturb: str | None, monkeypatch: pytest.MonkeyPatch, ranks: int = 2
) -> tuple[int, str, str]:
    return finish(begin(recipe, folder, disturb, monkeypatch, ranks))


def begin(
    recipe: Recipe, folder: Path, disturb: str | None, monkeypatch: pytest.MonkeyPatch, ranks: int = 2
) -> list[subprocess.Popen[str]]:
    path = folder.with_name(folder.name + ".yaml")
    path.write_text(dump_recipe(recipe))
    script = "launchers/pretrain.py" if disturb is None else "tests/training/disturbed.py"
    monkeypatch.setenv("DISTURB", disturb or "")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return start([script, "--config", str(path), f"run_dir={folder}"], ranks)


def losses(folder: Path) -> dict[int, float]:
    return {row["step"]: row["lm_loss"] for row in metrics(folder) if row["kind"] == "train"}


def record(folder: Path, step: int) -> dict[str, Any]:
    return json.loads((folder / "pretrain" / "anomalies" / f"step-{step}.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        code, _, error = run(recipe_of(data_dir), folder, None, monkeypatch)
    assert code == 0, error
    return folder


@pytest.mark.parametrize(
    "parallel",
    [
        {"zero_stage": 0},
        pytest.param({"zero_stage": 1}, marks=pytest.mark.slow),
        pytest.param({"zero_stage": 3, "precision": "bf16"}, marks=pytest.mark.slow),
    ],
)
def test_a_step_with_nan_is_skipped(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parallel: dict[str, Any]
) -> None:
    recipe = recipe_of(data_dir, parallel={"precision": "fp32"} | parallel)
    code, out, error = run(recipe, tmp_path / "run", "nan@6@1", monkeypatch)
    assert code == 0, error
    assert "step 6: loss not finite" in out
    assert "its update is left out" in out
    row = losses(tmp_path / "run")
    assert row[6] != row[6]
    assert all(value == value for step, value in row.items() if step != 6)
    written = record(tmp_path / "run", 6)
    assert [sample["nats"] for sample in written["samples"]].count("nan") == 8  # the second rank's half of the batch
    assert written["samples"][0]["nats"] == "nan"
    assert {sample["sample"] for sample in written["samples"]} == set(range(80, 96))
    assert len(written["samples"][0]["text"]) > 20


@pytest.mark.slow
def test_a_leap_is_skipped_and_decided_alike_after_a_kill(
    undisturbed: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(data_dir)
    folder = tmp_path / "once"
    assert run(recipe, folder, "leap@10", monkeypatch)[0] == 0
    assert "standard deviations" in record(folder, 10)["kind"]
    before = losses(undisturbed)
    assert {step: loss for step, loss in losses(folder).items() if step < 10} == {
        step: loss for step, loss in before.items() if step < 10
    }
    again = tmp_path / "again"
    processes = begin(recipe, again, "leap@10", monkeypatch)
    path = again / "metrics.jsonl"
    while not (path.is_file() and '"step": 10' in path.read_text()):
        time.sleep(0.01)
        assert processes[0].poll() is None
    for process in processes:
        process.kill()
    finish(processes)
    assert run(recipe, again, "leap@10", monkeypatch)[0] == 0
    assert metrics(again) == metrics(folder)


def test_rollback_passes_over_the_batch(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the same updates, the losses are those of a run that skipped the step, and of the same run again."""
    back = recipe_of(data_dir, anomalies={"nonfinite": "rollback", "window": 4})
    code, out, error = run(back, tmp_path / "back", "nan@7", monkeypatch)
    assert code == 0, error
    assert "going back to the last checkpoint, without the update of [7]" in out
    assert record(tmp_path / "back", 7)["passed"] == [7]
    skip = recipe_of(data_dir, anomalies={"nonfinite": "skip", "window": 4})
    assert run(skip, tmp_path / "skip", "nan@7", monkeypatch)[0] == 0
    rows = [losses(tmp_path / name) for name in ("back", "skip")]
    assert rows[0].keys() == rows[1].keys() == set(range(1, STEPS + 1))
    assert all(rows[0][step] == rows[1][step] for step in rows[0] if step != 7)


def test_stop_names_the_step_and_another_answer_goes_on(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = recipe_of(data_dir, anomalies={"nonfinite": "stop"})
    code, _, error = run(stop, tmp_path / "run", "nan@7@0", monkeypatch)
    assert code == 2
    assert "step 7: loss not finite (loss nan); its samples are in" in error
    assert "Traceback" not in error
    limited = recipe_of(data_dir, anomalies={"nonfinite": "skip", "limit": 0})
    code, _, error = run(limited, tmp_path / "run", "nan@7@0", monkeypatch)
    assert code == 2
    assert "anomalies.limit=0 is passed" in error
    skip = recipe_of(data_dir, anomalies={"nonfinite": "skip"})
    assert run(skip, tmp_path / "run", "nan@7@0", monkeypatch)[0] == 0


def begin_under(launcher: str, recipe: Recipe, folder: Path, disturb: str | None) -> subprocess.Popen[str]:
    """Start two ranks under a launcher, in a process group of their own; returns once they have made five steps or
    ended."""
    path = folder.with_name(folder.name + ".yaml")
    path.write_text(dump_recipe(recipe))
    here = Path(sys.executable).parent
    script = "launchers/pretrain.py" if disturb is None else "tests/training/disturbed.py"
    port = str(free_port())
    command = {
        "deepspeed": [str(here / "deepspeed"), "--quiet", "--num_accelerators", "2", "--master_port", port],
        "torchrun": [str(here / "torchrun"), "--nproc-per-node", "2", "--master-port", port],
    }[launcher]
    environment = os.environ | {"PATH": f"{here}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"DISTURB": disturb or "", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, script, "--config", str(path), f"run_dir={folder}"],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    rows = folder / "metrics.jsonl"
    while process.poll() is None and not (rows.is_file() and '"step": 5' in rows.read_text()):
        time.sleep(0.01)
    return process


def launch(launcher: str, recipe: Recipe, folder: Path, disturb: str) -> tuple[int, str, float]:
    """Returns exit code, stderr in the order it was written, and the seconds from the fifth step to the end."""
    process = begin_under(launcher, recipe, folder, disturb)
    began = time.monotonic()
    _, error = process.communicate(timeout=300)
    return process.returncode, error, time.monotonic() - began


def _ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The training processes under a launcher, by rank."""
    children = [child for child in psutil.Process(process.pid).children(recursive=True) if "RANK" in child.environ()]
    ranks = {int(child.environ()["RANK"]): child for child in children if "launchers/pretrain.py" in child.cmdline()}
    return [ranks[rank] for rank in sorted(ranks)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "target", "code"),
    [("deepspeed", "rank", 75), ("deepspeed", "group", None), ("torchrun", "rank", 1), ("torchrun", "launcher", None)],
)
def test_signals_under_launchers(
    undisturbed: Path,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    launcher: str,
    target: str,
    code: int | None,
) -> None:
    recipe, folder = recipe_of(data_dir, loader_workers=1), tmp_path / "run"  # launchers signal loaders as well
    process = begin_under(launcher, recipe, folder, None)
    ranks = _ranks_of(process)
    assert len(ranks) == 2
    if target == "rank":
        ranks[1].send_signal(signal.SIGTERM)
    elif target == "group":
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    psutil.wait_procs(ranks, timeout=30)
    assert not any(rank.is_running() for rank in ranks)
    assert process.returncode == code if code is not None else process.returncode != 0
    assert "step-" in (folder / "pretrain" / "checkpoints" / "latest").read_text()
    assert max(losses(folder)) < STEPS, "the run ended before it was stopped"
    assert run(recipe, folder, None, monkeypatch)[0] == 0
    assert metrics(folder) == metrics(undisturbed)


def _culprit_first(error: str, culprit: str) -> bool:
    """The first line that tells of an error names the culprit."""
    told = [line for line in error.splitlines() if "rror" in line or "Traceback" in line]
    first = error.index(told[0])
    return culprit in error[first : first + 4000] and "Connection closed" not in error[: error.index(culprit)]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["deepspeed", "torchrun"])
@pytest.mark.parametrize(
    ("disturb", "culprit"),
    [
        ("raise@6@1", "ValueError: this batch cannot be"),
        ("kill@6@1", "error: rank 1 on "),
        ("kill@6@0", "error: rank 0 is gone"),
    ],
)
def test_a_dead_rank_ends_the_others(data_dir: Path, tmp_path: Path, launcher: str, disturb: str, culprit: str) -> None:
    code, error, seconds = launch(launcher, recipe_of(data_dir), tmp_path / "run", disturb)
    assert code != 0
    assert seconds < 30
    if disturb != "kill@6@0":  # a launcher may be quicker than the others in finding that the first rank has gone
        assert _culprit_first(error, culprit), error


@pytest.mark.parametrize(
    "disturb",
    ["kill@6@1", *(pytest.param(other, marks=pytest.mark.slow) for other in ("raise@6@0", "kill@6@0"))],
)
def test_a_dead_rank_ends_the_others_without_a_launcher(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disturb: str
) -> None:
    processes = begin(recipe_of(data_dir), tmp_path / "run", disturb, monkeypatch)
    culprit = int(disturb[-1])
    processes[culprit].wait(timeout=200)
    began = time.monotonic()
    finish(processes)
    assert time.monotonic() - began < 30
    assert all(process.returncode not in (0, 75) for process in processes)


@pytest.mark.slow
def test_a_hang_is_named_with_all_stacks(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(data_dir, watchdog={"timeout": 30.0})
    code, _, error = run(recipe, tmp_path / "run", "hang@6@1", monkeypatch)
    assert code == 1
    assert "no forward pass for 30 s (watchdog.timeout): rank 1 on " in error
    assert "disturbed.py" in error
    stacks = [(tmp_path / "run" / "hang" / f"rank-{rank}.txt").read_text() for rank in (0, 1)]
    assert "all_reduce" in stacks[0]
    assert "disturbed.py" in stacks[1]


def test_a_failed_write_is_one_line_and_the_checkpoint_before_stays(
    undisturbed: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(data_dir)
    code, _, error = run(recipe, tmp_path / "run", "no_space@6@1", monkeypatch)
    assert code != 0
    assert "could not be written on rank 1" in error
    assert "the checkpoints before it are as they were" in error
    assert "Traceback" not in error
    assert (tmp_path / "run" / "pretrain" / "checkpoints" / "latest").read_text() == "step-4"
    assert run(recipe, tmp_path / "run", None, monkeypatch)[0] == 0
    assert metrics(tmp_path / "run") == metrics(undisturbed)


def test_a_checkpoint_waits_for_room(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(data_dir, checkpoint={"every": 4, "keep": 10})
    code, out, error = run(recipe, tmp_path / "run", "no_room@7", monkeypatch)
    assert code == 0, error
    assert "no room for a checkpoint in" in out
    folder = tmp_path / "run" / "pretrain" / "checkpoints"
    assert {path.name for path in folder.glob("step-*")} == {"step-4", "step-13", "step-16", "step-20"}


def test_a_signal_to_one_rank_stops_all_with_a_checkpoint(
    undisturbed: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = recipe_of(data_dir), tmp_path / "run"
    for number, rows in ((signal.SIGTERM, 3), (signal.SIGUSR1, 10), (signal.SIGINT, 15)):
        processes = begin(recipe, folder, None, monkeypatch)
        path = folder / "metrics.jsonl"
        while not path.is_file() or path.read_text().count("\n") < rows:
            time.sleep(0.005)
        processes[rows % 2].send_signal(number)
        finish(processes)
        assert [process.returncode for process in processes] == [75, 75]
    code, _, error = run(recipe, folder, None, monkeypatch)
    assert code == 0, error
    assert metrics(folder) == metrics(undisturbed)
