"""Processes and devices of a run."""

import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import deepspeed
import deepspeed.ops
import torch
import torch.distributed as dist

from prealign.distributed.sequence_parallel import UlyssesExchange
from prealign.errors import UserError
from prealign.model.layout import Exchange

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """This process among all: ``rank`` of ``ranks``, and its device.

    ``tensor_ranks`` consecutive ranks share the weights of one replica of the model and see the same tokens. Words are
    dealt over the ``data_ranks`` replicas. Rows of text are dealt over ``row_ranks`` groups of ``sequence_ranks``
    consecutive replicas, each of which holds an equal part of their positions.
    """

    rank: int
    ranks: int
    device: torch.device
    control: dist.ProcessGroup | None = None
    """Group of all ranks over gloo, for small decisions that must not wait for the device; None: the default group."""
    tensor_ranks: int = 1
    data_group: dist.ProcessGroup | None = None
    """Ranks with the same place in their replicas; None: the default group, where replicas have one rank."""
    sequence_ranks: int = 1
    exchange: Exchange | None = None
    """How the replicas that share rows of text attend over them; None: no rows are shared."""

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
    def row_rank(self) -> int:
        """Which of the `row_ranks` groups of replicas this rank belongs to."""
        return self.data_rank // self.sequence_ranks

    @property
    def row_ranks(self) -> int:
        """Groups of replicas that have rows of text of their own."""
        return self.data_ranks // self.sequence_ranks

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

    def on_first(self, action: Callable[[], Value]) -> Value:
        """What ``action`` returns on the first rank, on all ranks; a `UserError` of it is raised on all of them."""
        value = error = None
        if self.is_first:
            try:
                value = action()
            except UserError as found:
                error = str(found)
        value, error = self.first((value, error))
        if error is not None:
            raise UserError(error)
        return cast(Value, value)

    def barrier(self) -> None:
        """Wait for all ranks."""
        dist.barrier()


@contextmanager
def running_world(tensor_ranks: int = 1, sequence_ranks: int = 1) -> Iterator[World]:
    """Join the process group that the launcher describes (``deepspeed``, ``torchrun``), or a group of one, and leave
    it. Raises `UserError` where the sizes do not divide it."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    _check_environment()
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
    try:
        deepspeed.init_distributed(dist_backend="nccl" if on_gpu else "gloo", verbose=False)
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        raise _cannot_meet(str(error)) from None
    try:
        control = dist.new_group(backend="gloo") if on_gpu else None
        yield world_of(device, control, tensor_ranks, sequence_ranks)
    finally:
        dist.destroy_process_group()


def _check_environment() -> None:
    """Refuse what a launcher did not set as a whole: a variable left over from another start."""
    found = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE") if name in os.environ}
    missing = [
        name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ
    ]
    if found and missing:
        shown = ", ".join(f"{name}={value}" for name, value in found.items())
        raise UserError(
            f"environment: found {shown} without {', '.join(missing)}; expected all of them, from a launcher, or none "
            f"for one process: start with deepspeed or torchrun, or 'unset {' '.join(found)}'"
        )


def _cannot_meet(reason: str) -> UserError:
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if "EADDRINUSE" in reason or "already in use" in reason:
        return UserError(
            f"environment: MASTER_PORT {os.environ['MASTER_PORT']} is in use on this machine, maybe by another run; "
            f"choose another one, as with 'deepspeed --master_port 29700' or 'torchrun --master-port 29700'"
        )
    reason = reason.partition("\n")[0][:200]
    return UserError(
        f"environment: the {os.environ['WORLD_SIZE']} processes did not meet at {place} ({reason}); check that all are "
        f"started, that MASTER_ADDR is the first one's machine and that its port can be reached"
    )


def row_ranks(ranks: int, tensor_ranks: int, sequence_ranks: int) -> int:
    """`World.row_ranks`; raises `UserError` where the sizes do not divide ``ranks``."""
    if ranks % (tensor_ranks * sequence_ranks):
        raise UserError(
            f"parallel: found tensor_parallel_size={tensor_ranks} and sequence_parallel_size={sequence_ranks} on "
            f"{ranks} ranks; expected ranks divisible by their product"
        )
    return ranks // (tensor_ranks * sequence_ranks)


def world_of(device: torch.device, control: dist.ProcessGroup | None, tensor_ranks: int, sequence_ranks: int) -> World:
    """This process among those of the default group; all ranks call it."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    row_ranks(ranks, tensor_ranks, sequence_ranks)
    numbers = torch.arange(ranks).view(-1, sequence_ranks, tensor_ranks)
    data_group = exchange = None
    if tensor_ranks > 1:
        data_group, _ = dist.new_subgroups_by_enumeration(numbers.flatten(0, 1).T.tolist())
    if sequence_ranks > 1:
        shared, _ = dist.new_subgroups_by_enumeration(numbers.transpose(1, 2).flatten(0, 1).tolist())
        exchange = UlyssesExchange(shared)
    return World(rank, ranks, device, control, tensor_ranks, data_group, sequence_ranks, exchange)
