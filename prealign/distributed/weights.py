"""Weights without the optimizer, as fp32 safetensors: what passes from one stage to the next, for any layout of
ranks."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import groups, safe_get_full_fp32_param
from safetensors import SafetensorError, safe_open

from prealign.distributed.piece_files import save_tensors
from prealign.distributed.pieces import held_pieces, parameter_shapes, shard_of
from prealign.distributed.tensor_parallel import Shard
from prealign.distributed.world import World
from prealign.errors import UserError
from prealign.files import write_atomically

_MANIFEST = "manifest.json"
_FILE_BYTES = 4 << 30


def save_weights(engine: deepspeed.DeepSpeedEngine, world: World, folder: Path, state: dict[str, Any]) -> None:
    """Write the full weights and ``state`` (plain values); all ranks call it, the first one writes.

    Parameters are gathered one by one and written in files of about 4 GB, so no rank holds more than that.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    if world.is_first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    files: dict[str, str] = {}
    pending: dict[str, torch.Tensor] = {}

    def flush() -> None:
        name = f"weights-{len(set(files.values())) + 1:05d}.safetensors"
        save_tensors(pending, partial / name)
        files.update(dict.fromkeys(pending, name))
        pending.clear()

    for name, value in _full_parameters(engine):
        if world.is_first:
            pending[name] = value.detach().to("cpu", torch.float32, copy=True).contiguous()
            if sum(tensor.nbytes for tensor in pending.values()) >= _FILE_BYTES:
                flush()
    if world.is_first:
        if pending:
            flush()
        write_atomically(partial / _MANIFEST, json.dumps({"state": state, "files": files}, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    world.barrier()


def _full_parameters(engine: deepspeed.DeepSpeedEngine) -> Iterator[tuple[str, torch.Tensor]]:
    shapes = parameter_shapes(engine)
    for name, shard, value in _full_shards(engine):
        if shard.ranks > 1:
            group = groups.get_tensor_model_parallel_group()
            shards = [torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(shard.ranks)]
            dist.all_gather(shards, value.contiguous(), group=group)
            value = shard.join(shards, shapes[name])
        yield name, value.view(shapes[name])


def _full_shards(engine: deepspeed.DeepSpeedEngine) -> Iterator[tuple[str, Shard, torch.Tensor]]:
    """Name, shard and fp32 value of every parameter as its tensor rank holds it."""
    if engine.zero_optimization_stage() == 0:
        for piece in held_pieces(engine):
            yield piece.name, piece.shard, piece.view(piece.master)
    else:
        for name, parameter in engine.module.named_parameters():
            yield name, shard_of(engine, name, parameter), safe_get_full_fp32_param(parameter)


def read_state(folder: Path) -> dict[str, Any] | None:
    """The state that `save_weights` wrote; None where there are no weights."""
    path = folder / _MANIFEST
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))["state"]
    except (ValueError, KeyError):
        raise UserError(
            f"{path}: not a manifest of weights; restore it from a copy, or choose another run_dir"
        ) from None


class Weights:
    """Weights on disk, read tensor by tensor."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["files"]

    def value(self, name: str, shape: torch.Size) -> torch.Tensor:
        """The fp32 value of a parameter; raises `UserError` when it is missing or of another shape."""
        if name not in self._files:
            raise UserError(f"{self._folder}: found no weight '{name}'; expected weights of this recipe's model")
        try:
            with safe_open(self._folder / self._files[name], framework="pt") as file:
                value = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{self._folder / self._files[name]}: cannot be read ({error}); train the stage again"
            ) from None
        if value.shape != shape:
            raise UserError(
                f"{self._folder}: weight '{name}' has shape {list(value.shape)}; the recipe's model has {list(shape)}"
            )
        return value
