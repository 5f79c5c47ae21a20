"""Chunked linear cross-entropy against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from prealign.data.switching import IGNORED
from prealign.objectives import cross_entropy
from prealign.objectives.cross_entropy import linear_cross_entropy


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
