"""Floating-point operations of training, counted from the shapes (a multiply and an add are two)."""

import math

from prealign.config import Recipe
from prealign.model.shapes import parameter_shapes


def body_parameters(recipe: Recipe) -> int:
    """Parameters outside the embeddings."""
    shapes = parameter_shapes(recipe.model, recipe.padded_vocab_size)
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(("gpt.blocks.", "gpt.norm.")))


def text_token_flops(recipe: Recipe) -> float:
    """Forward and backward of one text token: ``6 N + 12 L T A``, N with the LM head and without embedding look-ups, A
    the features of all heads.

    The convention of the PaLM report (Chowdhery et al. 2022, appendix B): attention counts all pairs, recomputation of
    activations counts nothing.
    """
    model = recipe.model
    weights = body_parameters(recipe) + recipe.padded_vocab_size * model.hidden_size
    return 6.0 * weights + 12.0 * model.layers * model.context * model.heads * model.resolved_head_size


def word_token_flops(recipe: Recipe) -> float:
    """Forward and backward of one token of a word batch: ``6 N`` without the LM head; attention inside a word is left
    out."""
    return 6.0 * body_parameters(recipe)


def infonce_flops(recipe: Recipe, words: int) -> float:
    """Alignment loss of one step over all ranks: three products of anchors and words a layer, without recomputation."""
    chosen = recipe.align.layers
    layers = len(chosen) if chosen != "all" else recipe.model.layers + (1 if recipe.model.tied_embeddings else 2)
    return 6.0 * layers * (recipe.align.anchor_fraction * words) * words * recipe.model.hidden_size
