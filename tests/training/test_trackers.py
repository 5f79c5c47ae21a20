"""Trackers get every number under its documented name, go on with one id, and can neither end a run nor stall it."""

import re
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from prealign.preparation.pipeline import prepare
from prealign.training import trackers as module
from prealign.training.metrics import MetricsLog
from prealign.training.trackers import InBackground, Point, TensorBoard, trackers
from tests.conftest import tiny_recipe
from tests.facts.recipes import facts_recipe
from tests.processes import ROOT, finish, metrics, start, train_arguments

POINT = Point("align", 1, 512, {"train/lm_loss": 5.0})
ROW = {"kind": "train", "stage": "align", "step": 4, "tokens": 2048, "lm_loss": 5.0, "align_loss_layers": [1.0, 2.0]}


class FakeRun:
    """What `wandb.init` gives, as far as it is used."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options, self.rows, self.axes, self.finished = options, [], [], False

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes.append((name, step_metric))

    def log(self, values: dict[str, Any]) -> None:
        self.rows.append(values)

    def finish(self) -> None:
        self.finished = True


class Broken:
    key = "log.broken"

    def log(self, point: Point) -> None:
        raise RuntimeError("no\nroute to host")

    def close(self) -> None:
        raise AssertionError("is off")


class Stalled:
    key = "log.stalled"

    def __init__(self) -> None:
        self.released = threading.Event()

    def log(self, point: Point) -> None:
        self.released.wait(30)

    def close(self) -> None:
        pass


def test_names_of_layers_are_those_of_the_recipe(tmp_path: Path) -> None:
    seen: list[Point] = []
    tracker = SimpleNamespace(key="log.seen", log=seen.append, close=lambda: None)
    log = MetricsLog(tmp_path, [0, 5], [InBackground(tracker, print)])
    log.write(ROW | {"alignment": {"clone": {}}})
    log.close()
    values = {"train/tokens": 2048, "train/lm_loss": 5.0, "align_loss_layers/00": 1.0, "align_loss_layers/05": 2.0}
    assert seen == [Point("align", 4, 2048, values)]


def test_tensorboard_has_a_run_for_every_stage(tmp_path: Path) -> None:
    tracker = InBackground(TensorBoard(tmp_path), print)
    for stage in ("align", "pretrain"):
        tracker.log(Point(stage, 3, 100, {"train/lm_loss": 4.5}))  # type: ignore[arg-type]
    tracker.close()
    for stage in ("align", "pretrain"):
        events = EventAccumulator(str(tmp_path / "tensorboard" / stage))
        events.Reload()
        (scalar,) = events.Scalars("train/lm_loss")
        assert (scalar.step, scalar.value) == (3, 4.5)


def test_weights_and_biases_goes_on_with_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[FakeRun] = []

    def init(**options: Any) -> FakeRun:
        runs.append(FakeRun(options))
        return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    recipe = tiny_recipe(tmp_path / "data", log={"tensorboard": False, "wandb": {"project": "words"}})
    for _ in range(2):
        (tracker,) = trackers(recipe, tmp_path, pytest.fail)
        tracker.log(POINT)
        tracker.close()
    first, second = runs
    assert first.options["id"] == second.options["id"] == (tmp_path / "wandb_id").read_text().strip()
    assert (first.options["project"], first.options["name"], first.options["resume"]) == ("words", "tiny", "allow")
    assert "mode" not in first.options  # WANDB_MODE says it
    assert first.options["config"]["model"]["layers"] == 2
    assert first.axes == [("tokens", None), ("*", "tokens")]
    assert first.rows == [{"stage": "align", "step_of_stage": 1, "tokens": 512, "train/lm_loss": 5.0}]
    assert first.finished


def test_what_is_not_installed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    said: list[str] = []
    recipe = tiny_recipe(tmp_path / "data", log={"tensorboard": False, "wandb": {}})
    assert trackers(recipe, tmp_path, said.append) == []
    assert len(said) == 1
    assert said[0].endswith("training goes on without it; pip install wandb")


def test_a_broken_tracker_is_off_after_one_line() -> None:
    said: list[str] = []
    tracker = InBackground(Broken(), said.append)
    tracker.log(POINT)
    tracker.close()
    tracker.log(POINT)
    tracker.close()
    assert said == [
        "warning: log.broken: RuntimeError: no route to host; it is off now; training and metrics.jsonl go on"
    ]


def test_a_stalled_tracker_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(module, "_WAITING", 3)
    for rows, why in ((1, "did not finish within 0.2 seconds"), (10, "is 3 rows behind")):
        said: list[str] = []
        stalled = Stalled()
        tracker = InBackground(stalled, said.append)
        began = time.monotonic()
        for _ in range(rows):
            tracker.log(POINT)
        tracker.close()
        assert time.monotonic() - began < 5
        stalled.released.set()
        assert len(said) == 1
        assert why in said[0]


def documented() -> list[re.Pattern[str]]:
    """The names of the guide's table; words in capitals stand for any."""
    text = (ROOT / "prealign/training/README.md").read_text(encoding="utf-8")
    table = text[text.index("| name | unit |") :].split("\n\n")[0]
    names = re.findall(r"`([^`]+)`", " ".join(row.split("|")[1] for row in table.splitlines()[2:]))
    return [re.compile(re.sub(r"fN", r"f\\d+", re.sub(r"[A-Z]{2,}", r"\\w+", name))) for name in names]


def test_every_name_that_a_run_writes_is_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with facts and word batches in both stages; its broken tracker costs it a line."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "wandb.py").write_text("def init(**options):\n    raise OSError('no such host')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'modules'}:{ROOT}")
    recipe = facts_recipe(tmp_path, pretrain={"align_every": 2}, log={"tensorboard": False, "wandb": {}})
    prepare(recipe, say=lambda line: None)
    code, out, err = finish(start(train_arguments(recipe, tmp_path / "run")))
    assert code == 0, err
    assert out.count("warning: log.wandb: OSError: no such host; it is off now") == 1
    rows = metrics(tmp_path / "run")
    written = {name for row in rows for name in row} | {"tokens_per_second", "data_wait", "peak_memory_gb"}
    names = documented()
    assert {name for name in written if not any(pattern.fullmatch(name) for pattern in names)} == set()
    assert {pattern.pattern for pattern in names if not any(pattern.fullmatch(name) for name in written)} == set()
    flops = [row["tflop"] for row in rows]
    assert flops == sorted(flops)
    assert flops[0] == 0.0 < flops[-1]
