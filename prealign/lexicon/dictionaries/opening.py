"""Opening dictionary files: plain or compressed, with one-line errors."""

import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from prealign.errors import UserError
from prealign.text.encoding import OPENERS, refuse_other_encodings

_OPENERS = {**OPENERS, ".dz": gzip.open}
COMPRESSED = frozenset(_OPENERS)


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, uncompressed by its suffix. What goes wrong while it is open becomes a `UserError`."""
    opener = _OPENERS.get(path.suffix, open)
    try:
        with opener(path, "rb") as file:
            yield cast(BinaryIO, file)
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{path}: found damaged compressed data ({error}); expected a whole file") from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: {reason}; expected a dictionary; mend languages.*.dictionaries") from None


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) of a UTF-8 file, without line ends; a byte order mark is skipped."""
    with open_bytes(path) as file:
        for number, raw in enumerate(file, start=1):
            yield number, decode(raw.rstrip(b"\r\n"), f"{path}, line {number}")


def decode(raw: bytes, where: str) -> str:
    """UTF-8 bytes as text, without a byte order mark; ``where`` names the place in the error."""
    refuse_other_encodings(raw, where)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = raw[error.start : error.end]
        raise UserError(f"{where}: found bytes {found!r} that are not UTF-8; expected UTF-8 text") from None
