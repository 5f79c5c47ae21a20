"""No held-out word, source or target, is left in the table; common words are never drawn."""

import string
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from prealign.lexicon.cleaning import Dropped
from prealign.lexicon.heldout import LARGEST_REACH, heldout_entries, is_heldout, spellings, training_entries
from prealign.lexicon.table import Entry, write_table

WORDS = st.text(string.ascii_letters[:6] + "ABÄä", min_size=1, max_size=3)
TRANSLATIONS = st.dictionaries(
    st.sampled_from(["de", "fr"]), st.lists(WORDS, min_size=1, max_size=4, unique=True), min_size=1
)


@st.composite
def tables(draw: st.DrawFn) -> list[Entry]:
    words = draw(st.lists(WORDS.map(str.lower), unique=True, max_size=40))
    return [Entry(word, draw(st.integers(1, 100)), 0, draw(TRANSLATIONS)) for word in words]


@settings(deadline=None, max_examples=200)
@given(table=tables(), fraction=st.floats(0, 0.9))
def test_no_leak(tmp_path_factory, table: list[Entry], fraction: float) -> None:
    path = tmp_path_factory.mktemp("t") / "t.jsonl"
    write_table(path, table)
    occurrences = 200 * len(table) / LARGEST_REACH
    heldout = list(heldout_entries(path, fraction, int(occurrences)))
    dropped = {"de": Dropped(), "fr": Dropped()}
    kept = list(training_entries(table, spellings(heldout), dropped))
    assert spellings(kept).isdisjoint(spellings(heldout))
    pairs = [
        (entry.word, language, word)
        for entries in (kept, table)
        for entry in entries
        for language, words in entry.translations.items()
        for word in words
    ]
    removed = sum(value.counts["held out"] for value in dropped.values())
    kept_pairs = sum(len(words) for entry in kept for words in entry.translations.values())
    assert 2 * kept_pairs + removed == len(pairs)
    assert all(entry.translations for entry in kept)


def test_drawn_by_spelling_and_nested() -> None:
    words = [f"word{number}" for number in range(10_000)]
    small = {word for word in words if is_heldout(word, 0.02)}
    assert 150 < len(small) < 250
    assert small <= {word for word in words if is_heldout(word, 0.05)}


def test_what_common_words_share_is_not_drawn(tmp_path: Path) -> None:
    """ "die" is a translation of "the", and "rhino" has one in common with it: neither may take "the" out."""
    table = [Entry("the", 90_000, 0, {"de": ["die", "der"], "fr": ["le"]})]
    table += [Entry(f"rare{number}", 1, 0, {"de": ["der", f"selten{number}"]}) for number in range(50)]
    table += [Entry("die", 1, 0, {"de": ["sterben"]}), Entry("free", 2, 0, {"de": ["frei"]})]
    write_table(tmp_path / "t.jsonl", table)
    heldout = list(heldout_entries(tmp_path / "t.jsonl", 0.9999999, 100_000))
    assert [entry.word for entry in heldout] == ["free"]
