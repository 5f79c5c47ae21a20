"""Facts as they are drawn, written into stores and read by a run: f times, in their period, and nowhere else."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prealign.config import Recipe
from prealign.config.facts import facts_period
from prealign.data.loader import StageDataset
from prealign.data.prepared import PreparedData, open_data
from prealign.errors import UserError
from prealign.facts.building import pack
from prealign.facts.checking import check_facts
from prealign.facts.drawing import Fact, read_facts
from prealign.facts.relations import BUILT_IN, read_relations
from prealign.facts.statements import Statements
from prealign.preparation.pipeline import prepare
from prealign.preparation.verifying import verify_data
from prealign.stores.token_store import TokenStore
from prealign.training.plan import Account, pretrain_plan
from tests.facts.recipes import facts_recipe


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module", params=["token", "word"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, PreparedData]:
    recipe = facts_recipe(tmp_path_factory.mktemp("facts"), request.param)
    prepare(recipe, silent)
    return recipe, open_data(recipe)


def facts_of(data: PreparedData) -> list[Fact]:
    return list(read_facts(data.artefacts["facts"].folder / "facts.jsonl"))


def count(tokens: np.ndarray, part: np.ndarray) -> int:
    """How often a run of ids stands in another."""
    if len(tokens) < len(part):
        return 0
    return int((np.lib.stride_tricks.sliding_window_view(tokens, len(part)) == part).all(axis=1).sum())


def test_drawn_facts(prepared: tuple[Recipe, PreparedData]) -> None:
    recipe, data = prepared
    facts = facts_of(data)
    groups = Counter((fact.period, fact.language, fact.frequency) for fact in facts)
    assert groups == Counter(dict.fromkeys(itertools.product(range(3), ("en", "clone"), (1, 3)), 8))
    names = [name for fact in facts for name in (fact.subject, fact.object)]
    assert len(names) == len(set(names))
    by_object = {fact.object: fact for fact in facts}
    statements = Statements.of(recipe, data.clone_tokenizer)
    for fact in facts:
        assert len(set(fact.choices)) == 4
        for name in fact.distractors:
            other = by_object[name]
            assert (other.period, other.language, other.frequency) == (fact.period, fact.language, fact.frequency)
        for language, template in itertools.product(recipe.languages, range(3)):
            assert len({len(statements.ids(fact, language, template, name)) for name in fact.choices}) == 1


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_a_run_reads_every_fact_as_often_as_it_should(prepared: tuple[Recipe, PreparedData], ratio: float) -> None:
    """Over all samples of the stage, in the order of steps, whatever code-switching does to the other words."""
    recipe, data = prepared
    recipe = recipe.model_copy(update={"codeswitch": recipe.codeswitch.model_copy(update={"ratio": ratio})})
    data = PreparedData(recipe, data.artefacts)
    plan = pretrain_plan(recipe, Account.empty(recipe))
    dataset = StageDataset(data.streams(code_switch=True), plan.mixture, 5)
    batch = recipe.batch.global_batch_size
    facts = facts_of(data)
    spelled = {
        fact: {
            language: [
                data.clone_tokenizer.encode(f" {name.split()[-1]}", language) for name in (fact.subject, fact.object)
            ]
            for language in recipe.languages
        }
        for fact in facts
    }
    read: Counter[tuple[str, str, int]] = Counter()
    for step in range(plan.steps):
        located = dataset.locate(np.arange(step * batch, (step + 1) * batch))
        (rows,) = dataset[located, batch]
        tokens = rows.inputs.numpy().reshape(-1)
        for fact in facts:
            for language, parts in spelled[fact].items():
                for name, part in zip((fact.subject, fact.object), parts):
                    if found := count(tokens, part):
                        read[name, language, recipe.facts.ended(step + 4)] += found  # type: ignore[union-attr]
    period_of_step = {period: recipe.facts.steps(period) for period in range(3)}  # type: ignore[union-attr]
    assert period_of_step == {0: (2, 6), 1: (6, 10), 2: (10, 14)}
    objects = {fact.object for fact in facts}
    expected = Counter({(fact.object, fact.language, fact.period): fact.frequency for fact in facts})
    assert {key: n for key, n in read.items() if key[0] in objects} == expected


def test_whole_statements_lie_in_samples(prepared: tuple[Recipe, PreparedData]) -> None:
    recipe, data = prepared
    statements = Statements.of(recipe, data.clone_tokenizer)
    plan = pretrain_plan(recipe, Account.empty(recipe))
    for (name, source), samples in zip(recipe.sources.items(), plan.mixture.counts):
        period = facts_period(name)
        if period is None:
            continue
        language = name.partition(".")[0]
        store = TokenStore(data.artefacts["facts"].folder / f"{language}-{period}" / "train")
        assert len(store) == source.tokens == samples * 128
        rows = store.tokens.astype(np.int64).reshape(-1, 128)
        for fact in facts_of(data):
            if (fact.language, fact.period) == (language, period):
                found = [
                    sum(count(row, statements.ids(fact, language, template)) for row in rows) for template in range(3)
                ]
                wanted = Counter((fact.template + r) % 3 for r in range(fact.frequency))
                assert found == [wanted[template] for template in range(3)]


def test_the_check_finds_what_is_wrong(tmp_path: Path) -> None:
    recipe = facts_recipe(tmp_path)
    prepare(recipe, silent)
    data = open_data(recipe)
    verify_data(data, silent)
    fact = next(fact for fact in facts_of(data) if fact.language == "en" and fact.period == 0)
    name = data.clone_tokenizer.encode(f" {fact.object}", "en")

    path = tmp_path / "data" / "facts" / "en-0" / "train.bin"
    whole = path.read_bytes()
    tokens = np.frombuffer(whole, np.uint16).copy()
    place = np.flatnonzero((np.lib.stride_tricks.sliding_window_view(tokens, len(name)) == name).all(axis=1))[0]
    tokens[place] += 1
    path.write_bytes(tokens.tobytes())
    with pytest.raises(UserError, match=r"en-0/train.bin: found '.*' 0 times; expected 1"):
        check_facts(open_data(recipe))
    path.write_bytes(whole)

    text = tmp_path / "data" / "en" / "train.bin"
    tokens = np.frombuffer(text.read_bytes(), np.uint16).copy()
    starts, ends, _, _ = data.streams(code_switch=True)[0].switching.words.between(0, 5000)  # type: ignore[union-attr]
    word = next(i for i in range(len(starts)) if ends[i] - starts[i] == len(name))
    tokens[starts[word] : ends[word]] = name
    text.write_bytes(tokens.tobytes())
    with pytest.raises(UserError, match=r"en/train.bin: found 1 words that are names of injected facts"):
        check_facts(open_data(recipe))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(1, 30))
def test_pack(lengths: list[int], windows: int) -> None:
    cuts = pack(lengths, windows, 25)
    if cuts is None:
        assert windows < len(lengths)  # with a sample for each there is always room
        return
    assert (cuts[0], cuts[-1], len(cuts)) == (0, len(lengths), windows + 1)
    assert all(sum(lengths[a:b]) <= 25 for a, b in itertools.pairwise(cuts))


def test_built_in_relations() -> None:
    relations = read_relations(BUILT_IN, ["en", "de", "zh", "ru", "ar", "zh-Hans"])
    assert len(relations) >= 8
    assert all(len(found) == 3 for relation in relations for found in relation.templates.values())
    written = [template for relation in relations for template in relation.templates["de"]]
    assert len(written) == len(set(written))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_frequency": 7}, "facts.per_frequency: found 7; expected at least 8, 4 for each of 2 relations"),
        ({"statement_tokens": 5}, "facts.statement_tokens: found 5; the statements have up to "),
        ({"relations": "/nowhere.yaml"}, "facts.relations: '/nowhere.yaml' cannot be read"),
    ],
)
def test_mistakes(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        prepare(facts_recipe(tmp_path, facts=changes), silent)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("P1: {subject: a, object: b, templates: {de: ['{s} ist {o}.']}}", "P1: found no templates for 'en'"),
        (
            "P1: {subject: a, object: b, templates: {en: ['{s} is{o}.']}}",
            "a space before '{o}' and no letter behind it",
        ),
        ("P1: {subject: a, templates: {en: ['{s} is {o}.']}}", "not a file of relations ('object')"),
        ("P1: [", "not a file of relations"),
    ],
)
def test_wrong_relations(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "relations.yaml"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        read_relations(path, ["en"])
    assert message in str(error.value)


def test_the_advised_room_is_enough_and_other_facts_are_refused(tmp_path: Path) -> None:
    recipe = facts_recipe(tmp_path, facts={"statement_tokens": 5})
    with pytest.raises(UserError) as error:
        prepare(recipe, silent)
    advised = int(str(error.value).split("and need ")[1].split()[0])
    recipe = facts_recipe(tmp_path, facts={"statement_tokens": advised})
    prepare(recipe, silent)
    open_data(recipe)
    with pytest.raises(UserError, match=r"facts: made with per_frequency 8; .* have 12; run launchers/prepare.py"):
        open_data(facts_recipe(tmp_path, facts={"statement_tokens": advised, "per_frequency": 12}))
