"""MEXA: the score against scikit-learn's neighbours, embeddings against a sentence-by-sentence computation, models."""

from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest
from sklearn.neighbors import NearestNeighbors

from prealign.data.prepared import open_data
from prealign.errors import UserError
from prealign.evaluation.mexa import mexa, mexa_of_pairs, sentence_embeddings, sentence_pairs
from prealign.evaluation.results import NotMeasured, wilson_interval
from prealign.model.layout import Group, Layout
from tests.conftest import tiny_recipe
from tests.evaluation.models import ONE, model_of


@pytest.mark.parametrize("noise", [0.3, 0.7, 2.0])
def test_score_is_the_share_of_mutual_nearest_neighbours(noise: float) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(200, 8, generator=generator)
    y = x + noise * torch.randn(200, 8, generator=generator)
    nearest = [
        NearestNeighbors(n_neighbors=1, metric="cosine")
        .fit(candidates)
        .kneighbors(queries, return_distance=False)[:, 0]
        for candidates, queries in ((y.numpy(), x.numpy()), (x.numpy(), y.numpy()))
    ]
    expected = sum(nearest[0][i] == i == nearest[1][i] for i in range(200)) / 200
    assert 0 < expected < 1
    assert mexa(x, y) == pytest.approx(expected, abs=1e-12)


def test_a_tie_is_no_hit() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert mexa(x, x) == 0.0


def test_embeddings_weigh_tokens_by_position(data_dir: Path) -> None:
    recipe = tiny_recipe(data_dir)
    model = model_of(recipe)
    sentences = [torch.randint(0, 600, (length,)).numpy() for length in (3, 9, 1, 32, 5)]
    found = sentence_embeddings(model, sentences, 2, ONE.device)
    assert found.shape == (3, 5, 32)
    for number, sentence in enumerate(sentences):
        ids = torch.from_numpy(sentence)
        place = torch.arange(len(ids))
        layout = Layout((Group(1, len(ids)),))
        first, _ = model.gpt.embedding(ids, place, None)
        middle, _ = model.gpt.blocks[0](first, layout, None)
        last, _ = model.gpt(ids, place, layout)
        for layer, hidden in enumerate((first, middle, last)):
            expected = sum((t + 1) * hidden[t] for t in range(len(ids))) / sum(range(1, len(ids) + 1))
            torch.testing.assert_close(found[layer, number], expected, atol=1e-4, rtol=1e-4)


def test_perfect_and_random_models(data_dir: Path) -> None:
    perfect = tiny_recipe(data_dir, model={"init": "perfect_clone"}, evaluation={"parallel_sentences": 60})
    pairs = sentence_pairs(open_data(perfect), "clone")
    assert len(pairs) == 60
    assert all((clone == english + 600).all() and len(english) >= 8 for english, clone in pairs)
    result = mexa_of_pairs(model_of(perfect), pairs, 7, ONE.device)
    assert result["layers"] == [1.0] * 3
    assert (result["mean"], result["max"]) == (1.0, 1.0)
    # sentences that have nothing to do with each other
    shuffled = [(english, pairs[(number + 1) % 60][1]) for number, (english, _) in enumerate(pairs)]
    result = mexa_of_pairs(model_of(tiny_recipe(data_dir)), shuffled, 7, ONE.device)
    for layer in result["layers"]:
        assert wilson_interval(round(60 * layer), 60)[0] < result["chance"] == 1 / 119


def test_unrelated_vectors_are_at_chance() -> None:
    generator = torch.Generator().manual_seed(4)
    hits = 0
    for _ in range(400):
        x, y = torch.randn(2, 20, 64, generator=generator)
        hits += round(20 * mexa(x, y))
    low, high = binomtest(hits, 8000).proportion_ci(method="wilson")
    assert low < 1 / 39 < high


def test_parallel_files(data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("She walked.\tElla caminó.\nHe slept.\tÉl durmió.\n")
    recipe = tiny_recipe(data_dir, evaluation={"parallel": {"clone": str(path)}})
    data = open_data(recipe)
    (english, clone), _ = sentence_pairs(data, "clone")
    assert data.tokenizer.decode(english) == "She walked."
    assert data.tokenizer.decode(clone - 600) == "Ella caminó."
    path.write_text("She walked.\n")
    with pytest.raises(UserError, match=r"pairs.tsv, line 1: found 'She walked.'; expected 'source<tab>translation'"):
        sentence_pairs(data, "clone")
    path.write_text("one\tuno\n")
    with pytest.raises(NotMeasured, match="1 parallel"):
        sentence_pairs(data, "clone")
