from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from prealign.config import Recipe
from prealign.distributed.weights import save_weights
from prealign.errors import UserError
from prealign.training import space
from prealign.training.space import check_space, check_writable, checkpoint_bytes
from tests.distributed.engines import Layout, checkpoints_of, engine_of, recipe_of, train, world_of
from tests.processes import on_ranks


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


def write(rank: int, ranks: int, layout: Layout, folder: str) -> None:
    world, recipe = world_of(rank, ranks), recipe_of(layout)
    engine = engine_of(recipe, world)
    train(engine, recipe, world, 0, 1)
    checkpoints_of(Path(folder), recipe, world).save(engine, 1, {})
    save_weights(engine, world, Path(folder) / "weights", {})


@pytest.mark.parametrize("layout", [Layout(0), Layout(1), Layout(0, "bf16"), Layout(1, "bf16")])
def test_size_is_that_of_files(layout: Layout, tmp_path: Path) -> None:
    """The tensors of a checkpoint, and those of final weights, which are a third of it."""
    on_ranks(write, 1, layout, str(tmp_path))
    size = checkpoint_bytes(recipe_of(layout))
    for name, part in (("step-1", 1), ("weights", 3)):
        tensors = [tensor for path in (tmp_path / name).glob("*.safetensors") for tensor in load_file(path).values()]
        assert sum(tensor.nbytes for tensor in tensors) == size // part


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    check_writable(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="cannot be written by rank 3"):
        check_writable(tmp_path / "missing", 3)
