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
from prealign.kernels.rank_plan import BackwardPlan, ForwardPlan, plan_backward, plan_forward
from prealign.kernels.relations import Relations


def forward(
    backend: ModuleType,
    z: Sequence[torch.Tensor],
    relations: Relations,
    tau: float,
    include_self: bool,
    group: dist.ProcessGroup | None,
    begin: int,
    plan: ForwardPlan | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss and cosine shares ``[layers]`` and ``lse`` ``[layers, W_local]`` (+inf for words that are no anchors).

    ``z``: a tensor ``[W_local, D]`` for each layer. ``begin``: number of this rank's first word. ``plan``: of its
    words, where it was made beforehand.
    """
    total, (own_count, _), dtype = len(relations), z[0].shape, z[0].dtype
    if plan is None:
        plan = plan_forward(backend, relations, begin, own_count, include_self, dtype)
    wide = torch.promote_types(dtype, torch.float32)
    losses = torch.zeros(len(z), dtype=wide, device=z[0].device)
    cosines = torch.zeros_like(losses)
    lse = torch.full((len(z), own_count), torch.inf, dtype=wide, device=z[0].device)
    for layer, (own, columns) in enumerate(gathered_layers(z, total, group)):
        rows = own if len(plan.anchors) == len(own) else own[plan.anchors]
        found = backend.row_lse(rows, columns, plan.lse, tau)
        lse[layer, plan.anchors] = found
        cosines[layer] = (backend.pair_products(rows, columns, plan.positives) * plan.share).sum()
        losses[layer] = (plan.weight * found).sum() - cosines[layer] / tau
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
    plan: BackwardPlan | None = None,
) -> list[torch.Tensor]:
    """Gradient with respect to this rank's words, for each layer ``[W_local, D]`` in the dtype of ``z``."""
    total, own_count, dtype = len(relations), len(z[0]), z[0].dtype
    if plan is None:
        plan = plan_backward(backend, relations, begin, own_count, include_self, dtype)
    anchors, all_anchors = plan.anchors, plan.all_anchors
    # all layers' at once, so that no later gather waits behind a layer's vectors
    columns_lse = gather_rows(lse.T.contiguous(), total, group).T.contiguous()
    gradients = []
    for layer, (own, columns) in enumerate(gathered_layers(z, total, group)):
        if anchors is None or all_anchors is None:
            result = backend.row_gradient(own, columns, plan.whole, tau, lse[layer], columns_lse[layer])
        else:
            shift = columns_lse[layer, all_anchors]
            result = backend.row_gradient(own, columns[all_anchors], plan.against_anchors, tau, None, shift)
            result[anchors] += backend.row_gradient(
                own[anchors], columns, plan.as_anchors, tau, lse[layer, anchors], None
            )
        # scaled and rounded in one go; the wide one is gone before the next layer's comes
        gradients.append(torch.mul(result, grad_losses[layer] / tau, out=torch.empty_like(result, dtype=dtype)))
        del result
    return gradients
