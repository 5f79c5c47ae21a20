"""The sample stream: exact, complete, and a function of the sample number alone."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign.data.mixture import BLOCK, Mixture, Phase, apportion, window_of
from prealign.random_streams import mix, permute


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


def literal(phase: Phase) -> list[tuple[int, int]]:
    """(source, number) of every sample of a phase, written down block by block by exact fractions."""
    total, sources = sum(phase.counts), range(len(phase.counts))
    largest = max(sources, key=lambda source: phase.counts[source])
    offsets = phase.offsets or (0,) * len(phase.counts)

    def before(sample: int) -> list[int]:
        counts = [math.floor(Fraction(sample * phase.counts[s] + offsets[s], total)) for s in sources]
        counts[largest] += sample - sum(counts)
        return counts

    borders = [*range(0, total, BLOCK), total]
    if len(borders) > 2 and before(borders[-2])[largest] > phase.counts[largest]:
        borders.pop(-2)
    result: list[tuple[int, int]] = []
    for block, (first, end) in enumerate(pairwise(borders)):
        done, upto = before(first), before(end)
        cards = [(s, phase.consumed[s] + number) for s in sources for number in range(done[s], upto[s])]
        assert len(cards) == end - first
        order = permute(np.arange(end - first), end - first, mix(phase.key, block))
        result += [cards[place] for place in order]
    return result


counts_of_a_phase = st.one_of(
    st.lists(st.integers(0, 5000), min_size=1, max_size=5),
    st.tuples(st.integers(4080, 4100), st.lists(st.integers(0, 2), max_size=8)).map(lambda pair: [pair[0], *pair[1]]),
    st.lists(st.integers(120, 140), min_size=60, max_size=64),
).filter(lambda counts: sum(counts) > 0)


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    """Up to three phases over the same sources, some of them with offsets."""
    counts = draw(counts_of_a_phase)
    phases = []
    consumed = tuple(range(len(counts)))
    for key in range(draw(st.integers(1, 3))):
        shuffled = tuple(draw(st.permutations(counts)))
        offset = st.integers(0, sum(counts) - 1)
        offsets = draw(st.one_of(st.just(()), st.tuples(*(offset for _ in counts))))
        phases.append(Phase(shuffled, consumed, key, offsets))
        consumed = phases[-1].consumed_after
    return Mixture(tuple(phases))


@pytest.mark.long
@given(mixtures(), st.data())
@settings(max_examples=80, deadline=None)
def test_the_stream_is_the_literal_one(mixture: Mixture, data: st.DataObject) -> None:
    source, number = mixture.locate(np.arange(mixture.samples))
    expected = [sample for phase in mixture.phases for sample in literal(phase)]
    assert list(zip(source.tolist(), number.tolist())) == expected
    assert np.bincount(source, minlength=len(mixture.counts)).tolist() == list(mixture.counts)
    for index in range(len(mixture.counts)):
        first = mixture.phases[0].consumed[index]
        assert sorted(number[source == index]) == list(range(first, first + mixture.counts[index]))
    for sample in data.draw(st.lists(st.integers(0, mixture.samples), max_size=4)):
        assert mixture.counts_before(sample) == np.bincount(source[:sample], minlength=len(mixture.counts)).tolist()


def test_small_sources_before_a_short_last_block() -> None:
    """A last block of one sample, and three sources whose only sample rounding would put into it."""
    phase = Phase((4094, 1, 1, 1), (0, 0, 0, 0), key=3)
    source, number = phase.locate(np.arange(4097))
    assert np.bincount(source).tolist() == [4094, 1, 1, 1]
    assert number[source == 0].max() == 4093


@pytest.mark.long
def test_offsets_spread_single_samples() -> None:
    """A source with one sample in the phase is found early in some phases and late in others."""
    first = []
    for key in range(40):
        offset = int(mix(key) % np.uint64(100_001))
        source, _ = Phase((100_000, 1), (0, 0), key, (0, offset)).locate(np.arange(100_001))
        first.append(int(np.flatnonzero(source == 1)[0]))
    assert min(first) < 20_000
    assert max(first) > 80_000


def test_too_many_sources() -> None:
    with pytest.raises(ValueError, match="more than 64 sources"):
        Phase((1,) * 65, (0,) * 65, 0)


def test_ten_billion_samples_in_phases() -> None:
    """Any sample is found at once, wherever it is."""
    tiny = Phase((10**10, 1, 0), (0, 0, 0), 1, (0, 7, 0))
    mixture = Mixture((tiny, Phase((1, 10**10, 64), tiny.consumed_after, 2)))
    samples = np.array([0, 5 * 10**9, 10**10, 10**10 + 1, mixture.samples - 1])
    source, number = mixture.locate(samples)
    assert ((number >= 0) & (number < np.array(mixture.counts)[source])).all()
    assert mixture.counts_before(mixture.samples) == [10**10 + 1, 10**10 + 1, 64]


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
