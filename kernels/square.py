"""What the passes over rectangles of pairs need to know of a batch in Triton, the same for every layer: torch alone, so
that it can be made beforehand, on a CPU (`prealign.kernels.rank_plan`)."""

from dataclasses import dataclass

import torch

from prealign.kernels.pieces import Pairs, Piece
from prealign.kernels.symmetric import IGNORED, IGNORED_BY, POSITIVE, POSITIVE_OF

WORKSPACE_ELEMENTS = 1 << 27
"""Elements of ``G`` held at a time: 256 MB in bf16."""


def square_shape(dtype: torch.dtype) -> tuple[int, int]:
    """Rows and columns of a tile: 128 x 256 accumulators fill the registers of eight warps; fp32 operands take twice
    the shared memory."""
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"impl='triton' found {dtype}; expected float32 or bfloat16 (float64: impl='chunked')")
    return (128, 256) if dtype == torch.bfloat16 else (64, 64)


@dataclass(frozen=True)
class LsePlan:
    """A piece as the lse kernel needs it, the same for every layer.

    ``tile_index``: int32 ``[row tiles x column tiles]``, the number of a tile that has pairs to leave out, -1 for
    others. ``bits``: int32, for each of these tiles a bit a pair.
    """

    tile_index: torch.Tensor
    bits: torch.Tensor


@dataclass(frozen=True)
class GradientPlan:
    """A piece as the gradient's kernels need it, the same for every layer.

    ``pair_*``: int64 ``[E]``, row, column and kind (which sides of what relations) of every pair that is special, by
    row and column, each once. ``blocks``: int64 ``[blocks, 4]`` on the CPU, whatever the others are on: first and end
    of the rows of ``G`` that are held at a time, and of their pairs. Others: of the piece.
    """

    row_weight: torch.Tensor
    column_weight: torch.Tensor
    row_share: torch.Tensor
    column_share: torch.Tensor
    pair_rows: torch.Tensor
    pair_columns: torch.Tensor
    pair_kinds: torch.Tensor
    blocks: torch.Tensor


def plan_lse(piece: Piece, dtype: torch.dtype) -> LsePlan:
    """Pack the pairs that a row's denominator leaves out, by tile."""
    rows, columns = square_shape(dtype)
    left_out = [piece.ignored] if piece.include_self else [piece.ignored, piece.same]
    # each pair once: a word may also be listed as ignored by itself
    width = max(len(piece.columns), 1)
    keys = torch.cat([_keys(pairs, width) for pairs in left_out]).unique()
    row, column = keys // width, keys % width
    column_tiles = -(-len(piece.columns) // columns)
    numbers, which = torch.unique(row // rows * column_tiles + column // columns, return_inverse=True)
    all_tiles = -(-len(piece.rows) // rows) * column_tiles
    index = torch.full((all_tiles,), -1, dtype=torch.int32, device=row.device)
    index[numbers] = torch.arange(len(numbers), dtype=torch.int32, device=row.device)
    # bits that differ can be added; bit 31 wraps to the sign
    place = (which * rows + row % rows) * columns + column % columns
    bits = index.new_zeros(max(len(numbers), 1) * rows * columns // 32)
    bits.index_add_(0, place // 32, (torch.ones_like(place) << (place % 32)).to(torch.int32))
    return LsePlan(index, bits)


def plan_gradient(piece: Piece, dtype: torch.dtype, row_terms: bool, column_terms: bool) -> GradientPlan:
    """List the pairs whose entries of ``G`` are special in the rows' terms, in the columns' terms, or in both."""
    tile_rows, _ = square_shape(dtype)
    special: list[tuple[int, Pairs]] = []
    if row_terms:
        special += [(IGNORED, piece.ignored), (POSITIVE, piece.positives)]
        special += [] if piece.include_self else [(IGNORED, piece.same)]
    if column_terms:
        special += [(IGNORED_BY, piece.ignored_by), (POSITIVE_OF, piece.positive_of)]
        special += [] if piece.include_self else [(IGNORED_BY, piece.same)]
    width = max(len(piece.columns), 1)
    keys, which = torch.unique(torch.cat([_keys(pairs, width) for _, pairs in special]), return_inverse=True)
    kinds = torch.zeros_like(keys)
    for (kind, _), entries in zip(special, which.split([len(pairs.rows) for _, pairs in special])):
        kinds[entries] |= kind
    # a block is a whole number of tiles high
    height = max(1, WORKSPACE_ELEMENTS // width // tile_rows) * tile_rows
    first = torch.arange(0, len(piece.rows) + height, height).clamp(max=len(piece.rows)).unique()
    pairs = torch.searchsorted(keys, (first * width).to(keys.device)).cpu()
    bounds = torch.stack((first[:-1], first[1:], pairs[:-1], pairs[1:]), dim=1)
    weights = (piece.row_weight, piece.column_weight, piece.row_share, piece.column_share)
    return GradientPlan(*weights, keys // width, keys % width, kinds, bounds)


def _keys(pairs: Pairs, width: int) -> torch.Tensor:
    """A number for each pair, ascending by row and column; int64 ``[E]``."""
    return pairs.rows * width + pairs.columns
