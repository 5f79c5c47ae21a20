"""FreeDict's dictionaries for the dict server: ``NAME.index`` and ``NAME.dict`` or ``NAME.dict.dz``.

An index line is ``headword<tab>offset<tab>length`` with base-64 numbers. An article is the headword with pronunciation
and grammar on its first line, then translations on lines that are not indented; examples, notes and references are.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from prealign.errors import UserError
from prealign.lexicon.dictionaries.glosses import senses
from prealign.lexicon.dictionaries.opening import bad_line, decode, open_bytes, text_lines

_DIGITS = {
    digit: value for value, digit in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
}
_AFTER_HEADWORD = re.compile(r"\s*[/<\[(].*", re.DOTALL)
_EXAMPLE_OR_REFERENCE = re.compile(r'\s|"|(?:see|synonyms?|antonyms?|note)\b.*:', re.IGNORECASE)


def dictd_files(path: Path) -> list[Path]:
    """Index and data of a dictionary named by either of them."""
    stem = path.name.removesuffix(".dz").removesuffix(".dict").removesuffix(".index")
    data = [path.with_name(stem + ".dict.dz"), path.with_name(stem + ".dict")]
    return [path.with_name(stem + ".index"), next((file for file in data if file.is_file()), data[0])]


def read_dictd(path: Path) -> Iterator[tuple[str, str, int]]:
    """(headword, translation, rank) in the order of the data, which is read once from start to end."""
    index, data = dictd_files(path)
    articles = sorted(_index(index))
    where, article = (-1, -1), ""
    with open_bytes(data) as file:
        for offset, length, word in articles:
            if offset < 0:
                yield bad_line(word)
                continue
            if word.startswith("00database") or word.startswith("00-database"):
                continue
            if (offset, length) != where:
                file.seek(offset)
                raw = file.read(length)
                if len(raw) < length:
                    raise UserError(f"{data}: found {offset + len(raw)} bytes; expected {offset + length} by {index}")
                where, article = (offset, length), decode(raw, f"{data}, byte {offset}")
            first, *rest = article.split("\n")
            headword = _AFTER_HEADWORD.sub("", first).strip()
            lines = [line for line in rest if line and not _EXAMPLE_OR_REFERENCE.match(line)]
            for rank, translation in enumerate(senses(lines)):
                yield headword if _letters(headword) == _letters(word) else word, translation, rank


def _index(path: Path) -> Iterator[tuple[int, int, str]]:
    for _, line in text_lines(path):
        columns = line.split("\t")
        try:
            yield _number(columns[1]), _number(columns[2]), columns[3] if len(columns) > 3 else columns[0]
        except (IndexError, KeyError):
            yield -1, -1, line


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 64 + _DIGITS[digit]
    return value


def _letters(word: str) -> str:
    return "".join(filter(str.isalnum, word.lower()))
