"""The loss and its gradient are the same for any number of ranks."""

import pytest
import torch
import torch.distributed as dist

from prealign.kernels import multilayer_infonce
from prealign.kernels.infonce import shard
from tests.kernels.test_infonce import random_relations, unit_vectors
from tests.processes import on_ranks

LAYERS, SIZE = 3, 16


def one_rank(rank: int, ranks: int, words: int) -> tuple[list[float], list[float], list]:
    torch.set_num_threads(1)
    begin, end = shard(words, rank, ranks)
    z = unit_vectors(LAYERS, words, SIZE, seed=1, dtype=torch.float32)[:, begin:end].detach().requires_grad_()
    relations = random_relations(words, seed=2)
    losses, cosines = multilayer_infonce(z, relations, 0.1, group=dist.group.WORLD)
    (gradient,) = torch.autograd.grad(losses.sum(), z)
    return losses.tolist(), cosines.tolist(), gradient.tolist()


@pytest.mark.parametrize(("ranks", "words"), [(2, 64), (2, 33), (4, 50), (4, 3)])  # even, uneven, a rank without words
def test_ranks_equal_one_rank(ranks: int, words: int) -> None:
    z = unit_vectors(LAYERS, words, SIZE, seed=1, dtype=torch.float32)
    losses, cosines = multilayer_infonce(z, random_relations(words, seed=2), 0.1)
    (gradient,) = torch.autograd.grad(losses.sum(), z)
    parts = on_ranks(one_rank, ranks, words)
    summed = torch.tensor([part[0] for part in parts]).sum(dim=0)
    torch.testing.assert_close(summed, losses.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.tensor([part[1] for part in parts]).sum(dim=0), cosines, rtol=1e-6, atol=1e-6)
    gathered = torch.cat([torch.tensor(part[2]).reshape(LAYERS, -1, SIZE) for part in parts], dim=1)
    torch.testing.assert_close(gathered, gradient, rtol=1e-5, atol=1e-7)
