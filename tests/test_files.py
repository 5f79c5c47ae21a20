"""Small files are written whole or not at all, and rows are read from what is left of one."""

from pathlib import Path

import pytest

from prealign.files import json_rows, write_atomically


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(path, "one")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "other", "\ud800")
    assert [*tmp_path.iterdir()] == [path]


def test_rows_of_lines_that_are_whole() -> None:
    assert json_rows('{"a": 1}\n{"b"\n[1]\n' + "[" * 200_000 + '\n{"c": 2}\n') == [{"a": 1}, {"c": 2}]
