"""Megatron's token store: ``NAME.bin`` holds the tokens of all documents, ``NAME.idx`` where each one lies.

Layout of the index (MMIDIDX version 1, little endian): 9 bytes magic, uint64 version, uint8 dtype code, uint64 number
of sequences, uint64 number of document entries, int32 lengths, int64 byte pointers, int64 document indices. Stores
written here hold one sequence a document; stores of several sequences a document are read as well. Tokens are uint16
where the vocabulary fits, else int32, one document after the other, each with its end-of-document token.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from prealign.errors import UserError
from prealign.stores.header import read_header
from prealign.stores.shards import find_shards, joined, release

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
_LARGEST_UINT16_VOCABULARY = 65_500
_BLOCK = 1 << 20


def token_dtype(vocab_size: int) -> type[np.uint16] | type[np.int32]:
    """Megatron's rule: two bytes a token below 65,500 ids, else four."""
    return np.uint16 if vocab_size < _LARGEST_UINT16_VOCABULARY else np.int32


class StoreWriter:
    """Appends documents to ``prefix.bin`` and their lengths to ``prefix.lengths``; `close` makes ``prefix.idx`` of
    these. ``state`` of an earlier writer resumes it."""

    def __init__(self, prefix: Path, vocab_size: int, state: dict[str, int] | None = None) -> None:
        self.dtype = np.dtype(token_dtype(vocab_size))
        self._prefix = prefix
        mode = "r+b" if state else "w+b"
        self._bin = prefix.with_name(prefix.name + ".bin").open(mode)
        self._lengths = prefix.with_name(prefix.name + ".lengths").open(mode)
        self.tokens = state["tokens"] if state else 0
        self.documents = state["documents"] if state else 0
        for file, size in ((self._bin, self.tokens * self.dtype.itemsize), (self._lengths, 4 * self.documents)):
            file.truncate(size)
            file.seek(size)

    def append(self, tokens: np.ndarray, lengths: np.ndarray | None = None) -> None:
        """Write token ids of documents, their end-of-document tokens included; one document if no ``lengths`` are
        given."""
        lengths = np.array([len(tokens)]) if lengths is None else lengths
        self._bin.write(np.ascontiguousarray(tokens, dtype=self.dtype).tobytes())
        self._lengths.write(lengths.astype("<i4").tobytes())
        self.tokens += len(tokens)
        self.documents += len(lengths)

    def commit(self) -> dict[str, int]:
        """Bring what was appended to the disk; returns the state to resume from."""
        for file in (self._bin, self._lengths):
            file.flush()
            os.fsync(file.fileno())
        return {"tokens": self.tokens, "documents": self.documents}

    def close(self, keep_lengths: bool = False) -> None:
        """Write the index; with ``keep_lengths`` a later writer can still resume from a state committed before."""
        self._bin.close()
        code = next(code for code, dtype in _DTYPES.items() if dtype == self.dtype)
        count = self.documents
        with self._prefix.with_name(self._prefix.name + ".idx").open("wb") as index:
            index.write(_HEADER.pack(_MAGIC, 1, code, count, count + 1))
            for lengths in self._length_blocks():
                index.write(lengths.tobytes())
            pointer = 0
            for lengths in self._length_blocks():
                ends = pointer + np.cumsum(lengths, dtype=np.int64) * self.dtype.itemsize
                index.write((ends - lengths * np.int64(self.dtype.itemsize)).astype("<i8").tobytes())
                pointer = int(ends[-1])
            for first in range(0, count + 1, _BLOCK):
                index.write(np.arange(first, min(first + _BLOCK, count + 1), dtype="<i8").tobytes())
        self._lengths.close()
        if not keep_lengths:
            Path(self._lengths.name).unlink()

    def _length_blocks(self) -> Iterator[np.ndarray]:
        self._lengths.seek(0)
        while block := self._lengths.read(4 * _BLOCK):
            yield np.frombuffer(block, "<i4")

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        self.abandon()

    def abandon(self) -> None:
        """Leave the files as they are, without an index."""
        self._bin.close()
        self._lengths.close()


class TokenStore:
    """A store opened for reading, its shards as one; memory-mapped, at a cost that does not depend on their size.

    ``tokens``: all tokens in document order, ``[total]``. ``lengths``: tokens per sequence. Both are arrays, or read by
    slices as arrays are (`prealign.stores.shards`). ``parts``: the shards.
    """

    def __init__(self, prefix: Path) -> None:
        self.parts = [StoreFile(path.with_suffix("")) for path in find_shards(prefix, ".idx")]
        self.dtype = self.parts[0].dtype
        self.tokens = joined([part.tokens for part in self.parts])
        self.lengths = joined([part.lengths for part in self.parts])

    def __len__(self) -> int:
        return len(self.tokens)

    def release(self) -> None:
        """Give back the memory of tokens that were read (`prealign.stores.shards.release`)."""
        for part in self.parts:
            release(part.tokens)

    @property
    def documents(self) -> int:
        """Number of documents."""
        return sum(max(len(part.document_indices) - 1, 0) for part in self.parts)


class StoreFile:
    """One ``.bin`` with its ``.idx``. ``tokens``, ``lengths``: as of `TokenStore`. ``document_indices``: index of each
    document's first sequence, and one past the last."""

    def __init__(self, prefix: Path) -> None:
        index_path = prefix.with_name(prefix.name + ".idx")
        bin_path = prefix.with_name(prefix.name + ".bin")
        header = "MMIDIDX header; expected a Megatron .idx file"
        fields, index_size = read_header(index_path, _HEADER, _MAGIC, "token store", header)
        version, code, sequences, entries = fields
        try:
            bin_size = bin_path.stat().st_size
        except OSError as error:
            raise UserError(f"{bin_path}: {error.strerror}; expected a token store; run launchers/prepare.py") from None
        if version != 1 or code not in _DTYPES:
            raise UserError(
                f"{index_path}: found version {version}, dtype code {code}; expected version 1, an integer dtype"
            )
        expected = _HEADER.size + sequences * 12 + entries * 8
        # one trailing int8 per sequence is Megatron's optional modality
        if index_size not in (expected, expected + sequences):
            raise UserError(f"{index_path}: found {index_size} bytes; expected {expected}; prepare it again")
        self.dtype = np.dtype(_DTYPES[code])

        def mapped(dtype: str, count: int, offset: int) -> np.ndarray:
            if count == 0:
                return np.empty(0, dtype)
            return np.asarray(np.memmap(index_path, dtype=dtype, mode="r", offset=offset, shape=(count,)))

        self.lengths = mapped("<i4", sequences, _HEADER.size)
        pointers = mapped("<i8", sequences, _HEADER.size + sequences * 4)
        self.document_indices = mapped("<i8", entries, _HEADER.size + sequences * 12)
        end = int(pointers[-1]) + int(self.lengths[-1]) * self.dtype.itemsize if sequences else 0
        if end != bin_size:
            raise UserError(f"{bin_path}: found {bin_size} bytes; expected {end} by its index; prepare it again")
        total = bin_size // self.dtype.itemsize
        # a plain view of the memory map: a slice of numpy.memmap costs ten times as much as one of an array
        self.tokens = np.asarray(np.memmap(bin_path, dtype=self.dtype, mode="r")) if total else np.empty(0, self.dtype)
