"""The cross-entropy kernel, alone and in the LM head's loss, against float64."""

import pytest
import torch
import torch.nn.functional as F

from prealign.data.switching import IGNORED
from prealign.objectives import cross_entropy
from prealign.objectives.cross_entropy import linear_cross_entropy

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
