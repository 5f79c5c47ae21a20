"""The one exception for mistakes that a user can mend, and the exit that shows it without a traceback."""

import atexit
import contextlib
import errno
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable

USER_ERROR_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 75
"""The run was asked to stop (SIGTERM, SIGUSR1, SIGINT), has saved a checkpoint and goes on when started again; 75 is
sysexits' EX_TEMPFAIL."""
EXIT_CODES = {
    0: "done",
    1: "a fault, with a traceback or one line, or a run of several that failed",
    USER_ERROR_EXIT_CODE: "a mistake in a recipe, a file or the command line, in one line",
    INTERRUPTED_EXIT_CODE: "stopped by SIGTERM, SIGUSR1 or SIGINT with a checkpoint; the same command goes on",
    130: "stopped by Ctrl-C; what was done stays",
}
"""Of all commands; those with further ones say so in their help."""
_OTHER_RANKS_WAIT_SECONDS = 5
_PLACES = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG}
"""What a place to write to may lack: a fault of the machine, not of the program."""


class UserError(Exception):
    """A mistake in a recipe, a file or a command line.

    The message is one line: the file or key, what was found, what was expected, and what to do.
    """


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """All ranks agreed to stop because one of them got a signal; what can be saved is saved."""


def run(main: Callable[[], None]) -> None:
    """Run a launcher's ``main`` and end the process; a `UserError` becomes one line on stderr and exit code 2, a stop
    by a signal exit code 75.

    Usually all ranks meet the same error: the first one prints it and its launcher ends the others, which wait for
    that. An error that only another rank has is printed after the wait.
    """
    code = 0
    try:
        main()
    except UserError as error:
        code = _say(error)
    except Interrupted:
        code = INTERRUPTED_EXIT_CODE
    except KeyboardInterrupt:
        code = 130
    except OSError as error:
        if error.errno not in _PLACES:
            traceback.print_exc()
            code = 1
        else:
            where = f"'{error.filename}'" if error.filename is not None else "a file"
            code = _say(f"{where} cannot be written ({error.strerror}); make room, or choose another place")
    except Exception:
        traceback.print_exc()
        code = 1
    _end(code)


def _say(error: UserError | str) -> int:
    """Print an error as one line; the exit code that goes with it."""
    rank = int(os.environ.get("RANK", "0"))
    if rank != 0:
        time.sleep(_OTHER_RANKS_WAIT_SECONDS)
    on_rank = f" (rank {rank} on {socket.gethostname()})" if rank != 0 else ""
    print(f"error{on_rank}: {error}", file=sys.stderr, flush=True)
    return USER_ERROR_EXIT_CODE


def _end(code: int) -> None:
    """End the process: a rank without finalizing the interpreter.

    A thread of gloo may still be letting go of the last collective's tensors, for which it needs the interpreter;
    while that is being finalized, it aborts the process (https://github.com/pytorch/pytorch/issues/190489). Destroying
    the process groups ends those threads only where nothing refers to the groups, and DeepSpeed does.
    """
    if "RANK" in os.environ:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # a reader that went away, a full disk
                stream.flush()
        os._exit(code)
    sys.exit(code)
