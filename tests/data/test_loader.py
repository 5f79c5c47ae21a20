"""The same samples for every number of ranks, workers and every batch size, and from any step on."""

from pathlib import Path

import numpy as np
import pytest

from prealign.data.loader import MicroBatch, StageDataset, micro_batches
from prealign.data.mixture import Mixture, Phase
from prealign.data.prepared import open_data
from prealign.data.switching import IGNORED
from tests.conftest import tiny_recipe


@pytest.fixture(scope="module")
def dataset(data_dir: Path) -> StageDataset:
    return StageDataset(open_data(tiny_recipe(data_dir)).streams(code_switch=True), Phase((70, 26), (3, 1), 5), seed=2)


def rows_of(batches: list[MicroBatch]) -> list[tuple]:
    """The rows of a step, in an order that does not depend on how they were dealt out."""
    rows = []
    for batch in batches:
        rows += [(*a, *b) for a, b in zip(batch.inputs.tolist(), batch.targets.tolist())]
    return sorted(rows)


def stream(dataset: StageDataset, ranks: int, micro: int, workers: int, first_step: int = 0) -> list[list[tuple]]:
    loaders = [
        micro_batches(
            dataset,
            global_batch_size=16,
            micro_batch_size=micro,
            dp_rank=rank,
            dp_size=ranks,
            first_step=first_step,
            steps=6,
            workers=workers,
            pin_memory=False,
        )
        for rank in range(ranks)
    ]
    return [rows_of([batch for share in step for batch in share]) for step in zip(*loaders, strict=True)]


@pytest.mark.parametrize(("ranks", "micro", "workers"), [(2, 8, 0), (4, 2, 0), (1, 1, 0), (1, 16, 2), (2, 4, 4)])
def test_layout_does_not_matter(dataset: StageDataset, ranks: int, micro: int, workers: int) -> None:
    reference = stream(dataset, 1, 16, 0)
    assert len(reference) == 6
    assert any(IGNORED in row for step in reference for row in step)  # words were switched, some of them in two tokens
    assert stream(dataset, ranks, micro, workers) == reference


@pytest.fixture(scope="module")
def phased(data_dir: Path) -> StageDataset:
    """Three phases; the clone runs into a second epoch."""
    data = open_data(tiny_recipe(data_dir))
    first = Phase((40, 0), (3, data.streams(code_switch=False)[1].windows - 20), 5)
    second = Phase((2, 17), first.consumed_after, 6, (0, 11))
    third = Phase((7, 30), second.consumed_after, 7)
    return StageDataset(data.streams(code_switch=True), Mixture((first, second, third)), seed=2)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 2, 4])
def test_layout_does_not_matter_with_phases(phased: StageDataset, ranks: int, workers: int) -> None:
    reference = stream(phased, 1, 16, 0)
    assert len(reference) == 6
    assert stream(phased, ranks, 4, workers) == reference
    assert stream(phased, ranks, 2, workers, first_step=3) == reference[3:]


def test_epochs_of_a_small_language(data_dir: Path) -> None:
    """Each epoch reads every window once, in an order of its own, whatever phases it runs through."""
    data = open_data(tiny_recipe(data_dir))
    windows = data.streams(code_switch=False)[1].windows
    first = Phase((900, windows // 2), (0, 0), 1)
    second = Phase((50, 3 * windows - windows // 2), first.consumed_after, 2)
    dataset = StageDataset(data.streams(code_switch=False), Mixture((first, second)), seed=2)
    source, epoch, window = dataset.locate(np.arange(dataset.mixture.samples))
    orders = []
    for number in range(3):
        visited = window[(source == 1) & (epoch == number)]
        assert sorted(visited) == list(range(windows))
        orders.append(visited.tolist())
    assert orders[0] != orders[1] != orders[2]


def test_starting_at_a_later_step(dataset: StageDataset) -> None:
    assert stream(dataset, 2, 4, 0, first_step=4) == stream(dataset, 1, 16, 0)[4:]


def test_rows_are_sorted_by_language(dataset: StageDataset) -> None:
    (batch,) = dataset[dataset.locate(np.arange(16)), 16]
    assert batch.sources.tolist() == sorted(batch.sources.tolist())
    english = int((batch.sources == 0).sum())
    assert 0 < english < 16
    assert (batch.targets[english:] >= 600).all()
    assert (batch.targets[:english] < 600).all()  # targets of switched text stay in the source language
    assert (batch.inputs[:english] >= 600).any()


def test_counts_of_words(dataset: StageDataset) -> None:
    words, eligible, switched = sum(batch.words for batch in dataset[dataset.locate(np.arange(96)), 16]).tolist()
    assert words >= eligible > 0.99 * words
    assert switched / eligible == pytest.approx(0.2, abs=0.03)


def test_epochs_switch_differently(data_dir: Path) -> None:
    stream_ = open_data(tiny_recipe(data_dir)).streams(code_switch=True)[0]
    inputs, targets = np.empty((2, 32), np.int64), np.empty((2, 32), np.int64)
    stream_.sequences(np.array([0, 0]), np.array([0, 1]), inputs, targets)
    assert inputs[0].tolist() != inputs[1].tolist()
