"""Sampling from a model: many continuations at once, each a function of its own draws."""

import numpy as np
import torch

from prealign.hashing import Draw, mix, uniform
from prealign.model.layout import Group, Layout
from prealign.objectives.joint import JointModel


def sample(
    model: JointModel,
    prompts: torch.Tensor,
    length: int,
    temperature: float,
    vocab_size: int,
    seed: int,
    numbers: np.ndarray,
) -> torch.Tensor:
    """Continuations, int64 ``[n, length]``, of ``prompts`` (int64 ``[n, prompt]``) from the whole distribution.

    ``numbers [n]``: which samples these are; token ``t`` of sample ``k`` is drawn with a number that depends on
    ``(seed, k, t)`` alone, so the same samples come out in any batches and on any ranks. Ids from ``vocab_size`` on
    are padding of the embedding and never drawn. There is no cache of keys and values: each token costs a pass over all
    that is before it, which is cheap where texts are short and many run at once.
    """
    ids = prompts
    for place in range(length):
        rows, size = ids.shape
        layout = Layout((Group(rows, size),), ids.device)
        positions = torch.arange(size, device=ids.device).repeat(rows)
        with torch.no_grad():
            hidden, _ = model.gpt(ids.flatten(), positions, layout)
            logits = hidden.view(rows, size, -1)[:, -1] @ model.head.weight[:vocab_size].T
        # in fp64, so that rounding does not shift the borders between tokens; the last one ends at 1
        reached = torch.softmax(logits.double() / temperature, dim=1).cumsum(dim=1)
        reached /= reached[:, -1:].clone()
        drawn = torch.from_numpy(uniform(mix(seed, Draw.LEAKAGE, numbers, place))).to(ids.device)
        token = torch.searchsorted(reached, drawn[:, None], right=True).clamp(max=vocab_size - 1)
        ids = torch.cat((ids, token), dim=1)
    return ids[:, prompts.shape[1] :]
