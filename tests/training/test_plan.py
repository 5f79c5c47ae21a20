"""The token account: every language gets its budget, whatever the stages; schedules."""

from pathlib import Path

import pytest

from prealign.errors import UserError
from prealign.training.plan import Account, align_plan, pretrain_plan
from prealign.training.schedule import learning_rate
from tests.conftest import tiny_recipe


def test_joint_training_spends_the_budget(data_dir: Path) -> None:
    recipe = tiny_recipe(data_dir, stages=["pretrain"])
    plan = pretrain_plan(recipe, Account.empty(recipe))
    assert plan.steps == (40_960 + 10_240) // (16 * 32)
    assert plan.text_tokens(recipe) == {"en": 40_960, "clone": 10_240}


@pytest.mark.parametrize("words", [(0, 0), (1000, 1000), (333, 1234)])
def test_aligning_is_charged_to_each_language(data_dir: Path, words: tuple[int, int]) -> None:
    recipe = tiny_recipe(data_dir)
    aligned = align_plan(recipe)
    consumed = Account(aligned.text_tokens(recipe), dict(zip(recipe.languages, words)), aligned.steps)
    plan = pretrain_plan(recipe, consumed)
    assert (
        plan.mixture.phases[0].consumed == aligned.mixture.counts
    )  # the text goes on where the align stage stopped reading
    for name, spent in plan.text_tokens(recipe).items():
        left = recipe.languages[name].tokens - consumed.text[name] - consumed.words[name] - spent
        step = recipe.batch.global_batch_size * recipe.model.context if name == "en" else recipe.model.context
        assert 0 <= left < step
    assert sum(plan.mixture.counts) == plan.steps * recipe.batch.global_batch_size


def test_the_align_stage_reads_the_mixture(data_dir: Path) -> None:
    recipe = tiny_recipe(data_dir)
    plan = align_plan(recipe)
    assert plan.steps == 10
    assert plan.mixture.counts == (128, 32)


def test_impossible_budgets(data_dir: Path) -> None:
    recipe = tiny_recipe(data_dir)
    with pytest.raises(UserError, match=r"languages\.clone\.tokens: found 10240; the align stage alone consumes 10241"):
        pretrain_plan(recipe, Account({"en": 0, "clone": 0}, {"en": 0, "clone": 10_241}, 1))
    small = recipe.languages["en"].model_dump() | {"tokens": 100}
    with pytest.raises(UserError, match="at least one step"):
        align_plan(tiny_recipe(data_dir, languages={"en": small}))


def test_schedule(data_dir: Path) -> None:
    recipe = tiny_recipe(data_dir, pretrain={"learning_rate": 1.0, "min_learning_rate": 0.1, "warmup": 0.1})
    rate = learning_rate(recipe.pretrain, 100)
    assert [rate(step) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert rate(99) == pytest.approx(0.1)
    assert rate(1000) == pytest.approx(0.1)
    assert rate(54) == pytest.approx(0.55, abs=0.01)
    assert all(rate(step) >= rate(step + 1) for step in range(10, 99))
    no_warmup = tiny_recipe(data_dir, pretrain={"learning_rate": 1.0, "warmup": 0.0})
    assert learning_rate(no_warmup.pretrain, 100)(0) == 1.0
    assert learning_rate(no_warmup.pretrain, 1)(0) == 1.0
