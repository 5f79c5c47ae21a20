"""Retrieval against plain loops, and on vectors with a known answer."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from prealign.evaluation.results import wilson_interval
from prealign.evaluation.retrieval import csls, precision_at_1, retrieval
from prealign.evaluation.word_pairs import WordPairs

CPU = torch.device("cpu")


def one_to_one(count: int) -> WordPairs:
    rows = np.arange(count)
    return WordPairs(None, rows, rows, np.stack((rows, rows), axis=1))  # type: ignore[arg-type]


def test_csls_against_loops() -> None:
    torch.manual_seed(0)
    x, y = F.normalize(torch.randn(13, 6), dim=1), F.normalize(torch.randn(17, 6), dim=1)
    found = csls(x @ y.T, neighbours=4)
    for i in range(13):
        for j in range(17):
            near_i = sorted((float(x[i] @ v) for v in y), reverse=True)[:4]
            near_j = sorted((float(y[j] @ v) for v in x), reverse=True)[:4]
            assert float(found[i, j]) == pytest.approx(
                2 * float(x[i] @ y[j]) - np.mean(near_i) - np.mean(near_j), abs=1e-5
            )


def test_identical_vectors_find_each_other() -> None:
    vectors = F.normalize(torch.randn(2, 50, 16, generator=torch.Generator().manual_seed(1)), dim=2)
    found = retrieval(vectors, vectors, one_to_one(50), CPU)
    for direction in found.values():
        assert direction["p_at_1"] == [1.0, 1.0]
        assert direction["csls"] == [1.0, 1.0]
        assert direction["csls_interval"][1] == 1.0
        assert direction["chance"] == pytest.approx(1 / 50)


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
