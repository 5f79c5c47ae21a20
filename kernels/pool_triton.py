"""Span pooling in Triton: a program per word forward, per token backward, each hidden state read once.

A program holds a whole row, so the sum, the norm and the division need one pass. Backward goes by token: it writes each
row of the gradient exactly once, those outside all spans as zeros; the rows of a word that its tokens share come from
the cache. Offsets are 64-bit and the grid has one axis.
"""

import torch
import triton
import triton.language as tl

VARYING = ["words", "tokens"]
"""Arguments that change with every batch and must not make a kernel be compiled anew."""


# fmt: off
@triton.jit(do_not_specialize=VARYING)
def _forward_kernel(
    hidden, ids, starts, lengths, z, inverse, words, size, row_stride, layer_stride,
    GATHER: tl.constexpr, BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    layer, word = program // words, program % words
    start = tl.load(starts + word)
    length = tl.load(lengths + word)
    column = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    base = hidden + layer.to(tl.int64) * layer_stride
    for offset in range(0, length):
        row = start + offset
        if GATHER:
            row = tl.load(ids + row)
        total += tl.load(base + row.to(tl.int64) * row_stride + column, mask=column < size, other=0.0).to(tl.float32)
    mean = total / length.to(tl.float32)
    norm = tl.sqrt(tl.sum(mean * mean, axis=0))
    scale = tl.where(norm < 1e-12, 0.0, 1.0 / tl.maximum(norm, 1e-12))
    place = program.to(tl.int64) * size + column
    tl.store(z + place, (mean * scale).to(z.dtype.element_ty), mask=column < size)
    tl.store(inverse + program, scale)


@triton.jit
def _owner_kernel(starts, lengths, owner):
    """Write each word's number to its tokens."""
    word = tl.program_id(0)
    start = tl.load(starts + word)
    for offset in range(0, tl.load(lengths + word)):
        tl.store(owner + start + offset, word)


@triton.jit(do_not_specialize=VARYING)
def _backward_kernel(
    grad, z, inverse, owner, lengths, result, tokens, words, size,
    grad_layer_stride, grad_row_stride, grad_column_stride, BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    layer, token = program // tokens, program % tokens
    word = tl.load(owner + token)
    column = tl.arange(0, BLOCK)
    inside = (column < size) & (word >= 0)
    line = layer.to(tl.int64) * words + word
    row = grad + layer.to(tl.int64) * grad_layer_stride + word.to(tl.int64) * grad_row_stride
    upstream = tl.load(row + column.to(tl.int64) * grad_column_stride, mask=inside, other=0.0).to(tl.float32)
    vector = tl.load(z + line * size + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(inverse + line, mask=word >= 0, other=0.0)
    length = tl.load(lengths + word, mask=word >= 0, other=1).to(tl.float32)
    along = tl.sum(upstream * vector, axis=0)
    value = (upstream - vector * along) * (scale / length)
    place = program.to(tl.int64) * size + column
    tl.store(result + place, value.to(result.dtype.element_ty), mask=column < size)
# fmt: on


def span_means(
    hidden: torch.Tensor, ids: torch.Tensor | None, starts: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `prealign.kernels.pool.span_means`."""
    _check(hidden.dtype)
    layers, _, size = hidden.shape
    words = len(starts)
    if hidden.stride(-1) != 1:
        hidden = hidden.contiguous()
    z = hidden.new_empty((layers, words, size))
    inverse = hidden.new_empty((layers, words), dtype=torch.float32)
    if layers * words:
        _forward_kernel[(layers * words,)](
            hidden, starts if ids is None else ids, starts, lengths, z, inverse,
            words, size, hidden.stride(1), hidden.stride(0), GATHER=ids is not None, **_block(size),
        )  # fmt: skip
    return z, inverse


def span_gradients(
    grad: torch.Tensor,
    z: torch.Tensor,
    inverse: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    token_count: int,
) -> torch.Tensor:
    """See `prealign.kernels.pool.span_gradients`; gradients of any strides, expanded ones included."""
    _check(z.dtype)
    layers, words, size = z.shape
    owner = torch.full((token_count,), -1, dtype=torch.int32, device=z.device)
    result = z.new_empty((layers, token_count, size))
    if words:
        _owner_kernel[(words,)](starts, lengths, owner, num_warps=1)
    if layers * token_count:
        _backward_kernel[(layers * token_count,)](
            grad, z, inverse, owner, lengths, result, token_count, words, size, *grad.stride(), **_block(size)
        )
    return result


def _block(size: int) -> dict[str, int]:
    block = triton.next_power_of_2(max(size, 16))
    return {"BLOCK": block, "num_warps": min(16, max(1, block // 512))}


def _check(dtype: torch.dtype) -> None:
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"impl='triton' found {dtype}; expected float32 or bfloat16 (float64: impl='torch')")
