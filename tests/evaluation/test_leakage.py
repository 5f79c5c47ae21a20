"""Sampling against the distribution that it samples from; leaks found where there are some, and only there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from prealign.data.prepared import PreparedData, open_data
from prealign.distributed.world import World
from prealign.evaluation.generation import next_hidden_states, sample
from prealign.evaluation.leakage import _content, detector, draw_prompts, leakage
from prealign.evaluation.results import NotMeasured
from prealign.model.layout import Group, Layout
from prealign.preparation.pipeline import prepare
from tests.conftest import SAMPLE_TEXT, tiny_recipe
from tests.evaluation.models import ONE, model_of
from tests.processes import on_ranks

SETTINGS = {"samples": 60, "prompt_tokens": 8, "length": 6}


def leaky(data_dir: Path, **changes: object):
    return tiny_recipe(data_dir, evaluation={"leakage": SETTINGS | changes})


def test_hidden_states_of_new_tokens_are_the_models_own(data_dir: Path) -> None:
    model = model_of(tiny_recipe(data_dir))
    ids = torch.randint(0, 1200, (3, 12), generator=torch.Generator().manual_seed(4))
    whole, _ = model.gpt(ids.flatten(), torch.arange(12).repeat(3), Layout((Group(3, 12),)))
    cache = model.gpt.new_cache()
    parts = [next_hidden_states(model, ids[:, :5], 0, cache)]
    parts += [next_hidden_states(model, ids[:, t : t + 1], t, cache) for t in range(5, 12)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole.view(3, 12, -1), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="found 2 new tokens a row behind others"):
        next_hidden_states(model, ids[:, :2], 12, cache)


def test_samples_follow_the_distribution(data_dir: Path) -> None:
    """The first token of 4,000 continuations of one prompt, against softmax(logits / T)."""
    model = model_of(tiny_recipe(data_dir))
    prompt = torch.tensor([[5, 77, 300]])
    with torch.no_grad():
        hidden, _ = model.gpt(prompt[0], torch.arange(3), Layout((Group(1, 3),)))
        expected = torch.softmax((hidden[-1] @ model.head.weight[:1200].T).double() / 0.7, dim=0)
    drawn = sample(model, prompt.expand(4000, 3), 1, 0.7, 1200, 9, np.arange(4000))[:, 0]
    found = torch.bincount(drawn, minlength=1200) / 4000
    likely = expected.topk(10).indices
    sigma = (expected * (1 - expected) / 4000).sqrt()
    assert ((found - expected)[likely].abs() < 4 * sigma[likely]).all()
    assert (found - expected).abs().sum() < 1.2 * np.sqrt(2 / np.pi) * float(sigma.sum())


def test_a_sample_depends_on_its_number_alone(data_dir: Path) -> None:
    model = model_of(tiny_recipe(data_dir))
    prompts = torch.randint(0, 600, (7, 5), generator=torch.Generator().manual_seed(0))
    whole = sample(model, prompts, 4, 1.0, 1200, 3, np.arange(7))
    parts = [sample(model, prompts[a:b], 4, 1.0, 1200, 3, np.arange(a, b)) for a, b in ((0, 3), (3, 7))]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, sample(model, prompts, 4, 1.0, 1200, 4, np.arange(7)))


def test_low_temperature_takes_the_most_likely_token(data_dir: Path) -> None:
    model = model_of(tiny_recipe(data_dir))
    ids = torch.tensor([[5, 77, 300]])
    drawn = sample(model, ids, 3, 1e-6, 1200, 1, np.arange(1))
    for token in drawn[0]:
        with torch.no_grad():
            hidden, _ = model.gpt(ids[0], torch.arange(ids.shape[1]), Layout((Group(1, ids.shape[1]),)))
        assert int(token) == int((hidden[-1] @ model.head.weight[:1200].T).argmax())
        ids = torch.cat((ids, token[None, None]), dim=1)


def test_shares_with_known_answers(data_dir: Path) -> None:
    """A model without clone tokens never leaks, one that has only them always does, a uniform one as chance has it."""
    recipe = leaky(data_dir)
    data, model = open_data(recipe), model_of(recipe)
    model.gpt.norm.weight.zero_()
    model.gpt.norm.bias.fill_(1.0)
    for english, clone, low, high in ((1.0, -1.0, 0.0, 0.0), (-1.0, 1.0, 1.0, 1.0), (0.0, 0.0, 0.9, 1.0)):
        model.head.weight[:600], model.head.weight[600:] = english, clone
        result = leakage(model, data, ONE)
        assert low <= result["clone"]["share"] <= high
        assert result["clone"]["interval"][0] <= result["clone"]["share"] <= result["clone"]["interval"][1]
        assert result["any"]["share"] == result["clone"]["share"]
        assert (len(result["examples"]) > 0) == (high > 0)
    assert all("⟦clone:" in example["text"] for example in result["examples"])
    assert result["decoding"] == recipe.evaluation.leakage.model_dump(mode="json")
    assert len(result["prompts"]["first_tokens"]) == 60


@pytest.mark.parametrize(("odds", "temperature"), [(0.01, 1.0), (0.1, 1.0), (0.1, 0.5)])
def test_the_share_is_that_of_the_models_probabilities(data_dir: Path, odds: float, temperature: float) -> None:
    """A model that takes every token from the clone with one probability, whatever came before."""
    recipe = leaky(data_dir, samples=1000, temperature=temperature)
    data, model = open_data(recipe), model_of(recipe)
    model.gpt.norm.weight.zero_()
    model.gpt.norm.bias.fill_(1.0)
    model.head.weight[:600], model.head.weight[600:] = 0.0, np.log(odds) / 32
    found = leakage(model, data, ONE)["clone"]
    probability = odds ** (1 / temperature) / (1 + odds ** (1 / temperature))
    expected = 1 - (1 - probability) ** 6
    assert found["share"] == found["leaked"] / found["samples"]
    assert found["samples"] == 1000
    assert found["interval"] == pytest.approx(tuple(binomtest(found["leaked"], 1000).proportion_ci(method="wilson")))
    assert found["interval"][0] < expected < found["interval"][1]
    content = found["content"]
    assert (content["unit"], content["of"], content["share"]) == ("tokens", 6000, content["found"] / 6000)
    assert abs(content["share"] - probability) < 4 * content["standard_error"]
    # tokens are independent in this model alone: then the error over samples is the binomial one
    assert content["standard_error"] == pytest.approx((probability * (1 - probability) / 6000) ** 0.5, rel=0.2)


def shared(rank: int, ranks: int, data_dir: Path) -> dict:
    torch.set_num_threads(1)
    recipe = leaky(data_dir)
    return leakage(model_of(recipe), open_data(recipe), World(rank, ranks, ONE.device))["clone"]


def test_ranks_share_the_samples(data_dir: Path) -> None:
    recipe = leaky(data_dir)
    alone = leakage(model_of(recipe), open_data(recipe), ONE)["clone"]
    assert on_ranks(shared, 2, data_dir) == [alone, alone]


def test_prompts(data_dir: Path) -> None:
    data = open_data(leaky(data_dir, samples=50))
    store = data.heldout("en").tokens.astype(np.int64)
    places, prompts = draw_prompts(data)
    assert len(set(places.tolist())) == 50
    for place, prompt in zip(places, prompts):
        assert (store[place : place + 8] == prompt).all()
    assert (prompts != 599).all()


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """English with German and Russian."""
    folder = tmp_path_factory.mktemp("five")
    (folder / "de.txt").write_text("\n\n".join(f"Das Haus war {n} Jahre alt und der Garten schön." for n in range(60)))
    (folder / "ru.txt").write_text("\n\n".join(f"Дому было {n} лет, и сад был красив." for n in range(60)))
    (folder / "en-de.tsv").write_text("house\tHaus\ngarden\tGarten\nwas\twar\nmorning\tMorgen\n")
    (folder / "en-ru.tsv").write_text("house\tдом\n")
    texts = {name: {"files": [str(folder / f"{name}.txt")]} for name in ("de", "ru")}
    others = {
        name: {"tokens": 1000, "text": text, "dictionaries": [str(folder / f"en-{name}.tsv")]}
        for name, text in texts.items()
    }
    english = {"tokens": 40_960, "text": {"files": [str(SAMPLE_TEXT / "northanger_abbey.jsonl")]}}
    recipe = tiny_recipe(folder / "data", languages={"en": english} | others)
    prepare(recipe, say=lambda line: None)
    return open_data(recipe)


@pytest.mark.parametrize(
    ("text", "german", "russian"),
    [
        ("the house was large and the garden", (0, 6), (0, 28)),
        ("the Haus was large", (1, 3), (0, 15)),
        ("he went to war again", (0, 4), (0, 16)),  # an English word, too
        ("the end of the Haus", (0, 4), (0, 15)),  # could go on
        ("the дом was large", (0, 3), (3, 14)),
        ("die GARTEN, дом", (1, 2), (3, 12)),
        ("", (0, 0), (0, 0)),
    ],
)
def test_real_languages(five: PreparedData, text: str, german: tuple[int, int], russian: tuple[int, int]) -> None:
    ids = five.tokenizer.encode(text).astype(np.int64)
    how, unit, count = detector(five, "de")
    assert "3 words of the alignment table" in how
    assert (unit, count(ids)) == ("words", german)
    how, unit, count = detector(five, "ru")
    assert (how, unit) == ("script Cyrillic", "letters")
    assert count(ids) == russian


def test_tokens_of_a_sample_are_not_taken_as_independent() -> None:
    """By resampling whole samples, some of which are all of the language."""
    random = np.random.default_rng(0)
    counts = np.stack((np.where(random.random(500) < 0.1, 60, 0), np.full(500, 64)), axis=1)
    drawn = counts[random.integers(0, 500, (4000, 500))]
    resampled = (drawn[:, :, 0].sum(axis=1) / drawn[:, :, 1].sum(axis=1)).std()
    found = _content(counts)
    assert found["standard_error"] == pytest.approx(resampled, rel=0.05)
    assert found["standard_error"] > 5 * (found["share"] * (1 - found["share"]) / found["of"]) ** 0.5


def test_too_long_for_the_context(data_dir: Path) -> None:
    recipe = leaky(data_dir, length=25)
    with pytest.raises(NotMeasured, match=r"length 25 do not fit into model.context 32"):
        leakage(model_of(recipe), open_data(recipe), ONE)
