"""The two passes in Triton.

``lse``: 2-D tiles of scores, never written: each tile stores its row maxima and row sums, and a fixed-order reduction
over the column tiles follows. ``gradient``: the scores once more, tile by tile, turned into ``G`` in fp32 (the
positives taken off before rounding) and written to a bounded workspace, which a matrix product of the vendor's library
then consumes.

Pairs that are special (a word and itself, ignored, positive) are packed, four bits a pair, for the tiles that have any.
Those tiles have a launch of their own; the code of all others knows nothing of them, which keeps their registers for
the accumulator. Offsets are 64-bit and the grid has one axis.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from prealign.kernels.chunked import wide_product
from prealign.kernels.pieces import Pairs, Piece

IGNORED, IGNORED_BY, POSITIVE, POSITIVE_OF = (tl.constexpr(bit) for bit in range(4))
"""Bit of each relation in a pair's four."""

_WORKSPACE_ELEMENTS = 1 << 27
"""Elements of ``G`` held at a time: 256 MB in bf16."""

_LOG2E = 1.4426950408889634


@dataclass(frozen=True)
class Tiles:
    """Tile sizes; fixed by dtype, so that the same call gives the same bits on every run."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


def tiles_for(dtype: torch.dtype) -> Tiles:
    """128 x 256 accumulators fill the registers of eight warps; fp32 operands take twice the shared memory."""
    if dtype == torch.bfloat16:
        return Tiles(rows=128, columns=256, depth=64, warps=8, stages=3)
    return Tiles(rows=64, columns=64, depth=32, warps=4, stages=3)


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


@triton.jit
def _pair_bits(bits, tile, local_row, local_column, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The four bits of each pair of a special tile."""
    words: tl.constexpr = COLUMNS // 8
    base = bits + tile.to(tl.int64) * (ROWS * words)
    word = tl.load(base + local_row[:, None] * words + (local_column // 8)[None, :])
    return word >> ((local_column % 8) * 4)[None, :]


@triton.jit
def _has(pair, BIT: tl.constexpr):
    return ((pair >> BIT) & 1) != 0


@triton.jit
def _lse_kernel(
    own, columns, tile_index, tile_numbers, bits, maxima, sums,
    row_count, column_count, size, own_stride, column_stride, row_tiles, column_tiles, scale,
    SPECIAL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    GROUP: tl.constexpr, WHOLE: tl.constexpr, INTERPRET: tl.constexpr,
):
    if SPECIAL:
        tile = tl.program_id(0)
        number = tl.load(tile_numbers + tile)
        row_tile, column_tile = number // column_tiles, number % column_tiles
    else:
        row_tile, column_tile = _tile_of(tl.program_id(0), row_tiles, column_tiles, GROUP)
        if tl.load(tile_index + row_tile.to(tl.int64) * column_tiles + column_tile) >= 0:
            return
    local_row, local_column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    row, column = row_tile * ROWS + local_row, column_tile * COLUMNS + local_column
    scores = _scores(
        own, columns, row, column, row_count, column_count, size, own_stride, column_stride,
        DEPTH, ROWS, COLUMNS, WHOLE, INTERPRET,
    ) * scale
    excluded = (column >= column_count)[None, :]
    if SPECIAL:
        pair = _pair_bits(bits, tile, local_row, local_column, ROWS, COLUMNS)
        excluded = excluded | _has(pair, IGNORED)
    scores = tl.where(excluded, float("-inf"), scores)  # before any maximum
    largest = tl.max(scores, axis=1)
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    total = tl.sum(tl.exp2(scores - shift[:, None]), axis=1)
    place = column_tile.to(tl.int64) * row_count + row
    tl.store(maxima + place, largest, mask=row < row_count)
    tl.store(sums + place, total, mask=row < row_count)


@triton.jit
def _matrix_kernel(
    own, columns, tile_index, tile_numbers, bits, matrix, row_shift, column_shift, row_share, column_share,
    first_row_tile, row_count, column_count, size, own_stride, column_stride, row_tiles, column_tiles, scale,
    SPECIAL: tl.constexpr, ROW_TERMS: tl.constexpr, COLUMN_TERMS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    GROUP: tl.constexpr, WHOLE: tl.constexpr, INTERPRET: tl.constexpr,
):
    """``*_shift`` is ``log2 e * lse - log2 a``, so that ``a exp(s - lse)`` is one power of two; +inf for no anchor."""
    if SPECIAL:
        tile = tl.program_id(0)
        number = tl.load(tile_numbers + tile)
        row_tile, column_tile = number // column_tiles - first_row_tile, number % column_tiles
        if (row_tile < 0) | (row_tile >= row_tiles):
            return
    else:
        row_tile, column_tile = _tile_of(tl.program_id(0), row_tiles, column_tiles, GROUP)
        if tl.load(tile_index + (first_row_tile + row_tile).to(tl.int64) * column_tiles + column_tile) >= 0:
            return
    local_row, local_column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    row = (first_row_tile + row_tile) * ROWS + local_row
    column = column_tile * COLUMNS + local_column
    has_row, has_column = row < row_count, column < column_count
    scores = _scores(
        own, columns, row, column, row_count, column_count, size, own_stride, column_stride,
        DEPTH, ROWS, COLUMNS, WHOLE, INTERPRET,
    ) * scale
    if SPECIAL:
        pair = _pair_bits(bits, tile, local_row, local_column, ROWS, COLUMNS)
    result = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    if ROW_TERMS:
        shift = tl.load(row_shift + row, mask=has_row, other=float("inf"))
        part = tl.exp2(scores - shift[:, None])
        if SPECIAL:
            part = tl.where(_has(pair, IGNORED), 0.0, part)
            share = tl.load(row_share + row, mask=has_row, other=0.0)
            part -= tl.where(_has(pair, POSITIVE), share[:, None], 0.0)
        result += part
    if COLUMN_TERMS:
        shift = tl.load(column_shift + column, mask=has_column, other=float("inf"))
        part = tl.exp2(scores - shift[None, :])
        if SPECIAL:
            part = tl.where(_has(pair, IGNORED_BY), 0.0, part)
            share = tl.load(column_share + column, mask=has_column, other=0.0)
            part -= tl.where(_has(pair, POSITIVE_OF), share[None, :], 0.0)
        result += part
    place = (row - first_row_tile * ROWS).to(tl.int64)[:, None] * column_count + column[None, :]
    tl.store(matrix + place, result.to(matrix.dtype.element_ty), mask=has_row[:, None] & has_column[None, :])
# fmt: on


@dataclass(frozen=True)
class Plan:
    """A piece as the kernels need it, the same for every layer.

    ``tile_index``: int32 ``[row tiles x column tiles]``, the place of a special tile in ``tile_numbers``, -1 for
    others. ``tile_numbers``: int32, the special tiles. ``bits``: int32, four bits a pair of these tiles.
    """

    piece: Piece
    tiles: Tiles
    row_terms: bool
    column_terms: bool
    tile_index: torch.Tensor
    tile_numbers: torch.Tensor
    bits: torch.Tensor

    @property
    def column_tiles(self) -> int:
        return triton.cdiv(len(self.piece.columns), self.tiles.columns)

    def launches(self, row_tiles: int) -> list[tuple[int, bool]]:
        """(programs, whether special): all tiles, of which those that are special return at once, then these."""
        launches = [(row_tiles * self.column_tiles, False)]
        return launches + [(len(self.tile_numbers), True)] * (len(self.tile_numbers) > 0)

    def constants(self, size: int) -> dict[str, int | bool]:
        """Compile-time arguments that both kernels take."""
        tiles = self.tiles
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


def plan(piece: Piece, dtype: torch.dtype, row_terms: bool, column_terms: bool) -> Plan:
    """Pack the pairs of a piece by tile: those that bear on the rows' terms, on the columns' terms, or on both."""
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"impl='triton' found {dtype}; expected float32 or bfloat16 (float64: impl='chunked')")
    tiles = tiles_for(dtype)
    relations: list[tuple[tl.constexpr, Pairs]] = []
    if row_terms:
        relations += [(IGNORED, piece.ignored), (POSITIVE, piece.positives)]
        relations += [] if piece.include_self else [(IGNORED, piece.same)]
    if column_terms:
        relations += [(IGNORED_BY, piece.ignored_by), (POSITIVE_OF, piece.positive_of)]
        relations += [] if piece.include_self else [(IGNORED_BY, piece.same)]
    row = torch.cat([pairs.rows for _, pairs in relations])
    column = torch.cat([pairs.columns for _, pairs in relations])
    bit = torch.cat([torch.full_like(pairs.rows, bit.value) for bit, pairs in relations])
    column_tiles = triton.cdiv(len(piece.columns), tiles.columns)
    numbers, which = torch.unique(row // tiles.rows * column_tiles + column // tiles.columns, return_inverse=True)
    all_tiles = triton.cdiv(len(piece.rows), tiles.rows) * column_tiles
    index = torch.full((all_tiles,), -1, dtype=torch.int32, device=row.device)
    index[numbers] = torch.arange(len(numbers), dtype=torch.int32, device=index.device)
    # a bit set once can be added; bit 31 wraps to the sign
    place = (which * tiles.rows + row % tiles.rows) * tiles.columns + column % tiles.columns
    once = torch.unique(place * 4 + bit)
    bits = index.new_zeros(max(len(numbers), 1) * tiles.rows * tiles.columns // 8)
    bits.index_add_(0, once // 32, (torch.ones_like(once) << (once % 32)).to(torch.int32))
    return Plan(piece, tiles, row_terms, column_terms, index, numbers.to(torch.int32), bits)


def row_lse(own: torch.Tensor, columns: torch.Tensor, plan: Plan, tau: float) -> torch.Tensor:
    """See `prealign.kernels.chunked.row_lse`."""
    rows, size = own.shape
    maxima = torch.empty((plan.column_tiles, rows), dtype=torch.float32, device=own.device)
    sums = torch.empty_like(maxima)
    if rows == 0:
        return maxima.new_empty(0)
    row_tiles = triton.cdiv(rows, plan.tiles.rows)
    for programs, special in plan.launches(row_tiles):
        _lse_kernel[(programs,)](
            own, columns, plan.tile_index, plan.tile_numbers, plan.bits, maxima, sums,
            rows, len(columns), size, own.stride(0), columns.stride(0), row_tiles, plan.column_tiles, _LOG2E / tau,
            SPECIAL=special, **plan.constants(size),
        )  # fmt: skip
    largest = maxima.amax(dim=0)
    shift = torch.where(largest == -torch.inf, 0.0, largest)
    return (shift + torch.log2((sums * torch.exp2(maxima - shift)).sum(dim=0))) / _LOG2E


def row_gradient(
    own: torch.Tensor,
    columns: torch.Tensor,
    plan: Plan,
    tau: float,
    row_lse: torch.Tensor | None,
    column_lse: torch.Tensor | None,
) -> torch.Tensor:
    """See `prealign.kernels.chunked.row_gradient`; ``G`` is rounded to the dtype of ``own``."""
    piece, (rows, size) = plan.piece, own.shape
    nothing = own.new_empty(0, dtype=torch.float32)
    row_shift = nothing if row_lse is None else row_lse * _LOG2E - torch.log2(piece.row_weight)
    column_shift = nothing if column_lse is None else column_lse * _LOG2E - torch.log2(piece.column_weight)
    gradient = torch.empty((rows, size), dtype=torch.float32, device=own.device)
    height = plan.tiles.rows
    block_tiles = max(1, _WORKSPACE_ELEMENTS // max(len(columns), 1) // height)
    workspace = torch.empty((min(block_tiles * height, rows), len(columns)), dtype=own.dtype, device=own.device)
    for first_tile in range(0, triton.cdiv(rows, height), block_tiles):
        block = slice(first_tile * height, min((first_tile + block_tiles) * height, rows))
        row_tiles = triton.cdiv(block.stop - block.start, height)
        for programs, special in plan.launches(row_tiles):
            _matrix_kernel[(programs,)](
                own, columns, plan.tile_index, plan.tile_numbers, plan.bits, workspace,
                row_shift, column_shift, piece.row_share, piece.column_share,
                first_tile, rows, len(columns), size, own.stride(0), columns.stride(0), row_tiles, plan.column_tiles,
                _LOG2E / tau, SPECIAL=special, ROW_TERMS=plan.row_terms, COLUMN_TERMS=plan.column_terms,
                **plan.constants(size),
            )  # fmt: skip
        gradient[block] = wide_product(workspace[: block.stop - block.start], columns)
    return gradient.div_(tau)
