"""Every measurement in a process of its own, with a time limit: what it leaves behind, breaks or hangs in stays
there."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

ROW_SECONDS = 100.0
"""Most for one measurement; compiling the matrix as it is stored takes the longest."""

ALL_SECONDS = 480.0
"""Most for all of them."""


class Children:
    """Starts measurements until the time is up; those that come later are skipped."""

    def __init__(self, options: Sequence[str], row_seconds: float = ROW_SECONDS, seconds: float = ALL_SECONDS) -> None:
        """``options``: those of the command, which every measurement gets."""
        self._options = list(options)
        self._row_seconds = row_seconds
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def figures(self, kind: str, name: str, options: Sequence[str] = ()) -> dict[str, Any]:
        """What a measurement printed in its last line; ``failed`` or ``skipped``, with the reason. ``options`` come
        after those of the command, and hold in their place."""
        left = self._end - time.monotonic()
        if left <= 0:
            return {"skipped": f"no time left of {self._seconds:.0f} s"}
        limit = min(left, self._row_seconds)
        command = [sys.executable, "-m", "prealign.kernels.benchmarks", "--child", kind, "--name", name]
        try:
            arguments = [*command, *self._options, *options]
            done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=limit)
        except subprocess.TimeoutExpired:
            return {"failed": f"stopped after {limit:.0f} s"}
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            return {"failed": f"exit code {done.returncode}: {lines[-1][:300]}"}
        return json.loads(done.stdout.splitlines()[-1])
