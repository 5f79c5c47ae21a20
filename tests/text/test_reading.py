"""Reading documents: formats, broken bytes, long lines."""

import gzip
import json
import lzma
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from prealign.config.texts import Text
from prealign.errors import UserError
from prealign.text.reading import ReadCounts, read_documents

DOCUMENTS = ["first document\nwith two lines", "second", "dritter: größer"]


def read(path: Path, invalid: str = "replace", **options) -> tuple[list[str], ReadCounts]:
    counts = ReadCounts()
    text = Text(files=[str(path)], **options)
    return list(read_documents(text, "languages.en.text", invalid, counts)), counts


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in [*DOCUMENTS, "", "  "]))
    documents, counts = read(path)
    assert documents == DOCUMENTS
    assert (counts.documents, counts.empty) == (3, 2)


def test_parquet_with_another_column(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"body": [*DOCUMENTS, None]}), path)
    assert read(path, field="body")[0] == DOCUMENTS
    with pytest.raises(UserError, match=r"\['body'\].*'text'"):
        read(path)


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ("blank_line", DOCUMENTS),
        ("line", [line for text in DOCUMENTS for line in text.split("\n")]),
        ("file", ["\n\n".join(DOCUMENTS) + "\n"]),
    ],
)
@pytest.mark.parametrize("opener", [open, gzip.open, lzma.open])
def test_text(tmp_path: Path, documents: str, expected: list[str], opener) -> None:
    path = tmp_path / {open: "a.txt", gzip.open: "a.txt.gz", lzma.open: "a.txt.xz"}[opener]
    with opener(path, "wt", encoding="utf-8") as file:
        file.write("\n\n".join(DOCUMENTS) + "\n")
    assert [text.rstrip("\n") for text in read(path, documents=documents)[0]] == [
        text.rstrip("\n") for text in expected
    ]


def test_globs_are_read_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert read(tmp_path / "*.txt")[0] == ["a", "b", "c"]


@pytest.mark.parametrize("suffix", ["jsonl", "txt", "parquet"])
def test_names_are_not_patterns(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "[x] y"
    folder.mkdir()
    names = sorted(["a1", "a[1]", "a[!1]", "a?", "a*", "wiki[en]", "{a,b}"])
    for name in names:
        path = folder / f"{name}.{suffix}"
        if suffix == "parquet":
            pyarrow.parquet.write_table(pyarrow.table({"text": [name]}), path)
        else:
            path.write_text(json.dumps({"text": name}) if suffix == "jsonl" else name)
        assert read(path)[0] == [name]
    for name in names:
        assert read(folder / f"{name}.{suffix}")[0] == [name]
    assert read(tmp_path / f"[[]x] y/*.{suffix}")[0] == names


@pytest.mark.parametrize("suffix", ["jsonl", "txt"])
def test_invalid_utf8_is_replaced_and_counted_or_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    content = b"bad \xff\xfe bytes"
    path.write_bytes(b'{"text": "' + content + b'"}\n' if suffix == "jsonl" else content)
    documents, counts = read(path)
    assert documents == ["bad \ufffd\ufffd bytes"]
    assert counts.invalid_utf8 == 2
    with pytest.raises(UserError, match=r"a\..*invalid_utf8"):
        read(path, invalid="refuse")


def test_a_real_replacement_character_is_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("has \ufffd in it")
    documents, counts = read(path, invalid="refuse")
    assert documents == ["has \ufffd in it"]
    assert counts.invalid_utf8 == 0


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-be", "utf-32-be"])
@pytest.mark.parametrize("suffix", ["jsonl", "txt", "txt.gz", "jsonl.xz"])
def test_other_encodings_are_refused(tmp_path: Path, suffix: str, encoding: str) -> None:
    path = tmp_path / f"a.{suffix}"
    content = json.dumps({"text": "abc"}) if "jsonl" in suffix else "abc"
    raw = ((chr(0xFEFF) if encoding.endswith("be") else "") + content).encode(encoding)
    path.write_bytes(gzip.compress(raw) if suffix.endswith("gz") else lzma.compress(raw) if "xz" in suffix else raw)
    for invalid in ("replace", "refuse"):
        with pytest.raises(UserError, match=rf"a\.{suffix}: found {encoding[:6].upper()} text"):
            read(path, invalid=invalid)


@pytest.mark.parametrize("suffix", ["jsonl", "txt"])
@pytest.mark.parametrize("documents", ["blank_line", "line", "file"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, suffix: str, documents: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_text(json.dumps({"text": "größer"}) if suffix == "jsonl" else "größer", encoding="utf-8-sig")
    assert read(path, documents=documents)[0] == ["größer"]


@pytest.mark.parametrize("suffix", ["jsonl", "txt"])
def test_ten_megabytes_in_one_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    document = "word " * 2_200_000 + "end"
    path.write_text(json.dumps({"text": document}) if suffix == "jsonl" else document)
    assert read(path)[0] == [document]


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file matches"):
        read(tmp_path / "nothing*.txt")
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(UserError, match="format"):
        read(tmp_path / "a.xyz")
    assert read(tmp_path / "a.xyz", format="text")[0] == ["x"]
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(UserError, match=r"broken\.jsonl"):
        read(tmp_path / "broken.jsonl")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match=r"broken\.parquet"):
        read(tmp_path / "broken.parquet")
    (tmp_path / "numbers.jsonl").write_text('{"text": 3}\n')
    with pytest.raises(UserError, match="expected text"):
        read(tmp_path / "numbers.jsonl")


def test_max_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join("abcdef"))
    assert read(path, documents="line", max_documents=2)[0] == ["a", "b"]
