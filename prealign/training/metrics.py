"""What a run records: rows of ``metrics.jsonl``, for trackers too, and a line or a progress bar on the terminal."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from prealign.config.recipe import StageName
from prealign.config.stage import STAGES
from prealign.files import json_rows, write_atomically
from prealign.training.trackers import InBackground, Point


class MetricsLog:
    """Rows of one run; only the first rank has one. Each row names its ``kind`` (train, eval), stage and step."""

    def __init__(
        self, folder: Path, align_layers: Literal["all"] | list[int], trackers: Sequence[InBackground] = ()
    ) -> None:
        """``align_layers``: the layers that lists of the alignment loss are about. ``trackers`` get every row."""
        self.path = folder / "metrics.jsonl"
        self._starts = folder / "starts.jsonl"
        self._align_layers = None if align_layers == "all" else align_layers
        self._trackers = trackers

    def start(self, stage: StageName, step: int, steps: int, setup: dict[str, Any]) -> None:
        """Note in ``starts.jsonl`` that a stage starts, or goes on, after ``step`` of its ``steps`` steps. ``setup``:
        what it runs on, and through what."""
        row = {"stage": stage, "step": step, "steps": steps, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        row |= setup | {"torch": torch.__version__}
        with self._starts.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def last_start(self, stage: StageName) -> dict[str, Any]:
        """What `start` noted last of a stage; empty where it has not begun."""
        rows = json_rows(self._starts.read_text(encoding="utf-8")) if self._starts.is_file() else []
        return next((row for row in reversed(rows) if row["stage"] == stage), {})

    def cut(self, stage: StageName, step: int, evaluated: bool = True) -> None:
        """Drop the rows past a checkpoint: later steps of ``stage`` and all later stages, and the evaluation at
        ``step`` when the checkpoint was written before it (not ``evaluated``)."""
        if not self.path.is_file():
            return
        position = (STAGES.index(stage), step)
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # the line that was being written when the run was killed
            at = (STAGES.index(row["stage"]), row["step"])
            if at < position or (at == position and (evaluated or row["kind"] != "eval")):
                kept.append(line)
        write_atomically(self.path, "".join(line + "\n" for line in kept))

    def write(self, row: dict[str, Any]) -> None:
        """Append a row, and hand it to the trackers."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        point = Point(row["stage"], row["step"], row["tokens"], self._scalars(row))
        for tracker in self._trackers:
            tracker.log(point)

    def _scalars(self, row: dict[str, Any]) -> dict[str, float]:
        """A row's numbers as `Point` names them; nested records are in the file alone."""
        values: dict[str, float] = {}
        for name, value in row.items():
            if isinstance(value, list):
                chosen = self._align_layers if name.startswith("align_") else None
                values |= {f"{name}/{layer:02d}": item for layer, item in zip(chosen or range(len(value)), value)}
            elif isinstance(value, int | float) and name != "step":
                values[f"{row['kind']}/{name}"] = value
        return values

    def close(self) -> None:
        """Let the trackers send what they have."""
        for tracker in self._trackers:
            tracker.close()


class Display:
    """A progress bar on a terminal, else one line per logged step; nothing where not ``enabled``."""

    def __init__(self, title: str, steps: int, done: int, enabled: bool) -> None:
        self._title = title
        self._enabled = enabled
        self._console = Console(stderr=False)
        columns = [TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        columns.append(TextColumn("{task.fields[note]}"))
        self._progress = Progress(*columns, console=self._console, disable=not (enabled and self._console.is_terminal))
        self._task = self._progress.add_task(title, total=steps, completed=done, note="")
        self._steps = steps

    def advance(self, step: int) -> None:
        """A step is done."""
        self._progress.update(self._task, completed=step)

    def show(self, step: int, note: str) -> None:
        """Numbers of a logged step."""
        self._progress.update(self._task, note=note)
        if self._enabled and self._progress.disable:
            print(f"{self._title} {step}/{self._steps}  {note}", flush=True)

    def say(self, line: str) -> None:
        """A line that stays."""
        if not self._enabled:
            return
        if self._progress.disable:
            print(line, flush=True)
        else:
            self._progress.console.print(line, highlight=False, markup=False)

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
