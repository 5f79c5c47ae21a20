"""Every dictionary format gives its pairs, whatever its compression; what cannot be read is one line."""

import bz2
import gzip
import json
import lzma
import pickle
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prealign.config.texts import DictionaryConfig, LanguageConfig, TextConfig
from prealign.errors import UserError
from prealign.lexicon.cleaning import Cleaner
from prealign.lexicon.dictionaries import Pair, dictionary_files, read_dictionary
from prealign.lexicon.merging import Merger

TARGETS = {"de": ["de", "deu"]}


def read(path: Path, targets: dict[str, list[str]] = TARGETS, **options: object) -> list[tuple[str, str, int]]:
    dictionary = DictionaryConfig(path=str(path), **options)
    dictionary_files(dictionary)
    return [(pair.source, pair.translation, pair.rank) for pair in read_dictionary(dictionary, ["en"], targets)]


MUSE = "piano Klavier\npiano  Flügel\nbook\tBuch\n\n# comment\nlight\thell sein\n"
MUSE_PAIRS = [("piano", "Klavier", 0), ("piano", "Flügel", 1), ("book", "Buch", 0), ("light", "hell sein", 0)]


@pytest.mark.parametrize(
    ("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)]
)
def test_muse(tmp_path: Path, suffix: str, pack) -> None:
    path = tmp_path / f"en-de.txt{suffix}"
    path.write_bytes(pack(b"\xef\xbb\xbf" + MUSE.encode()))
    assert read(path) == MUSE_PAIRS


def test_tsv(tmp_path: Path) -> None:
    path = tmp_path / "en-de.tsv"
    path.write_text("grand piano\tFlügel\tignored\r\nbook\tBuch\r\n")
    assert read(path) == [("grand piano", "Flügel", 0), ("book", "Buch", 0)]
    assert read(path, inverted=True)[1] == ("Buch", "book", 0)


def test_several_spaces_do_not_say_where_the_source_ends(tmp_path: Path) -> None:
    path = tmp_path / "en-de.txt"
    path.write_text("bank Bank\nhot dog Wurst\n")
    assert read(path) == [("bank", "Bank", 0), ("hot dog Wurst", "", -1)]


@pytest.mark.parametrize("titles", ["source\ttarget", "en\tde", "Word\tTranslation\tDE"])
def test_a_line_of_titles_is_no_pair(tmp_path: Path, titles: str) -> None:
    path = tmp_path / "en-de.tsv"
    path.write_text(f"{titles}\nword\tWort\nsource\tQuelle\n")
    assert read(path) == [(titles, "", -1), ("word", "Wort", 0), ("source", "Quelle", 0)]


def test_a_column_of_parts_of_speech_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "en-de.tsv"
    path.write_text("en\tpos\tde\ndog\tnoun\tHund\nrun\tverb\tlaufen\n")
    with pytest.raises(UserError, match=r"column 2 holds parts of speech \(noun, verb\).*cut -f1,3"):
        read(path)


def number64(value: int) -> str:
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    text = ""
    while True:
        text = digits[value % 64] + text
        value //= 64
        if value == 0:
            return text


def write_dictd(folder: Path, articles: list[tuple[str, str]], suffix: str) -> Path:
    data, lines = b"", []
    for word, article in articles:
        raw = article.encode()
        lines.append(f"{word}\t{number64(len(data))}\t{number64(len(raw))}")
        data += raw
    (folder / "d.index").write_text("".join(line + "\n" for line in sorted(lines)))
    (folder / f"d.dict{suffix}").write_bytes(gzip.compress(data) if suffix else data)
    return folder / "d.index"


@pytest.mark.parametrize("suffix", ["", ".dz"])
def test_dictd(tmp_path: Path, suffix: str) -> None:
    articles = [
        ("00databaseinfo", "00-database-info\nGerman of English\n"),
        ("piano", "Piano /pɪˈanəʊ/ <N, sg>\n1. Klavier <neut> [mus.], Flügel <masc>\n2. leise\n"),
        (
            "book",
            'book /bʊk/\nBuch <neut>; Band (pl. Bände; alt)\n   "my book" - mein Buch\n   Note: old\n see: {books}\n',
        ),
    ]
    pairs = [
        ("Piano", "Klavier <neut> [mus.]", 0),
        ("Piano", "Flügel <masc>", 1),
        ("Piano", "leise", 2),
        ("book", "Buch <neut>", 0),
        ("book", "Band (pl. Bände; alt)", 1),
    ]
    path = write_dictd(tmp_path, articles, suffix)
    assert read(path) == pairs
    assert read(tmp_path / f"d.dict{suffix}") == pairs


def write_stardict(folder: Path, articles: list[tuple[str, bytes]], settings: str, width: str, packed: bool) -> Path:
    data = index = b""
    for word, raw in articles:
        index += word.encode() + b"\0" + struct.pack(f">{width}I", len(data), len(raw))
        data += raw
    (folder / "s.ifo").write_text(f"StarDict's dict ifo file\nversion=2.4.2\nwordcount={len(articles)}\n{settings}\n")
    (folder / ("s.idx.gz" if packed else "s.idx")).write_bytes(gzip.compress(index) if packed else index)
    (folder / ("s.dict.dz" if packed else "s.dict")).write_bytes(gzip.compress(data) if packed else data)
    return folder / "s.ifo"


@pytest.mark.parametrize(
    ("settings", "width", "article"),
    [
        ("sametypesequence=m", "I", b"[mus.]\nKlavier, Fl\xc3\xbcgel"),
        ("sametypesequence=tm\nidxoffsetbits=64", "Q", b"piano\0Klavier\nFl\xc3\xbcgel"),
        ("sametypesequence=h", "I", b"<b>piano</b><br><ol><li>Klavier</li><li>Fl&uuml;gel</li></ol>"),
        ("sametypesequence=x", "I", b"<k>piano</k>\n<tr>pi</tr><dtrn>Klavier</dtrn><dtrn>Fl\xc3\xbcgel</dtrn>"),
        ("", "I", b"tpiano\0mKlavier\nFl\xc3\xbcgel\0P\0\0\0\x02xy"),
    ],
    ids=["plain", "two fields, 64 bits", "html", "xdxf", "types in the data"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_stardict(tmp_path: Path, settings: str, width: str, article: bytes, packed: bool) -> None:
    path = write_stardict(tmp_path, [("piano", article)], settings, width, packed)
    assert read(path) == [("piano", "Klavier", 0), ("piano", "Flügel", 1)]


TEI = """<?xml version="1.0" encoding="UTF-8"?>
<TEI xmlns="http://www.tei-c.org/ns/1.0"><text><body>
<entry><form><orth>piano</orth><pron>pi</pron></form>
 <sense n="1"><cit type="trans"><quote>Klavier</quote><gramGrp><gen>neut</gen></gramGrp></cit>
  <cit type="example"><quote>my piano</quote><cit type="trans"><quote>mein Klavier</quote></cit></cit></sense>
 <sense n="2"><cit type="trans"><quote>Flügel</quote></cit></sense></entry>
<entry><form><orth>book</orth><orth>books</orth></form><trans><tr>Buch</tr></trans></entry>
</body></text></TEI>
"""


def test_tei(tmp_path: Path) -> None:
    path = tmp_path / "eng-deu.tei.xz"
    path.write_bytes(lzma.compress(TEI.encode()))
    assert read(path) == [("piano", "Klavier", 0), ("piano", "Flügel", 1), ("book", "Buch", 0), ("books", "Buch", 0)]


def test_ding_is_inverted_and_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "de-en"
    path.write_text(
        "# Version\nKlavier {n} [mus.]; Piano {n} (alt; selten) | Klaviere {pl} :: piano | pianos\n"
        "Buch {n} | Bücher {pl} | Band :: book | books\n"
    )
    assert read(path) == [
        ("piano", "Klavier {n} [mus.]", 0),
        ("piano", "Piano {n} (alt; selten)", 1),
        ("pianos", "Klaviere {pl}", 0),
        ("book", "Buch {n}", 0),
    ]
    assert read(path, inverted=False)[0] == ("Klavier {n} [mus.]", "piano", 0)


def test_cedict_is_inverted(tmp_path: Path) -> None:
    path = tmp_path / "cedict_ts.u8.gz"
    lines = [
        "# CC-CEDICT",
        "鋼琴 钢琴 [gang1 qin2] /piano/CL:架[jia4],臺|台[tai2]/",
        "吃 吃 [chi1] /to eat; to consume (food, etc)/variant of 喫[chi1]/surname Chi/",
    ]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    expected = [("piano", "钢琴", 0), ("to eat", "吃", 0), ("to consume (food, etc)", "吃", 1)]
    assert read(path) == expected
    assert read(path, traditional=True)[0] == ("piano", "鋼琴", 0)


def test_wiktextract_reads_a_file_once_for_all_languages(tmp_path: Path) -> None:
    path = tmp_path / "kaikki.jsonl.gz"
    entries = [
        {"word": "piano", "lang_code": "en", "pos": "noun"},
        {
            "word": "piano",
            "lang_code": "en",
            "translations": [
                {"lang": "German", "code": "de", "word": "Klavier"},
                {"lang": "Mandarin", "lang_code": "cmn", "word": "鋼琴 /钢琴"},
                {"lang": "German", "code": "de", "note": "no word"},
            ],
            "senses": [{"translations": [{"lang_code": "de", "word": "Piano"}]}],
        },
        {"word": "Klavier", "lang_code": "de", "translations": [{"code": "de", "word": "wrong"}]},
    ]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, entries)).encode()))
    dictionary = DictionaryConfig(path=str(path))
    assert list(read_dictionary(dictionary, ["en"], {"de": ["de"], "zh": ["zh", "cmn"]})) == [
        Pair("de", "piano", "Klavier", 0),
        Pair("zh", "piano", "鋼琴 /钢琴", 0),
        Pair("de", "piano", "Piano", 1),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.json", '{"bank": {"zh": ["银行"], "de": ["Bank", "Ufer"]}, "words": {"de": "Wörter"}}'),
        ("t.json", '{"bank": ["Bank", "Ufer"],\n "words": ["Wörter"]}'),
        ("t.json", '[["bank", ["Bank", "Ufer"]], ["words", "Wörter"]]'),
        ("t.json", '[{"word": "bank", "translations": ["Bank", "Ufer"]}, {"words": ["Wörter"]}]'),
        ("t.json", '{"words": "bank $ Bank $ Ufer"}\n{"words": "words $ Wörter"}\n'),
        (
            "t.jsonl",
            '{"en": "bank", "de": ["Bank", "Ufer"], "zh": "银行"}\n{"deu": "Wörter", "en": "words", "pos": "n"}',
        ),
        ("t.json", '[{"translation": {"en": "bank", "de": ["Bank", "Ufer"]}}, {"de": "Wörter", "en": "words"}]'),
        ("t.json", '["bank", ["Bank", "Ufer"]]\n["words", "Wörter"]'),
        ("t.jsonl", '{"word": "bank", "translations": {"de": ["Bank", "Ufer"]}}\n{"words": "words$Wörter"}'),
    ],
)
def test_json_tables(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert read(path) == [("bank", "Bank", 0), ("bank", "Ufer", 1), ("words", "Wörter", 0)]


def test_json_lines_of_pairs(tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    path.write_text('{"src_text": "bank", "tgt_text": "Bank"}\n{"src_text": "apple", "tgt_text": "Apfel"}')
    assert read(path) == [("bank", "Bank", 0), ("apple", "Apfel", 0)]


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    path = tmp_path / "en-de.pkl"
    path.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(UserError, match=r"pickle.*exported as JSON"):
        read(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.txt", b"one\n", r"no pair of words in it \(but 'one'\); expected a dictionary of format 'muse'"),
        ("d.tsv", b"a b\n", r"\(but 'a b'\); expected a dictionary of format 'tsv'"),
        ("d.txt", b"", "no line of text"),
        ("d.tsv", b"# nothing\n", "no pair of words"),
        ("d.txt.gz", b"not compressed", "damaged compressed data"),
        ("d.txt.xz", lzma.compress(b"a b\n" * 1000)[:-20], "damaged compressed data"),
        ("d.tei", b"<TEI><entry></TEI>", "not well-formed XML"),
        ("d.u8", b"kaputt\n", "kaputt.*'cedict'"),
        ("d.ding", b"no separator\n", "no separator.*'ding'"),
        ("d.json", b"{", "not JSON"),
        ("d.json", b'{"a": 3}', '{"a": 3}'),
        ("d.jsonl", b"3\n", "no pair of words"),
        ("d.index", b"word\tnot base64!\tA\n", "no such file"),
        ("absent.txt", None, "no such file"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name.partition(".")[0] in str(caught.value)


GOOD_AND_BAD = {
    "d.txt": b"woman Frau\ntable \n\xff Wort\nbook Buch\n",
    "d.tsv": b"woman\tFrau\ntable\t\nno tab\nbook\tBuch\n",
    "d.ding": b"Frau :: woman\nkaputt\nBuch :: book\n",
    "d.u8": "女 女 [nu3] /woman/\nkaputt\n書 书 [shu1] /book/\n".encode(),
    "d.json": b'{"woman": ["Frau"], "table": null, "x": 3, "book": "Buch"}',
    "d.jsonl": b'{"word": "woman", "translations": ["Frau"]}\n{"word": "table", "translations": null}\n{"word": \n3\n'
    b'{"word": "book", "translations": [null, "Buch"]}\n',
}


@pytest.mark.parametrize("name", GOOD_AND_BAD)
def test_bad_lines_are_left_out_and_counted(tmp_path: Path, name: str) -> None:
    """The others are read; what was left out is in the report with its reason."""
    (tmp_path / name).write_bytes(GOOD_AND_BAD[name])
    language = LanguageConfig(tokens=1, text=TextConfig(files=["x"]), word_length=(1, 100))
    merger = Merger(Cleaner(language, 1), {"de": Cleaner(language, 1)})
    dictionary = DictionaryConfig(path=str(tmp_path / name))
    merger.add(name, read_dictionary(dictionary, ["en"], {"de": ["de"]}))
    entries = list(merger.join([("woman", 2, 0), ("book", 1, 0), ("table", 1, 0)], [], 1))
    assert [entry.word for entry in entries] == ["woman", "book"]
    dropped = merger.dropped["de"].counts
    assert 1 <= sum(dropped[reason] for reason in ("bad line", "empty", "source is not a word")) <= 4
    assert dropped["bad line"] or name == "d.json"


@given(
    st.lists(st.text(st.characters(exclude_characters="\n\r"), max_size=20), max_size=20),
    st.sampled_from(sorted(GOOD_AND_BAD)),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_line_ends_the_reading_of_a_dictionary(tmp_path: Path, lines: list[str], name: str) -> None:
    path = tmp_path / name
    first = GOOD_AND_BAD[name].split(b"\n")[0]
    if name == "d.json":
        path.write_text(json.dumps({"woman": "Frau"} | dict.fromkeys(lines, 3)))
    else:
        path.write_bytes(b"\n".join([first, *(line.encode("utf-8", "replace") for line in lines)]))
    assert ("woman", "女" if name == "d.u8" else "Frau") in [pair[:2] for pair in read(path)]


def test_cut_dictionaries(tmp_path: Path) -> None:
    path = write_dictd(tmp_path, [("piano", "piano\nKlavier\n")], "")
    (tmp_path / "d.dict").write_bytes(b"piano\n")
    with pytest.raises(UserError, match="found 6 bytes; expected 14"):
        read(path)
    path = write_stardict(tmp_path, [("piano", b"Klavier")], "sametypesequence=m", "I", False)
    (tmp_path / "s.idx").write_bytes(b"piano\0\0")
    with pytest.raises(UserError, match="cut entry at byte 0"):
        read(path)


ODD = {
    "kaikki.jsonl": [
        '{"redirect": "x", "title": "y"}',
        '{"lang_code": "en", "word": "house", "translations": [{"lang_code": "de", "word": "Haus"}, "x", {"word": 3}]}',
        '{"lang_code": "en", "word": 5, "translations": [{"lang_code": "de", "word": "Haus"}]}',
        '{"lang_code": "en", "word": "a", "translations": {"de": ["b"]}, "senses": ["c", {"translations": "d"}]}',
    ],
    "table.json": ['{"house": "Haus", "words": "Wörter", "word": "Wort", "translations": "Übersetzungen"}'],
}


@pytest.mark.parametrize("name", ODD)
def test_odd_records(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("\n".join(ODD[name]))
    found = {pair[:2] for pair in read(tmp_path / name)}
    assert ("house", "Haus") in found
    assert name != "table.json" or ("words", "Wörter") in found


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tei", b'<?xml version="1.0" encoding="GB18030"?><TEI/>'),
        ("a.tei", b'<?xml version="1.0" encoding="nonsense"?><TEI/>'),
        ("a.json", b'{"a": ' + b"[" * 200_000),
    ],
)
def test_what_no_parser_takes_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"not well-formed XML|not JSON"):
        read(tmp_path / name)
