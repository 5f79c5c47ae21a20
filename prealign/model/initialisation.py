"""Initial weights: a pure function of (seed, parameter name), the same for every number of ranks and ZeRO stage."""

import hashlib
import math

import torch

from prealign.config import Recipe
from prealign.model.shapes import ROW_PARALLEL, VOCABULARY


def initial_value(name: str, shape: torch.Size, recipe: Recipe) -> torch.Tensor:
    """The initial fp32 value of a parameter, as GPT-2 does it: N(0, std) matrices, residual projections scaled by
    1/sqrt(2 layers), zero biases, unit norms. With ``model.init: perfect_clone`` the embedding rows of clone tokens
    are those of the original tokens."""
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    if name.endswith("bias"):
        return torch.zeros(shape)
    std = recipe.model.init_std
    if name.removesuffix(".weight").endswith(ROW_PARALLEL):
        std /= math.sqrt(2 * recipe.model.layers)
    digest = hashlib.sha256(f"{recipe.seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    value = torch.empty(shape).normal_(0.0, std, generator=generator)
    if recipe.model.init == "perfect_clone" and name in VOCABULARY:
        block = recipe.data.tokenizer.vocab_size
        for clone in recipe.clones:
            first = recipe.token_offset(clone)
            value[first : first + block] = value[:block]
    return value
