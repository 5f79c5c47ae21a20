"""Processes and devices of a run."""

import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import deepspeed
import deepspeed.ops
import torch
import torch.distributed as dist

from prealign.errors import UserError

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """This process among all: ``rank`` of ``ranks``, and its device.

    ``tensor_ranks`` consecutive ranks share the weights of one replica of the model and see the same batch; a batch is
    dealt over the ``data_ranks`` replicas.
    """

    rank: int
    ranks: int
    device: torch.device
    control: dist.ProcessGroup | None = None
    """Group of all ranks over gloo, for small decisions that must not wait for the device; None: the default group."""
    tensor_ranks: int = 1
    data_group: dist.ProcessGroup | None = None
    """Ranks with the same place in their replicas; None: the default group, where replicas have one rank."""

    @property
    def tensor_rank(self) -> int:
        """Place of this rank in its replica."""
        return self.rank % self.tensor_ranks

    @property
    def data_rank(self) -> int:
        """Number of this rank's replica."""
        return self.rank // self.tensor_ranks

    @property
    def data_ranks(self) -> int:
        """Replicas of the model."""
        return self.ranks // self.tensor_ranks

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and talks to the user."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over replicas, in place."""
        dist.all_reduce(tensor, group=self.data_group)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """Every rank's ``value`` (plain values), in rank order, on every rank."""
        values: list[Any] = [None] * self.ranks
        dist.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; all ranks call it and get the same answer."""
        if self.ranks == 1:
            return flag
        answer = torch.tensor([flag], dtype=torch.int32)
        dist.all_reduce(answer, dist.ReduceOp.MAX, group=self.control)
        return bool(answer)

    def first(self, value: Value) -> Value:
        """The first rank's value, on all ranks."""
        if self.ranks == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.control)
        return values[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        dist.barrier()


@contextmanager
def running_world(tensor_ranks: int = 1) -> Iterator[World]:
    """Join the process group that the launcher describes (``deepspeed``, ``torchrun``), or a group of one, and leave
    it. Raises `UserError` where ``tensor_ranks`` does not divide it."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    if "RANK" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        # DeepSpeed would compile a shared-memory all-reduce here, which takes half a minute and a compiler
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        if "OMP_NUM_THREADS" not in os.environ:
            local = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or os.environ["WORLD_SIZE"])
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local))
    deepspeed.init_distributed(dist_backend="nccl" if on_gpu else "gloo", verbose=False)
    try:
        control = dist.new_group(backend="gloo") if on_gpu else None
        yield World(dist.get_rank(), dist.get_world_size(), device, control, tensor_ranks, data_group_of(tensor_ranks))
    finally:
        dist.destroy_process_group()


def data_ranks(ranks: int, tensor_ranks: int) -> int:
    """Replicas of the model; raises `UserError` where ``tensor_ranks`` does not divide ``ranks``."""
    if ranks % tensor_ranks:
        raise UserError(
            f"parallel.tensor_parallel_size: found {tensor_ranks} on {ranks} ranks; expected ranks divisible by it"
        )
    return ranks // tensor_ranks


def data_group_of(tensor_ranks: int) -> dist.ProcessGroup | None:
    """The group of this rank's peers in the other replicas; all ranks call it."""
    ranks = dist.get_world_size()
    data_ranks(ranks, tensor_ranks)
    if tensor_ranks == 1:
        return None
    return dist.new_subgroups_by_enumeration([list(range(i, ranks, tensor_ranks)) for i in range(tensor_ranks)])[0]
