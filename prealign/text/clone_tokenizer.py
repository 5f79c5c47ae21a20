"""Text <-> token ids of a vocabulary with clone blocks, in a notation that keeps the languages apart.

Clone ``i`` of a recipe has the ids ``(i + 1) * V`` and following, where ``V`` is the tokenizer's vocabulary. Clone text
is shown in brackets with the language's name, ``The ⟦clone:dog⟧ barked``; the space before a word, though part of its
token, stands outside. End-of-document is ``⟦<|endoftext|>⟧``, and brackets of the text itself are ``⟦⟦`` and ``⟦⟧``.
"""

import numpy as np

from prealign.text.clone_words import CloneWords
from prealign.text.tokenizer import END_OF_DOCUMENT, Tokenizer

_SHOWN_END = f"⟦{END_OF_DOCUMENT}⟧"
_ESCAPES = str.maketrans({"⟦": "⟦⟦", "⟧": "⟦⟧"})


class CloneTokenizer:
    """A tokenizer for all blocks of the vocabulary.

    ``clones``: names of the clone languages, in block order. ``words``: the bijections of those at word level.
    """

    def __init__(self, tokenizer: Tokenizer, clones: list[str], words: dict[str, CloneWords]) -> None:
        self.tokenizer = tokenizer
        self.clones = clones
        self.words = words
        self.vocab_size = tokenizer.vocab_size * (1 + len(clones))
        self._block = {name: number for number, name in enumerate(clones, start=1)}

    def encode(self, text: str, language: str) -> np.ndarray:
        """Token ids (int64) of a text in a language; a clone's text is given in the original's words."""
        if language in self.words:
            text = self.words[language].to_clone(text)
        return self.tokenizer.encode(text).astype(np.int64) + self._block.get(language, 0) * self.tokenizer.vocab_size

    def decode(self, ids: np.ndarray | list[int]) -> str:
        """Show token ids of any blocks. Raises `ValueError` for an id outside the vocabulary.

        A clone at word level shows its own words. Characters whose bytes are not complete within a language become
        U+FFFD.
        """
        ids = np.asarray(ids, dtype=np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= self.vocab_size):
            raise ValueError(f"token ids {ids.min()} to {ids.max()}; expected 0 to {self.vocab_size - 1}")
        blocks, local = np.divmod(ids, self.tokenizer.vocab_size)
        runs = np.split(local, np.flatnonzero(np.diff(blocks)) + 1) if ids.size else []
        starts = np.cumsum([0, *map(len, runs)])[:-1]
        return "".join(self._show(int(blocks[start]), run) for start, run in zip(starts, runs))

    def _show(self, block: int, local: np.ndarray) -> str:
        """A run of one block, not empty."""
        end = self.tokenizer.end_of_document
        cuts = np.flatnonzero(local == end)
        parts = [part[part != end] for part in np.split(local, cuts)]
        shown = _SHOWN_END.join(self.tokenizer.decode(part).translate(_ESCAPES) for part in parts)
        if block == 0:
            return shown
        space = ""
        if shown.startswith(" ") and self.tokenizer.token_lengths[local[0]] > 1:
            space, shown = " ", shown[1:]
        return f"{space}⟦{self.clones[block - 1]}:{shown}⟧"
