"""Tensor parallelism through DeepSpeed's AutoTP: which layers it shards, and what of a weight a tensor rank holds.

As in Megatron-LM (Shoeybi et al. 2019): the first product of attention and MLP is split by output features, the
second by input features, whose partial sums are added over the tensor ranks. Everything else is replicated.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch

from prealign.model.shapes import COLUMN_PARALLEL, ROW_PARALLEL

_COLUMN = re.compile(rf"\.({'|'.join(map(re.escape, COLUMN_PARALLEL))})\.(weight|bias)$")
_ROW = re.compile(rf"\.({'|'.join(map(re.escape, ROW_PARALLEL))})\.weight$")


def autotp_config(ranks: int) -> dict[str, Any]:
    """DeepSpeed's ``tensor_parallel`` section for our layer names."""

    def patterns(*layers: str) -> list[str]:
        return [rf".*\.{re.escape(layer)}\.weight$" for layer in layers]

    specs: list[dict[str, Any]] = [{"patterns": patterns(*ROW_PARALLEL), "partition_type": "row"}]
    for layer, fused in COLUMN_PARALLEL.items():
        split = {"shape": [fused, -1], "partition_dim": 0} if fused > 1 else {}
        specs.append({"patterns": patterns(layer), "partition_type": "column"} | split)
    known = "|".join(map(re.escape, (*ROW_PARALLEL, *COLUMN_PARALLEL)))
    specs.append({"patterns": [rf"^(?!.*\.({known})\.weight$).*"], "partition_type": "skip"})
    return {"autotp_size": ranks, "partition_config": {"use_default_specs": False, "layer_specs": specs}}


@dataclass(frozen=True)
class Shard:
    """What a tensor rank holds of a parameter: of each of ``blocks`` equal runs of the flattened parameter the
    ``rank``-th of ``ranks`` equal parts, one after another. With one rank that is the parameter."""

    blocks: int = 1
    rank: int = 0
    ranks: int = 1

    @classmethod
    def of(cls, name: str, rows: int, rank: int, ranks: int) -> "Shard":
        """The shard of parameter ``name``, whose first dimension is ``rows`` where it is not split."""
        if _ROW.search(name):
            return cls(rows, rank, ranks)
        if found := _COLUMN.search(name):
            return cls(COLUMN_PARALLEL[found[1]], rank, ranks)
        return cls()

    def whole_shape(self, name: str, shape: torch.Size) -> list[int]:
        """Shape of the parameter of which ``shape`` is the shard's."""
        split = 1 if _ROW.search(name) else 0
        return [size * self.ranks if dimension == split else size for dimension, size in enumerate(shape)]

    def to_whole(self, local: torch.Tensor, size: int) -> torch.Tensor:
        """Element numbers of the shard, int64, -> those of the flattened parameter of ``size`` elements; ascending
        numbers stay ascending."""
        run = size // (self.blocks * self.ranks)
        return (local // run * self.ranks + self.rank) * run + local % run

    def from_whole(self, whole: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse: element numbers of the shard, and whether it holds the element at all (bool)."""
        run = size // (self.blocks * self.ranks)
        block, place = whole // (run * self.ranks), whole % (run * self.ranks)
        return block * run + place - self.rank * run, place // run == self.rank

    def join(self, shards: list[torch.Tensor], shape: list[int]) -> torch.Tensor:
        """The parameter from the shards of all ranks, in their order."""
        runs = [shard.reshape(self.blocks, 1, -1) for shard in shards]
        return torch.cat(runs, dim=1).view(shape)
