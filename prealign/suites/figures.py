"""Figures of suites, from result files."""

import base64
import io
import statistics
from collections.abc import Callable
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from prealign.reports.svg import COLOURS
from prealign.suites.cells import value_of
from prealign.suites.numbers import Numbers

_COLOURS = 64
_STYLE: dict[Any, Any] = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}


def draw(numbers: Numbers) -> str | None:
    """The suite's figure as a PNG in base64; None without results."""
    content = draw_png(numbers)
    return base64.b64encode(content).decode() if content is not None else None


def draw_png(numbers: Numbers) -> bytes | None:
    """The suite's figure; None without results."""
    if not any(numbers.results.values()):
        return None
    with plt.rc_context(_STYLE):
        figure = _FIGURES[numbers.suite.figure](numbers)
        if figure is None:
            return None
        figure.tight_layout()
        target = io.BytesIO()
        figure.savefig(target, format="png", dpi=130)
        plt.close(figure)
    small = io.BytesIO()  # a palette takes a quarter of the bytes
    Image.open(target).convert("RGB").quantize(_COLOURS).save(small, format="png", optimize=True)
    return small.getvalue()


def _perplexity(numbers: Numbers) -> Figure | None:
    """Perplexity while training, one panel per language, a line per seed."""
    points = [point for found in numbers.results.values() for result in found for point in result["curves"]]
    keys = list(dict.fromkeys(key for point in points for key in point if key.startswith("perplexity/")))
    if not keys:
        return None
    figure, axes = _panels(len(keys), "tokens consumed (millions)")
    for axis, key in zip(axes, keys):
        finals = []
        for label, colour, result, first in _lines(numbers):
            curve = [point for point in result["curves"] if key in point and point["tokens"] > 0]
            if not curve:
                continue
            finals.append(curve[-1][key])
            axis.plot(
                [point["tokens"] / 1e6 for point in curve],
                [point[key] for point in curve],
                color=colour,
                label=label if first else None,
                linewidth=1.5,
            )
        axis.set_yscale("log")
        if finals:
            axis.set_ylim(min(finals) * 0.8, min(finals) * 12)
        axis.set_title(f"Perplexity, held-out {key.removeprefix('perplexity/')}", loc="left")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def _cosine(numbers: Numbers) -> Figure | None:
    """Cosine of aligned words over tokens, dotted for random pairs."""
    figure, axes = _panels(1, "tokens consumed (millions), align stage included", 7.0)
    for label, colour, result, first in _lines(numbers):
        curve = [point for point in result["curves"] if "cosine" in point and "random_cosine" in point]
        tokens = [point["tokens"] / 1e6 for point in curve]
        axes[0].plot(tokens, [point["cosine"] for point in curve], color=colour, label=label if first else None)
        axes[0].plot(tokens, [point["random_cosine"] for point in curve], color=colour, linestyle=":", linewidth=1.0)
    axes[0].set_title("Cosine of translations, mean of layers (dotted: random pairs)", loc="left")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def _facts(numbers: Numbers) -> Figure | None:
    """Accuracy by period, a panel per pair of languages; colour: row; line: frequency. Means over seeds."""
    tested: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for label, found in numbers.results.items():
        for result in found:
            panels, _, _ = value_of(result["metrics"], "facts.over_periods.panels")
            for panel, of in (panels or {}).items():
                tested.setdefault(panel, {}).setdefault(label, []).append(of)
    if not tested:
        return None
    figure, axes = _panels(len(tested), "period")
    styles = ["-", "--", "-.", ":"]
    labels = list(numbers.results)
    for axis, (panel, rows) in zip(axes, tested.items()):
        for label, seeds in rows.items():
            frequencies = [name for name in seeds[0] if name != "pooled"]
            for number, frequency in enumerate(frequencies):
                means = [100 * statistics.mean(column) for column in zip(*(of[frequency]["by_period"] for of in seeds))]
                axis.plot(
                    range(1, len(means) + 1),
                    means,
                    color=COLOURS[labels.index(label) % len(COLOURS)],
                    linestyle=styles[number % len(styles)],
                    marker=".",
                    label=f"{label}, f = {frequency.removeprefix('f')}",
                )
        axis.axhline(25, color="#999", linewidth=0.8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_ylim(0, 102)
        axis.set_title(f"{panel}, accuracy in %", loc="left")
    axes[0].legend(frameon=False, fontsize=7)
    return figure


def _bars(numbers: Numbers) -> Figure | None:
    """The table's columns as groups of bars, with the cells' 95 % intervals."""
    figure, axes = _panels(1, "", 7.0)
    columns = numbers.suite.columns
    rows = [row.label for row in numbers.rows]
    width = 0.8 / len(rows)
    for number, label in enumerate(rows):
        cells = [numbers.cells.get((label, key)) for key in columns]
        places = [place + number * width for place, cell in enumerate(cells) if cell is not None and cell.values]
        there = [cell for cell in cells if cell is not None and cell.values]
        means = [cell.mean or 0.0 for cell in there]
        ends = [cell.interval or (mean, mean) for cell, mean in zip(there, means)]
        around = [
            [mean - low for mean, (low, _) in zip(means, ends)],
            [high - mean for mean, (_, high) in zip(means, ends)],
        ]
        colour = COLOURS[number % len(COLOURS)]
        axes[0].bar(places, means, width * 0.9, color=colour, label=label, yerr=around, error_kw={"ecolor": "#444"})
    middle = 0.4 - width / 2
    axes[0].set_xticks([place + middle for place in range(len(columns))], [column.label for column in columns.values()])
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def _panels(count: int, xlabel: str, width: float = 4.6) -> tuple[Figure, list[Axes]]:
    columns = min(count, 3) if count != 4 else 2
    lines = -(-count // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(width * columns, 3.7 * lines), squeeze=False)
    flat = list(axes.flat)
    for axis in flat[count:]:
        axis.remove()
    for axis in flat[:count]:
        axis.set_xlabel(xlabel)
    return figure, flat[:count]


def _lines(numbers: Numbers) -> list[tuple[str, str, dict[str, Any], bool]]:
    """(row, colour, result, whether it is the row's first seed) of every result."""
    return [
        (label, COLOURS[place % len(COLOURS)], result, number == 0)
        for place, (label, found) in enumerate(numbers.results.items())
        for number, result in enumerate(found)
    ]


_FIGURES: dict[str, Callable[[Numbers], Figure | None]] = {
    "perplexity": _perplexity,
    "facts": _facts,
    "cosine": _cosine,
    "bars": _bars,
}
