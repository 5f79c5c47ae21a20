"""Artefacts: folders that are built whole or not at all, and rebuilt only when what they are made from has changed.

Each folder carries ``manifest.json``: format version, kind, the inputs it was made from, facts that its builder states,
size and SHA-256 of every file, and the SHA-256 of all this.
"""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prealign.errors import UserError
from prealign.files import digest, sha256_file, write_atomically

FORMAT_VERSION = 2
_MANIFEST = "manifest.json"


Ensure = Callable[[str, str, dict[str, Any], Callable[[Path], dict[str, Any]]], "Artefact"]
"""Makes or keeps the artefact ``(folder name, kind, inputs, build)``: `ensure`, with the rest bound."""


@dataclass(frozen=True)
class Artefact:
    """An artefact on disk."""

    folder: Path
    kind: str
    inputs: dict[str, Any]
    facts: dict[str, Any]
    files: dict[str, dict[str, Any]]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the hashes of the files: equal content, equal fingerprint."""
        return digest({name: entry["sha256"] for name, entry in self.files.items()})

    def verify(self) -> None:
        """Hash every file again; raises `UserError` for the first that differs from the manifest, and for files that
        are not in it."""
        manifest = self.folder / _MANIFEST
        if manifest.read_bytes() != _serialise(json.loads(manifest.read_bytes())):
            raise UserError(
                f"{manifest}: found other bytes than were written; expected them unchanged; the file is damaged: "
                f"move {self.folder} away and run launchers/prepare.py again"
            )
        present = {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()}
        if strangers := sorted(present - {_MANIFEST, *self.files}):
            raise UserError(f"{self.folder / strangers[0]}: found a file that its manifest does not list; move it away")
        for name, entry in self.files.items():
            found = sha256_file(self.folder / name)
            if found != entry["sha256"]:
                raise UserError(
                    f"{self.folder / name}: found SHA-256 {found[:12]}..., expected {entry['sha256'][:12]}... by its "
                    f"manifest; the file is damaged: move {self.folder} away and run launchers/prepare.py again"
                )


def _serialise(manifest: dict[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()


def open_artefact(folder: Path, kind: str) -> Artefact:
    """Open an artefact, checking manifest, format and file sizes (constant cost). Raises `UserError`."""
    path = folder / _MANIFEST
    remedy = "run launchers/prepare.py with this recipe"
    try:
        if not path.is_file():
            raise UserError(f"{folder}: no such {kind}; {remedy}")
        manifest = json.loads(path.read_text(encoding="utf-8"))
        artefact = Artefact(folder, manifest["kind"], manifest["inputs"], manifest["facts"], manifest["files"])
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); mend its rights, or the file system") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a manifest; move {folder} away and {remedy}") from None
    if manifest.get("format") != FORMAT_VERSION or artefact.kind != kind:
        raise UserError(
            f"{path}: found {artefact.kind!r} of format {manifest.get('format')}; "
            f"expected {kind!r} of format {FORMAT_VERSION}; move {folder} away and {remedy}"
        )
    stated = manifest.pop("sha256", None)
    if stated != digest(manifest):
        raise UserError(
            f"{path}: its content does not have the SHA-256 that it states; move {folder} away and {remedy}"
        )
    for name, entry in artefact.files.items():
        file = folder / name
        try:
            size = file.stat().st_size if file.is_file() else None
        except OSError as error:
            raise UserError(f"{file}: cannot be looked at ({error.strerror}); mend the rights of its folder") from None
        if size != entry["bytes"]:
            found = "no such file" if size is None else f"found {size} bytes"
            raise UserError(f"{file}: {found}; expected {entry['bytes']} bytes; move {folder} away and {remedy}")
    return artefact


def ensure(
    folder: Path,
    kind: str,
    inputs: dict[str, Any],
    build: Callable[[Path], dict[str, Any]],
    resumable: bool = False,
) -> tuple[Artefact, bool]:
    """The artefact made from ``inputs``: the one on disk if it is, else built now.

    ``build`` fills an empty folder and returns the facts. Returns the artefact and whether it was built. A build that
    fails or is killed leaves the old artefact as it was. A ``resumable`` builder finds in its folder what an earlier
    attempt with the same inputs left there, unless that failed with a `UserError`.
    """
    inputs = json.loads(json.dumps(inputs))
    refuse_strangers(folder)
    if (folder / _MANIFEST).is_file():
        try:
            artefact = open_artefact(folder, kind)
            if artefact.inputs == inputs:
                return artefact, False
        except UserError:
            pass  # damaged or of another format: built again
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    started = partial.with_name(f"{partial.name}.inputs")
    wanted = json.dumps(inputs, sort_keys=True)
    if not (resumable and partial.is_dir() and started.is_file() and started.read_text(encoding="utf-8") == wanted):
        started.unlink(missing_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        if resumable:
            write_atomically(started, wanted)
    try:
        facts = build(partial)
        files = {
            path.relative_to(partial).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        manifest = {"format": FORMAT_VERSION, "kind": kind, "inputs": inputs, "facts": facts, "files": files}
        write_atomically(partial / _MANIFEST, _serialise(manifest | {"sha256": digest(manifest)}).decode())
        started.unlink(missing_ok=True)
        replace_folder(partial, folder)
    except BaseException as error:
        if not resumable or isinstance(error, UserError):
            started.unlink(missing_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
        raise
    return open_artefact(folder, kind), True


def refuse_strangers(folder: Path) -> None:
    """Raise `UserError` where a folder that is to be replaced holds files that no artefact left there."""
    if not folder.exists() or (folder / _MANIFEST).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise UserError(
            f"data.dir: '{folder}' is there and was not written by launchers/prepare.py, which would replace it; "
            f"choose another data.dir, or move it away"
        )


def replace_folder(new: Path, folder: Path) -> None:
    """Put a folder that is whole in another one's place, which is there until then."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


class InputHashes:
    """SHA-256 of input files, remembered by path, size and times so that unchanged files are read once.

    The time of the last change of any kind (``ctime``) is one of them: no program sets it, so a file that was written
    over with as many bytes and given its old modification time back is read again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = False
        try:
            self._known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def of(self, paths: list[Path]) -> list[str]:
        """Hashes of files, in order."""
        hashes = []
        for path in paths:
            stat = path.stat()
            state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
            known = self._known.get(str(path.resolve()))
            if known is None or known[:-1] != state:
                self._changed = True
                known = [*state, sha256_file(path)]
                self._known[str(path.resolve())] = known
            hashes.append(known[-1])
        return hashes

    def save(self) -> None:
        """Remember for the next time, where there is something new and a place for it."""
        if self._changed:
            with suppress(PermissionError):
                write_atomically(self._path, json.dumps(self._known, indent=0))
