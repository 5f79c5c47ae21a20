"""The charts of a run's page, from the rows of its metrics."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prealign.reports.run_record import Row, RunRecord
from prealign.reports.svg import COLOURS, Line, heat_map, line_chart

_POINTS = 250
"""Of a line; neighbours are averaged."""
_COLUMNS = 40
"""Of a heat map; the last of neighbours stands for them."""
_HEAT_MAP_NOTE = "Steps to the right; the number behind a layer is of the last."


@dataclass(frozen=True)
class Chart:
    """A chart with what stands around it."""

    title: str
    svg: str
    legend: list[Line]
    """Empty where there is one line."""
    note: str = ""


def loss_charts(record: RunRecord) -> list[Chart]:
    """Losses and perplexities per language over tokens and operations."""
    languages = list(record.recipe.languages)
    trained = record.of_kind("train")
    per_language = [(f"lm_loss/{name}", name) for name in languages]
    held_out = record.of_kind("eval", f"perplexity/{languages[0]}")
    perplexities = [(f"perplexity/{name}", name) for name in languages]
    charts = [
        _lines("Training loss, nats a target", trained, per_language, "tokens", record),
        _lines("The same over operations", trained, per_language, "FLOP", record),
        _lines("Perplexity of held-out text", held_out, perplexities, "tokens", record, log=True),
        _lines("The same over operations", held_out, perplexities, "FLOP", record, log=True),
        _lines("Alignment loss, nats", trained, [("align_loss", "sum of layers")], "tokens", record),
    ]
    return [chart for chart in charts if chart is not None]


def alignment_charts(record: RunRecord) -> list[Chart]:
    """Cosine of translations, and its margin over random pairs, by layer over steps."""
    rows = record.of_kind("eval", "probe_cosine_layers")
    distinct = list({(row["stage"], row["step"]): row for row in rows}.values())
    every = math.ceil(len(distinct) / _COLUMNS) if distinct else 1
    chosen = distinct[::-1][::every][::-1]  # the last one is there
    columns = [f"{row['stage']} {row['step']}" for row in chosen]

    def margin(row: Row) -> list[float]:
        return [a - b for a, b in zip(row["probe_cosine_layers"], row["probe_random_cosine_layers"])]

    charts = []
    for title, of in (
        ("Cosine of translations", lambda row: row["probe_cosine_layers"]),
        ("Its margin over random pairs", margin),
    ):
        values = [of(row) for row in chosen]
        svg = heat_map(title, _layers(values, record.recipe.model.layers), columns, 0.0, 1.0)
        if svg is not None:
            charts.append(Chart(title, svg, [], _HEAT_MAP_NOTE))
    return charts


def working_charts(record: RunRecord) -> list[Chart]:
    """Switch ratio, speed, memory, waiting, gradient, rate."""
    rows = record.of_kind("train")
    pretraining = [row for row in rows if row["stage"] == "pretrain"]
    asked = record.recipe.codeswitch.ratio
    switched = [("switch_ratio", "of words with a translation"), ("switch_ratio_all_words", "of all words")]
    charts = [
        _lines("Share of words switched", pretraining, switched, "tokens", record, level=("codeswitch.ratio", asked)),
        _lines("Tokens of text a second", rows, [("tokens_per_second", "")], "tokens", record, floor=True),
        _lines("Share of time spent waiting for data", rows, [("data_wait", "")], "tokens", record, floor=True),
        _lines("Peak memory of the first rank, GB", rows, [("peak_memory_gb", "")], "tokens", record, floor=True),
        _lines("Gradient norm before clipping", rows, [("gradient_norm", "")], "tokens", record, log=True),
        _lines("Learning rate", rows, [("learning_rate", "")], "tokens", record, floor=True),
    ]
    return [chart for chart in charts if chart is not None]


def _lines(
    title: str,
    rows: list[Row],
    names: list[tuple[str, str]],
    over: str,
    record: RunRecord,
    log: bool = False,
    floor: bool = False,
    level: tuple[str, float] | None = None,
) -> Chart | None:
    """A line for every name (key of a row, label) that a row has; ``level`` is a dashed one to compare with."""
    x = _OVER[over]
    lines = []
    for number, (name, label) in enumerate(names):
        points = [(at, row[name]) for row in rows if name in row and (at := x(row)) is not None]
        if points:
            lines.append(Line(label, _thinned(points), COLOURS[number % len(COLOURS)]))
    if level is not None and lines:
        ends = [lines[0].points[0][0], lines[0].points[-1][0]]
        lines.append(Line(level[0], [(at, level[1]) for at in ends], COLOURS[-1], dashed=True))
    ends_of_align = [x(row) for row in record.rows if row["stage"] == "align"][-1:]
    marks = [mark for mark in ends_of_align if mark is not None]
    svg = line_chart(title, lines, over, log, marks, floor)
    return None if svg is None else Chart(title, svg, lines if len(lines) > 1 else [])


_OVER: dict[str, Callable[[Row], float | None]] = {
    "tokens": lambda row: row["tokens"],
    "FLOP": lambda row: row["tflop"] * 1e12 if "tflop" in row else None,
}
"""What charts are drawn over; runs of before had no operations in their rows."""


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_POINTS`: means of neighbours."""
    width = math.ceil(len(points) / _POINTS)
    if width == 1:
        return points
    groups = [points[first : first + width] for first in range(0, len(points), width)]
    return [(statistics.fmean(x for x, _ in group), statistics.fmean(y for _, y in group)) for group in groups]


def _layers(values: Sequence[Sequence[float]], blocks: int) -> list[tuple[str, list[float]]]:
    """Rows of a heat map, the last layer first."""
    count = len(values[0]) if values else 0
    names = ["input", *(f"block {number}" for number in range(1, blocks + 1)), "output"][:count]
    return [(names[layer], [column[layer] for column in values]) for layer in reversed(range(count))]
