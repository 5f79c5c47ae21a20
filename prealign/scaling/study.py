"""Which laws the runs of a ladder follow: fits to all of them, and fits without the largest size, tested on it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from prealign.scaling.fitting import DRAWS, Fit, fit, not_identifiable, r_squared
from prealign.scaling.forms import BOTH, CHINCHILLA, FORMS, REPEATED, TRANSFER, Form, Points
from prealign.scaling.measured import LadderRun, Measured


@dataclass(frozen=True)
class Fitted:
    """A form over the runs of some methods."""

    form: Form
    methods: list[str]
    fit: Fit | None
    reason: str | None
    """Why there is no fit."""

    @property
    def scope(self) -> str:
        """The methods in words."""
        return ", ".join(self.methods)


@dataclass(frozen=True)
class Tested:
    """How a form that was fitted without the largest size predicts it; of the methods that have a fit."""

    form: Form
    fitted: list[Fitted]
    runs: list[LadderRun]
    """Of the largest size."""
    predicted: np.ndarray
    """Their losses, ``[n]``."""
    low: np.ndarray
    high: np.ndarray
    """95 % for a new run."""


class LanguageStudy:
    """The laws of one language's loss."""

    def __init__(self, measured: Measured, language: str, draws: int = DRAWS) -> None:
        self.measured = measured
        self.language = language
        self._draws = draws
        self.of_source = language == measured.source
        self.runs = [run for run in measured.finished if language in run.losses and run.tokens[language] > 0]

    @property
    def forms(self) -> list[Form]:
        """Those that apply: for the source language nothing is borrowed."""
        return [form for form in FORMS if not (self.of_source and form.transfer)]

    def fits(self, runs: Sequence[LadderRun] | None = None) -> list[Fitted]:
        """Every form: with transfer for all methods together, which have all but tau in common; else for each alone."""
        runs = self.runs if runs is None else list(runs)
        found = []
        for form in self.forms:
            scopes = [self.measured.methods] if form.transfer else [[method] for method in self.measured.methods]
            found += [self.fitted(form, methods, runs) for methods in scopes]
        return found

    def fitted(self, form: Form, methods: Sequence[str], runs: Sequence[LadderRun]) -> Fitted:
        """One form over the runs of some methods."""
        own = [run for run in runs if run.method in methods]
        points = self.points(own, methods)
        form = replace(form, others=form.transfer and _others_tell(points))
        reason = not_identifiable(form, points, methods)
        found = fit(form, points, methods, draws=self._draws) if reason is None else None
        return Fitted(form, list(methods), found, reason)

    def points(self, runs: Sequence[LadderRun], methods: Sequence[str]) -> Points:
        """Runs as points, with indices into ``methods``."""
        points = self.measured.points(runs, self.language)
        return replace(points, method=np.array([methods.index(run.method) for run in runs], np.int64))

    def reference(self) -> Fitted:
        """The law with the most terms that the reference method's own runs can tell: what is inverted."""
        reference = [self.measured.ladder.reference]
        richest = [form for form in (BOTH, TRANSFER, REPEATED, CHINCHILLA) if form in self.forms]
        tried = [self.fitted(form, reference, self.runs) for form in richest]
        return next((found for found in tried if found.fit is not None), tried[-1])

    def tests(self) -> list[Tested]:
        """Every form, fitted to the sizes below the largest, on the largest: measured runs and those to come."""
        held_out = self.measured.held_out
        smaller = [run for run in self.runs if run.size != held_out]
        largest = [run for run in self.measured.runs if run.size == held_out and run.tokens.get(self.language)]
        return list(self._tests(self.fits(smaller), largest))

    def _tests(self, fits: list[Fitted], largest: list[LadderRun]) -> Iterator[Tested]:
        for form in self.forms:
            own = [fitted for fitted in fits if fitted.form.name == form.name]
            runs: list[LadderRun] = []
            parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
            for fitted in own:
                of_scope = [run for run in largest if run.method in fitted.methods]
                if fitted.fit is None or not of_scope:
                    continue
                points = self.points(of_scope, fitted.methods)
                drawn = np.sort(fitted.fit.drawn(points, np.random.default_rng(1), new_runs=True), axis=0)
                last = len(drawn) - 1
                ends = drawn[int(0.025 * last)], drawn[int(np.ceil(0.975 * last))]
                parts.append((fitted.fit.predicted(points), *ends))
                runs += of_scope
            empty = [np.zeros(0)] * 3
            predicted, low, high = (np.concatenate(part) for part in zip(*parts)) if parts else empty
            yield Tested(form, own, runs, predicted, low, high)


def _others_tell(points: Points) -> bool:
    """Whether the tokens of other languages can be told from the language's own and the source's."""
    if not points.others.any():
        return False
    table = np.stack([points.tokens, points.source, points.others], axis=1)
    return int(np.linalg.matrix_rank(table / table.max(axis=0))) == 3


def share_explained(fits: Sequence[Fitted], study: LanguageStudy) -> tuple[float, int]:
    """R2 of log loss on the runs that fits of one form were made from, and their number."""
    observed, predicted = [], []
    for fitted in fits:
        if fitted.fit is None:
            continue
        points = study.points([run for run in study.runs if run.method in fitted.methods], fitted.methods)
        observed.append(points.loss)
        predicted.append(fitted.fit.predicted(points))
    if not observed:
        return float("nan"), 0
    together = np.concatenate(observed)
    return r_squared(together, np.concatenate(predicted)), len(together)
