"""Span pooling."""

import pytest
import torch

from prealign.kernels import pool_spans


def test_mean_of_the_span_at_unit_length() -> None:
    hidden = torch.randn(50, 7, dtype=torch.float64)
    lengths = torch.tensor([1, 3, 40, 2])
    starts = torch.tensor([49, 0, 5, 46])
    z = pool_spans(hidden, starts, lengths)
    for word, (start, length) in enumerate(zip(starts, lengths)):
        mean = hidden[start : start + length].mean(dim=0)
        torch.testing.assert_close(z[word], mean / mean.norm())


def test_gradcheck() -> None:
    hidden = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    starts, lengths = torch.tensor([0, 3, 4]), torch.tensor([3, 1, 5])
    assert torch.autograd.gradcheck(lambda hidden: pool_spans(hidden, starts, lengths), (hidden,))


def test_zero_norm_span_is_finite() -> None:
    hidden = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [3.0, 4.0]], requires_grad=True)
    z = pool_spans(hidden, torch.tensor([0, 2]), torch.tensor([2, 1]))
    assert z[0].tolist() == [0.0, 0.0]
    z.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_taken_in_fp32(dtype: torch.dtype) -> None:
    hidden = torch.randn(300, 16).to(dtype)
    z = pool_spans(hidden, torch.tensor([0]), torch.tensor([300]))
    exact = pool_spans(hidden.double(), torch.tensor([0]), torch.tensor([300]))
    assert z.dtype == dtype
    assert (z.double() - exact).abs().max() < (1e-6 if dtype == torch.float32 else 4e-3)


def test_no_words() -> None:
    nothing = torch.empty(0, dtype=torch.int64)
    assert pool_spans(torch.randn(4, 3), nothing, nothing).shape == (0, 3)
