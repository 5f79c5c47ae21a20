"""``python -m prealign.kernels.benchmarks.repeats [FILE.json] [--runs 50] [--words 16384]``: the Triton kernels on the
whole device, run after run: the same bits every time, and the chunked products' result. A race shows here."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from prealign.kernels import multilayer_infonce
from prealign.kernels.benchmarks.problems import Problem, many_positives
from prealign.kernels.infonce import Implementation


def repeats(problem: Problem, runs: int) -> dict[str, Any]:
    """Runs whose loss or gradient has other bits than the first one's, and relative distances to `chunked`."""
    layers = [layer.detach().requires_grad_() for layer in problem.z]

    def run(impl: Implementation) -> list[torch.Tensor]:
        losses = multilayer_infonce(layers, problem.relations, problem.tau, impl=impl)[0]
        return [losses.detach(), *torch.autograd.grad(losses.sum(), layers)]

    first, exact = run("triton"), run("chunked")
    differing = sum(any(not torch.equal(*pair) for pair in zip(run("triton"), first)) for _ in range(runs))
    distances = [float((a.float() - b.float()).norm() / b.float().norm()) for a, b in zip(first, exact)]
    return {
        "runs": runs,
        "differing": differing,
        "loss_against_chunked": distances[0],
        "gradient_against_chunked": max(distances[1:]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m prealign.kernels.benchmarks.repeats", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--words", type=int, default=16384)
    parser.add_argument("--size", type=int, default=2048)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("repeats: found no CUDA device; races show on one alone", file=sys.stderr)
        return 1
    shape = (options.layers, options.words, options.size)
    problem = many_positives(*shape, 0.1, torch.bfloat16, torch.device("cuda"))
    record: dict[str, Any] = {"device": torch.cuda.get_device_name(), "shape": shape, **repeats(problem, options.runs)}
    print(json.dumps(record, indent=1))
    if options.file:
        options.file.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if record["differing"] == 0 and record["gradient_against_chunked"] < 2e-2 else 1


if __name__ == "__main__":
    sys.exit(main())
