"""Pieces on disk: safetensors files that one rank writes and any rank reads, by parameter and range.

A tensor's name in a file is ``key|parameter|start``, and ``key|parameter|start|rank/ranks`` for a tensor rank's shard:
`prealign.distributed.pieces` explains them. Nothing is pickled.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from prealign.distributed.pieces import Piece
from prealign.errors import UserError
from prealign.files import sha256_file

FILE_BYTES = 1 << 30
"""About the size of a file; a rank that writes in the foreground copies no more than that to host memory at a time."""

_CHUNK = 1 << 22
"""Elements that are handled at a time where shards of one size are read for shards of another."""

Batch = dict[str, torch.Tensor]

_UMASK = os.umask(0o077)  # there is no way to read it without setting it
os.umask(_UMASK)


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file and flush it to the disk, with the rights that the umask gives; the library's are the
    owner's alone."""
    save_file(tensors, path, metadata={"format": "pt"})  # which transformers asks for
    path.chmod(0o666 & ~_UMASK)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def batches(tensors: Iterable[tuple[str, Piece, torch.Tensor]]) -> Iterator[Batch]:
    """Copies of (key, piece, ``[length]`` tensor) in host memory, in batches of about `FILE_BYTES`."""
    batch: Batch = {}
    size = 0
    for key, piece, tensor in tensors:
        shard = f"|{piece.shard.rank}/{piece.shard.ranks}" if piece.shard.ranks > 1 else ""
        batch[f"{key}|{piece.name}|{piece.start}{shard}"] = tensor.to("cpu", copy=True)
        size += tensor.nbytes
        if size >= FILE_BYTES:
            yield batch
            batch, size = {}, 0
    if batch:
        yield batch


def write_batches(folder: Path, rank: int, content: Iterable[Batch]) -> dict[str, dict[str, Any]]:
    """Write a file per batch; returns file name -> ``bytes`` and ``sha256``."""
    files = {}
    for number, batch in enumerate(content):
        path = folder / f"rank-{rank:05d}-{number:03d}.safetensors"
        save_tensors(batch, path)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    return files


@dataclass(frozen=True)
class _Stored:
    """Elements ``[start, start + length)`` of a shard, as ``tensor`` in ``file``."""

    rank: int
    ranks: int
    start: int
    length: int
    file: Any
    tensor: str

    def read(self, begin: int, end: int) -> torch.Tensor:
        """Elements ``[begin, end)`` of the shard."""
        return self.file.get_slice(self.tensor)[begin - self.start : end - self.start]


class PieceReader:
    """Reads ranges of parameters from files, opened one after another until the ranges asked for are found."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        """``names``: files to look into, the most likely ones first."""
        self._folder = folder
        self._unopened = list(names)
        self._known: dict[tuple[str, str], list[_Stored]] = {}

    def read(self, key: str, piece: Piece, size: int, target: torch.Tensor) -> None:
        """Fill ``target`` (``[length]``) with a piece of a parameter of ``size`` elements; raises `UserError` where
        some are in no file."""
        while not self._covered(key, piece):
            if not self._unopened:
                if self._read_other_shards(key, piece, size, target):
                    return
                raise UserError(
                    f"{self._folder}: found no elements {piece.start} to {piece.start + piece.length} of '{key}' of "
                    f"weight '{piece.name}' in any file; expected a checkpoint of this recipe's model; start again in "
                    f"another run_dir"
                )
            self._open(self._unopened.pop(0))
        for stored in self._same_shard(key, piece):
            begin = max(stored.start, piece.start)
            end = min(stored.start + stored.length, piece.start + piece.length)
            if begin < end:
                target[begin - piece.start : end - piece.start].copy_(stored.read(begin, end))

    def _same_shard(self, key: str, piece: Piece) -> list[_Stored]:
        shard = (piece.shard.rank, piece.shard.ranks)
        return [stored for stored in self._known.get((key, piece.name), []) if (stored.rank, stored.ranks) == shard]

    def _covered(self, key: str, piece: Piece) -> bool:
        reached = piece.start
        for stored in self._same_shard(key, piece):
            if stored.start <= reached:
                reached = max(reached, stored.start + stored.length)
        return reached >= piece.start + piece.length

    def _read_other_shards(self, key: str, piece: Piece, size: int, target: torch.Tensor) -> bool:
        """Fill ``target`` from shards of another number of tensor ranks; False where they lack something."""
        missing = piece.length
        bounds = piece.shard.to_whole(torch.tensor([piece.start, piece.start + piece.length - 1]), size)
        for stored in self._known.get((key, piece.name), []):
            shard = replace(piece.shard, rank=stored.rank, ranks=stored.ranks)
            for begin in range(stored.start, stored.start + stored.length, _CHUNK):
                end = min(begin + _CHUNK, stored.start + stored.length)
                first, last = shard.to_whole(torch.tensor([begin, end - 1]), size)
                if last < bounds[0] or first > bounds[1]:
                    continue
                place, mine = piece.shard.from_whole(shard.to_whole(torch.arange(begin, end), size), size)
                place -= piece.start
                mine &= (place >= 0) & (place < piece.length)
                target[place[mine].to(target.device)] = stored.read(begin, end)[mine].to(target)
                missing -= int(mine.sum())
        return missing == 0

    def _open(self, file_name: str) -> None:
        file = safe_open(self._folder / file_name, framework="pt")
        for tensor in file.keys():  # noqa: SIM118 - not a dictionary
            key, name, start, *shard = tensor.split("|")
            rank, ranks = shard[0].split("/") if shard else (0, 1)
            length = file.get_slice(tensor).get_shape()[0]
            found = self._known.setdefault((key, name), [])
            found.append(_Stored(int(rank), int(ranks), int(start), length, file, tensor))
            found.sort(key=lambda stored: stored.start)
