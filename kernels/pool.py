"""Word vectors from token vectors: mean over a span, then unit length."""

import math
from types import ModuleType
from typing import Any, Literal

import torch
import torch.nn.functional as F

PoolImplementation = Literal["auto", "triton", "torch"]

_BLOCK_ELEMENTS = 1 << 18


def pool_spans(
    hidden: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    ids: torch.Tensor | None = None,
    *,
    impl: PoolImplementation = "auto",
) -> torch.Tensor:
    """``z_w = m_w / |m_w|`` with ``m_w = mean(hidden[starts_w : starts_w + lengths_w])`` (paper, Eq. 1).

    ``hidden``: ``[..., tokens, D]``; leading axes are layers, all pooled in one launch. ``starts``, ``lengths``: int64
    ``[W]``, lengths at least 1, spans disjoint. ``ids`` (int64 ``[tokens]``): ``hidden`` is a table ``[V, D]`` and
    token ``t`` is its row ``ids[t]``; rows may repeat. ``impl``: ``triton`` (a CUDA device, or Triton's interpreter),
    ``torch``, or ``auto``: triton on CUDA.

    Returns ``[..., W, D]`` in the dtype of ``hidden``; sums and norms are taken in fp32 (fp64 for fp64). A span whose
    mean has a norm below 1e-12 gives a zero vector and a zero gradient. Raises ValueError for shapes that do not fit.
    """
    if hidden.dim() < 2 or starts.shape != lengths.shape or starts.dim() != 1:
        raise ValueError(
            f"found hidden {tuple(hidden.shape)}, starts {tuple(starts.shape)}, lengths {tuple(lengths.shape)}; "
            "expected [..., tokens, D], [W], [W]"
        )
    if ids is not None and hidden.dim() != 2:
        raise ValueError(f"found a table of shape {tuple(hidden.shape)}; expected [V, D]")
    if impl == "auto":
        impl = "triton" if hidden.is_cuda else "torch"
    flat = hidden.reshape(math.prod(hidden.shape[:-2]), *hidden.shape[-2:])  # -1 fails without tokens
    z, _ = _pool(flat, ids, starts, lengths, impl)
    return z.view(*hidden.shape[:-2], len(starts), hidden.shape[-1])


def span_means(
    hidden: torch.Tensor, ids: torch.Tensor | None, starts: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors ``[layers, W, D]`` and ``1/norm`` ``[layers, W]`` in plain PyTorch; see `pool_spans`."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    vectors = hidden.new_empty((len(hidden), len(starts), hidden.shape[-1]))
    inverse = hidden.new_empty((len(hidden), len(starts)), dtype=wide)
    for part in _blocks(*vectors.shape[1:]):
        count = lengths[part]
        tokens = _tokens(starts[part], count)
        places = tokens if ids is None else ids[tokens]
        bags = torch.cumsum(count, 0) - count
        for layer, rows in enumerate(hidden):
            if rows.dtype == wide:  # read where they lie
                total = F.embedding_bag(places, rows, bags, mode="sum")
            else:
                widened = rows.index_select(0, places).to(wide)
                total = F.embedding_bag(torch.arange(len(places), device=rows.device), widened, bags, mode="sum")
            norm = total.norm(dim=1)
            scale = torch.where(norm < 1e-12 * count, 0.0, 1 / norm)
            torch.mul(scale, count, out=inverse[layer, part])
            torch.mul(total, scale[:, None], out=vectors[layer, part])
    return vectors, inverse


def span_gradients(
    grad: torch.Tensor,
    z: torch.Tensor,
    inverse: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    token_count: int,
) -> torch.Tensor:
    """``dh_t = (dz_w - z_w <z_w, dz_w>) / (|m_w| len_w)`` of the word that token ``t`` is in, 0 for others; ``[layers,
    tokens, D]`` in the dtype of ``z``."""
    words = len(starts)
    owner = torch.full((token_count,), words, device=z.device)  # tokens outside all spans have the row of zeros
    owner[_tokens(starts, lengths)] = torch.arange(words, device=z.device).repeat_interleave(lengths)
    each = z.new_zeros((words + 1, z.shape[-1]))
    result = z.new_empty((len(z), token_count, z.shape[-1]))
    for layer in range(len(z)):
        for part in _blocks(words, z.shape[-1]):
            upstream, vectors = grad[layer, part].to(inverse.dtype), z[layer, part].to(inverse.dtype)
            along = (upstream * vectors).sum(dim=1, keepdim=True)
            across = torch.addcmul(upstream, vectors, along, value=-1)
            torch.mul(across, (inverse[layer, part] / lengths[part])[:, None], out=each[:words][part])
        torch.index_select(each, 0, owner, out=result[layer])
    return result


def _blocks(words: int, size: int) -> list[slice]:
    """Words in blocks whose vectors are small enough to be allocated without new pages of memory."""
    step = max(1, _BLOCK_ELEMENTS // max(size, 1))
    return [slice(first, min(first + step, words)) for first in range(0, words, step)]


def _tokens(starts: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Token numbers of all spans, one after another; ``[sum of lengths]``."""
    shift = starts - (torch.cumsum(lengths, 0) - lengths)
    shift = shift.repeat_interleave(lengths)
    return shift + torch.arange(len(shift), device=shift.device)


def _backend(impl: str) -> ModuleType | None:
    if impl == "torch":
        return None
    if impl == "triton":
        from prealign.kernels import pool_triton  # imports triton

        return pool_triton
    raise ValueError(f"impl={impl!r}; expected 'auto', 'triton' or 'torch'")


@torch.library.custom_op("prealign::pool", mutates_args=())
def _pool(
    hidden: torch.Tensor, ids: torch.Tensor | None, starts: torch.Tensor, lengths: torch.Tensor, impl: str
) -> tuple[torch.Tensor, torch.Tensor]:
    backend = _backend(impl)
    with torch.cuda.device_of(hidden):  # kernels go to the current device
        return (backend.span_means if backend else span_means)(hidden, ids, starts, lengths)


@_pool.register_fake
def _(hidden: torch.Tensor, ids: torch.Tensor | None, starts: torch.Tensor, *_: Any) -> tuple[torch.Tensor, ...]:
    wide = torch.promote_types(hidden.dtype, torch.float32)
    shape = (hidden.shape[0], starts.shape[0])
    return hidden.new_empty((*shape, hidden.shape[-1])), hidden.new_empty(shape, dtype=wide)


@torch.library.custom_op("prealign::pool_backward", mutates_args=())
def _pool_backward(
    grad: torch.Tensor,
    z: torch.Tensor,
    inverse: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    token_count: int,
    impl: str,
) -> torch.Tensor:
    backend = _backend(impl)
    with torch.cuda.device_of(z):
        return (backend.span_gradients if backend else span_gradients)(grad, z, inverse, starts, lengths, token_count)


@_pool_backward.register_fake
def _(grad: torch.Tensor, z: torch.Tensor, inverse: Any, starts: Any, lengths: Any, token_count: int, impl: str) -> Any:
    return z.new_empty((z.shape[0], token_count, z.shape[-1]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    hidden, ids, starts, lengths, ctx.impl = inputs
    ctx.save_for_backward(ids, starts, lengths, *output)
    ctx.rows = hidden.shape[1]
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
    ids, starts, lengths, z, inverse = ctx.saved_tensors
    tokens = ctx.rows if ids is None else len(ids)
    gradient = _pool_backward(grad, z, inverse, starts, lengths, tokens, ctx.impl)
    if ids is not None:  # rows of the table repeat: summed in a fixed order
        gradient = torch.ops.aten.embedding_dense_backward(gradient[0], ids, ctx.rows, -1, False)[None]
    return gradient, None, None, None, None


_pool.register_autograd(_differentiate, setup_context=_save)
