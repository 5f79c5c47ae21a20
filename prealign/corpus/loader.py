"""Micro-batches of a training stage: the same samples in the same order for any number of ranks and workers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from prealign.corpus.mixture import Phase, window_of
from prealign.corpus.sequences import TokenStream
from prealign.hashing import mix

_LOCATED_TOGETHER = 2048


@dataclass(frozen=True)
class MicroBatch:
    """Sequences of one forward pass on one rank, sorted by language.

    ``inputs``, ``targets``: int64 ``[rows, context]``. ``rows_per_language``: int, in recipe order. ``words``: words
    that start in the rows: all, those with a translation, those replaced (int64 ``[3]``).
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    rows_per_language: tuple[int, ...]
    words: torch.Tensor

    def pin_memory(self) -> "MicroBatch":
        """Used by the loader when it pins memory."""
        return MicroBatch(
            self.inputs.pin_memory(), self.targets.pin_memory(), self.rows_per_language, self.words.pin_memory()
        )


class Located(NamedTuple):
    """Samples of a stage as the places where they are found: language, epoch and window, each int64 ``[n]``."""

    language: np.ndarray
    epoch: np.ndarray
    window: np.ndarray


class StageDataset(Dataset[MicroBatch]):
    """Item = the sample numbers of one micro-batch, or their places -> `MicroBatch`."""

    def __init__(self, streams: list[TokenStream], phase: Phase, seed: int) -> None:
        self.streams = streams
        self.phase = phase
        self.seed = seed
        self._windows = np.array([stream.windows for stream in streams], dtype=np.int64)

    def locate(self, samples: np.ndarray) -> Located:
        """Places of samples, given by their numbers in the stage."""
        language, number = self.phase.locate(samples)
        epoch, window = window_of(number, self._windows[language], mix(self.seed, language))
        return Located(language, epoch, window)

    def __getitem__(self, samples: np.ndarray | Located) -> MicroBatch:
        language, epoch, window = samples if isinstance(samples, Located) else self.locate(samples)
        order = np.argsort(language, kind="stable")
        epoch, window = epoch[order], window[order]
        rows = np.bincount(language, minlength=len(self.streams)).tolist()
        shape = (len(order), self.streams[0].context)
        inputs, targets = np.empty(shape, np.int64), np.empty(shape, np.int64)
        words = np.zeros(3, np.int64)
        begin = 0
        for stream, count in zip(self.streams, rows):
            if count:
                part = slice(begin, begin + count)
                words += stream.sequences(window[part], epoch[part], inputs[part], targets[part]).sum(axis=0)
                begin += count
        return MicroBatch(torch.from_numpy(inputs), torch.from_numpy(targets), tuple(rows), torch.from_numpy(words))


def micro_batches(
    dataset: StageDataset,
    *,
    global_batch_size: int,
    micro_batch_size: int,
    rank: int,
    ranks: int,
    first_step: int,
    steps: int,
    workers: int,
    pin_memory: bool,
) -> Iterator[list[MicroBatch]]:
    """Yield the micro-batches of one rank, step by step, from ``first_step`` to ``steps``.

    Step ``s`` consists of samples ``s * global_batch_size`` and following; rank ``r`` takes its ``r``-th contiguous
    share.
    """
    per_rank = global_batch_size // ranks
    share = _RankShare(dataset, global_batch_size, micro_batch_size, rank * per_rank, per_rank, first_step, steps)
    accumulation = per_rank // micro_batch_size
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=share,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=max(2, accumulation) if workers else None,
        multiprocessing_context="fork" if workers else None,  # memory maps are shared, not copied
    )
    stream = iter(loader)
    for _ in range(first_step, steps):
        yield [next(stream) for _ in range(accumulation)]


@dataclass(frozen=True)
class _RankShare(Sampler[Located]):
    """Places of the samples of each micro-batch of one rank, in order.

    They are found for many micro-batches at once, which costs a tenth of finding them for each.
    """

    dataset: StageDataset
    global_batch_size: int
    micro_batch_size: int
    offset: int
    per_rank: int
    first_step: int
    steps: int

    def __len__(self) -> int:
        return (self.steps - self.first_step) * (self.per_rank // self.micro_batch_size)

    def __iter__(self) -> Iterator[Located]:
        together = max(1, _LOCATED_TOGETHER // self.per_rank)
        for step in range(self.first_step, self.steps, together):
            steps = np.arange(step, min(step + together, self.steps))
            begins = steps * self.global_batch_size + self.offset
            located = self.dataset.locate((begins[:, None] + np.arange(self.per_rank)).reshape(-1))
            for first in range(0, len(located.window), self.micro_batch_size):
                yield Located(*(column[first : first + self.micro_batch_size] for column in located))
