"""Word lists of two columns: MUSE's ``source target`` lines, and TSV."""

from collections.abc import Iterator
from pathlib import Path

from prealign.errors import UserError
from prealign.lexicon.dictionaries.opening import text_lines


def read_word_list(path: Path, tabs_only: bool = False) -> Iterator[tuple[str, str, int]]:
    """(source, translation, rank) of a list; a line is split at a tab, or else at the first space (MUSE).

    Further columns, blank lines and lines that start with ``#`` are skipped. The rank counts the lines that follow
    one another with the same source. Raises `UserError` for a line of one column.
    """
    previous, rank = "", -1
    for number, line in text_lines(path):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        source, _, translation = line.partition("\t") if tabs_only or "\t" in line else line.partition(" ")
        source, translation = source.strip(), translation.split("\t")[0].strip()
        if not source or not translation:
            expected = "<tab>" if tabs_only else "<tab or space>"
            raise UserError(f"{path}, line {number}: found {line[:60]!r}; expected 'source{expected}translation'")
        rank = rank + 1 if source == previous else 0
        previous = source
        yield source, translation, rank
