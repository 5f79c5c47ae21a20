"""Whether two methods differ: estimates over seeds and over the items drawn, and Holm's correction over a page."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtr, stdtrit

LEVEL = 0.05
"""Most that may be the chance of any wrong verdict on a page."""

FEWEST = 2
"""Seeds that it takes for a verdict: one says nothing of others."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error, in the unit of the values."""

    mean: float
    error: float
    degrees: int
    """Of freedom of Student's t."""

    @property
    def p(self) -> float:
        """Two-sided: how likely is a mean as far from 0, were 0 right?"""
        if self.error == 0:
            return 1.0 if self.mean == 0 else 0.0
        return float(2 * stdtr(self.degrees, -abs(self.mean) / self.error))

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """What 0 would have to lie outside of for ``p < level``; 95 % by default."""
        half = -float(stdtrit(self.degrees, level / 2)) * self.error
        return self.mean - half, self.mean + half


def estimate(values: Sequence[float], drawn: float = 0.0) -> Estimate:
    """The mean of a value a seed. Of differences of two rows with the same seeds it is a paired t-test.

    ``drawn``: variance of the mean, in the values' unit squared, from drawing the items (pairs of sentences, facts,
    prompts) on which every seed was tested alike. More seeds do not make it smaller, and values over seeds do not show
    it. It has many degrees of freedom and the seeds have few; taking the fewest for the sum errs on the safe side
    (Hájek 1962; Mickey and Brown 1966). Raises ValueError for fewer than two values.
    """
    if len(values) < FEWEST:
        raise ValueError(f"found {len(values)} values; expected at least {FEWEST}")
    mean, degrees = statistics.fmean(values), len(values) - 1
    variance = math.fsum((value - mean) ** 2 for value in values) / degrees
    return Estimate(mean, math.sqrt(variance / len(values) + drawn), degrees)


def drawn_variance(share: float, items: int) -> float:
    """Variance of a share of ``items`` that were right, as if drawn anew (binomial).

    Two more hits and two more misses are counted (Agresti and Coull 1998): a share of 0 or 1 is not certain.
    """
    smoothed = (share * items + 2) / (items + 4)
    return smoothed * (1 - smoothed) / items


@dataclass(frozen=True)
class Tested:
    """One of several comparisons, after Holm's correction."""

    differs: bool
    p: float
    """Corrected."""
    level: float
    """That the comparison's own p-value was held against: its interval at this level leaves out 0 where ``differs``,
    and only there."""


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[Tested]:
    """Correct the p-values of a page (Holm 1979): the chance that any of those that ``differs`` is wrong is at most
    ``level``, whichever of the others differ, and however they depend on each other.

    The smallest is held against ``level / n``, the next against ``level / (n - 1)``, and so on to the first that fails;
    from there on nothing differs.
    """
    tested: dict[int, Tested] = {}
    corrected, last, failed = 0.0, level, False
    for place, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        left = len(p_values) - place
        corrected = max(corrected, min(1.0, left * p_values[number]))
        if not failed:
            last = level / left
            failed = corrected >= level
        tested[number] = Tested(not failed, corrected, last)
    return [tested[number] for number in range(len(p_values))]


def said(p: float) -> str:
    """A p-value in words: ``p = 0.012``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
