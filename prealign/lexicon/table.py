"""The alignment table as people read it: one JSON object a line, most frequent word first.

``{"word": "piano", "count": 12, "case": 0, "translations": {"de": ["Klavier"]}, "sources": {"de": [{"muse.txt":
0}]}}``
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Entry:
    """A source word (case folded) and its translations per language, best first."""

    word: str
    count: int
    case: int = 0
    """How the corpus writes the word most often: 0 as it stands, 1 capitalised, 2 upper case."""
    translations: dict[str, list[str]] = field(default_factory=dict)
    sources: dict[str, list[dict[str, int]]] = field(default_factory=dict)
    """Beside each translation: the dictionaries that give it, with its rank there (0 is best); none for a clone."""


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
