"""Rows split over ranks: the same losses and weights as whole rows, with and without documents in them."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prealign.distributed.weights import Weights, save_weights
from prealign.errors import UserError
from prealign.model.attention import _dense, attend_by_group, attend_by_run
from prealign.model.layout import Dense, Group
from prealign.model.layout import Layout as Rows
from tests.conftest import tiny_recipe
from tests.distributed.engines import Layout, engine_of, recipe_of, train, world_of
from tests.processes import on_ranks

STEPS = 4


def trained(rank: int, ranks: int, folder: str, layout: Layout) -> tuple[list[float], dict[str, np.ndarray]]:
    world, recipe = world_of(rank, ranks, layout.tp_size, layout.sp_size), recipe_of(layout)
    engine = engine_of(recipe, world)
    losses = train(engine, recipe, world, 0, STEPS)
    save_weights(engine, world, Path(folder), {})
    read = Weights(Path(folder)).value
    first = "gpt.blocks.0.attention."
    size = layout.hidden_size
    attention = {f"{first}kv.weight": (size, size)} if layout.llama else {f"{first}qkv.weight": (3 * size, size)}
    shapes = {"head.weight": (1200, size)} | attention
    return losses, {name: read(name, torch.Size(shape)).numpy() for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("ranks", "stage", "tensor", "sequence", "reset"),
    [
        (2, 0, 1, 2, True),
        pytest.param(2, 0, 1, 2, False, marks=pytest.mark.slow),
        pytest.param(4, 2, 1, 2, True, marks=pytest.mark.slow),
        pytest.param(4, 1, 1, 4, False, marks=pytest.mark.slow),
        pytest.param(4, 3, 1, 2, False, marks=pytest.mark.slow),
        pytest.param(4, 1, 2, 2, True, marks=pytest.mark.slow),
    ],
)
def test_losses_and_weights_are_those_of_whole_rows(
    tmp_path: Path, ranks: int, stage: int, tensor: int, sequence: int, reset: bool
) -> None:
    whole = Layout(0, hidden_size=20, heads=4, context=8, reset_at_document=reset)
    check_equal(tmp_path, whole, replace(whole, stage=stage, tp_size=tensor, sp_size=sequence), ranks)


def test_fewer_heads_of_keys_and_values_than_ranks(tmp_path: Path) -> None:
    whole = Layout(0, hidden_size=16, heads=4, context=8, llama=True)
    check_equal(tmp_path, whole, replace(whole, stage=1, sp_size=4), 4)


def check_equal(folder: Path, whole: Layout, split: Layout, ranks: int) -> None:
    """Losses and weights of a rank alone and of ``ranks``."""
    expected, weights = on_ranks(trained, 1, str(folder / "whole"), whole)[0]
    losses, found = on_ranks(trained, ranks, str(folder / "parts"), split)[0]
    assert losses == pytest.approx(expected, rel=1e-6)
    for name, value in weights.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


class Doubled:
    """An exchange without other ranks: the part of the second rank is that of the first."""

    rank, ranks = 0, 2

    def __call__(self, attend: Dense, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attend(*(torch.cat((part, part), dim=1) for part in (q, k, v)))[:, : q.shape[1]]


@pytest.mark.parametrize("documents", [None, torch.tensor([[0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 0, 0]])])
def test_kernels_for_packed_rows_see_whole_rows(documents: torch.Tensor | None) -> None:
    """Rows of two ranks beside words, through kernels for runs as through those for groups."""
    layout = Rows((Group(2, 3, documents, Doubled()), Group(2, 1), Group(3, 2)))
    q, k, v = torch.randn(3, 14, 2, 8)

    def packed(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: torch.Tensor, longest: int
    ) -> torch.Tensor:
        bounds = boundaries.tolist()
        assert bounds[-1] == len(q)
        assert longest >= max(end - begin for begin, end in itertools.pairwise(bounds))
        rows = [_dense(*(x[None, a:b] for x in (q, k, v)))[0] for a, b in itertools.pairwise(bounds)]
        return torch.cat(rows)

    torch.testing.assert_close(
        attend_by_run(q, k, v, layout, _dense, packed), attend_by_group(q, k, v, layout), rtol=1e-5, atol=1e-6
    )


def test_sizes_that_do_not_divide(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sequence_parallel_size=4 and model.heads=2; expected heads divisible"):
        tiny_recipe(tmp_path, parallel={"sequence_parallel_size": 4})
    with pytest.raises(UserError, match=r"found 2 and model.context=33; expected context divisible"):
        tiny_recipe(
            tmp_path,
            parallel={"sequence_parallel_size": 2},
            model={"layers": 1, "hidden_size": 8, "heads": 2, "context": 33},
        )
