"""Micro-batches of a training stage: the same samples in the same order for any number of ranks and workers."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from prealign.data.mixture import Mixture, Phase, window_of
from prealign.data.sequences import TokenStream
from prealign.random_streams import mix

_LOCATED_TOGETHER = 2048
_READ_TOGETHER = 64
"""Rows; more of them at once would leave the processor's caches."""


@dataclass(frozen=True)
class MicroBatch:
    """Sequences of one forward pass on one rank, sorted by stream.

    ``inputs``, ``targets``: int64 ``[rows, context]``. ``sources``: the number of each row's stream, in the order of
    `Recipe.sources` (languages, then their extra texts), int64 ``[rows]``. ``words``: words that start in the rows:
    all, those with a translation, those replaced (int64 ``[3]``).
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    sources: torch.Tensor
    words: torch.Tensor

    def pin_memory(self) -> "MicroBatch":
        """Used by the loader when it pins memory."""
        return MicroBatch(
            self.inputs.pin_memory(), self.targets.pin_memory(), self.sources.pin_memory(), self.words.pin_memory()
        )


class Located(NamedTuple):
    """Samples of a stage as the places where they are found: number of the source (`Recipe.sources`), epoch and window,
    each int64 ``[n]``."""

    source: np.ndarray
    epoch: np.ndarray
    window: np.ndarray


class StageDataset(Dataset[list[MicroBatch]]):
    """Item = the places of a step's samples on one rank, in order -> its micro-batches."""

    def __init__(self, streams: list[TokenStream], mixture: Mixture | Phase, seed: int) -> None:
        self.streams = streams
        self.mixture = mixture
        self.seed = seed
        self._windows = np.array([stream.windows for stream in streams], dtype=np.int64)

    def locate(self, samples: np.ndarray) -> Located:
        """Places of samples, given by their numbers in the stage."""
        source, number = self.mixture.locate(samples)
        epoch, window = window_of(number, self._windows[source], mix(self.seed, source))
        return Located(source, epoch, window)

    def __getitem__(self, item: tuple[Located, int]) -> list[MicroBatch]:
        """Micro-batches of so many rows, from places of samples. All rows of a source are read together, which for
        rows of small micro-batches takes a tenth of the time of reading each by itself."""
        (source, epoch, window), micro_batch_size = item
        micro = np.arange(len(source)) // micro_batch_size
        order = np.lexsort((source, micro))  # stable: within a micro-batch by source, then by number
        source, epoch, window = source[order], epoch[order], window[order]
        shape = (len(order), self.streams[0].context)
        inputs, targets = np.empty(shape, np.int64), np.empty(shape, np.int64)
        words = np.zeros((len(order), 3), np.int64)
        for number, stream in enumerate(self.streams):
            rows = np.flatnonzero(source == number)
            for part in (rows[first : first + _READ_TOGETHER] for first in range(0, len(rows), _READ_TOGETHER)):
                into = slice(part[0], part[-1] + 1)
                if len(part) == into.stop - into.start:
                    words[into] = stream.sequences(window[part], epoch[part], inputs[into], targets[into])
                else:
                    parts = np.empty((len(part), shape[1]), np.int64), np.empty((len(part), shape[1]), np.int64)
                    words[part] = stream.sequences(window[part], epoch[part], *parts)
                    inputs[part], targets[part] = parts
        return [
            MicroBatch(
                torch.from_numpy(inputs[first : first + micro_batch_size]),
                torch.from_numpy(targets[first : first + micro_batch_size]),
                torch.from_numpy(source[first : first + micro_batch_size].astype(np.int64)),
                torch.from_numpy(words[first : first + micro_batch_size].sum(axis=0)),
            )
            for first in range(0, len(order), micro_batch_size)
        ]


def micro_batches(
    dataset: StageDataset,
    *,
    global_batch_size: int,
    micro_batch_size: int,
    dp_rank: int,
    dp_size: int,
    first_step: int,
    steps: int,
    workers: int,
    pin_memory: bool,
    on_worker_start: Callable[[int], None] | None = None,
) -> Generator[list[MicroBatch]]:
    """Yield the micro-batches of one data-parallel rank, step by step, from ``first_step`` to ``steps``.

    Step ``s`` consists of samples ``s * global_batch_size`` and following; rank ``r`` takes its ``r``-th contiguous
    share. ``on_worker_start`` gets the number of each loading process, in that process.
    """
    per_rank = global_batch_size // dp_size
    share = _RankShare(dataset, global_batch_size, micro_batch_size, dp_rank * per_rank, per_rank, first_step, steps)
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=share,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=2 if workers else None,
        worker_init_fn=on_worker_start,
        multiprocessing_context="fork" if workers else None,  # memory maps are shared, not copied
    )
    yield from loader


@dataclass(frozen=True)
class _RankShare(Sampler[tuple[Located, int]]):
    """Places of the samples of each step of one rank, in order, and the rows of a micro-batch.

    They are found for many steps at once, which costs a tenth of finding them for each micro-batch.
    """

    dataset: StageDataset
    global_batch_size: int
    micro_batch_size: int
    offset: int
    per_rank: int
    first_step: int
    steps: int

    def __len__(self) -> int:
        return self.steps - self.first_step

    def __iter__(self) -> Iterator[tuple[Located, int]]:
        together = max(1, _LOCATED_TOGETHER // self.per_rank)
        for step in range(self.first_step, self.steps, together):
            steps = np.arange(step, min(step + together, self.steps))
            begins = steps * self.global_batch_size + self.offset
            located = self.dataset.locate((begins[:, None] + np.arange(self.per_rank)).reshape(-1))
            for first in range(0, len(located.window), self.per_rank):
                yield Located(*(column[first : first + self.per_rank] for column in located)), self.micro_batch_size
