"""Floating-point operations of training, counted from the shapes (a multiply and an add are two)."""

import math

from prealign.config import Recipe
from prealign.config.model import ModelConfig
from prealign.model.shapes import block_shapes, parameter_shapes


def body_parameters(recipe: Recipe) -> int:
    """Parameters outside the embeddings."""
    return model_body_parameters(recipe.model)


def model_body_parameters(model: ModelConfig) -> int:
    """`body_parameters` of any model."""
    shapes = parameter_shapes(model.model_copy(update={"layers": 0}), 0)
    norm = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("gpt.norm."))
    return model.layers * sum(map(math.prod, block_shapes(model).values())) + norm


def text_token_flops(recipe: Recipe) -> float:
    """Forward and backward of one text token: ``6 N + 12 L T A``, N with the LM head and without embedding look-ups, A
    the features of all heads.

    The convention of the PaLM report (Chowdhery et al. 2022, appendix B): attention counts all pairs, recomputation of
    activations counts nothing.
    """
    return model_token_flops(recipe.model, recipe.padded_vocab_size)


def model_token_flops(model: ModelConfig, vocab_size: int) -> float:
    """`text_token_flops` of any model with ``vocab_size`` rows in its LM head."""
    weights = model_body_parameters(model) + vocab_size * model.hidden_size
    return 6.0 * weights + 12.0 * model.layers * model.context * model.heads * model.resolved_head_size


def word_token_flops(recipe: Recipe) -> float:
    """Forward and backward of one token of a word batch: ``6 N`` without the LM head; attention inside a word is left
    out."""
    return 6.0 * body_parameters(recipe)


def infonce_flops(recipe: Recipe, words: int) -> float:
    """Alignment loss of one step over all ranks: three products of anchors and words a layer, without recomputation."""
    chosen = recipe.align.layers
    layers = len(chosen) if chosen != "all" else recipe.last_layer + 1
    return 6.0 * layers * (recipe.align.anchor_fraction * words) * words * recipe.model.hidden_size
