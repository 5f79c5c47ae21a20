"""Rectangles of the score matrix: some words as rows against some words as columns, and what is special about a pair.

With every word an anchor there is one piece a rank: its own words against all. With few anchors two smaller ones do the
same work: own anchors against all words (the row terms of ``G``), own words against all anchors (the column terms).
"""

from dataclasses import dataclass

import torch

from prealign.kernels.relations import Csr, Relations, edges


@dataclass(frozen=True)
class Pairs:
    """Pairs of a piece: ``rows``, ``columns`` (int64 ``[E]``, positions in the piece, in the order of rows, then of
    columns) and ``offsets`` (int64 ``[R + 1]``, on the CPU, so that no block of rows waits for the device) of each
    row's pairs."""

    rows: torch.Tensor
    columns: torch.Tensor
    offsets: torch.Tensor

    def within(self, block: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """(row within the block, column) of the pairs of a block of rows."""
        part = slice(int(self.offsets[block.start]), int(self.offsets[block.stop]))
        return self.rows[part] - block.start, self.columns[part]


@dataclass(frozen=True)
class Piece:
    """``R`` words as rows, ``C`` as columns.

    ``rows``, ``columns``: their numbers in the batch. ``*_weight``: anchor weight ``a``; ``*_share``: ``a / n``.
    ``ignored``: pairs whose row word ignores the column word; ``ignored_by``: the other way round; ``positives``,
    ``positive_of`` likewise. The same word as row and column (``same``) is excluded unless ``include_self``.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    row_weight: torch.Tensor
    column_weight: torch.Tensor
    row_share: torch.Tensor
    column_share: torch.Tensor
    ignored: Pairs
    ignored_by: Pairs
    positives: Pairs
    positive_of: Pairs
    same: Pairs
    include_self: bool


def make_piece(
    relations: Relations, rows: torch.Tensor, columns: torch.Tensor, include_self: bool, dtype: torch.dtype
) -> Piece:
    """The piece of ``rows`` against ``columns`` (int64 numbers of words, ascending)."""
    size = len(relations)
    weight = relations.anchor_weight.to(dtype)
    share = weight / relations.positives[0].diff().clamp(min=1)
    row_place = _places(rows, size)
    column_place = _places(columns, size)

    def pairs(left: torch.Tensor, right: torch.Tensor) -> Pairs:
        left, right = row_place[left], column_place[right]
        inside = (left >= 0) & (right >= 0)
        left, right = left[inside], right[inside]
        order = torch.argsort(left, stable=True)
        offsets = torch.zeros(len(rows) + 1, dtype=torch.int64, device=rows.device)
        offsets[1:] = torch.cumsum(torch.bincount(left, minlength=len(rows)), 0)
        return Pairs(left[order], right[order], offsets.cpu())

    def both(relation: Csr) -> tuple[Pairs, Pairs]:
        left, right = edges(relation)
        return pairs(left, right), pairs(right, left)

    ignored, ignored_by = both(relations.ignored)
    positives, positive_of = both(relations.positives)
    everything = torch.arange(size, device=rows.device)
    same = pairs(everything, everything)
    parts = (weight[rows], weight[columns], share[rows], share[columns])
    return Piece(rows, columns, *parts, ignored, ignored_by, positives, positive_of, same, include_self)


def _places(numbers: torch.Tensor, size: int) -> torch.Tensor:
    """Position of each word in ``numbers``, or -1; ``[size]``."""
    place = torch.full((size,), -1, dtype=torch.int64, device=numbers.device)
    place[numbers] = torch.arange(len(numbers), device=numbers.device)
    return place
