"""The oracle: multi-layer InfoNCE as the formula reads, in plain PyTorch, at any precision, with the whole matrix
stored."""

import torch

from prealign.kernels.relations import Relations, edges


def infonce_reference(
    z: torch.Tensor, relations: Relations, tau: float, include_self: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-layer loss and mean cosine of positives, both ``[layers]``; ``z`` is ``[layers, W, D]``, rows of unit length.

        L^l = - sum_j a_j / n_j * sum_{i in P(j)} ( s_ij - log sum_{k != j, k not in I(j)} exp s_jk )
        s_ij = <z_i, z_j> / tau

    The cosine is ``sum_j a_j / n_j * sum_{i in P(j)} <z_i, z_j>``.
    """
    rows, columns = edges(relations.positives)
    excluded = torch.zeros(len(relations), len(relations), dtype=torch.bool, device=z.device)
    excluded[edges(relations.ignored)] = True
    if not include_self:
        excluded.fill_diagonal_(True)
    weight = relations.anchor_weight.to(z.dtype)
    count = relations.positives[0].diff().to(z.dtype)
    share = (weight / count.clamp(min=1))[rows]
    anchors = weight > 0
    losses, cosines = [], []
    for layer in z:
        scores = layer @ layer.T / tau
        lse = torch.logsumexp(scores.masked_fill(excluded, -torch.inf)[anchors], dim=1)
        positive = (share * scores[rows, columns]).sum()
        losses.append((weight[anchors] * lse).sum() - positive)
        cosines.append(positive * tau)
    return torch.stack(losses), torch.stack(cosines)
