"""Gradients of bf16 add up in fp32: over many micro-batches, and over ranks, they are as good as those of one batch."""

from typing import Any

import numpy as np
import pytest
import torch
from deepspeed.utils import safe_get_full_grad

from prealign.objectives.inputs import ModelInputs, text_inputs
from tests.distributed.engines import Layout, MicroBatch, engine_of, recipe_of, world_of
from tests.processes import on_ranks

ROWS = 128
NARROW = {"data_types": {"grad_accum_dtype": "bf16"}, "communication_data_type": "bf16"}
"""DeepSpeed's own choice."""


def gradient(rank: int, ranks: int, layouts: list[tuple[Layout, int, dict[str, Any]]]) -> list[np.ndarray]:
    """For each layout, rows of a micro-batch and section of DeepSpeed's: the gradient of 128 rows of text, before the
    optimizer's step, all parameters in a row."""
    found = []
    world = world_of(rank, ranks)
    for layout, micro_batch_size, section in layouts:
        recipe = recipe_of(layout)
        batch = recipe.batch.model_copy(update={"global_batch_size": ROWS, "micro_batch_size": micro_batch_size})
        recipe = recipe.model_copy(update={"batch": batch, "deepspeed": section})
        engine = engine_of(recipe, world)
        assert engine.communication_data_type == (torch.bfloat16 if section else torch.float32)
        context = recipe.model.context
        rows = torch.randint(0, recipe.vocab_size, (ROWS, context + 1), generator=torch.Generator().manual_seed(5))
        micro = rows.chunk(ranks)[rank].split(micro_batch_size)
        for number, part in enumerate(micro):
            sources = torch.zeros(len(part), dtype=torch.int64)
            batch_of = MicroBatch(part[:, :-1].contiguous(), part[:, 1:].contiguous(), sources, torch.zeros(3))
            text = text_inputs(batch_of, world.device, None)
            inputs = ModelInputs(text, None, torch.tensor(ROWS * context), len(micro) * ranks)
            engine.backward(engine(inputs)["loss"])
            if number + 1 < len(micro):
                engine.step()
        gradients = [safe_get_full_grad(parameter) for parameter in engine.module.parameters()]
        found.append(np.concatenate([each.float().numpy().ravel() for each in gradients]))
    return found


def bf16(stage: int) -> Layout:
    return Layout(stage, "bf16", context=8, hidden_size=32)


@pytest.fixture(scope="module")
def exact() -> np.ndarray:
    return on_ranks(gradient, 1, [(Layout(1, "fp32", context=8, hidden_size=32), ROWS, {})])[0][0]


def errors(found: list[np.ndarray], exact: np.ndarray) -> list[float]:
    return [float(np.linalg.norm(each - exact) / np.linalg.norm(exact)) for each in found]


def test_128_micro_batches_are_as_good_as_one(exact: np.ndarray) -> None:
    one = (bf16(1), ROWS, {})
    many = [(bf16(stage), 1, {}) for stage in (1, 2, 3)]
    narrow = [(bf16(stage), 1, NARROW) for stage in (1, 2, 3)]
    of_one, *rest = errors(on_ranks(gradient, 1, [one, *many, *narrow])[0], exact)
    assert of_one < 1e-2
    assert all(error < 1.1 * of_one for error in rest[:3]), (of_one, rest)
    assert all(error > 2 * of_one for error in rest[3:]), (of_one, rest)


def test_ranks_add_up_in_fp32(exact: np.ndarray) -> None:
    one = errors(on_ranks(gradient, 1, [(bf16(1), ROWS, {})])[0], exact)[0]
    each = ROWS // 4
    layouts = [(bf16(stage), each, {}) for stage in (0, 1, 2, 3)] + [(bf16(stage), 1, {}) for stage in (1, 2, 3)]
    found = errors(on_ranks(gradient, 4, layouts)[0], exact)
    assert all(error < 1.1 * one for error in found), (one, found)
