"""Memory traffic of what is no product: bytes that kernels read and write, op by op, counted from the model's code."""

from prealign.config.model import ModelConfig
from prealign.model.shapes import kv_heads_per_rank

LOGIT_BYTES = 6.0
"""A bf16 logit in our cross-entropy kernel: read twice, written once."""
LOGIT_BYTES_UNFUSED = 32.0
"""In steps, as autocast runs them: to fp32 (6), log_softmax (12), its gradient (8), to bf16 (6)."""
ELEMENTWISE_COMPILED = 0.83
"""Share of the traffic that is left under torch.compile: estimated, not measured."""

_WIDE = 4


def elementwise_bytes(model: ModelConfig, itemsize: int, tensor_size: int = 1) -> tuple[float, float]:
    """A token's bytes in one block, forward and backward.

    GPT-2, ``D`` features in bf16: forward norms 2 x 4, residuals 2 x 6, GELU 16; backward norms 2 x 10, GELU 24, biases
    18, residuals 12, joining the projection's gradient 12: 36 and 86 bytes a feature.
    """
    size, ffn = model.hidden_size, model.resolved_ffn_size / tensor_size
    inner = model.heads * model.resolved_head_size / tensor_size
    kv = kv_heads_per_rank(model, tensor_size) * model.resolved_head_size
    forward: float = 2 * 2 * size + 2 * 3 * size  # norms, residuals; in elements
    backward: float = 2 * 5 * size + 2 * 3 * size
    if model.mlp == "gelu":
        forward, backward = forward + 2 * ffn, backward + 3 * ffn
    else:  # silu, then the product
        forward, backward = forward + 5 * ffn, backward + 8 * ffn
    backward += 2 * (inner + 2 * kv)  # joined
    if model.bias:
        backward += inner + 2 * kv + 2 * size + ffn
    if model.heads != model.resolved_kv_heads:  # repeated, and summed
        forward, backward = forward + 2 * (kv + inner), backward + 2 * (kv + inner)
    forward, backward = forward * itemsize, backward * itemsize
    if model.qk_norm:
        forward += 2 * (inner + kv) * itemsize
        backward += 5 * (inner + kv) * itemsize
    if model.positions == "rotary":  # to fp32, four products of halves, two sums, joined, back
        turned = (inner + kv) * (2 * (itemsize + _WIDE) + 4 * _WIDE + 3 * _WIDE + 2 * _WIDE)
        forward, backward = forward + turned, backward + turned
    return forward, backward
