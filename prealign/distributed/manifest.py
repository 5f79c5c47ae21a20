"""The manifest of a checkpoint: what it holds, size and SHA-256 of each file, and a checksum of itself.

``manifest.json`` and, beside it, ``manifest.sha256`` in the format of ``sha256sum`` (``sha256sum -c manifest.sha256``).
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from prealign.files import sha256_file, write_atomically

FORMAT_VERSION = 2
_MANIFEST = "manifest.json"
_CHECKSUM = "manifest.sha256"


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write ``content`` (plain values with ``files``: name -> ``bytes`` and ``sha256``) as the folder's manifest."""
    text = json.dumps({"format": FORMAT_VERSION} | content, indent=1)
    write_atomically(folder / _MANIFEST, text)
    write_atomically(folder / _CHECKSUM, _checksum(text.encode()).decode())


def read_manifest(folder: Path) -> tuple[dict[str, Any], str | None]:
    """A folder's manifest and what is wrong with it (None where nothing is)."""
    try:
        raw = (folder / _MANIFEST).read_bytes()
        if (folder / _CHECKSUM).read_bytes() != _checksum(raw):
            return {}, f"{_MANIFEST} does not have the SHA-256 that {_CHECKSUM} says"
        content = json.loads(raw)
    except FileNotFoundError as error:
        return {}, f"{Path(error.filename).name} is missing"
    except (OSError, ValueError) as error:
        return {}, f"{_MANIFEST} cannot be read ({error})"
    if content.get("format") != FORMAT_VERSION:
        return {}, f"{_MANIFEST} is of format {content.get('format')}, expected {FORMAT_VERSION}"
    return content, None


def damage(folder: Path, files: dict[str, dict[str, Any]]) -> list[str]:
    """What differs from the manifest's entries ``files``, a line per damaged file: missing, size, or SHA-256."""
    found = []
    for name, entry in files.items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != entry["bytes"]:
                found.append(f"{name} has {size} bytes, expected {entry['bytes']}")
            elif (sha256 := sha256_file(path)) != entry["sha256"]:
                found.append(f"{name} has SHA-256 {sha256[:12]}..., expected {entry['sha256'][:12]}...")
        except FileNotFoundError:
            found.append(f"{name} is missing")
        except OSError as error:
            found.append(f"{name} cannot be read ({error.strerror})")
    return found


def _checksum(manifest: bytes) -> bytes:
    return f"{hashlib.sha256(manifest).hexdigest()}  {_MANIFEST}\n".encode()
