"""Suites -> runs: each once, from recipes that are valid, at equal tokens."""

from pathlib import Path

import pytest

from prealign.config import load_recipe
from prealign.errors import UserError
from prealign.model.flops import infonce_flops, text_token_flops, word_token_flops
from prealign.suites.expansion import Plan, expand
from prealign.suites.suite import SCALES, load_suite, load_variants, suite_names, suites_at
from prealign.training.plan import Account, align_plan, pretrain_plan


def plan_of(*names: str, scale: str = "demo", overrides: tuple[str, ...] = ()) -> Plan:
    return expand([load_suite(name) for name in names], load_variants(), scale, Path("results"), overrides)


def test_equal_runs_of_several_suites_are_one() -> None:
    table1, table2 = plan_of("table1"), plan_of("table2")
    both = plan_of("table1", "table2")
    assert (len(table1.measurements), len(table2.measurements)) == (50, 25)
    assert len(both.measurements) == 60  # Joint Training, PreAlign, and PreAlign with its alignment kept are in both
    assert len(both.cells) == 75
    assert both.cells["table1", "PreAlign", 12] == both.cells["table2", "PreAlign (both)", 12]
    # align stages: PreAlign's, which 'align init' and the kept alignment share, and the controls', for each seed
    aligning = [training for training in both.trainings if training.recipe.stages == ["align"]]
    assert len(aligning) == 10
    assert len(both.trainings) == 60 + 10


def test_all_suites_have_their_first_seed_before_any_has_its_second() -> None:
    seeds = [measurement.seed for measurement in plan_of("table1", "table2", "table3").measurements]
    assert seeds == sorted(seeds)
    assert set(seeds) == {11, 12, 13, 14, 15}


def test_what_changes_nothing_in_the_align_stage_shares_it() -> None:
    plan = plan_of("table2", "table3", "table4")
    parents = {
        measurement.variant: measurement.training.after.name
        for measurement in plan.measurements
        if measurement.training.after is not None and measurement.seed == 11
    }
    assert parents["prealign"] == parents["align_init"] == parents["vanilla_codeswitch"]
    assert len({parents[name] for name in ("prealign", "beta_25", "beta_50", "beta_75")}) == 4


@pytest.mark.long
def test_names_stay_whatever_is_asked_for_together() -> None:
    every = plan_of(*suite_names())
    alone = {name: measurement for name in suite_names() for name, measurement in plan_of(name).cells.items()}
    assert every.cells == alone
    names = [training.name for training in every.trainings]
    assert len(set(names)) == len(names)
    merged = {measurement.name: measurement.measures for measurement in every.measurements}
    assert merged[every.cells["table3", "Input-only CS", 11]] == ("alignment", "facts", "leakage", "lm", "nli")


def test_a_measurement_with_another_table_is_of_the_same_training() -> None:
    plan = plan_of("figure5", "table4")
    joint = plan.of(plan.suites[0], plan.suites[0].rows[0])[0]
    other = plan.of(plan.suites[1], plan.suites[1].rows[0])[0]
    assert joint.name != other.name
    assert joint.training == other.training
    assert joint.overrides == ("lexicon.top_fraction=0.25",)


OWN = """
title: One of its own
measures: [lm]
scales: {demo: {recipe: suites/recipes/demo, seeds: [1]}, small: {recipe: suites/recipes/small, seeds: [1]}}
columns: {lm: {label: LM, value: lm.clone.perplexity, better: lower}}
rows: [{label: Later, variant: align_later, overrides: [model.hidden_size=64]}]
figure: perplexity
"""


def test_a_start_is_of_the_same_model_and_has_its_share_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    suite = load_suite(str(tmp_path / "own.yaml"))
    first, *others = expand([suite], load_variants(), "demo", Path("results")).measurements[0].training.chain
    assert first.recipe.model.hidden_size == 64
    assert all(training.start == first for training in others)
    with pytest.raises(UserError, match=r"--scale small: variant 'joint_half' has amounts of text for .*demo.* alone"):
        expand([suite], load_variants(), "small", Path("results"))


def test_a_start_with_a_recipe_of_its_own_has_data_of_its_own() -> None:
    files = "languages.de.text.files=[de.jsonl]"
    changes = (files, "data.tokenizer.vocab_size=6144", "data.tokenizer.extension.tokens=2048", "data.dir=elsewhere")
    plan = plan_of("new_language", overrides=(*changes, "optimizer.beta2=0.9"))
    first, later = plan.of(plan.suites[0], plan.suites[0].rows[1])[0].training.chain
    assert list(first.recipe.languages) == ["en"]
    assert first.recipe.data.dir == Path("data/suite_demo_english")
    assert (first.recipe.data.tokenizer.vocab_size, later.recipe.data.tokenizer.vocab_size) == (4096, 6144)
    assert first.recipe.optimizer.beta2 == later.recipe.optimizer.beta2 == 0.9
    assert later.recipe.data.dir == Path("elsewhere")


@pytest.mark.parametrize(("name", "scale"), [(name, scale) for scale in SCALES for name in suites_at(scale)])
def test_recipes_are_valid_and_tokens_match(name: str, scale: str) -> None:
    plan = plan_of(name, scale=scale)
    spent: dict[str, list[dict[str, int]]] = {}
    for measurement in plan.measurements:
        training = measurement.training
        for each in training.chain:
            assert load_recipe(each.config, each.overrides) == each.recipe
        consumed = Account.empty(training.recipe)
        if training.after is not None:
            plan_before = align_plan(training.after.recipe)
            words = dict.fromkeys(training.recipe.languages, 0)
            consumed = Account(plan_before.text_tokens(training.after.recipe), words, plan_before.steps)
        planned = pretrain_plan(training.recipe, consumed)
        text = planned.text_tokens(training.recipe)
        if training.recipe.facts is not None:
            facts = training.recipe.facts
            assert facts.steps(facts.periods - 1)[1] <= planned.steps
        step = training.recipe.batch.global_batch_size * training.recipe.model.context
        total = {key: text[key] + consumed.text[key] for key in text}
        if training.start is not None:
            first = training.start.recipe
            earlier = pretrain_plan(first, Account.empty(first)).text_tokens(first)
            assert abs(sum(earlier.values()) - training.start.tokens) <= step
            for language in earlier:
                total[language] += earlier[language]
        own = sum(total.values()) - (training.start.tokens if training.start else 0)
        assert abs(own - training.tokens - (training.after.tokens if training.after else 0)) <= step
        if not measurement.variant.endswith(("_target", "_matched", "_matched_real", "_matched_four")):
            spent.setdefault(training.config, []).append(total)
            context = training.recipe.model.context
            for language, tokens in total.items():
                first = spent[training.config][0][language]
                assert abs(tokens - first) <= (step if language == "en" else context), (measurement.name, language)


@pytest.mark.parametrize(
    ("name", "scale", "variant", "word_tokens"),
    [
        ("table1", "demo", "joint_matched", 2.7),
        ("table1", "mini", "joint_matched", 2.58),
        ("table1", "small", "joint_matched", 2),
        ("table1", "paper", "joint_matched", 2),
        ("table5", "demo", "joint_matched_real", 2.33),
        ("four_languages", "demo", "joint_matched_four", 2.33),
    ],
)
def test_compute_matched_training_has_the_operations_of_prealign(
    name: str, scale: str, variant: str, word_tokens: float
) -> None:
    """``word_tokens``: tokens of a word with the scale's vocabulary. By a table of 80,000 rows where the recipe asks
    for a coverage."""
    runs = {m.variant: m.training for m in plan_of(name, scale=scale).measurements if m.seed == 11}
    recipe, more = runs["prealign"].recipe, runs[variant].recipe
    aligning = runs["prealign"].after.recipe
    steps, words = align_plan(aligning).steps, aligning.align.words_per_step
    if words is None:
        words = round(aligning.align.coverage * 80_000 / steps)
    extra = steps * (words * word_tokens * word_token_flops(aligning) + infonce_flops(aligning, words))
    added = (more.languages["en"].tokens - recipe.languages["en"].tokens) * text_token_flops(recipe)
    assert added == pytest.approx(extra, rel=0.1)
    assert [more.languages[target].tokens for target in recipe.targets] == [
        recipe.languages[target].tokens for target in recipe.targets
    ]


def test_what_does_not_align_keeps_its_name_under_other_align_settings() -> None:
    names = [{m.variant: m.name for m in plan_of("table2", overrides=o).measurements} for o in ((), ("align.tau=0.2",))]
    same = {variant for variant, name in names[0].items() if names[1][variant] == name}
    assert same == {"joint", "joint_codeswitch"}


def test_prepared_data_is_shared_where_it_is_the_same() -> None:
    plan = plan_of("table1")
    folders = {training.name.split("-")[0]: training.recipe.data.dir for training in plan.trainings}
    base = Path("data/suite_demo")
    assert {folders[name] for name in ("joint", "prealign", "align", "permuted", "perfect_init", "only_target")} == {
        base
    }
    assert folders["full_target"] != base  # the clone has English's documents
    figure3 = plan_of("figure3")
    with_clone_facts = figure3.of(figure3.suites[0], figure3.suites[0].rows[0])[0].training.recipe
    assert with_clone_facts.facts_languages == ["en", "clone"]
    assert with_clone_facts.data.dir not in (base, folders["full_target"])


def test_overrides_are_for_all_runs() -> None:
    plan = plan_of("table5", overrides=("data.dir=/scratch/real", "languages.de.text.files=[a.jsonl]"))
    for training in plan.trainings:
        assert training.recipe.data.dir == Path("/scratch/real")
        assert training.recipe.languages["de"].text is not None
        assert training.recipe.languages["de"].text.files == ["a.jsonl"]
    assert [row.label for row in plan.suites[0].rows_at("demo")][:2] == ["150M Joint", "150M PreAlign"]
    sizes = {
        m.training.recipe.model.layers * m.training.recipe.model.hidden_size
        for m in plan_of("table5", scale="paper").measurements
    }
    assert sizes == {12 * 1024, 24 * 1024, 24 * 2048}


def test_a_suite_without_the_scale() -> None:
    suite = load_suite("table1")
    with pytest.raises(UserError, match="--scale small: table1 has the scales"):
        expand(
            [suite.model_copy(update={"scales": {"demo": suite.scales["demo"]}})], load_variants(), "small", Path("r")
        )
