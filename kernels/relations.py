"""Which words of a batch are positives of each other, and which pairs are ignored."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from prealign.kernels.rank_plan import RankPlan
    from prealign.kernels.symmetric import SymmetricPlan

Csr = tuple[torch.Tensor, torch.Tensor]
"""A relation: ``(offsets int64 [W + 1], columns int64 [E])``; row ``j`` lists its words, each once, ascending
(`csr` makes it so)."""


@dataclass(frozen=True)
class Relations:
    """Two relations over the ``W`` words of a batch, the same on every rank.

    ``positives``: row ``j`` lists P(j), without ``j``. ``ignored``: row ``j`` lists I(j). ``anchor_weight``: ``a_j``,
    float ``[W]``, at least 0, and 0 where P(j) is empty. ``plan``: what the Triton passes work out of the relations, if
    that was done beforehand (`prealign.kernels.planned`).
    """

    positives: Csr
    ignored: Csr
    anchor_weight: torch.Tensor
    plan: "SymmetricPlan | RankPlan | None" = None

    def __len__(self) -> int:
        return len(self.anchor_weight)

    def to(self, device: torch.device) -> "Relations":
        """A copy on a device, which is not waited for where this one is in pinned memory."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Relations":
        """The same relations of changed tensors, those of the plan too: in other memory, or on another device."""
        return Relations(
            (change(self.positives[0]), change(self.positives[1])),
            (change(self.ignored[0]), change(self.ignored[1])),
            change(self.anchor_weight),
            self.plan.each(change) if self.plan is not None else None,
        )


def csr(rows: torch.Tensor, columns: torch.Tensor, size: int) -> Csr:
    """CSR lists of the pairs ``(rows[i], columns[i])`` over ``size`` rows; pairs are sorted and made unique."""
    keys = torch.unique(rows * size + columns)
    offsets = torch.zeros(size + 1, dtype=torch.int64, device=rows.device)
    offsets[1:] = torch.cumsum(torch.bincount(keys // max(size, 1), minlength=size), 0)
    return offsets, keys % max(size, 1)


def edges(relation: Csr) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, columns) of a CSR relation, in row order; the device need not be waited for."""
    offsets, columns = relation
    words = torch.arange(len(offsets) - 1, device=columns.device)
    return torch.repeat_interleave(words, offsets.diff(), output_size=len(columns)), columns


def full_relations(groups: torch.Tensor) -> Relations:
    """Relations of a batch in which words of equal group number are positives of each other and nothing is ignored."""
    size = len(groups)
    same = (groups[:, None] == groups[None, :]).fill_diagonal_(False)
    rows, columns = same.nonzero(as_tuple=True)
    anchors = same.any(dim=1).double()
    nothing = torch.empty(0, dtype=torch.int64)
    return Relations(csr(rows, columns, size), csr(nothing, nothing, size), anchors / anchors.sum().clamp(min=1))
