"""Sizes of the tiles that the kernels work on, from a table that was written beforehand: never tuned while training, so
that the same call gives the same bits on every run.

``python -m prealign.kernels.benchmarks --tune`` measures on a card and adds its lines to `tiles.json`; a line for all
cards and sizes (null) is what was chosen by reading what the compiler makes of it, and measured on an H100.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

PATH = Path(__file__).with_name("tiles.json")


@dataclass(frozen=True)
class Tiles:
    """``rows`` x ``columns`` pairs a program, ``depth`` features of their vectors at a time, ``stages`` of these on
    their way; ``warps`` of threads."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Entry:
    """A line of the table. ``work``: ``square`` or ``triangle``, both passes of it; ``capability``: 90 for 9.0, and
    ``size`` of the vectors, or None for all."""

    work: str
    dtype: str
    capability: int | None
    size: int | None
    tiles: Tiles


def read(path: Path = PATH) -> list[Entry]:
    """The table in a file."""
    sizes = Tiles.__dataclass_fields__
    return [
        Entry(
            **{key: value for key, value in line.items() if key not in sizes},
            tiles=Tiles(**{key: line[key] for key in sizes}),
        )
        for line in json.loads(path.read_text())
    ]


def choose(
    table: Sequence[Entry],
    work: str,
    dtype: torch.dtype,
    capability: int | None,
    size: int,
    shape: tuple[int, int],
) -> Tiles:
    """Of the lines that hold for a case the one that says most of it: the card's before others, then the size's.
    ``shape``: rows and columns, which plans are made for."""
    holding = [
        entry
        for entry in table
        if (entry.work, f"torch.{entry.dtype}") == (work, str(dtype))
        and entry.capability in (None, capability)
        and entry.size in (None, size)
        and (entry.tiles.rows, entry.tiles.columns) == shape
    ]
    return max(holding, key=lambda entry: (entry.capability is not None, entry.size is not None)).tiles


@cache
def tiles_for(work: str, dtype: torch.dtype, device: torch.device, size: int, shape: tuple[int, int]) -> Tiles:
    """The table's tiles for vectors on a device."""
    return choose(read(), work, dtype, capability_of(device), size, shape)


def capability_of(device: torch.device) -> int | None:
    """90 for a card of capability 9.0; None where there is no CUDA device."""
    if device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
