"""One run a folder: a lock file that says who holds it and is touched while they live. It needs nothing of the file
system but atomic links and renames, so it works on NFS too.

A process that was killed leaves its file behind. On the same machine it is known to be gone at once; of another one,
when the file has not been touched for a while.
"""

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from prealign.distributed.world import World
from prealign.errors import UserError

_TOUCHED_EVERY = 15.0
_GONE_AFTER = 90.0
"""Seconds without a touch after which the holder on another machine is gone."""


@dataclass(frozen=True)
class Holder:
    """A process that holds a run folder."""

    host: str
    machine: str
    """Names what numbers processes: boot and, in a container, process namespace."""
    process: int
    started: str
    """When the process started, in the machine's own clock: its number may be given again."""
    token: str

    @classmethod
    def this_process(cls) -> "Holder":
        return cls(socket.gethostname(), _machine(), os.getpid(), _started(os.getpid()) or "", uuid.uuid4().hex)

    def is_gone(self) -> bool:
        """Whether a holder on this machine has ended."""
        found = _started(self.process)
        return found is None or (self.started not in ("", found))


@contextmanager
def only_run(world: World, folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a run folder, on the first rank; all ranks call it. Raises `UserError` where another run is at work there;
    ``say`` gets a line, on the first rank, where a lock is taken over."""
    lock = RunLock(folder, say)
    world.on_first(lock.acquire)
    try:
        yield
    finally:
        if world.is_first:
            lock.release()


class RunLock:
    """The lock of one folder, as one process sees it."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._path = folder / ".lock"
        self._folder = folder
        self._say = say
        self._own = Holder.this_process()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="run lock")

    def acquire(self) -> None:
        """Make the lock file. Raises `UserError` where another process is at work in the folder."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            while not self._link():
                self._wait_or_refuse()
        except OSError as error:
            raise UserError(
                f"run_dir: '{self._folder}' cannot be written ({error.strerror}); choose another folder"
            ) from None
        self._thread.start()

    def release(self) -> None:
        """Remove it, unless another process has taken it over."""
        self._done.set()
        self._thread.join()
        if _read(self._path) == self._own:
            self._path.unlink(missing_ok=True)

    def _link(self) -> bool:
        """Make the lock file, whole at once; False where there is one."""
        mine = self._folder / f".lock.{self._own.token}"
        mine.write_text(json.dumps(asdict(self._own)), encoding="utf-8")
        try:
            os.link(mine, self._path)
        except FileExistsError:
            return False
        finally:
            mine.unlink()
        return True

    def _wait_or_refuse(self) -> None:
        """Return when the lock that is there is gone or was taken away."""
        holder, touched = _read(self._path), _touched(self._path)
        if holder is None and touched is None:
            return
        name = f"process {holder.process} on {holder.host}" if holder is not None else "a process"
        if holder is not None and holder.machine == self._own.machine:
            if not holder.is_gone():
                raise self._in_use(name)
            self._take_away(holder, f"{name}, which has ended")
            return
        self._say(f"{self._folder}: held by {name}; waiting up to {_GONE_AFTER:.0f} s for a sign of life")
        end = time.monotonic() + _GONE_AFTER
        while time.monotonic() < end:
            time.sleep(min(1.0, _GONE_AFTER / 10))
            if _read(self._path) != holder:
                return
            if _touched(self._path) != touched:
                raise self._in_use(name)
        self._take_away(holder, f"{name}, of which nothing was heard for {_GONE_AFTER:.0f} s")

    def _in_use(self, name: str) -> UserError:
        return UserError(
            f"run_dir: '{self._folder}' is in use by {name}; wait for it or stop it, or choose another run_dir"
        )

    def _take_away(self, holder: Holder | None, name: str) -> None:
        """Remove the lock of ``holder``, and of no other who came in between."""
        taken = self._folder / f".lock.{self._own.token}.taken"
        try:
            self._path.rename(taken)
        except FileNotFoundError:
            return
        if _read(taken) == holder:
            self._say(f"{self._folder}: taken over from {name}")
        else:
            with suppress(FileExistsError):
                os.link(taken, self._path)
        taken.unlink()

    def _keep(self) -> None:
        while not self._done.wait(_TOUCHED_EVERY):
            try:
                if _read(self._path) != self._own:
                    print(
                        f"error: {self._folder}: another process has taken the run over, as this one had not been "
                        f"heard of for {_GONE_AFTER:.0f} s; it ends, and writes nothing more",
                        file=sys.stderr,
                        flush=True,
                    )
                    os._exit(1)
                os.utime(self._path)
            except OSError:
                continue  # a file system that does not answer now may do so the next time


def _read(path: Path) -> Holder | None:
    """The holder that a lock file names; None where there is no file, or one that is not ours."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return None


def _touched(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _started(process: int) -> str | None:
    """When a process started; empty where the system does not say; None where there is none, or a dead one."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
