"""Time: seconds by part of a step, and tokens per second."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Clock:
    """Seconds by part of the work. With ``wait`` (a device's synchronise) each part ends when the device is done."""

    def __init__(self, wait: Callable[[], Any] | None = None) -> None:
        self._wait = wait
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the block to a part."""
        started = time.perf_counter()
        yield
        if self._wait is not None:
            self._wait()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


class Throughput:
    """Tokens of text per second, and the share of the time in which the loop waited for data."""

    def __init__(self, tokens_per_step: int, step: int) -> None:
        self._tokens_per_step = tokens_per_step
        self.restart(step)

    def restart(self, step: int) -> None:
        """Count from here: after ``step`` steps, and after what is no training."""
        self._step = step
        self._began = time.perf_counter()
        self.clock = Clock()

    def row(self, step: int) -> dict[str, float]:
        """``tokens_per_second`` and ``data_wait`` since the count began, which begins again."""
        seconds = time.perf_counter() - self._began
        tokens = (step - self._step) * self._tokens_per_step
        row = {"tokens_per_second": tokens / seconds, "data_wait": self.clock.seconds["wait"] / seconds}
        self.restart(step)
        return row
