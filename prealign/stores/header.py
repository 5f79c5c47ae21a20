"""The fixed-size header with which our binary files, and Megatron's, begin."""

import struct
from pathlib import Path
from typing import Any

from prealign.errors import UserError


def read_header(path: Path, layout: struct.Struct, magic: bytes, kind: str, header: str) -> tuple[tuple[Any, ...], int]:
    """The fields behind ``magic``, and the file's size in bytes.

    ``kind``: what the file is; ``header``: what it should begin with. Raises `UserError` where it cannot be read or
    begins with something else.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            content = file.read(layout.size)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a {kind}; run launchers/prepare.py") from None
    if len(content) < layout.size or not content.startswith(magic):
        raise UserError(f"{path}: found no {header}; prepare it again")
    return layout.unpack(content)[1:], size
