"""A value of a row over its seeds: mean, deviation, and the interval over seeds and over what the seeds share."""

import statistics
from dataclasses import dataclass
from typing import Any

from prealign.evaluation.results import wilson_interval
from prealign.reports.paired import FEWEST, drawn_variance, estimate
from prealign.suites.results import Result
from prealign.suites.suite import Column

_ITEMS = ("pairs", "facts", "samples")
"""Where a measurement says on how many items a share was taken."""


@dataclass(frozen=True)
class Cell:
    """A value of a row over its seeds, in the column's unit."""

    by_seed: dict[int, float]
    expected: int
    """Seeds that the plan has."""
    interval: tuple[float, float] | None = None
    """95 %: over seeds and the items drawn; of one seed over the items alone. None where neither is known."""
    drawn: float = 0.0
    """Variance from drawing the items, which all seeds share; 0 where their number is not known."""
    missing: str | None = None
    """Why there is no value: what a result says, or "not measured". None where there is no result either."""

    @property
    def values(self) -> list[float]:
        return list(self.by_seed.values())

    @property
    def mean(self) -> float | None:
        return statistics.mean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def holds(self, value: float) -> bool:
        """Whether a value is within the interval."""
        return self.interval is not None and self.interval[0] <= value <= self.interval[1]


def cell_of(results: list[Result], column: Column, expected: int) -> Cell:
    """The cell of a row's results, one a seed.

    A seed counts with one value: facts of several periods are tested on one model in the course of its training, so
    their mean stands for it. Of the items on which a share is taken, all seeds have the same.
    """
    unit = 100.0 if column.percent else 1.0
    by_seed: dict[int, float] = {}
    drawn: list[float] = []
    intervals: list[tuple[float, float]] = []
    reasons: list[str] = []
    for result in results:
        value, within, reason = value_of(result["metrics"], column.value)
        if value is None:
            reasons.append(reason or "not measured")
            continue
        by_seed[result["seed"]] = unit * value
        if not column.percent:
            continue
        items = next((within[key] for key in _ITEMS if key in within), None)
        if "standard_error" in within:
            drawn.append(unit**2 * within["standard_error"] ** 2)
        elif items is not None:
            drawn.append(unit**2 * drawn_variance(value, items))
        interval = within.get("interval")
        if interval is None and items is not None:
            interval = wilson_interval(round(value * items), items)
        if interval is not None:
            intervals.append((unit * interval[0], unit * interval[1]))
    # at most this is the variance of an item's mean over seeds: it is convex in the seeds
    shared = statistics.fmean(drawn) if drawn else 0.0
    return Cell(by_seed, expected, _interval(by_seed, column, shared, intervals), shared, next(iter(reasons), None))


def value_of(metrics: dict[str, Any], path: str) -> tuple[Any, dict[str, Any], str | None]:
    """The value at a path of keys joined by dots (of a list the mean), the mapping it stands in, and why there is
    none."""
    here: Any = metrics
    within: dict[str, Any] = {}
    for key in path.split("."):
        if not isinstance(here, dict):
            return None, {}, None
        if "skipped" in here:
            return None, {}, here["skipped"]
        within, here = here, here.get(key)
    if isinstance(here, list):
        return statistics.mean(here), within, None
    return here, within, None


def _interval(
    by_seed: dict[int, float], column: Column, drawn: float, of_one_seed: list[tuple[float, float]]
) -> tuple[float, float] | None:
    if len(by_seed) < FEWEST:
        return of_one_seed[0] if of_one_seed else None
    low, high = estimate([*by_seed.values()], drawn).interval()
    return (max(0.0, low), min(100.0, high)) if column.percent else (low, high)
