"""Words of a stage: how many a step takes, how often each is drawn, and what the check says of it."""

from pathlib import Path

import numpy as np
import pytest

from prealign.config import Recipe, dump_recipe, load_recipe
from prealign.config.stage import align_stage
from prealign.data.prepared import open_data
from prealign.data.word_batches import table_rows
from prealign.errors import UserError
from prealign.training.check import check
from prealign.training.words import with_words_per_step, word_batches
from tests.conftest import tiny_recipe
from tests.processes import finish, start, train, train_arguments


def rows_of_table(recipe: Recipe) -> int:
    lexicon = open_data(recipe).lexicon
    assert lexicon is not None
    return table_rows(lexicon, recipe.align.max_translations)


def lines_of(data_dir: Path, tmp_path: Path, **align: float) -> list[str]:
    recipe = tiny_recipe(data_dir, align=align, run_dir=str(tmp_path / "run"))
    said: list[str] = []
    check(recipe, open_data(recipe), 1, said.append)
    return said


def test_the_check_says_how_often_words_are_drawn(data_dir: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(data_dir)
    rows = rows_of_table(recipe)
    said = lines_of(data_dir, tmp_path, words_per_step=rows)
    (line,) = [line for line in said if line.startswith("  words: ")]
    assert f"{rows:,} in the table, {rows:,} in each of 10 steps; a source word is drawn 10.00 times on average" in line
    assert line.endswith("(median 10.00, the rarest 10.00); those drawn 3 times and more are 100 % of the running text")
    assert any(
        line.startswith("  word batches: ") and line.endswith(" % of the FLOPs of the run's text") for line in said
    )
    assert not any("warning" in line for line in said)


def test_the_check_warns_of_words_that_cannot_be_aligned(data_dir: Path, tmp_path: Path) -> None:
    (line,) = [line for line in lines_of(data_dir, tmp_path, words_per_step=16) if "warning" in line]
    assert "set align.coverage=3 align.words_per_step=null (" in line
    assert "align.global_batch_size" in line


def test_rows_of_the_table_are_those_of_a_batch_that_holds_it_all(data_dir: Path) -> None:
    recipe = tiny_recipe(data_dir, align={"words_per_step": 10**6})
    batches = word_batches(align_stage(recipe), open_data(recipe))
    assert len(batches.words(0)) == rows_of_table(recipe)


@pytest.mark.parametrize("coverage", [0.5, 2, 7.5])
def test_coverage_is_how_often_rows_are_drawn(data_dir: Path, coverage: float) -> None:
    """Counted in the batches themselves, each row as often as the recipe says on average."""
    recipe = tiny_recipe(data_dir, align={"coverage": coverage, "words_per_step": None})
    data = open_data(recipe)
    resolved = with_words_per_step(recipe, data)
    assert with_words_per_step(recipe, data, ["pretrain"]) == resolved  # where the pretrain stage is run alone
    assert resolved.align.coverage is None
    batches = word_batches(align_stage(resolved), data)
    drawn = sum(len(batches.words(step)) for step in range(10))  # the tiny recipe's align stage has 10 steps
    assert drawn / rows_of_table(recipe) == pytest.approx(coverage, rel=0.02)


def test_coverage_beyond_the_steps_takes_the_whole_table(data_dir: Path) -> None:
    recipe = tiny_recipe(data_dir, align={"coverage": 1000, "words_per_step": None})
    assert with_words_per_step(recipe, open_data(recipe)).align.words_per_step == rows_of_table(recipe)


def test_an_align_stage_whose_words_nobody_wrote_down(data_dir: Path, tmp_path: Path) -> None:
    align = {"coverage": 3, "words_per_step": None}
    (tmp_path / "recipe.yaml").write_text(dump_recipe(tiny_recipe(data_dir, align=align)))
    recipe = tiny_recipe(data_dir, align=align, stages=["pretrain"], pretrain={"init_from": str(tmp_path)})
    with pytest.raises(UserError, match=r"recipe\.yaml: found no align\.words_per_step; expected the number"):
        with_words_per_step(recipe, open_data(recipe))


def test_a_run_trains_with_its_coverage(data_dir: Path, tmp_path: Path) -> None:
    """The run folder has the number of words, which is that of a recipe that gives it: the run can go on as either."""
    recipe = tiny_recipe(data_dir, align={"coverage": 3, "words_per_step": None})
    words = with_words_per_step(recipe, open_data(recipe)).align.words_per_step
    rows = train(recipe, tmp_path / "run")
    written = load_recipe(str(tmp_path / "run" / "recipe.yaml"))
    assert (written.align.coverage, written.align.words_per_step) == (None, words)
    assert train(tiny_recipe(data_dir, align={"words_per_step": words}), tmp_path / "run") == rows
    assert train(recipe, tmp_path / "run") == rows


def test_a_run_goes_on_with_its_words_when_coverage_makes_others(data_dir: Path, tmp_path: Path) -> None:
    words = {"words_per_step": 64}
    train(tiny_recipe(data_dir, align=words), tmp_path / "run", 1, "--stop-after", "2")
    recipe = tiny_recipe(data_dir, align={"coverage": 3, "words_per_step": None})
    code, _, error = finish(start(train_arguments(recipe, tmp_path / "run")))
    assert code == 2
    assert "has align.words_per_step=64; align.coverage=3 makes " in error
    assert "or go on with align.words_per_step=64 align.coverage=null" in error


def test_words_of_the_run_that_gave_the_align_stage(data_dir: Path, tmp_path: Path) -> None:
    """Kept alignment has the words that the align stage had, and a run of its own without one says how many."""
    coverage = {"coverage": 3, "words_per_step": None}
    aligned = tiny_recipe(data_dir, align=coverage, stages=["align"])
    train(aligned, tmp_path / "aligned")
    words = load_recipe(str(tmp_path / "aligned" / "recipe.yaml")).align.words_per_step
    kept = {"align_every": 2, "init_from": str(tmp_path / "aligned")}
    recipe = tiny_recipe(data_dir, align=coverage, stages=["pretrain"], pretrain=kept)
    assert with_words_per_step(recipe, open_data(recipe)).align.words_per_step == words
    with pytest.raises(UserError, match=r"pretrain\.align_every: found 2 and align\.coverage=3 without an align stage"):
        tiny_recipe(data_dir, align=coverage, stages=["pretrain"], pretrain={"align_every": 2})


def test_coverage_and_words_per_step_exclude_each_other(data_dir: Path) -> None:
    with pytest.raises(UserError, match=r"found coverage=3 and words_per_step=16; expected one of them"):
        tiny_recipe(data_dir, align={"coverage": 3, "words_per_step": 16})
    assert tiny_recipe(data_dir, align={"coverage": 3, "words_per_step": None}).align.coverage == 3
    assert tiny_recipe(data_dir, align={"words_per_step": None}).align.words_per_step == 16_384


@pytest.mark.parametrize("sampling", [0.0, 0.5, 1.0])
def test_expected_draws_are_those_of_the_batches(data_dir: Path, sampling: float) -> None:
    recipe = tiny_recipe(data_dir, align={"words_per_step": 400, "sampling": sampling})
    batches = word_batches(align_stage(recipe), open_data(recipe))
    entries, expected = batches.draws_per_step()
    found = np.mean([np.isin(entries, batches.words(step)) for step in range(300)], axis=0)
    assert found.mean() == pytest.approx(expected.mean(), rel=0.01)
    deviations = (found - expected) / np.sqrt(np.maximum(expected * (1 - expected), 1e-9) / 300)
    assert np.mean(np.abs(deviations) < 3) > 0.98
    assert np.ptp(expected) < 1e-9 if sampling == 0.0 else expected[0] > 2 * expected[-1]
