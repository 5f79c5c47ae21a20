"""Opening dictionary files: plain or compressed, with one-line errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from prealign.errors import UserError
from prealign.text.encoding import DAMAGED, open_uncompressed, refuse_other_encodings

BAD_LINE = -1
"""In place of a rank, with the line in place of the headword."""
_SHOWN = 60


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, uncompressed by its suffix. What goes wrong while it is open becomes a `UserError`."""
    try:
        with open_uncompressed(path) as file:
            yield file
    except DAMAGED as error:
        raise UserError(f"{path}: found damaged compressed data ({error}); expected a whole file") from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: {reason}; expected a dictionary; mend languages.*.dictionaries") from None


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) of a UTF-8 file, without line ends; a byte order mark is skipped. Bytes that are not UTF-8 become
    U+FFFD, which is in no word: what they stand in is left out and counted."""
    with open_bytes(path) as file:
        for number, raw in enumerate(file, start=1):
            if number == 1:
                refuse_other_encodings(raw, f"{path}, line {number}")
            yield number, raw.rstrip(b"\r\n").decode("utf-8-sig" if number == 1 else "utf-8", "replace")


def bad_line(line: str) -> tuple[str, str, int]:
    """What a reader gives for a line that is not as its format has it: it is left out, counted and shown."""
    return line.strip()[:_SHOWN], "", BAD_LINE


def decode(raw: bytes, where: str) -> str:
    """UTF-8 bytes as text, without a byte order mark; ``where`` names the place in the error."""
    refuse_other_encodings(raw, where)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = raw[error.start : error.end]
        raise UserError(f"{where}: found bytes {found!r} that are not UTF-8; expected UTF-8 text") from None
