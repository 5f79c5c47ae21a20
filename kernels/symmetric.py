"""What the symmetric passes need to know of a batch, the same for every layer and for both passes: made once a step, on
the CPU where the relations are there, so that no pass waits for the device.

``S`` is symmetric, and so is ``G``, whatever the relations: ``G_ij = exp(s_ij) (r_i + r_j)`` but at special pairs. One
rank that has all words as rows therefore computes the upper triangle of tiles alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from prealign.kernels.relations import Relations, edges

KINDS = IGNORED, IGNORED_BY, POSITIVE, POSITIVE_OF = tuple(1 << bit for bit in range(4))
"""What is special about a pair, from its row's side and from its column's."""

FEW_FOR_TRIANGLE = 0.4
"""Below this share of anchors the two thin rectangles of `passes` cost less: ``5 A W`` against ``2 W W`` scores."""

_ROW_TILES_PER_GROUP = 16
"""Tiles are taken in groups of so many row tiles, column by column, so that neighbours share columns in the cache."""


@dataclass(frozen=True)
class SymmetricPlan:
    """Tiles of the upper triangle, and the special pairs.

    ``order``: int32 ``[tiles]``, ``row_tile << 16 | column_tile``. ``tile_index``: int32 ``[tiles]``, the number of a
    tile with pairs that the denominators leave out, or that lie beyond the last word; -1 for others. ``bits``: int32,
    for each of these tiles a bit a pair. ``pair_rows``, ``pair_columns``, ``pair_kinds``: int64 ``[E]``, every special
    pair, by row and column, each once.
    """

    order: torch.Tensor
    tile_index: torch.Tensor
    bits: torch.Tensor
    pair_rows: torch.Tensor
    pair_columns: torch.Tensor
    pair_kinds: torch.Tensor
    include_self: bool

    @classmethod
    def of(cls, tensors: Sequence[torch.Tensor], include_self: bool) -> "SymmetricPlan":
        """Its tensors, in order, put together again."""
        order, tile_index, bits, rows, columns, kinds = tensors
        return cls(order, tile_index, bits, rows, columns, kinds, include_self)

    def tensors(self) -> list[torch.Tensor]:
        """The tensors, in order."""
        return [self.order, self.tile_index, self.bits, self.pair_rows, self.pair_columns, self.pair_kinds]

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "SymmetricPlan":
        """The same plan of changed tensors."""
        return SymmetricPlan.of([change(tensor) for tensor in self.tensors()], self.include_self)


def tile_shape(words: int) -> tuple[int, int]:
    """Rows and columns of a tile; with few words smaller ones, which keep more of the card busy."""
    return (128, 128) if words <= 8192 else (128, 256)


def plan_symmetric(relations: Relations, include_self: bool) -> SymmetricPlan | None:
    """The plan of a batch, on the device of its relations; None where the ignored relation is not symmetric, or where
    few words are anchors."""
    words, device = len(relations), relations.anchor_weight.device
    rows, columns = tile_shape(words)
    ignored, positive = edges(relations.ignored), edges(relations.positives)
    forth, back = ignored[0] * words + ignored[1], ignored[1] * words + ignored[0]
    few = int(relations.anchor_weight.count_nonzero()) < FEW_FOR_TRIANGLE * words
    if few or not torch.equal(forth, back.sort().values):
        return None
    everyone = torch.arange(words, device=device) * (words + 1)
    same = everyone[:0] if include_self else everyone
    left_out = torch.cat((forth, same)).unique()
    special = [
        (IGNORED | IGNORED_BY, left_out),
        (POSITIVE, positive[0] * words + positive[1]),
        (POSITIVE_OF, positive[1] * words + positive[0]),
    ]
    keys, which = torch.unique(torch.cat([part for _, part in special]), return_inverse=True)
    kinds = torch.zeros_like(keys)
    for (kind, _), entries in zip(special, which.split([len(part) for _, part in special])):
        kinds[entries] |= kind
    order = _upper_triangle(words, rows, columns, device)
    index, bits = _masks(left_out, order, words, rows, columns)
    packed = order[:, 0] << 16 | order[:, 1]
    width = max(words, 1)
    return SymmetricPlan(packed.to(torch.int32), index, bits, keys // width, keys % width, kinds, include_self)


def _upper_triangle(words: int, rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """(row tile, column tile) of the tiles on and above the diagonal, int64 ``[tiles, 2]``."""
    row_tiles, column_tiles = -(-words // rows), -(-words // columns)
    row = torch.arange(row_tiles, device=device).repeat_interleave(column_tiles)
    column = torch.arange(column_tiles, device=device).repeat(row_tiles)
    upper = column >= row * rows // columns
    row, column = row[upper], column[upper]
    group = row // _ROW_TILES_PER_GROUP
    order = torch.argsort((group * max(column_tiles, 1) + column) * max(row_tiles, 1) + row)
    return torch.stack((row[order], column[order]), dim=1)


def _masks(
    left_out: torch.Tensor, order: torch.Tensor, words: int, rows: int, columns: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """``tile_index`` and ``bits``. ``left_out``: numbers ``row * words + column`` of pairs, each once."""
    column_tiles = max(-(-words // columns), 1)
    row, column = left_out // max(words, 1), left_out % max(words, 1)
    tile = row // rows * column_tiles + column // columns
    upper = column // columns >= row // rows * rows // columns
    row, column, tile = row[upper], column[upper], tile[upper]
    ragged = ((order[:, 0] + 1) * rows > words) | ((order[:, 1] + 1) * columns > words)
    all_tiles = order[:, 0] * column_tiles + order[:, 1]
    place_of = torch.full((column_tiles * max(-(-words // rows), 1),), -1, dtype=torch.int64, device=order.device)
    masked = torch.cat((tile, all_tiles[ragged])).unique()
    place_of[masked] = torch.arange(len(masked), device=order.device)
    bits = torch.zeros((max(len(masked), 1), rows, columns // 32), dtype=torch.int32, device=order.device)
    # bits that differ can be added; bit 31 wraps to the sign
    local = (place_of[tile] * rows + row % rows) * columns + column % columns
    bits.view(-1).index_add_(0, local // 32, (torch.ones_like(local) << (local % 32)).to(torch.int32))
    # words beyond the last: whole rows, and the last bits of every row
    at, first = place_of[all_tiles[ragged]], order[ragged] * torch.tensor([rows, columns], device=order.device)
    beyond = first[:, 1, None] + torch.arange(columns, device=order.device) >= words
    shifts = torch.arange(32, device=order.device)
    edge = (beyond.view(-1, columns // 32, 32).long() << shifts).sum(-1).to(torch.int32)
    below = first[:, 0, None] + torch.arange(rows, device=order.device) >= words
    bits[at] |= edge[:, None, :] | -below[:, :, None].to(torch.int32)
    return place_of[all_tiles].to(torch.int32), bits.flatten()
