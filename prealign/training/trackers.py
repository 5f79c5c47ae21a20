"""What shows a run while it trains, behind one interface: TensorBoard and Weights & Biases."""

import queue
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from prealign.config import Recipe
from prealign.config.recipe import StageName
from prealign.files import write_atomically

_WAITING = 1000
"""Rows that a tracker may be behind by."""
_CLOSE_SECONDS = 10.0
"""What a tracker may take to send the rest when a run ends; launchers kill processes 30 seconds after a signal."""


@dataclass(frozen=True)
class Point:
    """Numbers of a row of `metrics.jsonl`: names as in the guide's table (``prealign/training/README.md``) behind the
    row's kind, one number a layer (``train/lm_loss``, ``align_cosine_layers/03``)."""

    stage: StageName
    step: int
    """Of the stage."""
    tokens: int
    """Of the run: text and word batches."""
    values: dict[str, float]


class Tracker(Protocol):
    """What takes a run's numbers. Its methods may raise and may take long: `InBackground` bears both."""

    key: str
    """The recipe's key that asks for it."""

    def log(self, point: Point) -> None:
        """Take numbers; the first ones open what must be opened."""

    def close(self) -> None:
        """Send what is left."""


class TensorBoard:
    """``RUN/tensorboard/STAGE``: a run of TensorBoard for every stage, over its steps."""

    key = "log.tensorboard"

    def __init__(self, folder: Path) -> None:
        """``folder``: the run's."""
        from torch.utils.tensorboard import SummaryWriter

        self._make_writer: Callable[..., Any] = SummaryWriter
        self._folder = folder / "tensorboard"
        self._writers: dict[str, Any] = {}

    def log(self, point: Point) -> None:
        """See `Tracker`."""
        if point.stage not in self._writers:
            # points past the step that a run resumes from are hidden
            folder = str(self._folder / point.stage)
            self._writers[point.stage] = self._make_writer(folder, purge_step=point.step)
        for name, value in point.values.items():
            self._writers[point.stage].add_scalar(name, value, point.step)

    def close(self) -> None:
        """See `Tracker`."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


class WeightsAndBiases:
    """One run of Weights & Biases, over tokens; a run that goes on has the id of its first start, from
    ``RUN/wandb_id``. Online or offline, and for whom, is said by wandb's own variables (``WANDB_MODE``, ...)."""

    key = "log.wandb"

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        """``folder``: the run's. Raises `ImportError` where wandb is not installed."""
        import wandb

        self._wandb: Any = wandb
        self._folder = folder
        self._recipe = recipe
        self._run: Any = None

    def log(self, point: Point) -> None:
        """See `Tracker`."""
        if self._run is None:
            self._run = self._start()
        place = {"stage": point.stage, "step_of_stage": point.step, "tokens": point.tokens}
        self._run.log(place | point.values)

    def close(self) -> None:
        """See `Tracker`."""
        if self._run is not None:
            self._run.finish()

    def _start(self) -> Any:
        settings = self._recipe.log.wandb
        assert settings is not None
        run = self._wandb.init(
            project=settings.project,
            entity=settings.entity,
            name=settings.name or self._recipe.name,
            id=_run_id(self._folder / "wandb_id"),
            resume="allow",
            dir=str(self._folder),
            config=self._recipe.model_dump(mode="json"),
        )
        run.define_metric("tokens")
        run.define_metric("*", step_metric="tokens")
        return run


def _run_id(path: Path) -> str:
    """The id in a file, which is written where there is none."""
    if not path.is_file():
        write_atomically(path, uuid.uuid4().hex[:8] + "\n")
    return path.read_text(encoding="utf-8").strip()


class InBackground:
    """A tracker in a thread of its own, so that it neither ends a run nor holds it up: what it raises, and rows that it
    does not take, become one warning, after which it is off."""

    def __init__(self, tracker: Tracker, say: Callable[[str], None]) -> None:
        self._tracker = tracker
        self._say = say
        self._off = threading.Event()
        self._points: queue.Queue[Point | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, name=tracker.key, daemon=True)
        self._thread.start()

    def log(self, point: Point) -> None:
        """Hand a point over."""
        if not self._off.is_set():
            self._put(point)

    def close(self) -> None:
        """Give the tracker ``_CLOSE_SECONDS`` for what is left."""
        if self._off.is_set():
            return
        self._put(None)
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            self._give_up(f"did not finish within {_CLOSE_SECONDS:g} seconds")

    def _put(self, point: Point | None) -> None:
        try:
            self._points.put_nowait(point)
        except queue.Full:
            self._give_up(f"is {_WAITING} rows behind")

    def _work(self) -> None:
        try:
            while (point := self._points.get()) is not None and not self._off.is_set():
                self._tracker.log(point)
            self._tracker.close()
        except Exception as error:  # whatever it is, the run goes on
            self._give_up(f"{type(error).__name__}: {' '.join(str(error).split())}")

    def _give_up(self, why: str) -> None:
        if not self._off.is_set():
            self._off.set()
            self._say(f"warning: {self._tracker.key}: {why}; it is off now; training and metrics.jsonl go on")


def trackers(recipe: Recipe, folder: Path, say: Callable[[str], None]) -> list[InBackground]:
    """Those that ``recipe.log`` asks for; ``say`` gets a line for one that is not installed."""
    wanted: list[Callable[[], Tracker]] = []
    if recipe.log.tensorboard:
        wanted.append(lambda: TensorBoard(folder))
    if recipe.log.wandb is not None:
        wanted.append(lambda: WeightsAndBiases(folder, recipe))
    made = []
    for make in wanted:
        try:
            made.append(InBackground(make(), say))
        except ImportError as error:
            say(f"warning: log: {error}; training goes on without it; pip install {error.name or 'what is missing'}")
    return made
