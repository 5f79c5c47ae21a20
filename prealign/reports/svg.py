"""Charts as SVG that a page holds in its text: no image files, no requests, no matplotlib where a run trains.

A chart is ``WIDTH`` units wide, about as many as a phone has pixels, so that its text is readable there.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ["#4c566a", "#d1495b", "#edae49", "#00798c", "#7b2cbf", "#2e933c"]
WIDTH, HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 16, 10, 38
_GREY = "#667"
_FEW_TICKS = 8
"""Measured x that each have a label of their own."""
_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_SCALE = ((247, 247, 242), (138, 196, 187), (0, 121, 140), (24, 51, 92))
"""Colours of a heat map from its lowest to its highest value."""


@dataclass(frozen=True)
class Line:
    """A line of a chart; points whose y is not finite are left out."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Series:
    """Measured points with a line through or beside them, over an x in powers."""

    label: str
    colour: str
    points: Sequence[tuple[float, float]]
    """As dots."""
    line: Sequence[tuple[float, float]] = ()
    band: Sequence[tuple[float, float, float]] = ()
    """(x, low, high)."""
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """A chart's axis: from ``low`` to ``high``, in powers where it is ``log``."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        low, high, value = (math.log10(x) if self.log else x for x in (self.low, self.high, value))
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def ticks(self) -> list[float]:
        """A few round values."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for parts in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
                found = [part * 10.0**decade for decade in decades for part in parts]
                found = [value for value in found if self.low <= value <= self.high]
                if len(found) >= 3:
                    return found[:: math.ceil(len(found) / 6)]
        step = _round_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number for an axis: ``1.5M``, ``20k``, ``0.05``."""
    size = abs(value)
    if size >= 1e15 or 0 < size < 1e-3:
        return f"{value:.0e}".replace("e+", "e").replace("e-0", "e-")
    for unit, suffix in _SUFFIXES:
        if size >= unit:
            return f"{value / unit:.3g}{suffix}"
    return f"{value:.3g}"


def line_chart(
    title: str, lines: Sequence[Line], x_label: str, log: bool = False, marks: Iterable[float] = (), floor: bool = False
) -> str | None:
    """Lines over a common x, which is tokens, steps and the like; None without two points.

    ``log``: y in powers. ``marks``: x of dotted vertical lines. ``floor``: y starts at 0.
    """
    lines = [
        Line(line.label, [(x, y) for x, y in line.points if math.isfinite(y) and (y > 0 or not log)], *_look(line))
        for line in lines
    ]
    points = [point for line in lines for point in line.points]
    if len({x for x, _ in points}) < 2:
        return None
    across = Axis(min(x for x, _ in points), max(x for x, _ in points))
    up = _vertical([y for _, y in points], log, floor)
    parts = [_text(_x(across, x), HEIGHT - 22, short(x), "middle") for x in across.ticks()]
    parts.append(_text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 6, x_label, "middle"))
    for y in up.ticks():
        parts.append(_stroke([(_LEFT, _y(up, y)), (WIDTH - _RIGHT, _y(up, y))], "#e3e3e8", 1))
        parts.append(_text(_LEFT - 5, _y(up, y) + 4, short(y), "end"))
    for mark in marks:
        if across.low < mark < across.high:
            parts.append(_stroke([(_x(across, mark), _TOP), (_x(across, mark), HEIGHT - _BOTTOM)], _GREY, 1, "2 3"))
    for line in lines:
        places = [(_x(across, x), _y(up, y)) for x, y in line.points]
        parts.append(_stroke(places, line.colour, 1.8, "5 4" if line.dashed else ""))
    return _svg(title, HEIGHT, parts)


def log_chart(title: str, series: Sequence[Series], x_label: str, log_y: bool = False) -> str | None:
    """Dots, lines and bands over an x in powers; None without two points. Bands end at the chart's edge, whose height
    is that of points and lines."""
    places = [place for one in series for place in (*one.points, *one.line) if math.isfinite(place[1])]
    if len({x for x, _ in places}) < 2:
        return None
    across = Axis(min(x for x, _ in places) / 1.15, max(x for x, _ in places) * 1.15, log=True)
    up = _vertical([y for _, y in places], log_y, floor=False)
    measured = sorted({x for one in series for x, _ in one.points})
    ticks = measured if 1 < len(measured) <= _FEW_TICKS else across.ticks()
    parts = [_text(_x(across, x), HEIGHT - 22, short(x), "middle") for x in ticks]
    parts.append(_text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 6, x_label, "middle"))
    for y in up.ticks():
        parts.append(_stroke([(_LEFT, _y(up, y)), (WIDTH - _RIGHT, _y(up, y))], "#e3e3e8", 1))
        parts.append(_text(_LEFT - 5, _y(up, y) + 4, short(y), "end"))
    for one in series:
        if one.band:
            edge = [(x, high) for x, _, high in one.band] + [(x, low) for x, low, _ in reversed(one.band)]
            listed = " ".join(f"{_x(across, x):.1f},{_y(up, max(y, up.low)):.1f}" for x, y in edge)
            parts.append(f'<polygon points="{listed}" fill="{one.colour}" fill-opacity="0.15"/>')
    for one in series:
        if one.line:
            drawn = [(_x(across, x), _y(up, y)) for x, y in one.line if math.isfinite(y)]
            parts.append(_stroke(drawn, one.colour, 1.6, "5 4" if one.dashed else ""))
        for x, y in one.points:
            if math.isfinite(y):
                parts.append(f'<circle cx="{_x(across, x):.1f}" cy="{_y(up, y):.1f}" r="3.2" fill="{one.colour}"/>')
    return _svg(title, HEIGHT, parts)


def heat_map(
    title: str, rows: Sequence[tuple[str, Sequence[float]]], columns: Sequence[str], low: float, high: float
) -> str | None:
    """Rows from top to bottom, each a label and a value for each column; the last value stands behind its row, the
    first and the last column's names below. None without a cell."""
    if not rows or not columns:
        return None
    tall = max(5.0, min(22.0, 300 / len(rows)))
    left, right = 62.0, 34.0
    wide = (WIDTH - left - right) / len(columns)
    bottom = _TOP + tall * len(rows)
    every = math.ceil(11 / tall)  # of the rows that have a label
    parts = []
    for number, (label, values) in enumerate(rows):
        top = _TOP + number * tall
        for column, value in enumerate(values):
            fill = _colour((value - low) / (high - low)) if math.isfinite(value) else "#ddd"
            place = f'x="{left + column * wide:.1f}" y="{top:.1f}" width="{wide + 0.4:.1f}" height="{tall + 0.4:.1f}"'
            parts.append(f'<rect {place} fill="{fill}"/>')
        if number % every == 0 or (number == len(rows) - 1 and every == 1):
            parts.append(_text(left - 5, top + tall / 2 + 4, label, "end"))
            parts.append(_text(WIDTH - right + 5, top + tall / 2 + 4, f"{values[-1]:.2f}", "start"))
    parts.append(_text(left, bottom + 14, columns[0], "start"))
    if len(columns) > 1:
        parts.append(_text(WIDTH - right, bottom + 14, columns[-1], "end"))
    for number in range(60):  # the scale
        place = f'x="{left + number * 2}" y="{bottom + 24:.1f}" width="2.4" height="8"'
        parts.append(f'<rect {place} fill="{_colour(number / 59)}"/>')
    parts.append(_text(left - 5, bottom + 32, f"{low:g}", "end"))
    parts.append(_text(left + 126, bottom + 32, f"{high:g}", "start"))
    return _svg(title, bottom + 40, parts)


def _look(line: Line) -> tuple[str, bool]:
    return line.colour, line.dashed


def _vertical(values: list[float], log: bool, floor: bool) -> Axis:
    low, high = min(values), max(values)
    if log:
        return Axis(low / 1.1, high * 1.1, log=True)
    if floor:
        low = min(0.0, low)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(low if floor and low == 0.0 else low - room, high + room)


def _round_step(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(part * power for part in (1.0, 2.0, 5.0, 10.0) if part * power >= step * 0.999)


def _x(axis: Axis, value: float) -> float:
    return _LEFT + axis.place(value) * (WIDTH - _LEFT - _RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - _BOTTOM - axis.place(value) * (HEIGHT - _TOP - _BOTTOM)


def _stroke(points: list[tuple[float, float]], colour: str, width: float, dashes: str = "") -> str:
    listed = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline points="{listed}" fill="none" stroke="{colour}" stroke-width="{width}"{dashed}/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{_GREY}">{escape(text)}</text>'


def _svg(title: str, height: float, parts: list[str]) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}" font-size="11">'
    return "".join([head, *parts, "</svg>"])


def _colour(share: float) -> str:
    """Of a heat map, for 0 (low) to 1 (high)."""
    place = min(1.0, max(0.0, share)) * (len(_SCALE) - 1)
    number = min(int(place), len(_SCALE) - 2)
    mixed = (round(a + (place - number) * (b - a)) for a, b in zip(_SCALE[number], _SCALE[number + 1]))
    return "#" + "".join(f"{part:02x}" for part in mixed)
