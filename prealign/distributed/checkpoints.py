"""Checkpoints of a stage: ``checkpoints/step-N/`` (DeepSpeed's sharded files, a manifest) and ``latest``.

A checkpoint is written under another name and renamed when it is whole; ``latest`` moves last, atomically.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import deepspeed

from prealign.corpus.artefact import write_atomically
from prealign.distributed.world import World
from prealign.errors import UserError

_MANIFEST = "manifest.json"
_LATEST = "latest"


def save_checkpoint(
    engine: deepspeed.DeepSpeedEngine, world: World, folder: Path, step: int, state: dict[str, Any], keep: int
) -> None:
    """Save the engine and ``state`` (plain values) as ``step``; all ranks call it. Keeps the newest ``keep``."""
    name = f"step-{step}"
    partial = folder / f".{name}.partial"
    if world.is_first:
        shutil.rmtree(partial, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    world.barrier()
    engine.save_checkpoint(str(folder), tag=partial.name, client_state=state, save_latest=False)
    world.barrier()
    if world.is_first:
        files = {str(path.relative_to(partial)): path.stat().st_size for path in partial.rglob("*") if path.is_file()}
        write_atomically(partial / _MANIFEST, json.dumps({"step": step, "state": state, "files": files}, indent=1))
        shutil.rmtree(folder / name, ignore_errors=True)
        partial.rename(folder / name)
        write_atomically(folder / _LATEST, name)
        for old in sorted(_steps(folder))[:-keep]:
            if old != step:
                shutil.rmtree(folder / f"step-{old}", ignore_errors=True)
    world.barrier()


def latest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that ``latest`` names, and its state; None where there is none. Raises `UserError` if it is
    damaged."""
    pointer = folder / _LATEST
    if not pointer.is_file():
        return None
    checkpoint = folder / pointer.read_text(encoding="utf-8").strip()
    try:
        manifest = json.loads((checkpoint / _MANIFEST).read_text(encoding="utf-8"))
        wrong = [name for name, size in manifest["files"].items() if (checkpoint / name).stat().st_size != size]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{checkpoint}: not a whole checkpoint ({error}); write another step's name into {pointer}"
        ) from None
    if wrong:
        raise UserError(
            f"{checkpoint / wrong[0]}: found a size other than its manifest's; expected a whole checkpoint; "
            f"write another step's name into {pointer}"
        )
    return checkpoint, manifest["state"]


def load_checkpoint(engine: deepspeed.DeepSpeedEngine, checkpoint: Path) -> None:
    """Restore weights, optimizer and schedule; all ranks call it."""
    path, _ = engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
    if path is None:
        raise UserError(
            f"{checkpoint}: DeepSpeed found no checkpoint of this layout; expected the same ranks and ZeRO stage"
        )


def _steps(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in folder.glob("step-*")]
