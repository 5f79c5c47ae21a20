"""From a checkout to every figure of a new card: ceilings, kernels, training steps, a whole run that is killed and
resumed. Each check has a time limit (``--list``) and leaves its files as it ends.

    python launchers/gpu_check.py --out gpu_check                         # all parts
    python launchers/gpu_check.py --out gpu_check --part kernels --part run

OUT/gpu_check.json holds device, versions, date and command, and of every check whether it passed, its seconds and the
end of what it printed; the checks' own figures lie beside it. Exit code 0 when all passed.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prealign.config.command_line import command_line
from prealign.errors import UserError, run
from prealign.files import write_atomically

_PYTHON = sys.executable
_PACKAGES = ("torch", "triton", "deepspeed", "numpy", "inf-cl", "cut-cross-entropy", "liger-kernel")
_TAIL = 3000
"""Characters of a check's output that the record keeps."""


@dataclass(frozen=True)
class Check:
    """``timed``: runs alone; others of a part run beside each other, before these."""

    name: str
    part: str
    limit: int
    command: list[str]
    timed: bool = True


def checks(out: Path) -> list[Check]:
    """All checks, in order; ``limit`` in seconds."""
    python = [_PYTHON, "-m"]
    rates = [*python, "prealign.kernels.benchmarks", "--seconds", "0.4"]
    steps = [_PYTHON, "launchers/benchmark.py", "--accumulation", "8", "--steps", "3", "--warmup", "1"]
    subjects = ("symmetric", "rank_plan", "cross_entropy", "pool", "infonce")
    tests = [f"tests/kernels/test_{subject}.py" for subject in subjects]
    peers = ["chunked", "eager", "inf-cl", "cut-cross-entropy", "liger-kernel"]

    def infonce(name: str, limit: int, *options: str) -> Check:
        return Check(name, "kernels", limit, [*rates, "--out", f"{out}/{name}.json", *options])

    def step(name: str, limit: int, recipe: str, *options: str) -> Check:
        return Check(name, "step", limit, [*steps, "--config", recipe, "--json", f"{out}/{name}.json", *options])

    return [
        Check("kernel_tests", "kernels", 120, [*python, "pytest", "-q", *tests], timed=False),
        Check("run", "run", 150, [_PYTHON, __file__, "--killed-run", "--out", str(out)], timed=False),
        Check("ceilings", "kernels", 40, [*python, "prealign.kernels.benchmarks.ceilings", f"{out}/ceilings.json"]),
        Check("repeats", "kernels", 60, [*python, "prealign.kernels.benchmarks.repeats", f"{out}/repeats.json"]),
        infonce("infonce", 100, "--only", "triton"),
        infonce("infonce_4096", 60, "--only", "triton", "--words", "4096"),
        step("1p3b", 90, "real_1p3b", "parallel.compile=false"),
        step("150m", 240, "enclone_150m"),  # compiled after a trial, as runs are
        step("1p3b_compiled", 240, "real_1p3b", "--stage", "pretrain", "parallel.compile=true"),
        infonce("infonce_peers", 240, "--only", *peers),
    ]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="folder for records and logs")
    parser.add_argument("--part", action="append", choices=["kernels", "step", "run"], help="this part alone")
    parser.add_argument("--only", action="append", metavar="CHECK", help="this check alone (names: --list)")
    parser.add_argument("--list", action="store_true", help="print the checks with their limits, run nothing")
    parser.add_argument("--killed-run", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.killed_run:
        killed_run(arguments.out)
        return
    chosen = [
        check
        for check in checks(arguments.out)
        if (not arguments.part or check.part in arguments.part) and (not arguments.only or check.name in arguments.only)
    ]
    if not chosen:
        raise UserError(f"--only {arguments.only}: found no such check in these parts; --list prints them")
    if arguments.list:
        for check in chosen:
            print(f"{check.part:8} {check.name:14} at most {check.limit:3} s  {' '.join(check.command[1:])}")
        return
    import torch

    if not torch.cuda.is_available():
        raise UserError("gpu_check: found no CUDA device; expected one that torch can use (nvidia-smi, CUDA build)")
    arguments.out.mkdir(parents=True, exist_ok=True)
    failed = Record(arguments.out, sys.argv).run_all(chosen)
    if failed:
        raise UserError(f"gpu_check: {len(failed)} of {len(chosen)} checks failed: {', '.join(failed)}")


class Record:
    """What is known so far, written after every check."""

    def __init__(self, out: Path, command: list[str]) -> None:
        import torch

        self.out, self.began = out, time.monotonic()
        self.values: dict[str, Any] = {
            "device": torch.cuda.get_device_name(),
            "memory_gb": torch.cuda.get_device_properties(0).total_memory / 1e9,
            "versions": {"python": platform.python_version(), "cuda": torch.version.cuda, **_versions()},
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": " ".join(command),
            "checks": {},
        }

    def run_all(self, chosen: list[Check]) -> list[str]:
        """Names of those that failed."""
        together = [(check, self._start(check), time.monotonic()) for check in chosen if not check.timed]
        for check, process, began in together:
            self._finish(check, process, began)
        for check in chosen:
            if check.timed:
                self._finish(check, self._start(check), time.monotonic())
        return [name for name, check in self.values["checks"].items() if not check["passed"]]

    def _start(self, check: Check) -> subprocess.Popen[bytes]:
        print(f"[{time.monotonic() - self.began:4.0f} s] {check.name}: at most {check.limit} s", flush=True)
        with (self.out / f"{check.name}.log").open("wb") as log:
            return subprocess.Popen(check.command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def _finish(self, check: Check, process: subprocess.Popen[bytes], began: float) -> None:
        try:
            code: int | str = process.wait(max(1.0, began + check.limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its children too: they would run on beside the next check
            process.wait()
            code = f"stopped after {check.limit} s"
        output = (self.out / f"{check.name}.log").read_text(errors="replace")
        seconds = time.monotonic() - began
        self.values["checks"][check.name] = {
            "passed": code == 0,
            "exit": code,
            "seconds": round(seconds, 1),
            "output": output[-_TAIL:],
        }
        write_atomically(self.out / "gpu_check.json", json.dumps(self.values, indent=1) + "\n")
        shown = output.strip().splitlines()[-25:]
        print(*(f"    {line[:160]}" for line in shown), sep="\n")
        print(f"[{time.monotonic() - self.began:4.0f} s] {check.name}: {code} after {seconds:.0f} s", flush=True)


def killed_run(out: Path) -> None:
    """Train `enclone_demo` in bf16 to its end; again, killed after its first checkpoint of the pretraining stage and
    started again. Print how far the two runs' losses are apart."""
    changes = ["parallel.precision=bf16", f"data.dir={out}/data"]
    subprocess.run([_PYTHON, "launchers/prepare.py", "--config", "enclone_demo", *changes], check=True)

    def start(name: str) -> subprocess.Popen[bytes]:
        run_dir = f"run_dir={out}/{name}"
        return subprocess.Popen([_PYTHON, "launchers/pretrain.py", "--config", "enclone_demo", run_dir, *changes])

    whole, killed = start("whole"), start("killed")
    checkpoints = out / "killed" / "pretrain" / "checkpoints"
    while killed.poll() is None and not list(checkpoints.glob("step-*")):
        time.sleep(0.05)
    time.sleep(1.0)  # some steps beyond it
    killed.kill()
    killed.wait()
    again = start("killed")
    if whole.wait() or again.wait():
        raise UserError(f"killed_run: exit codes {whole.returncode} and {again.wait()}; expected 0 and 0")
    left, right = (_losses(out / name / "metrics.jsonl") for name in ("whole", "killed"))
    apart = {key: abs(left[key] - right[key]) for key in left.keys() & right.keys()}
    record = {"steps_compared": len(apart), "missing": len(left.keys() ^ right.keys()), "largest": max(apart.values())}
    print(json.dumps(record))
    write_atomically(out / "resume.json", json.dumps(record) + "\n")


def _losses(path: Path) -> dict[tuple[str, int], float]:
    """Loss of every logged step, by stage and step."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {(line["stage"], line["step"]): line["lm_loss"] for line in lines if line["kind"] == "train"}


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


if __name__ == "__main__":
    run(main)
