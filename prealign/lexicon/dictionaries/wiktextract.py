"""wiktextract's JSON lines (kaikki.org): entries of the source language with their tables of translations."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prealign.lexicon.dictionaries.opening import bad_line, open_bytes
from prealign.text.encoding import refuse_other_encodings


def read_wiktextract(path: Path, source_codes: list[str], codes: set[str]) -> Iterator[tuple[str, str, str, int]]:
    """(language code, word, translation, rank) for translations into the languages ``codes``.

    Lines without translations are not parsed; one line is in memory at a time. The rank counts a language's
    translations within an entry. A line that is not JSON is a bad one.
    """
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                refuse_other_encodings(line, str(path))
            if b'"translations"' not in line:
                continue
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                yield "", *bad_line(line.decode("utf-8", "replace"))
                continue
            if not isinstance(entry, dict) or entry.get("lang_code") not in source_codes:
                continue
            word = entry.get("word")
            if not isinstance(word, str):
                yield "", *bad_line(line.decode("utf-8", "replace"))
                continue
            seen: dict[str, int] = {}
            for translation in _translations(entry):
                code = translation.get("lang_code") or translation.get("code")
                if code in codes and word and isinstance(translation.get("word"), str) and translation["word"]:
                    rank = seen.get(code, 0)
                    seen[code] = rank + 1
                    yield code, word, translation["word"], rank


def _translations(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Those of the entry, then those of its senses."""
    senses = entry.get("senses")
    for holder in [entry, *(senses if isinstance(senses, list) else [])]:
        translations = holder.get("translations") if isinstance(holder, dict) else None
        for translation in translations if isinstance(translations, list) else []:
            if isinstance(translation, dict):
                yield translation
