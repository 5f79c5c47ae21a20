"""Stores are built in parallel, in bounded memory, and go on where a killed build stopped."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign.data.contents import document_hash
from prealign.data.prepared import open_data
from prealign.errors import UserError
from prealign.preparation import text_stores
from prealign.preparation.text_stores import SeenDocuments, build_stores
from prealign.preparation.word_counts import count_words
from prealign.processes import in_child, ordered_map
from prealign.stores.codeswitch_map import build_codeswitch_map
from prealign.stores.sentences import sentence_marks
from prealign.stores.token_store import TokenStore
from prealign.stores.word_map import WordMap
from tests.conftest import SAMPLE_TEXT, tiny_recipe


def documents() -> Iterator[str]:
    for line in (SAMPLE_TEXT / "northanger_abbey.jsonl").open():
        yield json.loads(line)["text"]


def build(folder: Path, data_dir: Path, texts: Iterator[str], shard_tokens: int | None = None) -> dict[str, int]:
    tokenizer = open_data(tiny_recipe(data_dir)).tokenizer

    def split(digest: bytes) -> str:
        return "dev" if digest[0] < 26 else "train"

    return build_stores(texts, folder, tokenizer, 600, 0, split, shard_tokens=shard_tokens)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@given(st.lists(st.lists(st.integers(0, 60), max_size=40), max_size=12))
@settings(max_examples=100, deadline=None)
def test_every_document_is_new_once(batches: list[list[int]]) -> None:
    seen, known = SeenDocuments(), set()
    for batch in batches:
        new = seen.add([document_hash(str(number)) for number in batch])
        expected = []
        for number in batch:
            expected.append(number not in known)
            known.add(number)
        assert new.tolist() == expected


@pytest.mark.parametrize(("characters", "shard_tokens"), [(2_000, None), (50_000, None), (20_000, 9_000)])
def test_batches_and_interruptions_do_not_show(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, characters: int, shard_tokens: int | None
) -> None:
    """Built in one batch, in many on all cores, and in several attempts of which each broke off: the same bytes."""
    (tmp_path / "once").mkdir()
    facts = build(tmp_path / "once", data_dir, documents(), shard_tokens)
    monkeypatch.setattr(text_stores, "_BATCH_CHARACTERS", characters)
    monkeypatch.setattr(text_stores, "_SECONDS_BETWEEN_COMMITS", 0.0)
    folder = tmp_path / "often"
    folder.mkdir()
    assert build(folder, data_dir, documents(), shard_tokens) == facts
    assert contents(folder) == contents(tmp_path / "once")
    shutil.rmtree(folder)
    folder.mkdir()

    def breaking_off(after: int) -> Iterator[str]:
        for number, document in enumerate(documents()):
            if number == after:
                raise KeyboardInterrupt
            yield document

    total = sum(1 for _ in documents())
    for after in (total // 3, total // 2, total - 1):
        with pytest.raises(KeyboardInterrupt):
            build(folder, data_dir, breaking_off(after), shard_tokens)
        last = max(path.stem for path in folder.glob("train*.bin"))
        for name in (f"{last}.bin", f"{last}.words", "dev.lengths"):  # what was written after the last commit
            with (folder / name).open("ab") as file:
                file.write(b"half a batch")
    assert json.loads((folder / text_stores.PROGRESS).read_text())["batches"] > 1
    assert build(folder, data_dir, documents(), shard_tokens) == facts
    assert contents(folder) == contents(tmp_path / "once")


def test_counts_and_maps_do_not_depend_on_chunks(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_data(tiny_recipe(data_dir))
    store, words = TokenStore(data_dir / "en" / "train"), WordMap(data_dir / "en" / "train.words")
    whole = list(count_words(store, words, data.tokenizer, tmp_path))
    assert data.whole_lexicon is not None
    marks = sentence_marks(data.tokenizer)
    build_codeswitch_map(tmp_path / "whole.cs", store, words, data.whole_lexicon, marks)
    monkeypatch.setattr("prealign.stores.spans.CHUNK_TOKENS", 5003)
    assert list(count_words(store, words, data.tokenizer, tmp_path)) == whole
    build_codeswitch_map(tmp_path / "parts.cs", store, words, data.whole_lexicon, marks)
    assert (tmp_path / "parts.cs").read_bytes() == (tmp_path / "whole.cs").read_bytes()


def test_a_new_dictionary_rebuilds_the_maps_without_tokenising(data_dir: Path, tmp_path: Path) -> None:
    from prealign.preparation.pipeline import prepare

    shutil.copytree(data_dir, tmp_path / "data")
    languages = tiny_recipe(data_dir).model_dump()["languages"]
    languages["clone"]["dictionaries"] = [str(tmp_path / "en-clone.txt")]
    (tmp_path / "en-clone.txt").write_text("abbey convent\n")
    lines: list[str] = []
    prepare(tiny_recipe(tmp_path / "data", languages=languages), lines.append)
    # the tokenizer, both stores and the counts of words stay
    assert [line.split()[0] for line in lines] == ["kept"] * 4 + ["built"] * 4


def test_results_come_in_order_and_failures_come_through() -> None:
    assert list(ordered_map(lambda number: number * number, range(50))) == [number * number for number in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(lambda number: 1 // (number - 20), range(50)))
    assert list(ordered_map(np.sqrt, [])) == []


def test_work_in_a_child_comes_back_or_fails_as_it_does_here() -> None:
    parent = os.getpid()
    assert in_child(lambda: os.getpid() != parent)
    with pytest.raises(UserError, match="a file is missing"):
        in_child(lambda: refuse("a file is missing"))
    with pytest.raises(BrokenProcessPool):
        in_child(lambda: os.kill(os.getpid(), signal.SIGKILL))


def refuse(message: str) -> None:
    raise UserError(message)
