"""Switched text as a reader of each language sees it: case, signs, spaces and whole characters."""

from pathlib import Path

import numpy as np
import pytest

from prealign.config import Recipe
from prealign.data.prepared import open_data
from prealign.preparation.pipeline import prepare
from tests.conftest import tiny_recipe

ENGLISH = "The garden: \"Evening, WOMAN!\" (He sold the garden's street.)\nBig gardens; big  garden — I don't go away."
SWITCHED = {
    "de": (
        "the der, garden Garten, evening Abend, woman Frau, he er, street Straße, big groß, don anziehen, s Es",
        "Der Garten: \"Abend, FRAU!\" (Er sold der Garten's Straße.)\nGroß gardens; groß  Garten — I don't go away.",
    ),
    "ru": (
        "the тот, garden сад, evening ве́чер, woman женщина, he он, street улица, big большой, sold [v] продал",
        "Тот сад: \"Вечер, ЖЕНЩИНА!\" (Он продал тот сад's улица.)\nБольшой gardens; большой  сад — I don't go away.",
    ),
    "zh": (
        "garden 花园, evening 晚上, woman 女人, he 他, street 街, big 大, big Groß, sold 卖",
        "The花园: \"晚上,女人!\" (他卖 the花园's街.)\n大 gardens;大 花园 — I don't go away.",
    ),
    "ar": (
        "the ال, garden حَدِيقة, evening مساء, woman امرأة, he هو, street شارع, big كبير, sold \u202bباع\u202c",
        "ال حديقة: \"مساء, امرأة!\" (هو باع ال حديقة's شارع.)\nكبير gardens; كبير  حديقة — I don't go away.",
    ),
}
"""A dictionary, and the text in which every word that it has is replaced."""


def four_languages(tmp_path: Path, recipe: Recipe, language: str) -> Recipe:
    (tmp_path / "en.txt").write_text("\n\n".join([ENGLISH, *(f"Held out {number}, a woman" for number in range(60))]))
    (tmp_path / "target.txt").write_text("\n\n".join(str(number) * 9 for number in range(40)))
    dictionary = tmp_path / f"en-{language}.tsv"
    dictionary.write_text("\n".join(pair.replace(" ", "\t", 1) for pair in SWITCHED[language][0].split(", ")))
    target = {"tokens": 10_240, "text": {"files": [str(tmp_path / "target.txt")]}, "dictionaries": [str(dictionary)]}
    return tiny_recipe(
        tmp_path / "data",
        languages={"en": {"tokens": 10_240, "text": {"files": [str(tmp_path / "en.txt")]}}, language: target},
        data={
            "tokenizer": {"ranks": str(recipe.data.dir / "tokenizer" / "ranks.tiktoken"), "vocab_size": 600},
            "heldout_fraction": 0.1,
        },
        model={"context": 256},
        codeswitch={"ratio": 0.999999},
    )


@pytest.mark.parametrize("language", SWITCHED)
def test_every_word_switched_reads_right(tmp_path: Path, recipe: Recipe, language: str) -> None:
    changed = four_languages(tmp_path, recipe, language)
    prepare(changed, lambda line: None)
    data = open_data(changed)
    stream = data.streams(code_switch=True)[0]
    inputs, targets = np.empty((1, 256), np.int64), np.empty((1, 256), np.int64)
    stream.sequences(np.array([0]), np.array([0]), inputs, targets)
    assert SWITCHED[language][1] in data.tokenizer.decode(inputs[0])
