"""Bytes of weights, gradients and optimizer state are those of real engines' tensors."""

from collections.abc import Iterable
from itertools import product

import pytest
import torch

from prealign.config.stage import pretrain_stage
from prealign.objectives.inputs import ModelInputs, text_inputs
from prealign.planning.layout import Layout, Workload
from prealign.planning.states import states
from tests.distributed import engines
from tests.distributed.engines import engine_of, recipe_of, train, world_of
from tests.processes import on_ranks


def storage_bytes(tensors: Iterable[torch.Tensor | None]) -> int:
    """Bytes of the tensors' storages, each counted once."""
    storages = [tensor.untyped_storage() for tensor in tensors if tensor is not None]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages if storage.nbytes()}.values())


def weights_of(engine: engines.Any) -> list[torch.Tensor]:
    """ZeRO-3's parameters have a share of their own, and while they are gathered data as well."""
    parameters = list(engine.module.parameters())
    return [part for p in parameters for part in (p.data, getattr(p, "ds_tensor", None)) if part is not None]


def gradients_of(engine: engines.Any) -> list[torch.Tensor | None]:
    optimizer, found = engine.optimizer, [p.grad for p in engine.module.parameters()]
    for held in getattr(optimizer, "all_grad_tensors", {}).values():
        found += held or []
    for held in getattr(optimizer, "averaged_gradients", {}).values():
        found += list(held) if held is not None else []
    found += getattr(optimizer, "fp32_groups_gradients_flat", [])  # BF16_Optimizer
    return [*found, getattr(optimizer, "grad_partitions_flat_buffer", None)]


def optimizer_of(engine: engines.Any) -> list[torch.Tensor]:
    """Masters where they are not the weights, and their moments."""
    weights = {part.untyped_storage().data_ptr() for part in weights_of(engine)}
    masters = list(engine.basic_optimizer.state)
    moments = [v for state in engine.basic_optimizer.state.values() for v in state.values() if torch.is_tensor(v)]
    apart = [master for master in masters if master.untyped_storage().data_ptr() not in weights]
    return [tensor for tensor in (*apart, *moments) if tensor.dim() > 0]


def measured(rank: int, ranks: int, layout: engines.Layout, narrow: bool) -> tuple[int, int, int]:
    """After a step, and the first of the next one's micro-batches."""
    world, recipe = world_of(rank, ranks, layout.tp_size), recipe_of(layout)
    if narrow:
        recipe = recipe.model_copy(update={"deepspeed": NARROW})
    engine = engine_of(recipe, world)
    train(engine, recipe, world, 0, 1)
    assert recipe.accumulation(world.dp_size) > 1
    ids = torch.randint(0, recipe.vocab_size, (1, recipe.model.context + 1))
    batch = engines.MicroBatch(ids[:, :-1], ids[:, 1:], torch.zeros(1, dtype=torch.int64), torch.zeros(3))
    text = text_inputs(batch, world.device, None)
    engine.backward(engine(ModelInputs(text, None, torch.tensor(8), 8))["loss"])
    return tuple(storage_bytes(find(engine)) for find in (weights_of, gradients_of, optimizer_of))


NARROW = {"data_types": {"grad_accum_dtype": "bf16"}}


def expected(rank: int, ranks: int, layout: engines.Layout, narrow: bool) -> tuple[int, int, int]:
    recipe = recipe_of(layout)
    if narrow:
        recipe = recipe.model_copy(update={"deepspeed": NARROW})
    stage = pretrain_stage(recipe)
    found = states(Workload.of(stage), Layout.of(stage), ranks, rank // layout.tp_size)
    return found.weights, found.gradients, found.optimizer


def check(stage: int, precision: str, ranks: int, tensor_size: int, narrow: bool = False, kv_heads: int = 0) -> None:
    """``kv_heads``: of a Llama; 0: a GPT-2."""
    shape = {"hidden_size": 16, "heads": 4, "llama": True, "kv_heads": kv_heads} if kv_heads else {}
    layout = engines.Layout(stage, precision, tp_size=tensor_size, **shape)
    found = on_ranks(measured, ranks, layout, narrow)
    assert found == [expected(rank, ranks, layout, narrow) for rank in range(ranks)]


QUICK = [(1, "bf16", 2, 1), (3, "bf16", 2, 1), (2, "bf16", 2, 2)]
ALL = [
    (stage, precision, ranks, tensor_size)
    for stage, precision, ranks, tensor_size in product(range(4), ("bf16", "fp32"), (1, 2, 4), (1, 2))
    if ranks % tensor_size == 0
]


@pytest.mark.parametrize(("stage", "precision", "ranks", "tensor_size"), QUICK)
def test_bytes_are_those_of_an_engine(stage: int, precision: str, ranks: int, tensor_size: int) -> None:
    check(stage, precision, ranks, tensor_size)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "precision", "ranks", "tensor_size"), [case for case in ALL if case not in QUICK], ids=str
)
def test_bytes_in_every_layout(stage: int, precision: str, ranks: int, tensor_size: int) -> None:
    check(stage, precision, ranks, tensor_size)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "ranks"), [(1, 2), (2, 2), (3, 2), (1, 1)])
def test_bytes_with_gradients_in_bf16(stage: int, ranks: int) -> None:
    check(stage, "bf16", ranks, 1, narrow=True)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "tensor_size", "kv_heads"), [(1, 1, 2), (3, 1, 2), (1, 2, 2), (1, 2, 1), (3, 2, 1)])
def test_bytes_of_llama(stage: int, tensor_size: int, kv_heads: int) -> None:
    check(stage, "bf16", 2, tensor_size, kv_heads=kv_heads)
