"""What a run refuses before it trains."""

from pathlib import Path

import pytest

from prealign.corpus.prepared import open_data
from prealign.training.plan import align_plan
from prealign.training.run import word_tokens
from tests.conftest import tiny_recipe
from tests.processes import finish, start, train_arguments


@pytest.mark.parametrize("sampling", ["uniform", "frequency"])
def test_word_batches_beyond_a_budget_are_refused_before_the_align_stage(
    data_dir: Path, tmp_path: Path, sampling: str
) -> None:
    recipe = tiny_recipe(data_dir, align={"words_per_step": 1200, "sampling": sampling})
    data = open_data(recipe)
    steps = align_plan(recipe).steps
    assert word_tokens(recipe, data, steps)["clone"] > 10_240
    code, _, err = finish(start(train_arguments(recipe, tmp_path / "run"), 2))
    assert code == 2
    assert err.count("error: languages.clone.tokens: found 10240; the align stage alone consumes ") == 1
    assert not (tmp_path / "run").exists()  # so another number of words can be tried in the same folder
