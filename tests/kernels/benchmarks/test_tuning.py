"""Tile sizes for a card: what is tried, what is chosen, what is written; with a timer that is made up."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prealign.kernels.square import square_shape
from prealign.kernels.tiles import Tiles, choose, read, tiles_for

tuning = pytest.importorskip("prealign.kernels.benchmarks.tuning")
NOW = Tiles(128, 256, 64, 8, 3)
OTHER = Tiles(128, 256, 32, 8, 5)


@pytest.mark.parametrize("capability", [80, 89, 90])
@pytest.mark.parametrize("case", list(tuning.CASES))
def test_trials_fit_the_card(case: str, capability: int) -> None:
    room = tuning.SHARED_BYTES.get(capability, tuning._SMALLEST_SHARED)
    found = tuning.trials(case, capability)
    assert 1 <= len(found) <= 30
    for tiles in found:
        assert 2 * (tiles.rows + tiles.columns) * tiles.depth * tiles.stages <= room
        assert (tiles.rows, tiles.columns) == tuning._shape(case)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({NOW: 1.0, OTHER: 0.9}, OTHER),
        ({NOW: 1.0, OTHER: 0.99}, NOW),  # runs differ by as much
        ({NOW: 1.0, OTHER: None}, NOW),  # does not compile, or is wrong
        ({NOW: None, OTHER: 5.0}, OTHER),
        ({NOW: None, OTHER: None}, NOW),
    ],
)
def test_the_fastest_is_chosen_if_it_gains(times: dict[Tiles, float | None], expected: Tiles) -> None:
    assert tuning.fastest(NOW, [OTHER], times.__getitem__) == expected


def test_a_table_has_a_line_for_the_card_that_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "tiles.json"
    seconds = lambda case, tiles: 1.0 / tiles.stages + 1.0 / tiles.depth  # noqa: E731
    chosen = dict(tuning.tune(path, 80, 2048, seconds))
    again = dict(tuning.tune(path, 80, 2048, seconds))
    assert again == chosen
    table = read(path)
    assert len(table) == len(read()) + len(tuning.CASES)
    for case, tiles in chosen.items():
        work, fixed = case.split()[0], tuning._shape(case)
        assert tiles == min(tuning.trials(case, 80), key=lambda one: seconds(case, one))
        assert choose(table, work, torch.bfloat16, 80, 2048, fixed) == tiles
        for capability, size in ((90, 2048), (80, 1024), (None, 2048)):
            assert choose(table, work, torch.bfloat16, capability, size, fixed) != tiles


def test_the_table_in_the_tree_has_tiles_for_every_case() -> None:
    """Those that were measured on an H100."""
    here = torch.device("cpu")
    assert tiles_for("square", torch.bfloat16, here, 2048, square_shape(torch.bfloat16)) == NOW
    assert tiles_for("square", torch.float32, here, 64, square_shape(torch.float32)) == Tiles(64, 64, 32, 4, 3)
    assert tiles_for("triangle", torch.bfloat16, here, 2048, (128, 256)) == NOW
    assert tiles_for("triangle", torch.bfloat16, here, 2048, (128, 128)) == Tiles(128, 128, 64, 8, 4)


def test_it_takes_a_card() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    command = [sys.executable, "-m", "prealign.kernels.benchmarks", "--tune"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "--tune: found no CUDA device; expected one: tile sizes are measured on the card that uses them"
    )
