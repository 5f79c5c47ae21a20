"""How often each word of a store occurs, and how it is usually written."""

import numpy as np

from prealign.corpus.spans import hash_spans, words_in_chunks
from prealign.corpus.store import TokenStore
from prealign.corpus.wordmap import WordMap
from prealign.text.tokenizer import Tokenizer


def count_words(store: TokenStore, words: WordMap, tokenizer: Tokenizer) -> list[tuple[str, int, int]]:
    """(case-folded word, occurrences, usual case) of all words, most frequent first, ties in code-point order.

    The usual case is 0 (lower or mixed), 1 (capitalised) or 2 (upper), whichever way the word is written most often.
    """
    forms: dict[int, tuple[np.ndarray, int]] = {}  # span hash -> (tokens, occurrences)
    for tokens, starts, ends, _ in words_in_chunks(store, words):
        hashes, first, counts = np.unique(hash_spans(tokens, starts, ends), return_index=True, return_counts=True)
        for key, where, count in zip(hashes.tolist(), first.tolist(), counts.tolist()):
            known = forms.get(key)
            span = known[0] if known else np.array(tokens[starts[where] : ends[where]])
            forms[key] = (span, count + (known[1] if known else 0))

    totals: dict[str, list[int]] = {}
    for span, count in forms.values():
        written = tokenizer.decode(span).removeprefix(" ")
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
