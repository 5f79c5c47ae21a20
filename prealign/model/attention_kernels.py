"""Which kernels attention runs through on this machine: flash-attn's of version 2 or 3, or torch's."""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import torch
from torch.nn.attention import SDPBackend

from prealign.config.model import ModelConfig
from prealign.errors import UserError

Backend = Literal["auto", "sdpa", "flash"]
Kernels = Literal["flash-attn 3", "flash-attn 2", "sdpa"]
"""``sdpa``: torch's scaled_dot_product_attention and, for packed rows, its varlen_attn."""

_MODULES = {"flash-attn 2": "flash_attn", "flash-attn 3": "flash_attn_interface"}
_HOPPER = (9, 0)
_NAMES = {
    SDPBackend.CUDNN_ATTENTION: "cuDNN",
    SDPBackend.FLASH_ATTENTION: "flash",
    SDPBackend.EFFICIENT_ATTENTION: "memory-efficient",
    SDPBackend.MATH: "no fused kernel",
}


@dataclass(frozen=True)
class Found:
    """What a machine has: flash-attn 2 and 3, and whether torch's own choice for the model's rows is cuDNN."""

    flash2: bool = False
    flash3: bool = False
    cudnn: bool = False


def choose(asked: Backend, capability: tuple[int, int] | None, found: Found) -> Kernels:
    """The kernels that a run takes. ``capability``: of the CUDA device, None without one.

    On Hopper (9.0) flash-attn 3, which is written for it, comes first, then cuDNN where torch takes that by itself, as
    it did on an H100 (configs/results/h100/ceilings.json: 226 TFLOP/s, torch's flash kernels, those of flash-attn 2,
    164); on every other device flash-attn 2, then torch. Raises `UserError` where ``flash`` is asked for and not there.
    """
    if asked == "sdpa" or (asked == "auto" and capability is None):
        return "sdpa"
    if capability == _HOPPER and found.flash3:
        return "flash-attn 3"
    if asked == "auto" and capability == _HOPPER and found.cudnn:
        return "sdpa"
    if found.flash2:
        return "flash-attn 2"
    if asked == "flash":
        raise UserError("model.attention: found 'flash', but flash-attn is not installed; install it or set 'sdpa'")
    return "sdpa"


def kernels_of(config: ModelConfig) -> Kernels:
    """What `choose` says of a model on this machine. Raises `UserError` as that does."""
    on_cuda = torch.cuda.is_available()
    if config.attention == "sdpa" or (config.attention == "auto" and not on_cuda):
        return "sdpa"
    capability = torch.cuda.get_device_capability() if on_cuda else None
    found = Found(
        flash2=flash_module("flash-attn 2") is not None,
        flash3=flash_module("flash-attn 3") is not None,
        cudnn=on_cuda
        and torch_choice(config, torch.bfloat16, torch.device("cuda")) == _NAMES[SDPBackend.CUDNN_ATTENTION],
    )
    return choose(config.attention, capability, found)


def flash_module(kernels: Kernels) -> ModuleType | None:
    """The package, None where it cannot be imported."""
    try:
        return importlib.import_module(_MODULES[kernels])
    except ImportError:
        return None


def torch_choice(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> str:
    """The kernel that torch's scaled_dot_product_attention takes for causal rows of the model, with a gradient; in a
    torch that does not tell, that it is torch's choice."""
    shape = (1, config.context, config.heads, config.resolved_head_size)
    rows = torch.empty(shape, dtype=dtype, device=device).transpose(1, 2).requires_grad_()
    try:
        return _NAMES[SDPBackend(torch._fused_sdp_choice(rows, rows, rows, is_causal=True))]
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):  # no public function says it
        return "torch's choice"


def takes_flash(dtype: torch.dtype, on_cuda: bool, head_size: int) -> bool:
    """Whether flash kernels take such heads: they compute in half precision, on a GPU, with heads of some sizes."""
    return dtype.itemsize <= 2 and on_cuda and head_size % 8 == 0 and head_size <= 256


def attention_name(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> str:
    """What a model of ``dtype`` on ``device`` attends through, for people."""
    in_runs = takes_flash(dtype, device.type == "cuda", config.resolved_head_size)
    kernels = kernels_of(config)
    if in_runs and kernels != "sdpa":
        version = getattr(flash_module(kernels), "__version__", "")
        return "FlashAttention-3" if kernels == "flash-attn 3" else f"flash-attn {version}".strip()
    if config.reset_at_document:  # packed, or rows with a mask
        return "torch's varlen_attn" if in_runs else "scaled_dot_product_attention, with masks"
    return f"scaled_dot_product_attention ({torch_choice(config, dtype, device)})"
