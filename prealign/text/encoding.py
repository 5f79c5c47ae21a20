"""Bytes of text files: compressed or not, and in another encoding than UTF-8, told by its byte order mark."""

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

from prealign.errors import UserError

_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


_MAGIC = {b"\x1f\x8b": ".gz", b"\xfd7zXZ": ".xz", b"BZh": ".bz2", b"\x28\xb5\x2f\xfd": ".zst"}


def _open_zstandard(path: Path) -> BinaryIO:
    import pyarrow

    return cast(BinaryIO, io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"), 1 << 20))


_OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".dz": gzip.open,
    ".xz": lzma.open,
    ".bz2": bz2.open,
    ".zst": _open_zstandard,
}
COMPRESSED = frozenset(_OPENERS)
DAMAGED = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)
"""What reading damaged compressed data raises, beside `OSError`."""


def open_uncompressed(path: Path) -> BinaryIO:
    """Open a file for reading bytes, uncompressed by its suffix. Raises `OSError`, and `DAMAGED` later."""
    opener = _OPENERS.get(path.suffix.lower())
    return cast(BinaryIO, path.open("rb") if opener is None else opener(path))


def refuse_other_encodings(head: bytes, where: str) -> None:
    """Raise `UserError` when a file's first bytes are not those of UTF-8 text: another byte order mark, a compressed
    file, zero bytes. ``where`` names it."""
    for mark, encoding in _MARKS.items():  # that of UTF-32-LE begins with that of UTF-16-LE
        if head.startswith(mark):
            raise UserError(
                f"{where}: found {encoding} text (by its byte order mark); expected UTF-8; convert it, as with "
                f"'iconv -f {encoding} -t UTF-8'"
            )
    for magic, suffix in _MAGIC.items():
        if head.startswith(magic):
            raise UserError(f"{where}: found a compressed file; expected text; give it a name that ends in {suffix}")
    if head.count(0) > len(head) // 4:
        raise UserError(
            f"{where}: found zero bytes, {head.count(0)} among the first {len(head)}, as in UTF-16 without a byte "
            f"order mark or a binary file; expected UTF-8 text"
        )
