"""Benchmarks over a grid of recipe keys, each in processes of its own with a time limit, written down as they come."""

import json
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from prealign.errors import UserError
from prealign.files import json_rows
from prealign.planning.sweeps import MEASURED, OUT_OF_MEMORY, ROW_KEYS
from prealign.suites.launching import Failed, Processes

Row = dict[str, Any]
"""``overrides`` of a point, ``recipe`` (a digest of what they make), ``command``, ``outcome`` (``measured``, else why
not) and ``record``, of `launchers/benchmark.py`."""

MICRO_BATCH = "batch.micro_batch_size"
_MEMORY_SIGNS = ("OutOfMemoryError", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator")
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""Exit codes of a process that the system killed, for want of memory as a rule."""


@dataclass(frozen=True)
class Axis:
    """A recipe key with the values that it takes, as YAML."""

    key: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Axis":
        """``KEY=VALUE,VALUE,...``, where a value may be a list in brackets. Raises `UserError`."""
        key, _, values = text.partition("=")
        try:
            found = yaml.safe_load(f"[{values}]")
        except yaml.YAMLError:
            found = []
        if not key.strip() or not found or None in found:
            raise UserError(f"--sweep: found '{text}'; expected KEY=VALUE,VALUE,... as {MICRO_BATCH}=4,8,16")
        if key.strip() == MICRO_BATCH:
            if any(type(value) is not int for value in found):
                raise UserError(f"--sweep: found '{text}'; expected whole numbers")
            found = sorted(found)  # so that what does not fit is not tried larger
        shown = (value if isinstance(value, str) else json.dumps(value) for value in found)
        return cls(key.strip(), tuple(dict.fromkeys(shown)))


@dataclass(frozen=True)
class Point:
    """A combination. ``recipe``: a digest of the recipe that it makes; None where it makes none, and ``refused`` says
    why."""

    overrides: tuple[str, ...]
    recipe: str | None
    refused: str = ""


def combinations(axes: Sequence[Axis]) -> list[tuple[str, ...]]:
    """Overrides of every combination; the micro-batch grows last."""
    ordered = sorted(axes, key=lambda axis: axis.key == MICRO_BATCH)
    every = product(*(axis.values for axis in ordered))
    return [tuple(f"{axis.key}={value}" for axis, value in zip(ordered, values)) for values in every]


class Record:
    """The rows of a sweep in a file of JSON lines, which another call goes on with."""

    def __init__(self, path: Path | None) -> None:
        """Raises `UserError` where the file cannot be written or is of something else."""
        self._path = path
        self.rows: list[Row] = []
        if path is None:
            return
        try:
            with path.open("a+", encoding="utf-8") as file:
                file.seek(0)
                text = file.read()
                if text and not text.endswith("\n"):
                    file.write("\n")  # a killed process left a part of a line
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise UserError(f"--json: '{path}' cannot be written ({reason}); choose another file") from None
        self.rows = [row for row in json_rows(text) if row.keys() >= ROW_KEYS]
        if text.strip() and not self.rows:
            raise UserError(f"--json: '{path}' holds something else than a sweep; choose another file")

    def known(self, point: Point, command: str) -> Row | None:
        """What was measured of a point by the same command. What failed, or was stopped, is tried again."""
        wanted = {"overrides": [*point.overrides], "recipe": point.recipe, "command": command}
        kept = (row for row in reversed(self.rows) if row["outcome"] in (MEASURED, OUT_OF_MEMORY))
        return next((row for row in kept if wanted.items() <= row.items()), None)

    def add(self, row: Row) -> None:
        """Append a row."""
        if self._path is None:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())


def sweep(
    points: Sequence[Point],
    arguments: Sequence[str],
    processes: Processes,
    record: Record,
    limit: float,
    say: Callable[[str], None],
) -> list[Row]:
    """Run ``benchmark.py ARGUMENTS`` with each point's overrides for at most ``limit`` seconds; what `record` knows is
    not run again. ``say`` gets a line a point. Raises `prealign.errors.Interrupted`."""
    command = " ".join(processes.command("benchmark.py", [*arguments]))
    rows: list[Row] = []
    for point in points:
        row = record.known(point, command)
        if row is None:
            found = _refused(point) or _too_large(point.overrides, rows) or _measure(point, arguments, processes, limit)
            row = {"overrides": [*point.overrides], "recipe": point.recipe, "command": command} | found
            record.add(row)
        rows.append(row)
        say(f"{' '.join(point.overrides)}: {_in_words(row)}")
    return rows


def last_stage(row: Row) -> dict[str, Any]:
    """What a row has of the last stage that was measured."""
    return [*row["record"]["stages"].values()][-1]


def speed(row: Row) -> float:
    """Tokens per second of that stage; 0 where nothing was measured."""
    return last_stage(row)["tokens_per_second"] if row["outcome"] == MEASURED else 0.0


def _in_words(row: Row) -> str:
    if row["outcome"] != MEASURED:
        return row["outcome"]
    stages = row["record"]["stages"].items()
    return "; ".join(f"{name} {stage['tokens_per_second']:,.0f} tokens/s" for name, stage in stages)


def _measure(point: Point, arguments: Sequence[str], processes: Processes, limit: float) -> Row:
    with tempfile.TemporaryDirectory() as scratch:
        record, log = Path(scratch) / "record.json", Path(scratch) / "log"
        try:
            processes.run("benchmark.py", [*arguments, "--json", str(record), *point.overrides], log, limit=limit)
        except Failed as error:
            output = log.read_text(encoding="utf-8", errors="replace")
            if error.code is None:
                return {"outcome": str(error)}
            if error.code in _KILLED or any(sign in output for sign in _MEMORY_SIGNS):
                return {"outcome": OUT_OF_MEMORY}
            return {"outcome": f"failed: {str(error).removesuffix(f' ({log})')}"}
        return {"outcome": MEASURED, "record": json.loads(record.read_text(encoding="utf-8"))}


def _refused(point: Point) -> Row | None:
    return None if point.recipe is not None else {"outcome": f"failed: {point.refused}"}


def _too_large(overrides: tuple[str, ...], rows: Sequence[Row]) -> Row | None:
    """A smaller micro-batch of the same settings was out of memory."""
    size, others = _split(overrides)
    if size is None:
        return None
    for row in rows:
        smaller, same = _split(row["overrides"])
        if row["outcome"] == OUT_OF_MEMORY and same == others and smaller is not None and smaller < size:
            return {"outcome": f"not tried: {smaller} rows were out of memory"}
    return None


def _split(overrides: Sequence[str]) -> tuple[int | None, list[str]]:
    """Micro-batch size, and the other overrides."""
    sizes = [int(change.partition("=")[2]) for change in overrides if change.startswith(f"{MICRO_BATCH}=")]
    return (sizes[0] if sizes else None), [change for change in overrides if not change.startswith(f"{MICRO_BATCH}=")]
