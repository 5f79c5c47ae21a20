"""Forward and backward of the loss over all layers: gathers, pieces and sums around a backend's two passes.

With ``s_ij = <z_i, z_j> / tau``, anchor weights ``a`` and ``n_j = |P(j)|``, the gradient of a row needs no other row's
gradient:

    dz_i = (1/tau) sum_j G_ij z_j
    G_ij = a_i exp(s_ij - lse_i) + a_j exp(s_ij - lse_j) - [j in P(i)] a_i/n_i - [i in P(j)] a_j/n_j

(an exponential falls away where the anchor ignores the other word, and on the diagonal). So a rank that has all words
and the ``W`` numbers ``lse`` computes the complete gradient of its own words.
"""

from collections.abc import Sequence
from types import ModuleType

import torch
import torch.distributed as dist

from prealign.kernels.distributed import gather_rows, gathered_layers
from prealign.kernels.pieces import make_piece
from prealign.kernels.relations import Relations

FEW_FOR_SQUARE = 0.45
"""Below this share of anchors two pieces cost less than one: ``A W + W A`` against ``W W`` scores."""


def forward(
    backend: ModuleType,
    z: Sequence[torch.Tensor],
    relations: Relations,
    tau: float,
    include_self: bool,
    group: dist.ProcessGroup | None,
    begin: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss and cosine shares ``[layers]`` and ``lse`` ``[layers, W_local]`` (+inf for words that are no anchors).

    ``z``: a tensor ``[W_local, D]`` for each layer. ``begin``: number of this rank's first word.
    """
    total, (own_count, size), dtype = len(relations), z[0].shape, z[0].dtype
    wide = torch.promote_types(dtype, torch.float32)
    anchors = _anchors(relations, begin, own_count, wide)
    everyone = torch.arange(total, device=z[0].device)
    piece = make_piece(relations, anchors + begin, everyone, include_self, wide)
    losses = torch.zeros(len(z), dtype=wide, device=z[0].device)
    cosines = torch.zeros_like(losses)
    lse = torch.full((len(z), own_count), torch.inf, dtype=wide, device=z[0].device)
    share = piece.row_share[piece.positives.rows]
    plan = backend.plan_lse(piece, dtype, size)
    for layer, (own, columns) in enumerate(gathered_layers(z, total, group)):
        rows = own if len(anchors) == len(own) else own[anchors]
        found = backend.row_lse(rows, columns, plan, tau)
        lse[layer, anchors] = found
        cosines[layer] = (backend.pair_products(rows, columns, piece.positives) * share).sum()
        losses[layer] = (piece.row_weight * found).sum() - cosines[layer] / tau
    return losses, cosines, lse


def backward(
    backend: ModuleType,
    grad_losses: torch.Tensor,
    z: Sequence[torch.Tensor],
    lse: torch.Tensor,
    relations: Relations,
    tau: float,
    include_self: bool,
    group: dist.ProcessGroup | None,
    begin: int,
) -> list[torch.Tensor]:
    """Gradient with respect to this rank's words, for each layer ``[W_local, D]`` in the dtype of ``z``."""
    total, (own_count, size), dtype = len(relations), z[0].shape, z[0].dtype
    own_numbers = torch.arange(begin, begin + own_count, device=lse.device)
    everyone = torch.arange(total, device=lse.device)
    all_anchors = _anchors(relations, 0, total, lse.dtype)
    few = len(all_anchors) < FEW_FOR_SQUARE * total
    if few:
        anchors = _anchors(relations, begin, own_count, lse.dtype)
        piece = make_piece(relations, own_numbers[anchors], everyone, include_self, lse.dtype)
        as_anchors = backend.plan_gradient(piece, dtype, size, row_terms=True, column_terms=False)
        piece = make_piece(relations, own_numbers, all_anchors, include_self, lse.dtype)
        against_anchors = backend.plan_gradient(piece, dtype, size, row_terms=False, column_terms=True)
    else:
        piece = make_piece(relations, own_numbers, everyone, include_self, lse.dtype)
        whole = backend.plan_gradient(piece, dtype, size, row_terms=True, column_terms=True)
    # all layers' at once, so that no later gather waits behind a layer's vectors
    columns_lse = gather_rows(lse.T.contiguous(), total, group).T.contiguous()
    gradients = []
    for layer, (own, columns) in enumerate(gathered_layers(z, total, group)):
        if few:
            result = backend.row_gradient(
                own, columns[all_anchors], against_anchors, tau, None, columns_lse[layer, all_anchors]
            )
            result[anchors] += backend.row_gradient(own[anchors], columns, as_anchors, tau, lse[layer, anchors], None)
        else:
            result = backend.row_gradient(own, columns, whole, tau, lse[layer], columns_lse[layer])
        # scaled and rounded in one go; the wide one is gone before the next layer's comes
        gradients.append(torch.mul(result, grad_losses[layer] / tau, out=torch.empty_like(result, dtype=dtype)))
        del result
    return gradients


def _anchors(relations: Relations, begin: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    """Which of ``count`` words from ``begin`` on are anchors, int64, counted from ``begin``."""
    return relations.anchor_weight[begin : begin + count].to(dtype).nonzero().flatten()
