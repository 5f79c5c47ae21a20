"""The check of a new card: what can be seen of it without one."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def gpu_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "launchers/gpu_check.py", *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)


def test_list_names_every_check_with_its_limit() -> None:
    done = gpu_check("--list")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines} == {"kernels", "run", "step"}
    limits = [int(line.split("at most")[1].split()[0]) for line in lines]
    assert all(0 < limit <= 240 for limit in limits)


def test_without_a_card_it_says_what_it_expects(tmp_path: Path) -> None:
    done = gpu_check("--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "error: gpu_check: found no CUDA device; expected one that torch can use (nvidia-smi, CUDA build)"
    )
    assert not (tmp_path / "out").exists()


def test_unknown_check() -> None:
    done = gpu_check("--only", "nothing", "--list")
    assert done.returncode == 2
    assert "--only ['nothing']" in done.stderr
