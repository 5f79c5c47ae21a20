"""Retrieval against scikit-learn, and on vectors with a known answer."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from prealign.evaluation.results import wilson_interval
from prealign.evaluation.retrieval import csls, precision_at_1, retrieval
from prealign.evaluation.word_pairs import WordPairs

CPU = torch.device("cpu")


def one_to_one(count: int) -> WordPairs:
    rows = np.arange(count)
    return WordPairs(None, rows, rows, np.stack((rows, rows), axis=1))  # type: ignore[arg-type]


def neighbours(candidates: np.ndarray, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and places of the queries' nearest candidates, by scikit-learn."""
    distances, places = NearestNeighbors(n_neighbors=count, metric="cosine").fit(candidates).kneighbors(queries)
    return 1 - distances, places


def test_csls_against_scikit_learn() -> None:
    torch.manual_seed(0)
    x, y = F.normalize(torch.randn(13, 6), dim=1), F.normalize(torch.randn(17, 6), dim=1)
    of_x, _ = neighbours(y.numpy(), x.numpy(), 4)
    of_y, _ = neighbours(x.numpy(), y.numpy(), 4)
    expected = 2 * cosine_similarity(x, y) - of_x.mean(axis=1)[:, None] - of_y.mean(axis=1)[None]
    assert csls(x @ y.T, neighbours=4).numpy() == pytest.approx(expected, abs=1e-5)


def test_precision_against_scikit_learn() -> None:
    """Both directions, words with several translations, two layers; nearest by cosine and by CSLS."""
    generator = torch.Generator().manual_seed(6)
    targets = torch.randn(2, 60, 12, generator=generator)
    pairs = np.unique(np.random.default_rng(6).integers(0, (40, 60), (50, 2)), axis=0)
    pairs = np.concatenate((pairs, [[i, i] for i in range(40)], [[i - 40, i] for i in range(40, 60)]))
    pairs = np.unique(pairs, axis=0)
    sources = targets[:, :40] + torch.randn(2, 40, 12, generator=generator)
    sources, targets = F.normalize(sources, dim=2), F.normalize(targets, dim=2)
    words = WordPairs(None, np.arange(40), np.arange(60), pairs)  # type: ignore[arg-type]
    found = retrieval(sources, targets, words, CPU)
    gold = {(int(a), int(b)) for a, b in pairs}
    for layer in range(2):
        x, y = sources[layer].double().numpy(), targets[layer].double().numpy()
        to_target, to_source = neighbours(y, x, 1)[1][:, 0], neighbours(x, y, 1)[1][:, 0]
        hits = np.mean([(i, j) in gold for i, j in enumerate(to_target)])
        assert 0.1 < hits < 0.9
        assert found["to_target"]["p_at_1"][layer] == pytest.approx(hits)
        assert found["to_source"]["p_at_1"][layer] == pytest.approx(
            np.mean([(i, j) in gold for j, i in enumerate(to_source)])
        )
        scores = 2 * cosine_similarity(x, y) - neighbours(y, x, 10)[0].mean(axis=1)[:, None]
        scores -= neighbours(x, y, 10)[0].mean(axis=1)[None]
        assert found["to_target"]["csls"][layer] == pytest.approx(
            np.mean([(i, j) in gold for i, j in enumerate(scores.argmax(axis=1))])
        )
        assert found["to_source"]["csls"][layer] == pytest.approx(
            np.mean([(i, j) in gold for j, i in enumerate(scores.argmax(axis=0))])
        )
    best = round(40 * max(found["to_target"]["csls"]))
    assert found["to_target"]["csls_interval"] == pytest.approx(
        tuple(binomtest(best, 40).proportion_ci(method="wilson"))
    )


def test_identical_vectors_find_each_other() -> None:
    vectors = F.normalize(torch.randn(2, 50, 16, generator=torch.Generator().manual_seed(1)), dim=2)
    found = retrieval(vectors, vectors, one_to_one(50), CPU)
    for direction in found.values():
        assert direction["p_at_1"] == [1.0, 1.0]
        assert direction["csls"] == [1.0, 1.0]
        assert direction["csls_interval"][1] == 1.0
        assert direction["chance"] == pytest.approx(1 / 50)


def test_vectors_that_are_not_finite_find_nothing() -> None:
    vectors = torch.full((1, 4, 8), torch.nan)
    found = retrieval(vectors, vectors, one_to_one(4), CPU)
    assert found["to_target"]["csls_interval"][0] == 0.0


def test_random_vectors_are_at_chance() -> None:
    generator = torch.Generator().manual_seed(2)
    sources, targets = (F.normalize(torch.randn(1, 20, 16, generator=generator), dim=2) for _ in range(2))
    hits = 0
    for _ in range(100):  # 2,000 queries of chance 1/20
        order = torch.randperm(20, generator=generator)
        found = retrieval(sources, targets[:, order], one_to_one(20), CPU)
        hits += round(20 * found["to_target"]["p_at_1"][0])
    low, high = wilson_interval(hits, 2000)
    assert low < 0.05 < high


def test_any_translation_counts_and_both_directions_differ() -> None:
    sources = torch.eye(3)[None]
    targets = F.normalize(torch.tensor([[[1.0, 0.1, 0], [0, 1.0, 0.1], [0.9, 0.2, 0], [0, 0.9, 0]]]), dim=2)
    pairs = np.array([[0, 2], [0, 0], [1, 3], [2, 1]])
    found = retrieval(sources, targets, WordPairs(None, np.arange(3), np.arange(4), pairs), CPU)  # type: ignore[arg-type]
    assert found["to_target"]["p_at_1"] == [pytest.approx(1.0)]  # word 2's nearest is target 1, its translation
    assert found["to_source"]["p_at_1"] == [pytest.approx(3 / 4)]  # target 1 is nearest to word 1
    assert found["to_target"]["chance"] == pytest.approx((2 / 4 + 1 / 4 + 1 / 4) / 3)


def test_ties_share_the_hit() -> None:
    scores = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    assert precision_at_1(scores, torch.tensor([[True, False, False, False]])) == pytest.approx(1 / 3)
