"""Facts of languages: defaults by name, overridden in the recipe, inherited by clones."""

import re
from pathlib import Path

import pytest

from prealign.config.languages import LANGUAGE_TRAITS
from prealign.errors import UserError
from tests.conftest import tiny_recipe

TEXT = {"files": ["x.txt"]}


def test_defaults_overrides_and_clones() -> None:
    languages = {
        "en": {"tokens": 1, "text": TEXT, "leading_words": ["to"]},
        "zh": {"tokens": 1, "text": TEXT},
        "zh-Hant": {"tokens": 1, "text": TEXT, "word_length": [1, 4]},
        "el": {"tokens": 1, "text": TEXT, "scripts": ["Greek"], "dictionaries": ["en-el.txt"]},
        "clone": {"tokens": 1, "clone_of": "en"},
    }
    recipe = tiny_recipe(Path("data"), languages=languages)
    chinese = recipe.languages["zh"]
    assert (chinese.scripts, chinese.space_prefix, chinese.cased, chinese.segmenter) == (["Han"], False, False, "jieba")
    assert recipe.languages["zh-Hant"].word_length == (1, 4)
    assert recipe.languages["zh-Hant"].scripts == ["Han"]
    assert recipe.languages["clone"].leading_words == ["to"]
    greek = recipe.languages["el"]
    assert (greek.scripts, greek.space_prefix, greek.cased) == (["Greek"], True, True)
    assert greek.dictionaries[0].path == "en-el.txt"


@pytest.mark.parametrize("name", LANGUAGE_TRAITS)
def test_listed_facts_are_valid(name: str) -> None:
    languages = {"en": {"tokens": 1, "text": TEXT}, name: {"tokens": 1, "text": TEXT}}
    language = tiny_recipe(Path("data"), languages=languages).languages[name]
    assert language.scripts
    assert name in language.codes


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"scripts": ["Latn2"]}, "languages.de.scripts: found 'Latn2'"),
        ({"dictionaries": [{"path": "x", "fromat": "tsv"}]}, "fromat: unknown key; did you mean 'format'?"),
        ({"dictionaries": [{"path": "x", "format": "word2word"}]}, "found 'word2word'"),
    ],
)
def test_errors(facts: dict, message: str) -> None:
    languages = {"en": {"tokens": 1, "text": TEXT}, "de": {"tokens": 1, "text": TEXT} | facts}
    with pytest.raises(UserError, match=re.escape(message)):
        tiny_recipe(Path("data"), languages=languages)
