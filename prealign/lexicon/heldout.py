"""Words kept for evaluation: which ones, and how the table is kept free of them."""

import hashlib
from collections.abc import Iterable, Iterator

from prealign.lexicon.cleaning import Dropped
from prealign.lexicon.table import Entry


def is_heldout(word: str, fraction: float) -> bool:
    """Whether a source word is held out: by the hash of its spelling, so that no seed, text or dictionary changes it,
    and a larger fraction holds out the same words and more."""
    digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2.0**64


def heldout_entries(entries: Iterable[Entry], fraction: float) -> Iterator[Entry]:
    """The entries that are kept for evaluation, with their translations by dictionaries."""
    for entry in entries:
        if entry.sources and is_heldout(entry.word, fraction):
            translations = {language: entry.translations[language] for language in entry.sources}
            yield Entry(entry.word, entry.count, entry.case, translations, entry.sources)


def spellings(entries: Iterable[Entry]) -> set[str]:
    """All words of entries, source and target, in lower case.

    Languages are not told apart: a spelling that two of them share is one row of a word batch.
    """
    words: set[str] = set()
    for entry in entries:
        words.add(entry.word.lower())
        words.update(word.lower() for translations in entry.translations.values() for word in translations)
    return words


def training_entries(
    entries: Iterable[Entry], heldout: set[str], max_translations: int | None, dropped: dict[str, Dropped]
) -> Iterator[Entry]:
    """The entries without any pair of which a word is in ``heldout`` (lower case), cut to the best translations.

    What is left out is counted in ``dropped`` by language. Entries that keep no translation are left out.
    """
    for entry in entries:
        kept = Entry(entry.word, entry.count, entry.case)
        for language, translations in entry.translations.items():
            chosen: list[int] = []
            for number, translation in enumerate(translations):
                if entry.word.lower() in heldout or translation.lower() in heldout:
                    dropped[language].add("held out", entry.word, translation)
                elif max_translations is not None and len(chosen) == max_translations:
                    dropped[language].add("beyond the best", entry.word, translation)
                else:
                    chosen.append(number)
            if chosen:
                kept.translations[language] = [translations[number] for number in chosen]
                if language in entry.sources:
                    kept.sources[language] = [entry.sources[language][number] for number in chosen]
        if kept.translations:
            yield kept
