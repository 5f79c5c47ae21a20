"""The file that ``launchers/benchmark.py --sweep --json`` writes, as points whose steps can be planned."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from prealign.config import Recipe, load_recipe
from prealign.config.recipe import StageName
from prealign.config.stage import STAGES, stage_of
from prealign.errors import UserError
from prealign.files import digest, json_rows
from prealign.planning.devices import DataSheet, expect_device
from prealign.planning.facts import MeasuredStage, Point
from prealign.planning.layout import Layout, Workload

Number = TypeVar("Number", int, float)
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


def sweep_rows(path: Path) -> list[dict[str, Any]]:
    """The last row of each point; none where the file is of something else, or cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    rows = [row for row in json_rows(text) if row.keys() >= ROW_KEYS]
    return [*{(str(row["overrides"]), row["recipe"], row["command"]): row for row in rows}.values()]


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
    for one that lacks what a sweep has."""
    rows = sweep_rows(path)
    points, reasons = [], dict[str, int]()
    try:
        for row in rows:
            if row["outcome"] == MEASURED:
                expect_device(device, row["record"]["device"], path)
        for row in rows:
            if row["outcome"] in (MEASURED, OUT_OF_MEMORY):
                found = _point(row, rows, tokens_per_word)
                if isinstance(found, Point):
                    points.append(found)
                else:
                    reasons[found] = reasons.get(found, 0) + 1
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration) as error:
        raise UserError(
            f"--measured: {path} lacks what a sweep has ({type(error).__name__}: {error}); measure it again"
        ) from None
    left_out = [f"{count} left out: {reason}" for reason, count in reasons.items()]
    if not points and not left_out:
        left_out = ["nothing of it was measured"]
    return Sweep(path, tuple(points), tuple(left_out))


def _point(row: dict[str, Any], rows: Sequence[dict[str, Any]], tokens_per_word: float) -> Point | str:
    """Or why it is none."""
    ranks = _ranks(row, rows)
    if ranks is None:
        return "out of memory on cards that no measured point of the same command names"
    config, given, options = _command(row["command"])
    try:
        recipe = load_recipe(config, [*given, *row["overrides"]])
        # older sweeps have it of paths too
        if row["recipe"] not in (recipe_digest(recipe), digest(recipe.model_dump(mode="json"))):
            return f"'{config}', or what a recipe holds, has changed since; measure them again"
        micro, sequences = _sizes(row, recipe, int(options["accumulation"]), ranks)
        stages: list[MeasuredStage | None] = []
        layouts: dict[str, Layout] = {}
        for name in STAGES:
            stage = stage_of(recipe, name)
            layouts[name] = _as_it_ran(replace(Layout.of(stage), micro_batch_size=micro), name, row)
            if name in options["stages"]:
                work = replace(Workload.of(stage, tokens_per_word), sequences=sequences)
                stages.append(_stage(name, work, layouts[name], row))
    except UserError as error:
        return str(error)
    if None in stages:
        return "no measured step of a stage had its words; measure more (--steps)"
    return Point(tuple(row["overrides"]), ranks, tuple(stage for stage in stages if stage is not None), layouts)


def _as_it_ran(layout: Layout, name: StageName, row: dict[str, Any]) -> Layout:
    """Compiled or not as the record says of the stage, where it does: older ones do not, and `auto` may have failed."""
    compiled = row["record"]["stages"].get(name, {}).get("compiled") if row["outcome"] == MEASURED else None
    if compiled is None:
        return layout
    if not isinstance(compiled, bool):
        raise ValueError(f"found compiled={compiled!r}")
    return replace(layout, compile=compiled)


def _stage(name: StageName, work: Workload, layout: Layout, row: dict[str, Any]) -> MeasuredStage | None:
    """None: its steps have words, and those that were measured had none."""
    if row["outcome"] == OUT_OF_MEMORY:
        return MeasuredStage(name, work, layout)
    found = row["record"]["stages"][name]
    if work.words and work.words_every > 1:  # as often as it was among the measured ones
        if not found["words_per_step"]:
            return None
        work = replace(work, words_every=work.words / found["words_per_step"])
    seconds, memory = _positive(float(found["seconds_per_step"])), _positive(1e9 * float(found["peak_memory_gb"]))
    return MeasuredStage(name, work, layout, seconds, memory, found["mfu"])


def _ranks(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> int | None:
    """How many there were. What was out of memory left no record: those of the same command say it, if they agree."""
    if row["outcome"] == MEASURED:
        return _positive(int(row["record"]["ranks"]))
    others = {
        (int(other["record"]["ranks"]), other["record"]["device"])
        for other in rows
        if other["outcome"] == MEASURED and other["command"] == row["command"]
    }
    return others.pop()[0] if len(others) == 1 else None


def _sizes(row: dict[str, Any], recipe: Recipe, passes: int, ranks: int) -> tuple[int, int]:
    """Rows of a micro-batch, and of a step over all ranks."""
    if row["outcome"] == MEASURED:
        found = row["record"]
        return _positive(int(found["micro_batch_size"])), _positive(int(found["global_batch_size"]))
    micro, parallel = recipe.batch.micro_batch_size, recipe.parallel
    groups = ranks // (parallel.tensor_parallel_size * parallel.sequence_parallel_size)
    return micro, (micro * passes * groups if passes else recipe.batch.global_batch_size)


def _positive(value: Number) -> Number:
    if not 0 < value < float("inf"):
        raise ValueError(f"found {value} where a number above 0 stands")
    return value


def _command(command: str) -> tuple[str, list[str], dict[str, Any]]:
    """The recipe of ``... benchmark.py --config RECIPE --stage S ... key.sub=value ...``, its overrides, and what
    of the options bears on a step."""
    words = command.split()
    start = next(place for place, word in enumerate(words) if word.endswith("benchmark.py")) + 1
    options: dict[str, list[str]] = {}
    while start < len(words) and words[start].startswith("--"):
        options.setdefault(words[start][2:], []).append(words[start + 1])
        start += 2
    given: list[str] = []
    for word in words[start:]:
        if "=" in word or not given:
            given.append(word)
        else:  # of a value with a space
            given[-1] += f" {word}"
    stages = options.get("stage", list(STAGES))
    return options["config"][0], given, {"stages": stages, "accumulation": options["accumulation"][0]}
