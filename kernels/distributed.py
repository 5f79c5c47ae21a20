"""All words of all ranks, one layer at a time."""

import torch
import torch.distributed as dist


def gather_rows(local: torch.Tensor, total: int, group: dist.ProcessGroup | None) -> torch.Tensor:
    """Concatenate the ranks' rows ``[W_local, ...]`` to ``[total, ...]``; shares as in
    `prealign.kernels.infonce.shard`."""
    if group is None or dist.get_world_size(group) == 1:
        return local
    ranks = dist.get_world_size(group)
    largest = -(-total // ranks)
    padded = local.new_zeros((largest, *local.shape[1:]))
    padded[: len(local)] = local
    parts = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(parts, padded, group=group)
    sizes = [total // ranks + (rank < total % ranks) for rank in range(ranks)]
    return torch.cat([part[:size] for part, size in zip(parts, sizes)])
