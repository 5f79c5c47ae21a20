"""A suite's table in numbers: means and deviations over seeds, orders beside the paper's, what chance explains."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from prealign.suites.cells import Cell, cell_of
from prealign.suites.expansion import Plan
from prealign.suites.results import Result, read_result
from prealign.suites.suite import Row, Suite
from prealign.suites.verdicts import Order, at_chance, judged, orders_of


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
    """What is not shown to differ from chance, in sentences."""
    unequal: list[str]
    """Rows whose text differs from those of the most, in sentences."""


def numbers_of(plan: Plan) -> list[Numbers]:
    """Everything that a plan's page says of its suites, from their result files."""
    every = [_numbers(plan, suite) for suite in plan.suites]
    verdicts = judged([numbers.orders for numbers in every])
    return [replace(numbers, orders=orders) for numbers, orders in zip(every, verdicts)]


def _numbers(plan: Plan, suite: Suite) -> Numbers:
    rows = suite.rows_at(plan.scale)
    results: dict[str, list[Result]] = {}
    cells: dict[tuple[str, str], Cell] = {}
    for row in rows:
        wanted = plan.of(suite, row)
        found = [read_result(plan.folder, measurement) for measurement in wanted]
        results[row.label] = [result for result in found if result is not None]
        for key, column in suite.columns.items():
            if row.columns is None or key in row.columns:
                cells[row.label, key] = cell_of(results[row.label], column, len(wanted))
    return Numbers(
        suite,
        rows,
        cells,
        results,
        list(orders_of(suite, rows, cells)),
        list(at_chance(suite, rows, cells)),
        list(_unequal(results)),
    )


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
