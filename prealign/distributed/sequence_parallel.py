"""Sequence parallelism: rows of text split over ranks, heads of attention in their place while it is computed.

DeepSpeed-Ulysses (Jacobs et al. 2023): every rank holds an equal part of each row's positions; an all-to-all gives it
all positions of an equal share of the heads, and another one gives the positions back. Everything else in the model
works on tokens, wherever they are. Words are not split.
"""

import torch
import torch.distributed as dist
from deepspeed.sequence.layer import DistributedAttention

from prealign.model.layout import Dense


class UlyssesExchange:
    """The `prealign.model.layout.Exchange` of a group of ranks."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.rank = dist.get_rank(group)
        self.ranks = dist.get_world_size(group)
        self._group = group

    def __call__(self, attend: Dense, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """``attend`` sees ``[rows, length, heads / ranks, head_size]``; everything else is ``[rows, length / ranks,
        heads, head_size]``."""
        exchanged = DistributedAttention(attend, self._group, scatter_idx=2, gather_idx=1)
        return exchanged(q, k, v, 0)
