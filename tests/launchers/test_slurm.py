"""`launchers/slurm.sh` with stand-ins for Slurm's programs: its tasks run, signals reach them, code 75 is requeued."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.processes import ROOT

_SRUN = """#!/usr/bin/env bash
# as srun does: a process per task, signals passed on, the largest exit code
while [[ $1 == --* ]]; do shift; done
trap 'signalled=1; kill -USR1 "${tasks[@]}" 2>/dev/null' USR1
for rank in 0 1; do SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" & tasks+=($!); done
worst=0
for task in "${tasks[@]}"; do
    signalled=1
    while [ $signalled -eq 1 ]; do  # a signal ends wait early; the task's own code comes from the next one
        signalled=0
        wait "$task"; found=$?
        [ $found -eq 127 ] || code=$found
    done
    [ $code -gt $worst ] && worst=$code
done
exit $worst
"""
_SCONTROL = """#!/usr/bin/env bash
if [ "$1" = show ]; then echo node1; echo node2; else echo "$@" >> "$STUBS/scontrol.log"; fi
"""
_PYTHON = """#!/usr/bin/env bash
trap 'kill $! 2>/dev/null; exit 75' USR1
echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT $*" >> "$STUBS/tasks.log"
sleep "$SECONDS_TO_RUN" & wait
exit "$CODE"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    for name, text in (("srun", _SRUN), ("scontrol", _SCONTROL), ("task-python", _PYTHON)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    values = {"STUBS": str(tmp_path), "PYTHON": "task-python", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    values |= {
        "SLURM_JOB_ID": "42",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_JOB_NODELIST": "node[1-2]",
    }
    return os.environ | values | {"SLURM_SUBMIT_DIR": str(ROOT), "CODE": "0", "SECONDS_TO_RUN": "60"}


def start(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    command = ["bash", str(ROOT / "launchers" / "slurm.sh"), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_preempted_job_goes_back_into_the_queue(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    job = start(environment, "--config", "real_1p3b", "name=two words")
    tasks = tmp_path / "tasks.log"
    while not tasks.is_file() or tasks.read_text().count("\n") < 2:
        time.sleep(0.02)
    assert sorted(tasks.read_text().splitlines()) == [
        f"{rank} {rank} 2 node1 20042 launchers/pretrain.py --config real_1p3b name=two words" for rank in (0, 1)
    ]
    job.send_signal(number)
    out, error = job.communicate(timeout=30)
    assert job.returncode == 0, error
    assert "putting job 42 back into the queue" in out
    assert (tmp_path / "scontrol.log").read_text() == "requeue 42\n"


@pytest.mark.parametrize("code", ["0", "2"])
def test_other_codes_end_the_job(environment: dict[str, str], tmp_path: Path, code: str) -> None:
    job = start(environment | {"CODE": code, "SECONDS_TO_RUN": "0"}, "--config", "real_1p3b")
    job.communicate(timeout=30)
    assert job.returncode == int(code)
    assert not (tmp_path / "scontrol.log").exists()


def test_no_arguments(environment: dict[str, str]) -> None:
    job = start(environment)
    assert "expected those of launchers/pretrain.py" in job.communicate(timeout=30)[1]
    assert job.returncode == 2
