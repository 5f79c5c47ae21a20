"""The token store, alone and against megatron-core's."""

import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from prealign.errors import UserError
from prealign.stores.token_store import StoreWriter, TokenStore, token_dtype

DOCUMENTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [65_000]]


def write(prefix: Path, vocab_size: int = 65_400, documents: list[list[int]] | None = None) -> TokenStore:
    with StoreWriter(prefix, vocab_size) as store:
        for document in DOCUMENTS if documents is None else documents:
            store.append(np.array(document))
    return TokenStore(prefix)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_499, np.uint16), (65_500, np.int32), (300_000, np.int32)])
def test_round_trip(tmp_path: Path, vocab_size: int, dtype: type) -> None:
    assert token_dtype(vocab_size) is dtype
    store = write(tmp_path / "s", vocab_size)
    assert store.tokens.dtype == dtype
    assert store.tokens.tolist() == [token for document in DOCUMENTS for token in document]
    assert store.lengths.tolist() == [3, 1, 5, 1]
    assert store.documents == 4


def test_empty_store(tmp_path: Path) -> None:
    store = write(tmp_path / "s", documents=[])
    assert len(store) == 0
    assert store.documents == 0


@pytest.mark.parametrize("vocab_size", [1000, 70_000])
def test_megatron_reads_ours_and_we_read_theirs(tmp_path: Path, vocab_size: int) -> None:
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    documents = [[1, 2, 3], [999], [5, 6, 7, 8]]
    write(tmp_path / "ours", vocab_size, documents)
    theirs = indexed.IndexedDataset(str(tmp_path / "ours"))
    assert [theirs[i].tolist() for i in range(len(theirs))] == documents
    assert theirs.document_indices.tolist() == [0, 1, 2, 3]
    assert theirs[0].dtype == token_dtype(vocab_size)

    import torch

    builder = indexed.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=indexed.DType.optimal_dtype(vocab_size))
    for document in documents:
        builder.add_item(torch.tensor(document))
        builder.end_document()
    builder.finalize(str(tmp_path / "theirs.idx"))
    assert (tmp_path / "theirs.bin").read_bytes() == (tmp_path / "ours.bin").read_bytes()
    assert (tmp_path / "theirs.idx").read_bytes() == (tmp_path / "ours.idx").read_bytes()
    assert TokenStore(tmp_path / "theirs").tokens.tolist() == [token for document in documents for token in document]


def test_megatron_documents_of_several_sequences(tmp_path: Path) -> None:
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    import torch

    builder = indexed.IndexedDatasetBuilder(str(tmp_path / "s.bin"), dtype=np.int32)
    builder.add_document(torch.tensor([1, 2, 3, 4, 5]), [2, 3])
    builder.add_document(torch.tensor([6]), [1])
    builder.finalize(str(tmp_path / "s.idx"))
    store = TokenStore(tmp_path / "s")
    assert store.tokens.tolist() == [1, 2, 3, 4, 5, 6]
    assert store.lengths.tolist() == [2, 3, 1]
    assert store.documents == 2


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("s.idx", lambda data: b"XX" + data[2:], "MMIDIDX"),
        ("s.idx", lambda data: data[:-3], "expected"),
        ("s.idx", lambda data: data[:20], "MMIDIDX"),
        ("s.idx", lambda data: data[:9] + b"\x07" + data[10:], "version"),
        ("s.bin", lambda data: data[:-1], "by its index"),
        ("s.bin", lambda data: data + b"\0\0", "by its index"),
    ],
)
def test_damage_is_refused_with_the_file_named(tmp_path: Path, name: str, damage, message: str) -> None:
    write(tmp_path / "s")
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        TokenStore(tmp_path / "s")
    assert name in str(caught.value)


def test_missing_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"prepare\.py"):
        TokenStore(tmp_path / "nothing")


def test_ten_billion_tokens_open_at_constant_cost(tmp_path: Path) -> None:
    """A sparse file: less than a second and a few megabytes, as for a small one."""
    tokens = 10_000_000_000
    with (tmp_path / "t.bin").open("wb") as file:
        file.truncate(2 * tokens)
    documents = np.full(5, tokens // 5, dtype=np.int64)
    assert documents[0] < 2**31
    with (tmp_path / "t.idx").open("wb") as file:
        file.write(struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, 8, 5, 6))
        file.write(documents.astype("<i4").tobytes())
        file.write(((np.cumsum(documents) - documents) * 2).astype("<i8").tobytes())
        file.write(np.arange(6, dtype="<i8").tobytes())
    tracemalloc.start()
    begin = time.process_time()
    store = TokenStore(tmp_path / "t")
    assert len(store) == tokens
    assert store.tokens[tokens - 3 :].tolist() == [0, 0, 0]
    assert time.process_time() - begin < 1
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
