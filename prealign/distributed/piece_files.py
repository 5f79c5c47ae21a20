"""Pieces on disk: safetensors files that one rank writes and any rank reads, by parameter and range.

A tensor's name in a file is ``key|parameter|start``: `prealign.distributed.pieces` explains the three. Nothing is
pickled.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from prealign.corpus.artefact import sha256_file
from prealign.errors import UserError

FILE_BYTES = 1 << 30
"""About the size of a file; a rank that writes in the foreground copies no more than that to host memory at a time."""

Batch = dict[str, torch.Tensor]


def batches(tensors: Iterable[tuple[str, str, int, torch.Tensor]]) -> Iterator[Batch]:
    """Copies of (key, parameter, start, ``[length]`` tensor) in host memory, in batches of about `FILE_BYTES`."""
    batch: Batch = {}
    size = 0
    for key, name, start, tensor in tensors:
        batch[f"{key}|{name}|{start}"] = tensor.to("cpu", copy=True)
        size += tensor.nbytes
        if size >= FILE_BYTES:
            yield batch
            batch, size = {}, 0
    if batch:
        yield batch


def write_batches(folder: Path, rank: int, content: Iterable[Batch]) -> dict[str, dict[str, Any]]:
    """Write a file per batch and flush it to the disk; returns file name -> ``bytes`` and ``sha256``."""
    files = {}
    for number, batch in enumerate(content):
        path = folder / f"rank-{rank:05d}-{number:03d}.safetensors"
        save_file(batch, path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    return files


class PieceReader:
    """Reads ranges of parameters from files, opened one after another until the ranges asked for are found."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        """``names``: files to look into, the most likely ones first."""
        self._folder = folder
        self._unopened = list(names)
        self._known: dict[tuple[str, str], list[tuple[int, int, Any, str]]] = {}

    def read(self, key: str, name: str, target: torch.Tensor, start: int) -> None:
        """Fill ``target`` (``[length]``) with elements from ``start`` on; raises `UserError` where some are in no
        file."""
        length = target.numel()
        while not self._covered(key, name, start, length):
            if not self._unopened:
                raise UserError(
                    f"{self._folder}: found no elements {start} to {start + length} of '{key}' of weight '{name}' in "
                    f"any file; expected a checkpoint of this recipe's model; start again in another run_dir"
                )
            self._open(self._unopened.pop(0))
        for first, size, file, tensor in self._known[key, name]:
            begin, end = max(first, start), min(first + size, start + length)
            if begin < end:
                values = file.get_slice(tensor)[begin - first : end - first]
                target[begin - start : end - start].copy_(values)

    def _covered(self, key: str, name: str, start: int, length: int) -> bool:
        reached = start
        for first, size, _, _ in self._known.get((key, name), []):
            if first <= reached:
                reached = max(reached, first + size)
        return reached >= start + length

    def _open(self, file_name: str) -> None:
        file = safe_open(self._folder / file_name, framework="pt")
        for tensor in file.keys():  # noqa: SIM118 - not a dictionary
            key, rest = tensor.split("|", 1)
            name, start = rest.rsplit("|", 1)
            ranges = self._known.setdefault((key, name), [])
            ranges.append((int(start), file.get_slice(tensor).get_shape()[0], file, tensor))
            ranges.sort(key=lambda entry: entry[0])
