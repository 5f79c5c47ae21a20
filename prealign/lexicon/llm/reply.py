"""Reading replies: strict about whole entries, tolerant about everything around them."""

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

MAX_TRANSLATION_LENGTH = 100
"""Characters; longer strings are explanations."""

_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_DECODER = json.JSONDecoder()


def same_word(word: str) -> str:
    """The form in which a word sent and a word received are compared."""
    return unicodedata.normalize("NFC", word).strip().lower()


def parse_reply(text: str, languages: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Translations in a reply: word (as `same_word` writes it) -> language -> translations, best first.

    Reads the JSON that the prompt asks for, also inside prose or a code fence, as a bare list, or as an object from
    word to translations. Of JSON that is cut off, or broken somewhere, the whole entries are read and the rest is left
    out: a translation that may be cut is never returned. A language that an entry does not mention is left out of it;
    one with null or an empty list has ``[]``. A word that comes twice has the translations of both entries.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for entry in _entries(_THOUGHT.sub("", text), languages):
        word = entry.get("word")
        if not isinstance(word, str):
            continue
        nested = entry.get("translations")
        values = nested if isinstance(nested, dict) else entry
        if isinstance(nested, list) and len(languages) == 1:
            values = {languages[0]: nested}
        for language in languages:
            if language in values and (translations := _translations(values[language])) is not None:
                known = found.setdefault(same_word(word), {}).setdefault(language, [])
                known += [translation for translation in translations if translation not in known]
    return found


def _entries(text: str, languages: Sequence[str]) -> Iterator[dict[str, Any]]:
    value = _first_value(text)
    if value is None:
        # cut off or broken: every object inside that is whole
        yield from (item for item in _whole_objects(text) if "word" in item)
        return
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
        if "word" in value:
            value = [value]
        elif lists:
            value = lists[0]
        else:  # from word to its translations
            one = languages[0] if len(languages) == 1 else None
            value = [
                {"word": word, "translations": {one: item} if one and not isinstance(item, dict) else item}
                for word, item in value.items()
            ]
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))


def _first_value(text: str) -> Any:
    """The JSON value that starts at the first brace or bracket; None when it is not whole."""
    start = re.search(r"[{\[]", text)
    if start is None:
        return None
    try:
        return _DECODER.raw_decode(text, start.start())[0]
    except (ValueError, RecursionError):
        return None


def _whole_objects(text: str) -> Iterator[dict[str, Any]]:
    place = text.find("{")
    while place >= 0:
        try:
            value, end = _DECODER.raw_decode(text, place)
            yield value
        except (ValueError, RecursionError):
            end = place + 1
        place = text.find("{", end)


def _translations(value: Any) -> list[str] | None:
    """Clean translations of one entry; None where the value is of another kind."""
    if value is None:
        return []
    if isinstance(value, str):
        value = re.split(r"[,;，、；]", value)
    if not isinstance(value, list):
        return None
    cleaned = [_clean(item) for item in value if isinstance(item, str)]
    return list(dict.fromkeys(item for item in cleaned if item))


def _clean(translation: str) -> str:
    """NFC, on one line, without control characters; empty where no letter is left or it is too long for a word."""
    text = unicodedata.normalize("NFC", translation)
    text = "".join(" " if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") else letter for letter in text)
    text = " ".join(text.split())
    has_letter = any(letter.isalpha() for letter in text)
    return text if has_letter and len(text) <= MAX_TRANSLATION_LENGTH and not text.startswith("#") else ""
