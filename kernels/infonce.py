"""The public function of the multi-layer InfoNCE loss, and its registration with torch."""

from types import ModuleType
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _resolve_process_group

from prealign.kernels import chunked, passes
from prealign.kernels.distributed import shard
from prealign.kernels.reference import infonce_reference
from prealign.kernels.relations import Relations

Implementation = Literal["auto", "triton", "chunked", "reference"]


def multilayer_infonce(
    z: torch.Tensor,
    relations: Relations,
    tau: float,
    *,
    include_self: bool = False,
    group: dist.ProcessGroup | None = None,
    impl: Implementation = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Multi-positive InfoNCE of every layer against every word of every rank.

    ``z``: ``[layers, W_local, D]``, rows of unit length: this rank's contiguous share of the ``W`` words, the larger
    shares on the lower ranks (`shard`). ``relations`` are over all ``W`` words, the same on every rank. ``group``: the
    ranks that share the words; None for one rank alone. ``impl``: ``triton`` (a CUDA device, or Triton's interpreter),
    ``chunked`` (plain PyTorch, any device), ``reference`` (the whole matrix stored, one rank), ``auto``: triton on
    CUDA, else chunked.

    Returns this rank's part of the loss and of the positives' mean cosine per layer (see `infonce_reference`), each
    ``[layers]``, fp32 or the wider dtype of ``z``; summed over ranks they are the whole. The gradient of the loss with
    respect to ``z`` is the complete gradient of the summed loss: nothing remains to be reduced. The cosine has none.
    Tile sizes are fixed, so the same call gives the same bits. Raises ValueError for shapes that do not fit.
    """
    ranks = dist.get_world_size(group) if group is not None else 1
    rank = dist.get_rank(group) if group is not None else 0
    begin, end = shard(len(relations), rank, ranks)
    if z.dim() != 3 or z.shape[1] != end - begin:
        raise ValueError(f"z has shape {tuple(z.shape)}; expected [layers, {end - begin}, D] on rank {rank} of {ranks}")
    if impl == "reference":
        if ranks > 1:
            raise ValueError("impl='reference' runs on one rank")
        losses, cosines = infonce_reference(z, relations, tau, include_self)
        return losses, cosines.detach()
    if impl == "auto":
        impl = "triton" if z.is_cuda else "chunked"
    name = group.group_name if group is not None else ""
    losses, cosines, _ = _infonce(
        z, *relations.positives, *relations.ignored, relations.anchor_weight, tau, include_self, name, begin, impl
    )
    return losses, cosines


def _backend(impl: str) -> ModuleType:
    if impl == "chunked":
        return chunked
    if impl == "triton":
        from prealign.kernels import infonce_triton  # imports triton

        return infonce_triton
    raise ValueError(f"impl={impl!r}; expected 'auto', 'triton', 'chunked' or 'reference'")


def _group(name: str) -> dist.ProcessGroup | None:
    return _resolve_process_group(name) if name else None


@torch.library.custom_op("prealign::infonce", mutates_args=())
def _infonce(
    z: torch.Tensor,
    positive_offsets: torch.Tensor,
    positive_columns: torch.Tensor,
    ignored_offsets: torch.Tensor,
    ignored_columns: torch.Tensor,
    anchor_weight: torch.Tensor,
    tau: float,
    include_self: bool,
    group: str,
    begin: int,
    impl: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    relations = Relations((positive_offsets, positive_columns), (ignored_offsets, ignored_columns), anchor_weight)
    return passes.forward(_backend(impl), z, relations, tau, include_self, _group(group), begin)


@_infonce.register_fake
def _(z: torch.Tensor, *_: Any) -> tuple[torch.Tensor, ...]:
    wide = torch.promote_types(z.dtype, torch.float32)
    return tuple(z.new_empty(shape, dtype=wide) for shape in (z.shape[:1], z.shape[:1], z.shape[:2]))


@torch.library.custom_op("prealign::infonce_backward", mutates_args=())
def _infonce_backward(
    grad_losses: torch.Tensor,
    z: torch.Tensor,
    lse: torch.Tensor,
    positive_offsets: torch.Tensor,
    positive_columns: torch.Tensor,
    ignored_offsets: torch.Tensor,
    ignored_columns: torch.Tensor,
    anchor_weight: torch.Tensor,
    tau: float,
    include_self: bool,
    group: str,
    begin: int,
    impl: str,
) -> torch.Tensor:
    relations = Relations((positive_offsets, positive_columns), (ignored_offsets, ignored_columns), anchor_weight)
    return passes.backward(_backend(impl), grad_losses, z, lse, relations, tau, include_self, _group(group), begin)


@_infonce_backward.register_fake
def _(grad_losses: torch.Tensor, z: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(z, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    z, *tensors = inputs[:6]
    ctx.save_for_backward(z, output[2], *tensors)
    ctx.options = inputs[6:]
    ctx.mark_non_differentiable(output[1], output[2])


def _differentiate(ctx: Any, grad_losses: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
    gradient = _infonce_backward(grad_losses, *ctx.saved_tensors, *ctx.options)
    return gradient, *(None,) * 10


_infonce.register_autograd(_differentiate, setup_context=_save)
