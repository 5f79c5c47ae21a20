"""Word translation by nearest neighbours: precision at 1 by cosine and by CSLS, both directions, per layer."""

import math
from typing import Any

import numpy as np
import torch

from prealign.evaluation.results import wilson_interval
from prealign.evaluation.word_pairs import WordPairs

CSLS_NEIGHBOURS = 10


def retrieval(
    sources: torch.Tensor, targets: torch.Tensor, pairs: WordPairs, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Share of words whose nearest neighbour in the other language is a translation of theirs.

    ``sources [layers, S, D]``, ``targets [layers, T, D]``: vectors of unit length. Candidates are all words of the
    other side. Returns, for ``to_target`` and ``to_source``: ``p_at_1`` and ``csls`` per layer, ``chance``,
    ``queries``, ``candidates``, and the 95 % Wilson interval of the best layer's CSLS. Neighbours that are equally near
    share the hit.
    """
    gold = torch.zeros((len(pairs.sources), len(pairs.targets)), dtype=torch.bool, device=device)
    gold[torch.from_numpy(pairs.pairs[:, 0]).to(device), torch.from_numpy(pairs.pairs[:, 1]).to(device)] = True
    directions = {"to_target": gold, "to_source": gold.T}
    found: dict[str, dict[str, Any]] = {
        name: {
            "p_at_1": [],
            "csls": [],
            "chance": float(of.double().mean(dim=1).mean()),
            "queries": of.shape[0],
            "candidates": of.shape[1],
        }
        for name, of in directions.items()
    }
    for layer_sources, layer_targets in zip(sources, targets):
        cosines = layer_sources.to(device).float() @ layer_targets.to(device).float().T
        adjusted = csls(cosines)
        for name, of in directions.items():
            for score, matrix in (("p_at_1", cosines), ("csls", adjusted)):
                found[name][score].append(precision_at_1(matrix if name == "to_target" else matrix.T, of))
    for numbers in found.values():
        queries, best = numbers["queries"], max(numbers["csls"])
        found_at_first = round(best * queries) if math.isfinite(best) else 0  # vectors of a model that is not finite
        numbers["csls_interval"] = wilson_interval(found_at_first, queries)
    return found


def csls(cosines: torch.Tensor, neighbours: int = CSLS_NEIGHBOURS) -> torch.Tensor:
    """Cross-domain similarity local scaling (Conneau et al. 2018, Eq. 3): ``2 cos(x, y) - r(x) - r(y)``.

    ``cosines [S, T]``. ``r``: mean cosine of a word with its nearest ``neighbours`` on the other side (all of them
    where there are fewer).
    """
    of_source = cosines.topk(min(neighbours, cosines.shape[1]), dim=1).values.mean(dim=1)
    of_target = cosines.topk(min(neighbours, cosines.shape[0]), dim=0).values.mean(dim=0)
    return 2 * cosines - of_source[:, None] - of_target[None, :]


def precision_at_1(scores: torch.Tensor, gold: torch.Tensor) -> float:
    """Mean over rows of the share of the highest scores that are gold; both ``[queries, candidates]``."""
    best = scores == scores.max(dim=1, keepdim=True).values
    return float(np.mean(((best & gold).sum(dim=1) / best.sum(dim=1)).double().cpu().numpy()))
