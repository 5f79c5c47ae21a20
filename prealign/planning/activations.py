"""Bytes that autograd keeps for the backward pass: tests compare them with its saved tensors.

A block of GPT-2 keeps, in features a token (``D`` hidden, ``A`` of all heads, ``F`` of the MLP): input and output of
both norms ``4 D``, the projection's queries, keys and values ``3 A``, what attention gives ``A``, input and output of
GELU ``2 F``; in all ``16 D``. Statistics of norms and of attention's rows are fp32. A recomputed block keeps its input.
"""

from prealign.config.model import ModelConfig
from prealign.model.shapes import kv_heads_per_rank

WIDE = 4
"""Bytes of what is kept in fp32 whatever the weights are in."""


def block_bytes(model: ModelConfig, itemsize: int, tensor_size: int = 1, fused_norms: bool = True) -> float:
    """A token's bytes in one block that is not recomputed. ``fused_norms``: RMSNorm is one kernel, as on a GPU; on a
    CPU its steps keep a tensor each."""
    norms = 2 * _norm_bytes(model, itemsize, fused_norms)
    attention = _attention_bytes(model, itemsize, fused_norms, tensor_size)
    return norms + attention + _mlp_bytes(model, itemsize) / tensor_size


def recomputed_bytes(model: ModelConfig, itemsize: int) -> float:
    """A token's bytes in one block that is recomputed."""
    return float(model.hidden_size * itemsize)


def kept_bytes(
    model: ModelConfig,
    itemsize: int,
    every: int | None,
    tensor_size: int = 1,
    fused_norms: bool = True,
) -> float:
    """A token's bytes in all blocks, of which every ``every``-th is recomputed, the last norm and the positions."""
    recomputed = 0 if every is None else -(-model.layers // every)
    whole = model.layers - recomputed
    kept = whole * block_bytes(model, itemsize, tensor_size, fused_norms)
    kept += recomputed * recomputed_bytes(model, itemsize)
    if recomputed and model.positions == "rotary":  # their angles, one tensor for all blocks
        kept += WIDE * model.resolved_head_size / 2
    kept += _norm_bytes(model, itemsize, fused_norms) - model.hidden_size * itemsize  # nothing asks for its output
    return kept + 8 * (2 if model.positions == "learned" else 1)  # ids, and positions where they are looked up


def _norm_bytes(model: ModelConfig, itemsize: int, fused: bool) -> float:
    """Input, output, and what was divided by."""
    size = model.hidden_size
    if model.norm == "layernorm":
        return 2 * size * itemsize + 2 * WIDE
    return _rms_bytes(size, itemsize, fused)


def _rms_bytes(size: int, itemsize: int, fused: bool) -> float:
    """In steps: input and quotient in fp32, for the gradient of the weight, and the output."""
    return 2 * size * itemsize + WIDE if fused else 2 * size * WIDE + WIDE + size * itemsize


def _attention_bytes(model: ModelConfig, itemsize: int, fused: bool, tensor_size: int) -> float:
    head = model.resolved_head_size
    inner = model.heads * head / tensor_size
    features = inner  # what attention gives
    if model.heads != model.resolved_kv_heads:  # queries, and keys and values that are repeated for groups of heads
        features += 3 * inner
    else:  # values are a view of the projection, which stays whole beside queries and keys that are turned or normed
        features += 3 * inner + (2 * inner if model.positions == "rotary" or model.qk_norm else 0)
    kept: float = features * itemsize + WIDE * model.heads / tensor_size
    if model.positions == "rotary":  # sines and cosines, for queries and for keys
        kept += 4 * WIDE * head / 2
    return kept + (_qk_norm_bytes(model, itemsize, fused, tensor_size) if model.qk_norm else 0)


def _qk_norm_bytes(model: ModelConfig, itemsize: int, fused: bool, tensor_size: int) -> float:
    """As of `_rms_bytes`, but that the output is counted above and the input is a view of the projection."""
    head = model.resolved_head_size
    heads, kv_heads = model.heads / tensor_size, kv_heads_per_rank(model, tensor_size)
    inner, kv = heads * head, kv_heads * head
    kept = WIDE * (heads + kv_heads)
    views = fused or itemsize == WIDE  # else the inputs are copies in fp32
    if views and model.heads != model.resolved_kv_heads:
        kept += (inner + 2 * kv) * itemsize
    if not fused:
        kept += (inner + kv) * WIDE * (1 if views else 2)
    return kept


def _mlp_bytes(model: ModelConfig, itemsize: int) -> float:
    return (2 if model.mlp == "gelu" else 4) * model.resolved_ffn_size * itemsize
