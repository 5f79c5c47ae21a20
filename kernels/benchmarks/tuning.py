"""Tile sizes for a card: the fastest of some that fit it, for the table that training reads (`prealign.kernels.tiles`).

Changes of tiles change rounding, so a table is written once for a card, by hand, and committed.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from prealign.files import write_atomically
from prealign.kernels import infonce_triton, multilayer_infonce, passes, symmetric_triton
from prealign.kernels.benchmarks.measuring import seconds
from prealign.kernels.benchmarks.problems import Problem, many_positives
from prealign.kernels.square import square_shape
from prealign.kernels.symmetric import SymmetricPlan, tile_shape
from prealign.kernels.tiles import Entry, Tiles, choose, read

SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}
"""Most that a thread block can have (CUDA C++ Programming Guide, compute capabilities 8.0 and 9.0)."""

_SMALLEST_SHARED = 99 * 1024
"""Likewise for capabilities 8.6, 8.9 and 12.0."""

CASES = {"square": 16_384, "triangle": 16_384, "triangle of few words": 4096}
"""Words that are measured for each kind of tiles."""

GAIN = 0.02
"""A choice gives way to one that takes so much less time: less than that two runs differ by."""

_LARGEST_ERROR = 2e-2
"""Distance of a gradient to that of the chunked products, relative: bf16's rounding of ``G`` is a tenth of it."""


def trials(case: str, capability: int) -> list[Tiles]:
    """Sizes that are worth a try, and whose operands fit the shared memory."""
    room = SHARED_BYTES.get(capability, _SMALLEST_SHARED)
    sizes = itertools.product((32, 64, 128), (4, 8), (2, 3, 4, 5))
    found = [Tiles(*_shape(case), depth, warps, stages) for depth, warps, stages in sizes]
    # a program's sums, 4 bytes a pair, are to leave a thread registers for the rest
    return [
        tiles
        for tiles in found
        if room / 2 < 2 * (tiles.rows + tiles.columns) * tiles.depth * tiles.stages <= room
        and tiles.rows * tiles.columns <= 128 * 32 * tiles.warps
    ]


def _shape(case: str) -> tuple[int, int]:
    """Fixed: plans are made where no card is known."""
    return square_shape(torch.bfloat16) if case == "square" else tile_shape(CASES[case])


def fastest(current: Tiles, others: list[Tiles], measured: Callable[[Tiles], float | None]) -> Tiles:
    """The current choice, or the fastest other where it gains enough. ``measured``: seconds; None where it failed."""
    times = {tiles: measured(tiles) for tiles in dict.fromkeys([current, *others])}
    known = {tiles: time for tiles, time in times.items() if time is not None}
    if not known:
        return current
    best = min(known, key=lambda tiles: known[tiles])
    now = times[current]
    return best if now is None or known[best] < (1 - GAIN) * now else current


def tune(
    path: Path, capability: int, size: int, measured: Callable[[str, Tiles], float | None]
) -> Iterator[tuple[str, Tiles]]:
    """Measure each case and write the table with this card's line to ``path``; the case, and what was chosen.

    ``measured``: seconds of a case with some tiles, or None where it failed. A file that is there is added to.
    """
    table = read(path) if path.is_file() else read()
    for case in CASES:
        work = case.split()[0]
        current = choose(table, work, torch.bfloat16, capability, size, _shape(case))
        tiles = fastest(current, trials(case, capability), partial(measured, case))
        table = _with(table, Entry(work, "bfloat16", capability, size, tiles))
        _write(table, path)
        yield case, tiles


def _with(table: list[Entry], entry: Entry) -> list[Entry]:
    """The table with a line, in place of the one for the same card, size and shape."""

    def case(one: Entry) -> tuple[Any, ...]:
        return one.work, one.dtype, one.capability, one.size, one.tiles.rows, one.tiles.columns

    return [*(one for one in table if case(one) != case(entry)), entry]


def _write(table: list[Entry], path: Path) -> None:
    """A line an entry."""
    lines = []
    for entry in table:
        values = dataclasses.asdict(entry)
        lines.append(
            " " + json.dumps({key: value for key, value in values.items() if key != "tiles"} | values["tiles"])
        )
    write_atomically(path, "[\n" + ",\n".join(lines) + "\n]\n")


def measure(case: str, tiles: Tiles, size: int, least: float) -> dict[str, float]:
    """Seconds of forward and backward over four layers with given tiles, in a process that does nothing else; a
    RuntimeError where the gradient is not that of the chunked products."""
    for module in (infonce_triton, symmetric_triton):
        module.tiles_for = lambda *_: tiles  # type: ignore[attr-defined]
    device = torch.device("cuda")
    problem = many_positives(4, CASES[case], size, 0.1, torch.bfloat16, device)
    layers = [layer.detach().requires_grad_() for layer in problem.z]
    losses = multilayer_infonce(layers, problem.relations, problem.tau, impl="chunked")[0]
    expected = torch.autograd.grad(losses.sum(), layers)
    found = _run(case, problem)
    error = max(float((a.float() - b.float()).norm() / b.float().norm()) for a, b in zip(found, expected))
    if not error < _LARGEST_ERROR:
        raise RuntimeError(f"gradient {error:.1e} from that of the chunked products")
    return {"seconds": seconds(lambda: _run(case, problem), device, least), "gradient_error": error}


def _run(case: str, problem: Problem) -> list[torch.Tensor]:
    z, relations, tau = list(problem.z), problem.relations, problem.tau
    ones = torch.ones(len(z), device=problem.z.device)
    if case == "square":
        where = (relations, tau, False, None, 0)
        lse = passes.forward(infonce_triton, z, *where)[2]
        return passes.backward(infonce_triton, ones, z, lse, *where)
    plan = relations.plan
    assert isinstance(plan, SymmetricPlan)  # problems are planned
    lse = symmetric_triton.forward(z, relations, plan, tau)[2]
    return symmetric_triton.backward(ones, z, lse, relations, plan, tau)
