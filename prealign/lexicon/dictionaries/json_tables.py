"""Tables in JSON: word -> translations, or word -> language -> translations; in one value or as JSON lines.

One value is a dict, or a list of records or ``[word, translations]``. A record (also a line) is ``{"word": ...,
"translations": ...}``, ``{"src_text": ..., "tgt_text": ...}``, or ``{"words": "word $ translation $ ..."}``.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prealign.errors import UserError
from prealign.lexicon.dictionaries.opening import decode, open_bytes, text_lines

_EXPECTED = (
    'expected {word: [translations]}, {word: {language: [translations]}}, [word, [translations]], {"word": ..., '
    '"translations": ...}, {"src_text": ..., "tgt_text": ...} or {"words": "word $ translation"}'
)


def read_json(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """(language code, word, translation, rank) of a JSON value; the code is empty where the table names none."""
    with open_bytes(path) as file:
        try:
            value = json.loads(decode(file.read(), str(path)))
        except ValueError as error:
            raise UserError(f"{path}: not JSON ({error}); expected one JSON value, or set format: jsonl") from None
    if isinstance(value, dict) and not is_record(value):
        for word, translations in value.items():
            yield from _rows(word, translations, str(path))
        return
    for number, record in enumerate(value if isinstance(value, list) else [value], start=1):
        yield from _record(record, f"{path}, item {number}")


def read_json_lines(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """The same of JSON lines."""
    for number, line in text_lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); expected one record a line") from None
        yield from _record(record, f"{path}, line {number}")


def is_record(value: Any) -> bool:
    """Whether a value is a record, not a table (in which "words" may be a word)."""
    match value:
        case {"src_text": str(), "tgt_text": str()} | {"words": str()} | {"word": str(), "translations": _}:
            return True
    return False


def _record(record: Any, where: str) -> Iterator[tuple[str, str, str, int]]:
    match record:
        case {"src_text": str(word), "tgt_text": str(translation)}:
            yield from _rows(word, [translation], where)
        case {"words": str(group)}:
            word, *translations = (part.strip() for part in group.split("$"))
            yield from _rows(word, translations, where)
        case {"word": str(word), "translations": translations}:
            yield from _rows(word, translations, where)
        case [str(word), translations]:
            yield from _rows(word, translations, where)
        case dict():
            for word, translations in record.items():
                yield from _rows(word, translations, where)
        case _:
            raise UserError(f"{where}: found {str(record)[:60]!r}; {_EXPECTED}")


def _rows(word: Any, translations: Any, where: str, code: str = "") -> Iterator[tuple[str, str, str, int]]:
    match translations:
        case str():
            yield code, word, translations, 0
        case list() if all(isinstance(translation, str) for translation in translations):
            for rank, translation in enumerate(translations):
                yield code, word, translation, rank
        case dict() if not code:
            for language, words in translations.items():
                yield from _rows(word, words, where, language)
        case _:
            raise UserError(f"{where}: found {word!r}: {str(translations)[:60]!r}; {_EXPECTED}")
