"""The loss and its gradient are the same for any number of ranks."""

import pytest
import torch
import torch.distributed as dist

from prealign.kernels import Relations, distributed, multilayer_infonce, planned, shard
from tests.kernels.counting import LiveBytes
from tests.kernels.test_infonce import random_relations, sparse_relations, unit_vectors
from tests.processes import on_ranks

LAYERS, SIZE = 3, 16
GATHER = dist.all_gather_into_tensor


def relations_of(words: int, few: bool) -> Relations:
    return sparse_relations(words, words // 8) if few else random_relations(words, seed=2)


def one_rank(rank: int, ranks: int, words: int, few: bool, impl: str) -> tuple[list[float], list[float], list]:
    torch.set_num_threads(1)
    if words % 2:  # a layer at a time
        distributed.LEAST_SENT = 0
    begin, end = shard(words, rank, ranks)
    z = unit_vectors(LAYERS, words, SIZE, seed=1, dtype=torch.float32)[:, begin:end].detach().requires_grad_()
    relations = relations_of(words, few)
    losses, cosines = multilayer_infonce(z, relations, 0.1, group=dist.group.WORLD, impl=impl)
    (gradient,) = torch.autograd.grad(losses.sum(), z)
    if impl == "triton":
        narrow = z.detach().bfloat16().requires_grad_()
        ready = planned(relations, False, rank, ranks)
        found = [
            multilayer_infonce(narrow, given, 0.1, group=dist.group.WORLD, impl=impl)[0] for given in (ready, relations)
        ]
        assert torch.equal(*found)
        assert torch.equal(*(torch.autograd.grad(losses.sum(), narrow)[0] for losses in found))
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
def test_ranks_equal_one_rank(ranks: int, words: int, few: bool, impl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # for the ranks, whose tensors are on the CPU where there is a GPU too
    z = unit_vectors(LAYERS, words, SIZE, seed=1, dtype=torch.float32)
    losses, cosines = multilayer_infonce(z, relations_of(words, few), 0.1)
    (gradient,) = torch.autograd.grad(losses.sum(), z)
    parts = on_ranks(one_rank, ranks, words, few, impl)
    summed = torch.tensor([part[0] for part in parts]).sum(dim=0)
    torch.testing.assert_close(summed, losses.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.tensor([part[1] for part in parts]).sum(dim=0), cosines, rtol=1e-6, atol=1e-6)
    gathered = torch.cat([torch.tensor(part[2]).reshape(LAYERS, -1, SIZE) for part in parts], dim=1)
    assert (gathered - gradient).norm() < 1e-6 * gradient.norm()


class Gathers:
    """The gathers of a pass: how many there were, and how many were under way at most when a layer was used."""

    def __init__(self) -> None:
        self.count = self.waited = 0

    def __call__(self, into: torch.Tensor, local: torch.Tensor, async_op: bool = False, **options) -> "Gathers":
        self.count += 1
        GATHER(into, local, **options)
        self.waited += not async_op
        return self

    def wait(self) -> None:
        self.waited += 1


def gathered_by_rank(rank: int, ranks: int) -> dict[tuple[int, int], tuple[bool, list[int], int, int]]:
    """By how many layers travel together, and by words: whether all vectors came, gathers that were under way with each
    of five layers, their number, and bytes."""
    torch.set_num_threads(1)
    found = {}
    for words in (64, 33, 1):
        share = -(-words // ranks) * SIZE * 4
        for together, distributed.LEAST_SENT in ((1, 0), (2, 2 * share), (5, 1 << 20)):
            gathers = Gathers()
            distributed.dist.all_gather_into_tensor = gathers
            z = unit_vectors(5, words, SIZE, seed=1, dtype=torch.float32).detach()
            begin, end = shard(words, rank, ranks)
            own_layers = list(z[:, begin:end])
            right, ahead, peak = True, [], 0
            with LiveBytes() as live:
                for layer, (own, everyone) in enumerate(
                    distributed.gathered_layers(own_layers, words, dist.group.WORLD)
                ):
                    peak = max(peak, live.peak)
                    right &= torch.equal(own, z[layer, begin:end]) and torch.equal(everyone, z[layer])
                    live.peak = live.bytes  # comparing takes some
                    ahead.append(gathers.count - gathers.waited)
            found[together, words] = right, ahead, gathers.count, peak
    return found


def test_two_gathers_at_a_time() -> None:
    """Whatever the consumer holds on to; beside them one layer where it is put together, and shares that are padded or
    packed to be sent."""
    under_way = {1: [1, 1, 1, 1, 0], 2: [1, 1, 1, 1, 0], 5: [0] * 5}
    for found in on_ranks(gathered_by_rank, 2):
        for (together, words), (right, ahead, count, peak) in found.items():
            share = -(-words // 2) * SIZE * 4
            whole = words * SIZE * 4 if together > 1 or words % 2 else 0
            assert right
            assert (ahead, count) == (under_way[together], -(-5 // together))
            assert peak <= min(2, count) * together * 2 * share + whole + 4 * together * share


def test_many_ranks_gather_layers_together() -> None:
    """26 layers of size 2048 in bf16: few words a rank travel in one gather, many a layer at a time."""
    together = {
        (words, ranks): distributed.layers_a_gather(26, words, 2048, 2, ranks)
        for words, ranks in ((4096, 8), (4096, 64), (4096, 512), (16_384, 512), (65_536, 8), (262_144, 64))
    }
    assert together == {
        (4096, 8): 1,
        (4096, 64): 4,
        (4096, 512): 26,
        (16_384, 512): 4,
        (65_536, 8): 1,
        (262_144, 64): 1,
    }
