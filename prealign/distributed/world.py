"""Processes and devices of a run."""

import logging
import os
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
from prealign.processes import cores, free_port

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """This process among all: ``rank`` of ``world_size``, and its device.

    ``tp_size`` consecutive ranks (tensor parallelism) share the weights of one replica of the model and see the same
    tokens. Words are dealt over the ``replicas``, which ZeRO shards over too. Rows of text are dealt over ``dp_size``
    groups (data parallelism) of ``sp_size`` consecutive replicas (sequence parallelism), each of which holds an equal
    part of their positions: ``world_size = dp_size * sp_size * tp_size``.
    """

    rank: int
    world_size: int
    device: torch.device
    control: dist.ProcessGroup | None = None
    """Group of all ranks over gloo, for small decisions that must not wait for the device; None: the default group."""
    tp_size: int = 1
    replica_group: dist.ProcessGroup | None = None
    """Ranks with the same place in their replicas; None: the default group, where replicas have one rank."""
    sp_size: int = 1
    exchange: Exchange | None = None
    """How the replicas that share rows of text attend over them; None: no rows are shared."""

    @property
    def tp_rank(self) -> int:
        """Place of this rank in its replica."""
        return self.rank % self.tp_size

    @property
    def replica_rank(self) -> int:
        """Number of this rank's replica."""
        return self.rank // self.tp_size

    @property
    def replicas(self) -> int:
        """Replicas of the model."""
        return self.world_size // self.tp_size

    @property
    def dp_rank(self) -> int:
        """Which of the `dp_size` groups of replicas this rank belongs to."""
        return self.replica_rank // self.sp_size

    @property
    def dp_size(self) -> int:
        """Groups of replicas that have rows of text of their own."""
        return self.replicas // self.sp_size

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and talks to the user."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over replicas, in place."""
        dist.all_reduce(tensor, group=self.replica_group)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """Every rank's ``value`` (plain values), in rank order, on every rank."""
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; all ranks call it and get the same answer."""
        if self.world_size == 1:
            return flag
        return self.ask_any(flag)()

    def ask_any(self, flag: bool) -> Callable[[], bool]:
        """`any` without waiting: what is returned waits for the answer, and gives it. All ranks call it."""
        answer = torch.tensor([flag], dtype=torch.int32)
        work = dist.all_reduce(answer, dist.ReduceOp.MAX, group=self.control, async_op=True)

        def answered() -> bool:
            work.wait()
            return bool(answer)

        return answered

    def first(self, value: Value) -> Value:
        """The first rank's value, on all ranks."""
        if self.world_size == 1:
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
def running_world(tp_size: int = 1, sp_size: int = 1) -> Iterator[World]:
    """Join the process group that the launcher describes (``deepspeed``, ``torchrun``), or a group of one, and leave
    it. Raises `UserError` where the sizes do not divide it."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    _check_environment()
    if "RANK" not in os.environ:
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
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
            torch.set_num_threads(max(1, cores() // local))
    try:
        deepspeed.init_distributed(dist_backend="nccl" if on_gpu else "gloo", verbose=False)
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        raise _cannot_meet(str(error)) from None
    try:
        control = dist.new_group(backend="gloo") if on_gpu else None
        yield world_of(device, control, tp_size, sp_size)
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


def dp_size(world_size: int, tp_size: int, sp_size: int) -> int:
    """`World.dp_size`; raises `UserError` where the sizes do not divide ``world_size``."""
    if world_size % (tp_size * sp_size):
        raise UserError(
            f"parallel: found tensor_parallel_size={tp_size} and sequence_parallel_size={sp_size} on "
            f"{world_size} ranks; expected ranks divisible by their product"
        )
    return world_size // (tp_size * sp_size)


def world_of(device: torch.device, control: dist.ProcessGroup | None, tp_size: int, sp_size: int) -> World:
    """This process among those of the default group; all ranks call it."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    dp_size(world_size, tp_size, sp_size)
    numbers = torch.arange(world_size).view(-1, sp_size, tp_size)
    replica_group = exchange = None
    if tp_size > 1:
        replica_group, _ = dist.new_subgroups_by_enumeration(numbers.flatten(0, 1).T.tolist())
    if sp_size > 1:
        shared, _ = dist.new_subgroups_by_enumeration(numbers.transpose(1, 2).flatten(0, 1).tolist())
        exchange = UlyssesExchange(shared)
    return World(rank, world_size, device, control, tp_size, replica_group, sp_size, exchange)
