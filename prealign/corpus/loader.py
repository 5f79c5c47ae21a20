"""Micro-batches of a training stage: the same samples in the same order for any number of ranks and workers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from prealign.corpus.mixture import Phase, window_of
from prealign.corpus.sequences import TokenStream
from prealign.hashing import mix


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


class StageDataset(Dataset[MicroBatch]):
    """Item = the sample numbers of one micro-batch -> `MicroBatch`."""

    def __init__(self, streams: list[TokenStream], phase: Phase, seed: int) -> None:
        self.streams = streams
        self.phase = phase
        self.seed = seed

    def locate(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sample numbers of the stage -> (language, epoch, window), each ``[n]``."""
        language, number = self.phase.locate(samples)
        windows = np.array([stream.windows for stream in self.streams], dtype=np.int64)[language]
        epoch, window = window_of(number, windows, mix(self.seed, language))
        return language, epoch, window

    def __getitem__(self, samples: np.ndarray) -> MicroBatch:
        language, epoch, window = self.locate(samples)
        order = np.argsort(language, kind="stable")
        rows = [self.streams[language[i]].sequence(int(window[i]), int(epoch[i])) for i in order]
        counts = [(row.counts.words, row.counts.eligible, row.counts.switched) for row in rows]
        return MicroBatch(
            torch.from_numpy(np.stack([row.inputs for row in rows])),
            torch.from_numpy(np.stack([row.targets for row in rows])),
            tuple(np.bincount(language, minlength=len(self.streams)).tolist()),
            torch.tensor(counts, dtype=torch.int64).sum(dim=0),
        )


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
    on_worker_start: Callable[[int], None] | None = None,
) -> Iterator[list[MicroBatch]]:
    """Yield the micro-batches of one rank, step by step, from ``first_step`` to ``steps``.

    Step ``s`` consists of samples ``s * global_batch_size`` and following; rank ``r`` takes its ``r``-th contiguous
    share. ``on_worker_start`` gets the number of each loading process, in that process.
    """
    per_rank = global_batch_size // ranks
    share = _RankShare(global_batch_size, micro_batch_size, rank * per_rank, per_rank, first_step, steps)
    accumulation = per_rank // micro_batch_size
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=share,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=max(2, accumulation) if workers else None,
        worker_init_fn=on_worker_start,
        multiprocessing_context="fork" if workers else None,  # memory maps are shared, not copied
    )
    stream = iter(loader)
    for _ in range(first_step, steps):
        yield [next(stream) for _ in range(accumulation)]


@dataclass(frozen=True)
class _RankShare(Sampler[np.ndarray]):
    """Sample numbers of each micro-batch of one rank, in order."""

    global_batch_size: int
    micro_batch_size: int
    offset: int
    per_rank: int
    first_step: int
    steps: int

    def __len__(self) -> int:
        return (self.steps - self.first_step) * (self.per_rank // self.micro_batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        for step in range(self.first_step, self.steps):
            begin = step * self.global_batch_size + self.offset
            for first in range(begin, begin + self.per_rank, self.micro_batch_size):
                yield np.arange(first, first + self.micro_batch_size)
