"""StarDict dictionaries: ``NAME.ifo`` (settings), ``NAME.idx[.gz]`` (headword, offset, size), ``NAME.dict[.dz]``."""

import html
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from prealign.errors import UserError
from prealign.lexicon.dictionaries.glosses import senses
from prealign.lexicon.dictionaries.opening import open_bytes, text_lines

_TEXT = "mlghx"
"""Plain text (m, l), Pango markup, HTML, XDXF; other lower-case types are pronunciations and the like."""
_NOT_TRANSLATION = re.compile(
    r"<(k|tr|i|co|ex|gr|abr|abbr|kref|sup|pos)(?: [^>]*)?>.*?</\1\s*>", re.DOTALL | re.IGNORECASE
)
_BREAK = re.compile(r"</?(?:br|p|div|li|ol|ul|def|dtrn|blockquote|h\d)\b[^>]*>", re.IGNORECASE)
_TAG = re.compile(r"<[^>]*>")


def stardict_files(path: Path) -> list[Path]:
    """Settings, index and data of a dictionary named by its ``.ifo``."""
    stem = path.name.removesuffix(".ifo")
    index = [path.with_name(stem + ".idx"), path.with_name(stem + ".idx.gz")]
    data = [path.with_name(stem + ".dict"), path.with_name(stem + ".dict.dz")]
    return [path, *(next((file for file in names if file.is_file()), names[0]) for names in (index, data))]


def read_stardict(path: Path) -> Iterator[tuple[str, str, int]]:
    """(headword, translation, rank) in the order of the data, which is read once from start to end."""
    _, index, data = stardict_files(path)
    settings = dict(line.split("=", 1) for _, line in text_lines(path) if "=" in line)
    if "wordcount" not in settings:
        raise UserError(f"{path}: found no 'wordcount='; expected a StarDict .ifo file")
    types = settings.get("sametypesequence", "")
    articles = sorted(_index(index, 8 if settings.get("idxoffsetbits") == "64" else 4))
    with open_bytes(data) as file:
        for offset, size, word in articles:
            file.seek(offset)
            raw = file.read(size)
            if len(raw) < size:
                raise UserError(f"{data}: found {offset + len(raw)} bytes; expected {offset + size} by {index}")
            lines = [line for kind, text in _fields(raw, types) for line in _lines(kind, text, word)]
            for rank, translation in enumerate(senses(lines)):
                yield word, translation, rank


def _index(path: Path, width: int) -> Iterator[tuple[int, int, str]]:
    with open_bytes(path) as file:
        raw = file.read()
    numbers = struct.Struct(">QI" if width == 8 else ">II")
    place = 0
    while place < len(raw):
        end = raw.find(b"\0", place)
        if end < 0 or end + 1 + numbers.size > len(raw):
            raise UserError(f"{path}: found a cut entry at byte {place}; expected a whole StarDict index")
        yield *numbers.unpack_from(raw, end + 1), raw[place:end].decode("utf-8", errors="replace")
        place = end + 1 + numbers.size


def _fields(raw: bytes, types: str) -> Iterator[tuple[str, str]]:
    """(type, text) of the textual fields of an article; upper-case types hold a size and binary data."""
    place, number = 0, 0
    while place < len(raw) and (number < len(types) or not types):
        kind = types[number] if types else chr(raw[place])
        place += not types
        number += 1
        last = bool(types) and number == len(types)
        if kind.isupper():
            size = len(raw) - place if last else int.from_bytes(raw[place : place + 4], "big") + 4
            end = place + size
        else:
            end = len(raw) if last else raw.find(b"\0", place)
            end = len(raw) if end < 0 else end
            if kind in _TEXT:
                yield kind, raw[place:end].rstrip(b"\0").decode("utf-8", errors="replace")
            end += not last
        place = end


def _lines(kind: str, text: str, word: str) -> list[str]:
    if kind in "ghx":
        text = html.unescape(_TAG.sub("", _BREAK.sub("\n", _NOT_TRANSLATION.sub("", text))))
    lines = [line.strip() for line in text.split("\n")]
    return [line for line in lines if line and line != word and not line.startswith(("/", "["))]
