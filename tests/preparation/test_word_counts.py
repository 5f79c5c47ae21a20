"""Words are counted the same whether they fit in memory or go to disk."""

import re
from collections import Counter
from pathlib import Path

import pytest

from prealign.config import Recipe
from prealign.data.prepared import open_data
from prealign.preparation.word_counts import count_words, read_counts, write_counts
from prealign.stores.token_store import TokenStore
from prealign.stores.word_map import WordMap


@pytest.mark.parametrize("rows_in_memory", [1 << 20, 50])
def test_counts_are_those_of_the_text(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, rows_in_memory: int
) -> None:
    monkeypatch.setattr("prealign.stores.spans.CHUNK_TOKENS", 1000)
    tokenizer = open_data(recipe).tokenizer
    folder = recipe.data.dir / "en"
    store, words = TokenStore(folder / "train"), WordMap(folder / "train.words")
    counts = list(count_words(store, words, tokenizer, tmp_path, rows_in_memory))
    assert any(tmp_path.iterdir()) == (rows_in_memory == 50)

    text = tokenizer.decode(store.tokens).replace("<|endoftext|>", "\n")
    written = Counter(re.findall(r"[^\W\d_]+", text))
    expected: Counter[str] = Counter()
    for word, count in written.items():
        expected[word.lower()] += count
    assert {word: count for word, count, _ in counts} == expected
    assert counts == sorted(counts, key=lambda item: (-item[1], item[0]))
    case = {word: usual for word, _, usual in counts}
    assert (case["catherine"], case["the"], case["i"]) == (1, 0, 1)


def test_counts_on_disk(tmp_path: Path) -> None:
    counts = [("the", 3, 0), ("i", 2, 1)]
    assert write_counts(tmp_path / "words.tsv", counts) == (2, 5)
    assert list(read_counts(tmp_path / "words.tsv")) == counts
