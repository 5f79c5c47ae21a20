"""What a process trains on: its device, and the memory that it has taken there."""

import platform
import resource
import sys

import torch

from prealign.config import Recipe
from prealign.model.attention_kernels import attention_name

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes of a unit of ``ru_maxrss``."""


def peak_memory_gb(device: torch.device) -> float:
    """Peak so far, in GB (1e9 bytes): what torch has allocated on a CUDA device, the resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT / 1e9


def attention_of(recipe: Recipe, device: torch.device) -> str:
    """What a recipe's model attends through on a device."""
    dtype = torch.float32 if recipe.parallel.weights == "fp32" else torch.bfloat16
    return attention_name(recipe.model, dtype, device)


def device_name(device: torch.device) -> str:
    """A CUDA device by its maker's name, a CPU by the kernel's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        return f"{names[0]} (CPU)"
    except (OSError, IndexError):
        return f"{platform.machine()} (CPU)"
