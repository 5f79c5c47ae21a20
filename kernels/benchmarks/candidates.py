"""Ours and its peers, each as a function of one or all layers' vectors that gives the summed loss."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from prealign.kernels import multilayer_infonce
from prealign.kernels.benchmarks.problems import Problem
from prealign.kernels.infonce import Implementation
from prealign.kernels.reference import infonce_reference

Loss = Callable[[list[torch.Tensor]], torch.Tensor]
"""Layers, each ``[W, D]`` -> scalar."""


@dataclass(frozen=True)
class Candidate:
    """``build`` raises ImportError where the package is missing. ``per_layer``: differentiated a layer at a time."""

    name: str
    build: Callable[[Problem], Loss]
    per_layer: bool
    gpu_only: bool = False
    single: bool = False
    """One positive a word, itself in the denominator, is all that it can do."""
    package: str | None = None
    """What must be installed beside torch and triton."""

    @property
    def missing(self) -> bool:
        return self.package is not None and importlib.util.find_spec(self.package) is None


def _ours(impl: Implementation) -> Callable[[Problem], Loss]:
    def build(problem: Problem) -> Loss:
        def loss(z: list[torch.Tensor]) -> torch.Tensor:
            own = problem.include_self
            return multilayer_infonce(z, problem.relations, problem.tau, include_self=own, impl=impl)[0].sum()

        return loss

    return build


def _eager(problem: Problem) -> Loss:
    return lambda z: infonce_reference(torch.stack(z), problem.relations, problem.tau, problem.include_self)[0].sum()


def _compiled(problem: Problem) -> Loss:
    return torch.compile(_eager(problem))


def _torch_linear_cross_entropy(problem: Problem) -> Loss:
    if not hasattr(F, "linear_cross_entropy"):
        raise ImportError("torch has no linear_cross_entropy")
    options = torch.nn.LinearCrossEntropyOptions()

    def loss(z: list[torch.Tensor]) -> torch.Tensor:
        return F.linear_cross_entropy(z[0] / problem.tau, z[0], problem.partner, options=options)

    return loss


def _inf_cl(problem: Problem) -> Loss:
    from inf_cl import cal_flash_loss

    scale = torch.tensor(1 / problem.tau, device=problem.z.device)
    return lambda z: cal_flash_loss(z[0], z[0], labels=problem.partner, scale=scale).mean()


def _cut_cross_entropy(problem: Problem) -> Loss:
    from cut_cross_entropy import linear_cross_entropy

    def loss(z: list[torch.Tensor]) -> torch.Tensor:
        return linear_cross_entropy(z[0] / problem.tau, z[0], problem.partner, filter_eps=None, impl="cce")

    return loss


def _liger(problem: Problem) -> Loss:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    cross_entropy = LigerFusedLinearCrossEntropyLoss()
    return lambda z: cross_entropy(z[0], z[0] / problem.tau, problem.partner)


CANDIDATES = [
    Candidate("triton", _ours("triton"), per_layer=False, gpu_only=True),
    Candidate("chunked", _ours("chunked"), per_layer=False),
    Candidate("eager", _eager, per_layer=True),
    Candidate("torch.compile", _compiled, per_layer=True, gpu_only=True),
    Candidate("inf-cl", _inf_cl, per_layer=True, gpu_only=True, single=True, package="inf_cl"),
    Candidate(
        "cut-cross-entropy", _cut_cross_entropy, per_layer=True, gpu_only=True, single=True, package="cut_cross_entropy"
    ),
    Candidate("liger-kernel", _liger, per_layer=True, gpu_only=True, single=True, package="liger_kernel"),
    Candidate("torch linear_cross_entropy", _torch_linear_cross_entropy, per_layer=True, single=True),
]
