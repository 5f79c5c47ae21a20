"""What `CloneTokenizer.decode` shows, read back."""

import re

import numpy as np

from prealign.text.clone_tokenizer import CloneTokenizer
from prealign.text.tokenizer import END_OF_DOCUMENT

_END = f"⟦{END_OF_DOCUMENT}⟧"
_SYMBOL = re.compile(rf"⟦⟦|⟦⟧|{re.escape(_END)}|⟦(?P<name>[^⟦⟧:]+):|⟦|⟧")


def encode_shown(tokenizer: CloneTokenizer, shown: str) -> np.ndarray:
    """Token ids (int64) of what ``tokenizer`` shows; the inverse of its `decode` on whole documents. Raises
    `ValueError` for brackets that it does not write.

    A token belongs to the language of its last byte, so a space before a word follows the word.
    """
    size, end = tokenizer.tokenizer.vocab_size, tokenizer.tokenizer.end_of_document
    documents: list[np.ndarray] = []
    parts: list[tuple[str, int]] = []
    block = done = 0
    for symbol in _SYMBOL.finditer(shown):
        parts.append((shown[done : symbol.start()], block))
        done = symbol.end()
        name = symbol["name"]
        if symbol[0] in ("⟦⟦", "⟦⟧"):
            parts.append((symbol[0][1], block))
        elif symbol[0] == _END:
            documents += [_encode_parts(tokenizer, parts), np.array([block * size + end])]
            parts.clear()
        elif name in tokenizer.clones and block == 0:
            block = 1 + tokenizer.clones.index(name)
        elif symbol[0] == "⟧" and block > 0:
            block = 0
        else:
            raise ValueError(f"character {symbol.start() + 1}: found '{shown[symbol.start() :][:20]}'")
    parts.append((shown[done:], block))
    return np.concatenate([*documents, _encode_parts(tokenizer, parts)])


def _encode_parts(tokenizer: CloneTokenizer, parts: list[tuple[str, int]]) -> np.ndarray:
    """One document: encoded as a whole, so that its pieces are those of the unmarked text."""
    base = tokenizer.tokenizer
    local = base.encode("".join(text for text, _ in parts)).astype(np.int64)
    ends = np.cumsum([len(text.encode()) for text, _ in parts])
    last_byte = np.cumsum(base.token_lengths[local], dtype=np.int64) - 1
    blocks = np.array([*(block for _, block in parts), 0])
    return local + base.vocab_size * blocks[np.searchsorted(ends, last_byte, side="right")]
