"""How often each word of a store occurs, and how it is usually written."""

from dataclasses import dataclass

import numpy as np

from prealign.corpus.pool import ordered_map
from prealign.corpus.spans import chunks, span_keys, words_of_chunk
from prealign.corpus.store import TokenStore
from prealign.corpus.wordmap import WordMap
from prealign.text.tokenizer import Tokenizer

_MERGE_AT = 1 << 20


@dataclass(frozen=True)
class _Counts:
    """Spans by key, ascending: key, occurrences, and where in the store one of them lies; ``[n]`` each."""

    keys: np.ndarray
    occurrences: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @staticmethod
    def sum(parts: "list[_Counts]") -> "_Counts":
        keys, first, inverse = np.unique(
            np.concatenate([part.keys for part in parts]), return_index=True, return_inverse=True
        )
        total = np.bincount(inverse, np.concatenate([part.occurrences for part in parts]), len(keys)).astype(np.int64)
        starts = np.concatenate([part.starts for part in parts])[first]
        ends = np.concatenate([part.ends for part in parts])[first]
        return _Counts(keys, total, starts, ends)


@dataclass(frozen=True)
class _CountChunk:
    store: TokenStore
    words: WordMap

    def __call__(self, chunk: tuple[int, int]) -> _Counts:
        tokens, starts, ends, _ = words_of_chunk(self.store, self.words, *chunk)
        single = ends - starts == 1
        # words of one token are counted by it; only the others are sorted
        ids = tokens[starts[single]]
        counts = np.bincount(ids) if len(ids) else np.zeros(0, np.int64)
        place = np.zeros(len(counts), np.int64)
        place[ids] = starts[single]
        present = np.flatnonzero(counts)
        rest_starts, rest_ends = starts[~single], ends[~single]
        keys, first, repeats = np.unique(
            span_keys(tokens, rest_starts, rest_ends), return_index=True, return_counts=True
        )
        return _Counts(
            np.concatenate((present.astype(np.uint64) + np.uint64(1), keys)),
            np.concatenate((counts[present], repeats)),
            chunk[0] + np.concatenate((place[present], rest_starts[first])),
            chunk[0] + np.concatenate((place[present] + 1, rest_ends[first])),
        )


def count_words(store: TokenStore, words: WordMap, tokenizer: Tokenizer) -> list[tuple[str, int, int]]:
    """(case-folded word, occurrences, usual case) of all words, most frequent first, ties in code-point order.

    The usual case is 0 (lower or mixed), 1 (capitalised) or 2 (upper), whichever way the word is written most often.
    Chunks of the store are counted in parallel; memory is that of the different words, not of the store.
    """
    parts: list[_Counts] = []
    waiting = 0
    for part in ordered_map(_CountChunk(store, words), chunks(store)):
        parts.append(part)
        waiting += len(part.keys)
        if waiting > max(_MERGE_AT, len(parts[0].keys)):
            parts, waiting = [_Counts.sum(parts)], 0
    if not parts:
        return []
    total = _Counts.sum(parts)

    totals: dict[str, list[int]] = {}
    spelling = sorted(tokenizer.ranks, key=tokenizer.ranks.__getitem__)
    for start, end, count in zip(total.starts.tolist(), total.ends.tolist(), total.occurrences.tolist()):
        span = store.tokens[start:end].tolist()
        written = b"".join([spelling[token] for token in span]).decode(errors="replace").removeprefix(" ")
        by_case = totals.setdefault(written.lower(), [0, 0, 0])
        by_case[_case_of(written)] += count
    counted = [(word, sum(by_case), int(np.argmax(by_case))) for word, by_case in totals.items()]
    return sorted(counted, key=lambda item: (-item[1], item[0]))


def _case_of(word: str) -> int:
    folded = word.lower()
    if word == folded:
        return 0
    if word == folded[:1].upper() + folded[1:]:
        return 1
    return 2 if word == folded.upper() else 0
