"""What blocks are made of: norms, MLPs, rotary positions. Names of the projections say how they are split over tensor
ranks, and which write into the residual stream (`shapes.COLUMN_PARALLEL`, `shapes.ROW_PARALLEL`)."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from prealign.config.model import ModelConfig, RotaryScaling


def norm(config: ModelConfig, size: int) -> nn.Module:
    """The norm that `model.norm` names, over ``size`` features."""
    match config.norm:
        case "layernorm":
            return nn.LayerNorm(size, eps=config.norm_eps, bias=config.bias)
        case "rmsnorm":
            return nn.RMSNorm(size, eps=config.norm_eps)


class MLP(nn.Module):
    """``down(gelu(up(x)))``, GELU in its tanh form as in GPT-2."""

    def __init__(self, hidden_size: int, ffn_size: int, bias: bool) -> None:
        super().__init__()
        self.up = nn.Linear(hidden_size, ffn_size, bias)
        self.down = nn.Linear(ffn_size, hidden_size, bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(hidden_states), approximate="tanh"))


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))`` (Shazeer 2020, as in Llama)."""

    def __init__(self, hidden_size: int, ffn_size: int, bias: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden_size, ffn_size, bias)
        self.up = nn.Linear(hidden_size, ffn_size, bias)
        self.down = nn.Linear(ffn_size, hidden_size, bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down(F.silu(self.gate(hidden_states)) * self.up(hidden_states))


def mlp(config: ModelConfig) -> nn.Module:
    """The MLP that `model.mlp` names."""
    return {"gelu": MLP, "swiglu": SwiGLU}[config.mlp](config.hidden_size, config.resolved_ffn_size, config.bias)


def rotary_angles(config: ModelConfig, positions: torch.Tensor) -> torch.Tensor:
    """Angles of rotary positions (Su et al. 2021): ``p * base ** (-2 i / head_size)``, with frequencies scaled as
    `RotaryScaling` says, fp32 ``[tokens, head_size / 2]``, computed anew so that no buffer is rounded to the precision
    of the weights."""
    pairs = torch.arange(0, config.resolved_head_size, 2, dtype=torch.float32, device=positions.device)
    frequencies = config.rotary_base ** (-pairs / config.resolved_head_size)
    if config.rotary_scaling is not None:
        kept = _kept(frequencies, config, config.rotary_scaling)
        frequencies = torch.lerp(frequencies / config.rotary_scaling.factor, frequencies, kept)
    return positions.float()[:, None] * frequencies


def _kept(frequencies: torch.Tensor, config: ModelConfig, scaling: RotaryScaling) -> torch.Tensor:
    """How far each frequency stays as it is: from 0, where it is divided by the factor, to 1."""
    match scaling.kind:
        case "linear":
            return torch.zeros_like(frequencies)
        case "llama3":
            turns = scaling.original_context * frequencies / (2 * math.pi)  # in the first context
            low, high = scaling.low_freq_factor, scaling.high_freq_factor
            return ((turns - low) / (high - low)).clamp(0, 1)
        case "yarn":
            first, last = _yarn_range(config, scaling)
            numbers = torch.arange(len(frequencies), dtype=torch.float32, device=frequencies.device)
            return 1 - ((numbers - first) / (last - first or 0.001)).clamp(0, 1)


def _yarn_range(config: ModelConfig, scaling: RotaryScaling) -> tuple[float, float]:
    """Numbers of the frequencies that turn ``beta_fast`` and ``beta_slow`` times in the first context: solutions ``i``
    of ``turns * 2 pi = original_context * base ** (-2 i / head_size)``, within 0 and the head size, as `transformers`
    has them."""
    size, first_context = config.resolved_head_size, scaling.original_context

    def number(turns: float) -> float:
        return size * math.log(first_context / (2 * math.pi * turns)) / (2 * math.log(config.rotary_base))

    first, last = number(scaling.beta_fast), number(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    return max(first, 0), min(last, size - 1)


def rotated(heads: torch.Tensor, angles: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
    """``[tokens, heads, head_size]`` turned by its positions' angles, feature ``i`` together with ``i + head_size / 2``
    (the order of Hugging Face's Llama), and multiplied by ``factor``."""
    wide = torch.promote_types(heads.dtype, torch.float32)
    cos, sin = angles.to(wide).cos()[:, None], angles.to(wide).sin()[:, None]
    if factor != 1.0:
        cos, sin = cos * factor, sin * factor
    first, second = heads.to(wide).chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(heads.dtype)
