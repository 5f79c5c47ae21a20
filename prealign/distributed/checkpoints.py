"""Checkpoints of a stage: ``checkpoints/step-N/`` (each rank's pieces, a manifest) and ``latest``.

A checkpoint is written under another name and renamed when it is whole; ``latest`` moves last, atomically. Every file
is checked against its SHA-256 before anything is loaded; where one is damaged, the newest whole checkpoint before it
is taken. Any number of ranks and tensor ranks and any ZeRO stage goes on from a checkpoint of any other.
"""

import copy
import logging
import math
import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed

from prealign.config.running import CheckpointConfig
from prealign.distributed.manifest import damage, read_manifest, write_manifest
from prealign.distributed.piece_files import Batch, PieceReader, batches, write_batches
from prealign.distributed.pieces import (
    begin_restore,
    end_restore,
    held_pieces,
    optimizer_facts,
    owned_pieces,
    parameter_shapes,
    restore_optimizer,
    tensors_of,
)
from prealign.distributed.world import World
from prealign.errors import UserError
from prealign.files import write_atomically

_LATEST = "latest"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def state(self) -> dict[str, Any]:
        """What was given to `Checkpoints.save`."""
        return self.manifest["state"]


class Checkpoints:
    """The checkpoints in one folder. All ranks call every method, in the same order."""

    def __init__(self, folder: Path, world: World, settings: CheckpointConfig) -> None:
        self._folder = folder
        self._world = world
        self._settings = settings
        self._pending: _Pending | None = None

    # --- writing ---

    def save(self, engine: deepspeed.DeepSpeedEngine, step: int, state: dict[str, Any]) -> None:
        """Save the engine and ``state`` (plain values) as ``step``, then drop the checkpoints that are not to be kept.

        With ``checkpoint.asynchronous`` it returns when the pieces are copied to host memory; `poll` or `wait`
        completes the checkpoint. Raises `UserError` on all ranks when one of them could not write; what was there
        before stays.
        """
        self.wait()
        partial = self._folder / f".step-{step}.partial"
        self._agree(step, self._make_room(partial) if self._world.is_first else None)
        pieces = owned_pieces(engine, self._world)
        content = batches((key, piece, tensor) for piece in pieces for key, tensor in tensors_of(engine, piece).items())
        # as it is now: a caller counts on in what it gave while the files are written
        contents = copy.deepcopy(_contents(engine, self._world, step, state))
        self._pending = _Pending(step, partial, contents)
        if self._settings.asynchronous:
            self._pending.start(self._world.rank, content)
        else:
            self._pending.write(self._world.rank, content)
            self.wait()

    def poll(self) -> None:
        """Complete a checkpoint that all ranks have written by now; cheap, and nothing where none is under way."""
        if self._pending is None:
            return
        if not self._world.any(self._pending.is_writing):
            self.wait()

    def wait(self) -> None:
        """Complete the checkpoint that is under way, if any. Raises `UserError` as `save` does."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        pending.join()
        self._agree(pending.step, pending.error)
        entries = self._world.gather(pending.files)
        self._agree(pending.step, self._complete(pending, entries) if self._world.is_first else None)

    def _make_room(self, partial: Path) -> str | None:
        """Remove what killed runs left and make a new folder; returns what went wrong."""
        try:
            for left in [*self._folder.glob(".step-*.partial"), *self._folder.glob(".step-*.removed")]:
                shutil.rmtree(left, ignore_errors=True)
            partial.mkdir(parents=True)
        except OSError as error:
            return str(error)
        return None

    def _complete(self, pending: "_Pending", entries: list[dict[str, Any]]) -> str | None:
        """Write the manifest, rename, move ``latest``, drop old checkpoints; returns what went wrong."""
        name = f"step-{pending.step}"
        try:
            files = {file: entry for rank in entries for file, entry in rank.items()}
            write_manifest(pending.partial, pending.contents | {"files": files})
            self._remove(self._folder / name)
            pending.partial.rename(self._folder / name)
            write_atomically(self._folder / _LATEST, name)
        except OSError as error:
            return str(error)
        try:
            for step in self._superseded(pending.step):
                self._remove(self._folder / f"step-{step}")
        except OSError as error:
            self._warn(f"{self._folder}: old checkpoints could not be removed ({error})")
        return None

    def _superseded(self, newest: int) -> list[int]:
        """Steps up to ``newest`` that are neither among the last `keep` nor multiples of `keep_every`."""
        older = [step for step in self._steps() if step <= newest]
        every = self._settings.keep_every
        return [step for step in older[: -self._settings.keep] if every is None or step % every]

    def _remove(self, folder: Path) -> None:
        """Remove a checkpoint; one that is half removed bears another name."""
        if folder.exists():
            removed = folder.with_name(f".{folder.name}.removed")
            shutil.rmtree(removed, ignore_errors=True)
            folder.rename(removed)
            shutil.rmtree(removed, ignore_errors=True)

    def _agree(self, step: int, error: str | None) -> None:
        """Raise on all ranks what one of them met."""
        errors = {rank: text for rank, text in enumerate(self._world.gather(error)) if text is not None}
        if not errors:
            return
        if self._world.is_first:
            shutil.rmtree(self._folder / f".step-{step}.partial", ignore_errors=True)
        rank, text = next(iter(errors.items()))
        raise UserError(
            f"{self._folder / f'step-{step}'}: could not be written on rank {rank} ({text}); the checkpoints before it "
            f"are as they were; make room or rights, and start the same command again"
        )

    # --- reading ---

    def find(self) -> Checkpoint | None:
        """The checkpoint to go on from: the one that ``latest`` names, or, where it is damaged, the newest whole one
        before it, with a warning that names the damage. None where there is none; raises `UserError` where none is
        whole. Files are hashed by all ranks in parallel."""
        candidates = self._world.gather(self._candidates() if self._world.is_first else None)[0]
        for name in candidates:
            folder = self._folder / name
            manifest, wrong = read_manifest(folder)
            found = [wrong] if wrong else []
            files = sorted(manifest.get("files", {}).items())
            found += damage(folder, dict(files[self._world.rank :: self._world.world_size]))
            found = sorted({line for lines in self._world.gather(found) for line in lines})
            if not found:
                self._warn_of_newer(name)
                return Checkpoint(folder, manifest)
            self._warn(f"DAMAGED CHECKPOINT {folder}: {'; '.join(found)}; it is not used")
        if candidates:
            raise UserError(
                f"{self._folder}: found no whole checkpoint among {', '.join(candidates)}; expected one; restore it "
                f"from a copy, or choose another run_dir to train the stage again"
            )
        return None

    def load(self, engine: deepspeed.DeepSpeedEngine, checkpoint: Checkpoint) -> None:
        """Restore weights, optimizer, schedule and counters, whatever layout wrote them. Raises `UserError` where the
        checkpoint is of another model."""
        manifest = checkpoint.manifest
        shapes = parameter_shapes(engine)
        _check_shapes(checkpoint.folder, manifest["parameters"], shapes)
        mine = f"rank-{self._world.rank:05d}-"
        reader = PieceReader(checkpoint.folder, sorted(manifest["files"], key=lambda name: not name.startswith(mine)))
        begin_restore(engine)
        restore_optimizer(engine, manifest["optimizer"])
        for piece in held_pieces(engine):
            for key, target in tensors_of(engine, piece).items():
                reader.read(key, piece, math.prod(shapes[piece.name]), target)
        end_restore(engine)
        counters = manifest["engine"]
        engine.global_steps = counters["global_steps"]
        engine.global_samples = counters["global_samples"]
        engine.skipped_steps = counters["skipped_steps"]
        engine.lr_scheduler.load_state_dict(counters["schedule"])
        for group, rate in zip(engine.lr_scheduler.optimizer.param_groups, engine.lr_scheduler.get_last_lr()):
            group["lr"] = rate
        layout = _layout(engine, self._world)
        if {"tensor_ranks": 1} | manifest["layout"] != layout:
            self._warn(f"{checkpoint.folder}: written with {manifest['layout']}; going on with {layout}")

    def _candidates(self) -> list[str]:
        """Names of checkpoints in the order in which they are tried."""
        steps = self._steps()[::-1]
        latest = self._latest()
        if latest is None:
            return [f"step-{step}" for step in steps]
        return [f"step-{step}" for step in steps if step <= latest]

    def _latest(self) -> int | None:
        """The step that ``latest`` names; None, with a warning, where it names none of those that are there."""
        path = self._folder / _LATEST
        steps = self._steps()
        name = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else None
        named = [step for step in steps if f"step-{step}" == name]
        if not named and (steps or name):
            self._warn(f"{path}: found {name!r}; expected the name of a checkpoint beside it; taking the newest one")
        return named[0] if named else None

    def _warn_of_newer(self, name: str) -> None:
        newer = [step for step in self._steps() if step > int(name.removeprefix("step-"))]
        if newer:
            self._warn(f"{self._folder}: going on from {name}; newer steps there are not used: {newer}")

    def _steps(self) -> list[int]:
        """Steps of the checkpoints that are there, ascending."""
        names = [path.name.removeprefix("step-") for path in self._folder.glob("step-*")]
        return sorted(int(name) for name in names if name.isdecimal())

    def _warn(self, line: str) -> None:
        if self._world.is_first:
            _LOG.warning("warning: %s", line)


class _Pending:
    """A checkpoint that this rank is writing or has written."""

    def __init__(self, step: int, partial: Path, contents: dict[str, Any]) -> None:
        self.step = step
        self.partial = partial
        self.contents = contents
        self.files: dict[str, dict[str, Any]] = {}
        self.error: str | None = None
        self._thread: threading.Thread | None = None

    def write(self, rank: int, content: Iterable[Batch]) -> None:
        """Write the files now."""
        try:
            self.files = write_batches(self.partial, rank, content)
        except Exception as error:  # whatever it is, the other ranks wait to hear of it
            self.error = f"{type(error).__name__}: {error}"

    def start(self, rank: int, content: Iterable[Batch]) -> None:
        """Copy what is to be written, and write the files while the caller goes on."""
        try:
            copied = list(content)
        except Exception as error:  # as in `write`
            self.error = f"{type(error).__name__}: {error}"
            return
        self._thread = threading.Thread(target=self.write, args=(rank, copied), name="checkpoint", daemon=True)
        self._thread.start()

    @property
    def is_writing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()


def _contents(engine: deepspeed.DeepSpeedEngine, world: World, step: int, state: dict[str, Any]) -> dict[str, Any]:
    """The manifest, but for its files."""
    return {
        "step": step,
        "state": state,
        "layout": _layout(engine, world),
        "parameters": parameter_shapes(engine),
        "optimizer": optimizer_facts(engine),
        "engine": {
            "global_steps": engine.global_steps,
            "global_samples": engine.global_samples,
            "skipped_steps": engine.skipped_steps,
            "schedule": engine.lr_scheduler.state_dict(),
        },
    }


def _layout(engine: deepspeed.DeepSpeedEngine, world: World) -> dict[str, int]:
    zero_stage = engine.zero_optimization_stage()
    return {"ranks": world.world_size, "tensor_ranks": world.tp_size, "zero_stage": zero_stage}


def _check_shapes(folder: Path, found: dict[str, list[int]], expected: dict[str, list[int]]) -> None:
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise UserError(
                f"{folder}: weight '{name}' has shape {found.get(name)}; the recipe's model has {expected.get(name)}; "
                f"use the recipe that the checkpoint was written with"
            )
