"""The token account: every language's text is its budget, whatever the stages and word batches; schedules."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prealign.config import Recipe
from prealign.errors import UserError
from prealign.training.allocation import Stretch
from prealign.training.plan import Account, align_plan, budgets, pretrain_plan, stretches_of
from prealign.training.schedule import learning_rate
from tests.conftest import tiny_recipe


def test_sums_of_accounts_count_targets_where_both_do(recipe: Recipe) -> None:
    text, words = {"en": 8, "clone": 4}, {"en": 1, "clone": 2}
    counted, before = Account(text, words, 3, {"en": 6, "clone": 4}), Account(text, words, 2)
    assert Account.empty(recipe).plus(counted) == counted
    assert counted.plus(counted).targets == {"en": 12, "clone": 8}
    assert counted.plus(before).targets == before.plus(counted).targets == {}
    assert before.plus(counted).tokens == 30


def test_joint_training_spends_the_budget(data_dir: Path) -> None:
    recipe = tiny_recipe(data_dir, stages=["pretrain"])
    plan = pretrain_plan(recipe, Account.empty(recipe))
    assert plan.steps == (40_960 + 10_240) // (16 * 32)
    assert plan.text_tokens(recipe) == {"en": 40_960, "clone": 10_240}


@pytest.mark.parametrize("words", [(0, 0), (1000, 1000), (333, 1234)])
def test_every_method_reads_the_same_text(data_dir: Path, words: tuple[int, int]) -> None:
    recipe = tiny_recipe(data_dir)
    aligned = align_plan(recipe)
    consumed = Account(aligned.text_tokens(recipe), dict(zip(recipe.languages, words)), aligned.steps)
    plan = pretrain_plan(recipe, consumed)
    assert (
        plan.mixture.phases[0].consumed == aligned.mixture.counts
    )  # the text goes on where the align stage stopped reading
    for name, spent in plan.text_tokens(recipe).items():
        left = recipe.languages[name].tokens - consumed.text[name] - spent
        step = recipe.batch.global_batch_size * recipe.model.context if name == "en" else recipe.model.context
        assert 0 <= left < step
    assert sum(plan.mixture.counts) == plan.steps * recipe.batch.global_batch_size


def test_the_align_stage_reads_the_mixture(data_dir: Path) -> None:
    recipe = tiny_recipe(data_dir)
    plan = align_plan(recipe)
    assert plan.steps == 10
    assert plan.mixture.counts == (128, 32)


def test_the_align_stage_may_have_smaller_steps(data_dir: Path) -> None:
    """As much text in steps of 4 sequences instead of 16; what the pretrain stage plans with it does not change."""
    plain, smaller = tiny_recipe(data_dir), tiny_recipe(data_dir, align={"fraction": 0.1, "global_batch_size": 4})
    plan = align_plan(smaller)
    assert (plan.steps, plan.global_batch_size, plan.mixture.counts) == (40, 4, (128, 32))
    assert plan.text_tokens(smaller) == align_plan(plain).text_tokens(plain)
    assert sum(plan.text_tokens(smaller, 20).values()) == 20 * 4 * 32
    consumed = Account(plan.text_tokens(smaller), {"en": 50, "clone": 50}, plan.steps)
    assert pretrain_plan(smaller, consumed) == pretrain_plan(plain, consumed)


def shares(recipe: Recipe) -> list[tuple[int, int, tuple[int, ...]]]:
    plan = pretrain_plan(recipe, Account.empty(recipe))
    return [(s.first_step, s.end_step, s.counts) for s in stretches_of(plan)]


def of(data_dir: Path, en: dict, clone: dict, **changes: Any) -> Recipe:
    """The tiny recipe with other shares; 16 samples of 32 tokens a step."""
    languages = tiny_recipe(data_dir).model_dump(mode="json")["languages"]
    languages = {
        "en": languages["en"] | {"tokens": None} | en,
        "clone": languages["clone"] | {"tokens": None} | clone,
    }
    return tiny_recipe(data_dir, languages=languages, **changes)


def test_weights_are_budgets_where_they_do_not_change(data_dir: Path) -> None:
    """4 : 1 of the same total plans what the budgets plan, for runs with and without an align stage."""
    weighted = of(data_dir, {"weight": 4}, {"weight": 1}, mixture={"tokens": 51_200})
    plain = tiny_recipe(data_dir)
    assert align_plan(weighted) == align_plan(plain)
    consumed = Account({"en": 320, "clone": 640}, {"en": 7, "clone": 9}, 3)
    for spent in (Account.empty(plain), consumed):
        assert pretrain_plan(weighted, spent) == pretrain_plan(plain, spent)
    rest = of(data_dir, {"weight": 0.3}, {"tokens": 10_240}, mixture={"tokens": 51_200})
    assert pretrain_plan(rest, consumed) == pretrain_plan(plain, consumed)


def test_a_tiny_weight(data_dir: Path) -> None:
    recipe = of(data_dir, {"weight": 1}, {"weight": 1e-9}, mixture={"tokens": 51_200})
    assert pretrain_plan(recipe, Account.empty(recipe)).text_tokens(recipe) == {"en": 51_200, "clone": 0}
    assert align_plan(recipe).mixture.counts == (160, 0)


def test_a_range_of_steps(data_dir: Path) -> None:
    """The clone's 320 windows lie in steps 20 to 60; English fills the rest."""
    recipe = of(data_dir, {"tokens": 40_960}, {"tokens": 10_240, "active": [20, 60]})
    assert shares(recipe) == [(0, 20, (320, 0)), (20, 60, (320, 320)), (60, 100, (640, 0))]
    assert align_plan(recipe).mixture.counts == (160, 0)
    to_the_end = of(data_dir, {"tokens": 40_960}, {"tokens": 10_240, "active": [50, None]})
    assert shares(to_the_end) == [(0, 50, (800, 0)), (50, 100, (480, 320))]


def test_phases_of_weights(data_dir: Path) -> None:
    phases = [{"from_step": 50, "weights": {"clone": 1}}, {"from_step": 75, "weights": {"en": 0}}]
    recipe = of(data_dir, {"weight": 1}, {"weight": 0}, mixture={"tokens": 51_200, "phases": phases})
    assert shares(recipe) == [(0, 50, (800, 0)), (50, 75, (200, 200)), (75, 100, (0, 400))]
    assert align_plan(recipe).mixture.counts == (160, 0)
    consumed = Account({"en": 5120, "clone": 0}, {"en": 600, "clone": 400}, 10)
    plan = pretrain_plan(recipe, consumed)  # 51,200 - 5,120 tokens are 90 steps
    assert stretches_of(plan)[-1] == Stretch(75, 90, (0, 240))
    assert plan.mixture.phases[0].consumed == (160, 0)
    assert plan.mixture.phases[2].consumed == (160 + 800 + 200, 200)
    too_late = of(
        data_dir,
        {"weight": 1},
        {"weight": 0},
        mixture={"tokens": 51_200, "phases": [{"from_step": 100, "weights": {"clone": 1}}]},
    )
    with pytest.raises(UserError, match="from_step 100; the pretrain stage has 100 steps"):
        pretrain_plan(too_late, Account.empty(too_late))


def test_an_extra_text_in_a_range(data_dir: Path) -> None:
    """It has samples of its own in its steps, counts as English in the account, and is not read while aligning."""
    text = {"files": ["facts.txt"]}
    facts = {"facts": {"text": text, "tokens": 512, "active": [10, 20]}}
    recipe = of(data_dir, {"tokens": 40_960, "sources": facts}, {"tokens": 10_240})
    assert list(recipe.sources) == ["en", "clone", "en.facts"]
    plan = pretrain_plan(recipe, Account.empty(recipe))
    assert plan.steps == 101
    assert [stretch.counts[2] for stretch in stretches_of(plan)] == [0, 16, 0]
    assert plan.source_tokens(recipe) == {"en": 40_960, "clone": 10_240, "en.facts": 512}
    assert plan.text_tokens(recipe) == {"en": 41_472, "clone": 10_240}
    assert plan.text_tokens(recipe, 20)["en"] + plan.text_tokens(recipe, 20)["clone"] == 20 * 512
    assert align_plan(recipe).mixture.counts == (128, 32, 0)


@pytest.mark.parametrize("steps", [0, 1, 20, 49, 50, 60, 99, 100])
def test_the_account_at_a_step_counts_the_samples_before_it(data_dir: Path, steps: int) -> None:
    phases = [{"from_step": 50, "weights": {"clone": 3}}]
    recipe = of(data_dir, {"weight": 1}, {"weight": 0.25}, mixture={"tokens": 51_200, "phases": phases})
    plan = pretrain_plan(recipe, Account.empty(recipe))
    source, _ = plan.mixture.locate(np.arange(16 * steps))
    expected = (32 * np.bincount(source, minlength=2)).tolist()
    assert list(plan.text_tokens(recipe, steps).values()) == expected


def test_impossible_budgets(data_dir: Path) -> None:
    recipe = tiny_recipe(data_dir)
    with pytest.raises(UserError, match=r"languages\.clone\.tokens: found 10240; the align stage alone reads 10241"):
        pretrain_plan(recipe, Account({"en": 0, "clone": 10_241}, {"en": 0, "clone": 0}, 1))
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


def test_weights_of_nothing_are_named_by_their_key(data_dir: Path) -> None:
    languages = tiny_recipe(data_dir).model_dump(mode="json")["languages"]
    for language in languages.values():
        language |= {"tokens": None, "weight": 0.0}
    recipe = tiny_recipe(data_dir, languages=languages, mixture={"tokens": 51_200})
    with pytest.raises(
        UserError, match=r"languages\.en\.weight: found 0 there and in all of \['languages\.en', 'languages\.clone'\]"
    ):
        budgets(recipe)
    languages["en"] |= {"weight": 1.0}
    languages["clone"] |= {"tokens": 60_000, "weight": None}
    with pytest.raises(
        UserError, match=r"mixture\.tokens: found 51,200, and budgets in tokens of 60,000; expected more"
    ):
        budgets(tiny_recipe(data_dir, languages=languages, mixture={"tokens": 51_200}))
