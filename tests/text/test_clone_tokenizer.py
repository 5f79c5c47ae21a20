"""Text of several vocabulary blocks: shown, and read back to the same ids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign.text.clone_tokenizer import CloneTokenizer
from prealign.text.clone_words import CloneWords
from prealign.text.tokenizer import train_tokenizer
from tests.text.clone_text import encode_shown

BASE = train_tokenizer(iter(["the cat sat on the mat, and the dog sat too. The end!\n\n"] * 20), 280)
V = BASE.vocab_size
WORDS = ["the", "cat", "dog", "mat", "sat", "end"]
LEVELS = {"second": CloneWords.draw([(word, 0) for word in WORDS], BASE, seed=1)}
TOKENIZER = CloneTokenizer(BASE, ["clone", "second"], LEVELS)
LANGUAGES = ["en", "clone", "second"]

texts = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="a ⟦⟧:<|>\n.", max_size=30),
    st.lists(st.sampled_from([" the", " dog", "\n\n", "The", ", ", " ", "⟦", "⟧", "clone:", "<|endoftext|>"])).map(
        "".join
    ),
)


@given(st.lists(st.tuples(texts, st.sampled_from(LANGUAGES)), max_size=5))
@settings(max_examples=500, deadline=None)
def test_documents_round_trip(documents: list[tuple[str, str]]) -> None:
    parts = []
    for text, language in documents:
        parts += [TOKENIZER.encode(text, language), np.array([LANGUAGES.index(language) * V + V - 1])]
    ids = np.concatenate([*parts, np.empty(0, np.int64)])
    assert encode_shown(TOKENIZER, TOKENIZER.decode(ids)).tolist() == ids.tolist()


@given(
    st.lists(
        st.tuples(st.sampled_from(["", " "]), st.sampled_from([*WORDS, "hello", "The"]), st.integers(0, 2)), max_size=12
    ),
    st.lists(st.sampled_from([",", ".\n\n", "\n \n", "'", " -", " 12", "⟦", "⟧"]), min_size=12, max_size=12),
)
@settings(max_examples=500, deadline=None)
def test_switched_text_round_trips(words: list[tuple[str, str, int]], between: list[str]) -> None:
    """Words of any block amid English, as code-switching leaves them: a word stands alone after what is no letter."""
    text, blocks = "", []
    for (space, word, block), gap in zip(words, between):
        blocks.append((len(text.encode()), len((text + space + word).encode()), block))
        text += space + word + gap
    local = BASE.encode(text).astype(np.int64)
    ends = np.cumsum(BASE.token_lengths[local])
    ids = local.copy()
    for first, last, block in blocks:
        ids[(ends > first) & (ends <= last)] += V * block
    assert encode_shown(TOKENIZER, TOKENIZER.decode(ids)).tolist() == ids.tolist()


@given(texts)
@settings(max_examples=200, deadline=None)
def test_text_without_clones_is_the_tokenizers(text: str) -> None:
    ids = TOKENIZER.encode(text, "en")
    assert ids.tolist() == BASE.encode(text).tolist()
    assert TOKENIZER.decode(ids) == "".join({"⟦": "⟦⟦", "⟧": "⟦⟧"}.get(c, c) for c in text)


def test_how_it_looks() -> None:
    ids = np.concatenate(
        [TOKENIZER.encode("The", "en"), TOKENIZER.encode(" dog", "clone"), TOKENIZER.encode(" sat", "en")]
    )
    assert TOKENIZER.decode(ids) == "The ⟦clone:dog⟧ sat"
    assert TOKENIZER.decode(TOKENIZER.encode("a dog, a cat", "clone")) == "⟦clone:a dog, a cat⟧"
    own = LEVELS["second"].table["dog"]
    assert TOKENIZER.decode(TOKENIZER.encode("the dog", "second")).endswith(f" {own}⟧")
    assert TOKENIZER.decode([V - 1, 2 * V - 1, V + 97]) == "⟦<|endoftext|>⟧⟦clone:⟦<|endoftext|>⟧a⟧"
    assert TOKENIZER.decode([]) == ""


def test_ids_outside_the_vocabulary() -> None:
    with pytest.raises(ValueError, match="expected 0 to 839"):
        TOKENIZER.decode([0, 840])
