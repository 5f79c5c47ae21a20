"""How often a training step reads a number of the device back, and so waits for all that was asked of it before.

Counted on the CPU: operations that a GPU would have to be waited for. What lies within the InfoNCE operator is not
seen; its Triton passes take a plan, in which everything of a size is known.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from prealign.config.stage import align_stage
from prealign.data.prepared import open_data
from prealign.training.clock import Clock
from prealign.training.step import take_step
from prealign.training.step_words import words_of
from prealign.training.words import word_batches
from tests.conftest import tiny_recipe
from tests.distributed.engines import MicroBatch, engine_of, world_of
from tests.processes import on_ranks

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
}


class Waits(TorchDispatchMode):
    """Counts them, by operation; an index that is a mask is one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options = options or {}
        masks = function is aten.index.Tensor and any(
            index is not None and index.dtype == torch.bool for index in arguments[1]
        )
        sizes = function is aten.repeat_interleave.Tensor and options.get("output_size") is None
        if function in WAITING or masks or sizes:
            self.seen[function.name()] += 1
        return function(*arguments, **options)


def waits(rank: int, ranks: int, data_dir: str, micro_batches: int, precision: str, stage: int) -> dict[str, int]:
    """Of the second step of an align stage, by operation."""
    world = world_of(rank, ranks)
    recipe = tiny_recipe(
        Path(data_dir),
        parallel={"precision": precision, "zero_stage": stage},
        batch={"global_batch_size": 2 * micro_batches * ranks, "micro_batch_size": 2},
    )
    chosen = align_stage(recipe, ranks)
    words = word_batches(chosen, open_data(recipe))
    engine = engine_of(chosen.recipe, world)
    ids = torch.randint(0, recipe.vocab_size, (2, recipe.model.context + 1))
    nothing = torch.zeros(2, dtype=torch.int64), torch.zeros(3)
    micro = [MicroBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), *nothing) for _ in range(micro_batches)]
    inputs = [words_of(words.batch(step), world, False).inputs for step in range(2)]
    take_step(engine, chosen.recipe, world, micro, inputs[0], Clock())
    with Waits() as counted:
        take_step(engine, chosen.recipe, world, micro, inputs[1], Clock())
    return dict(counted.seen)


@pytest.mark.parametrize(("stage", "count"), [(1, 2), (2, 4)])
def test_waits_do_not_grow_with_micro_batches(data_dir: Path, stage: int, count: int) -> None:
    """One is the loss, for the guard; the others DeepSpeed's, at the end of the step: is the gradient finite?"""
    few, many = (on_ranks(waits, 1, str(data_dir), number, "bf16", stage)[0] for number in (2, 8))
    assert few == many == {"aten::_local_scalar_dense": count}
