from pathlib import Path
from types import SimpleNamespace

import pytest

from prealign.config import Recipe
from prealign.errors import UserError
from prealign.training import space
from prealign.training.space import check_space, check_writable, checkpoint_bytes


def test_room_is_compared_with_the_checkpoints(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``keep`` checkpoints and the one being written, less those that are there."""
    size = checkpoint_bytes(recipe)
    free = 3.2 * size
    monkeypatch.setattr(space.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    folder = tmp_path / "not" / "there" / "yet"
    with pytest.raises(UserError, match=r"run_dir: found .* GB free .* checkpoint.keep=2 and one being written"):
        check_space(recipe, folder)
    (folder / "checkpoints" / "step-4").mkdir(parents=True)
    check_space(recipe, folder)


def test_size_is_that_of_files(recipe: Recipe) -> None:
    """Two blocks of 32, tables of 1280 rows: weights and three fp32 values for each parameter."""
    block = 4 * 32 * 32 + 4 * 32 + 8 * 32 * 32 + 5 * 32 + 4 * 32
    parameters = 2 * block + 2 * 32 + (2 * 1280 + 32) * 32
    assert checkpoint_bytes(recipe) == parameters * 16


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    check_writable(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="cannot be written by rank 3"):
        check_writable(tmp_path / "missing", 3)
