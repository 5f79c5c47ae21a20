"""Files: written whole or not at all, hashed, and a folder's lock."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prealign.errors import UserError


def digest(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: str) -> None:
    """Write a small text file so that a reader sees the old content or the new, never a part; where that fails, nothing
    is left of it. Raises `OSError`."""
    partial = path.with_name(f".{path.name}.partial")
    file = partial.open("w", encoding="utf-8")
    try:
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def json_rows(text: str) -> list[dict[str, Any]]:
    """The objects of JSON lines; a line that is none, as a killed process leaves it or too deep to read, is not."""
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


@contextmanager
def locked(folder: Path, taken: str) -> Iterator[None]:
    """Hold the lock of a folder, which is made if need be. It ends with the process, however that ends.

    A folder of somebody else's, in which nothing can be written, needs no lock: what is up to date there is read.
    Raises `UserError`, with the message ``taken`` where another process holds it, and `OSError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = (folder / ".lock").open("w")
    except PermissionError:
        yield
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(taken) from None
        yield
