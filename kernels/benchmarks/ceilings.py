"""``python -m prealign.kernels.benchmarks.ceilings [FILE.json]``: what a CUDA device gives the vendor's own kernels.
Nothing of ours can be faster: products of a 1.3B model's shapes, copies, attention by backend; and whether a product
can be written in fp32 to given memory.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from prealign.kernels.benchmarks.measuring import seconds

PRODUCTS = {
    "square": (8192, 8192, 8192),
    "qkv": (16384, 6144, 2048),
    "attention out": (16384, 2048, 2048),
    "mlp up": (16384, 8192, 2048),
    "mlp down": (16384, 2048, 8192),
    "head": (16384, 50304, 2048),
}
"""Rows, columns and depth: sixteen rows of 1,024 tokens through a model of size 2048."""

BACKENDS = {
    "default": None,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def ceilings(device: torch.device) -> dict[str, Any]:
    """TFLOP/s of bf16 products and causal attention (forward and backward), GB/s of a copy (read and written)."""
    record: dict[str, Any] = {"device": torch.cuda.get_device_name(device), "torch": torch.__version__}
    record["product_tflops"] = {name: _product(*shape, device) for name, shape in PRODUCTS.items()}
    record["copy_gb_s"] = _copy(device)
    record["wide_product_error"] = _or_reason(lambda: _wide_product(device))
    record["attention_tflops"] = {
        name: _or_reason(partial(_attention, backend, device)) for name, backend in BACKENDS.items()
    }
    record["attention_kernels"] = _or_reason(lambda: _attention_kernels(device))
    return record


def _product(rows: int, columns: int, depth: int, device: torch.device) -> float:
    left = torch.randn((rows, depth), device=device, dtype=torch.bfloat16)
    right = torch.randn((depth, columns), device=device, dtype=torch.bfloat16)
    return 2e-12 * rows * columns * depth / seconds(lambda: left @ right, device, 0.3)


def _copy(device: torch.device) -> float:
    source = torch.empty(1 << 30, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), device, 0.3) / 1e9


def _wide_product(device: torch.device) -> float:
    """Relative error of a bf16 product with an fp32 result in memory that is there already."""
    left = torch.randn((4096, 2048), device=device, dtype=torch.bfloat16)
    result = torch.empty((4096, 4096), device=device)
    torch.mm(left, left.T, out_dtype=torch.float32, out=result)
    exact = left.double() @ left.double().T
    return float((result - exact).norm() / exact.norm())


def _attention_inputs(device: torch.device) -> list[torch.Tensor]:
    """16 rows x 16 heads x 1,024 tokens x 128, as a projection leaves them."""
    make = lambda: torch.randn((16, 1024, 16, 128), device=device, dtype=torch.bfloat16)  # noqa: E731
    return [make().requires_grad_().transpose(1, 2) for _ in range(3)]


def _attend(inputs: list[torch.Tensor]) -> None:
    q, k, v = inputs
    F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()


def _attention(backend: SDPBackend | None, device: torch.device) -> float:
    inputs = _attention_inputs(device)
    batch, heads, tokens, size = inputs[0].shape
    flop = 3.5 * 2 * 2 * batch * heads * tokens**2 * size / 2  # a half of the square; backward is 2.5 forwards
    if backend is None:
        return flop / seconds(lambda: _attend(inputs), device, 0.3) / 1e12
    with sdpa_kernel(backend):
        return flop / seconds(lambda: _attend(inputs), device, 0.3) / 1e12


def _attention_kernels(device: torch.device) -> list[str]:
    """The kernels that torch chooses, those that take longest first."""
    inputs = _attention_inputs(device)
    _attend(inputs)
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        _attend(inputs)
        torch.cuda.synchronize()
    events = sorted(trace.key_averages(), key=lambda event: -event.device_time_total)
    return [event.key[:80] for event in events[:3]]


def _or_reason(figure: Callable[[], Any]) -> Any:
    """The figure, or why there is none."""
    try:
        return figure()
    except (RuntimeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"[:200]


def main() -> int:
    if not torch.cuda.is_available():
        print("ceilings: found no CUDA device; they are measured on one", file=sys.stderr)
        return 1
    text = json.dumps(ceilings(torch.device("cuda")), indent=1)
    print(text)
    for path in sys.argv[1:2]:
        Path(path).write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
