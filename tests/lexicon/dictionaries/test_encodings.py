"""Dictionaries in other encodings than UTF-8, and byte order marks."""

import json
from pathlib import Path

import pytest

from prealign.config.texts import DictionaryConfig
from prealign.errors import UserError
from prealign.lexicon.dictionaries import read_dictionary

_WIKTEXTRACT = json.dumps({"word": "dog", "lang_code": "en", "translations": [{"lang_code": "de", "word": "Hund"}]})
CONTENT = {
    "muse": "dog Hund\n",
    "tsv": "dog\tHund\n",
    "ding": "Hund :: dog\n",
    "json": '{"dog": ["Hund"]}',
    "jsonl": '{"word": "dog", "translations": ["Hund"]}\n',
    "wiktextract": _WIKTEXTRACT + "\n",
}


def pairs(path: Path, form: str) -> list[tuple[str, str]]:
    found = read_dictionary(DictionaryConfig(path=str(path), format=form), ["en"], {"de": ["de"]})
    return [(pair.source, pair.translation) for pair in found]


@pytest.mark.parametrize("form", CONTENT)
def test_a_byte_order_mark_is_no_part_of_a_word(tmp_path: Path, form: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(CONTENT[form], encoding="utf-8-sig")
    assert pairs(path, form) == [("dog", "Hund")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.parametrize("form", CONTENT)
def test_other_encodings_are_refused(tmp_path: Path, form: str, encoding: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(CONTENT[form], encoding=encoding)
    with pytest.raises(UserError, match=rf"list\.txt.*found {encoding.upper()} text"):
        pairs(path, form)
