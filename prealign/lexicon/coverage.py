"""How much of the source text the table covers, how ambiguous it is, and what was left out: a report per language."""

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from prealign.lexicon.cleaning import Dropped
from prealign.lexicon.table import Entry

_EXAMPLES = 20
_TAIL = 5
_MANY = 0.01
"""Share of words in forms that no translation has, from which the report says so."""


def measure_coverage(
    counts: Iterable[tuple[str, int, int]], entries: Iterable[Entry], languages: list[str]
) -> dict[str, Any]:
    """Coverage of counted words by entries, both in the same order.

    Returns ``{"source": {"types", "tokens"}, "languages": {name: ...}, "all languages": ..., "any language": ...}``;
    types are different words, tokens their occurrences (token mass) in the source training text. Per language:
    ``types``, ``tokens`` (covered), their shares, ``pairs``, ``translations_per_word`` (mean over covered words, and
    over occurrences), ``words_with`` 1, 2, ... translations, ``words_per_translation``, the translations that are
    ``most_shared`` (with their numbers of words: far too many mean noise in a dictionary), and the most frequent words
    that are ``uncovered``.
    """
    tallies = {language: _Tally() for language in languages}
    together = {"any language": _Tally(), "all languages": _Tally()}
    remaining = iter(entries)
    entry = next(remaining, None)
    types = tokens = 0
    for word, count, _ in counts:
        types += 1
        tokens += count
        translations = {}
        if entry is not None and entry.word == word:
            translations, entry = entry.translations, next(remaining, None)
        for language, tally in tallies.items():
            tally.add(word, count, translations.get(language, []))
        with_translation = [language for language in languages if language in translations]
        together["any language"].add(word, count, with_translation)
        together["all languages"].add(word, count, with_translation if len(with_translation) == len(languages) else [])
    return {
        "source": {"types": types, "tokens": tokens},
        "languages": {name: tally.report(types, tokens) | tally.ambiguity() for name, tally in tallies.items()},
        **{name: tally.report(types, tokens) for name, tally in together.items()},
    }


class _Tally:
    def __init__(self) -> None:
        self.types = self.tokens = self.pairs = self.weighted = 0
        self.words_with: dict[str, int] = {}
        self.translations: Counter[str] = Counter()
        self.uncovered: list[str] = []

    def add(self, word: str, count: int, translations: list[str]) -> None:
        if not translations:
            if len(self.uncovered) < _EXAMPLES:
                self.uncovered.append(word)
            return
        self.types += 1
        self.tokens += count
        self.pairs += len(translations)
        self.weighted += count * len(translations)
        key = str(len(translations)) if len(translations) < _TAIL else f"{_TAIL} or more"
        self.words_with[key] = self.words_with.get(key, 0) + 1
        self.translations.update(translations)

    def report(self, types: int, tokens: int) -> dict[str, Any]:
        return {
            "types": self.types,
            "types_share": _ratio(self.types, types),
            "tokens": self.tokens,
            "tokens_share": _ratio(self.tokens, tokens),
            "uncovered": self.uncovered,
        }

    def ambiguity(self) -> dict[str, Any]:
        return {
            "pairs": self.pairs,
            "translations_per_word": _ratio(self.pairs, self.types),
            "translations_per_occurrence": _ratio(self.weighted, self.tokens),
            "words_with": dict(sorted(self.words_with.items())),
            "words_per_translation": _ratio(self.pairs, len(self.translations)),
            "most_shared": dict(self.translations.most_common(_EXAMPLES)),
        }


def _ratio(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def measure_target_text(
    counts: Iterable[tuple[str, int]], entries: Iterable[Entry], language: str, key: Callable[[str], str]
) -> dict[str, Any]:
    """Share of a target text's words that are translations in the table; ``key`` is what spellings are compared by.

    ``counts``: (word, occurrences) of the text. Returns ``{"types", "types_share", "tokens", "tokens_share",
    "compatibility_share"}``: shares of what is covered, and of occurrences that are not in Unicode's NFKC, which
    translations are in.
    """
    known = {key(word) for entry in entries for word in entry.translations.get(language, [])}
    types = tokens = covered_types = covered_tokens = compatibility = 0
    for word, count in counts:
        compatibility += 0 if unicodedata.is_normalized("NFKC", word) else count
        covered = key(word) in known
        types, tokens = types + 1, tokens + count
        covered_types, covered_tokens = covered_types + covered, covered_tokens + covered * count
    return {
        "types": types,
        "types_share": _ratio(covered_types, types),
        "tokens": tokens,
        "tokens_share": _ratio(covered_tokens, tokens),
        "compatibility_share": _ratio(compatibility, tokens),
    }


def add_dropped(report: dict[str, Any], read: dict[str, Any], dropped: list[dict[str, Any]]) -> None:
    """Put what was read and what was left out beside a language's coverage (``{language: {reason: ...}}`` each)."""
    for language, row in report["languages"].items():
        row["dictionaries"] = read.get(language, {})
        row["dropped"] = {reason: what for part in dropped for reason, what in part.get(language, {}).items()}


def dropped_as_dict(dropped: dict[str, Dropped]) -> dict[str, Any]:
    """What `Dropped.as_dict` gives, by language."""
    return {language: value.as_dict() for language, value in dropped.items()}


def coverage_lines(path: Path) -> Iterator[str]:
    """A report on disk as a table for the terminal."""
    report = json.loads(path.read_text(encoding="utf-8"))
    source = report["source"]
    yield f"coverage of {source['types']:,} source words with {source['tokens']:,} occurrences ({path}):"
    yield "                    words   share  of text     pairs  per word  target text  left out"
    for name, row in report["languages"].items():
        left_out = ", ".join(f"{what['pairs']:,} {reason}" for reason, what in row["dropped"].items()) or "-"
        target = row.get("target_text", {})
        reached = f"{target['tokens_share']:.1%}" if "tokens_share" in target else target.get("needs", "-")
        yield (
            f"  {name:>13} {row['types']:>9,} {row['types_share']:>7.1%} {row['tokens_share']:>8.1%} "
            f"{row['pairs']:>9,} {row['translations_per_word']:>9.2f} {reached:>12}  {left_out}"
        )
        if "needs" in target:
            yield f"  {'':>13} words of its text can be counted with {target['needs']}: pip install {target['needs']}"
        if target.get("compatibility_share", 0) > _MANY:
            yield (
                f"  {'':>13} {target['compatibility_share']:.1%} of the words of its text have presentation forms or "
                f"the like, which no translation has; languages.{name}.text.normalize=nfkc replaces them"
            )
    for name in ("all languages", "any language"):
        row = report[name]
        yield f"  {name:>13} {row['types']:>9,} {row['types_share']:>7.1%} {row['tokens_share']:>8.1%}"
