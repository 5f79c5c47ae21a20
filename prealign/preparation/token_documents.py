"""Documents out of token stores that Megatron's or GPT-NeoX's tools wrote: their tokens as they are, and the text that
these stand for, by which documents are split and words found.

An entry of the index is a document, with an end-of-document token behind it or not; where such tokens stand inside
one, as in text that was packed, each ends a document.
"""

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prealign.config.texts import TextConfig
from prealign.data.contents import document_hash
from prealign.errors import UserError
from prealign.stores.shards import find_shards, release
from prealign.stores.token_store import StoreFile
from prealign.text.reading import ReadCounts
from prealign.text.tokenizer import Tokenizer

_LEAST_RELEASED = 1 << 24
"""Tokens between two times that memory of a mapped file is given back."""


@dataclass(frozen=True)
class TokenDocument:
    """A document's tokens (int64), without one that ends it, and its text, with a line end where a special token
    stands."""

    tokens: np.ndarray
    text: bytes

    @property
    def digest(self) -> bytes:
        """That of the same text in a file."""
        return document_hash(self.text)

    def __len__(self) -> int:
        return len(self.text)


def store_prefixes(text: TextConfig, key: str) -> list[Path]:
    """The stores of a text source, sorted, a set of shards as several; ``key`` names the recipe's key in errors. Raises
    `UserError` where one is missing, or its index does not fit its tokens."""
    found: set[Path] = set()
    for given in text.store:
        prefix = given.removesuffix(".bin").removesuffix(".idx")
        there = [path for path in find_shards(Path(prefix), ".idx") if path.is_file()]
        matching = there or [Path(path) for path in glob.glob(f"{prefix}.idx", recursive=True)]  # noqa: PTH207
        if not matching:
            raise UserError(
                f"{key}.store: no such file '{prefix}.idx' (working directory {Path.cwd()}); expected a Megatron "
                f"store, {prefix}.bin with {prefix}.idx; mend the path"
            )
        found.update(path.with_suffix("") for path in matching)
    for path in found:
        _check(path, key)
    return sorted(found)


def _check(prefix: Path, key: str) -> None:
    """Raise `UserError` unless both files are there and their sizes agree."""
    tokens = prefix.with_name(f"{prefix.name}.bin")
    if not tokens.is_file():
        raise UserError(f"{key}.store: no such file '{tokens}' beside its index; expected the store's tokens")
    store = StoreFile(prefix)
    sizes, bounds = store.lengths, store.document_indices
    whole = len(bounds) > 0 and bounds[0] == 0 and bounds[-1] == len(sizes) and bool((np.diff(bounds) >= 0).all())
    if not whole or (sizes < 0).any() or int(sizes.sum(dtype=np.int64)) != len(store.tokens):
        raise UserError(
            f"{prefix}.idx: its documents are not the {len(store.tokens):,} tokens of {tokens.name}, one after the "
            f"other; expected an index as Megatron writes it; make the store again"
        )


def store_files(prefixes: list[str]) -> list[Path]:
    """What stores consist of."""
    return [Path(prefix + suffix) for prefix in prefixes for suffix in (".bin", ".idx")]


def read_token_documents(text: TextConfig, tokenizer: Tokenizer, counts: ReadCounts) -> Iterator[TokenDocument]:
    """Yield the documents that have text, in the order of the stores (``text.store``: `store_prefixes`), updating
    ``counts``. Raises `UserError` for an id that the tokenizer does not have."""
    for prefix in text.store:
        store = StoreFile(Path(prefix))
        ends = np.concatenate(([0], np.cumsum(store.lengths, dtype=np.int64)))[store.document_indices]
        kept = counts.documents
        released = 0
        for begin, end in zip(ends[:-1].tolist(), ends[1:].tolist()):
            for tokens in _documents(store.tokens[begin:end].astype(np.int64), begin, Path(prefix), tokenizer):
                if text.max_documents is not None and counts.documents >= text.max_documents:
                    return
                document = TokenDocument(tokens, tokenizer.marked_text(tokens))
                if document.text.isspace() or not document.text:
                    counts.empty += 1
                    continue
                counts.documents += 1
                yield document
            if end - released > _LEAST_RELEASED:
                release(store.tokens)
                released = end
        if counts.documents == kept:
            counts.empty_files.append(prefix)


def _documents(entry: np.ndarray, begin: int, prefix: Path, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """An entry's documents; it starts at token ``begin`` of the store."""
    strange = np.flatnonzero((entry < 0) | (entry >= tokenizer.vocab_size))
    if len(strange):
        raise UserError(
            f"{prefix}.bin, token {begin + int(strange[0]):,} (counted from 0): found id {entry[strange[0]]}; expected "
            f"0 to {tokenizer.vocab_size - 1}, the ids of data.tokenizer.ranks; give the tokenizer that the store was "
            f"made with"
        )
    cuts = np.flatnonzero(entry == tokenizer.end_of_document)
    begins, ends = np.concatenate(([0], cuts + 1)), np.concatenate((cuts, [len(entry)]))
    for first, last in zip(begins.tolist(), ends.tolist()):
        if first < last or not len(cuts):
            yield entry[first:last]


def encoded_otherwise(documents: list[TokenDocument], tokenizer: Tokenizer) -> int:
    """How many documents have other tokens than the tokenizer gives their text."""
    return sum(
        not np.array_equal(tokenizer.encode(document.text.decode("utf-8", "replace")), document.tokens)
        for document in documents
    )
