"""What the passes over the whole square of pairs need to know of a batch on one of its ranks, the same for every layer:
made in the passes, or once a step beforehand on the CPU (`RankPlan`), so that no pass waits for the device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any

import torch

from prealign.kernels import square
from prealign.kernels.pieces import Pairs, make_piece
from prealign.kernels.relations import Relations
from prealign.kernels.square import GradientPlan, LsePlan

FEW_FOR_SQUARE = 0.45
"""Below this share of anchors two pieces cost less than one: ``A W + W A`` against ``W W`` scores."""

PLANNED_DTYPE = torch.bfloat16
"""Of the vectors that plans are made for beforehand."""


@dataclass(frozen=True)
class ForwardPlan:
    """``anchors``: int64 ``[A]``, the rank's words that are anchors, counted from its first; ``weight``: theirs.
    ``positives``: pairs (place in ``anchors``, word), ``share``: ``a / n`` of each pair's anchor. ``lse``: what the
    backend makes of the rectangle of these anchors against all words."""

    anchors: torch.Tensor
    weight: torch.Tensor
    positives: Pairs
    share: torch.Tensor
    lse: Any


@dataclass(frozen=True)
class BackwardPlan:
    """``whole``: what the backend makes of the rank's words against all. With few anchors two rectangles in its place:
    ``as_anchors`` (own ``anchors`` against all words), ``against_anchors`` (own words against ``all_anchors``)."""

    whole: Any = None
    as_anchors: Any = None
    against_anchors: Any = None
    anchors: torch.Tensor | None = None
    all_anchors: torch.Tensor | None = None


def plan_forward(
    backend: ModuleType, relations: Relations, begin: int, count: int, include_self: bool, dtype: torch.dtype
) -> ForwardPlan:
    """For ``count`` words from ``begin`` on. ``dtype``: of the vectors."""
    wide = torch.promote_types(dtype, torch.float32)
    anchors = _anchors(relations, begin, count, wide)
    everyone = torch.arange(len(relations), device=anchors.device)
    piece = make_piece(relations, anchors + begin, everyone, include_self, wide)
    share = piece.row_share[piece.positives.rows]
    return ForwardPlan(anchors, piece.row_weight, piece.positives, share, backend.plan_lse(piece, dtype))


def plan_backward(
    backend: ModuleType, relations: Relations, begin: int, count: int, include_self: bool, dtype: torch.dtype
) -> BackwardPlan:
    """Likewise."""
    wide = torch.promote_types(dtype, torch.float32)
    all_anchors = _anchors(relations, 0, len(relations), wide)
    own = torch.arange(begin, begin + count, device=all_anchors.device)
    everyone = torch.arange(len(relations), device=all_anchors.device)
    if len(all_anchors) >= FEW_FOR_SQUARE * len(relations):
        piece = make_piece(relations, own, everyone, include_self, wide)
        return BackwardPlan(backend.plan_gradient(piece, dtype, row_terms=True, column_terms=True))
    anchors = _anchors(relations, begin, count, wide)
    piece = make_piece(relations, own[anchors], everyone, include_self, wide)
    as_anchors = backend.plan_gradient(piece, dtype, row_terms=True, column_terms=False)
    piece = make_piece(relations, own, all_anchors, include_self, wide)
    against_anchors = backend.plan_gradient(piece, dtype, row_terms=False, column_terms=True)
    return BackwardPlan(None, as_anchors, against_anchors, anchors, all_anchors)


@dataclass(frozen=True)
class RankPlan:
    """Both plans, as the Triton kernels have them, for ``count`` words from ``begin`` on."""

    forward: ForwardPlan
    backward: BackwardPlan
    begin: int
    count: int
    include_self: bool

    def serves(self, begin: int, count: int, dtype: torch.dtype) -> bool:
        """Whether it is of these words and such vectors."""
        return (self.begin, self.count, PLANNED_DTYPE) == (begin, count, dtype)

    def tensors(self) -> list[torch.Tensor]:
        """Its tensors, in order; the last of each rectangle of the gradient's is on the CPU."""
        forward, backward = self.forward, self.backward
        pairs, lse = forward.positives, forward.lse
        found = [forward.anchors, forward.weight, pairs.rows, pairs.columns, forward.share, lse.tile_index, lse.bits]
        if backward.whole is not None:
            return found + _tensors_of(backward.whole)
        assert backward.all_anchors is not None
        gradients = _tensors_of(backward.as_anchors) + _tensors_of(backward.against_anchors)
        return [*found, backward.all_anchors, *gradients]

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "RankPlan":
        """The same plan of changed tensors, but for those that are to be on the CPU."""
        forward, backward = plans_of([change(tensor) for tensor in self.tensors()])
        kept = {
            name: replace(getattr(backward, name), blocks=getattr(self.backward, name).blocks)
            for name in ("whole", "as_anchors", "against_anchors")
            if getattr(backward, name) is not None
        }
        return replace(self, forward=forward, backward=replace(backward, **kept))


def plan_rank(relations: Relations, begin: int, count: int, include_self: bool) -> RankPlan:
    """The plan of a rank's words, on the device of the relations."""
    where = (square, relations, begin, count, include_self, PLANNED_DTYPE)
    return RankPlan(plan_forward(*where), plan_backward(*where), begin, count, include_self)


def plans_of(tensors: Sequence[torch.Tensor]) -> tuple[ForwardPlan, BackwardPlan]:
    """`RankPlan.tensors`, put together again."""
    anchors, weight, rows, columns, share, tile_index, bits, *others = tensors
    nothing = rows.new_empty(0)  # `chunked` alone asks for offsets
    forward = ForwardPlan(anchors, weight, Pairs(rows, columns, nothing), share, LsePlan(tile_index, bits))
    if len(others) == 8:
        return forward, BackwardPlan(GradientPlan(*others))
    all_anchors, *gradients = others
    parts = (GradientPlan(*gradients[:8]), GradientPlan(*gradients[8:]))
    return forward, BackwardPlan(None, *parts, anchors, all_anchors)


def _anchors(relations: Relations, begin: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    """Which of ``count`` words from ``begin`` on are anchors, int64, counted from ``begin``."""
    return relations.anchor_weight[begin : begin + count].to(dtype).nonzero().flatten()


def _tensors_of(plan: GradientPlan) -> list[torch.Tensor]:
    return [getattr(plan, field.name) for field in fields(plan)]
