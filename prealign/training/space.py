"""Room on disk for a run's checkpoints: looked at before training, and before each save."""

import os
import shutil
from pathlib import Path

from prealign.config import Recipe
from prealign.distributed.world import World
from prealign.errors import UserError
from prealign.model.shapes import parameter_count

_GB = 1e9
_WITH_NAMES = 1.02
"""Files hold names and places of their tensors, and there is a manifest beside them."""


def checkpoint_bytes(recipe: Recipe) -> int:
    """Size of one checkpoint: fp32 weights and the optimizer's two moments, in bf16 too."""
    return parameter_count(recipe) * 12


def check_space(recipe: Recipe, folder: Path) -> None:
    """Raise `UserError` unless there is room for what a stage in ``folder`` (which may not be there yet) will write.

    One checkpoint more than ``checkpoint.keep`` exists while it is written; the final weights are a third of one.
    """
    size = checkpoint_bytes(recipe)
    present = len(list((folder / "checkpoints").glob("step-*")))
    needed = int(_WITH_NAMES * size * (max(1, recipe.checkpoint.keep + 1 - present) + 1 / 3))
    free = shutil.disk_usage(_existing(folder)).free
    if free < needed:
        raise UserError(
            f"run_dir: found {free / _GB:.2f} GB free for '{folder}'; expected {needed / _GB:.2f} GB (checkpoints of "
            f"{size / _GB:.2f} GB, checkpoint.keep={recipe.checkpoint.keep} and one being written); free space, lower "
            "checkpoint.keep, or choose another run_dir"
        )


def check_writable(folder: Path, rank: int) -> None:
    """Raise `UserError` unless this rank, on its machine, can write in ``folder``."""
    probe = folder / f".written-by-rank-{rank}"
    try:
        with probe.open("wb") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"run_dir: '{folder}' cannot be written by rank {rank} ({error.strerror}); expected a folder that all "
            "machines share and may write; mend its rights, free space, or choose another run_dir"
        ) from None


def has_room(recipe: Recipe, folder: Path, world: World) -> bool:
    """Whether one more checkpoint fits now; the first rank looks and all ranks get its answer."""
    return world.on_first(lambda: shutil.disk_usage(_existing(folder)).free > _WITH_NAMES * checkpoint_bytes(recipe))


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
