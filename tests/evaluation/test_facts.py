"""CLKA: likelihoods against one statement at a time, known answers, chance, and what training writes down."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, log_loss

from prealign.config import Recipe
from prealign.data.loader import MicroBatch
from prealign.data.prepared import open_data
from prealign.distributed.world import World
from prealign.evaluation.facts import FactsTest, choose, facts_now, facts_over_periods, statement_nats
from prealign.evaluation.results import NotMeasured, wilson_interval
from prealign.model.layout import Group, Layout
from prealign.model.shapes import VOCABULARY
from prealign.objectives.inputs import ModelInputs, text_inputs
from prealign.objectives.joint import JointModel
from prealign.preparation.pipeline import prepare
from tests.conftest import tiny_recipe
from tests.evaluation.models import ONE, model_of
from tests.facts.recipes import facts_recipe
from tests.processes import finish, metrics, on_ranks, start, train


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = facts_recipe(tmp_path_factory.mktemp("facts"))
    prepare(recipe, say=lambda line: None)
    return recipe


def statements() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 1200, size) for size in (5, 17, 9, 9, 30, 2, 11)]


def test_likelihoods_against_single_statements(recipe: Recipe) -> None:
    model = model_of(recipe)
    found = statement_nats(model, ONE, statements(), 599, 40, None)
    for statement, nats in zip(statements(), found):
        ids = torch.from_numpy(np.concatenate(([599], statement)))
        hidden, _ = model.gpt(ids[:-1], torch.arange(len(statement)), Layout((Group(1, len(statement)),)))
        probabilities = softmax((hidden @ model.head.weight.T).double().numpy(), axis=1)
        expected = log_loss(ids[1:], probabilities, labels=range(recipe.padded_vocab_size), normalize=False)
        assert nats == pytest.approx(expected, rel=1e-5)


def shared(rank: int, ranks: int, folder: Path) -> list[float]:
    torch.set_num_threads(1)
    model = model_of(facts_recipe(folder))
    return statement_nats(model, World(rank, ranks, ONE.device), statements(), 599, 40, None).tolist()


def test_ranks_share_the_statements(recipe: Recipe) -> None:
    alone = statement_nats(model_of(recipe), ONE, statements(), 599, 40, None)
    for found in on_ranks(shared, 2, recipe.data.dir.parent):
        assert found == pytest.approx(alone.tolist(), rel=1e-6)


def test_choices() -> None:
    scores = np.array([[-1.0, -2, -3, -4], [-2, -1, -3, -4], [-1, -1, -3, -4], [-5, -5, -5, -5]])
    assert choose(scores) == [1.0, 0.0, 0.5, 0.25]


def test_choices_against_scikit_learn() -> None:
    scores = np.random.default_rng(1).normal(size=(400, 4))
    hits = choose(scores)
    assert np.mean(hits) == pytest.approx(accuracy_score(np.zeros(400, int), scores.argmax(axis=1)))
    low, high = binomtest(round(sum(hits)), 400).proportion_ci(method="wilson")
    assert low < 0.25 < high


@pytest.mark.parametrize("clone_level", ["token", pytest.param("word", marks=pytest.mark.slow)])
def test_length_decides_nothing(recipe: Recipe, clone_level: str, tmp_path: Path) -> None:
    """The four statements have equally many tokens in every language, so the mean per token chooses as the sum does."""
    if clone_level == "word":
        recipe = facts_recipe(tmp_path, clone_level)
        prepare(recipe, say=lambda line: None)
    test = FactsTest.of(open_data(recipe))
    assert test is not None
    for language in recipe.languages:
        for fact in test.facts:
            for template in range(3):
                sizes = {len(test.statements.ids(fact, language, template, name)) for name in fact.choices}
                assert len(sizes) == 1


def test_a_perfectly_aligned_model_scores_both_languages_alike(recipe: Recipe) -> None:
    data = open_data(recipe)
    test = FactsTest.of(data)
    assert test is not None
    model = model_of(recipe.model_copy(update={"model": recipe.model.model_copy(update={"init": "perfect_clone"})}))
    english, clone = (test.scores(model, ONE, test.facts, language) for language in ("en", "clone"))
    assert english == pytest.approx(clone, rel=1e-5)
    assert choose(english) == choose(clone)


class Knowing(torch.nn.Module):
    """A model whose loss is 1 for ids it does not know and 0 for others."""

    def __init__(self, known: np.ndarray) -> None:
        super().__init__()
        self.known = torch.from_numpy(known)

    def forward(self, inputs):
        targets = inputs.text.targets
        return {"token_losses": ((targets >= 0) & ~torch.isin(targets, self.known)).float()}


def test_a_model_that_knows_and_models_at_chance(recipe: Recipe) -> None:
    data = open_data(recipe)
    test = FactsTest.of(data)
    assert test is not None
    fact = next(fact for fact in test.facts if fact.language == "clone" and fact.period == 1)
    distractors = set(np.concatenate([data.clone_tokenizer.encode(f" {name}", "en") for name in fact.distractors]))
    own = set(data.clone_tokenizer.encode(f" {fact.object}", "en").tolist())
    scores = test.scores(Knowing(np.array(sorted(own | (set(range(1200)) - distractors)))), ONE, [fact], "en")
    assert choose(scores) == [1.0]
    assert scores.shape == (1, 4)

    accuracies = test.accuracies(Knowing(np.arange(1200)), ONE, 1)  # all statements are equally likely
    assert accuracies == {f"facts/{a}/{b}/f{n}": 0.25 for a in ("en", "clone") for b in ("en", "clone") for n in (1, 3)}
    random = [test.accuracies(model_of(recipe), ONE, period) for period in range(3)]
    hits = sum(8 * value for found in random for value in found.values())
    low, high = wilson_interval(round(hits), 3 * 8 * 8)
    assert low < 0.25 < high


def test_what_is_read_is_known_and_passes_to_a_perfectly_aligned_language(recipe: Recipe) -> None:
    """A model trained on the English statements of a period knows them, and no others; with equal, fixed embeddings of
    English and clone it knows them in the clone as well."""
    data = open_data(recipe)
    test = FactsTest.of(data)
    assert test is not None
    torch.manual_seed(0)
    model = JointModel(tiny_recipe(recipe.data.dir, model={"hidden_size": 64, "context": 128, "heads": 4}))
    for name, parameter in model.named_parameters():
        if name in VOCABULARY:
            parameter.data.normal_(0, 0.2)
            parameter.data[600:1200] = parameter.data[:600]
            parameter.requires_grad_(False)
    mine = [fact for fact in test.facts if (fact.period, fact.language, fact.frequency) == (1, "en", 3)]
    written = [np.append(test.statements.ids(fact, "en", template), 599) for fact in mine for template in range(3)]
    ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(part) for part in written], True, padding_value=-100)
    start = torch.full((len(ids), 1), 599)
    inputs = torch.cat((start, ids[:, :-1].clamp(min=0)), dim=1)
    batch = MicroBatch(inputs, ids, torch.zeros(len(ids), dtype=torch.int64), torch.zeros(3))
    text = ModelInputs(text_inputs(batch, ONE.device, None), None, torch.tensor(500))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        model(text)["loss"].backward()
        optimizer.step()
    found = test.accuracies(model.eval(), ONE, 1)
    assert found["facts/en/en/f3"] == 1.0
    assert found["facts/en/clone/f3"] == 1.0
    others = [found[f"facts/{learned}/en/f{n}"] for learned, n in (("en", 1), ("clone", 1), ("clone", 3))]
    low, high = wilson_interval(round(8 * sum(others)), 24)
    assert low < 0.25 < high


def test_now_is_the_last_period_that_ended(recipe: Recipe) -> None:
    test = FactsTest.of(open_data(recipe))
    assert test is not None
    assert facts_now(test, model_of(recipe), ONE, 9)["period"] == 0
    found = facts_now(test, model_of(recipe), ONE, 10)
    assert (found["period"], found["ended_at"]) == (1, 10)
    assert set(found["panels"]) == {"en -> en", "en -> clone", "clone -> en", "clone -> clone"}
    with pytest.raises(NotMeasured, match="by step 5"):
        facts_now(test, model_of(recipe), ONE, 5)


@pytest.mark.slow
def test_training_measures_at_the_ends_of_periods(recipe: Recipe, tmp_path: Path) -> None:
    """Interrupted or not, the same numbers; the launcher brings them together."""
    train(recipe, tmp_path / "run")
    train(recipe, tmp_path / "parts", 1, "--stop-after", "8")
    train(recipe, tmp_path / "parts")
    rows = {
        row["step"]: row for row in metrics(tmp_path / "run") if row["kind"] == "eval" and row["stage"] == "pretrain"
    }
    measured = [step for step, row in rows.items() if any(key.startswith("facts/") for key in row)]
    assert measured == [6, 10, 14]
    parts = {
        row["step"]: row for row in metrics(tmp_path / "parts") if row["kind"] == "eval" and row["stage"] == "pretrain"
    }
    assert [parts[step] for step in measured] == [rows[step] for step in measured]

    code, out, err = finish(start(["launchers/evaluate.py", "--run", str(tmp_path / "run"), "--only", "facts"]))
    assert code == 0, err
    assert "en -> clone" in out
    (path,) = (tmp_path / "run" / "evaluation").glob("step-*.json")
    found = json.loads(path.read_text())["metrics"]["facts"]
    values = [rows[step]["facts/en/clone/f3"] for step in measured]
    panel = found["over_periods"]["panels"]["en -> clone"]["f3"]
    assert panel["by_period"] == values
    assert panel["accuracy"] == pytest.approx(np.mean(values))
    per_period = recipe.facts.per_frequency  # type: ignore[union-attr]
    assert panel["facts"] == 3 * per_period
    assert panel["interval"] == list(wilson_interval(round(sum(values) * per_period), 3 * per_period))
    assert found["now"]["period"] == 2


def test_no_period_has_ended(recipe: Recipe, tmp_path: Path) -> None:
    test = FactsTest.of(open_data(recipe))
    assert test is not None
    with pytest.raises(NotMeasured, match="no period of facts has ended by step 5"):
        facts_over_periods(test, tmp_path / "metrics.jsonl", 5)
