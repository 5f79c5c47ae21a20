"""Hashes of token spans: how words are counted and found in the table without touching text."""

from collections.abc import Iterator

import numpy as np

from prealign.corpus.store import TokenStore
from prealign.corpus.wordmap import WordMap
from prealign.hashing import mix

CHUNK_TOKENS = 1 << 22


def hash_spans(tokens: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """uint64 hash of each span ``tokens[starts[i]:ends[i]]`` (spans not empty, disjoint, ascending)."""
    if len(starts) == 0:
        return np.empty(0, dtype=np.uint64)
    lengths = ends - starts
    first = np.cumsum(lengths) - lengths
    place = np.arange(int(lengths.sum())) - np.repeat(first, lengths)
    values = mix(tokens[np.repeat(starts, lengths) + place].astype(np.uint64), place)
    return np.add.reduceat(values, first) ^ lengths.astype(np.uint64)


def words_in_chunks(store: TokenStore, words: WordMap) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
    """Walk a store: ``(tokens, starts, ends, ordinal)`` per chunk, every word in exactly one chunk."""
    begin = 0
    while begin < len(store):
        end = min(begin + CHUNK_TOKENS, len(store))
        starts, ends, ordinal, stop = words.between(begin, end)
        yield store.tokens[begin:end], starts, ends, ordinal
        begin += stop if stop > 0 else end - begin
