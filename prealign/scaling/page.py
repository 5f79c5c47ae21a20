"""One HTML page of a ladder: loss over tokens, target tokens saved, laws, and the largest size as predicted."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from prealign.errors import UserError
from prealign.files import write_atomically
from prealign.reports.pages import Table, plain_table, render
from prealign.scaling.charts import loss_charts, usual, worth_chart
from prealign.scaling.fitting import DRAWS, r_squared
from prealign.scaling.measured import LadderRun, Measured
from prealign.scaling.predictions import FILE, Prediction, of_test, read_predictions
from prealign.scaling.savings import Saving, savings
from prealign.scaling.study import Fitted, LanguageStudy, Tested, share_explained
from prealign.suites.expansion import Plan


def write_page(plan: Plan, measured: Measured, path: Path, failed: dict[str, str], draws: int = DRAWS) -> list[str]:
    """Write a ladder's page; returns its main tables as plain lines. Raises `UserError`."""
    before = read_predictions(plan.folder / FILE)
    languages = [_Language(measured, name, draws, before.predictions if before else []) for name in measured.targets]
    languages.append(_Language(measured, measured.source, draws, before.predictions if before else []))
    page = render(
        "scaling",
        title=f"How transfer scales: {measured.ladder.title}",
        scale=plan.scale,
        measured=len(measured.finished),
        expected=len(measured.runs),
        seeds=", ".join(map(str, measured.ladder.seeds)),
        reference=measured.ladder.reference,
        held_out=measured.held_out,
        predicted_on=before.date if before else None,
        failed=failed,
        languages=[language.section() for language in languages],
        runs=_runs(measured),
        notes=measured.ladder.notes,
        commands=[(run.label, "\n".join(run.result["commands"])) for run in measured.finished if run.result],
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); free space or mend rights") from None
    return [line for language in languages for line in ["", *language.lines()]][1:]


class _Language:
    """What the page says of one language."""

    def __init__(self, measured: Measured, name: str, draws: int, before: list[Prediction]) -> None:
        self.measured = measured
        self.name = name
        study = self.study = LanguageStudy(measured, name, draws)
        self.fits = study.fits()
        self.tests = study.tests()
        self.reference = None if study.of_source else study.reference()
        found = self.reference.fit if self.reference is not None else None
        self.savings = savings(study, found) if found is not None else []
        self.before = [prediction for prediction in before if prediction.language == name]

    def section(self) -> dict[str, Any]:
        study = self.study
        charts = loss_charts(study, self.fits)
        others = [method for method in self.measured.methods if method != self.measured.ladder.reference]
        worth = [worth_chart(self.measured, self.name, method, self.savings) for method in others]
        return {
            "name": self.name,
            "runs": len(study.runs),
            "target": not study.of_source,
            "summary": list(_summary(self.measured, self.savings, self.name)),
            "losses": charts,
            "worth": [chart for chart in worth if chart is not None],
            "savings": _savings_table(self.savings) if self.savings else [],
            "inverted": _inverted(self.reference) if self.reference is not None else "",
            "fits": _fits_table(self.fits),
            "not_fitted": _not_fitted(self.fits),
            "explained": self._explained(),
            "predicted": self._predicted(),
        }

    def lines(self) -> list[str]:
        """The tables that a terminal shows."""
        if not self.study.runs:
            return [f"{self.name}: nothing is measured yet"]
        parts: list[tuple[str, Table]] = [
            (f"{self.name}: effective target tokens", _savings_table(self.savings) if self.savings else []),
            (f"{self.name}: laws", self._explained()),
        ]
        lines: list[str] = []
        for title, table in parts:
            if table:
                lines += ["", title, *plain_table(table)]
        return lines[1:]

    def _explained(self) -> Table:
        """R2 by form: on what was fitted, and on the largest size after fitting the smaller ones."""
        table = [["form", "runs fitted", "R²", "largest size: runs", "R²", "off by (mean)", "off by (most)"]]
        for tested in self.tests:
            own = [fitted for fitted in self.fits if fitted.form.name == tested.form.name]
            share, count = share_explained(own, self.study)
            table.append([tested.form.name, str(count), _share(share), *_against(tested, self.name)])
        return table

    def _predicted(self) -> Table:
        """The largest size, run by run, by every form; from the file that was written before where there is one."""
        made = self.before or [row for tested in self.tests for row in of_test(tested, self.name)]
        losses = {run.name: run.losses.get(self.name) for run in self.measured.runs}
        if not made:
            return []
        table = [["run", "form", "predicted", "95 % for a run", "measured", "off by"]]
        for row in sorted(made, key=lambda row: list(losses).index(row.run) if row.run in losses else len(losses)):
            loss = losses.get(row.run)
            off = "–" if loss is None else f"{100 * (loss / row.loss - 1):+.1f} %"
            if loss is not None and not row.low <= loss <= row.high:
                off += ", outside"
            shown = "–" if loss is None else f"{loss:.3f}"
            table.append([row.label, row.form, f"{row.loss:.3f}", f"{row.low:.3f} to {row.high:.3f}", shown, off])
        return table


def _against(tested: Tested, language: str) -> list[str]:
    every = zip(tested.runs, tested.predicted.tolist())
    known = [(run.losses[language], said) for run, said in every if language in run.losses]
    if not known:
        return ["0", "–", "–", "–"]
    observed, predicted = zip(*known)
    off = [100 * (loss / said - 1) for loss, said in known]
    most = max(off, key=abs)
    share = r_squared(np.array(observed), np.array(predicted))
    return [str(len(known)), _share(share), f"{sum(map(abs, off)) / len(off):.1f} %", f"{most:+.1f} %"]


def _fits_table(fits: list[Fitted]) -> Table:
    made = [(fitted, fitted.fit) for fitted in fits if fitted.fit is not None]
    names = list(dict.fromkeys(name for _, fit in made for name in fit.law.names))
    table = [["form", "methods", "runs", *names]]
    for fitted, fit in made:
        values, bands = fit.values, fit.bands
        cells = [_with_band(values[name], bands[name]) if name in values else "" for name in names]
        table.append([fitted.form.name, fitted.scope, str(fit.runs), *cells])
    return table if made else []


def _not_fitted(fits: list[Fitted]) -> list[str]:
    return [f"{fitted.form.name}, {fitted.scope}: {fitted.reason}." for fitted in fits if fitted.fit is None]


def _savings_table(found: list[Saving]) -> Table:
    table = [["run", "loss", "effective tokens", "95 %", "saved", "for each read", "between measured runs", "rests on"]]
    for saving in found:
        low, high = saving.interval
        between = "–" if saving.by_interpolation is None else f"{saving.by_interpolation:,.0f}"
        table.append(
            [
                saving.run.label,
                f"{saving.loss:.3f}",
                _tokens(saving.effective, saving),
                f"{low:,.0f} to {'no end' if math.isinf(high) else f'{high:,.0f}'}",
                "–" if math.isinf(saving.effective) else f"{saving.effective - saving.tokens:,.0f}",
                "–" if math.isinf(saving.effective) else f"{saving.ratio:.2f}",
                between,
                saving.kind,
            ]
        )
    return table


def _tokens(effective: float, saving: Saving) -> str:
    return f"at least {saving.read:,}" if math.isinf(effective) else f"{effective:,.0f}"


def _summary(measured: Measured, found: list[Saving], language: str) -> Iterator[str]:
    """By method and size, what its tokens are worth at the ladder's budgets."""
    found = usual(found, language)
    for method in measured.methods:
        for size in measured.ladder.sizes:
            own = [saving for saving in found if (saving.run.method, saving.run.size) == (method, size)]
            if own:
                worth = ", ".join(f"{_times(saving)} (at {saving.tokens:,})" for saving in own)
                reference = measured.ladder.reference
                yield f"{size}: a token of {language} did for {method} what {worth} do for {reference}."


def _times(saving: Saving) -> str:
    if math.isinf(saving.effective):
        return f"at least {saving.read / saving.tokens:.1f}"
    return f"{saving.ratio:.1f}{'' if saving.effective <= saving.read else ' by extrapolation'}"


def _inverted(reference: Fitted) -> str:
    if reference.fit is None:
        return f"No curve of {reference.scope} to invert: {reference.reason}."
    return (
        f"Inverted is the law '{reference.form.name}' as fitted to the {reference.fit.runs} runs of {reference.scope}."
    )


def _runs(measured: Measured) -> Table:
    languages = [*measured.targets, measured.source]
    heads = ["run", "seed", "parameters", *(f"loss {name}" for name in languages), "aligned", "TFLOP", "tokens/s"]
    table = [heads]
    for run in measured.runs:
        table.append([run.label, str(run.seed), f"{run.parameters:,}", *_run_values(run, languages)])
    return table


def _run_values(run: LadderRun, languages: list[str]) -> list[str]:
    if run.result is None:
        return ["missing", *["–"] * (len(languages) + 2)]
    losses = [f"{run.losses[name]:.3f}" if name in run.losses else "–" for name in languages]
    cosine = "–" if run.cosine is None else f"{run.cosine:.2f}"
    speed = run.result["speed"]
    return [*losses, cosine, f"{run.result['account']['flops'] / 1e12:,.2f}", f"{speed:,.0f}" if speed else "–"]


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _with_band(value: float, ends: tuple[float, float]) -> str:
    return f"{_short(value)} ({_short(ends[0])} to {_short(ends[1])})"


def _short(value: float) -> str:
    return f"{value:.3g}"
