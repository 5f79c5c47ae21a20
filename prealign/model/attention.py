"""Causal self-attention over a `Layout`: torch's scaled_dot_product_attention, or flash-attn where it is installed."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from prealign.errors import UserError
from prealign.model.layout import Group, Layout

Backend = Literal["auto", "sdpa", "flash"]
AttentionFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Group], torch.Tensor]


class SelfAttention(nn.Module):
    """Multi-head attention with fused projections; heads follow from the width of the projection, so it may be
    sharded."""

    def __init__(self, hidden_size: int, heads: int, backend: Backend) -> None:
        super().__init__()
        self.head_size = hidden_size // heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)
        self._attend = attention_function(backend)

    def forward(self, hidden_states: torch.Tensor, layout: Layout) -> torch.Tensor:
        """``[tokens, D]`` -> ``[tokens, D]``."""
        mixed = []
        for group, part in zip(layout.groups, self.qkv(hidden_states).split(layout.sizes)):
            q, k, v = part.view(group.rows, group.length, 3, -1, self.head_size).unbind(dim=2)
            mixed.append(self._attend(q, k, v, group).reshape(group.tokens, -1))
        return self.out(torch.cat(mixed) if len(mixed) > 1 else mixed[0])


def attention_function(backend: Backend) -> AttentionFunction:
    """``(q, k, v, group)``, each ``[rows, length, heads, head_size]`` -> the same shape."""
    if backend == "sdpa" or (backend == "auto" and not torch.cuda.is_available()):
        return _sdpa
    try:
        import flash_attn
    except ImportError:
        if backend == "flash":
            raise UserError(
                "model.attention: found 'flash', but flash-attn is not installed; install it or set 'sdpa'"
            ) from None
        return _sdpa

    def flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, group: Group) -> torch.Tensor:
        if q.dtype == torch.float32:  # flash-attn computes in half precision only
            return _sdpa(q, k, v, group)
        if group.documents is None:
            return flash_attn.flash_attn_func(q, k, v, causal=True)
        boundaries, longest = _document_lengths(group.documents)
        flat = (tensor.reshape(group.tokens, *tensor.shape[2:]) for tensor in (q, k, v))
        mixed = flash_attn.flash_attn_varlen_func(*flat, boundaries, boundaries, longest, longest, causal=True)
        return mixed.view_as(q)

    return flash


def _sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, group: Group) -> torch.Tensor:
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    if group.documents is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    same = group.documents[:, None, :, None] == group.documents[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=same.tril()).transpose(1, 2)


def _document_lengths(documents: torch.Tensor) -> tuple[torch.Tensor, int]:
    """``cu_seqlens`` (int32) of all documents of all rows, and the longest one's length."""
    new = torch.ones_like(documents, dtype=torch.bool)
    new[:, 1:] = documents[:, 1:] != documents[:, :-1]
    starts = new.flatten().nonzero().flatten()
    boundaries = torch.cat((starts, starts.new_tensor([documents.numel()]))).int()
    return boundaries, int(boundaries.diff().max())
