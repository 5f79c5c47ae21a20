"""Tensor parallelism through DeepSpeed's AutoTP: which layers it shards, and what of a weight a tensor rank holds.

As in Megatron-LM (Shoeybi et al. 2019): the first product of attention and MLP is split by output features, the
second by input features, whose partial sums are added over the tensor ranks. The rows of token embedding and LM head
are split where the ranks divide the vocabulary; these two AutoTP leaves alone, they are born split. Everything else is
replicated: the input of what is split gets the sum of all ranks' gradients, so that what lies before it has equal ones,
and so do weights that every rank applies to its own heads alone (norms of queries and keys; keys and values of fewer
heads than ranks).
"""

import re
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.module_inject.layers import ColumnParallel
from torch import nn

from prealign.config.model import ModelConfig
from prealign.model.attention import KeyValueProjection
from prealign.model.shapes import COLUMN_PARALLEL, OF_HEADS, ROW_PARALLEL, VOCABULARY, column_parallel
from prealign.model.tensor_ranks import TensorRanks

_COLUMN = re.compile(rf"\.({'|'.join(map(re.escape, COLUMN_PARALLEL))})\.(weight|bias)$")
_ROW = re.compile(rf"\.({'|'.join(map(re.escape, ROW_PARALLEL))})\.weight$")


def autotp_config(model: ModelConfig, ranks: int) -> dict[str, Any]:
    """DeepSpeed's ``tensor_parallel`` section for our layer names."""

    def pattern(*layers: str, of: str = "weight") -> str:
        return rf".*\.({'|'.join(map(re.escape, layers))})\.({of})$"

    columns = column_parallel(model, ranks)
    partly = pattern(*OF_HEADS, *(COLUMN_PARALLEL.keys() - columns), of="weight|bias")
    known = [pattern(*ROW_PARALLEL, *columns), partly]
    specs: list[dict[str, Any]] = [{"patterns": [pattern(*ROW_PARALLEL)], "partition_type": "row"}]
    for layer, fused in columns.items():
        split = {"shape": [fused, -1], "partition_dim": 0} if fused > 1 else {}
        specs.append({"patterns": [pattern(layer)], "partition_type": "column"} | split)
    specs.append({"patterns": [partly], "partition_type": "skip", "grad_allreduce": True})
    specs.append({"patterns": [rf"^(?!{'|'.join(known)}).*"], "partition_type": "skip"})
    return {"autotp_size": ranks, "partition_config": {"use_default_specs": False, "layer_specs": specs}}


class _Total(torch.autograd.Function):
    """In place; its gradient is that of every part."""

    @staticmethod
    def forward(ctx: Any, partial: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.mark_dirty(partial)
        dist.all_reduce(partial, group=group)
        return partial

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


class TensorGroup:
    """The `prealign.model.tensor_ranks.TensorRanks` of a group of ranks."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.rank = dist.get_rank(group)
        self.ranks = dist.get_world_size(group)
        self._group = group

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """As what AutoTP splits by output features treats its input."""
        return ColumnParallel.apply(self._group, hidden_states)

    def total(self, partial: torch.Tensor) -> torch.Tensor:
        """See `TensorRanks`; contiguous."""
        return _Total.apply(partial, self._group)

    def add_(self, tensor: torch.Tensor) -> None:
        """See `TensorRanks`; contiguous."""
        dist.all_reduce(tensor, group=self._group)

    def max_(self, tensor: torch.Tensor) -> None:
        """See `TensorRanks`; contiguous."""
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._group)


def share_key_values(model: nn.Module, ranks: TensorRanks) -> None:
    """Have each rank compute its own heads of the projections that AutoTP left whole."""
    for module in model.modules():
        if isinstance(module, KeyValueProjection):
            module.tensor_ranks = ranks


def mark_split(tensor: torch.Tensor) -> None:
    """Say, as AutoTP does of what it splits, that tensor ranks hold parts of a tensor: DeepSpeed adds its norm over
    them, and `prealign.distributed.pieces` looks here."""
    tensor.tensor_model_parallel = True  # type: ignore[attr-defined]


def is_split(tensor: torch.Tensor) -> bool:
    """Whether tensor ranks hold parts of a tensor."""
    return getattr(tensor, "tensor_model_parallel", False)


def mark_gradients(model: nn.Module) -> None:
    """Have gradients of what is split marked too. DeepSpeed's optimizer of bf16 without ZeRO looks for the mark there,
    and without it leaves the gradients of all tensor ranks but the first out of the norm that it clips to."""
    for parameter in model.parameters():
        if is_split(parameter):
            parameter.register_post_accumulate_grad_hook(_mark_gradient)


def _mark_gradient(parameter: torch.Tensor) -> None:
    if parameter.grad is not None:
        mark_split(parameter.grad)


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
        if name in VOCABULARY:
            return cls(1, rank, ranks)
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
