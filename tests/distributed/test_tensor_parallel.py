"""Weights split over tensor ranks: what each holds, equal losses, and checkpoints that pass between sizes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prealign.distributed.tensor_parallel import Shard
from prealign.distributed.weights import Weights, save_weights
from prealign.distributed.world import dp_size
from prealign.errors import UserError
from tests.conftest import tiny_recipe
from tests.distributed.engines import Layout, checkpoints_of, engine_of, recipe_of, train, world_of
from tests.processes import on_ranks

QKV, UP, OUT = "gpt.blocks.0.attention.qkv.weight", "gpt.blocks.0.mlp.up.bias", "gpt.blocks.3.attention.out.weight"
KV = "gpt.blocks.1.attention.kv.weight"


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_shard_is_what_splitting_the_matrix_gives(ranks: int) -> None:
    qkv, up, out = torch.arange(24 * 5).view(24, 5), torch.arange(8), torch.arange(7 * 12).view(7, 12)
    kv = torch.arange(16 * 3).view(16, 3)
    for rank in range(ranks):
        parts = [part.chunk(ranks)[rank] for part in qkv.chunk(3)]
        for name, whole, part in [
            (QKV, qkv, torch.cat(parts)),
            (KV, kv, torch.cat([part.chunk(ranks)[rank] for part in kv.chunk(2)])),
            (UP, up, up.chunk(ranks)[rank]),
            (OUT, out, out.chunk(ranks, dim=1)[rank]),
        ]:
            shard = Shard.of(name, part.shape[0], rank, ranks)
            places = torch.arange(part.numel())
            assert torch.equal(shard.to_whole(places, whole.numel()), part.flatten())
            assert shard.whole_shape(name, part.shape) == list(whole.shape)
            back, held = shard.from_whole(part.flatten(), whole.numel())
            assert torch.equal(back, places)
            assert held.all()
            assert int(shard.from_whole(whole.flatten(), whole.numel())[1].sum()) == part.numel()


@pytest.mark.parametrize("name", ["gpt.blocks.0.attention.out.bias", "gpt.norm.weight", "head.weight"])
def test_the_rest_is_replicated(name: str) -> None:
    assert Shard.of(name, 8, 1, 2) == Shard()


def pass_on(
    rank: int, ranks: int, base: str, layout: Layout, first: int, last: int
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Go on from step ``first``, written by any layout, save step ``last``, and return its losses and weights."""
    world, recipe = world_of(rank, ranks, layout.tp_size), recipe_of(layout)
    checkpoints = checkpoints_of(Path(base), recipe, world)
    engine = engine_of(recipe, world)
    found = checkpoints.find()
    assert (found is not None) == (first > 0)
    if found is not None:
        checkpoints.load(engine, found)
    losses = train(engine, recipe, world, first, last)
    checkpoints.save(engine, last, {})
    save_weights(engine, world, Path(base) / "weights", {})
    shapes = {name: torch.Size(shape) for name, shape in checkpoints.find().manifest["parameters"].items()}
    read = Weights(Path(base) / "weights").value
    return losses, {name: read(name, shape).numpy() for name, shape in shapes.items()}


LLAMA = Layout(1, hidden_size=16, heads=4, llama=True)
COURSES = [
    [(1, Layout(1)), (2, Layout(1, tp_size=2)), (1, Layout(1))],
    [(4, Layout(2, tp_size=2)), (2, Layout(0, tp_size=2)), (2, Layout(3, tp_size=2)), (2, Layout(2))],
    [(2, replace(LLAMA, tp_size=2)), (1, LLAMA), (4, replace(LLAMA, stage=3, tp_size=2))],
]


@pytest.mark.parametrize(
    "course",
    [COURSES[0], pytest.param(COURSES[1], marks=pytest.mark.slow), pytest.param(COURSES[2], marks=pytest.mark.slow)],
    ids=["tensor 1-2-1", "and ZeRO and data", "Llama"],
)
def test_checkpoints_pass_between_tensor_sizes(tmp_path: Path, course: list[tuple[int, Layout]]) -> None:
    steps = 2 * len(course)
    expected, weights = on_ranks(
        pass_on, 1, str(tmp_path / "undisturbed"), replace(course[0][1], stage=1, tp_size=1), 0, steps
    )[0]
    losses = []
    for number, (ranks, layout) in enumerate(course):
        part, found = on_ranks(pass_on, ranks, str(tmp_path / "course"), layout, 2 * number, 2 * number + 2)[0]
        losses += part
    assert losses == pytest.approx(expected, rel=1e-6)
    for name, value in weights.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_sizes_that_do_not_divide(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tensor_parallel_size=4, sequence_parallel_size=1 and model.heads=2"):
        tiny_recipe(tmp_path, parallel={"tensor_parallel_size": 4})
    with pytest.raises(UserError, match="sequence_parallel_size=1 on 3 ranks"):
        dp_size(3, 2, 1)
