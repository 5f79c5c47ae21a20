"""One run a folder: a lock file that says who holds it and is touched while they live. It needs nothing of the file
system but atomic hard links, so it works on NFS too.

A process that was killed leaves its file behind. On the same machine it is known to be gone at once; of another one,
when the file has not been touched for a while. Of many who find it so, one removes the file: see `RunLock._remove`.
"""

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

    def has_ended(self) -> bool:
        """Whether a holder on this machine has ended."""
        found = _started(self.process)
        return found is None or (self.started not in ("", found))

    def __str__(self) -> str:
        return "a process" if self == _UNKNOWN else f"process {self.process} on {self.host}"


_UNKNOWN = Holder(host="", machine="", process=0, started="", token="unknown")
"""Whoever holds a lock file that cannot be read."""


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
        taken_from = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            while not self._link(self._path):
                taken_from = self._make_way() or taken_from
        except OSError as error:
            raise UserError(
                f"run_dir: '{self._folder}' cannot be written ({error.strerror}); choose another folder"
            ) from None
        if taken_from is not None:
            self._say(f"{self._folder}: taken over from {taken_from}")
        self._thread.start()

    def release(self) -> None:
        """Remove it, unless another process has taken it over."""
        self._done.set()
        self._thread.join()
        if _read(self._path) == self._own:
            self._remove(self._path, self._own)

    def _link(self, path: Path) -> bool:
        """Make a lock file that names this process, whole at once; False where there is one."""
        mine = self._folder / f".lock.{self._own.token}"
        mine.write_text(json.dumps(asdict(self._own)), encoding="utf-8")
        try:
            os.link(mine, path)
        except FileExistsError:
            return _read(path) == self._own  # NFS may say so of a link that was made, when its answer was lost
        finally:
            mine.unlink()
        return True

    def _make_way(self) -> str | None:
        """Return when the lock that is there is gone, with a name for whom it was taken from, if it was by this
        process. Raises `UserError` where its holder is alive."""
        holder = _read(self._path)
        if holder is None:
            return None
        if self._is_elsewhere(holder):
            self._say(f"{self._folder}: held by {holder}; waiting up to {_GONE_AFTER:.0f} s for a sign of life")
        if not self._is_gone(self._path, holder):
            raise UserError(
                f"run_dir: '{self._folder}' is in use by {holder}; wait for it or stop it, or choose another run_dir"
            )
        if not self._remove(self._path, holder):
            return None
        how = f"of which nothing was heard for {_GONE_AFTER:.0f} s" if self._is_elsewhere(holder) else "which has ended"
        return f"{holder}, {how}"

    def _remove(self, path: Path, holder: Holder) -> bool:
        """Remove the lock file of a holder, and no other's; whether this process did.

        Who finds a dead holder's file may act on it late, when another has taken over. So the right to remove it is a
        lock file too, with the holder's token in its name, which no other process ever has: while one process has this
        right, the file at ``path`` is not replaced, and who has it afterwards finds another holder there. A process
        killed with the right in its hands leaves that file behind, which is removed in the same way.
        """
        right = path.with_name(f"{path.name}.{holder.token}.removed")  # of a right, too, where its holder was killed
        began = time.monotonic()
        if not self._link(right):
            remover = _read(right)
            if remover is not None and self._is_gone(right, remover):
                self._remove(right, remover)
            time.sleep(0.01)
            return False
        try:
            late = time.monotonic() - began > _GONE_AFTER / 2  # this process was stopped; another may think it dead
            if late or _read(path) != holder:
                return False
            path.unlink()
            return True
        finally:
            right.unlink(missing_ok=True)

    def _is_elsewhere(self, holder: Holder) -> bool:
        return holder.machine != self._own.machine

    def _is_gone(self, path: Path, holder: Holder) -> bool:
        """Whether the holder of a lock file has ended. On another machine: whether the file stays untouched for a
        while; one that goes meanwhile counts as gone."""
        if not self._is_elsewhere(holder):
            return holder.has_ended()
        touched = _touched(path)
        end = time.monotonic() + _GONE_AFTER
        while time.monotonic() < end:
            time.sleep(min(1.0, _GONE_AFTER / 10))
            if _read(path) != holder:
                return True
            if _touched(path) != touched:
                return False
        return True

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
    """The holder that a lock file names; None where there is no file."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return _UNKNOWN


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
