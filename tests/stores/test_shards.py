"""A text in several shards reads as it does in one file, and each shard is a Megatron store."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prealign.config import Recipe
from prealign.data.inspecting import inspect
from prealign.data.prepared import PreparedData, open_data
from prealign.errors import UserError
from prealign.preparation.pipeline import prepare
from prealign.preparation.verifying import verify_data
from prealign.preparation.word_counts import count_words
from prealign.stores.shards import JoinedArray, find_shards, release
from prealign.stores.token_store import TokenStore
from prealign.stores.word_map import WordMap
from tests.conftest import tiny_recipe


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(-3, 40), st.integers(-3, 40))
def test_joined_arrays_are_sliced_as_one(sizes: list[int], begin: int, end: int) -> None:
    whole = np.arange(sum(sizes))
    array = JoinedArray(np.split(whole, np.cumsum(sizes)[:-1]))
    assert len(array) == len(whole)
    assert array[begin:end].tolist() == whole[begin:end].tolist()
    assert array[begin:].tolist() == whole[begin:].tolist()


def test_released_pages_leave_the_process(tmp_path: Path) -> None:
    def mapped() -> int:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
        return int(line.split()[1]) * 1024

    np.ones(32 << 20, np.uint8).tofile(tmp_path / "a.bin")
    array = np.asarray(np.memmap(tmp_path / "a.bin", np.uint8, "r", offset=8))
    before = mapped()
    assert array.sum() == (32 << 20) - 8
    assert mapped() - before > 24 << 20
    release(array[5:])
    assert mapped() - before < 8 << 20
    assert array[-1] == 1


@pytest.fixture(scope="module", params=[1, 4_000, 60_000])
def sharded(request: pytest.FixtureRequest, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A document a shard, some shards, and one of two; the tokenizer is the same."""
    folder = tmp_path_factory.mktemp("sharded") / "data"
    shutil.copytree(data_dir / "tokenizer", folder / "tokenizer")
    recipe = tiny_recipe(folder)
    recipe = tiny_recipe(folder, data=recipe.data.model_dump(mode="json") | {"shard_tokens": request.param})
    prepare(recipe, lambda line: None)
    return recipe


def sample(data: PreparedData, epoch: int) -> list[np.ndarray]:
    """Every window, read in one call and one at a time."""
    result = []
    for stream in data.streams(code_switch=True):
        windows = np.arange(stream.windows)
        shape = (stream.windows, stream.context)
        inputs, targets = np.empty(shape, np.int64), np.empty(shape, np.int64)
        counts = stream.sequences(windows, np.full(len(windows), epoch), inputs, targets)
        result += [inputs, targets, counts]
    return result


def test_samples_and_draws_are_those_of_one_file(recipe: Recipe, sharded: Recipe) -> None:
    whole, parts = open_data(recipe), open_data(sharded)
    for a, b in zip(sample(whole, epoch=1), sample(parts, epoch=1)):
        assert np.array_equal(a, b)
    assert whole.artefacts["codeswitch"].facts == parts.artefacts["codeswitch"].facts
    stores = [TokenStore(data.recipe.data.dir / "en" / "train") for data in (whole, parts)]
    maps = [WordMap(data.recipe.data.dir / "en" / "train.words") for data in (whole, parts)]
    assert stores[0].documents == stores[1].documents
    places = np.arange(0, len(stores[0]), 7)
    assert np.array_equal(*(words.ordinals(places) for words in maps))
    counts = [list(count_words(s, w, whole.tokenizer, sharded.data.dir)) for s, w in zip(stores, maps)]
    assert counts[0] == counts[1]


def test_shards_pass_verification_and_inspection(sharded: Recipe) -> None:
    data = open_data(sharded)
    verify_data(data, lambda line: None)
    lines: list[str] = []
    inspect(data, 3, None, lines.append)
    assert sum(line.startswith("--- sample") for line in lines) == 3


def test_each_shard_is_a_megatron_store(sharded: Recipe) -> None:
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    indices = find_shards(sharded.data.dir / "en" / "train", ".idx")
    limit = sharded.data.shard_tokens
    assert limit is not None
    documents: list[list[int]] = []
    for number, index in enumerate(indices):
        assert index.name == f"train-{number:05}-of-{len(indices):05}.idx"
        shard = indexed.IndexedDataset(str(index.with_suffix("")))
        lengths = shard.sequence_lengths
        assert lengths.sum() >= limit or number == len(indices) - 1
        assert lengths[:-1].sum() < limit
        documents += [shard[place].tolist() for place in range(len(shard))]
    whole = TokenStore(sharded.data.dir / "en" / "train")
    assert [token for document in documents for token in document] == whole.tokens[:].tolist()


def test_a_missing_shard_is_named(sharded: Recipe, tmp_path: Path) -> None:
    shutil.copytree(sharded.data.dir, tmp_path / "data")
    paths = find_shards(tmp_path / "data" / "en" / "train", ".idx")
    paths[0].unlink()
    with pytest.raises(UserError, match=paths[0].name):
        TokenStore(tmp_path / "data" / "en" / "train")
    with pytest.raises(UserError, match=paths[0].name):
        open_data(sharded.model_copy(update={"data": sharded.data.model_copy(update={"dir": tmp_path / "data"})}))


def test_another_shard_size_is_another_store(sharded: Recipe, tmp_path: Path) -> None:
    shutil.copytree(sharded.data.dir, tmp_path / "data")
    changed = sharded.data.model_copy(update={"dir": tmp_path / "data", "shard_tokens": None})
    recipe = sharded.model_copy(update={"data": changed})
    prepare(recipe, lambda line: None)
    assert [path.name for path in find_shards(tmp_path / "data" / "en" / "train", ".bin")] == ["train.bin"]
    assert not list((tmp_path / "data" / "en").glob("train-*"))
    open_data(recipe).verify()
