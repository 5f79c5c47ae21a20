"""Which language and which window every sample of a run is, by arithmetic alone.

A run is a row of *phases* (one per training stage). A phase says how many samples each language gives; their order is
shuffled in blocks, and each language's windows are visited in a shuffled order that starts anew every epoch. Nothing
depends on ranks, workers or batch sizes, and there is no index to build: resuming at sample ``k`` is the number ``k``.
"""

from dataclasses import dataclass

import numpy as np

from prealign.hashing import mix, permute

BLOCK = 4096
"""Samples per shuffled block: the mixture is exact over every block, to one sample per language."""


@dataclass(frozen=True)
class Phase:
    """One stage's share of the sample stream.

    ``counts[s]``: samples of source ``s`` in this phase. ``consumed[s]``: samples of ``s`` in the phases before it.
    """

    counts: tuple[int, ...]
    consumed: tuple[int, ...]
    key: int
    """Seed of the order within the phase."""

    @property
    def samples(self) -> int:
        """Length of the phase."""
        return sum(self.counts)

    @property
    def consumed_after(self) -> tuple[int, ...]:
        """Samples per source up to the end of this phase."""
        return tuple(before + count for before, count in zip(self.consumed, self.counts))

    def locate(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map sample numbers of the phase (int64, ``[n]``) to ``(source, number of the sample within its source)``."""
        index = np.asarray(index, dtype=np.int64)
        block = index // BLOCK
        first = block * BLOCK
        size = np.minimum(BLOCK, self.samples - first)
        place = permute(index - first, size, mix(self.key, block))
        before = self._counts_before(first)
        inside = self._counts_before(np.minimum(first + BLOCK, self.samples)) - before
        upper = np.cumsum(inside, axis=1)
        source = (place[:, None] >= upper).sum(axis=1)
        rows = np.arange(len(index))
        number = before[rows, source] + place - (upper[rows, source] - inside[rows, source])
        return source, number + np.asarray(self.consumed, dtype=np.int64)[source]

    def counts_before(self, sample: int) -> dict[int, int]:
        """Samples of each source in the phase's whole blocks and, exactly, in its first ``sample`` samples."""
        source, _ = self.locate(np.arange(sample // BLOCK * BLOCK, sample))
        whole = self._counts_before(np.array([sample // BLOCK * BLOCK]))[0]
        return dict(enumerate((whole + np.bincount(source, minlength=len(self.counts))).tolist()))

    def _counts_before(self, sample: np.ndarray) -> np.ndarray:
        """Samples of each source among the first ``sample`` of the phase, ``[n, sources]``.

        Each source but the largest has the floor of its exact share; the largest takes the rest. (Python integers where
        a product could pass 2^63.)
        """
        total = self.samples
        largest = max(range(len(self.counts)), key=self.counts.__getitem__)
        columns = []
        for count in self.counts:
            if count * total < 2**63:
                columns.append(sample * count // total)
            else:
                columns.append(np.array([int(k) * count // total for k in sample], dtype=np.int64))
        result = np.stack(columns, axis=1)
        result[:, largest] = sample - (result.sum(axis=1) - result[:, largest])
        return result


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
