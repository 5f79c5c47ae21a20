"""What is checked before a run, beside its words (`test_words.py`)."""

from pathlib import Path

import pytest

from prealign.config import dump_recipe
from prealign.data.prepared import open_data
from prealign.errors import UserError
from prealign.training.check import check
from tests.conftest import tiny_recipe


def test_the_run_that_is_there_is_of_the_same_recipe(data_dir: Path, tmp_path: Path) -> None:
    """Refused by the check as by the training that it precedes; the check writes nothing."""
    recipe, other = (tiny_recipe(data_dir, run_dir=str(tmp_path / "run"), seed=seed) for seed in (1, 2))
    data = open_data(recipe)
    said: list[str] = []
    check(recipe, data, 1, said.append)
    assert said[-1] == "all checks passed; nothing was trained"
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(dump_recipe(recipe))
    check(recipe, data, 1, said.append)
    before = len(said)
    check(other, data, 1, said.append)
    assert "of another recipe, of which nothing was trained; this one replaces it" in "\n".join(said[before:])
    assert (tmp_path / "run" / "recipe.yaml").read_text() == dump_recipe(recipe)
    (tmp_path / "run" / "align" / "checkpoints" / "step-2").mkdir(parents=True)
    with pytest.raises(UserError, match=r"recipe\.yaml: the run there has seed=1; the recipe has seed=2"):
        check(other, data, 1, said.append)


def test_checkpoints_without_a_recipe(data_dir: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(data_dir, run_dir=str(tmp_path / "run"))
    (tmp_path / "run" / "align" / "checkpoints" / "step-2").mkdir(parents=True)
    with pytest.raises(UserError, match=r"recipe\.yaml: no such file beside"):
        check(recipe, open_data(recipe), 1, lambda line: None)


def test_tensor_ranks_with_unfilled_tiles(data_dir: Path) -> None:
    """1,200 rows are padded to 1,216: 608 on each of two ranks."""
    model = {"layers": 2, "hidden_size": 32, "heads": 2, "context": 32}

    def notes(ranks: int, multiple: int) -> list[str]:
        changes = {"model": model | {"vocab_multiple": multiple}, "parallel": {"tensor_parallel_size": ranks}}
        said: list[str] = []
        check(tiny_recipe(data_dir, **changes), open_data(tiny_recipe(data_dir)), 2, said.append)
        return [line for line in said if "rows of the vocabulary" in line]

    (note,) = notes(2, 64)
    assert note.startswith("note: each of 2 tensor ranks holds 608 rows of the vocabulary, no multiple of 128, ")
    assert note.endswith("model.vocab_multiple=256 fills them, in a new run")
    assert notes(2, 256) == notes(1, 64) == []


def test_the_cards_of_fp8_are_not_looked_at(data_dir: Path) -> None:
    """The check may run on a machine without them; it says so."""
    for precision, expected in (("fp8", 1), ("bf16", 0)):
        recipe = tiny_recipe(data_dir, parallel={"precision": precision})
        said: list[str] = []
        check(recipe, open_data(recipe), 1, said.append)
        notes = [line for line in said if line.startswith("note: parallel.precision=fp8: cards and torchao were not")]
        assert len(notes) == expected
