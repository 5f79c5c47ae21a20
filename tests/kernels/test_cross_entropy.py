"""The cross-entropy kernel, alone and in the LM head's loss, against float64."""

import pytest
import torch
import torch.nn.functional as F

from prealign.data.switching import IGNORED
from prealign.objectives import cross_entropy
from prealign.objectives.cross_entropy import linear_cross_entropy
from tests.model.thread_ranks import ThreadRank, on_threads

kernel = pytest.importorskip("prealign.kernels.cross_entropy_triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [3, 1000, 4096, 9001])
def test_losses_and_gradient(vocabulary: int, dtype: torch.dtype, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = (20 * torch.randn(11, vocabulary, generator=generator)).to(dtype)
    targets = torch.randint(0, vocabulary, (11,), generator=generator)
    targets[::4] = IGNORED
    exact = logits.double().requires_grad_()
    expected = F.cross_entropy(exact, targets, ignore_index=IGNORED, reduction="none")
    expected.sum().backward()
    assert exact.grad is not None
    mine = logits.to(device)
    untouched = kernel.cross_entropy_(mine, targets.to(device), IGNORED, False)
    assert torch.equal(mine.cpu(), logits)
    losses = kernel.cross_entropy_(mine, targets.to(device), IGNORED, True)
    assert torch.equal(losses, untouched)
    torch.testing.assert_close(losses.double().cpu(), expected.detach(), rtol=1e-5, atol=2e-5)
    tolerance = 1e-5 if dtype == torch.float32 else 4e-3
    assert (mine.double().cpu() - exact.grad).norm() <= tolerance * exact.grad.norm()
    assert not mine[::4].any()


@pytest.mark.parametrize("chunk", [101 * 10, 1 << 20])
def test_in_the_heads_loss(chunk: int, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "_fused", lambda hidden: True)
    monkeypatch.setattr(cross_entropy, "_FUSED_LOGITS", chunk)
    generator = torch.Generator().manual_seed(0)
    make = lambda *shape: torch.randn(*shape, generator=generator).bfloat16().to(device).requires_grad_()  # noqa: E731
    hidden, weight = make(37, 16), make(101, 16)
    targets = torch.randint(0, 101, (37,), generator=generator)
    targets[::5] = IGNORED
    total, losses = linear_cross_entropy(hidden, weight, targets.to(device))
    exact = [tensor.detach().double().cpu().requires_grad_() for tensor in (hidden, weight)]
    expected = F.cross_entropy(exact[0] @ exact[1].T, targets, ignore_index=IGNORED, reduction="none")
    assert total.item() == pytest.approx(expected.sum().item(), rel=1e-3)
    assert (losses.double().cpu() - expected).norm() < 5e-3 * expected.norm()
    (0.5 * expected.sum()).backward()
    for mine, truth in zip(torch.autograd.grad(0.5 * total, (hidden, weight)), exact):
        assert truth.grad is not None
        assert (mine.double().cpu() - truth.grad).norm() < 0.01 * truth.grad.norm()


def test_without_gradient(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "_fused", lambda hidden: True)
    hidden, weight = (torch.randn(rows, 16, device=device).bfloat16().requires_grad_() for rows in (5, 30))
    with torch.no_grad():
        total, losses = linear_cross_entropy(hidden, weight, torch.arange(5, device=device))
    assert not total.requires_grad
    assert losses.shape == (5,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("vocabulary", "ranks"), [(9, 3), (9002, 2)])
def test_a_part_of_each_row(vocabulary: int, ranks: int, dtype: torch.dtype, device: torch.device) -> None:
    """Statistics and gradient of a rank's columns, with targets at the edges, elsewhere, and none at all."""
    size = vocabulary // ranks
    logits = (20 * torch.randn(7, vocabulary, generator=torch.Generator().manual_seed(1))).to(dtype)
    targets = torch.tensor([0, size - 1, size, vocabulary - 1, vocabulary - size, 1, IGNORED])
    exact = logits.double().requires_grad_()
    F.cross_entropy(exact, targets, ignore_index=IGNORED, reduction="sum").backward()
    log_sums = torch.logsumexp(exact.detach(), dim=1)
    for rank in range(ranks):
        mine = logits.chunk(ranks, dim=1)[rank].to(device)
        own = mine.double().cpu()
        local = targets - rank * size
        local[(local < 0) | (local >= size)] = -1
        largest, sums, wanted = kernel.row_statistics(mine, local.to(device))
        assert torch.equal(largest.double().cpu(), own.amax(dim=1))
        torch.testing.assert_close(sums.double().cpu().log(), torch.logsumexp(own, 1) - own.amax(1), rtol=0, atol=1e-5)
        assert torch.equal(
            wanted.double().cpu(), torch.where(local < 0, 0.0, own.gather(1, local.clamp(0)[:, None])[:, 0])
        )
        given = torch.where(targets == IGNORED, torch.inf, log_sums).float().to(device)
        kernel.cross_entropy_gradient_(mine, local.to(device), given)
        expected = exact.grad.chunk(ranks, dim=1)[rank]
        tolerance = 1e-5 if dtype == torch.float32 else 4e-3
        assert (mine.double().cpu() - expected).norm() <= tolerance * expected.norm()
        assert not mine[-1].any()


def test_parts_in_the_heads_loss(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """What two ranks make of their parts is what one makes of the whole."""
    monkeypatch.setattr(cross_entropy, "_fused", lambda hidden: True)
    monkeypatch.setattr(cross_entropy, "_FUSED_LOGITS", 500)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (3 * torch.randn(rows, 16, generator=generator).bfloat16().to(device) for rows in (37, 100))
    targets = torch.randint(0, 100, (37,), generator=generator)
    targets[::5], targets[1:3] = IGNORED, torch.tensor([49, 50])
    targets = targets.to(device)

    def loss(rank: ThreadRank | None, own: torch.Tensor) -> tuple[torch.Tensor, ...]:
        states, own = hidden.clone().requires_grad_(), own.clone().requires_grad_()
        total, losses = linear_cross_entropy(states, own, targets, rank)
        return total.detach(), losses, *torch.autograd.grad(total, (states, own))

    total, losses, by_hidden, by_weight = loss(None, weight)
    found = on_threads(2, lambda rank: loss(rank, weight.chunk(2)[rank.rank]))
    for part in found:
        assert part[0].item() == pytest.approx(total.item(), rel=1e-5)
        torch.testing.assert_close(part[1], losses, rtol=1e-5, atol=1e-5)
        assert (part[2] - by_hidden).float().norm() <= 0.01 * by_hidden.float().norm()
    joined = torch.cat([part[3] for part in found])
    assert (joined - by_weight).float().norm() <= 0.01 * by_weight.float().norm()
