"""How a flat run of tokens splits into sequences.

Hidden states are ``[tokens, D]``: the text rows of a micro-batch, then the words of a word batch. Every matrix product
sees all of them at once; only attention needs to know which token belongs to which sequence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Protocol

import torch

CPU = torch.device("cpu")
Dense = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""``(q, k, v)``, each ``[rows, length, heads, head_size]`` -> the same shape, causal."""
_SHORT = 128
"""Rows below this length are packed: one tile of a flash attention kernel."""


class Exchange(Protocol):
    """Attention over rows of which this rank holds the ``rank``-th of ``ranks`` equal parts."""

    rank: int
    ranks: int

    def __call__(self, attend: Dense, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """``attend`` gets whole rows; the others are parts."""
        ...


@dataclass(frozen=True)
class Group:
    """``rows`` sequences of ``length`` tokens each, one after another; attention is causal within a row.

    ``documents``: int64 ``[rows, length]``, non-decreasing numbers; attention stays within equal numbers. None: one
    document a row. Training fills every row; measurements pad shorter sequences on the right, where a causal mask keeps
    pads out of real tokens.
    ``exchange``: the rows are parts of longer ones, whose other parts other ranks hold; ``documents`` are of the whole.
    """

    rows: int
    length: int
    documents: torch.Tensor | None = None
    exchange: Exchange | None = None

    @property
    def tokens(self) -> int:
        return self.rows * self.length


@dataclass(frozen=True)
class AttentionCall:
    """Consecutive groups that one variable-length attention call handles.

    ``boundaries``: int32 ``[sequences + 1]``, where each sequence begins among the call's tokens (cu_seqlens; those of
    the whole rows, where ranks hold parts), or None: equal rows, better handled as such. ``longest``: no sequence is
    longer.
    """

    tokens: int
    groups: tuple[Group, ...]
    boundaries: torch.Tensor | None
    longest: int


@dataclass(frozen=True)
class Layout:
    """The groups of a flat run of tokens, in order; ``device``: where the tokens are."""

    groups: tuple[Group, ...]
    device: torch.device = CPU

    @property
    def sizes(self) -> list[int]:
        """Tokens per group."""
        return [group.tokens for group in self.groups]

    @cached_property
    def calls(self) -> tuple[AttentionCall, ...]:
        """Groups of short rows (words) together, every other group by itself."""
        calls = []
        for packed, found in groupby(self.groups, key=_is_short):
            groups = tuple(found)
            if packed:
                lengths = torch.cat([torch.full((group.rows,), group.length) for group in groups])
                boundaries = torch.cat((lengths.new_zeros(1), lengths.cumsum(0))).int().to(self.device)
                calls.append(
                    AttentionCall(sum(g.tokens for g in groups), groups, boundaries, max(g.length for g in groups))
                )
            else:
                for group in groups:
                    longest = group.length if group.documents is None else group.documents.shape[1]
                    calls.append(AttentionCall(group.tokens, (group,), _document_boundaries(group), longest))
        return tuple(calls)


def _is_short(group: Group) -> bool:
    return group.documents is None and group.exchange is None and group.length < _SHORT


def _document_boundaries(group: Group) -> torch.Tensor | None:
    """Where documents begin, int32; rows begin documents too."""
    if group.documents is None:
        return None
    new = torch.ones_like(group.documents, dtype=torch.bool)
    new[:, 1:] = group.documents[:, 1:] != group.documents[:, :-1]
    starts = new.flatten().nonzero().flatten()
    return torch.cat((starts, starts.new_tensor([group.documents.numel()]))).int()


def document_numbers(inputs: torch.Tensor, ends: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split rows at documents: ``inputs`` ``[rows, length]``, ``ends`` bool of that shape, true at end-of-document
    tokens.

    Returns ``(documents, positions)``, int64 ``[rows, length]``: the number of the document within the row, and the
    position within the document. The end-of-document token belongs to the document that it ends.
    """
    starts = torch.zeros_like(inputs)
    starts[:, 1:] = ends[:, :-1].long()
    documents = starts.cumsum(dim=1)
    place = torch.arange(inputs.shape[1], device=inputs.device).expand_as(inputs)
    first = torch.where(starts.bool(), place, 0).cummax(dim=1).values
    return documents, place - first
