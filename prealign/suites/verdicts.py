"""Which of the paper's orders our rows show: paired tests over seeds, corrected over all comparisons of a page."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace

from prealign.reports.paired import FEWEST, LEVEL, Estimate, estimate, holm, said
from prealign.suites.cells import Cell
from prealign.suites.suite import Column, Row, Suite

_MOST_DIGITS = 6


@dataclass(frozen=True)
class Order:
    """Two rows in a column, ours beside the paper's."""

    column: str
    better: str
    """Row that the paper has ahead; in a suite of ours the first of the two."""
    worse: str
    paper: tuple[float, float] | None
    """The paper's values of both; None where it states the order without numbers."""
    ahead: float | None
    """By how much ``better`` is ahead here, over the seeds that both rows have; None without such seeds."""
    seeds: int
    tested: Estimate | None
    """What the verdict rests on; None where there can be none."""
    is_of_the_paper: bool = True
    """Whether the paper says anything of the two rows."""
    both_at_chance: bool = False
    """Whether the intervals of both rows hold what guessing reaches."""
    verdict: str = ""
    p: float | None = None
    """Corrected; None where there is no verdict."""
    interval: tuple[float, float] | None = None
    """Of ``ahead``, at the level that this comparison was tested at: it leaves out 0 where there is a difference, and
    only there."""


def orders_of(suite: Suite, rows: list[Row], cells: dict[tuple[str, str], Cell]) -> Iterator[Order]:
    """The comparisons of a suite, without verdicts, which depend on what else is on the page (`judged`)."""
    by_label = {row.label: row for row in rows}
    for key, column in suite.columns.items():
        for one, other in suite.compare:
            if one not in by_label or other not in by_label:
                continue
            if not suite.is_of_the_paper and (one, key) in cells and (other, key) in cells:
                yield replace(_order(key, column, one, other, None, cells), is_of_the_paper=False)
            a, b = by_label[one].paper.get(key), by_label[other].paper.get(key)
            if a is None or b is None or a == b:
                continue
            first = (a < b) == (column.better == "lower")
            better, worse = (one, other) if first else (other, one)
            yield _order(key, column, better, worse, (a, b) if first else (b, a), cells)
        for better, worse in suite.orders.get(key, []):
            if better in by_label and worse in by_label:
                yield _order(key, column, better, worse, None, cells)


def judged(pages: list[list[Order]]) -> list[list[Order]]:
    """Verdicts on the orders of all suites of a page, corrected together.

    Comparisons of rows at chance get none, and are counted all the same: what is counted must not depend on values.
    """
    numbers = [order.tested.p for orders in pages for order in orders if order.tested is not None]
    corrected = iter(holm(numbers))

    def verdict(order: Order) -> Order:
        if order.tested is None:
            return order
        tested = next(corrected)
        if order.both_at_chance:
            return replace(order, verdict="no verdict: neither is shown to differ from chance")
        text = "not shown to differ"
        if tested.differs:
            words = ("agrees", "disagrees") if order.is_of_the_paper else ("ahead", "behind")
            text = words[order.tested.mean <= 0]
        return replace(order, verdict=text, p=tested.p, interval=order.tested.interval(tested.level))

    return [[verdict(order) for order in orders] for orders in pages]


def at_chance(suite: Suite, rows: list[Row], cells: dict[tuple[str, str], Cell]) -> Iterator[str]:
    """By column, the rows that are not shown to differ from chance, in a sentence."""
    for key, column in suite.columns.items():
        chance = _chance(column)
        if chance is None:
            continue
        measured = [(row.label, cells[row.label, key]) for row in rows if (row.label, key) in cells]
        measured = [(label, cell) for label, cell in measured if cell.values]
        within = [f"{label} {_with_interval(cell)}" for label, cell in measured if cell.holds(chance)]
        if within:
            line = f"{column.label}: not shown to differ from chance ({chance:.1f}): {'; '.join(within)}."
            yield f"{line} That is every row, so this column has no verdict." if len(within) == len(measured) else line


def in_words(order: Order, column: Column) -> list[str]:
    """Three cells of the page's table: by how much the better row is ahead, corrected p, verdict."""
    if order.ahead is None:
        return ["–", "–", order.verdict]
    digits, bounds = column.digits, order.interval or ()
    while any(bound != 0 and round(bound, digits) == 0 for bound in bounds) and digits < _MOST_DIGITS:
        digits += 1  # a bound that looks like 0 would hide on which side it is
    text = f"{_fixed(order.ahead, digits)}{' points' if column.percent else ''}"
    if bounds:
        text += f" ({' to '.join(_fixed(bound, digits) for bound in bounds)})"
    text += f", {order.seeds} seed{'s' if order.seeds > 1 else ''}"
    return [text, said(order.p) if order.p is not None else "–", order.verdict]


def how_tested(pages: list[list[Order]]) -> list[str]:
    """What the page says of its verdicts, in sentences: first how many there are and at what level."""
    count = sum(order.tested is not None for orders in pages for order in orders)
    if not count:
        return ["No two rows that are compared have values of two seeds: the page has no verdicts."]
    return [
        f"Tested: {count} comparison{'s' if count > 1 else ''}. The chance that any verdict of this page is wrong is "
        f"at most {100 * LEVEL:g} %: p is corrected for all that are tested (Holm).",
        "The test is a two-sided paired t-test over the seeds that both rows have. Rows of one seed have the same "
        "initial weights and text, as far as the rows themselves do not change them.",
        "In parentheses is the interval of the difference, at the level that the correction left to its comparison: it "
        "leaves out 0 where there is a verdict, and only there.",
        "Pairs of sentences, facts and prompts are the same for all seeds. So the variance of drawing them is added, "
        "as large as it is if two rows fail independently. A seed's periods of facts count as one value, their mean. "
        "Held-out text and the words of cosines are taken as given.",
        "“Not shown to differ” does not say that two rows are equal. There is no verdict from one seed, nor where both "
        "rows hold chance; the latter are counted as tested.",
    ]


def _order(
    key: str,
    column: Column,
    better: str,
    worse: str,
    paper: tuple[float, float] | None,
    cells: dict[tuple[str, str], Cell],
) -> Order:
    one, other = cells.get((better, key)), cells.get((worse, key))
    absent = [cell.missing if cell is not None else None for cell in (one, other) if cell is None or not cell.values]
    if one is None or other is None or absent:
        return Order(key, better, worse, paper, None, 0, None, verdict="missing" if None in absent else "not measured")
    seeds = sorted(one.by_seed.keys() & other.by_seed.keys())
    if not seeds:
        return Order(key, better, worse, paper, None, 0, None, verdict="no verdict: no seed in common")
    sign = 1.0 if column.better == "higher" else -1.0
    ahead = [sign * (one.by_seed[seed] - other.by_seed[seed]) for seed in seeds]
    mean = statistics.fmean(ahead)
    if len(seeds) < FEWEST:
        return Order(key, better, worse, paper, mean, len(seeds), None, verdict="no verdict from one seed")
    chance = _chance(column)
    guessing = chance is not None and one.holds(chance) and other.holds(chance)
    tested = estimate(ahead, one.drawn + other.drawn)
    return Order(key, better, worse, paper, mean, len(seeds), tested, both_at_chance=guessing)


def _fixed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"  # 0.0 in place of -0.0


def _chance(column: Column) -> float | None:
    return None if column.chance is None else column.chance * (100.0 if column.percent else 1.0)


def _with_interval(cell: Cell) -> str:
    assert cell.interval is not None
    count = len(cell.values)
    over = f"{count} seeds" if count > 1 else "one seed, over its items alone"
    return f"{cell.mean:.1f} ({cell.interval[0]:.1f} to {cell.interval[1]:.1f}; {over})"
