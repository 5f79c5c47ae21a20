"""The loss and its gradient are the same for any number of ranks."""

import pytest
import torch
import torch.distributed as dist

from prealign.kernels import Relations, multilayer_infonce, shard
from tests.kernels.test_infonce import random_relations, sparse_relations, unit_vectors
from tests.processes import on_ranks

LAYERS, SIZE = 3, 16


def relations_of(words: int, few: bool) -> Relations:
    return sparse_relations(words, words // 8) if few else random_relations(words, seed=2)


def one_rank(rank: int, ranks: int, words: int, few: bool, impl: str) -> tuple[list[float], list[float], list]:
    torch.set_num_threads(1)
    begin, end = shard(words, rank, ranks)
    z = unit_vectors(LAYERS, words, SIZE, seed=1, dtype=torch.float32)[:, begin:end].detach().requires_grad_()
    relations = relations_of(words, few)
    losses, cosines = multilayer_infonce(z, relations, 0.1, group=dist.group.WORLD, impl=impl)
    (gradient,) = torch.autograd.grad(losses.sum(), z)
    return losses.tolist(), cosines.tolist(), gradient.tolist()


@pytest.mark.parametrize(
    ("ranks", "words", "few", "impl"),
    [
        (2, 64, False, "chunked"),
        (2, 33, False, "chunked"),  # uneven shares
        pytest.param(3, 50, False, "chunked", marks=pytest.mark.slow),
        pytest.param(4, 50, False, "chunked", marks=pytest.mark.slow),
        (4, 3, False, "chunked"),  # a rank without words
        (2, 65, True, "chunked"),  # a rank without anchors
        (2, 65, True, "triton"),
        (2, 33, False, "triton"),
    ],
)
def test_ranks_equal_one_rank(ranks: int, words: int, few: bool, impl: str) -> None:
    z = unit_vectors(LAYERS, words, SIZE, seed=1, dtype=torch.float32)
    losses, cosines = multilayer_infonce(z, relations_of(words, few), 0.1)
    (gradient,) = torch.autograd.grad(losses.sum(), z)
    parts = on_ranks(one_rank, ranks, words, few, impl)
    summed = torch.tensor([part[0] for part in parts]).sum(dim=0)
    torch.testing.assert_close(summed, losses.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.tensor([part[1] for part in parts]).sum(dim=0), cosines, rtol=1e-6, atol=1e-6)
    gathered = torch.cat([torch.tensor(part[2]).reshape(LAYERS, -1, SIZE) for part in parts], dim=1)
    assert (gathered - gradient).norm() < 1e-6 * gradient.norm()
