"""Documents -> token stores with word maps: one pass over the text of a language, training and held-out text split
apart."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prealign.corpus.store import StoreWriter
from prealign.corpus.wordmap import WordMapWriter
from prealign.text.tokenizer import Tokenizer
from prealign.text.words import word_spans

SPLITS = ("train", "heldout")
_BATCH_CHARACTERS = 1 << 24


@dataclass(frozen=True)
class Split:
    """Which documents go where, by content: ``u`` uniform in [0, 1) from the document's hash.

    ``u < heldout``: held out. ``heldout <= u < heldout + clone``: clone text, where ``clone`` is the summed share of
    all clones. Else training text of the language itself.
    """

    heldout: float
    clone_shares: tuple[float, ...] = ()

    def role_of(self, document: str) -> str | int:
        """`role` of a document's text."""
        return self.role(document_hash(document))

    def role(self, digest: bytes) -> str | int:
        """``"heldout"``, the number of a clone, or ``"train"``."""
        u = int.from_bytes(digest[:8], "little") / 2.0**64
        if u < self.heldout:
            return "heldout"
        limit = self.heldout
        for number, share in enumerate(self.clone_shares):
            limit += share * (1.0 - self.heldout)
            if u < limit:
                return number
        return "train"


def document_hash(document: str) -> bytes:
    """16 bytes that stand for a document's exact text."""
    return hashlib.blake2b(document.encode(), digest_size=16).digest()


def build_stores(
    documents: Iterable[str],
    folder: Path,
    tokenizer: Tokenizer,
    vocab_size: int,
    shift: int,
    split_of: Callable[[bytes], str | None],
    rewrite: Callable[[str], str] | None = None,
) -> dict[str, int]:
    """Write ``train`` and ``heldout`` stores with word maps to ``folder``.

    ``shift`` is added to every token id (a clone's block of the vocabulary). ``split_of`` maps a document's hash to
    ``train``, ``heldout`` or None (not of this language). ``rewrite`` is applied to the documents chosen. Exact
    repetitions of a document are dropped. Returns counts.
    """
    facts = dict.fromkeys(
        [f"{split}_{what}" for split in SPLITS for what in ("documents", "tokens", "words", "bytes")], 0
    )
    facts |= {"repeated_documents": 0, "words_without_token_boundary": 0}

    def chosen() -> Iterator[tuple[str, str]]:
        seen: set[bytes] = set()
        for document in documents:
            key = document_hash(document)
            if key in seen:
                facts["repeated_documents"] += 1
            elif split := split_of(key):
                yield rewrite(document) if rewrite else document, split
            seen.add(key)

    def encode(item: tuple[str, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        tokens = tokenizer.encode(item[0])
        return tokens, *word_spans(item[0], tokenizer.token_lengths[tokens])

    with ExitStack() as stack:
        stores = {split: stack.enter_context(StoreWriter(folder / split, vocab_size)) for split in SPLITS}
        maps = {split: stack.enter_context(WordMapWriter(folder / f"{split}.words")) for split in SPLITS}
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=os.cpu_count()))
        for batch in _batches(chosen()):
            for (document, split), (tokens, starts, ends, skipped) in zip(batch, pool.map(encode, batch)):
                with_end = np.append(tokens.astype(np.int64), tokenizer.end_of_document) + shift
                stores[split].append(with_end)
                maps[split].append(len(with_end), starts, ends)
                facts[f"{split}_documents"] += 1
                facts[f"{split}_tokens"] += len(with_end)
                facts[f"{split}_words"] += len(starts)
                facts[f"{split}_bytes"] += len(document.encode())
                facts["words_without_token_boundary"] += skipped
    return facts


def _batches(items: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Lists of documents, bounded in characters so that memory is."""
    batch: list[tuple[str, str]] = []
    characters = 0
    for item in items:
        batch.append(item)
        characters += len(item[0])
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
