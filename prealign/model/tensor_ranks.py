"""Ranks that share a layer, and rows of embedding tables that they hold, as in Megatron-LM (Shoeybi et al. 2019)."""

from collections.abc import Callable
from typing import Protocol

import torch


class TensorRanks(Protocol):
    """Ranks that share a layer's query heads, or the rows of an embedding table, in equal parts, of which this one has
    the ``rank``-th of ``ranks``."""

    rank: int
    ranks: int

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The same values; their gradient is the sum of those of all these ranks."""
        ...

    def total(self, partial: torch.Tensor) -> torch.Tensor:
        """The sum over these ranks, which may take the place of ``partial``; its gradient, equal on all of them, is
        that of every part."""
        ...

    def add_(self, tensor: torch.Tensor) -> None:
        """Sum over these ranks, in place and without a gradient."""
        ...

    def max_(self, tensor: torch.Tensor) -> None:
        """Maximum over these ranks, likewise."""
        ...


def local_ids(ids: torch.Tensor, rows: int, ranks: TensorRanks) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids in a table -> row numbers in this rank's part of it, which has ``rows`` rows, and whether it has them at all
    (bool); where it has not, the number is 0."""
    local = ids - ranks.rank * rows
    here = (local >= 0) & (local < rows)
    return torch.where(here, local, 0), here


def look_up(
    part: Callable[[torch.Tensor], torch.Tensor], ids: torch.Tensor, rows: int, ranks: TensorRanks
) -> torch.Tensor:
    """Vectors ``[tokens, D]`` of ``ids`` in a table; ``part`` maps row numbers to vectors in this rank's part of
    it, which has ``rows`` rows. Exact: all ranks but one add zeros."""
    local, here = local_ids(ids, rows, ranks)
    return ranks.total(part(local).masked_fill(~here[:, None], 0))
