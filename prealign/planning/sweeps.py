"""The file that ``launchers/benchmark.py --sweep --json`` writes, as points whose steps can be planned."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prealign.config import Recipe, load_recipe
from prealign.config.recipe import StageName
from prealign.config.stage import STAGES, stage_of
from prealign.errors import UserError
from prealign.files import digest, json_rows
from prealign.planning.devices import DataSheet, expect_device
from prealign.planning.facts import MeasuredStage, Point
from prealign.planning.fields import Fields
from prealign.planning.layout import Layout, Workload

MEASURED, OUT_OF_MEMORY = "measured", "out of memory"
"""What a row says of a point, unless it failed."""
ROW_KEYS = frozenset({"overrides", "recipe", "command", "outcome"})
"""What every row of a sweep has."""
_PATHS = (
    "run_dir",
    "data.dir",
    ".text.files",
    ".text.store",
    ".dictionaries",
    "tokenizer.ranks",
    "facts.relations",
    "evaluation.parallel",
    ".file",
    "pretrain.init_from",
    "model.init",
)
"""Ends of keys that hold paths, which a recipe has as they stand for on this machine."""


@dataclass(frozen=True)
class Sweep:
    """``left_out``: a line for each reason why points are none that can be planned."""

    path: Path
    points: tuple[Point, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Command:
    """``benchmark.py --config CONFIG --stage STAGE ... GIVEN``, and what else of it bears on a step. ``accumulation``:
    micro-batches of a step; 0: as the recipe has it."""

    text: str
    config: str
    given: tuple[str, ...]
    stages: tuple[str, ...]
    accumulation: int


@dataclass(frozen=True)
class _Figures:
    """Of a stage that was measured: ``seconds`` and ``words`` of a step, ``memory`` in bytes."""

    seconds: float
    memory: float
    words: float
    mfu: float | None
    compiled: bool | None


@dataclass(frozen=True)
class _Record:
    """Of a point that was measured. ``micro``, ``sequences``: rows of a micro-batch, and of a step over all ranks."""

    device: str
    ranks: int
    micro: int
    sequences: int
    stages: dict[str, _Figures]


@dataclass(frozen=True)
class _Row:
    """``record``: None where the point was out of memory."""

    overrides: tuple[str, ...]
    recipe: str
    command: _Command
    record: _Record | None


def is_sweep(path: Path) -> bool:
    """Whether a file has a row of a sweep; not where it cannot be read."""
    return bool(_rows(path))


def _rows(path: Path) -> list[Fields]:
    """Lines that are cut are none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found = ((number, row) for number, line in enumerate(lines, 1) for row in json_rows(line))
    return [Fields(row, f"--measured: {path}, row {number}") for number, row in found if row.keys() >= ROW_KEYS]


def _checked(path: Path) -> list[_Row]:
    """What was measured, or out of memory, by the last row of each point. Raises `UserError`."""
    found: dict[tuple[tuple[str, ...], str | None, str], _Row | None] = {}
    for row in _rows(path):
        overrides, text, outcome = row.texts("overrides"), row.text("command"), row.text("outcome")
        if outcome not in (MEASURED, OUT_OF_MEMORY):
            found[overrides, row.optional_text("recipe"), text] = None
            continue
        command, recipe = _command(row), row.text("recipe")
        record = _record(row.part("record"), command.stages) if outcome == MEASURED else None
        found[overrides, recipe, text] = _Row(overrides, recipe, command, record)
    return [row for row in found.values() if row is not None]


def _record(record: Fields, names: Sequence[str]) -> _Record:
    stages, figures = record.part("stages"), {}
    for name in names:
        stage = stages.part(name)
        figures[name] = _Figures(
            seconds=stage.number("seconds_per_step", 1e-9, 1e6),
            memory=1e9 * stage.number("peak_memory_gb", 1e-6, 1e5),
            words=stage.number("words_per_step", 0, 1e12),
            mfu=stage.optional_number("mfu", 0, 1),
            compiled=stage.optional_bool("compiled"),  # older records do not say it
        )
    sizes = (
        record.whole("ranks", 10**6),
        record.whole("micro_batch_size", 10**6),
        record.whole("global_batch_size", 10**9),
    )
    return _Record(record.text("device"), *sizes, figures)


def _command(row: Fields) -> _Command:
    """The recipe of ``... benchmark.py --config RECIPE --stage S ... key.sub=value ...``, its overrides, and what
    of the options bears on a step."""
    wrong = row.wrong("command", "benchmark.py --config RECIPE [--stage STAGE] --accumulation N [KEY=VALUE ...]")
    text = row.text("command")
    words = text.split()
    start = next((place for place, word in enumerate(words, 1) if word.endswith("benchmark.py")), len(words))
    options: dict[str, list[str]] = {}
    while start + 1 < len(words) and words[start].startswith("--"):
        options.setdefault(words[start][2:], []).append(words[start + 1])
        start += 2
    given: list[str] = []
    for word in words[start:]:
        if "=" in word or not given:
            given.append(word)
        else:  # of a value with a space
            given[-1] += f" {word}"
    stages, passes = options.get("stage", list(STAGES)), options.get("accumulation", [""])[0]
    known = "config" in options and set(stages) <= set(STAGES)
    if not known or not (passes.isdecimal() and len(passes) <= 6) or not all(word.isprintable() for word in words):
        raise wrong
    return _Command(text, options["config"][0], tuple(given), tuple(stages), int(passes))


def recipe_digest(recipe: Recipe) -> str:
    """What tells recipes of a sweep apart, the same on machines that have their files elsewhere: of all but paths, none
    of which bears on what a step takes."""
    return digest(_without_paths(recipe.model_dump(mode="json")))


def _without_paths(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    kept = {key: value for key, value in values.items() if not f"{prefix}{key}".endswith(_PATHS)}
    return {
        key: _without_paths(value, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in kept.items()
    }


def read_sweep(path: Path, device: DataSheet, tokens_per_word: float) -> Sweep:
    """Points that were measured, or out of memory, on ``device``. Raises `UserError` for a sweep of another device, and
    for one with values that no sweep has."""
    rows = _checked(path)
    for row in rows:
        if row.record is not None:
            expect_device(device, row.record.device, path)
    points, reasons = [], dict[str, int]()
    for row in rows:
        found = _point(row, rows, tokens_per_word)
        if isinstance(found, Point):
            points.append(found)
        else:
            reasons[found] = reasons.get(found, 0) + 1
    left_out = [f"{count} left out: {reason}" for reason, count in reasons.items()]
    if not points and not left_out:
        left_out = ["nothing of it was measured"]
    return Sweep(path, tuple(points), tuple(left_out))


def points_of(sweeps: Sequence[Sweep]) -> tuple[Point, ...]:
    """Of all sweeps, each once, though several files have it."""
    found: dict[tuple[str, ...], list[Point]] = {}
    for point in (point for sweep in sweeps for point in sweep.points):
        alike = found.setdefault(point.overrides, [])
        if point not in alike:
            alike.append(point)
    return tuple(point for alike in found.values() for point in alike)


def _point(row: _Row, rows: Sequence[_Row], tokens_per_word: float) -> Point | str:
    """Or why it is none."""
    ranks = _ranks(row, rows)
    if ranks is None:
        return "out of memory on cards that no measured point of the same command names"
    command = row.command
    try:
        recipe = load_recipe(command.config, [*command.given, *row.overrides])
        # older sweeps have it of paths too
        if row.recipe not in (recipe_digest(recipe), digest(recipe.model_dump(mode="json"))):
            return f"'{command.config}', or what a recipe holds, has changed since; measure them again"
        micro, sequences = _sizes(row, recipe, ranks)
        stages: list[MeasuredStage | None] = []
        layouts: dict[str, Layout] = {}
        for name in STAGES:
            stage = stage_of(recipe, name)
            figures = None if row.record is None else row.record.stages.get(name)
            layout = replace(Layout.of(stage), micro_batch_size=micro)
            if figures and figures.compiled is not None:  # `auto` may have failed
                layout = replace(layout, compile=figures.compiled)
            layouts[name] = layout
            if name in command.stages:
                work = replace(Workload.of(stage, tokens_per_word), sequences=sequences)
                stages.append(_stage(name, work, layout, figures))
    except UserError as error:
        return str(error)
    except RecursionError:
        return "overrides are too deeply nested"
    if None in stages:
        return "no measured step of a stage had its words; measure more (--steps)"
    return Point(row.overrides, ranks, tuple(stage for stage in stages if stage is not None), layouts)


def _stage(name: StageName, work: Workload, layout: Layout, found: _Figures | None) -> MeasuredStage | None:
    """None: its steps have words, and those that were measured had none. ``found``: None where it was out of memory."""
    if found is None:
        return MeasuredStage(name, work, layout)
    if work.words and work.words_every > 1:  # as often as it was among the measured ones
        if not found.words:
            return None
        work = replace(work, words_every=work.words / found.words)
    return MeasuredStage(name, work, layout, found.seconds, found.memory, found.mfu)


def _ranks(row: _Row, rows: Sequence[_Row]) -> int | None:
    """How many there were. What was out of memory left no record: those of the same command say it, if they agree."""
    if row.record is not None:
        return row.record.ranks
    same = (other.record for other in rows if other.command.text == row.command.text)
    others = {(record.ranks, record.device) for record in same if record is not None}
    return others.pop()[0] if len(others) == 1 else None


def _sizes(row: _Row, recipe: Recipe, ranks: int) -> tuple[int, int]:
    """Rows of a micro-batch, and of a step over all ranks."""
    if row.record is not None:
        return row.record.micro, row.record.sequences
    micro, parallel, passes = recipe.batch.micro_batch_size, recipe.parallel, row.command.accumulation
    groups = ranks // (parallel.tensor_parallel_size * parallel.sequence_parallel_size)
    return micro, (micro * passes * groups if passes else recipe.batch.global_batch_size)
