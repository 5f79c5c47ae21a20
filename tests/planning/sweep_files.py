"""Files as ``launchers/benchmark.py --sweep --json`` writes them, of a card that is not here."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prealign.config import load_recipe
from prealign.planning.sweeps import recipe_digest

H100 = "NVIDIA H100 80GB HBM3"
OOM = "out of memory"
CONFIG = "real_1p3b"


def command(*options: str, config: str = CONFIG) -> str:
    """Of a sweep with four micro-batches a step; ``options`` of benchmark.py stand before, overrides behind."""
    named = [option for option in options if option.startswith("--")]
    given = [option for option in options if not option.startswith("--")]
    stages = [f"--stage {name[2:]}" for name in named]
    words = ["deepspeed launchers/benchmark.py", f"--config {config} --data synthetic", *stages]
    return " ".join([*words, "--steps 5 --warmup 2 --accumulation 4", *given])


def stage(seconds: float, words: float = 0, gigabytes: float = 40.0) -> dict[str, Any]:
    parts = {"data": 0.001, "forward": 0.3 * seconds, "backward": 0.6 * seconds, "optimizer": 0.1 * seconds}
    return {
        "seconds_per_step": seconds,
        "seconds": parts,
        "tokens_per_second": 1e6,
        "words_per_step": words,
        "tflops_per_device": 400.0,
        "mfu": 0.4,
        "peak_memory_gb": gigabytes,
    }


def row(
    overrides: Sequence[str],
    found: dict[str, Any] | str,
    micro: int,
    ranks: int = 8,
    device: str = H100,
    words: str | None = None,
) -> dict[str, Any]:
    """``found``: what was measured by stage, or why nothing was. ``words``: the command, of `CONFIG` by default."""
    words = command() if words is None else words
    recipe = load_recipe(CONFIG, [*(word for word in words.split() if "=" in word), *overrides])
    values = {"overrides": [*overrides], "recipe": recipe_digest(recipe), "command": words}
    if isinstance(found, str):
        return values | {"outcome": found}
    groups = ranks // recipe.parallel.tensor_parallel_size
    sizes = {"micro_batch_size": micro, "global_batch_size": 4 * micro * groups, "parameters": 1_415_696_384}
    record = {"device": device, "ranks": ranks, "recipe": CONFIG, "data": "synthetic", **sizes, "stages": found}
    return values | {"outcome": "measured", "record": record}


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(values) + "\n" for values in rows))
    return path
