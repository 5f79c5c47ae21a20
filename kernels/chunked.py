"""Multi-layer InfoNCE in plain PyTorch, one block of rows of one layer at a time: never more than a slice of one ``W x
W``.

With ``s_ij = <z_i, z_j> / tau``, anchor weights ``a`` and ``n_j = |P(j)|``, the gradient of a row needs no other row's
gradient:

    dz_i = (1/tau) sum_j G_ij z_j
    G_ij = a_i exp(s_ij - lse_i) + a_j exp(s_ij - lse_j) - [j in P(i)] a_i/n_i - [i in P(j)] a_j/n_j

(an exponential falls away where the pair is ignored by its anchor, and on the diagonal). So a rank that has all words
and the ``W`` numbers ``lse`` computes the complete gradient of its own words.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from prealign.kernels.distributed import gather_rows
from prealign.kernels.relations import Relations, edges, transpose

_BLOCK_ELEMENTS = 1 << 23
"""Scores held at a time (32 MB in fp32)."""


class ChunkedInfoNCE(torch.autograd.Function):
    """See `prealign.kernels.infonce.multilayer_infonce`."""

    @staticmethod
    def forward(
        ctx: Any,
        z: torch.Tensor,
        relations: Relations,
        tau: float,
        include_self: bool,
        group: dist.ProcessGroup | None,
        begin: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wide = torch.promote_types(z.dtype, torch.float32)
        words = _Words(relations, begin, begin + z.shape[1], include_self, wide)
        losses = torch.zeros(z.shape[0], dtype=wide, device=z.device)
        cosines = torch.zeros_like(losses)
        lse = torch.empty(z.shape[:2], dtype=wide, device=z.device)
        for layer, local in enumerate(z):
            everyone = gather_rows(local, len(relations), group).to(wide)
            own = local.to(wide)
            for rows in words.blocks():
                scores = torch.mm(own[rows], everyone.T).div_(tau)
                words.exclude(scores, rows, words.ignored)
                lse[layer, rows] = torch.logsumexp(scores, dim=1)
            rows, columns, share = words.positive_edges()
            cosines[layer] = _pair_sum(own, everyone, rows, columns, share)
            weight = words.local_weight
            losses[layer] = torch.where(weight > 0, weight * lse[layer], 0.0).sum() - cosines[layer] / tau
        ctx.save_for_backward(z, lse)
        ctx.words, ctx.tau, ctx.group = words, tau, group
        ctx.mark_non_differentiable(cosines)
        return losses, cosines

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_losses: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        z, lse = ctx.saved_tensors
        words, tau, group = ctx.words, ctx.tau, ctx.group
        gradient = torch.empty_like(z)
        for layer, local in enumerate(z):
            everyone = gather_rows(local, words.total, group).to(lse.dtype)
            everyones_lse = gather_rows(lse[layer], words.total, group)
            # a word that is no anchor takes part in no denominator of its own: exp(s - inf) = 0
            everyones_lse = torch.where(words.weight > 0, everyones_lse, torch.inf)
            own = local.to(lse.dtype)
            scale = grad_losses[layer] / tau
            for rows in words.blocks():
                scores = torch.mm(own[rows], everyone.T).div_(tau)
                matrix = words.weight * _exponential(scores - everyones_lse, words, rows, words.ignored_by)
                scores -= everyones_lse[words.begin + rows.start : words.begin + rows.stop, None]
                matrix += words.local_weight[rows, None] * _exponential(scores, words, rows, words.ignored)
                words.subtract_positives(matrix, rows)
                gradient[layer, rows] = (matrix @ everyone).mul_(scale).to(z.dtype)
        return gradient, None, None, None, None, None


class _Words:
    """The relations as one rank's rows need them: local rows ``[begin, end)`` of ``total`` words."""

    def __init__(self, relations: Relations, begin: int, end: int, include_self: bool, dtype: torch.dtype) -> None:
        self.total = len(relations)
        self.begin, self.end = begin, end
        self.include_self = include_self
        self.weight = relations.anchor_weight.to(dtype)
        self.local_weight = self.weight[begin:end]
        self.ignored = self._local(relations.ignored)
        self.ignored_by = self._local(transpose(relations.ignored))
        counts = relations.positives[0].diff().clamp(min=1)
        self.share = self.weight / counts
        self.positives = self._local(relations.positives)
        self.positive_of = self._local(transpose(relations.positives))

    def _local(self, relation: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """CSR of the local rows; columns stay global."""
        offsets, columns = relation
        first, last = int(offsets[self.begin]), int(offsets[self.end])
        return offsets[self.begin : self.end + 1] - first, columns[first:last]

    def blocks(self) -> list[slice]:
        """Local rows in blocks that bound the scores held at a time."""
        size = max(1, _BLOCK_ELEMENTS // max(self.total, 1))
        rows = self.end - self.begin
        return [slice(first, min(first + size, rows)) for first in range(0, rows, size)]

    def block_edges(
        self, relation: tuple[torch.Tensor, torch.Tensor], rows: slice
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(row within the block, column) of a local relation."""
        offsets = relation[0][rows.start : rows.stop + 1]
        return edges((offsets - offsets[0], relation[1][int(offsets[0]) : int(offsets[-1])]))

    def exclude(self, scores: torch.Tensor, rows: slice, ignored: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Set ignored pairs and the diagonal to -inf, in place, before any maximum is taken."""
        scores[self.block_edges(ignored, rows)] = -torch.inf
        if not self.include_self:
            scores.diagonal(self.begin + rows.start).fill_(-torch.inf)
        return scores

    def positive_edges(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(local row, column, a/n of the row) of all positive pairs of the local anchors."""
        rows, columns = edges(self.positives)
        return rows, columns, self.share[self.begin + rows]

    def subtract_positives(self, matrix: torch.Tensor, rows: slice) -> None:
        """Take the positives' terms off ``G``, in place."""
        row, column = self.block_edges(self.positives, rows)
        matrix[row, column] -= self.share[self.begin + rows.start + row]
        row, column = self.block_edges(self.positive_of, rows)
        matrix[row, column] -= self.share[column]


def _exponential(
    scores: torch.Tensor, words: _Words, rows: slice, ignored: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    return words.exclude(scores, rows, ignored).exp_()


def _pair_sum(
    own: torch.Tensor, everyone: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, share: torch.Tensor
) -> torch.Tensor:
    """``sum_e share_e <own[rows_e], everyone[columns_e]>``, a slice of the pairs at a time."""
    total = own.new_zeros(())
    step = max(1, _BLOCK_ELEMENTS // max(own.shape[1], 1))
    for first in range(0, len(rows), step):
        part = slice(first, first + step)
        total += ((own[rows[part]] * everyone[columns[part]]).sum(dim=1) * share[part]).sum()
    return total
