"""Documents -> token stores with word maps: one pass over the text of a language, training and held-out text split
apart. Documents are text, which is tokenised, or tokens, which are kept (`TokenDocument`)."""

import codecs
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prealign.data.contents import SPLITS, document_hash
from prealign.files import write_atomically
from prealign.preparation.token_documents import TokenDocument
from prealign.processes import ordered_map
from prealign.stores.shards import shard_name
from prealign.stores.token_store import StoreWriter, token_dtype
from prealign.stores.word_map import WordMapWriter
from prealign.text.tokenizer import Tokenizer
from prealign.text.words import letter_table, word_spans

PROGRESS = "progress.json"
_BATCH_CHARACTERS = 1 << 20
_SECONDS_BETWEEN_COMMITS = 10.0

Document = str | TokenDocument


def _as_signs(error: UnicodeError) -> tuple[str, int]:
    """A ``?`` for each byte that is not UTF-8: no letter, and as long."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "?" * (error.end - error.start), error.end


_SAME_LENGTH = "prealign-same-length"
codecs.register_error(_SAME_LENGTH, _as_signs)


class SeenDocuments:
    """Keys of the documents met so far: 64 bits of their hashes, about ten bytes each in memory.

    Two of a million different documents have the same key with probability 3e-8, two of a billion with 3 %.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []  # sorted, each shorter than the one before it

    def add(self, digests: list[bytes]) -> np.ndarray:
        """Add documents; returns which of them are new, bool ``[n]``."""
        keys = np.frombuffer(b"".join(digest[8:] for digest in digests), np.uint64)
        unique, first = np.unique(keys, return_index=True)
        known = np.zeros(len(unique), bool)
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, unique), len(run) - 1)
            known |= run[place] == unique
        new = np.zeros(len(keys), bool)
        new[first[~known]] = True
        run = unique[~known]
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate((self._runs.pop(), run)), kind="stable")
        if len(run):
            self._runs.append(run)
        return new


@dataclass(frozen=True)
class _Encoded:
    """Documents of one split as tokens, one after the other, with an end-of-document token behind each.

    ``tokens``: in the store's dtype. ``lengths [documents]``. ``starts``, ``ends``: their words, as indices into
    ``tokens``. ``skipped``: words without a token boundary at an edge. ``bytes``: of text.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    skipped: int
    bytes: int


@dataclass(frozen=True)
class _Encode:
    """Tokenises a batch of documents, by split, where they are not tokens yet."""

    tokenizer: Tokenizer
    dtype: np.dtype
    shift: int
    rewrite: Callable[[str], str] | None

    def __call__(self, batch: dict[str, list[Document]]) -> dict[str, _Encoded]:
        return {split: self._encode(documents) for split, documents in batch.items()}

    def _encode(self, documents: list[Document]) -> _Encoded:
        tokenizer = self.tokenizer
        encoded = [self._tokens(document) for document in documents]
        end = np.array([tokenizer.end_of_document], np.uint32)
        lengths = np.fromiter((len(ids) for _, ids in encoded), np.int64, len(documents)) + 1
        tokens = np.concatenate([part for _, ids in encoded for part in (ids, end)])
        # in the joined text a line end stands where an end-of-document token, or another special token, stands
        text = "".join([document + "\n" for document, _ in encoded])
        widths = tokenizer.token_lengths.take(tokens)
        size = int(widths.sum(dtype=np.int64))
        widths[widths == 0] = 1
        starts, ends, skipped = word_spans(text, widths)
        ids = (tokens.astype(np.int64) + self.shift).astype(self.dtype) if self.shift else tokens.astype(self.dtype)
        return _Encoded(ids, lengths, starts.astype(np.uint32), ends.astype(np.uint32), skipped, size)

    def _tokens(self, document: Document) -> tuple[str, np.ndarray]:
        """A document's text, as many bytes as its tokens have, and its tokens."""
        if isinstance(document, TokenDocument):
            return document.text.decode("utf-8", _SAME_LENGTH), document.tokens.astype(np.uint32)
        text = self.rewrite(document) if self.rewrite is not None else document
        return text, self.tokenizer.encode(text)


class _SplitWriter:
    """Store and word map of one split, with counts; resumes from what an earlier one committed.

    With ``shard_tokens`` a shard takes documents until it has so many tokens; `finish` gives the shards their names.
    """

    def __init__(
        self, folder: Path, split: str, vocab_size: int, state: dict[str, Any] | None, shard_tokens: int | None
    ) -> None:
        self._folder = folder
        self._split = split
        self._vocab_size = vocab_size
        self._limit = shard_tokens
        self.counts: dict[str, int] = (
            state["counts"] if state else {"documents": 0, "tokens": 0, "words": 0, "bytes": 0, "skipped": 0}
        )
        self._shard = state["shard"] if state else 0
        for path in folder.glob(f"{split}-*-of-*"):  # names of an attempt that was killed while it gave them
            path.rename(path.with_name(re.sub(r"-of-\d+", "", path.name)))
        self._open(state)

    def _name(self, shard: int) -> str:
        return self._split if self._limit is None else f"{self._split}-{shard:05}"

    def _open(self, state: dict[str, Any] | None) -> None:
        name = self._name(self._shard)
        self._store = StoreWriter(self._folder / name, self._vocab_size, state and state["store"])
        self._words = WordMapWriter(self._folder / f"{name}.words", state and state["map"])

    def append(self, part: _Encoded) -> None:
        ends = np.cumsum(part.lengths)
        first = 0
        while first < len(ends):
            if self._limit is not None and self._store.tokens >= self._limit:
                self._close()
                self._shard += 1
                self._open(None)
            begin, last = int(ends[first - 1]) if first else 0, len(ends)
            if self._limit is not None:
                last = min(int(np.searchsorted(ends, begin + self._limit - self._store.tokens)) + 1, last)
            end = int(ends[last - 1])
            words = slice(*np.searchsorted(part.starts, (begin, end)))
            self._store.append(part.tokens[begin:end], part.lengths[first:last])
            starts, stops = part.starts[words].astype(np.int64), part.ends[words].astype(np.int64)
            self._words.append(end - begin, starts - begin, stops - begin)
            first = last
        self.counts["documents"] += len(part.lengths)
        self.counts["tokens"] += len(part.tokens)
        self.counts["words"] += len(part.starts)
        self.counts["bytes"] += part.bytes
        self.counts["skipped"] += part.skipped

    def commit(self) -> dict[str, Any]:
        """Bring what was appended to the disk; returns the state to resume from."""
        return {
            "store": self._store.commit(),
            "map": self._words.commit(),
            "counts": dict(self.counts),
            "shard": self._shard,
        }

    def _close(self) -> None:
        self._store.commit()
        self._words.commit()
        self._store.close(keep_lengths=True)  # an attempt after this one may go back to a state before now
        self._words.close()

    def finish(self) -> None:
        """Close the files and give them their names."""
        self._close()
        for shard in range(self._shard + 1) if self._limit is not None else []:
            for suffix in (".bin", ".idx", ".words"):
                name = shard_name(self._split, shard, self._shard + 1)
                (self._folder / (self._name(shard) + suffix)).rename(self._folder / (name + suffix))

    def abandon(self) -> None:
        self._store.abandon()
        self._words.abandon()


def build_stores(
    documents: Iterable[Document],
    folder: Path,
    tokenizer: Tokenizer,
    vocab_size: int,
    shift: int,
    split_of: Callable[[bytes], str | None],
    rewrite: Callable[[str], str] | None = None,
    shard_tokens: int | None = None,
) -> dict[str, int]:
    """Write ``train``, ``dev`` and ``test`` stores with word maps to ``folder``, on all cores.

    ``shift`` is added to every token id (a clone's block of the vocabulary). ``split_of`` maps a document's hash to
    ``train``, ``dev``, ``test`` or None (not of this language). ``rewrite`` is applied to the text chosen. Exact
    repetitions of a document are dropped. ``shard_tokens``: tokens of a shard of the training text; None: one file.
    Returns counts.

    Memory does not grow with the text, but for some ten bytes a document. Work that a killed build had committed is
    found in ``folder`` and kept: its documents are read again, and not tokenised.
    """
    progress = folder / PROGRESS
    done: dict[str, Any] = json.loads(progress.read_text()) if progress.is_file() else {"batches": 0, "splits": {}}
    facts = dict.fromkeys(
        [f"{split}_{what}" for split in SPLITS for what in ("documents", "tokens", "words", "bytes")], 0
    )
    facts |= {"repeated_documents": 0, "words_without_token_boundary": 0}
    seen = SeenDocuments()

    def batches() -> Iterator[dict[str, list[Document]]]:
        """Batches that are still to be tokenised."""
        for number, batch in enumerate(_batches(documents)):
            digests = [_digest(document) for document in batch]
            new = seen.add(digests)
            facts["repeated_documents"] += len(batch) - int(np.count_nonzero(new))
            if number < done["batches"]:
                continue
            parts: dict[str, list[Document]] = {}
            for document, digest, is_new in zip(batch, digests, new.tolist()):
                split = split_of(digest) if is_new else None
                if split is not None:
                    parts.setdefault(split, []).append(document)
            yield parts

    shards = {"train": shard_tokens, "dev": None, "test": None}
    writers = {
        split: _SplitWriter(folder, split, vocab_size, done["splits"].get(split), shards[split]) for split in SPLITS
    }
    try:
        encode = _Encode(tokenizer, np.dtype(token_dtype(vocab_size)), shift, rewrite)
        letter_table()  # made once, before the processes are forked
        committed = time.monotonic()
        for number, parts in enumerate(ordered_map(encode, batches()), start=done["batches"] + 1):
            for split, part in parts.items():
                writers[split].append(part)
            if time.monotonic() - committed > _SECONDS_BETWEEN_COMMITS:
                splits = {split: writer.commit() for split, writer in writers.items()}
                write_atomically(progress, json.dumps({"batches": number, "splits": splits}))
                committed = time.monotonic()
        for writer in writers.values():
            writer.finish()
    except BaseException:
        for writer in writers.values():
            writer.abandon()
        raise
    progress.unlink(missing_ok=True)
    for path in folder.glob("*.lengths"):
        path.unlink()
    for split, writer in writers.items():
        for what in ("documents", "tokens", "words", "bytes"):
            facts[f"{split}_{what}"] = writer.counts[what]
        facts["words_without_token_boundary"] += writer.counts["skipped"]
    return facts


def _digest(document: Document) -> bytes:
    return document.digest if isinstance(document, TokenDocument) else document_hash(document)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Lists of documents, bounded in characters so that memory is."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
