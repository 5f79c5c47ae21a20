"""How many target tokens a method saves: with how many would the reference method have had its loss?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from prealign.scaling.fitting import Fit, band
from prealign.scaling.measured import LadderRun
from prealign.scaling.study import LanguageStudy


@dataclass(frozen=True)
class Saving:
    """One run beside the reference method's curve at its size."""

    run: LadderRun
    tokens: int
    """Of the language, that the run read."""
    loss: float
    """Measured, in nats a token."""
    effective: float
    """Tokens of new text with which the reference's curve has this loss; infinite where it never has."""
    interval: tuple[float, float]
    """95 %, over draws of the curve and the noise of a run."""
    read: int
    """Most tokens that the reference has read at this size."""
    read_anywhere: int
    """And at any size."""
    by_interpolation: float | None
    """Between the reference's two measured runs at this size that have the loss between them; None where there are no
    two."""

    @property
    def ratio(self) -> float:
        """Effective tokens for each that was read."""
        return self.effective / self.tokens

    @property
    def kind(self) -> str:
        """What the number rests on, in words: how many tokens the reference has read."""
        if self.effective <= self.read:
            return "within measured runs"
        if self.effective <= self.read_anywhere:
            return f"extrapolated: {self.read:,} at most at this size"
        return f"extrapolated: {self.read_anywhere:,} at most at any size"


def savings(study: LanguageStudy, reference: Fit) -> list[Saving]:
    """Every measured run of the other methods, in the ladder's order."""
    name = study.measured.ladder.reference
    own = [run for run in study.runs if run.method == name]
    rng = np.random.default_rng(1)
    return [_saving(study, reference, own, run, rng) for run in study.runs if run.method != name]


def _saving(
    study: LanguageStudy, reference: Fit, own: Sequence[LadderRun], run: LadderRun, rng: np.random.Generator
) -> Saving:
    language, law = study.language, reference.law
    # the run as if the reference method had made it
    points = study.points([replace(run, method=study.measured.ladder.reference)], law.methods)
    log_loss = np.log(points.loss)
    noise = rng.choice(reference.residuals, len(reference.draws))
    drawn = [float(law.tokens_for(draw, points, log_loss + shift)[0]) for draw, shift in zip(reference.draws, noise)]
    of_size = [other for other in own if other.size == run.size]
    return Saving(
        run,
        run.tokens[language],
        run.losses[language],
        float(law.tokens_for(reference.vector, points, log_loss)[0]),
        band(drawn),
        max((other.tokens[language] for other in of_size), default=0),
        max((other.tokens[language] for other in own), default=0),
        _interpolated(run, of_size, language),
    )


def _interpolated(run: LadderRun, of_size: Sequence[LadderRun], language: str) -> float | None:
    """Straight between neighbours in loss over log tokens: runs of its seed with as much of every other language."""
    rest = _rest(run, language)
    alike = [other for other in of_size if other.seed == run.seed and _rest(other, language) == rest]
    curve = sorted((other.tokens[language], other.losses[language]) for other in alike)
    loss = run.losses[language]
    for (low, above), (high, below) in pairwise(curve):
        if above >= loss >= below and above > below:
            share = (above - loss) / (above - below)
            return math.exp((1 - share) * math.log(low) + share * math.log(high))
    return None


def _rest(run: LadderRun, language: str) -> dict[str, int]:
    return {name: count for name, count in run.budgets.items() if name != language}
