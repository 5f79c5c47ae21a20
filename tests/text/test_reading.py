"""Reading documents: formats, broken bytes, long lines."""

import gzip
import json
import lzma
import re
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prealign.config.texts import TextConfig
from prealign.errors import UserError
from prealign.text.reading import ReadCounts, read_documents

DOCUMENTS = ["first document\nwith two lines", "second", "dritter: größer"]


def read(path: Path, invalid: str = "replace", **options) -> tuple[list[str], ReadCounts]:
    counts = ReadCounts()
    text = TextConfig(files=[str(path)], **options)
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


@pytest.mark.parametrize("other", [1, None, {"a": 1}, "2024-01-01", [{"b": [1]}], "text", 1.5, True])
def test_other_columns_may_hold_whatever_they_like(tmp_path: Path, other: Any) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"text": f"document {number}", "meta": 7} for number in range(2000)] + [{"meta": other, "text": "last"}]
    path.write_text("\n".join(map(json.dumps, [*rows, {"text": "more", "new": other}])))
    assert read(path)[0][-2:] == ["last", "more"]


@given(
    rows=st.lists(st.dictionaries(st.text(max_size=5), st.recursive(st.none() | st.integers() | st.text(), st.lists))),
    texts=st.lists(st.text(min_size=1).filter(str.strip), max_size=9),
)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_with_the_field(tmp_path: Path, rows: list[dict[str, Any]], texts: list[str]) -> None:
    """Whatever else is in a line, and however it is escaped, the field's text comes out."""
    path = tmp_path / "any.jsonl"
    other = [*rows, *({} for _ in texts)]
    lines = [json.dumps(row | {"text": text}, ensure_ascii=len(text) % 2 == 0) for row, text in zip(other, texts)]
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    expected = [re.sub("[\ud800-\udfff]", "\ufffd", text) for text in texts]
    found, counts = read(path, normalize="none")
    assert [re.sub("\ufffd+", "?", text) for text in found] == [re.sub("\ufffd+", "?", text) for text in expected]
    assert (counts.invalid_utf8 > 0) == (expected != texts)


def test_fields_inside_others(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"meta": {"text": "inside"}}\n{"meta.text": "flat"}\n{"meta": 3}\n')
    documents, counts = read(tmp_path / "a.jsonl", field="meta.text")
    assert documents == ["inside", "flat"]
    assert counts.empty == 1
    table = pyarrow.table({"meta": [{"text": "inside", "n": 1}, None, {"text": "too", "n": 2}], "id": [1, 2, 3]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", field="meta.text")[0] == ["inside", "too"]
    with pytest.raises(UserError, match=r"found columns \['meta', 'id'\]; expected 'meta.body'"):
        read(tmp_path / "a.parquet", field="meta.body")
    with pytest.raises(UserError, match=r"found columns \['meta'\]; expected 'text'"):
        read(tmp_path / "a.jsonl")


def test_an_array_of_objects(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"text": text} for text in DOCUMENTS], indent=1))
    assert read(tmp_path / "a.json")[0] == DOCUMENTS


@pytest.mark.parametrize("escape", ["\\ud83d", "\\udc00\\ud800", "\ud83d"])
def test_half_a_surrogate_pair(tmp_path: Path, escape: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        f'{{"text": "one"}}\n\n{{"text": "cut {escape} off \\ud83d\\ude00"}}\n'.encode("utf-8", "surrogatepass")
    )
    documents, counts = read(path)
    assert documents[1].rstrip("\U0001f600").replace("\ufffd", "") == "cut  off "
    assert documents[1].endswith("\U0001f600")
    assert counts.invalid_utf8 == documents[1].count("\ufffd") > 0
    with pytest.raises(UserError, match=r"a\.jsonl, line 3: .*invalid_utf8"):
        read(path, invalid="refuse")


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"text": "x" * 3000}) + "\n" for _ in range(4200)) + '{"text": "cut off in the midd\n'
    )
    with pytest.raises(UserError, match=r"""a\.jsonl, line 4201: not JSON \(.*\): '{"text": "cut off in the midd'"""):
        read(path)
    path.write_text('{"text": "a"}\n["text"]\n')
    with pytest.raises(UserError, match=r"line 2: found '\[\"text\"\]'; expected an object"):
        read(path)
    path.write_text('{"text": ' + "[" * 100_000)
    with pytest.raises(UserError, match="line 1: not JSON"):
        read(path)


def test_empty_files_are_passed_over_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "b.jsonl").write_text("")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "d.txt").write_text("")
    (tmp_path / "e.txt.xz").write_bytes(lzma.compress(b"\n\n"))
    (tmp_path / "f.parquet").write_bytes(b"")
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), tmp_path / "g.parquet")
    documents, counts = read(tmp_path / "*.*")
    assert documents == ["one"]
    assert [Path(name).name for name in counts.empty_files] == [
        "b.jsonl",
        "c.jsonl.gz",
        "d.txt",
        "e.txt.xz",
        "f.parquet",
        "g.parquet",
    ]


def test_zstandard(tmp_path: Path) -> None:
    for name, content in (("a.jsonl.zst", '{"text": "größer"}\n'), ("b.txt.zst", "one\n\ntwo\n")):
        with pyarrow.output_stream(tmp_path / name, compression="zstd") as file:
            file.write(content.encode())
    frames = (tmp_path / "b.txt.zst").read_bytes()
    (tmp_path / "c.txt.zst").write_bytes(frames + frames)  # as parallel compressors write it
    assert read(tmp_path / "[ab]*.zst")[0] == ["größer", "one", "two"]
    assert read(tmp_path / "c.txt.zst")[0] == ["one", "two\none", "two"]
    (tmp_path / "c.txt.zst").write_bytes(frames[:-6])
    with pytest.raises(UserError, match=r"c\.txt\.zst: "):
        read(tmp_path / "c.txt.zst")


@given(st.lists(st.sampled_from(["Tiếng Việt", "größer", "한국어", "ﻷ", "①", "ガ", "é"]), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_text_is_composed(tmp_path: Path, words: list[str]) -> None:
    """However text is decomposed, it is read as dictionaries spell it."""
    path = tmp_path / "a.txt"
    text = " ".join(words)
    path.write_text(unicodedata.normalize("NFD", text))
    documents, counts = read(path)
    assert documents == [unicodedata.normalize("NFC", text)]
    assert counts.normalized == (unicodedata.normalize("NFD", text) != unicodedata.normalize("NFC", text))
    assert read(path, normalize="nfkc")[0] == [unicodedata.normalize("NFKC", text)]
    assert read(path, normalize="none")[0] == [unicodedata.normalize("NFD", text)]


def test_folders_and_broken_links(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"is a folder; expected a file or a pattern, as '.*/\*\.jsonl'"):
        read(tmp_path)
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(UserError, match=r"b\.txt' is a link to a file that is not there"):
        read(tmp_path / "*.txt")


def test_max_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join("abcdef"))
    assert read(path, documents="line", max_documents=2)[0] == ["a", "b"]
