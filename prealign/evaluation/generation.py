"""Sampling from a model: many continuations at once, each a function of its own draws."""

import numpy as np
import torch
import torch.nn.functional as F

from prealign.model.gpt import Block
from prealign.objectives.joint import JointModel
from prealign.random_streams import Draw, mix, uniform

Cache = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each block, ``[rows, heads, length, head_size]``."""


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
    cache: Cache = []
    last, drawn = prompts, []
    for place in range(length):
        with torch.no_grad():
            hidden = next_hidden_states(model, last, cache)
            logits = hidden[:, -1] @ model.head.weight[:vocab_size].T
        # in fp64, so that rounding does not shift the borders between tokens; the last one ends at 1
        reached = torch.softmax(logits.double() / temperature, dim=1).cumsum(dim=1)
        reached /= reached[:, -1:].clone()
        draws = torch.from_numpy(uniform(mix(seed, Draw.LEAKAGE, numbers, place))).to(prompts.device)
        last = torch.searchsorted(reached, draws[:, None], right=True).clamp(max=vocab_size - 1)
        drawn.append(last)
    return torch.cat(drawn, dim=1)


def next_hidden_states(model: JointModel, ids: torch.Tensor, cache: Cache) -> torch.Tensor:
    """Final hidden states ``[rows, new, D]`` of new tokens (int64 ``[rows, new]``) behind those in ``cache``, which
    grows by them.

    The first call, with an empty cache, takes any number of tokens; the others take one. The same mathematics as
    `prealign.model.gpt.GPT.forward` on rows of one document.
    """
    gpt = model.gpt
    seen = cache[0][0].shape[2] if cache else 0
    if seen and ids.shape[1] != 1:
        raise ValueError(f"found {ids.shape[1]} new tokens behind {seen}; expected one")
    positions = torch.arange(seen, seen + ids.shape[1], device=ids.device)
    hidden_states, _ = gpt.embedding(ids, positions, None)
    for number, block in enumerate(gpt.blocks):
        assert isinstance(block, Block)
        if not seen:
            cache.append((torch.empty(0), torch.empty(0)))
        hidden_states = hidden_states + _attend(block, hidden_states, cache, number, seen)
        hidden_states = hidden_states + block.mlp(block.mlp_norm(hidden_states))
    return gpt.norm(hidden_states)


def _attend(block: Block, hidden_states: torch.Tensor, cache: Cache, number: int, seen: int) -> torch.Tensor:
    attention = block.attention
    rows, new, _ = hidden_states.shape
    projected = attention.qkv(block.attention_norm(hidden_states)).view(rows, new, 3, -1, attention.head_size)
    q, k, v = (part.transpose(1, 2) for part in projected.unbind(dim=2))
    if seen:
        k, v = torch.cat((cache[number][0], k), dim=2), torch.cat((cache[number][1], v), dim=2)
    cache[number] = (k, v)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=not seen)
    return attention.out(mixed.transpose(1, 2).flatten(2))
