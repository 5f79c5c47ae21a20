"""Word lists of two columns: MUSE's ``source target`` lines, and TSV."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from prealign.errors import UserError
from prealign.lexicon.dictionaries.opening import bad_line, text_lines

_TITLES = {"source", "target", "src", "tgt", "trg", "word", "words", "headword", "lemma", "translation", "translations"}
"""Of columns, besides codes of languages."""
_PARTS_OF_SPEECH = {
    *("noun", "verb", "adjective", "adverb", "pronoun", "preposition", "conjunction", "interjection", "determiner"),
    *("propn", "adj", "adv", "adp", "num", "pron", "det", "prep", "conj", "intj", "aux", "part"),
    *("n", "v", "a", "r", "s"),
}
_FIRST_LINES = 50


def read_word_list(path: Path, codes: set[str], tabs_only: bool = False) -> Iterator[tuple[str, str, int]]:
    """(source, translation, rank) of a list; a line is split at tabs, or else at spaces (MUSE).

    Further columns behind tabs, blank lines and lines that start with ``#`` are skipped. The rank counts the lines that
    follow one another with the same source. Bad lines are those of one column, a first line of titles (``codes``: what
    languages may be called), and several spaces without a tab, where nobody knows which of them ends the source. Raises
    `UserError` where the second column holds parts of speech.
    """
    _refuse_parts_of_speech(path)
    previous, rank, first = "", -1, True
    for _, line in text_lines(path):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        columns = _columns(line, tabs_only)
        titles, first = first and {column.casefold() for column in columns} <= _TITLES | codes, False
        if titles or len(columns) < 2 or not all(columns[:2]) or (len(columns) > 2 and "\t" not in line):
            yield bad_line(line)
            continue
        source, translation = columns[:2]
        rank = rank + 1 if source == previous else 0
        previous = source
        yield source, translation, rank


def _columns(line: str, tabs_only: bool) -> list[str]:
    return [column.strip() for column in line.split("\t")] if tabs_only or "\t" in line else line.split()


def _refuse_parts_of_speech(path: Path) -> None:
    lines = (line.strip().split("\t") for _, line in text_lines(path))
    rows = list(islice((columns for columns in lines if len(columns) > 2), _FIRST_LINES))
    found = {columns[1].strip().strip(".").casefold() for columns in rows[1:]}
    if len(rows) > 2 and found <= _PARTS_OF_SPEECH:
        raise UserError(
            f"{path}: column 2 holds parts of speech ({', '.join(sorted(found)[:4])}); expected SOURCE, tab, "
            f"TRANSLATION; take that column out, for example with: cut -f1,3 FILE > NEW.tsv"
        )
