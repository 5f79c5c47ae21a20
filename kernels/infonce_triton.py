"""The two passes in Triton.

``lse``: 2-D tiles of scores, never written: each tile stores its row maxima and row sums, and a fixed-order reduction
over the column tiles follows. ``gradient``: the scores once more, tile by tile, turned into ``G`` in fp32 and written
to a bounded workspace, which a matrix product of the vendor's library then consumes.

A pair that is special (a word and itself, ignored, positive) costs the tiles as little as can be. In the denominator
positives are ordinary words; what is left out of it is one bit a pair, read by those tiles that have any. ``G`` is
first written as if no pair were special; then the entries of those that are, from a list, are computed anew, whole, in
fp32 and put in their places, each by one program. Offsets are 64-bit and grids have one axis.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from prealign.kernels.chunked import wide_product
from prealign.kernels.pieces import Pairs
from prealign.kernels.square import GradientPlan, LsePlan, square_shape
from prealign.kernels.square import plan_gradient as plan_gradient
from prealign.kernels.square import plan_lse as plan_lse
from prealign.kernels.symmetric import KINDS
from prealign.kernels.tiles import Tiles, tiles_for

IGNORED, IGNORED_BY, POSITIVE, POSITIVE_OF = (tl.constexpr(kind) for kind in KINDS)

_ALIGNMENT = 64
"""Rows of the workspace start at multiples of this, whatever the number of words: wide stores, and a product that reads
whole lines."""

_LOG2E = 1.4426950408889634


PAIRS = {"PAIRS": 128, "DEPTH": 64, "num_warps": 8}
"""Pairs of a program of the kernels that work on listed pairs, and how much of their vectors is read at a time."""

VARYING = ["row_count", "column_count", "row_tiles", "column_tiles", "first_row", "first_pair", "end_pair"]
"""Arguments that change with every batch and must not make a kernel be compiled anew."""


# fmt: off
@triton.jit
def _tile_of(program, row_tiles, column_tiles, GROUP: tl.constexpr):
    """Tiles in groups of rows, so that neighbours share columns in the cache."""
    per_group = GROUP * column_tiles
    first = (program // per_group) * GROUP
    height = tl.minimum(row_tiles - first, GROUP)
    return first + (program % per_group) % height, (program % per_group) // height


@triton.jit
def _scores(
    own, columns, row, column, row_count, column_count, size, own_stride, column_stride,
    DEPTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WHOLE: tl.constexpr, INTERPRET: tl.constexpr,
):
    """``own[row] @ columns[column].T`` in fp32, ``[ROWS, COLUMNS]``; what lies beyond the ends repeats row and column
    0. ``WHOLE``: the size is a multiple of the depth, so the loop needs no masks."""
    depth = tl.arange(0, DEPTH)
    left = own + tl.where(row < row_count, row, 0).to(tl.int64)[:, None] * own_stride + depth[None, :]
    right = columns + tl.where(column < column_count, column, 0).to(tl.int64)[None, :] * column_stride + depth[:, None]
    result = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for begin in range(0, size, DEPTH):
        if WHOLE:
            a = tl.load(left)
            b = tl.load(right)
        else:
            inside = begin + depth < size
            a = tl.load(left, mask=inside[None, :], other=0.0)
            b = tl.load(right, mask=inside[:, None], other=0.0)
        if INTERPRET:  # the interpreter multiplies bf16 operands as raw bits
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        result = tl.dot(a, b, result, input_precision="ieee")
        left += DEPTH
        right += DEPTH
    return result


@triton.jit(do_not_specialize=VARYING)
def _lse_kernel(
    own, columns, tile_index, bits, maxima, sums,
    row_count, column_count, size, own_stride, column_stride, row_tiles, column_tiles, scale,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    GROUP: tl.constexpr, WHOLE: tl.constexpr, INTERPRET: tl.constexpr,
):
    row_tile, column_tile = _tile_of(tl.program_id(0), row_tiles, column_tiles, GROUP)
    local_row, local_column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    row, column = row_tile * ROWS + local_row, column_tile * COLUMNS + local_column
    scores = _scores(
        own, columns, row, column, row_count, column_count, size, own_stride, column_stride,
        DEPTH, ROWS, COLUMNS, WHOLE, INTERPRET,
    ) * scale
    scores = tl.where((column < column_count)[None, :], scores, float("-inf"))  # before any maximum
    masked = tl.load(tile_index + row_tile.to(tl.int64) * column_tiles + column_tile)
    if masked >= 0:
        words: tl.constexpr = COLUMNS // 32
        base = bits + masked.to(tl.int64) * (ROWS * words)
        word = tl.load(base + local_row[:, None] * words + tl.arange(0, words)[None, :])
        left_out = ((word[:, :, None] >> tl.arange(0, 32)[None, None, :]) & 1) != 0
        scores = tl.where(tl.reshape(left_out, (ROWS, COLUMNS)), float("-inf"), scores)
    largest = tl.max(scores, axis=1)
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    total = tl.sum(tl.exp2(scores - shift[:, None]), axis=1)
    place = column_tile.to(tl.int64) * row_count + row
    tl.store(maxima + place, largest, mask=row < row_count)
    tl.store(sums + place, total, mask=row < row_count)


@triton.jit(do_not_specialize=VARYING)
def _matrix_kernel(
    own, columns, matrix, row_shift, column_shift,
    first_row, row_count, column_count, size, own_stride, column_stride, matrix_stride, row_tiles, column_tiles, scale,
    ROW_TERMS: tl.constexpr, COLUMN_TERMS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    GROUP: tl.constexpr, WHOLE: tl.constexpr, INTERPRET: tl.constexpr,
):
    """Rows of ``G`` from ``first_row`` on, as if no pair were special, 0 beyond the last column. ``*_shift`` is
    ``log2 e * lse - log2 a``, so that ``a exp(s - lse)`` is one power of two; +inf for no anchor."""
    row_tile, column_tile = _tile_of(tl.program_id(0), row_tiles, column_tiles, GROUP)
    local_row = row_tile * ROWS + tl.arange(0, ROWS)
    row = first_row + local_row
    column = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    has_row, has_column = row < row_count, column < column_count
    scores = _scores(
        own, columns, row, column, row_count, column_count, size, own_stride, column_stride,
        DEPTH, ROWS, COLUMNS, WHOLE, INTERPRET,
    ) * scale
    result = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    if ROW_TERMS:
        result += tl.exp2(scores - tl.load(row_shift + row, mask=has_row, other=float("inf"))[:, None])
    if COLUMN_TERMS:
        result += tl.exp2(scores - tl.load(column_shift + column, mask=has_column, other=float("inf"))[None, :])
    result = tl.where(has_column[None, :], result, 0.0).to(matrix.dtype.element_ty)
    place = local_row.to(tl.int64)[:, None] * matrix_stride + column[None, :]
    tl.store(matrix + place, result, mask=has_row[:, None] & (column < matrix_stride)[None, :])


@triton.jit
def _products(
    own, columns, row, column, wanted, size, own_stride, column_stride, PAIRS: tl.constexpr, DEPTH: tl.constexpr
):
    """``<own[row], columns[column]>`` in fp32, ``[PAIRS]``; 0 where not wanted."""
    left = own + row.to(tl.int64)[:, None] * own_stride
    right = columns + column.to(tl.int64)[:, None] * column_stride
    total = tl.zeros((PAIRS, DEPTH), dtype=tl.float32)
    for begin in range(0, size, DEPTH):
        depth = begin + tl.arange(0, DEPTH)[None, :]
        mask = wanted[:, None] & (depth < size)
        a = tl.load(left + depth, mask=mask, other=0.0).to(tl.float32)
        total += a * tl.load(right + depth, mask=mask, other=0.0).to(tl.float32)
    return tl.sum(total, axis=1)


@triton.jit(do_not_specialize=VARYING)
def _product_kernel(
    own, columns, pair_rows, pair_columns, products, end_pair, size, own_stride, column_stride,
    PAIRS: tl.constexpr, DEPTH: tl.constexpr,
):
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    listed = pair < end_pair
    row = tl.load(pair_rows + pair, mask=listed, other=0)
    column = tl.load(pair_columns + pair, mask=listed, other=0)
    result = _products(own, columns, row, column, listed, size, own_stride, column_stride, PAIRS, DEPTH)
    tl.store(products + pair, result, mask=listed)


@triton.jit(do_not_specialize=VARYING)
def _special_kernel(
    own, columns, pair_rows, pair_columns, pair_kinds, matrix, row_shift, column_shift, row_share, column_share, factor,
    first_pair, end_pair, first_row, size, own_stride, column_stride, matrix_stride, scale,
    ROW_TERMS: tl.constexpr, COLUMN_TERMS: tl.constexpr, SCALED: tl.constexpr,
    PAIRS: tl.constexpr, DEPTH: tl.constexpr,
):
    """Entries of ``G`` whose pairs are special, the positives taken off, and with ``SCALED`` times the number at
    ``factor``, before rounding."""
    pair = first_pair + tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    listed = pair < end_pair
    row = tl.load(pair_rows + pair, mask=listed, other=0)
    column = tl.load(pair_columns + pair, mask=listed, other=0)
    kind = tl.load(pair_kinds + pair, mask=listed, other=0)
    row_part = (kind & IGNORED == 0) & ROW_TERMS
    column_part = (kind & IGNORED_BY == 0) & COLUMN_TERMS
    wanted = listed & (row_part | column_part)  # else no more than the shares
    products = _products(own, columns, row, column, wanted, size, own_stride, column_stride, PAIRS, DEPTH)
    scores = products * scale
    result = tl.zeros((PAIRS,), dtype=tl.float32)
    if ROW_TERMS:
        part = tl.exp2(scores - tl.load(row_shift + row, mask=listed, other=float("inf")))
        share = tl.load(row_share + row, mask=listed, other=0.0)
        result += tl.where(row_part, part, 0.0) - tl.where(kind & POSITIVE != 0, share, 0.0)
    if COLUMN_TERMS:
        part = tl.exp2(scores - tl.load(column_shift + column, mask=listed, other=float("inf")))
        share = tl.load(column_share + column, mask=listed, other=0.0)
        result += tl.where(column_part, part, 0.0) - tl.where(kind & POSITIVE_OF != 0, share, 0.0)
    if SCALED:
        result *= tl.load(factor)
    place = (row - first_row).to(tl.int64) * matrix_stride + column
    tl.store(matrix + place, result.to(matrix.dtype.element_ty), mask=listed)
# fmt: on


def row_lse(own: torch.Tensor, columns: torch.Tensor, plan: LsePlan, tau: float) -> torch.Tensor:
    """See `prealign.kernels.chunked.row_lse`."""
    rows, size = own.shape
    tiles = _tiles(own)
    row_tiles, column_tiles = triton.cdiv(rows, tiles.rows), triton.cdiv(len(columns), tiles.columns)
    maxima = torch.empty((column_tiles, rows), dtype=torch.float32, device=own.device)
    sums = torch.empty_like(maxima)
    if rows == 0:
        return maxima.new_empty(0)
    _lse_kernel[(row_tiles * column_tiles,)](
        own, columns, plan.tile_index, plan.bits, maxima, sums,
        rows, len(columns), size, own.stride(0), columns.stride(0), row_tiles, column_tiles, _LOG2E / tau,
        **_constants(tiles, size),
    )  # fmt: skip
    largest = maxima.amax(dim=0)
    shift = torch.where(largest == -torch.inf, 0.0, largest)
    return (shift + torch.log2((sums * torch.exp2(maxima - shift)).sum(dim=0))) / _LOG2E


def row_gradient(
    own: torch.Tensor,
    columns: torch.Tensor,
    plan: GradientPlan,
    tau: float,
    row_lse: torch.Tensor | None,
    column_lse: torch.Tensor | None,
) -> torch.Tensor:
    """See `prealign.kernels.chunked.row_gradient`; ``G`` is rounded to the dtype of ``own``."""
    size, tiles = own.shape[1], _tiles(own)
    if not len(columns):  # no anchors in the batch: nothing to launch, nothing to multiply
        return torch.zeros(own.shape, dtype=torch.float32, device=own.device)
    row_shift = None if row_lse is None else row_lse * _LOG2E - torch.log2(plan.row_weight)
    column_shift = None if column_lse is None else column_lse * _LOG2E - torch.log2(plan.column_weight)
    terms = {"ROW_TERMS": row_lse is not None, "COLUMN_TERMS": column_lse is not None}
    gradient = torch.empty(own.shape, dtype=torch.float32, device=own.device)
    column_tiles = triton.cdiv(len(columns), tiles.columns)
    blocks = plan.blocks.tolist()
    highest = max((end - first for first, end, _, _ in blocks), default=0)
    workspace = own.new_empty((highest, triton.cdiv(len(columns), _ALIGNMENT) * _ALIGNMENT))
    # a product over a number of words that is not a multiple of eight takes a slower path
    padding = -len(columns) % 8
    factors = F.pad(columns, (0, 0, 0, padding)) if padding else columns
    strides = (own.stride(0), columns.stride(0), workspace.stride(0))
    for first, end, first_pair, end_pair in blocks:
        height = end - first
        row_tiles = triton.cdiv(height, tiles.rows)
        _matrix_kernel[(row_tiles * column_tiles,)](
            own, columns, workspace, row_shift, column_shift,
            first, end, len(columns), size, *strides, row_tiles, column_tiles, _LOG2E / tau,
            **terms, **_constants(tiles, size),
        )  # fmt: skip
        if end_pair > first_pair:
            _special_kernel[(triton.cdiv(end_pair - first_pair, PAIRS["PAIRS"]),)](
                own, columns, plan.pair_rows, plan.pair_columns, plan.pair_kinds, workspace,
                row_shift, column_shift, plan.row_share, plan.column_share, None,
                first_pair, end_pair, first, size, *strides, _LOG2E / tau, **terms, SCALED=False, **PAIRS,
            )  # fmt: skip
        wide_product(workspace[:height, : len(factors)], factors, out=gradient[first:end])
    return gradient


def pair_products(own: torch.Tensor, columns: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """See `prealign.kernels.chunked.pair_products`."""
    products = torch.empty(len(pairs.rows), dtype=torch.float32, device=own.device)
    if len(products):
        _product_kernel[(triton.cdiv(len(products), PAIRS["PAIRS"]),)](
            own, columns, pairs.rows, pairs.columns, products,
            len(products), own.shape[1], own.stride(0), columns.stride(0), **PAIRS,
        )  # fmt: skip
    return products


def _constants(tiles: Tiles, size: int) -> dict[str, int | bool]:
    """Compile-time arguments of the kernels that work on tiles."""
    return {
        "ROWS": tiles.rows,
        "COLUMNS": tiles.columns,
        "DEPTH": tiles.depth,
        "GROUP": 8,
        "WHOLE": size % tiles.depth == 0,
        "INTERPRET": bool(triton.knobs.runtime.interpret),
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }


def _tiles(own: torch.Tensor) -> Tiles:
    return tiles_for("square", own.dtype, own.device, own.shape[1], square_shape(own.dtype))
