"""Where sentences start, and what that means for the capitals of switched words."""

from pathlib import Path

import numpy as np
import pytest

from prealign.config import Recipe
from prealign.data.prepared import open_data
from prealign.preparation.pipeline import prepare
from prealign.stores.sentences import Before, sentence_marks, start_sentences
from tests.conftest import tiny_recipe


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ("I", True),
        ("so am I", False),
        ("It is. I", True),
        ('He said: "I', True),
        ('Well," said she, "I', False),
        ('"Well!" I', True),
        ("(as I", False),
        ("Mary (I", False),
        ("Gone?)\n\nI", True),
        ("wrapped lines\nI", False),
        ("A title\n\nI", True),
        ("one -- I", False),
    ],
)
def test_starts_of_sentences(recipe: Recipe, text: str, starts: bool) -> None:
    tokenizer = open_data(recipe).tokenizer
    tokens = tokenizer.encode(text)
    place = np.array([len(tokenizer.encode(text[: text.rindex("I")].rstrip(" ")))])
    assert start_sentences(tokens, place, sentence_marks(tokenizer)).tolist() == [starts]


def test_a_document_starts_a_sentence(recipe: Recipe) -> None:
    tokenizer = open_data(recipe).tokenizer
    marks = sentence_marks(tokenizer)
    assert marks[tokenizer.end_of_document] == Before.START
    tokens = np.concatenate((tokenizer.encode("no end"), [tokenizer.end_of_document], tokenizer.encode("I")))
    assert start_sentences(tokens, np.array([len(tokens) - 1]), marks).tolist() == [True]


def test_capitals_that_belong_to_the_word_are_not_carried_over(tmp_path: Path, recipe: Recipe) -> None:
    """English writes "I" and "English" with capitals wherever they stand; German has its own."""
    text = 'I say what I said in the English garden. I sleep. "I do," said Mary, "but I too." The end of The Garden.'
    (tmp_path / "en.txt").write_text("\n\n\n".join([text, *(f"the garden is Number {number}" for number in range(80))]))
    (tmp_path / "de.txt").write_text("\n\n\n".join(str(number) * 9 for number in range(80)))
    (tmp_path / "en-de.tsv").write_text("I\tich\nEnglish\tenglisch\ngarden\tGarten\nthe\tder\nMary\tMaria\n")
    german = {"tokens": 10_240, "text": {"files": [str(tmp_path / "de.txt")]}}
    german["dictionaries"] = [str(tmp_path / "en-de.tsv")]
    changed = tiny_recipe(
        tmp_path / "data",
        languages={"en": {"tokens": 10_240, "text": {"files": [str(tmp_path / "en.txt")]}}, "de": german},
        data={
            "tokenizer": {"ranks": str(recipe.data.dir / "tokenizer" / "ranks.tiktoken"), "vocab_size": 600},
            "heldout_fraction": 0.1,
        },
        model={"context": 128},
        codeswitch={"ratio": 0.999999},
    )
    prepare(changed, lambda line: None)
    data = open_data(changed)
    stream = data.streams(code_switch=True)[0]
    shape = (stream.windows, 128)
    inputs, targets = np.empty(shape, np.int64), np.empty(shape, np.int64)
    stream.sequences(np.arange(stream.windows), np.zeros(stream.windows, np.int64), inputs, targets)
    shown = "".join(data.tokenizer.decode(row) for row in inputs)
    expected = 'Ich say what ich said in der englisch Garten. Ich sleep. "Ich do," said Maria, "but ich too."'
    assert f"{expected} Der end of Der Garten." in shown
