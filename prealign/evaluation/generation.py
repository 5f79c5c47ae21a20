"""Sampling from a model: many continuations at once, each a function of its own draws."""

import numpy as np
import torch

from prealign.model.attention import KeyValues
from prealign.model.layout import Group, Layout
from prealign.objectives.joint import JointModel
from prealign.random_streams import Draw, mix, uniform


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
    are padding of the embedding and never drawn. The prompts hold one document each.
    """
    if model.head.tensor_ranks is not None:
        raise ValueError("found an LM head that tensor ranks share; expected a whole model, as `load_model` gives")
    cache = model.gpt.new_cache()
    last, drawn, seen = prompts, [], 0
    for place in range(length):
        with torch.no_grad():
            hidden = next_hidden_states(model, last, seen, cache)
            logits = hidden[:, -1] @ model.head.weight[:vocab_size].T
        seen += last.shape[1]
        # in fp64, so that rounding does not shift the borders between tokens; the last one ends at 1
        reached = torch.softmax(logits.double() / temperature, dim=1).cumsum(dim=1)
        reached /= reached[:, -1:].clone()
        draws = torch.from_numpy(uniform(mix(seed, Draw.LEAKAGE, numbers, place))).to(prompts.device)
        last = torch.searchsorted(reached, draws[:, None], right=True).clamp(max=vocab_size - 1)
        drawn.append(last)
    return torch.cat(drawn, dim=1)


def next_hidden_states(model: JointModel, ids: torch.Tensor, seen: int, cache: list[KeyValues]) -> torch.Tensor:
    """Final hidden states ``[rows, new, D]`` of new tokens (int64 ``[rows, new]``) behind the ``seen`` ones of each row
    in ``cache``, which grows by them. Where none were seen there may be any number of them, else one."""
    rows, new = ids.shape
    positions = torch.arange(seen, seen + new, device=ids.device).repeat(rows)
    hidden_states, _ = model.gpt(ids.flatten(), positions, Layout((Group(rows, new),), ids.device), cache=cache)
    return hidden_states.view(rows, new, -1)
