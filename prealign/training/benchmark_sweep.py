"""Benchmarks over a grid of recipe keys, each in a process of its own with a time limit, written down as they come."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from prealign.errors import UserError
from prealign.files import json_rows

Row = dict[str, Any]
"""``overrides`` of a point, ``outcome`` (``measured``, else why not) and ``record``, of `launchers/benchmark.py`."""

MEASURED, OUT_OF_MEMORY = "measured", "out of memory"
MICRO_BATCH = "batch.micro_batch_size"
_MEMORY_SIGNS = ("OutOfMemoryError", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator")
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""Exit codes of a process that the system killed: on a host without memory left."""
_GRACE = 10.0
"""Seconds that a launcher has to end its processes."""


@dataclass(frozen=True)
class Axis:
    """A recipe key with the values that it takes."""

    key: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Axis":
        """``KEY=VALUE,VALUE,...``. Raises `UserError`."""
        key, _, values = text.partition("=")
        found = tuple(value.strip() for value in values.split(",") if value.strip())
        if not key.strip() or not found:
            raise UserError(f"--sweep: found '{text}'; expected KEY=VALUE,VALUE,... as {MICRO_BATCH}=4,8,16")
        return cls(key.strip(), found)


def points(axes: Sequence[Axis]) -> list[tuple[str, ...]]:
    """Overrides of every combination. The micro-batch grows last, so that what does not fit is not tried larger."""
    ordered = sorted(axes, key=lambda axis: axis.key == MICRO_BATCH)
    lists = [sorted(axis.values, key=_number) if axis.key == MICRO_BATCH else axis.values for axis in ordered]
    return [tuple(f"{axis.key}={value}" for axis, value in zip(ordered, values)) for values in product(*lists)]


def sweep(
    grid: Iterable[tuple[str, ...]], command: Sequence[str], path: Path | None, limit: float, say: Callable[[str], None]
) -> list[Row]:
    """Measure every point by ``command`` with ``--json FILE`` and its overrides, for at most ``limit`` seconds.

    A row is appended to ``path``, as a JSON line, when it is there; points that the file has for this command are taken
    from it. ``say`` gets a line a point. Raises `UserError`.
    """
    shown = " ".join(command)
    known = [row for row in _read(path) if row.get("command") == shown]
    rows: list[Row] = []
    for overrides in grid:
        row = next((row for row in known if row["overrides"] == [*overrides]), None)
        if row is None:
            row = _too_large(overrides, rows) or _measure(overrides, command, limit)
            row = {"overrides": [*overrides], "command": shown} | row
            _append(path, row)
        rows.append(row)
        say(f"{' '.join(overrides)}: {in_words(row)}")
    return rows


def in_words(row: Row) -> str:
    """A row's outcome in a line."""
    if row["outcome"] != MEASURED:
        return row["outcome"]
    stages = row["record"]["stages"].items()
    return "; ".join(f"{name} {stage['tokens_per_second']:,.0f} tokens/s" for name, stage in stages)


def last_stage(row: Row) -> dict[str, Any]:
    """What a row has of the last stage that was measured."""
    return [*row["record"]["stages"].values()][-1]


def speed(row: Row) -> float:
    """Tokens per second of that stage; 0 where nothing was measured."""
    return last_stage(row)["tokens_per_second"] if row["outcome"] == MEASURED else 0.0


def _measure(overrides: Sequence[str], command: Sequence[str], limit: float) -> Row:
    with tempfile.TemporaryDirectory() as scratch:
        record, log = Path(scratch) / "record.json", Path(scratch) / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*command, "--json", str(record), *overrides],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                return {"outcome": f"stopped after {limit:g} s"}
            finally:  # of Ctrl-C too
                _end(process)
        output = log.read_text(encoding="utf-8", errors="replace")
        if code == 0 and record.is_file():
            return {"outcome": MEASURED, "record": json.loads(record.read_text(encoding="utf-8"))}
    if code in _KILLED or any(sign in output for sign in _MEMORY_SIGNS):
        return {"outcome": OUT_OF_MEMORY}
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    why = next(
        (line for line in reversed(lines) if line.startswith("error")), lines[-1] if lines else f"exit code {code}"
    )
    return {"outcome": f"failed: {why}"}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a launcher and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            continue


def _too_large(overrides: tuple[str, ...], rows: Sequence[Row]) -> Row | None:
    """A smaller micro-batch of the same settings was out of memory."""
    size, others = _split(overrides)
    if size is None:
        return None
    for row in rows:
        smaller, same = _split(row["overrides"])
        if row["outcome"] == OUT_OF_MEMORY and same == others and smaller is not None and smaller < size:
            return {"outcome": f"not tried: {smaller:g} rows were out of memory"}
    return None


def _split(overrides: Sequence[str]) -> tuple[float | None, list[str]]:
    """Micro-batch size, and the other overrides."""
    sizes = [_number(change.partition("=")[2]) for change in overrides if change.startswith(f"{MICRO_BATCH}=")]
    return (sizes[0] if sizes else None), [change for change in overrides if not change.startswith(f"{MICRO_BATCH}=")]


def _number(text: str) -> float:
    value = yaml.safe_load(text)
    if not isinstance(value, int):
        raise UserError(f"--sweep: found {MICRO_BATCH}={text}; expected whole numbers")
    return value


def _read(path: Path | None) -> list[Row]:
    if path is None or not path.exists():
        return []
    try:
        rows = json_rows(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--json: '{path}' cannot be read ({error}); choose another file") from None
    if any("overrides" not in row or "outcome" not in row for row in rows):
        raise UserError(f"--json: '{path}' holds something else than a sweep; choose another file")
    return rows


def _append(path: Path | None, row: Row) -> None:
    if path is None:
        return
    try:
        cut = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" * cut + json.dumps(row) + "\n")  # a killed process leaves a part of a line
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"--json: '{path}' cannot be written ({error.strerror}); choose another file") from None
