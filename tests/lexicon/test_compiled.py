"""The compiled table: forms, clones, restriction and permutation."""

from pathlib import Path

import numpy as np
import pytest

from prealign.lexicon.compiled import FORMS, CompiledLexicon, compile_table, written_forms
from prealign.lexicon.table import Entry, read_table, write_table
from prealign.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer({bytes([i]): i for i in range(256)})
ENTRIES = [
    Entry("the", 100, 0, {"clone": ["the"], "de": ["der", "die"], "zh": ["这"]}),
    Entry("emma", 50, 1, {"clone": ["emma"]}),
    Entry("piano", 10, 0, {"clone": ["piano"], "de": ["Klavier"]}),
]
LANGUAGES = ["en", "clone", "de", "zh"]
SPACES = {"en": True, "clone": True, "de": True, "zh": False}
CASES = {"en": True, "clone": True, "de": True, "zh": False}


@pytest.fixture
def lexicon(tmp_path: Path) -> CompiledLexicon:
    compile_table(ENTRIES, TOKENIZER, LANGUAGES, SPACES, CASES, {"clone": 1000}, tmp_path)
    return CompiledLexicon.load(tmp_path, LANGUAGES)


def form(lexicon: CompiledLexicon, surface: int, number: int, shift: int = 0) -> str:
    first = lexicon.form_offsets[FORMS * surface + number]
    last = lexicon.form_offsets[FORMS * surface + number + 1]
    return bytes((lexicon.form_tokens[first:last] - shift).tolist()).decode()


def translations(lexicon: CompiledLexicon, entry: int, target: int) -> list[int]:
    first, last = lexicon.translation_offsets[entry, target]
    return lexicon.translations[first:last].tolist()


def test_forms() -> None:
    assert written_forms("piano", True) == ["piano", " piano", "Piano", " Piano", "PIANO", " PIANO"]
    assert written_forms("这", False) == ["这"] * 6
    assert written_forms("éa", True)[2] == "Éa"
    assert written_forms("კატა", True, cased=False)[4:] == ["კატა", " კატა"]


def test_tokens_of_every_form(lexicon: CompiledLexicon) -> None:
    assert len(lexicon) == 3
    assert [form(lexicon, 2, number) for number in range(6)] == written_forms("piano", True)
    german = translations(lexicon, 2, 1)
    assert [form(lexicon, surface, 1) for surface in german] == [" Klavier"]
    assert [form(lexicon, surface, 4) for surface in german] == ["KLAVIER"]
    assert [form(lexicon, surface, 1) for surface in translations(lexicon, 0, 2)] == ["这"]


def test_a_clone_is_the_shifted_source(lexicon: CompiledLexicon) -> None:
    for entry in range(3):
        (clone,) = translations(lexicon, entry, 0)
        for number in range(FORMS):
            assert form(lexicon, clone, number, shift=1000) == form(lexicon, entry, number)


def test_usual_form(lexicon: CompiledLexicon) -> None:
    """Words are aligned as the corpus writes them; translations as the dictionary does."""
    assert lexicon.usual_form[:3].tolist() == [1, 3, 1]
    assert lexicon.usual_form[translations(lexicon, 1, 0)].tolist() == [3]
    assert lexicon.usual_form[translations(lexicon, 2, 1)].tolist() == [1]
    assert lexicon.usual_form[translations(lexicon, 0, 2)].tolist() == [0]


def test_restriction_keeps_the_most_frequent(lexicon: CompiledLexicon) -> None:
    restricted = lexicon.restrict(0.34, None)
    assert translations(restricted, 0, 1) == translations(lexicon, 0, 1)
    assert translations(restricted, 1, 0) == []
    assert translations(restricted, 2, 0) == []


def test_permutation_moves_whole_rows(lexicon: CompiledLexicon) -> None:
    rows = [[translations(lexicon, entry, target) for target in range(3)] for entry in range(3)]
    orders = set()
    for seed in range(30):
        permuted = lexicon.restrict(1.0, seed)
        order = tuple(rows.index([translations(permuted, entry, target) for target in range(3)]) for entry in range(3))
        assert sorted(order) == [0, 1, 2]
        assert all(place != entry for entry, place in enumerate(order))  # none keeps its own
        orders.add(order)
    assert len(orders) == 2


@pytest.mark.parametrize("entries", [1, 2, 32, 33, 64, 500])
def test_permutation_is_fair(tmp_path: Path, entries: int) -> None:
    """Partners are about as frequent and as long in tokens as the word itself, and never itself."""
    words = [
        ("abc" if number % 2 else "abcdef") + chr(97 + number // 26) + chr(97 + number % 26)
        for number in range(entries)
    ]
    table = [Entry(word, 10_000 // (number + 1), 0, {"clone": [word]}) for number, word in enumerate(words)]
    compile_table(
        table,
        TOKENIZER,
        ["en", "clone"],
        {"en": True, "clone": True},
        {"en": True, "clone": True},
        {"clone": 600},
        tmp_path,
    )
    lexicon = CompiledLexicon.load(tmp_path, ["en", "clone"])
    permuted = lexicon.restrict(1.0, 7)
    partners = lexicon.translations[permuted.translation_offsets[:, 0, 0]] - lexicon.translations[0]
    assert sorted(partners) == list(range(entries))
    if entries == 1:
        return
    assert (partners != np.arange(entries)).all()
    lengths = lexicon.form_lengths[np.arange(entries) * 6 + lexicon.usual_form[:entries]]
    if entries == 500:
        assert np.mean(lengths == lengths[partners]) > 0.9
        assert np.median(np.abs(np.log2(lexicon.counts / lexicon.counts[partners]))) < 0.5


def test_no_entries(tmp_path: Path) -> None:
    compile_table([], TOKENIZER, LANGUAGES, SPACES, CASES, {}, tmp_path)
    assert len(CompiledLexicon.load(tmp_path, LANGUAGES)) == 0


def test_table_round_trip(tmp_path: Path) -> None:
    assert write_table(tmp_path / "t.jsonl", ENTRIES) == 3
    assert list(read_table(tmp_path / "t.jsonl")) == ENTRIES
