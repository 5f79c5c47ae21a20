"""Charts of a ladder: loss over tokens by size with fitted curves and bands, and what tokens are worth."""

from dataclasses import replace
from typing import Any

import numpy as np

from prealign.reports.svg import COLOURS, Series, log_chart
from prealign.scaling.measured import LadderRun, Measured
from prealign.scaling.savings import Saving
from prealign.scaling.study import Fitted, LanguageStudy

_STEPS = 40
"""Points of a curve."""


def loss_charts(study: LanguageStudy, fits: list[Fitted]) -> list[dict[str, Any]]:
    """A chart for each method: a language's loss over its tokens, a colour for each size. Runs that read other amounts
    of the other languages than most do are left out."""
    charts = []
    for method in study.measured.methods:
        fitted = _richest(fits, method)
        series = []
        for number, size in enumerate(study.measured.ladder.sizes):
            runs = _usual(study, [run for run in study.runs if run.method == method and run.size == size])
            if runs:
                series.append(_series(study, fitted, size, COLOURS[number % len(COLOURS)], runs))
        svg = log_chart(f"{method}, {study.language}", series, f"tokens of {study.language}")
        if svg is not None:
            drawn = f"curves: {fitted.form.name}, bands: 95 %" if fitted is not None else "no curve: nothing is fitted"
            charts.append(_chart(f"{method}: loss of {study.language}, nats a token", svg, series, drawn))
    return charts


def worth_chart(measured: Measured, language: str, method: str, savings: list[Saving]) -> dict[str, Any] | None:
    """A method's effective tokens over those that it read, a colour for each size; dashed where both are equal."""
    series = []
    own = [saving for saving in usual(savings, language) if saving.run.method == method]
    own = [saving for saving in own if np.isfinite(saving.effective)]
    for number, size in enumerate(measured.ladder.sizes):
        found = sorted(
            ((saving.tokens, saving.effective, saving.interval) for saving in own if saving.run.size == size),
            key=lambda row: row[0],
        )
        points = [(float(tokens), effective) for tokens, effective, _ in found]
        band = [(float(tokens), low, min(high, 1e15)) for tokens, _, (low, high) in found]
        if points:
            series.append(Series(size, COLOURS[number % len(COLOURS)], points, points, band))
    given = sorted({float(saving.tokens) for saving in own})
    series.append(Series("equal", "#889", [], [(tokens, tokens) for tokens in given], dashed=True))
    svg = log_chart(f"{method}: effective tokens", series, f"tokens of {language} that {method} reads", log_y=True)
    if svg is None:
        return None
    return _chart(f"{method}: effective tokens of {language}", svg, series, "bands: 95 %")


def usual(savings: list[Saving], language: str) -> list[Saving]:
    """Those of runs that read as much of the other languages as most do."""
    most = _most_common([_rest(saving.run, language) for saving in savings])
    return [saving for saving in savings if _rest(saving.run, language) == most]


def _series(study: LanguageStudy, fitted: Fitted | None, size: str, colour: str, runs: list[LadderRun]) -> Series:
    points = [(float(run.tokens[study.language]), run.losses[study.language]) for run in runs]
    if fitted is None or fitted.fit is None:
        return Series(size, colour, points)
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    every = np.geomspace(low, max(high, low * 1.01), _STEPS)
    some = [replace(runs[0], tokens=runs[0].tokens | {study.language: round(x)}) for x in every.tolist()]
    curve = study.points(some, fitted.methods)
    drawn = np.sort(fitted.fit.drawn(curve, np.random.default_rng(1), new_runs=False), axis=0)
    last = len(drawn) - 1
    ends = drawn[int(0.025 * last)].tolist(), drawn[int(np.ceil(0.975 * last))].tolist()
    line = list(zip(every.tolist(), fitted.fit.predicted(curve).tolist()))
    return Series(size, colour, points, line, list(zip(every.tolist(), *ends)))


def _richest(fits: list[Fitted], method: str) -> Fitted | None:
    """The fit with the most terms that has a method."""
    own = [fitted for fitted in fits if fitted.fit is not None and method in fitted.methods]
    return max(own, key=lambda fitted: (fitted.form.transfer, fitted.form.repeats), default=None)


def _usual(study: LanguageStudy, runs: list[LadderRun]) -> list[LadderRun]:
    """Those that read as much of the other languages as most runs of the ladder do."""
    usual = _most_common([_rest(run, study.language) for run in study.runs])
    return [run for run in runs if _rest(run, study.language) == usual]


def _rest(run: LadderRun, language: str) -> tuple[int, ...]:
    return tuple(count for name, count in run.budgets.items() if name != language)


def _most_common(found: list[tuple[int, ...]]) -> tuple[int, ...]:
    return max(found, key=found.count, default=())


def _chart(title: str, svg: str, series: list[Series], note: str) -> dict[str, Any]:
    legend = [{"label": one.label, "colour": one.colour, "dashed": one.dashed} for one in series]
    return {"title": title, "svg": svg, "legend": legend, "note": note}
