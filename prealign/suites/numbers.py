"""A suite's table in numbers: means and deviations over seeds, orders beside the paper's, what chance explains."""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scipy import stats

from prealign.evaluation.results import wilson_interval
from prealign.suites.expansion import Plan
from prealign.suites.results import Result, read_result
from prealign.suites.suite import Column, Row, Suite

FEWEST = 3
"""Seeds that it takes to tell two rows apart."""

SIGNIFICANT = 0.05
"""Two rows differ where a paired t-test over their common seeds has a smaller p-value than this."""


@dataclass(frozen=True)
class Cell:
    """A value of a row over its seeds, in the column's unit."""

    by_seed: dict[int, float]
    expected: int
    """Seeds that the plan has."""
    interval: tuple[float, float] | None = None
    """95 %: of one seed over its facts, pairs of sentences or samples; of several over periods and seeds."""
    missing: str | None = None
    """Why there is no value, where a result says so."""

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


@dataclass(frozen=True)
class Order:
    """Two rows in a column, ours beside the paper's."""

    column: str
    better: str
    """Row that the paper has ahead."""
    worse: str
    paper: tuple[float, float] | None
    """The paper's values of both; None where it states the order without numbers."""
    verdict: str


@dataclass(frozen=True)
class Numbers:
    """A suite at a scale."""

    suite: Suite
    rows: list[Row]
    cells: dict[tuple[str, str], Cell]
    """By row and column."""
    results: dict[str, list[Result]]
    """By row, one a seed."""
    orders: list[Order]
    chance: list[str]
    """What the scale cannot show, in sentences."""
    unequal: list[str]
    """Rows whose text differs from those of the most, in sentences."""


def numbers_of(plan: Plan, suite: Suite) -> Numbers:
    """Everything that the page says of a suite, from its result files."""
    rows = suite.rows_at(plan.scale)
    results: dict[str, list[Result]] = {}
    cells: dict[tuple[str, str], Cell] = {}
    for row in rows:
        wanted = plan.of(suite, row)
        found = [read_result(plan.folder, measurement) for measurement in wanted]
        results[row.label] = [result for result in found if result is not None]
        for key, column in suite.columns.items():
            if row.columns is None or key in row.columns:
                cells[row.label, key] = _cell(results[row.label], column, len(wanted))
    return Numbers(
        suite,
        rows,
        cells,
        results,
        list(_orders(suite, rows, cells)),
        list(_at_chance(suite, rows, cells)),
        list(_unequal(results)),
    )


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


def _cell(results: list[Result], column: Column, expected: int) -> Cell:
    unit = 100.0 if column.percent else 1.0
    by_seed: dict[int, float] = {}
    repeated: list[float] = []
    intervals: list[tuple[float, float]] = []
    reasons: list[str] = []
    for result in results:
        value, within, reason = value_of(result["metrics"], column.value)
        if value is None:
            reasons.append(reason or "not measured")
            continue
        by_seed[result["seed"]] = unit * value
        repeated += [unit * item for item in within.get("by_period", [])]
        if isinstance(within.get("interval"), list):
            intervals.append((unit * within["interval"][0], unit * within["interval"][1]))
        elif "pairs" in within and column.percent:
            low, high = wilson_interval(round(value * within["pairs"]), within["pairs"])
            intervals.append((unit * low, unit * high))
    interval = intervals[0] if len(by_seed) == 1 and intervals else mean_interval(repeated or list(by_seed.values()))
    if interval is not None and column.percent:
        interval = max(0.0, interval[0]), min(unit, interval[1])
    return Cell(by_seed, expected, interval, reasons[0] if reasons else None)


def _orders(suite: Suite, rows: list[Row], cells: dict[tuple[str, str], Cell]) -> Iterator[Order]:
    by_label = {row.label: row for row in rows}
    for key, column in suite.columns.items():
        for one, other in suite.compare:
            if one not in by_label or other not in by_label:
                continue
            a, b = by_label[one].paper.get(key), by_label[other].paper.get(key)
            if a is None or b is None or a == b:
                continue
            first = (a < b) == (column.better == "lower")
            better, worse = (one, other) if first else (other, one)
            paper = (a, b) if first else (b, a)
            yield Order(key, better, worse, paper, _verdict(column, cells.get((better, key)), cells.get((worse, key))))
        for better, worse in suite.orders.get(key, []):
            if better in by_label and worse in by_label:
                verdict = _verdict(column, cells.get((better, key)), cells.get((worse, key)))
                yield Order(key, better, worse, None, verdict)


def mean_interval(values: list[float]) -> tuple[float, float] | None:
    """95 % interval of a mean (Student's t); None for fewer than two values."""
    if len(values) < 2:
        return None
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values) - half, statistics.mean(values) + half


def p_value(differences: list[float]) -> float:
    """Two-sided, of a paired t-test: how likely are differences as large if the mean is 0? For three or more."""
    if len(set(differences)) == 1:
        return 0.0 if differences[0] else 1.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _verdict(column: Column, better: Cell | None, worse: Cell | None) -> str:
    """Differences are taken seed by seed: a seed has the same data, tokenizer and table in both rows."""
    seeds = sorted(better.by_seed.keys() & worse.by_seed.keys()) if better is not None and worse is not None else []
    if better is None or worse is None or better.mean is None or worse.mean is None:
        return "missing"
    if not seeds:
        return "the rows have no seed in common"
    sign = 1.0 if column.better == "higher" else -1.0
    ahead = [sign * (better.by_seed[seed] - worse.by_seed[seed]) for seed in seeds]
    mean, unit, digits = statistics.mean(ahead), " points" if column.percent else "", column.digits
    gap = f"{abs(mean):.{digits}f}{unit}"
    interval = mean_interval(ahead) if len(ahead) >= FEWEST else None
    if interval is None:
        if mean == 0:
            return "equal"
        side = "in the paper's order" if mean > 0 else "in the opposite order"
        return f"{side} by {gap}, but without {FEWEST} seeds of both it is not known whether they differ"
    p = p_value(ahead)
    said = f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f} over {len(seeds)} seeds, p {_said(p)}"
    if p >= SIGNIFICANT:
        return f"does not differ: {gap} {'ahead' if mean >= 0 else 'behind'} ({said})"
    return f"agrees: {gap} ahead ({said})" if mean > 0 else f"disagrees: {gap} behind ({said})"


def _said(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"


def _at_chance(suite: Suite, rows: list[Row], cells: dict[tuple[str, str], Cell]) -> Iterator[str]:
    for key, column in suite.columns.items():
        if column.chance is None:
            continue
        chance = column.chance * (100.0 if column.percent else 1.0)
        measured = [(row.label, cells[row.label, key]) for row in rows if (row.label, key) in cells]
        measured = [(label, cell) for label, cell in measured if cell.mean is not None]
        within = [
            f"{label} {cell.mean:.1f} ({cell.interval[0]:.1f} to {cell.interval[1]:.1f})"
            for label, cell in measured
            if cell.interval is not None and cell.interval[0] <= chance <= cell.interval[1]
        ]
        if within:
            line = f"{column.label}: chance ({chance:.1f}) is within the 95 % interval of {'; '.join(within)}."
            every = len(within) == len(measured)
            yield f"{line} No row differs from chance: this scale cannot show it." if every else line


def _unequal(results: dict[str, list[Result]]) -> Iterator[str]:
    """Rows beside the most common number of tokens of text, to one step, per language."""
    accounts = [(label, result) for label, found in results.items() for result in found[:1]]
    if not accounts:
        return

    def same(one: Result, other: Result) -> bool:
        step = one["tokens_per_step"]
        spent, expected = _by_language(one), _by_language(other)
        return spent.keys() == expected.keys() and all(abs(spent[name] - expected[name]) <= step for name in spent)

    reference = max(accounts, key=lambda item: sum(same(item[1], other) for _, other in accounts))[1]
    for label, result in accounts:
        if not same(result, reference):
            spent = ", ".join(f"{name} {count:,}" for name, count in _by_language(result).items())
            yield f"{label} has other tokens than most rows: {spent}."


def _by_language(result: Result) -> dict[str, int]:
    return dict(result["account"]["text"])
