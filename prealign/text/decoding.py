"""Bytes to text: what is not UTF-8 is replaced and counted, or refused with its place."""

import codecs
import re
from typing import Protocol

from prealign.errors import UserError

_SURROGATE = re.compile("[\ud800-\udfff]")


class Counts(Protocol):
    """What a `Decoder` counts in."""

    invalid_utf8: int
    missing_field: int


class Decoder:
    """Decodes UTF-8; registered under its own name as codec error handler, so that it counts what it replaces."""

    def __init__(self, refuse: bool, counts: Counts) -> None:
        self.refuse = refuse
        self.counts = counts
        self.handler = f"prealign-{id(self)}"
        """Name of the error handler, for `io.TextIOWrapper`; it raises `UnicodeDecodeError` where text is refused."""
        codecs.register_error(self.handler, self._handle)

    def _handle(self, error: UnicodeError) -> tuple[str, int]:
        if self.refuse or not isinstance(error, UnicodeDecodeError):
            raise error
        self.counts.invalid_utf8 += 1
        return "\ufffd", error.end

    def decode(self, raw: bytes, where: str) -> str:
        """Bytes as text; ``where`` names their place in the error."""
        try:
            return raw.decode("utf-8", errors=self.handler)
        except UnicodeDecodeError as error:
            raise self.user_error(error, where) from None

    def without_lone_surrogates(self, text: str, where: str) -> str:
        """Text without halves of surrogate pairs, which JSON can spell and UTF-8 cannot."""
        if text.isascii() or not _SURROGATE.search(text):
            return text
        if self.refuse:
            raise UserError(
                f"{where}: found half of a surrogate pair ({_SURROGATE.findall(text)[0]!r}), which is no character; "
                f"mend the file or set data.invalid_utf8=replace"
            )
        text, count = _SURROGATE.subn("\ufffd", text)
        self.counts.invalid_utf8 += count
        return text

    def user_error(self, error: UnicodeDecodeError, where: str) -> UserError:
        """What to tell the user of bytes that are refused."""
        found = error.object[error.start : error.end]
        return UserError(
            f"{where}: found bytes {found!r} that are not UTF-8; expected UTF-8; mend the file or set "
            "data.invalid_utf8=replace"
        )
