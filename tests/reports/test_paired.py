"""Estimates over seeds and items, and Holm's correction, against scipy and by brute force."""

import random

import numpy as np
import pytest
from scipy import stats

from prealign.reports.paired import drawn_variance, estimate, holm, said


@pytest.mark.parametrize("values", [[1.0, 2.0], [3.1, 2.9, 3.4], [0.1, -0.4, 0.2, 0.3, -0.1]])
def test_without_items_it_is_students_t(values: list[float]) -> None:
    found, expected = estimate(values), stats.ttest_1samp(values, 0.0)
    assert found.p == pytest.approx(expected.pvalue)
    for level in (0.05, 0.001):
        assert found.interval(level) == pytest.approx(expected.confidence_interval(1 - level))


def test_items_widen_the_interval_whatever_the_seeds_say() -> None:
    found = estimate([1.0, 1.0, 1.0], drawn=0.25)
    assert found.interval() == pytest.approx(stats.t.interval(0.95, 2, 1.0, 0.5))
    assert found.p == pytest.approx(2 * stats.t.sf(2.0, 2))
    assert estimate([0.0, 0.0]).p == 1.0


def test_one_value_is_none() -> None:
    with pytest.raises(ValueError, match="found 1 values; expected at least 2"):
        estimate([1.0])


def test_what_drawing_items_adds_is_their_binomial_variance() -> None:
    drawn = np.random.default_rng(1).binomial(400, 0.3, size=20_000) / 400
    assert drawn_variance(0.3, 400) == pytest.approx(drawn.var(), rel=0.03)
    assert 0 < drawn_variance(0.0, 100) < drawn_variance(0.05, 100)


def test_holm_by_brute_force() -> None:
    """Closed testing with Bonferroni: a comparison differs where every set with it has a p-value below level / size."""
    chance = random.Random(3)
    for _ in range(300):
        p_values = [chance.choice((0.001, 0.004, 0.01, 0.012, 0.02, 0.04, 0.3)) for _ in range(chance.randint(1, 6))]
        sets = [[i for i in range(len(p_values)) if mask >> i & 1] for mask in range(1, 1 << len(p_values))]
        for number, tested in enumerate(holm(p_values)):
            smallest = [len(of) * min(p_values[i] for i in of) for of in sets if number in of]
            assert tested.p == pytest.approx(min(1.0, max(smallest)))
            assert tested.differs == (tested.p < 0.05)
            assert tested.differs == (p_values[number] < tested.level)
    assert holm([]) == []


def test_in_words() -> None:
    assert [said(p) for p in (0.0001, 0.0123, 1.0)] == ["p < 0.001", "p = 0.012", "p = 1"]
