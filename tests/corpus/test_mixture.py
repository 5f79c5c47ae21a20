"""The sample stream: exact, complete, and a function of the sample number alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign.corpus.mixture import BLOCK, Phase, apportion, window_of


@given(
    st.lists(st.integers(0, 9000), min_size=1, max_size=5).filter(lambda counts: sum(counts) > 0),
    st.integers(0, 2**63),
)
@settings(max_examples=60, deadline=None)
def test_a_phase_gives_each_source_its_samples_once(counts: list[int], key: int) -> None:
    consumed = tuple(range(0, 10 * len(counts), 10))
    phase = Phase(tuple(counts), consumed, key)
    source, number = phase.locate(np.arange(phase.samples))
    for index, count in enumerate(counts):
        assert sorted(number[source == index]) == list(range(consumed[index], consumed[index] + count))


def test_every_block_has_the_mixture_to_one_sample() -> None:
    counts = (970_000, 29_000, 999, 1)
    phase = Phase(counts, (0, 0, 0, 0), key=7)
    source, _ = phase.locate(np.arange(phase.samples))
    for first in range(0, phase.samples - BLOCK, BLOCK):
        got = np.bincount(source[first : first + BLOCK], minlength=4)
        share = np.array(counts) * BLOCK / phase.samples
        assert (np.abs(got[1:] - share[1:]) <= 1).all()
        assert abs(got[0] - share[0]) <= 3  # takes what the others' rounding leaves


def test_order_is_independent_of_the_batch() -> None:
    phase = Phase((5000, 300), (0, 0), key=1)
    samples = np.random.default_rng(0).permutation(phase.samples)[:500]
    together = phase.locate(samples)
    alone = [phase.locate(np.array([sample])) for sample in samples]
    assert [source.item() for source, _ in alone] == together[0].tolist()
    assert [number.item() for _, number in alone] == together[1].tolist()


def test_huge_and_tiny_shares() -> None:
    """Ten billion samples, one source with a single one: no overflow, no error, no index."""
    phase = Phase((10**10, 1, 10**7), (0, 0, 0), key=3)
    samples = np.array([0, 5 * 10**9, phase.samples - 1])
    source, number = phase.locate(samples)
    assert ((number >= 0) & (number < np.array(phase.counts)[source])).all()


def test_counts_before() -> None:
    phase = Phase((9000, 700), (0, 0), key=2)
    source, _ = phase.locate(np.arange(phase.samples))
    for sample in (0, 1, 4096, 5000, 9700):
        expected = np.bincount(source[:sample], minlength=2)
        assert phase.counts_before(sample) == expected.tolist()


def test_phases_follow_each_other() -> None:
    first = Phase((50, 7), (0, 0), key=1)
    second = Phase((20, 3), first.consumed_after, key=2)
    numbers = [[], []]
    for phase in (first, second):
        source, number = phase.locate(np.arange(phase.samples))
        for index in (0, 1):
            numbers[index] += number[source == index].tolist()
    assert [sorted(part) for part in numbers] == [list(range(70)), list(range(10))]


@pytest.mark.parametrize("windows", [1, 2, 3, 100, 1000])
def test_each_epoch_visits_every_window_once_in_its_own_order(windows: int) -> None:
    epoch, window = window_of(np.arange(3 * windows), windows, key=9)
    assert epoch.tolist() == [number // windows for number in range(3 * windows)]
    orders = window.reshape(3, windows)
    assert all(sorted(order) == list(range(windows)) for order in orders)
    if windows >= 100:
        assert not np.array_equal(orders[0], orders[1])


@given(st.integers(0, 10**6), st.lists(st.integers(0, 10**12), min_size=1, max_size=6))
def test_apportion_is_exact(total: int, weights: list[int]) -> None:
    shares = apportion(total, weights)
    if sum(weights) == 0:
        assert shares == [0] * len(weights)
        return
    assert sum(shares) == total
    assert all(abs(share - total * weight / sum(weights)) < 1.001 for share, weight in zip(shares, weights))
