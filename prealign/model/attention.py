"""Causal self-attention over a `Layout`, by the kernels of `prealign.model.attention_kernels`."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from prealign.config.model import ModelConfig
from prealign.model.attention_kernels import Kernels, flash_module, kernels_of, takes_flash
from prealign.model.layers import rotated
from prealign.model.layout import AttentionCall, Dense, Group, Layout
from prealign.model.tensor_ranks import TensorRanks

Packed = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
"""``(q, k, v, boundaries, longest)``, tensors ``[tokens, heads, head_size]`` -> the same shape, causal per sequence."""


class KeyValues:
    """Keys and values of the tokens that a block has seen, ``[rows, kv_heads, length, head_size]``, for generation."""

    def __init__(self) -> None:
        self.seen: tuple[torch.Tensor, torch.Tensor] | None = None

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, group: Group) -> torch.Tensor:
        """Attention of new tokens, one a row or, where none were seen, any number, to all tokens of their rows. Tensors
        ``[tokens, heads, head_size]``; what is new is kept."""
        q, k, v = (part.unflatten(0, (group.rows, group.length)).transpose(1, 2) for part in (q, k, v))
        if self.seen is not None:
            if group.length != 1:
                raise ValueError(f"found {group.length} new tokens a row behind others; expected one")
            k, v = torch.cat((self.seen[0], k), dim=2), torch.cat((self.seen[1], v), dim=2)
        is_prefill, self.seen = self.seen is None, (k, v)
        group_size = q.shape[1] // k.shape[1]
        k, v = (part.repeat_interleave(group_size, dim=1) if group_size > 1 else part for part in (k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_prefill).transpose(1, 2).flatten(0, 1)


class KeyValueProjection(nn.Linear):
    """Keys and values of fewer heads than queries have. Where there are more tensor ranks than heads here, every rank
    holds the whole projection and computes the one head that its query heads ask for; its gradient of the weight is
    that of this head, and is to be summed over the ranks."""

    def __init__(self, size: int, heads: int, head_size: int, bias: bool) -> None:
        super().__init__(size, 2 * heads * head_size, bias)
        self.kv_heads = heads
        self.tensor_ranks: TensorRanks | None = None
        """None: all heads are computed."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """``[tokens, D]`` -> keys, then values, of the heads that are computed."""
        ranks = self.tensor_ranks
        if ranks is None:
            return super().forward(hidden_states)
        head = self.kv_heads * ranks.rank // ranks.ranks
        weight, bias = (
            None if whole is None else whole.unflatten(0, (2, self.kv_heads, -1))[:, head].flatten(0, 1)
            for whole in (self.weight, self.bias)
        )
        assert weight is not None
        return F.linear(ranks(hidden_states), weight, bias)


class SelfAttention(nn.Module):
    """Multi-head attention (one projection, `qkv`) or, with fewer `kv_heads` than heads, grouped-query attention (two,
    `q` and `kv`). Heads follow from the width of the projections, so they may be sharded."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_size = config.resolved_head_size
        size, bias = config.hidden_size, config.resolved_attention_bias
        inner, kv = config.heads * self.head_size, config.resolved_kv_heads * self.head_size
        self.grouped = inner != kv
        if self.grouped:
            self.q = nn.Linear(size, inner, bias)
            self.kv = KeyValueProjection(size, config.resolved_kv_heads, self.head_size, bias)
        else:
            self.qkv = nn.Linear(size, 3 * inner, bias)
        self.qk_norm = config.qk_norm
        if config.qk_norm:
            self.q_norm = nn.RMSNorm(self.head_size, eps=config.norm_eps)
            self.k_norm = nn.RMSNorm(self.head_size, eps=config.norm_eps)
        scaling = config.rotary_scaling
        self.rotary_factor = 1.0 if scaling is None else scaling.resolved_attention_factor
        self.out = nn.Linear(inner, size, config.bias)
        self._attend = attention_function(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        layout: Layout,
        angles: torch.Tensor | None = None,
        cache: KeyValues | None = None,
    ) -> torch.Tensor:
        """``[tokens, D]`` -> ``[tokens, D]``. ``angles``: of rotary positions. ``cache``: what the rows of the layout's
        one group have seen, which is attended to as well."""
        q, k, v = self._project(hidden_states)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotated(q, angles, self.rotary_factor), rotated(k, angles, self.rotary_factor)
        if cache is not None:
            return self.out(cache.attend(q, k, v, layout.groups[0]).flatten(1))
        if self.grouped:  # each head of keys and values for its group of query heads
            k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], dim=1) for part in (k, v))
        return self.out(self._attend(q, k, v, layout).flatten(1))

    def _project(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values, ``[tokens, heads, head_size]``."""
        if not self.grouped:
            return self._heads(self.qkv(hidden_states), 3)
        return *self._heads(self.q(hidden_states), 1), *self._heads(self.kv(hidden_states), 2)

    def _heads(self, projected: torch.Tensor, parts: int) -> tuple[torch.Tensor, ...]:
        # heads are counted, not inferred: a rank may have no tokens
        heads = projected.shape[1] // (parts * self.head_size)
        return projected.view(len(projected), parts, heads, self.head_size).unbind(dim=1)


def attention_function(config: ModelConfig) -> Callable[..., torch.Tensor]:
    """``(q, k, v, layout)``, tensors ``[tokens, heads, head_size]`` -> the same shape, by the kernels that
    `kernels_of` chooses. Raises `UserError` as that does."""
    kernels = kernels_of(config)
    if kernels != "sdpa":
        return _by_run(*_flash(kernels))
    if config.attention == "sdpa" or not torch.cuda.is_available():
        return attend_by_group
    return _by_run(_dense, torch_packed())


def _flash(kernels: Kernels) -> tuple[Dense, Packed]:
    """Functions of flash-attn; those of version 3 have not been called on a GPU."""
    package = flash_module(kernels)
    assert package is not None

    def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return _first(package.flash_attn_func(q, k, v, causal=True))

    def packed(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: torch.Tensor, longest: int
    ) -> torch.Tensor:
        return _first(package.flash_attn_varlen_func(q, k, v, boundaries, boundaries, longest, longest, causal=True))

    return dense, packed


def _first(result: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Some releases of flash-attn 3 give the sums of the softmax too."""
    return result[0] if isinstance(result, tuple) else result


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
        if not takes_flash(q.dtype, q.is_cuda, q.shape[-1]):
            return attend_by_group(q, k, v, layout)
        return attend_by_run(q, k, v, layout, dense, packed)

    return attend


def _dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: torch.Tensor | None = None) -> torch.Tensor:
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    if documents is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=same.tril()).transpose(1, 2)
