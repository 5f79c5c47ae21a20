"""The words of a stage's steps as the model takes them, drawn and planned a step ahead in a loading process."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from torch.utils.data import DataLoader, Dataset

from prealign.data.word_batches import WordBatch, WordBatches
from prealign.distributed.world import World
from prealign.objectives.inputs import WordInputs, word_inputs


@dataclass(frozen=True)
class StepWords:
    """``inputs``: this rank's words of one optimizer step, on the CPU. ``tokens``: of all ranks' words, by language.
    ``count``: words of all ranks."""

    inputs: WordInputs
    tokens: dict[str, int]
    count: int

    def pin_memory(self) -> "StepWords":
        """Used by the loader when it pins memory, so that copies to a device wait for nothing."""
        return StepWords(self.inputs.pin_memory(), self.tokens, self.count)


def words_of(batch: WordBatch, world: World, include_self: bool) -> StepWords:
    """This rank's share of a word batch, planned where the kernels take plans: on GPUs."""
    plans = world.device.type == "cuda"
    inputs = word_inputs(batch, world.replica_rank, world.replicas, include_self, plans=plans)
    return StepWords(inputs, batch.tokens_per_language(), len(batch))


class _StepWordsDataset(Dataset[StepWords]):
    """Number of a step -> its words."""

    def __init__(self, batches: WordBatches, world: World) -> None:
        self._batches = batches
        self._world = world

    def __getitem__(self, step: int) -> StepWords:
        return words_of(self._batches.batch(step), self._world, self._batches.config.include_self)


def step_words(
    batches: WordBatches,
    world: World,
    steps: Sequence[int],
    workers: int,
    on_worker_start: Callable[[int], None] | None = None,
) -> Generator[StepWords]:
    """Words of ``steps``, in order; ``workers`` 0: drawn when they are asked for, else in a process of their own (one:
    the drawing of a step is not divided)."""
    loader = DataLoader(
        _StepWordsDataset(batches, world),
        batch_size=None,
        sampler=steps,
        num_workers=min(workers, 1),
        pin_memory=world.device.type == "cuda",
        prefetch_factor=2 if workers else None,
        worker_init_fn=on_worker_start,
        multiprocessing_context="fork" if workers else None,  # the lexicon is shared, not copied
    )
    yield from loader
