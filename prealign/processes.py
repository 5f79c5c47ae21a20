"""Processes of this machine: work on all cores, results in order, memory bounded; a free port."""

import contextlib
import multiprocessing
import os
import secrets
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

_PORTS = range(20_000, 32_000)

_work: Callable | None = None  # of a child process: what it was forked with


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS has no affinity


def free_port() -> int:
    """A port of this machine that nobody listens on now, below those that systems give to outgoing connections: one of
    these could be taken again before it is used. Raises `OSError` where a hundred are in use."""
    for _ in range(100):
        port = _PORTS.start + secrets.randbelow(len(_PORTS))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(f"found no free port from {_PORTS.start} to {_PORTS.stop - 1}")


def ordered_map(work: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
    """``work`` of each task, in the order of the tasks, in child processes; at most two tasks a process are under way.

    ``work`` is inherited by forking and never pickled; tasks and results are. One task alone is done here.
    """
    tasks = iter(tasks)
    head = list(islice(tasks, 2))
    if len(head) < 2 or cores() == 1:
        yield from map(work, chain(head, tasks))
        return
    context = multiprocessing.get_context("fork")
    waiting: deque[Future[Result]] = deque()
    with ProcessPoolExecutor(cores(), context, initializer=_start, initargs=(work, os.getpid())) as pool:
        try:
            for task in chain(head, tasks):
                waiting.append(pool.submit(_do, task))
                if len(waiting) >= 2 * cores():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def in_child(work: Callable[[], Result]) -> Result:
    """``work()`` in a process of its own, so that all memory it took goes back with it. Raises what it raises, and
    `BrokenProcessPool` when the process is killed."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(work, os.getpid(), sender), daemon=True)
    process.start()
    sender.close()
    try:
        result, error = receiver.recv()
    except EOFError:
        raise BrokenProcessPool("the process was killed") from None
    finally:
        process.kill()
        process.join()
    if error is not None:
        raise error
    return result


def _answer(work: Callable[[], Result], parent: int, sender: Connection) -> None:
    _start(lambda _: work(), parent)
    try:
        sender.send((_do(None), None))
    except Exception as error:  # it goes to the parent, whatever it is
        sender.send((None, error))


def _start(work: Callable, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; one that takes a task then would block the rest
    global _work  # a child of the pool has one task function for its whole life
    _work = work
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent is killed; it would wait for tasks for ever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _do(task: Any) -> Any:
    assert _work is not None
    return _work(task)
