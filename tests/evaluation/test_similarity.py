"""Cosines of aligned words: known answers for a perfectly aligned and for a random model, and against scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics.pairwise import cosine_similarity

from prealign.data.prepared import open_data
from prealign.evaluation.similarity import Probe, aligned_cosine, pair_cosines
from prealign.evaluation.word_pairs import WordPairs, draw_pairs, word_vectors
from tests.conftest import tiny_recipe
from tests.evaluation.models import ONE, model_of


def test_cosine_of_aligned_words(data_dir: Path) -> None:
    """A model whose clone rows are copies has cosine 1 on every layer; a random one has that of random pairs."""
    data = open_data(tiny_recipe(data_dir))
    assert data.whole_lexicon is not None
    probe = Probe.build(data.whole_lexicon, 100, ONE.device)
    assert probe is not None
    assert probe.pairs == 100
    aligned, random = aligned_cosine(model_of(tiny_recipe(data_dir, model={"init": "perfect_clone"})), probe)
    assert len(aligned) == 4
    assert aligned == pytest.approx([1.0] * 4, abs=1e-5)
    assert all(value < 0.9 for value in random)
    aligned, random = aligned_cosine(model_of(tiny_recipe(data_dir)), probe)
    assert aligned[0] == pytest.approx(0.0, abs=0.1)
    assert aligned[-1] == pytest.approx(random[-1], abs=0.1)


class Vectors(torch.nn.Module):
    """A model that gives words these vectors, ``[layers, W, D]``."""

    def __init__(self, vectors: torch.Tensor) -> None:
        super().__init__()
        self.vectors = vectors

    def forward(self, inputs):
        return {"word_vectors": self.vectors}


def test_cosine_of_a_probe_against_scikit_learn(data_dir: Path) -> None:
    lexicon = open_data(tiny_recipe(data_dir)).whole_lexicon
    assert lexicon is not None
    probe = Probe.build(lexicon, 40, ONE.device)
    assert probe is not None
    vectors = torch.randn(3, 80, 16, generator=torch.Generator().manual_seed(5)) + 0.3
    aligned, random = aligned_cosine(Vectors(F.normalize(vectors, dim=2)), probe)
    for layer in range(3):
        cosines = cosine_similarity(vectors[layer, :40].numpy(), vectors[layer, 40:].numpy())
        assert aligned[layer] == pytest.approx(cosines.diagonal().mean(), abs=1e-6)
        assert random[layer] == pytest.approx(np.mean([cosines[i, i - 1] for i in range(40)]), abs=1e-6)


@pytest.mark.parametrize("perfect", [True, False])
def test_pair_cosines_of_models(data_dir: Path, perfect: bool) -> None:
    recipe = tiny_recipe(data_dir, model={"init": "perfect_clone" if perfect else "random"})
    lexicon = open_data(recipe).whole_lexicon
    assert lexicon is not None
    pairs = draw_pairs(lexicon, "clone", 200)
    model = model_of(recipe)
    sources, targets = (word_vectors(model, lexicon, words, ONE.device) for words in (pairs.sources, pairs.targets))
    found = pair_cosines(sources, targets, pairs)
    if perfect:
        assert found["cosine"] == pytest.approx([1.0] * 4, abs=1e-5)
        assert found["centred"] == pytest.approx([1.0] * 4, abs=1e-5)
        assert all(margin > 0.05 for margin in found["margin"])
    else:
        assert found["margin"] == pytest.approx([0.0] * 4, abs=0.05)
        assert found["centred"] == pytest.approx([0.0] * 4, abs=0.05)


def test_pair_cosines_against_scikit_learn() -> None:
    torch.manual_seed(1)
    sources = F.normalize(torch.randn(2, 5, 8, dtype=torch.float64) + 1, dim=2)
    targets = F.normalize(torch.randn(2, 6, 8, dtype=torch.float64) - 1, dim=2)
    pairs = np.array([[0, 2], [0, 1], [1, 3], [2, 0], [3, 5], [4, 4]])
    words = WordPairs(None, np.arange(5), np.arange(6), pairs)  # type: ignore[arg-type]
    found = pair_cosines(sources, targets, words)
    first = [2, 3, 0, 5, 4]
    for layer in range(2):
        x, y = sources[layer].numpy(), targets[layer, first].numpy()
        cosines = cosine_similarity(x, y)
        aligned = cosines.diagonal().mean()
        random = cosines[~np.eye(5, dtype=bool)].mean()
        centred = cosine_similarity(x - x.mean(axis=0), y - y.mean(axis=0)).diagonal().mean()
        assert found["cosine"][layer] == pytest.approx(aligned)
        assert found["random"][layer] == pytest.approx(random)
        assert found["margin"][layer] == pytest.approx(aligned - random)
        assert found["centred"][layer] == pytest.approx(centred)
