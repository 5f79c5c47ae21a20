"""The public function of the multi-layer InfoNCE loss, and its registration with torch.

What computes it, and whose kernels these are (two files have a ``_lse_kernel`` and a ``_matrix_kernel``):

| implementation | pass | when | file |
|---|---|---|---|
| triton | forward, upper triangle | one rank, bf16, tau of 1/40 and more, a size that 8 divides, below 2^22 words, |
| | | 40 % of them anchors at least, who ignores whom symmetric | `symmetric_triton.py` |
| triton | backward, upper triangle | the same, and ``G`` fits: up to 16,384 words | `symmetric_triton.py` |
| triton | both, whole square | else | `infonce_triton.py` by `passes.py` |
| chunked | both, whole square | no GPU, or asked for | `chunked.py` by `passes.py` |
| reference | both, the matrix stored | asked for | `reference.py` |

`passes.py` takes two thin rectangles in place of the square in backward where less than 45 % of the words are anchors.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _resolve_process_group

from prealign.kernels import chunked, passes
from prealign.kernels.distributed import shard
from prealign.kernels.rank_plan import BackwardPlan, ForwardPlan, RankPlan, plans_of
from prealign.kernels.reference import infonce_reference
from prealign.kernels.relations import Relations
from prealign.kernels.symmetric import SymmetricPlan, plan_symmetric

Implementation = Literal["auto", "triton", "chunked", "reference"]

_DTYPES = {torch.bfloat16, torch.float32, torch.float64}


def multilayer_infonce(
    z: torch.Tensor | Sequence[torch.Tensor],
    relations: Relations,
    tau: float,
    *,
    include_self: bool = False,
    group: dist.ProcessGroup | None = None,
    impl: Implementation = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Multi-positive InfoNCE of every layer against every word of every rank.

    ``z``: ``[layers, W_local, D]`` or a tensor ``[W_local, D]`` for each layer (which saves a copy), rows of unit
    length: this rank's contiguous share of the ``W`` words, the larger shares on the lower ranks (`shard`).
    ``relations`` are over all ``W`` words, the same on every rank. ``group``: the ranks that share the words; None for
    one rank alone. ``impl``: ``triton`` (a CUDA device, or Triton's interpreter; fp32 or bf16), ``chunked`` (plain
    PyTorch, any device), ``reference`` (the whole matrix stored, one rank), ``auto``: triton on CUDA, else chunked.

    Returns this rank's part of the loss and of the positives' mean cosine per layer (see `infonce_reference`), each
    ``[layers]``, in fp32 or fp64 (the reference: in the dtype of ``z``); summed over ranks they are the whole. The
    gradient of the loss with respect to ``z`` is the complete gradient of the summed loss: nothing remains to be
    reduced. The cosine is not differentiable. Tile sizes are fixed, so the same call gives the same bits. Raises
    ValueError for shapes, dtypes and temperatures that do not fit.
    """
    layers = list(z.unbind()) if isinstance(z, torch.Tensor) else list(z)
    ranks = dist.get_world_size(group) if group is not None else 1
    rank = dist.get_rank(group) if group is not None else 0
    begin, end = shard(len(relations), rank, ranks)
    if not layers or any(layer.shape != layers[0].shape or layer.dim() != 2 for layer in layers):
        raise ValueError(f"z has shapes {[tuple(layer.shape) for layer in layers]}; expected [layers, W_local, D]")
    if len(layers[0]) != end - begin:
        raise ValueError(
            f"z has shape {(len(layers), *layers[0].shape)}; expected [layers, {end - begin}, D] on rank {rank} of "
            f"{ranks}"
        )
    dtypes = {layer.dtype for layer in layers}
    if len(dtypes) > 1 or not dtypes <= _DTYPES:  # in float16 small gradients vanish
        raise ValueError(f"z has dtypes {sorted(map(str, dtypes))}; expected one of bfloat16, float32, float64 for all")
    plan = relations.plan
    if plan is not None and plan.include_self != include_self:
        raise ValueError(f"relations were planned with include_self={plan.include_self}; found {include_self} here")
    if not tau > 0:
        raise ValueError(f"tau={tau}; expected a temperature above 0")
    if impl == "reference":
        if ranks > 1:
            raise ValueError("impl='reference' runs on one rank")
        losses, cosines = infonce_reference(torch.stack(layers), relations, tau, include_self)
        return losses, cosines.detach()
    if impl == "auto":
        impl = "triton" if layers[0].is_cuda else "chunked"
    name = group.group_name if group is not None else ""
    tensors = [*relations.positives, *relations.ignored, relations.anchor_weight]
    planned = _tensors_of(plan, begin, end - begin, ranks, layers[0].dtype)
    losses, cosines, _ = _infonce(layers, *tensors, planned, tau, include_self, name, begin, impl)
    return losses, cosines


def _backend(impl: str) -> ModuleType:
    if impl == "chunked":
        return chunked
    if impl == "triton":
        from prealign.kernels import infonce_triton  # imports triton

        return infonce_triton
    raise ValueError(f"impl={impl!r}; expected 'auto', 'triton', 'chunked' or 'reference'")


def _symmetric_plan(
    z: list[torch.Tensor],
    relations: Relations,
    planned: list[torch.Tensor],
    tau: float,
    include_self: bool,
    group: str,
    impl: str,
    whole: bool = False,
) -> SymmetricPlan | None:
    """The plan of the passes over the upper triangle; None where they do not apply. ``whole``: ``G`` must fit."""
    if impl != "triton":
        return None
    from prealign.kernels import symmetric_triton  # imports triton

    ranks = dist.get_world_size(_group(group)) if group else 1
    if not symmetric_triton.applies(z, tau, ranks) or (whole and not symmetric_triton.matrix_fits(len(relations))):
        return None
    if _is_rank_plan(planned):  # made where there was none of the triangle
        return None
    return SymmetricPlan.of(planned, include_self) if planned else plan_symmetric(relations, include_self)


def _tensors_of(
    plan: SymmetricPlan | RankPlan | None, begin: int, count: int, ranks: int, dtype: torch.dtype
) -> list[torch.Tensor]:
    """Of a plan that is of this rank's words; without one the passes plan for themselves."""
    if isinstance(plan, RankPlan):
        return plan.tensors() if plan.serves(begin, count, dtype) else []
    return plan.tensors() if plan is not None and ranks == 1 else []


def _is_rank_plan(planned: list[torch.Tensor]) -> bool:
    return len(planned) > len(SymmetricPlan.__dataclass_fields__)


def _rank_plans(planned: list[torch.Tensor], impl: str) -> tuple[ForwardPlan | None, BackwardPlan | None]:
    """What `passes` take of a plan."""
    return plans_of(planned) if impl == "triton" and _is_rank_plan(planned) else (None, None)


def _group(name: str) -> dist.ProcessGroup | None:
    return _resolve_process_group(name) if name else None  # type: ignore[arg-type]


@torch.library.custom_op("prealign::infonce", mutates_args=())
def _infonce(
    z: list[torch.Tensor],
    positive_offsets: torch.Tensor,
    positive_columns: torch.Tensor,
    ignored_offsets: torch.Tensor,
    ignored_columns: torch.Tensor,
    anchor_weight: torch.Tensor,
    plan: list[torch.Tensor],
    tau: float,
    include_self: bool,
    group: str,
    begin: int,
    impl: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    relations = Relations((positive_offsets, positive_columns), (ignored_offsets, ignored_columns), anchor_weight)
    with torch.autocast(z[0].device.type, enabled=False), torch.cuda.device_of(z[0]):  # kernels go to the current one
        symmetric = _symmetric_plan(z, relations, plan, tau, include_self, group, impl)
        if symmetric is not None:
            from prealign.kernels import symmetric_triton

            return symmetric_triton.forward(z, relations, symmetric, tau)
        ready, _ = _rank_plans(plan, impl)
        return passes.forward(_backend(impl), z, relations, tau, include_self, _group(group), begin, ready)


@_infonce.register_fake
def _(z: list[torch.Tensor], *_: Any) -> tuple[torch.Tensor, ...]:
    wide = torch.promote_types(z[0].dtype, torch.float32)
    shapes = ((len(z),), (len(z),), (len(z), z[0].shape[0]))
    return tuple(z[0].new_empty(shape, dtype=wide) for shape in shapes)


@torch.library.custom_op("prealign::infonce_backward", mutates_args=())
def _infonce_backward(
    grad_losses: torch.Tensor,
    z: list[torch.Tensor],
    lse: torch.Tensor,
    positive_offsets: torch.Tensor,
    positive_columns: torch.Tensor,
    ignored_offsets: torch.Tensor,
    ignored_columns: torch.Tensor,
    anchor_weight: torch.Tensor,
    plan: list[torch.Tensor],
    tau: float,
    include_self: bool,
    group: str,
    begin: int,
    impl: str,
) -> list[torch.Tensor]:
    relations = Relations((positive_offsets, positive_columns), (ignored_offsets, ignored_columns), anchor_weight)
    with torch.autocast(z[0].device.type, enabled=False), torch.cuda.device_of(z[0]):
        symmetric = _symmetric_plan(z, relations, plan, tau, include_self, group, impl, whole=True)
        if symmetric is not None:
            from prealign.kernels import symmetric_triton

            return symmetric_triton.backward(grad_losses, z, lse, relations, symmetric, tau)
        where = (relations, tau, include_self, _group(group), begin)
        return passes.backward(_backend(impl), grad_losses, z, lse, *where, _rank_plans(plan, impl)[1])


@_infonce_backward.register_fake
def _(grad_losses: torch.Tensor, z: list[torch.Tensor], *_: Any) -> list[torch.Tensor]:
    return [torch.empty_like(layer, memory_format=torch.contiguous_format) for layer in z]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    z, *tensors = inputs[:6]
    ctx.layers = len(z)
    ctx.save_for_backward(*z, output[2], *tensors, *inputs[6])
    ctx.options = inputs[7:]
    ctx.mark_non_differentiable(output[1], output[2])


def _differentiate(ctx: Any, grad_losses: torch.Tensor, *_: Any) -> tuple[Any, ...]:
    saved = ctx.saved_tensors
    z, others = list(saved[: ctx.layers]), saved[ctx.layers :]
    gradient = _infonce_backward(grad_losses, z, *others[:6], list(others[6:]), *ctx.options)
    return gradient, *(None,) * 5, [None] * len(others[6:]), *(None,) * 5


_infonce.register_autograd(_differentiate, setup_context=_save)
