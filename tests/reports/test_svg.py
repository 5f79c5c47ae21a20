"""Charts show what they are given: places, ticks, what is not finite, and nothing unescaped."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from prealign.reports.svg import HEIGHT, Axis, Line, Series, heat_map, line_chart, log_chart, short

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str | None) -> ElementTree.Element:
    assert svg is not None
    return ElementTree.fromstring(svg)


def polyline(element: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in element.get("points", "").split())]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.05, "0.05"), (12, "12"), (2e4, "20k"), (1.5e6, "1.5M"), (3e12, "3T"), (2e22, "2e22"), (3e-4, "3e-4")],
)  # fmt: skip
def test_numbers_of_an_axis_are_short(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    "axis",
    [Axis(0, 1), Axis(3.97, 8.6), Axis(-0.02, 0.06), Axis(5, 5000, log=True), Axis(100, 130, log=True)],
)
def test_an_axis_has_a_few_round_ticks_within_it(axis: Axis) -> None:
    ticks = axis.ticks()
    assert 3 <= len(ticks) <= 8
    assert all(axis.low <= tick <= axis.high for tick in ticks)
    assert ticks == sorted(set(ticks))
    assert all(len(short(tick)) <= 6 for tick in ticks)


def test_lines_go_from_corner_to_corner() -> None:
    lines = [
        Line("rising", [(0, 1.0), (1, float("nan")), (2, 3.0)], "#111111"),
        Line("flat", [(0, 2.0), (2, 2.0)], "#222222"),
    ]
    found = {
        line.get("stroke"): polyline(line)
        for line in parsed(line_chart("t", lines, "tokens", marks=[1])).iter("polyline")
    }
    rising, flat = found["#111111"], found["#222222"]
    assert len(rising) == 2  # what is not a number is left out
    assert rising[0][0] == flat[0][0] < rising[1][0] == flat[1][0]
    assert rising[0][1] > flat[0][1] == flat[1][1] > rising[1][1]  # y grows downwards
    assert flat[0][1] == pytest.approx((rising[0][1] + rising[1][1]) / 2, abs=0.2)


def test_powers_are_equally_far_apart() -> None:
    chart = line_chart("t", [Line("", [(0, 10.0), (1, 100.0), (2, 1000.0), (3, -1.0)], "#111111")], "steps", log=True)
    (line,) = [polyline(line) for line in parsed(chart).iter("polyline") if line.get("stroke") == "#111111"]
    assert len(line) == 3
    assert line[0][1] - line[1][1] == pytest.approx(line[1][1] - line[2][1], abs=0.2)


def test_too_little_is_no_chart() -> None:
    assert line_chart("t", [Line("", [(0, 1.0)], "#111111")], "steps") is None
    assert line_chart("t", [], "steps") is None
    assert heat_map("t", [], [], 0, 1) is None


def test_equal_values_are_a_chart() -> None:
    for value in (0.0, 5.0):
        parsed(line_chart("t", [Line("", [(0, value), (1, value)], "#111111")], "steps", floor=True))


def test_a_heat_map_has_a_cell_for_every_value() -> None:
    rows = [("output", [0.0, 1.0, float("nan")]), ("<input>", [0.5, 0.5, 0.25])]
    svg = heat_map("a & b", rows, ["align 0", "align 5", "pretrain 9"], 0.0, 1.0)
    element = parsed(svg)
    fills = [rect.get("fill") for rect in element.iter("rect")]
    assert len(fills) == 6 + 60  # and the scale
    assert fills[3] == fills[4]
    assert len({fills[0], fills[1], fills[2], fills[3]}) == 4
    texts = [text.text for text in element.iter("text")]
    assert {"<input>", "0.25", "align 0", "pretrain 9"} <= set(texts)
    assert element.get("aria-label") == "a & b"


def test_many_layers_fit() -> None:
    rows = [(f"block {layer}", [0.5]) for layer in range(80)]
    element = parsed(heat_map("t", rows, ["align 0"], 0.0, 1.0))
    height = float(re.split(" ", element.get("viewBox", ""))[3])
    assert height < 500
    assert 20 < len([text for text in element.iter("text") if (text.text or "").startswith("block")]) < 50


def test_a_log_chart_labels_what_was_measured_and_ends_its_bands_at_the_edge() -> None:
    points = [(8_192.0, 6.0), (16_384.0, 5.5), (32_768.0, 5.2)]
    band = [(x, -1e9, y + 0.1) for x, y in points]
    chart = log_chart("a & b", [Series("one", "#123456", points, points, band)], "tokens")
    assert chart is not None
    assert 'aria-label="a &amp; b"' in chart
    assert chart.count("<circle") == 3
    assert all(f">{label}<" in chart for label in ("8.19k", "16.4k", "32.8k"))
    (polygon,) = re.findall(r'<polygon points="([^"]*)"', chart)
    assert all(0 <= float(y) <= HEIGHT for _, y in (place.split(",") for place in polygon.split()))
    assert log_chart("one point", [Series("one", "#123456", points[:1])], "tokens") is None
