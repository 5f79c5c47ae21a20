"""Real processes for tests: launchers as a user starts them, and functions on several gloo ranks."""

import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from prealign.config import Recipe, dump_recipe
from prealign.processes import free_port

ROOT = Path(__file__).resolve().parents[1]


def start(arguments: list[str], ranks: int = 1, cwd: Path = ROOT) -> list[subprocess.Popen[str]]:
    """Start a launcher once per rank, as a distributed launcher would; output goes to pipes."""
    port = free_port()
    return [start_rank(arguments, rank, ranks, port, cwd) for rank in range(ranks)]


def start_rank(arguments: list[str], rank: int, ranks: int, port: int, cwd: Path = ROOT) -> subprocess.Popen[str]:
    """Start one of the ranks."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
    environment["COLUMNS"] = "200"  # tables are not wrapped
    if ranks > 1:
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, *arguments]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(processes: list[subprocess.Popen[str]]) -> tuple[int, str, str]:
    """Wait for all; returns the first rank's exit code, stdout and stderr (of all ranks when one of them failed)."""
    outputs = [process.communicate(timeout=300) for process in processes]
    stderr = outputs[0][1] if not any(p.returncode for p in processes) else "\n".join(error for _, error in outputs)
    return processes[0].returncode, outputs[0][0], stderr


def train(recipe: Recipe, folder: Path, ranks: int = 1, *options: str) -> list[dict[str, Any]]:
    """Run ``launchers/pretrain.py`` on a recipe with ``folder`` as its run folder; returns the rows of its metrics."""
    processes = start(train_arguments(recipe, folder, *options), ranks)
    code, _, stderr = finish(processes)
    assert code == 0, stderr[-4000:]
    return metrics(folder)


def train_arguments(recipe: Recipe, folder: Path, *options: str) -> list[str]:
    """Arguments that train ``recipe`` in ``folder``."""
    path = folder.with_name(folder.name + ".yaml")
    path.write_text(dump_recipe(recipe))
    return ["launchers/pretrain.py", "--config", str(path), *options, f"run_dir={folder}"]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run's metrics, without what depends on the machine."""
    clock = {"tokens_per_second", "data_wait", "peak_memory_gb"}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in clock} for row in rows]


def on_ranks(function: Callable[..., Any], ranks: int, *arguments: Any) -> list[Any]:
    """Call ``function(rank, ranks, *arguments)`` in as many gloo processes; returns what each returned."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    port = free_port()
    processes = [
        context.Process(target=_on_rank, args=(function, rank, ranks, port, results, arguments))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    collected = dict(results.get(timeout=300) for _ in processes)
    for process in processes:
        process.join()
    for rank, (_value, error) in collected.items():
        assert error is None, f"rank {rank}:\n{error}"
    return [collected[rank][0] for rank in range(ranks)]


def _on_rank(function: Callable[..., Any], rank: int, ranks: int, port: int, results: Any, arguments: tuple) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        dist.init_process_group("gloo", rank=rank, world_size=ranks)
        value = function(rank, ranks, *arguments)
        results.put((rank, (value, None)))
        dist.destroy_process_group()
    except BaseException:
        results.put((rank, (None, traceback.format_exc())))


def wait_for(true: Callable[[], bool]) -> None:
    """Wait for at most 30 seconds until a condition holds."""
    waiting = threading.Event()
    for _ in range(600):
        if true():
            return
        waiting.wait(0.05)
    raise AssertionError("nothing happened in 30 seconds")
