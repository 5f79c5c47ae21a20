"""Tables in JSON: word -> translations, or word -> language -> translations; in one value or as JSON lines.

One value is a dict, or a list of records or ``[word, translations]``. A record (also a line) is ``{"word": ...,
"translations": ...}``, ``{"src_text": ..., "tgt_text": ...}``, ``{"words": "word $ translation $ ..."}``, or, by codes
of languages, ``{"en": word, "de": translations}``, which may stand below ``"translation"``. Others are bad lines.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prealign.errors import UserError
from prealign.lexicon.dictionaries.opening import bad_line, decode, open_bytes, text_lines


def read_json(path: Path, source_codes: list[str], codes: set[str]) -> Iterator[tuple[str, str, str, int]]:
    """(language code, word, translation, rank) of a JSON value; the code is empty where the table names none.
    ``source_codes``, ``codes``: what the source language and the targets may be called in records by language."""
    with open_bytes(path) as file:
        try:
            value = json.loads(decode(file.read(), str(path)))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: not JSON ({error}); expected one JSON value, or set format: jsonl") from None
    if isinstance(value, dict) and not is_record(value) and _by_language(value, source_codes, codes) is None:
        for word, translations in value.items():
            yield from _rows(word, translations)
        return
    for record in value if isinstance(value, list) else [value]:
        yield from _record(record, source_codes, codes)


def read_json_lines(path: Path, source_codes: list[str], codes: set[str]) -> Iterator[tuple[str, str, str, int]]:
    """The same of JSON lines."""
    for _, line in text_lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            yield "", *bad_line(line)
            continue
        yield from _record(record, source_codes, codes)


def is_record(value: Any) -> bool:
    """Whether a value is a record, not a table (in which "words" may be a word)."""
    match value:
        case {"src_text": str(), "tgt_text": str()}:
            return True
        case {"words": str(group), **others}:
            return "$" in group or not others
        case {"word": str(), "translations": translations}:
            return not isinstance(translations, str) or len(value) == 2
    return False


def _record(record: Any, source_codes: list[str], codes: set[str]) -> Iterator[tuple[str, str, str, int]]:
    if (by_language := _by_language(record, source_codes, codes)) is not None:
        for word, code, words in by_language:
            yield from _rows(word, words, code)
        return
    match record:
        case {"src_text": str(word), "tgt_text": str(translation)}:
            yield from _rows(word, [translation])
        case {"words": str(group)}:
            word, *translations = (part.strip() for part in group.split("$"))
            yield from _rows(word, translations)
        case {"word": str(word), "translations": translations}:
            yield from _rows(word, translations)
        case [str(word), translations]:
            yield from _rows(word, translations)
        case dict():
            for word, translations in record.items():
                yield from _rows(word, translations)
        case _:
            yield "", *bad_line(json.dumps(record, ensure_ascii=False))


def _by_language(record: Any, source_codes: list[str], codes: set[str]) -> list[tuple[str, str, Any]] | None:
    """(word, code, translations) of a record that holds a word by a code of the source language and translations by
    codes of targets; None for another."""
    match record:
        case {"translation": dict() as languages} | dict(languages):
            words = [languages[code] for code in source_codes if isinstance(languages.get(code), str)]
            found = [(words[0], code, languages[code]) for code in sorted(codes & languages.keys()) if words]
            return found or None
    return None


def _rows(word: Any, translations: Any, code: str = "") -> Iterator[tuple[str, str, str, int]]:
    match translations:
        case str():
            yield code, word, translations, 0
        case None:
            yield code, word, "", 0
        case list() if all(isinstance(translation, str | None) for translation in translations):
            for rank, translation in enumerate(translations):
                yield code, word, translation or "", rank
        case dict() if not code:
            for language, words in translations.items():
                yield from _rows(word, words, language)
        case _:
            yield code, *bad_line(json.dumps({word: translations}, ensure_ascii=False))
