"""Where the words of a text lie in its tokens."""

import unicodedata
from functools import cache

import numpy as np


@cache
def letter_table() -> np.ndarray:
    """Bool per code point ``[0x110000]``: letters and combining marks (Unicode categories L* and M*) make words."""
    return np.fromiter((unicodedata.category(chr(c))[0] in "LM" for c in range(0x110000)), dtype=bool, count=0x110000)


def letter_bytes(text: np.ndarray) -> np.ndarray:
    """Bool per byte of a UTF-8 text (uint8): whether it belongs to a letter or a combining mark."""
    table = letter_table()
    letters = np.concatenate((table[:128], np.zeros(128, bool))).take(text)
    # lead bytes of characters of two, three and four bytes: bits of the code point that they hold, and how many follow
    for low, high, mask, following in ((0xC0, 0xE0, 0x1F, 1), (0xE0, 0xF0, 0x0F, 2), (0xF0, 0x100, 0x07, 3)):
        lead = np.flatnonzero((text >= low) & (text < high)) if high < 0x100 else np.flatnonzero(text >= low)
        if len(lead) == 0:
            continue
        point = (text[lead] & mask).astype(np.int32)
        for place in range(1, following + 1):
            point = point << 6 | (text[lead + place] & 0x3F)
        lead = lead[table[point]]
        for place in range(following + 1):
            letters[lead + place] = True
    return letters


def word_spans(text: str, token_lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Token spans of the words of a text.

    A word is a maximal run of letters and marks. ``token_lengths`` holds the byte length of each token of the text, in
    order. Returns ``(starts, ends, skipped)``: int64 token indices, word ``i`` is tokens ``starts[i]:ends[i]``. A
    single space before the word belongs to it when it is part of the word's first token. Words without a token boundary
    at both edges (possible with a foreign pre-tokenizer) are left out and counted in ``skipped``.
    """
    encoded = np.frombuffer(text.encode(), dtype=np.uint8)
    if encoded.size == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64), 0
    letters = letter_bytes(encoded)
    edges = np.flatnonzero(letters[1:] != letters[:-1]) + 1
    if letters[0]:
        edges = np.concatenate(([0], edges))
    if letters[-1]:
        edges = np.concatenate((edges, [len(encoded)]))
    first, last = edges[0::2], edges[1::2]  # byte ranges [first, last)

    token_at = np.full(len(encoded) + 1, -1, dtype=np.int32)  # byte offset -> token that starts there
    token_at[np.concatenate(([0], np.cumsum(token_lengths, dtype=np.int64)))] = np.arange(len(token_lengths) + 1)

    starts = token_at[first]
    inside = np.flatnonzero((starts < 0) & (first > 0) & (encoded[first - 1] == 0x20))
    starts[inside] = token_at[first[inside] - 1]
    ends = token_at[last]
    whole = (starts >= 0) & (ends >= 0)
    if not whole.all():
        starts, ends = starts[whole], ends[whole]
    return starts.astype(np.int64), ends.astype(np.int64), len(whole) - len(starts)
