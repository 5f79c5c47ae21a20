"""Artefacts are whole or not there, and rebuilt only when their inputs change."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from prealign.artefacts import InputHashes, ensure, open_artefact
from prealign.errors import UserError
from prealign.files import locked, sha256_file, write_atomically


def build_of(content: str) -> Any:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "file.txt").write_text(content)
        return {"length": len(content)}

    return build


def test_built_once_per_inputs(tmp_path: Path) -> None:
    first, built = ensure(tmp_path / "a", "thing", {"x": 1}, build_of("one"))
    assert built
    assert first.facts == {"length": 3}
    again, built = ensure(tmp_path / "a", "thing", {"x": 1}, build_of("never called"))
    assert not built
    assert again.fingerprint == first.fingerprint
    changed, built = ensure(tmp_path / "a", "thing", {"x": 2}, build_of("other"))
    assert built
    assert changed.fingerprint != first.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_a_failed_build_leaves_the_old_one(tmp_path: Path) -> None:
    ensure(tmp_path / "a", "thing", {"x": 1}, build_of("one"))

    def fails(folder: Path) -> dict[str, Any]:
        (folder / "file.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(tmp_path / "a", "thing", {"x": 2}, fails)
    assert (tmp_path / "a" / "file.txt").read_text() == "one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_what_a_killed_build_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / ".a.partial").mkdir()
    (tmp_path / ".a.partial" / "stale").write_text("x")
    artefact, _ = ensure(tmp_path / "a", "thing", {}, build_of("one"))
    assert set(artefact.files) == {"file.txt"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest"])
def test_damage_is_named_and_mended_by_building_again(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "a"
    ensure(folder, "thing", {}, build_of("content"))
    file = folder / ("manifest.json" if damage == "manifest" else "file.txt")
    file.unlink() if damage == "remove" else file.write_text(file.read_text()[:3])
    with pytest.raises(UserError, match=r"manifest\.json" if damage == "manifest" else r"file\.txt.*expected 7 bytes"):
        open_artefact(folder, "thing")
    _, built = ensure(folder, "thing", {}, build_of("content"))
    assert built
    open_artefact(folder, "thing").verify()


def test_verify_finds_a_flipped_byte(tmp_path: Path) -> None:
    artefact, _ = ensure(tmp_path / "a", "thing", {}, build_of("content"))
    (tmp_path / "a" / "file.txt").write_text("contenT")
    with pytest.raises(UserError, match=r"file\.txt.*SHA-256"):
        artefact.verify()


def test_another_kind_or_format_is_refused(tmp_path: Path) -> None:
    ensure(tmp_path / "a", "thing", {}, build_of("x"))
    with pytest.raises(UserError, match="expected 'other'"):
        open_artefact(tmp_path / "a", "other")
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        open_artefact(tmp_path / "a", "thing")


def test_input_hashes_read_unchanged_files_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "input"
    path.write_text("a")
    hashes = InputHashes(tmp_path / "known.json")
    first = hashes.of([path])
    hashes.save()
    assert first == [sha256_file(path)]
    calls = []
    monkeypatch.setattr("prealign.artefacts.sha256_file", lambda path: calls.append(path) or "new")
    again = InputHashes(tmp_path / "known.json")
    assert again.of([path]) == first
    assert calls == []
    path.write_text("bb")
    assert again.of([path]) == ["new"]


def test_input_hashes_read_a_file_that_was_written_over_at_equal_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_text("a")
    stat = path.stat()
    hashes = InputHashes(tmp_path / "known.json")
    hashes.of([path])
    time.sleep(0.02)  # longer than a tick of the file system's clock
    path.write_text("b")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert hashes.of([path]) == [sha256_file(path)]


def test_write_atomically_replaces(tmp_path: Path) -> None:
    write_atomically(tmp_path / "f", "one")
    write_atomically(tmp_path / "f", "two")
    assert (tmp_path / "f").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_folder_of_somebody_else_s_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is up to date is found without writing a file."""
    ensure(tmp_path / "a", "thing", {"x": 1}, lambda folder: {})
    opened = Path.open

    def refusing(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if "w" in mode:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", refusing)
    with locked(tmp_path, "taken"):
        assert ensure(tmp_path / "a", "thing", {"x": 1}, lambda folder: {})[1] is False
        hashes = InputHashes(tmp_path / ".hashes.json")
        hashes.save()
    assert not (tmp_path / ".hashes.json").exists()
