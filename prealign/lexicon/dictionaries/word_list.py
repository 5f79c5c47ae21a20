"""Word lists of two columns: MUSE's ``source target`` lines, and TSV."""

from collections.abc import Iterator
from pathlib import Path

from prealign.lexicon.dictionaries.opening import bad_line, text_lines


def read_word_list(path: Path, tabs_only: bool = False) -> Iterator[tuple[str, str, int]]:
    """(source, translation, rank) of a list; a line is split at a tab, or else at the first space (MUSE).

    Further columns, blank lines and lines that start with ``#`` are skipped. The rank counts the lines that follow
    one another with the same source. A line of one column is a bad one.
    """
    previous, rank = "", -1
    for _, line in text_lines(path):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        source, _, translation = line.partition("\t") if tabs_only or "\t" in line else line.partition(" ")
        source, translation = source.strip(), translation.split("\t")[0].strip()
        if not source or not translation:
            yield bad_line(line)
            continue
        rank = rank + 1 if source == previous else 0
        previous = source
        yield source, translation, rank
