"""Keys of token spans: how words are counted and found in the table without touching text."""

import numpy as np

from prealign.random_streams import mix
from prealign.ranges import ranges
from prealign.stores.token_store import TokenStore
from prealign.stores.word_map import WordMap

CHUNK_TOKENS = 1 << 20
_PACKED = 3
_BITS = 21
_HASHED = np.uint64(1 << 63)


def span_keys(tokens: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """uint64 key of each span ``tokens[starts[i]:ends[i]]`` (spans not empty, disjoint, ascending; ids below 2^21 - 1).

    A span of up to three tokens has a key of its own, ``sum (token + 1) << 21 i``, so a span of one token has the key
    ``token + 1``; a longer one has a hash with the highest bit set.
    """
    lengths = ends - starts
    keys = tokens[starts].astype(np.uint64) + np.uint64(1)
    rest = np.flatnonzero(lengths > 1)
    for place in range(1, _PACKED):
        keys[rest] |= (tokens[starts[rest] + place].astype(np.uint64) + np.uint64(1)) << np.uint64(_BITS * place)
        rest = rest[lengths[rest] > place + 1]
    if len(rest):
        keys[rest] = _hash_spans(tokens, starts[rest], lengths[rest]) | _HASHED
    return keys


def _hash_spans(tokens: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    first = np.cumsum(lengths) - lengths
    place = ranges(0, lengths)
    values = mix(tokens[np.repeat(starts, lengths) + place].astype(np.uint64), place)
    return np.add.reduceat(values, first) ^ lengths.astype(np.uint64)


def chunks(store: TokenStore) -> list[tuple[int, int]]:
    """Ranges of tokens that cover a store."""
    return [(begin, min(begin + CHUNK_TOKENS, len(store))) for begin in range(0, len(store), CHUNK_TOKENS)]


def words_of_chunk(
    store: TokenStore, words: WordMap, begin: int, end: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """``(tokens, starts, ends, ordinal)`` of the words that start in tokens ``begin:end``; a word that goes on behind
    the chunk is whole. ``starts``, ``ends``: indices into ``tokens``. ``ordinal``: number of the first of these words.
    """
    more = end
    while True:
        starts, ends, ordinal, stop = words.between(begin, more)
        if begin + stop >= end:
            break
        more = min(more + CHUNK_TOKENS, len(store))  # a word that started in the chunk is not whole yet
    inside = int(np.searchsorted(starts, end - begin))
    tokens = np.array(store.tokens[begin:more])
    store.release()
    words.release()
    return tokens, starts[:inside], ends[:inside], ordinal
