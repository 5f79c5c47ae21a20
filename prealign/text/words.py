"""Where the words of a text lie in its tokens."""

import unicodedata
from functools import cache

import numpy as np


@cache
def letter_table() -> np.ndarray:
    """Bool per code point ``[0x110000]``: letters and combining marks (Unicode categories L* and M*) make words."""
    return np.fromiter((unicodedata.category(chr(c))[0] in "LM" for c in range(0x110000)), dtype=bool, count=0x110000)


def word_spans(text: str, token_lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Token spans of the words of a text.

    A word is a maximal run of letters and marks. ``token_lengths`` holds the byte length of each token of the text, in
    order. Returns ``(starts, ends, skipped)``: int64 token indices, word ``i`` is tokens ``starts[i]:ends[i]``. A
    single space before the word belongs to it when it is part of the word's first token. Words without a token boundary
    at both edges (possible with a foreign pre-tokenizer) are left out and counted in ``skipped``.
    """
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    if points.size == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64), 0
    letters = letter_table()[points]
    edges = np.flatnonzero(np.diff(letters, prepend=False, append=False))
    first, last = edges[0::2], edges[1::2]  # character ranges [first, last)

    widths = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    byte_of = np.concatenate(([0], np.cumsum(widths)))
    token_at = np.full(byte_of[-1] + 1, -1, dtype=np.int64)  # byte offset -> token that starts there
    token_at[np.concatenate(([0], np.cumsum(token_lengths, dtype=np.int64)))] = np.arange(len(token_lengths) + 1)

    starts = token_at[byte_of[first]]
    after_space = (first > 0) & (points[first - 1] == 0x20)
    starts = np.where((starts < 0) & after_space, token_at[byte_of[first] - 1], starts)
    ends = token_at[byte_of[last]]
    whole = (starts >= 0) & (ends >= 0)
    return starts[whole], ends[whole], int(np.count_nonzero(~whole))
