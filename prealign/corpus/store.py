"""Megatron's token store: ``NAME.bin`` holds the tokens of all documents, ``NAME.idx`` where each one lies.

Layout of the index (MMIDIDX version 1, little endian): 9 bytes magic, uint64 version, uint8 dtype code, uint64 number
of sequences, uint64 number of document entries, int32 lengths, int64 byte pointers, int64 document indices. Stores
written here hold one sequence a document; stores of several sequences a document are read as well.
"""

import struct
from array import array
from pathlib import Path
from types import TracebackType

import numpy as np

from prealign.errors import UserError

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
_LARGEST_UINT16_VOCABULARY = 65_500


def token_dtype(vocab_size: int) -> type[np.uint16] | type[np.int32]:
    """Megatron's rule: two bytes a token below 65,500 ids, else four."""
    return np.uint16 if vocab_size < _LARGEST_UINT16_VOCABULARY else np.int32


class StoreWriter:
    """Appends documents to ``prefix.bin``; `close` writes ``prefix.idx``."""

    def __init__(self, prefix: Path, vocab_size: int) -> None:
        self.dtype = np.dtype(token_dtype(vocab_size))
        self._prefix = prefix
        self._bin = prefix.with_name(prefix.name + ".bin").open("wb")
        self._lengths = array("i")
        self.tokens = 0

    def append(self, document: np.ndarray) -> None:
        """Write one document's token ids, its end-of-document token included."""
        self._bin.write(np.ascontiguousarray(document, dtype=self.dtype).tobytes())
        self._lengths.append(len(document))
        self.tokens += len(document)

    def close(self) -> None:
        self._bin.close()
        lengths = np.frombuffer(self._lengths, dtype=np.int32) if self._lengths else np.empty(0, np.int32)
        pointers = np.zeros(len(lengths), dtype=np.int64)
        np.cumsum(lengths[:-1], dtype=np.int64, out=pointers[1:])
        code = next(code for code, dtype in _DTYPES.items() if dtype == self.dtype)
        with self._prefix.with_name(self._prefix.name + ".idx").open("wb") as index:
            index.write(_HEADER.pack(_MAGIC, 1, code, len(lengths), len(lengths) + 1))
            index.write(lengths.astype("<i4").tobytes())
            index.write((pointers * self.dtype.itemsize).astype("<i8").tobytes())
            index.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bin.close() if kind else self.close()


class TokenStore:
    """A store opened for reading; memory-mapped, at a cost that does not depend on its size.

    ``tokens``: all tokens in document order, ``[total]``. ``lengths``: tokens per sequence. ``document_indices``: index
    of each document's first sequence, and one past the last.
    """

    def __init__(self, prefix: Path) -> None:
        index_path = prefix.with_name(prefix.name + ".idx")
        bin_path = prefix.with_name(prefix.name + ".bin")
        try:
            index_size, bin_size = index_path.stat().st_size, bin_path.stat().st_size
            header = index_path.open("rb").read(_HEADER.size)
        except OSError as error:
            raise UserError(
                f"{error.filename}: {error.strerror}; expected a token store; run launchers/prepare.py"
            ) from None
        if len(header) < _HEADER.size or not header.startswith(_MAGIC):
            raise UserError(f"{index_path}: found no MMIDIDX header; expected a Megatron .idx file; prepare it again")
        _, version, code, sequences, entries = _HEADER.unpack(header)
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

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def documents(self) -> int:
        """Number of documents."""
        return max(len(self.document_indices) - 1, 0)
