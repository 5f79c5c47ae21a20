"""The results in the tree are of the suites in the tree."""

from pathlib import Path

from prealign.reports.paired import LEVEL
from prealign.suites.expansion import expand
from prealign.suites.numbers import numbers_of
from prealign.suites.results import missing_measures
from prealign.suites.suite import load_suite, load_variants, suite_names

RESULTS = Path(__file__).parents[2] / "configs" / "results"


def test_every_result_is_what_a_suite_asks_for() -> None:
    plan = expand([load_suite(name) for name in suite_names()], load_variants(), "demo", RESULTS)
    known = {measurement.name: measurement for measurement in plan.measurements}
    files = sorted((RESULTS / "demo").glob("*.json"))
    for path in files:
        assert path.stem in known
        measurement = known[path.stem]
        assert set(missing_measures(RESULTS / "demo", measurement)) < set(measurement.measures), path.name
        assert "/tmp/" not in path.read_text()


def test_no_page_of_them_contradicts_itself() -> None:
    plan = expand([load_suite(name) for name in suite_names()], load_variants(), "demo", RESULTS)
    for numbers in numbers_of(plan):
        for order in numbers.orders:
            column = numbers.suite.columns[order.column]
            lines = [line for line in numbers.chance if line.startswith(f"{column.label}: ")]
            at_chance = [any(f" {row} {cell.mean:.1f} (" in line for line in lines)
                         for row in (order.better, order.worse)
                         if (cell := numbers.cells.get((row, order.column))) is not None and cell.values]  # fmt: skip
            decided = order.verdict in ("agrees", "disagrees", "ahead", "behind")
            if order.interval is None or order.p is None:
                assert not decided
                continue
            assert decided == (order.p < LEVEL) == (not order.interval[0] <= 0 <= order.interval[1])
            assert not all(at_chance), (numbers.suite.name, order)
            assert order.seeds > 1


def test_figures_in_the_tree_are_of_suites_that_have_results() -> None:
    figures = sorted((RESULTS / "figures").iterdir())
    plan = expand([load_suite(path.stem) for path in figures], load_variants(), "demo", RESULTS)
    assert all(any(numbers.results.values()) for numbers in numbers_of(plan))
    assert sum(path.stat().st_size for path in figures) < 200_000
