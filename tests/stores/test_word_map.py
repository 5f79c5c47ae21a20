"""The word map finds every word again, from any window."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign.errors import UserError
from prealign.stores.word_map import WordMap, WordMapWriter


def write(path: Path, documents: list[tuple[int, list[tuple[int, int]]]]) -> list[tuple[int, int]]:
    """Documents as (tokens, words); returns all words in corpus coordinates."""
    everything = []
    base = 0
    with WordMapWriter(path) as words:
        for tokens, spans in documents:
            starts, ends = np.array(spans, dtype=np.int64).reshape(-1, 2).T
            words.append(tokens, starts, ends)
            everything += [(base + a, base + b) for a, b in spans]
            base += tokens
    return everything


@st.composite
def documents(draw: st.DrawFn) -> list[tuple[int, list[tuple[int, int]]]]:
    result = []
    for _ in range(draw(st.integers(1, 4))):
        position, spans = 0, []
        for _ in range(draw(st.integers(0, 60))):
            start = position + draw(st.integers(0, 3))
            position = start + draw(st.integers(1, 12))
            spans.append((start, position))
        result.append((position + draw(st.integers(1, 3)), spans))
    return result


@given(documents(), st.data())
@settings(max_examples=150, deadline=None)
def test_between_finds_the_whole_words(tmp_path_factory: pytest.TempPathFactory, docs, data) -> None:
    path = tmp_path_factory.mktemp("w") / "x.words"
    words = write(path, docs)
    total = sum(tokens for tokens, _ in docs)
    word_map = WordMap(path)
    assert (word_map.tokens, word_map.words) == (total, len(words))
    for _ in range(5):
        begin = data.draw(st.integers(0, total - 1))
        end = data.draw(st.integers(begin + 1, total))
        starts, ends, ordinal, stop = word_map.between(begin, end)
        inside = [(a - begin, b - begin) for a, b in words if a >= begin and b <= end]
        assert list(zip(starts.tolist(), ends.tolist())) == inside
        assert ordinal == sum(a < begin for a, _ in words)
        cut = [a - begin for a, b in words if begin <= a < end < b]
        assert stop == (cut[0] if cut else end - begin)


def test_many_blocks(tmp_path: Path) -> None:
    """More tokens than are written at a time; ranks stay right across flushes."""
    count = 3_000_000
    starts = np.arange(0, count, 3)
    with WordMapWriter(tmp_path / "x.words") as words:
        for _ in range(2):
            words.append(count, starts, starts + 2)
    word_map = WordMap(tmp_path / "x.words")
    got, ends, ordinal, _ = word_map.between(count + 300_000, count + 300_007)
    assert ordinal == len(starts) + 100_000
    assert got.tolist() == [0, 3]
    assert ends.tolist() == [2, 5]
    assert (tmp_path / "x.words").stat().st_size / (2 * count) < 0.3  # bytes a token


def test_damage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.words"
    write(path, [(10, [(0, 2), (4, 5)])])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"x\.words"):
        WordMap(path)
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match="header"):
        WordMap(path)
