"""The public function of the multi-layer InfoNCE loss."""

from typing import Literal

import torch
import torch.distributed as dist

from prealign.kernels.chunked import ChunkedInfoNCE
from prealign.kernels.reference import infonce_reference
from prealign.kernels.relations import Relations

Implementation = Literal["auto", "chunked", "reference"]


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
    ranks that share the words; None for one rank alone.

    Returns this rank's part of the loss and of the positives' mean cosine per layer (see `infonce_reference`), each
    ``[layers]``, fp32 or the wider dtype of ``z``; summed over ranks they are the whole. The gradient of the loss with
    respect to ``z`` is the complete gradient of the summed loss: nothing remains to be reduced. The cosine has none.
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
    return ChunkedInfoNCE.apply(z, relations, tau, include_self, group, begin)


def shard(size: int, rank: int, ranks: int) -> tuple[int, int]:
    """The contiguous share ``[begin, end)`` of a rank: sizes differ by at most one, larger ones first."""
    base, extra = divmod(size, ranks)
    begin = rank * base + min(rank, extra)
    return begin, begin + base + (rank < extra)
