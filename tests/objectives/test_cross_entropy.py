"""Chunked linear cross-entropy against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from prealign.data.switching import IGNORED
from prealign.objectives import cross_entropy
from prealign.objectives.cross_entropy import linear_cross_entropy
from tests.model.thread_ranks import ThreadRank, on_threads


def inputs(dtype: torch.dtype, tokens: int = 37, size: int = 12, vocabulary: int = 101) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, size, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, size, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    targets[::5] = IGNORED
    return hidden, weight, targets


@pytest.mark.parametrize("scale", [1.0, 300.0])  # exp of the larger logits is infinite
@pytest.mark.parametrize("chunk", [101, 1000, 1 << 20])
def test_equals_torch(chunk: int, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cross_entropy._CHUNK_LOGITS, "cpu", chunk)
    hidden, weight, targets = inputs(torch.float64)
    hidden = (scale * hidden.detach()).requires_grad_()
    total, losses = linear_cross_entropy(hidden, weight, targets)
    expected = F.cross_entropy(hidden @ weight.T, targets, ignore_index=IGNORED, reduction="none")
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(total, expected.sum())
    got = torch.autograd.grad(total * 0.3, (hidden, weight))
    torch.testing.assert_close(got, torch.autograd.grad(expected.sum() * 0.3, (hidden, weight)))


@pytest.mark.parametrize("chunk", [30_000, 1 << 21])
def test_bf16_keeps_fp32_statistics(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cross_entropy._CHUNK_LOGITS, "cpu", chunk)
    hidden, weight, targets = inputs(torch.bfloat16, tokens=512, vocabulary=500)
    total, losses = linear_cross_entropy(hidden, weight, targets)
    assert total.dtype == losses.dtype == torch.float32
    logits = (hidden @ weight.T).float()  # the product itself is bf16
    expected = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    gradients = torch.autograd.grad(total, (hidden, weight))
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    F.cross_entropy(exact[0] @ exact[1].T, targets, ignore_index=IGNORED, reduction="sum").backward()
    for mine, truth in zip(gradients, exact):
        assert truth.grad is not None
        assert (mine.double() - truth.grad).norm() / truth.grad.norm() < 0.01


def test_no_targets_at_all() -> None:
    hidden, weight, targets = inputs(torch.float32)
    total, _ = linear_cross_entropy(hidden, weight, torch.full_like(targets, IGNORED))
    assert total.item() == 0.0
    assert not torch.autograd.grad(total, hidden)[0].any()


def test_without_gradient_nothing_is_kept() -> None:
    hidden, weight, targets = inputs(torch.float32)
    with torch.no_grad():
        total, _ = linear_cross_entropy(hidden, weight, targets)
    assert not total.requires_grad


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(("dtype", "scale"), [("float64", 1.0), ("float32", 1.0), ("float32", 1e3), ("bfloat16", 1.0)])
def test_ranks_that_share_the_vocabulary(ranks: int, dtype: str, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and gradients are those of float64, with targets at the edges of each part, and none; logits up to 1e4;
    several chunks. They are equal on all ranks."""
    monkeypatch.setitem(cross_entropy._CHUNK_LOGITS, "cpu", 1000)
    vocabulary = 102
    hidden, weight, targets = inputs(getattr(torch, dtype), vocabulary=vocabulary)
    hidden = (scale * hidden.detach()).requires_grad_()
    edges = [edge for first in range(0, vocabulary, vocabulary // ranks) for edge in (first, first - 1)]
    targets[: len(edges)] = torch.tensor(edges) % vocabulary

    def part(rank: ThreadRank) -> tuple[torch.Tensor, ...]:
        own = weight.detach().chunk(ranks)[rank.rank].requires_grad_()
        states = hidden.detach().requires_grad_()
        total, losses = linear_cross_entropy(states, own, targets, rank)
        with torch.no_grad():
            assert torch.equal(linear_cross_entropy(states, own, targets, rank)[1], losses)
        return total.detach(), losses, *torch.autograd.grad(0.3 * total, (states, own))

    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    logits = exact[0] @ exact[1].T
    assert scale == 1.0 or logits.abs().max() > 1e4
    expected = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    grad_hidden, grad_weight = torch.autograd.grad(0.3 * expected.sum(), exact)
    tolerance = {"float64": 1e-12, "float32": 1e-6 * scale**0.5, "bfloat16": 0.01}[dtype]
    found = on_threads(ranks, part)
    for total, losses, by_hidden, _ in found:
        assert torch.equal(losses, found[0][1])
        assert torch.equal(by_hidden, found[0][2])
        assert not losses[targets == IGNORED].any()
        assert total.item() == pytest.approx(expected.sum().item(), rel=tolerance)
        assert (losses - expected).norm() <= tolerance * expected.norm()
        assert (by_hidden - grad_hidden).norm() <= tolerance * grad_hidden.norm()
    by_weight = torch.cat([gradient for *_, gradient in found])
    assert (by_weight - grad_weight).norm() <= tolerance * grad_weight.norm()
