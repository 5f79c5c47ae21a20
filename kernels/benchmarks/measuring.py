"""Time, peak memory, error and repeatability of one candidate; rates of the device."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from prealign.kernels import pool_spans
from prealign.kernels.benchmarks.candidates import Candidate, Loss
from prealign.kernels.benchmarks.problems import Problem
from prealign.kernels.reference import infonce_reference

_ROUND_SECONDS = 0.05
"""Length of a round of calls on CUDA, about."""


def seconds(function: Callable[[], object], device: torch.device, least: float) -> float:
    """Median time of a call, over at least three rounds and ``least`` seconds, after one that is not counted. On CUDA a
    round of short calls has several, so that the device does not wait for the launches."""
    function()
    calls = 1
    if device.type == "cuda":
        calls = max(1, min(100, int(_ROUND_SECONDS / _round(function, 1, device))))
    times: list[float] = []
    while len(times) < 3 or sum(times) * calls < least:
        times.append(_round(function, calls, device))
    return statistics.median(times)


def _round(function: Callable[[], object], calls: int, device: torch.device) -> float:
    _synchronise(device)
    begin = time.perf_counter()
    for _ in range(calls):
        function()
    _synchronise(device)
    return (time.perf_counter() - begin) / calls


def peak_bytes(function: Callable[[], object], device: torch.device) -> int:
    """Memory that a call takes at its peak beyond what is there: allocated by torch on CUDA, resident else (Linux)."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _resident("VmRSS")
    function()
    return _resident("VmHWM") - before


def measure(candidate: Candidate, problem: Problem, small: Problem, least: float) -> dict[str, float | bool]:
    """Figures of a candidate: errors against float64 on ``small``, first, then times and memory on ``problem``."""
    errors = _errors(candidate, small)
    device = problem.z.device
    loss = candidate.build(problem)
    gradient = lambda: _gradient(candidate, loss, problem)  # noqa: E731
    gradient()  # compiles and warms up what should not count
    extra = peak_bytes(gradient, device) - problem.z.nbytes
    both = seconds(gradient, device, least)
    with torch.no_grad():
        forward = seconds(lambda: _forward(candidate, loss, problem.z), device, least)
    figures: dict[str, float | bool] = {
        "forward_s": forward,
        "forward_backward_s": both,
        "tflops": problem.flop / both / 1e12,
        "extra_bytes": extra,
    }
    return figures | errors


def pool_rates(layers: int, words: int, size: int, dtype: torch.dtype, device: torch.device, least: float) -> dict:
    """Bytes per second of pooling, forward and backward, against copying a tensor as large as the hidden states."""
    lengths = torch.arange(words, device=device) % 3 + 1
    starts = torch.cumsum(lengths, 0) - lengths
    tokens = int(lengths.sum())
    hidden = torch.randn((layers, tokens, size), device=device).to(dtype).requires_grad_()
    copied = torch.empty_like(hidden)
    with torch.no_grad():
        copy = 2 * hidden.nbytes / seconds(lambda: copied.copy_(hidden), device, least)
        forward_s = seconds(lambda: pool_spans(hidden, starts, lengths), device, least)
    z = pool_spans(hidden, starts, lengths)
    upstream = torch.randn_like(z)
    backward_s = seconds(lambda: torch.autograd.grad(z, hidden, upstream, retain_graph=True), device, least)
    moved = hidden.nbytes + z.nbytes
    return {
        "copy_gb_s": copy / 1e9,
        "pool_forward_gb_s": moved / forward_s / 1e9,
        "pool_backward_gb_s": (moved + z.nbytes) / backward_s / 1e9,
        "pool_forward_of_copy": moved / forward_s / copy,
        "pool_backward_of_copy": (moved + z.nbytes) / backward_s / copy,
    }


def matrix_tflops(dtype: torch.dtype, device: torch.device, least: float) -> float:
    """Rate of a large square product of the vendor's library."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn((size, size), device=device).to(dtype) for _ in range(2))
    return 2.0 * size**3 / seconds(lambda: left @ right, device, least) / 1e12


def _gradient(candidate: Candidate, loss: Loss, problem: Problem) -> list[torch.Tensor]:
    """One tensor ``[W, D]`` a layer."""
    layers = [layer.detach().requires_grad_() for layer in problem.z]
    if not candidate.per_layer:
        return list(torch.autograd.grad(loss(layers), layers))
    return [torch.autograd.grad(loss([layer]), layer)[0] for layer in layers]


def _forward(candidate: Candidate, loss: Loss, z: torch.Tensor) -> torch.Tensor:
    return sum(loss([layer]) for layer in z) if candidate.per_layer else loss(list(z))  # type: ignore[return-value]


def _errors(candidate: Candidate, problem: Problem) -> dict[str, float | bool]:
    """Relative errors ``|mine - exact| / |exact|`` against float64, and whether two runs give the same bits."""
    exact = problem.z.double().requires_grad_()
    truth = infonce_reference(exact, problem.relations, problem.tau, problem.include_self)[0].sum()
    (true_gradient,) = torch.autograd.grad(truth, exact)
    loss = candidate.build(problem)
    with torch.no_grad():
        value = float(_forward(candidate, loss, problem.z))
    first, second = (torch.stack(_gradient(candidate, loss, problem)) for _ in range(2))
    return {
        "loss_error": abs(value - truth.item()) / abs(truth.item()),
        "gradient_error": float((first.double() - true_gradient).norm() / true_gradient.norm()),
        "same_bits": torch.equal(first, second),
    }


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")
