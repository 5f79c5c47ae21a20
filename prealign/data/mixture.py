"""Which language and which window every sample of a run is, by arithmetic alone.

A run draws on *sources*: the text of every language, and extra texts that a recipe adds. A stage's sample stream is a
`Mixture`, a row of *phases*. A phase says how many samples each source gives; their order is shuffled in blocks, and
each source's windows are visited in a shuffled order that starts anew every epoch. Nothing depends on ranks, workers or
batch sizes, and there is no index to build: resuming at sample ``k`` is the number ``k``.

Samples are shuffled within a block. Where an epoch of a source ends in the middle of a block, the block holds its last
windows and the first ones of the next epoch, in mixed order.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prealign.random_streams import mix, permute

BLOCK = 4096
"""Samples per shuffled block: the mixture is exact over every block, to one sample per source."""

MOST_SOURCES = 64
"""Sources of one phase: with more, rounding could ask a block for more samples than it has (`Phase._counts_before`)."""


@dataclass(frozen=True)
class Phase:
    """A stretch of the sample stream in which the shares of the sources do not change.

    ``counts[s]``: samples of source ``s`` in this phase; at most `MOST_SOURCES` are not zero. ``consumed[s]``: samples
    of ``s`` in the phases before it.
    """

    counts: tuple[int, ...]
    consumed: tuple[int, ...]
    key: int
    """Seed of the order within the phase."""
    offsets: tuple[int, ...] = ()
    """For each source a number from 0 to ``samples - 1``; the larger, the earlier its samples come. ``()``: 0 for all.
    Block borders take the floor of a source's share, so with 0 a source that has one sample gives it in the last
    block."""

    def __post_init__(self) -> None:
        if sum(count > 0 for count in self.counts) > MOST_SOURCES:
            raise ValueError(f"Phase: found more than {MOST_SOURCES} sources with samples")

    @cached_property
    def samples(self) -> int:
        """Length of the phase."""
        return sum(self.counts)

    @cached_property
    def _blocks(self) -> int:
        """Blocks of `BLOCK` samples; the last has what is left, or more: where rounding leaves more samples of the
        small sources to a short last block than it holds, it is one with the block before."""
        blocks = max(1, -(-self.samples // BLOCK))
        if blocks > 1:
            before = self._counts_before(np.array([(blocks - 1) * BLOCK]))[0]
            if (before > np.array(self.counts)).any():
                return blocks - 1
        return blocks

    def _block_of(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Block of each sample, its first sample, and one past its last."""
        block = np.minimum(index // BLOCK, self._blocks - 1)
        first = block * BLOCK
        return block, first, np.where(block == self._blocks - 1, self.samples, first + BLOCK)

    @property
    def consumed_after(self) -> tuple[int, ...]:
        """Samples per source up to the end of this phase."""
        return tuple(before + count for before, count in zip(self.consumed, self.counts))

    def locate(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map sample numbers of the phase (int64, ``[n]``) to ``(source, number of the sample within its source)``."""
        index = np.asarray(index, dtype=np.int64)
        block, first, end = self._block_of(index)
        place = permute(index - first, end - first, mix(self.key, block))
        before = self._counts_before(first)
        inside = self._counts_before(end) - before
        upper = np.cumsum(inside, axis=1)
        source = (place[:, None] >= upper).sum(axis=1)
        rows = np.arange(len(index))
        number = before[rows, source] + place - (upper[rows, source] - inside[rows, source])
        return source, number + np.asarray(self.consumed, dtype=np.int64)[source]

    def counts_before(self, sample: int) -> list[int]:
        """Samples of each source among the phase's first ``sample``."""
        _, first, _ = self._block_of(np.array([sample]))
        source, _ = self.locate(np.arange(first[0], sample))
        whole = self._counts_before(first)[0]
        return (whole + np.bincount(source, minlength=len(self.counts))).tolist()

    def _counts_before(self, sample: np.ndarray) -> np.ndarray:
        """Samples of each source among the first ``sample`` of the phase (block borders), ``[n, sources]``.

        Each source but the largest has the floor of its exact share (plus its offset); the largest takes the rest.
        Python integers where a product could pass 2^63.

        With ``S`` sources the others grow by less than their exact share plus ``S - 1`` over a block, and the largest
        has at least 1/S of it: ``4096 / S > S - 1`` keeps its growth positive for ``S <= 64``.
        """
        total = self.samples
        largest = max(range(len(self.counts)), key=self.counts.__getitem__)
        columns = []
        for count, offset in zip(self.counts, self.offsets or (0,) * len(self.counts)):
            if (count + 1) * total < 2**63:
                columns.append((sample * count + offset) // total)
            else:
                columns.append(np.array([(int(k) * count + offset) // total for k in sample], dtype=np.int64))
        result = np.stack(columns, axis=1)
        result[:, largest] = sample - (result.sum(axis=1) - result[:, largest])
        return result


@dataclass(frozen=True)
class Mixture:
    """The sample stream of a stage: phases one after another, each ``consumed`` going on where the last one ended."""

    phases: tuple[Phase, ...]

    @cached_property
    def first_samples(self) -> np.ndarray:
        """Number of each phase's first sample, and the number of samples: int64 ``[phases + 1]``."""
        return np.cumsum([0, *(phase.samples for phase in self.phases)], dtype=np.int64)

    @property
    def samples(self) -> int:
        """Length of the stream."""
        return int(self.first_samples[-1])

    @property
    def counts(self) -> tuple[int, ...]:
        """Samples of each source in the whole stage."""
        return tuple(sum(column) for column in zip(*(phase.counts for phase in self.phases)))

    def locate(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map sample numbers of the stage (int64, ``[n]``) to ``(source, number of the sample within its source)``."""
        index = np.asarray(index, dtype=np.int64)
        if len(self.phases) == 1:
            return self.phases[0].locate(index)
        phase_of = np.searchsorted(self.first_samples, index, side="right") - 1
        source, number = np.empty_like(index), np.empty_like(index)
        for phase in np.unique(phase_of):
            here = phase_of == phase
            source[here], number[here] = self.phases[phase].locate(index[here] - self.first_samples[phase])
        return source, number

    def counts_before(self, sample: int) -> list[int]:
        """Samples of each source among the stage's first ``sample``."""
        last = min(int(np.searchsorted(self.first_samples, sample, side="right")) - 1, len(self.phases) - 1)
        counts = np.array(self.phases[last].counts_before(sample - int(self.first_samples[last])))
        for phase in self.phases[:last]:
            counts += phase.counts
        return counts.tolist()


def window_of(number: np.ndarray, windows: int | np.ndarray, key: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(epoch, window) of the ``number``-th sample of a source that has ``windows`` windows; shuffled anew every
    epoch."""
    epoch = number // windows
    return epoch, permute(number % windows, windows, mix(key, epoch))


def apportion(total: int, weights: list[int]) -> list[int]:
    """Split ``total`` in proportion to integer weights, exactly: floors, then one more to the largest remainders."""
    whole = sum(weights)
    if whole == 0:
        return [0] * len(weights)
    shares = [total * weight // whole for weight in weights]
    remainders = [total * weight % whole for weight in weights]
    for index in sorted(range(len(weights)), key=lambda i: -remainders[i])[: total - sum(shares)]:
        shares[index] += 1
    return shares
