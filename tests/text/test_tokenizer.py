"""Tokenizer: round trips, word boundaries, texts that break the engine behind it."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign.errors import UserError
from prealign.text.tokenizer import LONGEST_PIECE, Tokenizer, _without_long_pieces, read_ranks, train_tokenizer

TEXT = ["the cat sat on the mat, and the dog sat too. The end!\n", "Über größere Straßen ging's 1234 mal.", "кот и пёс"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(iter(TEXT * 20), 320)


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_round_trip(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_lengths[ids].sum() == len(text.encode())


def test_vocabulary(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 320
    assert tokenizer.end_of_document == 319
    assert len(tokenizer.encode(" the")) == 1  # merges were learnt


def test_trained_tokens_are_the_trainers_own() -> None:
    """Ranks taken from the merges give the encoding of the library that learnt them."""
    tokenizers = pytest.importorskip("tokenizers")
    from prealign.text.tokenizer import WORD_PATTERN

    reference = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(WORD_PATTERN), behavior="isolated")
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    reference.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, level])
    reference.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=319, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    reference.train_from_iterator(TEXT * 20, trainer)
    ours = train_tokenizer(iter(TEXT * 20), 320)
    for text in TEXT:
        pieces = [reference.decoder.decode([token]) for token in reference.encode(text).tokens]
        mine = [ours.decode([token]) for token in ours.encode(text)]
        assert mine == pieces


def test_special_tokens_in_text_are_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a<|endoftext|>b")
    assert tokenizer.end_of_document not in ids
    assert tokenizer.decode(ids) == "a<|endoftext|>b"


@pytest.mark.parametrize(
    "text",
    [
        " " * 1_000_000,
        "\n \t" * 400_000,
        "a" * 3_000_000,
        "word " + " " * 1_000_000 + "word",
        "x" * 20_000 + " " * 20_000,
    ],
    ids=["spaces", "mixed whitespace", "letters", "between words", "both"],
)
def test_long_runs(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.token_lengths[ids].sum() == len(text.encode())
    assert tokenizer.decode(ids[:50]) == text[: len(tokenizer.decode(ids[:50]))]


def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert np.array_equal(again.encode(TEXT[0]), tokenizer.encode(TEXT[0]))


def test_too_little_text_for_the_vocabulary() -> None:
    with pytest.raises(UserError, match="at most"):
        train_tokenizer(iter(["aaaa"]), 5000)


@pytest.mark.parametrize(
    ("content", "message"),
    [("YQ== x\n", "line 1"), ("!! 0\n", "line 1"), ("YQ== 0\nYg== 2\n", "gaps"), ("YQ== 0\n", "256")],
)
def test_bad_ranks(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.tiktoken"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_ranks(path)


@given(st.text(alphabet="ab1 ü", max_size=40), st.sampled_from(",.\n\u0928\u093f\U0001f600"), st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_text_is_encoded_whole_or_refused(words: str, other: str, place: int) -> None:
    partial = Tokenizer({bytes([byte]): byte for byte in range(256)}, r"\p{L}+|\p{N}+| ")
    assert partial.decode(partial.encode(words)) == words
    if other.isalpha():
        return
    with pytest.raises(UserError, match=r"data\.tokenizer\.pattern.*first lost"):
        partial.encode(words[:place] + other + words[place:])


def test_the_first_lost_characters_are_named() -> None:
    partial = Tokenizer({bytes([byte]): byte for byte in range(256)}, r" ?\p{L}+| ?\p{N}+")
    with pytest.raises(UserError, match=r"data\.tokenizer\.pattern.*first lost at '\. Thorpe', after 'Mr'"):
        partial.encode("Mr. Thorpe")
    with pytest.raises(UserError, match=r"first lost at '\U0001f600b', after '\u00fc'"):
        partial.encode("\u00fc\U0001f600b")


def test_an_invalid_pattern_names_its_key() -> None:
    with pytest.raises(UserError, match=r"^data\.tokenizer\.pattern: found '\['.*$"):
        Tokenizer({bytes([byte]): byte for byte in range(256)}, "[")


@pytest.mark.parametrize("run", ["a", "né", "\u0e2a\u0e27\u0e31", "!", " ", "漢"])
def test_a_long_run_does_not_hold_training_up(run: str) -> None:
    """A million characters without a break are trained on in seconds, and encoded in full."""
    text = [f"the garden of the evening number {number} sings" for number in range(300)]
    long = run * (1_000_000 // len(run))
    began = time.process_time()
    tokenizer = train_tokenizer(iter([*text, long, f"{text[0]} {long[:600]}x"]), 300)
    assert time.process_time() - began < 10
    shorter = long[:50_000]
    assert tokenizer.decode(tokenizer.encode(shorter)) == shorter


def test_what_is_no_long_run_is_trained_on_as_it_is() -> None:
    text = ["a" * LONGEST_PIECE, "b" * 300 + "1" + "b" * 300, "word " * 1000]
    assert [_without_long_pieces(each) for each in text] == text
    assert _without_long_pieces("x " + "a" * 900 + " y") == "x " + "a" * LONGEST_PIECE + " y"
