"""Tensor ranks that are threads of one process: what ranks exchange, without processes. One computes at a time, as
Triton's interpreter wants it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock
from typing import Any, TypeVar

import torch

Value = TypeVar("Value")


class ThreadRank:
    """A `prealign.model.tensor_ranks.TensorRanks`."""

    def __init__(self, rank: int, barrier: Barrier, turn: Lock, shared: list[Any]) -> None:
        self.rank, self.ranks = rank, barrier.parties
        self._barrier, self._turn, self._shared = barrier, turn, shared

    def _all(self, tensor: torch.Tensor) -> torch.Tensor:
        self._shared[self.rank] = tensor.detach().clone()
        self._wait()
        found = torch.stack(self._shared)
        self._wait()
        return found

    def _wait(self) -> None:
        self._turn.release()
        try:
            self._barrier.wait()
        finally:
            self._turn.acquire()

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return _Reduced.apply(hidden_states, self, False)

    def total(self, partial: torch.Tensor) -> torch.Tensor:
        return _Reduced.apply(partial, self, True)

    def add_(self, tensor: torch.Tensor) -> None:
        tensor.copy_(self._all(tensor).sum(dim=0))

    def max_(self, tensor: torch.Tensor) -> None:
        tensor.copy_(self._all(tensor).amax(dim=0))


class _Reduced(torch.autograd.Function):
    """The sum over ranks forward, and then as it is backward, or the other way round."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, rank: ThreadRank, is_forward: bool) -> torch.Tensor:
        ctx.rank, ctx.is_forward = rank, is_forward
        return rank._all(tensor).sum(dim=0) if is_forward else tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient if ctx.is_forward else ctx.rank._all(gradient).sum(dim=0), None, None


def on_threads(ranks: int, function: Callable[[ThreadRank], Value]) -> list[Value]:
    """What ``function`` returns on each rank."""
    barrier, turn, shared = Barrier(ranks, timeout=60), Lock(), [None] * ranks

    def run(rank: int) -> Value:
        try:
            with turn:
                return function(ThreadRank(rank, barrier, turn, shared))
        except BaseException:
            barrier.abort()  # the others wait no longer
            raise

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(run, range(ranks)))
