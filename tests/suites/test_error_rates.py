"""The page's verdicts on simulated results: how often they are wrong where rows do not differ, and right where they do.

`table2` has five rows in perplexity, inference and facts, 15 comparisons, ten of them of shares on items that all seeds
have in common; `figure4` has eight comparisons of values that have no items.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy import stats

from prealign.reports.paired import LEVEL
from prealign.suites.cells import Cell, cell_of
from prealign.suites.suite import Suite, load_suite
from prealign.suites.verdicts import Order, judged, orders_of

PAGES = 2000
ITEMS = 150
PERIODS = 2
MOST = LEVEL + 1.64 * (LEVEL * (1 - LEVEL) / PAGES) ** 0.5
"""One in twenty simulations of a test at its level is above this."""


def shares(random: np.random.Generator, rows: int, seeds: int) -> np.ndarray:
    """Shares of right answers ``[rows, seeds]`` of rows that are equally good: of two periods, whose seeds have good
    and bad luck of their own. Each row finds other items easy, the same ones for all of its seeds."""
    easy = random.beta(0.3, 0.3, size=(rows, 1, PERIODS * ITEMS))
    luck = random.normal(0.0, 0.03, size=(rows, seeds, PERIODS)).repeat(ITEMS, axis=2)
    return (random.random(luck.shape) < easy + luck).mean(axis=2)


def cells(random: np.random.Generator, suite: Suite, seeds: int) -> dict[tuple[str, str], Cell]:
    """Cells of rows that do not differ, from results made up for every column. Where a column has no items, differences
    between rows have a standard deviation of 1 over seeds, beside the luck that a seed has in all rows."""
    found = {}
    for key, column in suite.columns.items():
        if column.percent:
            values = shares(random, len(suite.rows), seeds)
        else:
            values = random.normal(100.0, 3.0, seeds) + random.normal(0.0, 0.5**0.5, (len(suite.rows), seeds))
        for row, of_seeds in zip(suite.rows, values.tolist()):
            results = [{"seed": seed, "metrics": metrics(column.value, value)} for seed, value in enumerate(of_seeds)]
            found[row.label, key] = cell_of(results, column, seeds)
    return found


def metrics(path: str, value: float) -> dict[str, Any]:
    """What a result has where a column looks for its value."""
    *above, last = path.split(".")
    here: Any = {last: value, "facts": PERIODS * ITEMS}
    for key in reversed(above):
        here = {key: here}
    return here


def verdicts(suite: Suite, found: dict[tuple[str, str], Cell], ahead: dict[str, float]) -> list[Order]:
    """Of a page with this suite. ``ahead``: by row, how much better it is in columns without items."""

    def shifted(label: str, key: str, cell: Cell) -> Cell:
        column = suite.columns[key]
        if column.percent or label not in ahead:
            return cell
        sign = 1.0 if column.better == "higher" else -1.0
        return Cell({seed: value + sign * ahead[label] for seed, value in cell.by_seed.items()}, cell.expected)

    moved = {(label, key): shifted(label, key, cell) for (label, key), cell in found.items()}
    (orders,) = judged([list(orders_of(suite, suite.rows, moved))])
    return orders


def simulated(suite: Suite, seeds: int, pages: int) -> Iterator[dict[tuple[str, str], Cell]]:
    random = np.random.default_rng(seeds)
    for _ in range(pages):
        yield cells(random, suite, seeds)


def decided(order: Order) -> bool:
    return order.verdict in ("agrees", "disagrees")


@pytest.mark.long
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("name", "better"), [("table2", "Joint + align init"), ("figure4", "PreAlign without CS")])
def test_wrong_verdicts_are_as_rare_as_the_page_says(name: str, better: str, seeds: int) -> None:
    """Of pages where nothing differs, and of the same pages where one row is so far ahead that verdicts on it are
    certain, which frees the level for the rest (Holm)."""
    suite = load_suite(name)

    def wrong(order: Order) -> bool:
        differs = better in (order.better, order.worse) and not suite.columns[order.column].percent
        return decided(order) and not differs

    none = some = 0
    for found in simulated(suite, seeds, PAGES):
        none += any(map(decided, verdicts(suite, found, {})))
        some += any(map(wrong, verdicts(suite, found, {better: 1e9})))
    print(f"{name}, {seeds} seeds: {none / PAGES:.2%} of pages without differences, {some / PAGES:.2%} with others")
    assert none / PAGES <= MOST
    assert some / PAGES <= MOST


def test_tests_without_items_and_correction_are_wrong_on_most_of_these_pages() -> None:
    """The simulation has what the verdicts take into account."""
    suite = load_suite("table2")
    wrong = 0
    for found in simulated(suite, 5, 100):
        wrong += any(
            stats.ttest_rel(found[one, key].values, found[other, key].values).pvalue < LEVEL
            for key in suite.columns
            for one, other in suite.compare
        )
    print(f"uncorrected paired t-tests over five seeds: {wrong} % of the pages")
    assert wrong > 80


@pytest.mark.parametrize(
    ("seeds", "ahead", "power"), [(3, 8.0, 0.2), (3, 19.0, 0.9), (5, 3.0, 0.3), (5, 5.0, 0.9), (5, 19.0, 0.99)]
)
def test_clear_effects_are_found(seeds: int, ahead: float, power: float) -> None:
    """Units are standard deviations of the differences. In the committed results PreAlign is 19 ahead of Joint
    Training in the clone's perplexity."""
    suite = load_suite("table2")
    found = 0
    for page in simulated(suite, seeds, 300):
        orders = verdicts(suite, page, {"PreAlign (both)": ahead})
        (order,) = (o for o in orders if (o.column, o.better, o.worse) == ("lm", "PreAlign (both)", "Joint Training"))
        found += order.verdict == "agrees"
    print(f"{seeds} seeds, {ahead:g} standard deviations ahead: {found / 300:.1%} of the pages say so")
    assert found / 300 >= power
