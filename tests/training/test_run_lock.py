"""A run folder has one run at a time, and no lock that needs a hand."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prealign.errors import UserError
from prealign.training import run_lock
from prealign.training.run_lock import RunLock
from tests.conftest import tiny_recipe
from tests.processes import finish, metrics, start, train_arguments

HOLD = """
import sys, time
from pathlib import Path
from prealign.training import run_lock
run_lock._TOUCHED_EVERY = float(sys.argv[2])
if len(sys.argv) > 3:
    run_lock._machine = lambda: sys.argv[3]
lock = run_lock.RunLock(Path(sys.argv[1]), print)
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def holding(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A process that holds the lock of a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "held\n" in iter(process.stdout.readline, "")
    return process


def acquired(folder: Path) -> tuple[RunLock, list[str]]:
    said: list[str] = []
    lock = RunLock(folder, said.append)
    lock.acquire()
    return lock, said


def test_one_after_the_other(tmp_path: Path) -> None:
    for _ in range(3):
        lock, said = acquired(tmp_path / "run")
        assert said == []
        with pytest.raises(UserError, match=rf"is in use by process {os.getpid()} on .*; wait for it or stop it"):
            acquired(tmp_path / "run")
        lock.release()
        assert list((tmp_path / "run").iterdir()) == []


def test_of_a_killed_process_it_is_taken_over(tmp_path: Path) -> None:
    process = holding(tmp_path, "15")
    with pytest.raises(UserError, match=f"in use by process {process.pid} on "):
        acquired(tmp_path)
    process.kill()
    process.communicate()
    lock, (line,) = acquired(tmp_path)
    assert f"taken over from process {process.pid} on " in line
    assert line.endswith("which has ended")
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_on_another_machine_signs_of_life_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "_GONE_AFTER", 2.0)
    process = holding(tmp_path, "0.2", "another machine")
    began = time.monotonic()
    with pytest.raises(UserError, match=f"in use by process {process.pid} on "):
        acquired(tmp_path)
    assert time.monotonic() - began < 2.0  # nothing is waited for once it shows life
    process.kill()
    process.communicate()
    lock, (waiting, line) = acquired(tmp_path)
    assert "waiting up to 2 s for a sign of life" in waiting
    assert "of which nothing was heard for 2 s" in line
    lock.release()


def test_a_process_number_that_was_given_again(tmp_path: Path) -> None:
    lock, _ = acquired(tmp_path)
    holder = json.loads((tmp_path / ".lock").read_text())
    lock.release()
    (tmp_path / ".lock").write_text(json.dumps(holder | {"started": "1", "token": "other"}))
    lock, (line,) = acquired(tmp_path)
    assert "which has ended" in line
    lock.release()


def test_who_was_thought_gone_ends_and_leaves_the_lock_alone(tmp_path: Path) -> None:
    process = holding(tmp_path, "0.1")
    (tmp_path / ".lock").write_text(json.dumps(json.loads((tmp_path / ".lock").read_text()) | {"token": "another"}))
    _, err = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "another process has taken the run over" in err
    assert json.loads((tmp_path / ".lock").read_text())["token"] == "another"


def test_a_lock_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "_GONE_AFTER", 0.3)
    (tmp_path / ".lock").write_text("{")
    lock, (waiting, line) = acquired(tmp_path)
    assert "held by a process; waiting" in waiting
    assert "taken over from a process, of which nothing was heard" in line
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_process_killed_while_it_removed_a_lock(tmp_path: Path) -> None:
    """Its right to do so is taken over as well."""
    stale = dead_lock(tmp_path)
    killed = stale | {"process": stale["process"], "token": "the killed one"}
    (tmp_path / f".lock.{stale['token']}.removed").write_text(json.dumps(killed))
    lock, (line,) = acquired(tmp_path)
    assert "which has ended" in line
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_process_killed_while_it_released_its_lock(tmp_path: Path) -> None:
    """What it leaves behind names itself as the one who removes its own lock."""
    held = dead_lock(tmp_path)
    (tmp_path / f".lock.{held['token']}.removed").write_text(json.dumps(held))
    lock, (line,) = acquired(tmp_path)
    assert "which has ended" in line
    lock.release()
    assert list(tmp_path.iterdir()) == []


def dead_lock(folder: Path) -> dict[str, Any]:
    """Leave a killed process's lock in a folder; what it says."""
    process = holding(folder, "15")
    process.kill()
    process.communicate()
    return dict(json.loads((folder / ".lock").read_text()))


def _try(
    folder: Path,
    seed: int,
    start_at: float,
    won: "multiprocessing.queues.Queue[bool]",
    all_tried: "multiprocessing.synchronize.Event",
) -> None:
    """Take the lock, with pauses before all that is done to files, and hold it until all have tried."""
    draw = random.Random(seed)

    def late(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            time.sleep(draw.choice([0, 0, draw.uniform(0, 0.02)]))
            return function(*arguments, **keywords)

        return call

    os.link, os.unlink, os.rename = late(os.link), late(os.unlink), late(os.rename)
    run_lock._read = late(run_lock._read)
    time.sleep(max(0.0, start_at - time.time()))
    try:
        acquired(folder)
    except UserError:
        won.put(False)
    else:
        won.put(True)
        all_tried.wait(60)
    won.close()
    won.join_thread()
    os._exit(0)  # as a killed process: nothing is released


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_of_many_at_once_one_takes_a_stale_lock(tmp_path: Path, seed: int) -> None:
    context = multiprocessing.get_context("fork")
    dead_lock(tmp_path)
    for attempt in range(5):
        won, all_tried = context.Queue(), context.Event()
        start_at = time.time() + 0.3
        processes = [
            context.Process(target=_try, args=(tmp_path, 1000 * seed + 10 * attempt + one, start_at, won, all_tried))
            for one in range(8)
        ]
        for each in processes:
            each.start()
        outcomes = [won.get(timeout=60) for _ in processes]
        all_tried.set()
        for each in processes:
            each.join()
        assert outcomes.count(True) == 1
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20))])
def test_a_run_started_twice(data_dir: Path, tmp_path: Path, seed: int) -> None:
    """The second start ends with one line; the first is undisturbed. Every third first one is killed, and then the
    second takes over."""
    draw = random.Random(seed)
    recipe = tiny_recipe(data_dir)
    arguments = train_arguments(recipe, tmp_path / "run")
    first = start(arguments, 2)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / ".lock").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(draw.uniform(0, 2))
    killed = seed % 3 == 1
    if killed:
        for process in first:
            process.send_signal(signal.SIGKILL)
    elif any(process.poll() is not None for process in first):
        pytest.skip("the first run was over before the second began")
    code, out, err = finish(start(arguments, 2))
    if killed:
        finish(first)
        assert code == 0, err
        assert "taken over from process" in out
    else:
        first_code, _, first_err = finish(first)
        assert first_code == 0, first_err
        finished_before = "finished" in out
        assert finished_before or (code == 2 and "is in use by process" in err)
        assert "Traceback" not in err
    rows = [(row["kind"], row["stage"], row["step"]) for row in metrics(tmp_path / "run")]
    assert len(rows) == len(set(rows))
    assert not list((tmp_path / "run").glob(".lock*"))
