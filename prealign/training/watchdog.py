"""One rank that dies or hangs ends all of them, soon, and is named.

A thread on every rank gives a sign of life each second through a store that the first rank serves. What it looks for:

* a rank that raised an error: it has printed its traceback and left word in the store, the others leave without theirs;
* a rank that fell silent (killed, or its machine lost): looked for once a collective failed or the launcher asked this
  rank to stop, and after two minutes in any case;
* no forward pass, on this rank, for ``timeout`` seconds: every rank writes its stacks to the run folder, and those that
  are not waiting for others are named.
"""

import contextlib
import faulthandler
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import torch.distributed as dist

from prealign.distributed.world import World
from prealign.errors import USER_ERROR_EXIT_CODE, Interrupted, UserError

_BEAT_SECONDS = 1.0
_SILENT_AFTER_FAILURE = 6.0
_SILENT_AFTER_SIGNAL = 18.0
_SILENT_ALWAYS = 120.0
_USER_ERROR_GRACE = 8.0
_REPORTS_WITHIN = 8.0
_STORE_TIMEOUT = timedelta(seconds=20)
_LOST_CONNECTION = ("Connection closed", "Connection reset", "Broken pipe", "NCCL", "gloo", "Timed out waiting")
_ENDING = "ending"


class Watchdog:
    """Watches this rank and, through the store, the others, within its ``with`` block; all ranks enter it.

    ``folder``: the run folder, which gets ``hang/``. ``timeout``: seconds without `alive`; 0 waits forever.
    ``asked_to_stop``: whether this rank got a signal, as launchers send one when another rank has died.
    """

    def __init__(self, world: World, folder: Path, timeout: float, asked_to_stop: Callable[[], bool]) -> None:
        self._world = world
        self._folder = folder
        self._timeout = timeout
        self._asked_to_stop = asked_to_stop
        self._name = f"rank {world.rank} on {socket.gethostname()} (process {os.getpid()})"
        self._main = threading.get_ident()
        self._done = threading.Event()
        self._failed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._count = 0
        self._alive = time.monotonic()
        self._silence = _Silence(world.world_size)
        self._store: Any = None

    def alive(self) -> None:
        """The training thread has come this far."""
        self._count += 1
        self._alive = time.monotonic()

    def __enter__(self) -> "Watchdog":
        self._store = _own_store(self._world)
        self._store.set(f"name/{self._world.rank}", self._name)
        self._beat()
        self._world.barrier()
        self.alive()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, UserError):
            self._say("user", "")
        elif isinstance(error, Exception) and not isinstance(error, Interrupted) and self._world.world_size > 1:
            self._end_by(error)
        if error is None or isinstance(error, Interrupted):
            self._leave()
        self._done.set()

    def _leave(self) -> None:
        """Stop the threads on all ranks before the first one takes the store away."""
        self._done.set()
        self._thread.join()
        self._world.barrier()

    def _end_by(self, error: Exception) -> None:
        """Print this rank's traceback, unless it only tells that another rank has gone."""
        if _is_lost_connection(error):
            self._failed.set()
            time.sleep(_SILENT_AFTER_FAILURE + 6 * _BEAT_SECONDS)  # the thread finds the culprit and ends this process
        traceback.print_exception(error)
        print(f"error: {self._name} failed", file=sys.stderr, flush=True)
        self._say("error", f"{self._name} failed: {type(error).__name__}: {_one_line(error)}")
        time.sleep(2 * _BEAT_SECONDS)
        _leave_at_once(1)

    # --- the thread ---

    def _run(self) -> None:
        try:
            while not self._done.wait(_BEAT_SECONDS):
                self._beat()
                self._heed()
                self._look_for_silence()
                if self._timeout and time.monotonic() - self._alive > self._timeout:
                    self._say("hang", self._name)
        except (dist.DistError, RuntimeError) as error:
            if self._done.is_set():
                return
            time.sleep(_BEAT_SECONDS)
            if self._world.rank == min(1, self._world.world_size - 1):
                print(
                    f"error: rank 0 is gone (its store does not answer: {_one_line(error)})",
                    file=sys.stderr,
                    flush=True,
                )
            _leave_at_once(1)

    def _beat(self) -> None:
        waiting = self._where()
        beat = {"count": self._count, "since": time.monotonic() - self._alive, "at": waiting, "time": time.time()}
        self._store.set(f"beat/{self._world.rank}", json.dumps(beat))

    def _where(self) -> dict[str, Any]:
        """The innermost line of the training thread that is not torch's or DeepSpeed's, and whether it waits for other
        ranks."""
        frame = sys._current_frames().get(self._main)
        collective, line = False, ""
        while frame is not None:
            path = frame.f_code.co_filename
            collective = collective or "torch/distributed/" in path or "deepspeed/comm/" in path
            if not line and not any(part in path for part in ("site-packages", "/lib/python", "<")):
                line = f"{path}:{frame.f_lineno} ({frame.f_code.co_name})"
            frame = frame.f_back
        return {"waits_for_others": collective, "line": line or "?"}

    def _say(self, kind: str, message: str) -> None:
        """Leave word for all ranks; the first one to do so is heard."""
        with contextlib.suppress(dist.DistError, RuntimeError):  # the first rank may have gone already
            self._store.compare_set(_ENDING, "", json.dumps([kind, message, self._world.rank]))

    def _heed(self) -> None:
        """Do what a word left in the store asks for."""
        if not self._store.check([_ENDING]):
            return
        kind, message, by = json.loads(self._store.get(_ENDING))
        if kind == "hang":
            self._end_hanging(by)
        if kind == "user":  # usually all ranks have the same and end by themselves; these are the seconds they get
            if self._done.wait(_USER_ERROR_GRACE):
                return
            _leave_at_once(USER_ERROR_EXIT_CODE)
        if by == self._world.rank and kind == "error":
            return
        if self._world.is_first or kind == "dead":
            if self._world.is_first:
                print(f"error: {message}; the other ranks end with it", file=sys.stderr, flush=True)
            time.sleep(2 * _BEAT_SECONDS)  # all ranks read the word before the store goes
        _leave_at_once(1)

    def _look_for_silence(self) -> None:
        if self._failed.is_set():
            patience = _SILENT_AFTER_FAILURE
        elif self._asked_to_stop():
            patience = _SILENT_AFTER_SIGNAL
        elif self._world.is_first:  # one rank is enough to look when there is no sign of trouble
            patience = _SILENT_ALWAYS
        else:
            return
        for rank, seconds in self._silence.update(self._beats()):
            if seconds > patience:
                name = self._store.get(f"name/{rank}").decode()
                self._say(
                    "dead", f"{name} gave no sign of life for {seconds:.0f} s: it was killed, or its machine lost"
                )
                return

    def _beats(self) -> list[dict[str, Any]]:
        keys = [f"beat/{rank}" for rank in range(self._world.world_size)]
        return [json.loads(beat) for beat in self._store.multi_get(keys)]

    def _end_hanging(self, by: int) -> None:
        folder = self._folder / "hang"
        rank = self._world.rank
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / f"rank-{rank}.txt").open("w") as file:
                print(f"{self._name}, no forward pass for {time.monotonic() - self._alive:.0f} s", file=file)
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            print(f"error: {folder}: cannot be written ({error.strerror})", file=sys.stderr, flush=True)
        self._beat()
        self._store.set(f"dumped/{rank}", "1")
        if rank == by:
            line = self._culprits()
            print(f"error: {line}; stacks of all ranks: {folder}", file=sys.stderr, flush=True)
            self._store.set("concluded", line)
        else:
            self._store.wait(["concluded"], timedelta(seconds=_REPORTS_WITHIN + 10))
        time.sleep(2 * _BEAT_SECONDS)
        _leave_at_once(1)

    def _culprits(self) -> str:
        """Name the ranks that keep the others waiting."""
        deadline = time.monotonic() + _REPORTS_WITHIN
        ranks = range(self._world.world_size)
        silent = list(ranks)
        while silent and time.monotonic() < deadline:
            silent = [rank for rank in silent if not self._store.check([f"dumped/{rank}"])]
            time.sleep(0.1)
        beats = self._beats()
        busy = [rank for rank in ranks if not beats[rank]["at"]["waits_for_others"]]
        least = min(beat["count"] for beat in beats)
        behind = [rank for rank in ranks if beats[rank]["count"] == least]
        chosen = silent or [rank for rank in busy if rank in behind] or (behind if len(behind) < len(beats) else [])
        parts = []
        for rank in chosen:
            name = self._store.get(f"name/{rank}").decode()
            state = "gives no sign of life, last seen" if rank in silent else "does not wait for others, it is"
            parts.append(f"{name} {state} at {beats[rank]['at']['line']}")
        named = "; ".join(parts) or "all ranks wait for each other"
        return f"no forward pass for {self._timeout:.0f} s (watchdog.timeout): {named}"


class _Silence:
    """For how long each rank's sign of life has been the same, by this rank's clock."""

    def __init__(self, ranks: int) -> None:
        self._last: list[float | None] = [None] * ranks
        self._changed = [time.monotonic()] * ranks

    def update(self, beats: list[dict[str, Any]]) -> list[tuple[int, float]]:
        """Rank and seconds."""
        now = time.monotonic()
        for rank, beat in enumerate(beats):
            if beat["time"] != self._last[rank]:
                self._last[rank], self._changed[rank] = beat["time"], now
        return [(rank, now - changed) for rank, changed in enumerate(self._changed)]


def _own_store(world: World) -> Any:
    """A store that the first rank serves, apart from the process group's: a connection of its own never waits behind
    a collective. A rank alone has one in memory."""
    if world.world_size == 1:
        return dist.HashStore()
    host = os.environ["MASTER_ADDR"]
    store = None
    if world.is_first:
        store = dist.TCPStore(host, 0, None, is_master=True, timeout=_STORE_TIMEOUT, wait_for_workers=False)
    port = world.first(store.port if store is not None else 0)
    if store is None:
        store = dist.TCPStore(host, port, None, is_master=False, timeout=_STORE_TIMEOUT, wait_for_workers=False)
    return store


def _is_lost_connection(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(part in str(error) for part in _LOST_CONNECTION)
    )


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _leave_at_once(code: int) -> None:
    """End the process without waiting for collectives, loaders or other threads."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
