"""How often each word of a store occurs, and how it is usually written, in bounded memory.

Word forms are counted by the hash of their tokens: sorted runs of (hash, count, place) that go to disk when there are
too many. Then the forms of a word (cases, with and without a space) are brought together, one share of the words at a
time.
"""

import heapq
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from prealign.processes import ordered_map
from prealign.random_streams import mix
from prealign.stores.spans import chunks, span_keys, words_of_chunk
from prealign.stores.token_store import TokenStore
from prealign.stores.word_map import WordMap
from prealign.text.tokenizer import Tokenizer

ROWS_IN_MEMORY = 1 << 21
"""Different word forms held at a time, 28 bytes each while counting and about 500 as words of Python."""

_PARTS = 64
_ROW = np.dtype([("hash", "<u8"), ("count", "<i8"), ("place", "<i8"), ("tokens", "<i4")])

CountedWord = tuple[str, int, int]
"""(case-folded word, occurrences, usual case); the case is 0 (lower or mixed), 1 (capitalised) or 2 (upper), whichever
way the word is written most often."""


def count_words(
    store: TokenStore, words: WordMap, tokenizer: Tokenizer, scratch: Path, rows_in_memory: int = ROWS_IN_MEMORY
) -> Iterator[CountedWord]:
    """All words, most frequent first, ties in code-point order.

    ``scratch``: an empty folder for what does not fit in memory; what is left there is the caller's to remove.
    """
    runs, spilled = _count_forms(store, words, scratch, rows_in_memory)
    if not spilled:
        yield from _by_frequency(_words_of(runs, store, tokenizer))
        return
    with ExitStack() as stack:
        paths = [scratch / f"words-{part}.tsv" for part in range(_PARTS)]
        files = [stack.enter_context(path.open("w+", encoding="utf-8", newline="\n")) for path in paths]
        _words_by_share(runs, store, tokenizer, files)
        yield from heapq.merge(*(_parse(file) for file in files), key=_order)


def _words_by_share(runs: list[np.ndarray], store: TokenStore, tokenizer: Tokenizer, files: Sequence[TextIO]) -> None:
    """Fill each file with its share of the words, most frequent first."""
    limits = (np.arange(1, _PARTS, dtype=np.uint64) << np.uint64(58)).astype(np.uint64)
    cuts = [np.concatenate(([0], np.searchsorted(run["hash"], limits), [len(run)])) for run in runs]
    for part in range(_PARTS):
        rows = [run[cut[part] : cut[part + 1]] for run, cut in zip(runs, cuts)]
        for word, count, case in _words_of(rows, store, tokenizer):
            files[zlib.crc32(word.encode()) % _PARTS].write(f"{word}\t{count}\t{case}\n")
    for file in files:
        file.seek(0)
        ordered = list(_by_frequency(_parse(file)))
        file.seek(0)
        file.truncate()
        file.writelines(f"{word}\t{count}\t{case}\n" for word, count, case in ordered)
        file.seek(0)


def write_counts(path: Path, counts: Iterable[CountedWord]) -> tuple[int, int]:
    """Write ``word<tab>count<tab>case`` lines; returns how many words there are and how many occurrences."""
    words = occurrences = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for word, count, case in counts:
            file.write(f"{word}\t{count}\t{case}\n")
            words += 1
            occurrences += count
    return words, occurrences


def read_counts(path: Path) -> Iterator[CountedWord]:
    """Read what `write_counts` wrote."""
    with path.open(encoding="utf-8", newline="\n") as file:
        yield from _parse(file)


def _parse(lines: Iterable[str]) -> Iterator[CountedWord]:
    for line in lines:
        word, count, case = line.rstrip("\n").split("\t")
        yield word, int(count), int(case)


def _order(item: CountedWord) -> tuple[int, str]:
    return -item[1], item[0]


def _count_forms(
    store: TokenStore, words: WordMap, scratch: Path, rows_in_memory: int
) -> tuple[list[np.ndarray], bool]:
    """Runs of rows sorted by hash, each hash once a run; whether runs went to disk."""
    runs: list[np.ndarray] = []
    pending: list[np.ndarray] = []
    size = 0
    for rows in ordered_map(_FormsOfChunk(store, words), chunks(store)):
        pending.append(rows)
        size += len(rows)
        if size > 2 * rows_in_memory:
            pending = [_reduce(pending)]
            size = len(pending[0])
            if size > rows_in_memory:
                path = scratch / f"forms-{len(runs)}.npy"
                np.save(path, pending[0])
                runs.append(np.load(path, mmap_mode="r"))
                pending, size = [], 0
    spilled = bool(runs)
    return [*runs, _reduce(pending)], spilled


@dataclass(frozen=True)
class _FormsOfChunk:
    """Rows of the word forms of a range of tokens."""

    store: TokenStore
    words: WordMap

    def __call__(self, chunk: tuple[int, int]) -> np.ndarray:
        tokens, starts, ends, _ = words_of_chunk(self.store, self.words, *chunk)
        keys = mix(span_keys(tokens, starts, ends))  # mixed, so that shares of the hashes are shares of the words
        hashes, first, counts = np.unique(keys, return_index=True, return_counts=True)
        rows = np.empty(len(hashes), _ROW)
        rows["hash"], rows["count"] = hashes, counts
        rows["place"], rows["tokens"] = chunk[0] + starts[first], (ends - starts)[first]
        return rows


def _reduce(parts: list[np.ndarray]) -> np.ndarray:
    """One sorted run of several: counts added, the place of the first part that has the hash."""
    rows = np.concatenate(parts) if parts else np.empty(0, _ROW)
    rows = rows[np.argsort(rows["hash"], kind="stable")]
    first = np.flatnonzero(np.diff(rows["hash"], prepend=~rows["hash"][:1]) != 0)
    reduced = rows[first]
    if len(first):
        reduced["count"] = np.add.reduceat(rows["count"], first)
    return reduced


def _words_of(runs: list[np.ndarray], store: TokenStore, tokenizer: Tokenizer) -> Iterator[CountedWord]:
    """(case-folded word, occurrences, case) of each form."""
    rows = _reduce(runs)
    for place, tokens, count in zip(rows["place"].tolist(), rows["tokens"].tolist(), rows["count"].tolist()):
        written = tokenizer.decode(store.tokens[place : place + tokens]).removeprefix(" ")
        yield written.lower(), count, _case_of(written)


def _by_frequency(forms: Iterable[CountedWord]) -> Iterator[CountedWord]:
    """Forms of equal words brought together."""
    totals: dict[str, list[int]] = {}
    for word, count, case in forms:
        totals.setdefault(word, [0, 0, 0])[case] += count
    counted = [(word, sum(by_case), int(np.argmax(by_case))) for word, by_case in totals.items()]
    yield from sorted(counted, key=_order)


def _case_of(word: str) -> int:
    folded = word.lower()
    if word == folded:
        return 0
    if word == folded[:1].upper() + folded[1:]:
        return 1
    return 2 if word == folded.upper() else 0
