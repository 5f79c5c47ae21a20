"""Launchers as child processes: output to a log, signals passed on, the line that says why one failed."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch

from prealign.errors import INTERRUPTED_EXIT_CODE, Interrupted, UserError
from prealign.processes import free_port
from prealign.training.signals import SIGNALS

_LAST_LINES = 40
_OF_THE_LAUNCHER = ("[launch.py", "[runner.py", "CalledProcessError", "torch/distributed/elastic")


_GRACE = 10.0
"""Seconds that a command has to end its processes."""


class Failed(Exception):  # noqa: N818 - the suite goes on
    """A command ended with an error; the message is its last line. ``code``: its exit code, None where its time was
    over."""

    def __init__(self, message: str, code: int | None = 1) -> None:
        super().__init__(message)
        self.code = code


def default_launcher() -> str:
    """What starts the processes of a run: all GPUs, or two processes on a CPU."""
    return "deepspeed" if torch.cuda.is_available() else "deepspeed --num_accelerators 2"


class Processes:
    """Runs one command after another; within its ``with`` block (of the main thread) the signals that stop a run go
    to the command's whole process group, as SIGTERM, and `run` raises `Interrupted` when the group has ended."""

    def __init__(self, launcher: str, launchers: Path) -> None:
        try:
            self._launcher = shlex.split(launcher)
        except ValueError as error:
            raise UserError(f"--launcher: found '{launcher}' ({error}); expected a command") from None
        if not self._launcher:
            raise UserError("--launcher: found nothing; expected a command, as 'deepspeed --num_accelerators 2'")
        here = Path.cwd()
        self._launchers = launchers.relative_to(here) if launchers.is_relative_to(here) else launchers
        self._child: subprocess.Popen[str] | None = None
        self._stopping = False
        self._before: dict[signal.Signals, Any] = {}

    def command(self, program: str, arguments: list[str], distributed: bool = True) -> list[str]:
        """The command line as a user would give it."""
        start = self._launcher if distributed else ["python"]
        return [*start, str(self._launchers / program), *arguments]

    def run(
        self, program: str, arguments: list[str], log: Path, distributed: bool = True, limit: float | None = None
    ) -> None:
        """Run a launcher to its end, or for ``limit`` seconds; its output is appended to ``log``. Raises `Failed`,
        `Interrupted`."""
        self.check()
        command = self.command(program, arguments, distributed)
        first = Path(command[0]).name
        if first == "deepspeed" and not any(word.startswith("--master_port") for word in command):
            command[1:1] = ["--master_port", str(free_port())]
        command[0] = _found(command[0])
        log.parent.mkdir(parents=True, exist_ok=True)
        last: deque[str] = deque(maxlen=_LAST_LINES)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {shlex.join(command)}\n")
            file.flush()
            try:
                self._child = subprocess.Popen(
                    command,
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    start_new_session=True,
                )
            except OSError as error:
                raise UserError(f"--launcher: '{command[0]}' cannot be run ({error.strerror}); install it") from None
            assert self._child.stdout is not None
            timer = _Timer(self._child, limit)
            if self._stopping:  # the signal came while the child was starting
                self._pass_on()
            # the pipe ends when every process of the group has ended, the ranks that save a checkpoint included
            for line in self._child.stdout:
                file.write(line)
                file.flush()
                if line.strip():
                    last.append(line.strip())
        code = self._child.wait()
        timer.cancel()
        self._child = None
        self.check()
        if timer.expired:
            raise Failed(f"stopped after {limit:g} s", None)
        if code == INTERRUPTED_EXIT_CODE:
            raise Interrupted
        if code != 0:
            raise Failed(f"{why_it_failed(list(last)) or f'exit code {code}'} ({log})", code)

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self._stopping:
            raise Interrupted

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self._stopping:
            self._stopping = True
            name = signal.Signals(number).name
            os.write(sys.stderr.fileno(), f"{name}: stopping; the same command goes on from here\n".encode())
            self._pass_on()

    def _pass_on(self) -> None:
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGTERM)

    def __enter__(self) -> "Processes":
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class _Timer:
    """Ends a process group when its time is over: what does not end on SIGTERM, it kills."""

    def __init__(self, child: subprocess.Popen[str], seconds: float | None) -> None:
        self.expired = False
        self._group = child.pid
        self._timers = []
        if seconds is not None:
            for number, after in ((signal.SIGTERM, seconds), (signal.SIGKILL, seconds + _GRACE)):
                timer = threading.Timer(after, self._end, (number,))
                timer.daemon = True
                timer.start()
                self._timers.append(timer)

    def cancel(self) -> None:
        """The process has ended by itself, or by this."""
        for timer in self._timers:
            timer.cancel()

    def _end(self, number: signal.Signals) -> None:
        self.expired = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._group, number)


def why_it_failed(lines: list[str]) -> str | None:
    """The line of an output that says why: the last ``error: ...``, else the last that is not the launcher's."""
    errors = [line for line in lines if line.startswith("error")]
    own = [line for line in lines if not any(mark in line for mark in _OF_THE_LAUNCHER)]
    found = errors or own or lines
    return found[-1] if found else None


def _environment() -> dict[str, str]:
    environment = {"PYTHONWARNINGS": "ignore"} | dict(os.environ)
    if not torch.cuda.is_available():
        environment.setdefault("DS_ACCELERATOR", "cpu")
    return environment


def _found(program: str) -> str:
    """This Python for ``python``; other programs beside it where they are."""
    if program == "python":
        return sys.executable
    beside = Path(sys.executable).parent / program
    return str(beside) if beside.is_file() else program
