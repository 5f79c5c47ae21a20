"""Causal self-attention over a `Layout`: flash-attn where it is installed, else what torch has."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from prealign.errors import UserError
from prealign.model.layout import AttentionCall, Dense, Group, Layout

Backend = Literal["auto", "sdpa", "flash"]
Packed = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
"""``(q, k, v, boundaries, longest)``, tensors ``[tokens, heads, head_size]`` -> the same shape, causal per sequence."""


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
        projected = self.qkv(hidden_states)
        # heads are counted, not inferred: a rank may have no tokens
        projected = projected.view(len(hidden_states), 3, projected.shape[1] // (3 * self.head_size), self.head_size)
        return self.out(self._attend(*projected.unbind(dim=1), layout).flatten(1))


def attention_function(backend: Backend) -> Callable[..., torch.Tensor]:
    """``(q, k, v, layout)``, tensors ``[tokens, heads, head_size]`` -> the same shape."""
    if backend == "sdpa" or (backend == "auto" and not torch.cuda.is_available()):
        return attend_by_group
    try:
        import flash_attn
    except ImportError:
        if backend == "flash":
            raise UserError(
                "model.attention: found 'flash', but flash-attn is not installed; install it or set 'sdpa'"
            ) from None
        return _by_run(_dense, torch_packed())

    def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return flash_attn.flash_attn_func(q, k, v, causal=True)

    def packed(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: torch.Tensor, longest: int
    ) -> torch.Tensor:
        return flash_attn.flash_attn_varlen_func(q, k, v, boundaries, boundaries, longest, longest, causal=True)

    return _by_run(dense, packed)


def attend_by_group(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout) -> torch.Tensor:
    """scaled_dot_product_attention of each group of equal rows: any device, any dtype."""
    mixed = []
    for group, *parts in zip(layout.groups, *(tensor.split(layout.sizes) for tensor in (q, k, v))):
        mixed.append(_by_row(partial(_dense, documents=group.documents), group, parts))
    return _joined(mixed, q)


def attend_by_run(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, dense: Dense, packed: Packed
) -> torch.Tensor:
    """One call for all short rows together, one for every group of long ones."""
    mixed = []
    sizes = [call.tokens for call in layout.calls]
    for call, *parts in zip(layout.calls, q.split(sizes), k.split(sizes), v.split(sizes)):
        if call.boundaries is None:
            mixed.append(_by_row(dense, call.groups[0], parts))
        elif call.groups[0].exchange is None:
            mixed.append(packed(parts[0], parts[1], parts[2], call.boundaries, call.longest))
        else:
            mixed.append(_by_row(_of_rows(packed, call), call.groups[0], parts))
    return _joined(mixed, q)


def _by_row(attend: Dense, group: Group, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Attention of a group's ``[tokens, heads, head_size]`` through a function of rows."""
    q, k, v = (part.unflatten(0, (group.rows, group.length)) for part in parts)
    mixed = attend(q, k, v) if group.exchange is None else group.exchange(attend, q, k, v)
    return mixed.flatten(0, 1)


def _of_rows(packed: Packed, call: AttentionCall) -> Dense:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        assert call.boundaries is not None
        flat = [part.flatten(0, 1) for part in (q, k, v)]
        return packed(flat[0], flat[1], flat[2], call.boundaries, call.longest).view_as(q)

    return attend


def _joined(parts: list[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """Runs one after another; a rank may have none."""
    if not parts:
        return torch.empty_like(like)
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def torch_packed() -> Packed:
    """``torch.nn.attention.varlen.varlen_attn`` as a causal function, however torch's version spells that."""
    from torch.nn.attention.varlen import varlen_attn

    causal: dict[str, Any] = (
        {"window_size": (-1, 0)} if "window_size" in inspect.signature(varlen_attn).parameters else {"is_causal": True}
    )

    def packed(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: torch.Tensor, longest: int
    ) -> torch.Tensor:
        mixed = varlen_attn(q, k, v, boundaries, boundaries, longest, longest, **causal)
        assert isinstance(mixed, torch.Tensor)  # it gives more only where it is asked for more
        return mixed

    return packed


def _by_run(dense: Dense, packed: Packed) -> Callable[..., torch.Tensor]:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout) -> torch.Tensor:
        # flash kernels compute in half precision, on a GPU, with heads of some sizes
        if q.dtype.itemsize > 2 or not q.is_cuda or q.shape[-1] % 8 or q.shape[-1] > 256:
            return attend_by_group(q, k, v, layout)
        return attend_by_run(q, k, v, layout, dense, packed)

    return attend


def _dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: torch.Tensor | None = None) -> torch.Tensor:
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    if documents is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=same.tril()).transpose(1, 2)
