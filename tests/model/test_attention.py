"""Attention over groups and over packed runs: the same numbers."""

import pytest
import torch

from prealign.config.model import ModelConfig
from prealign.errors import UserError
from prealign.model.attention import SelfAttention, attend_by_group, attend_by_run, attention_function
from prealign.model.layout import Group, Layout, document_numbers


def literal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention of one sequence, ``[length, heads, head_size]``, as the formula reads."""
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), v)


def packed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: torch.Tensor, longest: int) -> torch.Tensor:
    """What a variable-length kernel computes."""
    assert boundaries.dtype == torch.int32
    assert boundaries[-1] == len(q)
    assert boundaries.diff().max() <= longest
    parts = zip(*(tensor.split(boundaries.diff().tolist()) for tensor in (q, k, v)))
    return torch.cat([literal(*part) for part in parts])


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.stack([literal(*row) for row in zip(q, k, v)])


@pytest.mark.parametrize("reset", [False, True])
def test_runs_give_the_numbers_of_groups(reset: bool) -> None:
    ids = torch.randint(0, 4, (2, 150))
    documents = document_numbers(ids, ids == 3)[0] if reset else None
    layout = Layout((Group(2, 150, documents), Group(5, 1), Group(3, 2), Group(1, 7)))
    assert [call.tokens for call in layout.calls] == [300, 18]
    assert layout.calls[1].boundaries.tolist() == [0, 1, 2, 3, 4, 5, 7, 9, 11, 18]
    q, k, v = torch.randn(3, 318, 2, 8, dtype=torch.float64)
    expected = attend_by_group(q, k, v, layout)
    torch.testing.assert_close(attend_by_run(q, k, v, layout, dense, packed), expected)
    # and both are causal attention within a word
    torch.testing.assert_close(expected[-7:], literal(q[-7:], k[-7:], v[-7:]))


def test_documents_begin_at_row_starts_too() -> None:
    documents = torch.tensor([[0, 0, 1], [0, 1, 1]])
    (call,) = Layout((Group(2, 3, documents),)).calls
    assert call.boundaries.tolist() == [0, 2, 3, 4, 6]


def test_a_rank_without_tokens() -> None:
    model = SelfAttention(ModelConfig(layers=1, hidden_size=16, heads=2, attention="sdpa"))
    nothing = torch.zeros(0, 16, requires_grad=True)
    mixed = model(nothing, Layout(()))
    assert mixed.shape == (0, 16)
    mixed.sum().backward()  # the rank still takes part in the backward pass
    assert attend_by_run(*torch.zeros(3, 0, 2, 8), Layout(()), dense, packed).shape == (0, 2, 8)


def test_flash_that_is_not_installed_is_an_error() -> None:
    try:
        import flash_attn  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="flash-attn is not installed"):
            attention_function(ModelConfig(layers=1, hidden_size=16, heads=2, attention="flash"))
