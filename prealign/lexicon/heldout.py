"""Words kept for evaluation: which ones, and how the table is kept free of them."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from prealign.lexicon.cleaning import Dropped
from prealign.lexicon.table import Entry, read_table

LARGEST_REACH = 1e-4
"""A word is not held out when that would take pairs from entries that make up more than this share of all occurrences:
no common word ("the"), and no word with a translation that common words share ("die", which is "the" and "those")."""


def is_heldout(word: str, fraction: float) -> bool:
    """Whether a source word is drawn: by the hash of its spelling, so that no seed, text or dictionary changes it, and
    a larger fraction draws the same words and more."""
    digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2.0**64


def heldout_entries(path: Path, fraction: float, occurrences: int) -> Iterator[Entry]:
    """The entries of a table on disk that are kept for evaluation.

    ``occurrences``: of all words of the text, for `LARGEST_REACH`. The table is read twice.
    """
    reach: Counter[str] = Counter()
    for entry in read_table(path):
        for spelling in spellings([entry]):
            reach[spelling] += entry.count
    limit = LARGEST_REACH * occurrences
    for entry in read_table(path):
        drawn = is_heldout(entry.word, fraction)
        if drawn and max(reach[spelling] for spelling in spellings([entry])) <= limit:
            yield entry


def spellings(entries: Iterable[Entry]) -> set[str]:
    """All words of entries, source and target, in lower case.

    Languages are not told apart: a spelling that two of them share is one row of a word batch.
    """
    words: set[str] = set()
    for entry in entries:
        words.add(entry.word.lower())
        words.update(word.lower() for translations in entry.translations.values() for word in translations)
    return words


def training_entries(entries: Iterable[Entry], heldout: set[str], dropped: dict[str, Dropped]) -> Iterator[Entry]:
    """The entries without any pair of which a word is in ``heldout`` (lower case).

    What is left out is counted in ``dropped`` by language. Entries that keep no translation are left out.
    """
    for entry in entries:
        kept = Entry(entry.word, entry.count, entry.case)
        for language, translations in entry.translations.items():
            chosen = []
            for number, translation in enumerate(translations):
                if entry.word.lower() in heldout or translation.lower() in heldout:
                    dropped[language].add("held out", entry.word, translation)
                else:
                    chosen.append(number)
            if chosen:
                kept.translations[language] = [translations[number] for number in chosen]
                if language in entry.sources:
                    kept.sources[language] = [entry.sources[language][number] for number in chosen]
        if kept.translations:
            yield kept
