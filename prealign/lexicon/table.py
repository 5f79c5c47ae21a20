"""The alignment table as people read it: one JSON object a line, most frequent word first.

``{"word": "piano", "count": 12, "case": 0, "translations": {"de": ["Klavier"]}, "sources": ["de:muse.txt"]}``
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from prealign.errors import UserError


@dataclass
class Entry:
    """A source word (case folded) and its translations per language, best first."""

    word: str
    count: int
    case: int = 0
    """How the corpus writes the word most often: 0 as it stands, 1 capitalised, 2 upper case."""
    translations: dict[str, list[str]] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    """Where the translations come from, as ``language:file name``."""


def write_table(path: Path, entries: Iterable[Entry]) -> int:
    """Write entries as JSON lines; returns how many."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for entry in entries:
            file.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")
            count += 1
    return count


def read_table(path: Path) -> Iterator[Entry]:
    """Read what `write_table` wrote."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield Entry(**json.loads(line))


def read_dictionary(path: Path) -> Iterator[tuple[str, str]]:
    """(source, translation) pairs of a word list: two columns a line, split at a tab, or else at the first space (the
    MUSE format). Blank lines and lines that start with ``#`` are skipped. Raises `UserError` for a line of one
    column."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                line = line.strip()
                if not line or line.startswith("#"):
                    continue
                source, _, translation = line.partition("\t") if "\t" in line else line.partition(" ")
                translation = translation.split("\t")[0].strip()
                if not source.strip() or not translation:
                    raise UserError(
                        f"{path}, line {number}: found {line[:60]!r}; expected 'source<tab or space>translation'"
                    )
                yield source.strip(), translation
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a word list; mend languages.*.dictionaries") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: found bytes that are not UTF-8 at byte {error.start}; expected UTF-8 text") from None


def build_table(
    counts: Iterable[tuple[str, int, int]],
    dictionaries: dict[str, list[Path]],
    clones: list[str],
    min_count: int,
) -> Iterator[Entry]:
    """Join counted words with their translations.

    ``counts``: (case-folded word, occurrences, usual case), most frequent first. ``dictionaries``: word lists per
    target language; equal translations are kept once, in file order. ``clones``: languages in which every word is its
    own clone. Words without any translation are left out.
    """
    known: dict[str, dict[str, list[str]]] = {}
    origins: dict[tuple[str, str], set[str]] = {}
    for language, paths in dictionaries.items():
        for path in paths:
            for source, translation in read_dictionary(path):
                words = known.setdefault(source.lower(), {}).setdefault(language, [])
                if translation not in words:
                    words.append(translation)
                    origins.setdefault((source.lower(), language), set()).add(f"{language}:{path.name}")
    for word, count, case in counts:
        if count < min_count:
            continue
        translations = {language: [word] for language in clones} | known.get(word, {})
        if translations:
            sources = sorted(set().union(*(origins.get((word, language), set()) for language in translations)))
            yield Entry(word, count, case, translations, sources)
