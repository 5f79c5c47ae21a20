"""Ladders: what they expand to, in every scale, and one-line errors."""

from pathlib import Path

import pytest
import yaml

from prealign.config import load_recipe
from prealign.errors import UserError
from prealign.model.shapes import parameter_count
from prealign.scaling.ladder import LADDERS, load_ladder, rungs_of
from prealign.scaling.plan import of_sizes, plan_of
from prealign.training.plan import Account, align_plan, pretrain_plan

SHIPPED = sorted(path.stem for path in LADDERS.glob("*.yaml"))


@pytest.mark.parametrize("scale", SHIPPED)
def test_every_run_reads_what_the_ladder_says(scale: str) -> None:
    ladder = load_ladder(scale)
    plan = plan_of(ladder, scale, Path("results"))
    rungs = {rung.label: rung for rung in rungs_of(ladder)}
    by_name = {measurement.name: measurement for measurement in plan.measurements}
    assert len(rungs) == len(plan.cells) == len(by_name)
    order = list(ladder.sizes)
    places = [order.index(rungs[label].size) for _, label, _ in plan.cells]
    assert places == sorted(places)
    for (_, label, seed), name in plan.cells.items():
        rung, training = rungs[label], by_name[name].training
        recipe = training.recipe
        assert {language: value.tokens for language, value in recipe.languages.items()} == rung.tokens
        assert recipe.seed == seed
        assert (training.after is not None) == (rung.method == "PreAlign")
        consumed = Account.empty(recipe)
        if training.after is not None:
            aligning = align_plan(training.after.recipe)
            text = aligning.text_tokens(training.after.recipe)
            consumed = Account(text, dict.fromkeys(recipe.languages, 0), aligning.steps)
        spent = pretrain_plan(recipe, consumed).text_tokens(recipe)
        step = recipe.batch.global_batch_size * recipe.model.context
        for language, tokens in rung.tokens.items():
            most = step if language == recipe.source_language else recipe.model.context
            assert abs(spent[language] + consumed.text[language] - tokens) <= most, (label, language)


@pytest.mark.parametrize("scale", SHIPPED)
def test_sizes_grow_and_design_tells_what_laws_need(scale: str) -> None:
    ladder = load_ladder(scale)
    sizes = [parameter_count(load_recipe(ladder.recipe, changes)) for changes in ladder.sizes.values()]
    assert sizes == sorted(sizes)
    assert len(sizes) >= 4
    source = load_recipe(ladder.recipe).source_language
    rungs = rungs_of(ladder)
    for method in ladder.methods:
        smaller = [rung for rung in rungs if rung.method == method and rung.size != list(ladder.sizes)[-1]]
        assert len({rung.tokens[source] for rung in smaller}) == 3
        targets = [name for name in rungs[0].tokens if name != source]
        for size in ladder.sizes:
            assert len({rung.tokens[targets[0]] for rung in rungs if (rung.method, rung.size) == (method, size)}) >= 3


def test_sizes_of_the_paper_are_those_of_the_recipes() -> None:
    ladder = load_ladder("paper")
    for size, changes in ladder.sizes.items():
        ours, theirs = load_recipe(ladder.recipe, changes), load_recipe(f"real_{size}")
        assert (ours.model, ours.parallel, ours.batch) == (theirs.model, theirs.parallel, theirs.batch)


def test_a_run_that_two_blocks_have_is_one() -> None:
    ladder = load_ladder("demo")
    twice = ladder.model_copy(update={"runs": [*ladder.runs, ladder.runs[0]]})
    assert rungs_of(twice) == rungs_of(ladder)


def test_data_is_prepared_once_and_names_follow_the_recipe() -> None:
    plan = plan_of(load_ladder("demo"), "demo", Path("results"))
    assert {training.recipe.data.dir for training in plan.trainings} == {Path("data/scaling_demo")}
    other = plan_of(load_ladder("demo"), "demo", Path("results"), ["codeswitch.ratio=0.1"])
    same = {measurement.name for measurement in plan.measurements} & {m.name for m in other.measurements}
    assert {name.partition("-")[0] for name in same} == {"joint"}  # which does not switch


def test_some_sizes_alone() -> None:
    ladder = load_ladder("demo")
    plan = plan_of(ladder, "demo", Path("results"))
    part = of_sizes(plan, ladder, ["4x128"])
    assert len(part.measurements) == len(part.cells) == 8
    assert {training.recipe.model.layers for training in part.trainings} == {4}
    with pytest.raises(UserError, match=r"--sizes: found '6x256'; expected some of \['2x32', "):
        of_sizes(plan, ladder, ["6x256"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "Jont"}, "reference: found 'Jont'; expected one of the methods"),
        ({"methods": {"Joint Training": "jont"}}, "methods: found variant 'jont'; expected one of"),
        ({"runs": [{"sizes": ["9x9"]}]}, "runs: sizes: found '9x9'; expected one of"),
        ({"runs": [{"methods": ["None"]}]}, "runs: methods: found 'None'; expected one of"),
        ({"runs": [{"tokens": {"fr": [1000]}}]}, "runs: tokens: found 'fr'; expected 'targets' or languages of"),
        ({"runs": [{"tokens": {"clone": [0]}}]}, "runs.0.tokens.clone.0: Input should be greater than or equal to 1"),
        ({"sizes": {"b": ["model.hidden_size=256"], "a": []}, "runs": [{}]}, "sizes: found a ("),
        ({"runs": []}, "runs: List should have at least 1 item"),
        ({"budgets": 3}, "budgets: Extra inputs are not permitted"),
    ],
)
def test_mistakes_in_a_ladder_are_named(tmp_path: Path, changes: dict, message: str) -> None:
    values = yaml.safe_load((LADDERS / "demo.yaml").read_text()) | changes
    if "methods" in changes:
        values["runs"] = [{}]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    with pytest.raises(UserError) as raised:
        load_ladder(str(path))
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_ladder_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"--ladder: found 'large'; expected a YAML file, or one of \['demo', "):
        load_ladder("large")
