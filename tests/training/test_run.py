"""What a run says before it trains: of budgets, and of words that are drawn too seldom."""

from pathlib import Path

import pytest

from prealign.corpus.prepared import open_data
from prealign.training.check import check
from prealign.training.plan import align_plan
from prealign.training.run import word_tokens
from prealign.training.stage import alignment_lines, word_batches
from tests.conftest import tiny_recipe
from tests.processes import finish, start, train_arguments


@pytest.mark.parametrize("sampling", ["uniform", "frequency"])
def test_word_batches_beyond_a_budget_take_nothing_from_it(data_dir: Path, tmp_path: Path, sampling: str) -> None:
    """More tokens of words than the clone has of text: they are no text."""
    recipe = tiny_recipe(data_dir, align={"words_per_step": 1200, "sampling": sampling})
    steps = align_plan(recipe).steps
    assert word_tokens(recipe, open_data(recipe), steps)["clone"] > 10_240
    code, out, err = finish(start(train_arguments(recipe, tmp_path / "run"), 2))
    assert code == 0, err
    assert "(51,200 tokens of text and " in out
    assert "align: cosine of translations (of other pairs): input embedding" in out


def lines_of(data_dir: Path, tmp_path: Path, words_per_step: int) -> list[str]:
    recipe = tiny_recipe(data_dir, align={"words_per_step": words_per_step}, run_dir=str(tmp_path / "run"))
    said: list[str] = []
    check(recipe, open_data(recipe), 1, said.append)
    return said


def test_the_check_says_how_often_words_are_drawn(data_dir: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(data_dir)
    rows = word_batches(recipe, open_data(recipe)).table_rows()
    said = lines_of(data_dir, tmp_path, rows)
    (line,) = [line for line in said if line.startswith("  words: ")]
    assert f"{rows:,} in the table, {rows:,} a step, each drawn 10.00 times on average" in line
    assert "more FLOPs than the run's text alone" in line
    assert not any("warning" in line for line in said)


def test_the_check_warns_of_words_that_cannot_be_aligned(data_dir: Path, tmp_path: Path) -> None:
    (line,) = [line for line in lines_of(data_dir, tmp_path, 16) if "warning" in line]
    assert "raise align.words_per_step to " in line
    assert "align.global_batch_size" in line


def test_rows_of_the_table_are_those_of_a_batch_that_holds_it_all(data_dir: Path) -> None:
    recipe = tiny_recipe(data_dir, align={"words_per_step": 10**6})
    batches = word_batches(recipe, open_data(recipe))
    assert len(batches.words(0)) == batches.table_rows()


def test_a_stage_says_whether_it_aligned() -> None:
    random = [0.01, 0.5, 0.5, 0.02]
    (line,) = alignment_lines({"probe_cosine_layers": [0.95, 0.9, 0.8, 0.7], "probe_random_cosine_layers": random})
    assert line.endswith("input embedding 0.95 (0.01), block 2 0.80 (0.50), last layer 0.70 (0.02)")
    _, warning = alignment_lines({"probe_cosine_layers": [0.44, 0.9, 0.8, 0.7], "probe_random_cosine_layers": random})
    assert "is 0.44; expected 0.9 or more" in warning
    assert "align.words_per_step" in warning
    assert alignment_lines({"perplexity/en": 3.0}) == []
