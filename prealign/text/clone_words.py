"""En-Clone at word level: a seeded bijection of word types, under which a text keeps everything but its words.

A word type is a case-folded word. Every written form of a type becomes the same form (as it stands, capitalised, upper
case) of one other type; a word that is not in the table, or written in another way ("McDonald"), stays what it is.
Types change places only with types that have as many different forms, so that forms map one to one, and as many bytes
and tokens (in the usual and the capitalised form), so that the clone's text is as long as the original's, but for rare
forms. A type that has no such partner stays what it is.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from prealign.errors import UserError
from prealign.random_streams import mix, permute
from prealign.text.tokenizer import Tokenizer
from prealign.text.words import letter_table


class CloneWords:
    """The bijection, both ways. ``table``: case-folded word -> case-folded clone word, a permutation of its keys."""

    def __init__(self, table: dict[str, str]) -> None:
        self.table = table
        self._inverse = {clone: word for word, clone in table.items()}

    @classmethod
    def draw(cls, words: Iterable[tuple[str, int]], tokenizer: Tokenizer, seed: int) -> "CloneWords":
        """A bijection of ``words``: (case-folded word, usual case: 0 as it stands, 1 capitalised, 2 upper case)."""
        classes: dict[tuple[int, ...], list[str]] = {}
        for word, case in words:
            forms = _forms(word)
            if any(form.lower() != word for form in forms):
                continue  # upper case that does not lead back, as of the German sharp s
            pattern = (forms[0] == forms[1], forms[1] == forms[2])
            common = (" " + forms[case], " " + forms[1], forms[1])
            key = (len(word.encode()), *pattern, *(len(tokenizer.encode(form)) for form in common))
            classes.setdefault(key, []).append(word)
        table: dict[str, str] = {}
        for key, members in classes.items():
            order = permute(np.arange(len(members)), len(members), int(mix(seed, *key)))
            table |= {word: members[place] for word, place in zip(members, order)}
        return cls(table)

    def to_clone(self, text: str) -> str:
        """The clone of a text."""
        return _rewrite(text, self.table)

    def to_original(self, text: str) -> str:
        """The text that has this clone."""
        return _rewrite(text, self._inverse)

    def save(self, path: Path) -> None:
        """Write ``word<tab>clone word`` lines."""
        path.write_text("".join(f"{word}\t{clone}\n" for word, clone in self.table.items()), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "CloneWords":
        """Read what `save` wrote. Raises `UserError` where it is not a bijection."""
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n") if line]
        if any(len(row) != 2 for row in rows) or sorted(row[0] for row in rows) != sorted(row[1] for row in rows):
            raise UserError(
                f"{path}: found no bijection of words; move {path.parent} away and run launchers/prepare.py"
            )
        return cls(dict(rows))


def _forms(word: str) -> tuple[str, str, str]:
    return word, word[:1].upper() + word[1:], word.upper()


def _rewrite(text: str, table: dict[str, str]) -> str:
    """Replace every word, a maximal run of letters and marks, by the same form of its entry in ``table``."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    if points.size == 0:
        return text
    edges = np.flatnonzero(np.diff(letter_table()[points], prepend=False, append=False)).tolist()
    parts, done = [], 0
    for first, last in zip(edges[0::2], edges[1::2]):
        parts += [text[done:first], _same_form(text[first:last], table)]
        done = last
    return "".join([*parts, text[done:]])


def _same_form(written: str, table: dict[str, str]) -> str:
    folded = written.lower()
    other = table.get(folded)
    if other is None:
        return written
    for form, other_form in zip(_forms(folded), _forms(other)):
        if written == form:
            return other_form
    return written
