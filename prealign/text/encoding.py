"""Text in another encoding than UTF-8, told by its byte order mark."""

import bz2
import codecs
import gzip
import lzma
from pathlib import Path

from prealign.errors import UserError

_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


def refuse_other_encodings(head: bytes, where: str) -> None:
    """Raise `UserError` when a file's first bytes are the byte order mark of UTF-16 or UTF-32; ``where`` names it."""
    for mark, encoding in _MARKS.items():  # that of UTF-32-LE begins with that of UTF-16-LE
        if head.startswith(mark):
            raise UserError(
                f"{where}: found {encoding} text (by its byte order mark); expected UTF-8; convert it, as with "
                f"'iconv -f {encoding} -t UTF-8'"
            )


def refuse_file_of_other_encoding(path: Path) -> None:
    """The same for a text file, compressed or not; one that cannot be read is left to its reader."""
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as file:
            head = file.read(4)
    except (OSError, EOFError, lzma.LZMAError):
        return
    refuse_other_encodings(bytes(head), str(path))
