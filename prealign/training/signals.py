"""Signals that ask a run to stop: SIGTERM, SIGUSR1 and SIGINT.

A handler only takes note. All ranks ask each other at every safe point (before each forward pass, in training and in
evaluation) whether one of them was asked to stop, so that a signal to a single rank stops all of them at the same
place, with a checkpoint that all of them take part in. They hear the answer at the next safe point, so that no pass
waits for it: among hundreds of ranks it takes tens of milliseconds to arrive.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from prealign.distributed.world import World
from prealign.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_SAME_REQUEST_SECONDS = 1.0


class StopRequests:
    """Catches the signals within its ``with`` block (of the main thread)."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._first: tuple[signal.Signals, float] | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._answer: Callable[[], bool] | None = None

    @property
    def received(self) -> bool:
        """Whether this rank was asked to stop."""
        return self._first is not None

    def check(self) -> None:
        """Raise `Interrupted` on all ranks if any of them was asked to stop before its last safe point; a single rank,
        before this one. A safe point: all ranks call it."""
        if self._world.world_size == 1:
            stop = self.received
        else:
            stop = self._answer is not None and self._answer()
            self._answer = None if stop else self._world.ask_any(self.received)
        if stop:
            raise Interrupted

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._first is None:
            self._first = (signal.Signals(number), time.monotonic())
            again = "; once more stops at once, without saving" if number == signal.SIGINT else ""
            line = f"rank {self._world.rank}: {self._first[0].name}: saving a checkpoint and stopping{again}\n"
            os.write(sys.stderr.fileno(), line.encode())  # print is not safe in a handler: it may interrupt another
        elif number == signal.SIGINT == self._first[0] and time.monotonic() - self._first[1] > _SAME_REQUEST_SECONDS:
            # a launcher may pass on the first Ctrl-C that the terminal gave to all processes; this is a second one
            raise KeyboardInterrupt

    def __enter__(self) -> "StopRequests":
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Interrupted):  # a second signal must not cut off a stop under way
            for number, handler in self._before.items():
                signal.signal(number, handler)


def ignore_signals(worker: int) -> None:
    """For data loading processes: what stops a run is the training process's to answer. Schedulers and launchers signal
    every process of a job, and a run whose loaders have died cannot save."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
