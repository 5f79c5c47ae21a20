"""Word spans agree with the words of the text."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign.text.tokenizer import Tokenizer, train_tokenizer
from prealign.text.words import word_spans

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(iter(["He plays the piano well. The piano's keys: größer, пёс! " * 30]), 290)


def words_of(text: str) -> list[str]:
    """Maximal runs of letters and marks, found character by character."""
    words, run = [], ""
    for character in [*text, " "]:
        if unicodedata.category(character)[0] in "LM":
            run += character
        elif run:
            words.append(run)
            run = ""
    return words


@given(st.text(alphabet=st.sampled_from("aB é\u0301п猫.,'-1 \n\t𝒳")) | st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_every_word_of_the_text_is_found(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    starts, ends, skipped = word_spans(text, tokenizer.token_lengths[ids])
    assert skipped == 0  # the default pattern puts a token boundary at every word edge
    found = [tokenizer.decode(ids[a:b]) for a, b in zip(starts, ends)]
    assert [word.removeprefix(" ") for word in found] == words_of(text)
    assert (starts[1:] >= ends[:-1]).all()


def test_space_belongs_to_the_word_only_as_part_of_its_first_token(tokenizer: Tokenizer) -> None:
    text = "He plays,plays  plays\nplays"
    ids = tokenizer.encode(text)
    starts, ends, _ = word_spans(text, tokenizer.token_lengths[ids])
    assert [tokenizer.decode(ids[a:b]) for a, b in zip(starts, ends)] == ["He", " plays", "plays", " plays", "plays"]


def test_a_foreign_pattern_loses_words_and_counts_them() -> None:
    foreign = Tokenizer({bytes([i]): i for i in range(256)} | {b"'s": 256}, GPT2_PATTERN)
    text = "it's Anna's"
    ids = foreign.encode(text)
    starts, ends, skipped = word_spans(text, foreign.token_lengths[ids])
    assert skipped == 2  # the letter of each 's lies inside a token
    assert [foreign.decode(ids[a:b]) for a, b in zip(starts, ends)] == [
        "it",
        "Anna",
    ]  # bytes alone: the space is a token


def test_empty_text() -> None:
    starts, ends, skipped = word_spans("", np.empty(0, np.int32))
    assert (len(starts), len(ends), skipped) == (0, 0, 0)
