"""The decoder's parameters by name and shape, from the recipe alone: what costs are counted from, without torch."""

import math
from functools import lru_cache

from prealign.config import Recipe
from prealign.config.model import ModelConfig

COLUMN_PARALLEL = {"attention.qkv": 3, "attention.q": 1, "attention.kv": 2, "mlp.up": 1, "mlp.gate": 1}
"""Linear layers that tensor ranks split by output features, with the number of projections that one of them fuses."""

ROW_PARALLEL = ("attention.out", "mlp.down")
"""Linear layers that they split by input features: those that write into the residual stream."""

OF_HEADS = ("attention.q_norm", "attention.k_norm")
"""Layers that every tensor rank holds whole and applies to its own heads alone."""

VOCABULARY = ("gpt.embedding.tokens.weight", "head.weight")
"""Parameters with a row a token, which they split by rows where `vocabulary_ranks` says so."""

Shapes = dict[str, tuple[int, ...]]


def vocabulary_ranks(vocab_size: int, tensor_size: int) -> int:
    """Tensor ranks over which the ``vocab_size`` rows of `VOCABULARY` are split: all, or 1, each holding every row,
    where they do not divide it."""
    return 1 if vocab_size % tensor_size else tensor_size


def column_parallel(model: ModelConfig, tensor_size: int) -> dict[str, int]:
    """`COLUMN_PARALLEL` without what so many tensor ranks do not split: keys and values of fewer heads than ranks."""
    whole = {"attention.kv"} if model.resolved_kv_heads % tensor_size else set()
    return {name: fused for name, fused in COLUMN_PARALLEL.items() if name not in whole}


def kv_heads_per_rank(model: ModelConfig, tensor_size: int) -> int:
    """Heads of keys and values that a tensor rank computes; two ranks and more compute the same where there are fewer
    heads than ranks."""
    return max(1, model.resolved_kv_heads // tensor_size)


def parameter_shapes(model: ModelConfig, vocab_size: int, tensor_size: int = 1) -> Shapes:
    """Name -> shape of every parameter of `prealign.objectives.joint.JointModel`, in its order. ``vocab_size``: rows of
    the embedding tables. ``tensor_size``: tensor ranks, of which these are one's shapes."""
    size, rows = model.hidden_size, vocab_size // vocabulary_ranks(vocab_size, tensor_size)
    shapes: Shapes = {"gpt.embedding.tokens.weight": (rows, size)}
    if model.positions == "learned":
        shapes["gpt.embedding.positions.weight"] = (model.context, size)
    block = block_shapes(model, tensor_size)
    for number in range(model.layers):
        shapes |= {f"gpt.blocks.{number}.{name}": shape for name, shape in block.items()}
    shapes |= _norm("gpt.norm", model, size)
    if not model.tied_embeddings:
        shapes["head.weight"] = (rows, size)
    return shapes


@lru_cache(maxsize=64)
def block_shapes(model: ModelConfig, tensor_size: int = 1) -> Shapes:
    """The parameters of one block; not to be changed."""
    size, head, ffn = model.hidden_size, model.resolved_head_size, model.resolved_ffn_size
    inner, kv = model.heads * head, model.resolved_kv_heads * head
    shapes = _norm("attention_norm", model, size)
    projections = {"q": inner, "kv": 2 * kv} if inner != kv else {"qkv": 3 * inner}
    for name, features in projections.items():
        ranks = tensor_size if f"attention.{name}" in column_parallel(model, tensor_size) else 1
        shapes |= _linear(f"attention.{name}", size, features, model.resolved_attention_bias, ranks)
    if model.qk_norm:
        shapes |= {"attention.q_norm.weight": (head,), "attention.k_norm.weight": (head,)}
    shapes |= _linear("attention.out", inner, size, model.bias, tensor_size)
    shapes |= _norm("mlp_norm", model, size)
    for name in ("gate", "up") if model.mlp == "swiglu" else ("up",):
        shapes |= _linear(f"mlp.{name}", size, ffn, model.bias, tensor_size)
    return shapes | _linear("mlp.down", ffn, size, model.bias, tensor_size)


def product_shapes(model: ModelConfig, tensor_size: int = 1) -> list[tuple[int, int]]:
    """``(outputs, inputs)`` of the matrix products of one block on a tensor rank: its weights, but of keys and values
    that it holds whole only the heads that it computes."""
    kv = 2 * kv_heads_per_rank(model, tensor_size) * model.resolved_head_size
    held = block_shapes(model, tensor_size)
    matrices = {name: (shape[0], shape[1]) for name, shape in held.items() if len(shape) == 2}
    if "attention.kv.weight" in matrices:
        matrices["attention.kv.weight"] = (kv, model.hidden_size)
    return list(matrices.values())


def parameter_count(recipe: Recipe) -> int:
    """All parameters, the LM head included."""
    return sum(map(math.prod, parameter_shapes(recipe.model, recipe.padded_vocab_size).values()))


def _linear(name: str, inputs: int, outputs: int, bias: bool, tensor_size: int) -> Shapes:
    if name in COLUMN_PARALLEL:
        outputs //= tensor_size
    if name in ROW_PARALLEL:
        inputs //= tensor_size
    weight: Shapes = {f"{name}.weight": (outputs, inputs)}
    return weight | {f"{name}.bias": (outputs,)} if bias else weight


def _norm(name: str, model: ModelConfig, size: int) -> Shapes:
    weight: Shapes = {f"{name}.weight": (size,)}
    return weight | {f"{name}.bias": (size,)} if model.norm == "layernorm" and model.bias else weight
