"""Ding's word lists: ``left; left | left :: right; right | right``, sub-entries between bars side by side."""

from collections.abc import Iterator
from pathlib import Path

from prealign.lexicon.dictionaries.glosses import split_list
from prealign.lexicon.dictionaries.opening import bad_line, text_lines


def read_ding(path: Path) -> Iterator[tuple[str, str, int]]:
    """(left, right, rank) of all pairs of a sub-entry's synonyms; ranks grow with both positions.

    A line whose sides have different numbers of sub-entries gives its first ones; one without ``::`` is a bad one.
    """
    for _, line in text_lines(path):
        if not line.strip() or line.startswith("#"):
            continue
        left, separator, right = line.partition("::")
        if not separator:
            yield bad_line(line)
            continue
        lefts, rights = left.split("|"), right.split("|")
        pairs = list(zip(lefts, rights)) if len(lefts) == len(rights) else [(lefts[0], rights[0])]
        for one, other in pairs:
            for i, headword in enumerate(split_list(one, ";")):
                for j, translation in enumerate(split_list(other, ";")):
                    yield headword, translation, i + j
