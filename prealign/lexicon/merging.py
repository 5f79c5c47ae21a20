"""Any number of dictionaries -> one table, every pair with where it comes from."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import regex

from prealign.lexicon.cleaning import Cleaner, Dropped
from prealign.lexicon.dictionaries import BAD_LINE, Pair
from prealign.lexicon.table import Entry

_ONE_WORD = regex.compile(r"[\p{L}\p{M}]+")
"""What is one word of a text (`prealign.text.words`)."""


@dataclass
class _Translation:
    spelling: str
    sources: dict[str, int] = field(default_factory=dict)
    """Rank by the name of the dictionary; the first dictionary's first."""


class Merger:
    """Collects pairs from sources, then joins them with the counted words. Memory grows with the dictionaries, never
    with the text."""

    def __init__(self, source: Cleaner, targets: dict[str, Cleaner]) -> None:
        self._source = source
        self._targets = targets
        self._known: dict[str, dict[str, dict[str, _Translation]]] = {}  # word -> language -> key -> translation
        self.dropped = {language: Dropped() for language in targets}
        self.read: dict[str, dict[str, dict[str, int]]] = {language: {} for language in targets}
        """Pairs read and kept, by language and dictionary; kept: clean, and not given by the same dictionary before."""

    def add(self, name: str, pairs: Iterable[Pair]) -> None:
        """Clean and keep the pairs of a source; ``name`` is what the table calls it."""
        cleaned: tuple[str, str] = ("", "")  # equal sources follow each other: each is cleaned once
        previous = None
        for pair in pairs:
            if pair.source != previous:
                previous = pair.source
                cleaned = self._source.clean(pair.source)
            dropped = self.dropped[pair.language]
            tally = self.read[pair.language].setdefault(name, {"read": 0, "kept": 0})
            tally["read"] += 1
            if pair.rank == BAD_LINE:
                dropped.add("bad line", pair.source, pair.translation)
                continue
            source, _ = cleaned
            if not _ONE_WORD.fullmatch(source):
                dropped.add("source is not a word", pair.source, pair.translation)
                continue
            if self._source.is_fragment(source):
                dropped.add("fragment", pair.source, pair.translation)
                continue
            cleaner = self._targets[pair.language]
            spelling, reason = cleaner.clean(pair.translation)
            if reason:
                dropped.add(reason, pair.source, pair.translation)
                continue
            languages = self._known.setdefault(self._source.key(source), {})
            known = languages.setdefault(pair.language, {})
            translation = known.setdefault(cleaner.key(spelling), _Translation(spelling))
            if name in translation.sources:
                dropped.add("repeated", pair.source, pair.translation)
                translation.sources[name] = min(translation.sources[name], pair.rank)
                continue
            translation.sources[name] = pair.rank
            tally["kept"] += 1

    def join(
        self,
        counts: Iterable[tuple[str, int, int]],
        clones: list[str],
        min_count: int,
        max_translations: int | None = None,
        max_sources: int | None = None,
    ) -> Iterator[Entry]:
        """Entries of the counted words that have a translation, in the order of ``counts``.

        ``counts``: (word, occurrences, usual case). ``clones``: languages in which every word is its own clone. A
        word's translations stand in this order: more dictionaries first, then the better rank, then the first read; at
        most ``max_translations`` of a language stay. Before that, translations that more than ``max_sources`` words of
        the dictionaries share are left out.
        When the iteration ends, words that no count named are counted as "not in the text".
        """
        if max_sources is not None:
            self._drop_shared(max_sources)
        met: set[str] = set()
        for word, count, case in counts:
            if count < min_count:
                continue
            key = self._source.key(word)
            entry = Entry(word, count, case, {language: [word] for language in clones})
            for language, known in self._known.get(key, {}).items():
                met.add(key)
                ordered = sorted(known.values(), key=lambda item: (-len(item.sources), min(item.sources.values())))
                for item in ordered[max_translations:] if max_translations is not None else []:
                    self.dropped[language].add("beyond the best", word, item.spelling)
                ordered = ordered[:max_translations]
                entry.translations[language] = [item.spelling for item in ordered]
                entry.sources[language] = [item.sources for item in ordered]
            if entry.translations:
                yield entry
        for key, languages in self._known.items():
            if key not in met:
                for language, known in languages.items():
                    for item in known.values():
                        self.dropped[language].add("not in the text", key, item.spelling)

    def _drop_shared(self, max_sources: int) -> None:
        shared = Counter(
            (language, key)
            for languages in self._known.values()
            for language, known in languages.items()
            for key in known
        )
        too_many = {of for of, words in shared.items() if words > max_sources}
        for word, languages in self._known.items() if too_many else []:
            for language, known in languages.items():
                for key in [key for key in known if (language, key) in too_many]:
                    self.dropped[language].add("shared by too many", word, known.pop(key).spelling)
            self._known[word] = {language: known for language, known in languages.items() if known}
