"""The bijection of word types: one to one on every text, keeps all but the words."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign.errors import UserError
from prealign.text.clone_words import CloneWords
from prealign.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer({bytes([i]): i for i in range(256)})
WORDS = ["a", "i", "the", "cat", "dog", "owl", "fox", "emma", "anne", "lady", "straße", "große", "naïve", "piano"]
WORDS += ["garden", "кот", "пёс", "да", "où", "ὀδός", "οδος", "这", "那", "ﬁn", "ǆep"]
CLONE = CloneWords.draw([(word, int(word in ("emma", "anne"))) for word in WORDS], TOKENIZER, seed=3)

texts = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.one_of(
            st.sampled_from(WORDS).flatmap(lambda w: st.sampled_from([w, w.capitalize(), w.upper(), w.swapcase()])),
            st.sampled_from([" ", ", ", "\n\n", "'", "1", "\u0301", ""]),
        ),
        max_size=20,
    ).map("".join),
)


@given(texts)
@settings(max_examples=500, deadline=None)
def test_round_trip(text: str) -> None:
    clone = CLONE.to_clone(text)
    assert CLONE.to_original(clone) == text
    assert CLONE.to_clone(CLONE.to_original(text)) == text


def test_words_change_places() -> None:
    assert sorted(CLONE.table) == sorted(CLONE.table.values())
    assert sum(word != clone for word, clone in CLONE.table.items()) > len(CLONE.table) / 3
    assert "straße" not in CLONE.table  # STRASSE does not lead back
    other = CloneWords.draw([(word, 0) for word in WORDS], TOKENIZER, seed=4)
    assert other.table != CLONE.table


def test_case_and_everything_else_stay() -> None:
    clone = CLONE.table["cat"]
    assert (
        CLONE.to_clone('"Cat, CAT" - 2 cats\ncat cAt')
        == f'"{clone.capitalize()}, {clone.upper()}" - 2 cats\n{clone} cAt'
    )


def test_words_keep_their_number_of_tokens() -> None:
    for word, clone in CLONE.table.items():
        assert len(TOKENIZER.encode(" " + word)) == len(TOKENIZER.encode(" " + clone))


def test_save_and_load(tmp_path: Path) -> None:
    CLONE.save(tmp_path / "words.tsv")
    assert CloneWords.load(tmp_path / "words.tsv").table == CLONE.table
    for broken in ("a\tb\n", "a\n", "a\tb\nb\tb\n"):
        (tmp_path / "words.tsv").write_text(broken)
        with pytest.raises(UserError, match="no bijection"):
            CloneWords.load(tmp_path / "words.tsv")
