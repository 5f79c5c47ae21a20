"""Word map: two bits a token that say where words start and end, so that no text is needed to find them again.

``NAME.words``: header (magic, uint64 version, tokens, words), the bits (start and end of token 0, of token 1, ...,
least significant first, padded to 8 bytes), then uint64 ranks: words that start before token ``0, 256, 512, ...``.
0.25 + 8/256 bytes a token.
"""

import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from prealign.errors import UserError
from prealign.stores.header import read_header
from prealign.stores.shards import Pieces, find_shards, release

_MAGIC = b"PAWORDS\x00"
_HEADER = struct.Struct("<8sQQQ")
_RANK_STRIDE = 256
_STARTS_BEFORE = np.array([0b0, 0b1, 0b101, 0b10101, 0b1010101], dtype=np.uint8)
"""The start bits of the first 0 to 4 tokens of a byte."""


class WordMapWriter:
    """Appends words in token order to the file; `close` adds the ranks. ``state`` of an earlier writer resumes it."""

    def __init__(self, path: Path, state: dict[str, Any] | None = None) -> None:
        self.tokens = state["tokens"] if state else 0
        self._carry = np.array(state["carry"] if state else [], dtype=np.uint8)  # bits of a byte that is not full yet
        self._file = path.open("r+b" if state else "w+b")
        self._file.write(_HEADER.pack(_MAGIC, 0, 0, 0))  # version 0: not whole
        self._file.truncate(_HEADER.size + self.tokens // 4)
        self._file.seek(0, os.SEEK_END)

    def append(self, tokens: int, starts: np.ndarray, ends: np.ndarray) -> None:
        """Words ``starts[i]:ends[i]`` of the next ``tokens`` tokens (indices count from the first of them)."""
        before = len(self._carry)
        bits = np.zeros(before + 2 * tokens, dtype=np.uint8)
        bits[:before] = self._carry
        bits[before + 2 * starts] = 1
        bits[before + 2 * ends - 1] = 1
        whole = len(bits) // 8 * 8
        self._file.write(np.packbits(bits[:whole], bitorder="little").tobytes())
        self._carry = bits[whole:]
        self.tokens += tokens

    def commit(self) -> dict[str, Any]:
        """Bring what was appended to the disk; returns the state to resume from."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"tokens": self.tokens, "carry": self._carry.tolist()}

    def close(self) -> None:
        file = self._file
        file.write(np.packbits(self._carry, bitorder="little").tobytes())
        file.write(b"\0" * (-(file.tell() - _HEADER.size) % 8))
        file.flush()
        words = 0
        begin, end = _HEADER.size, file.tell()
        while begin < end:
            file.seek(begin)
            chunk = np.frombuffer(file.read(min(1 << 22, end - begin)), np.uint8)
            begin += len(chunk)
            starts = np.pad(np.bitwise_count(chunk & _STARTS_BEFORE[4]), (0, -len(chunk) % (_RANK_STRIDE // 4)))
            ranks = words + np.concatenate(([0], np.cumsum(starts.reshape(-1, _RANK_STRIDE // 4).sum(1, np.int64))))
            file.seek(0, os.SEEK_END)
            file.write(ranks[:-1].astype("<u8").tobytes())
            words = int(ranks[-1])
        file.seek(0)
        file.write(_HEADER.pack(_MAGIC, 1, self.tokens, words))
        file.close()

    def __enter__(self) -> "WordMapWriter":
        return self

    def abandon(self) -> None:
        """Leave the file as it is, not whole."""
        self._file.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon() if kind else self.close()


class WordMap:
    """A word map opened for reading, its shards as one; memory-mapped. ``tokens`` and ``words`` are its sizes."""

    def __init__(self, path: Path) -> None:
        self._parts = [WordMapFile(part) for part in find_shards(path.with_suffix(""), path.suffix)]
        self._pieces = Pieces([part.tokens for part in self._parts])
        self._words_before = np.cumsum([0, *(part.words for part in self._parts)], dtype=np.int64)
        self.tokens = self._pieces.total
        self.words = int(self._words_before[-1])

    def bits(self, begin: int, end: int) -> np.ndarray:
        """Of tokens ``begin:end``, two values each: whether a word starts with it, whether one ends with it; uint8,
        0 or 1, ``[2 * (end - begin)]``."""
        if len(self._parts) == 1:
            return self._parts[0].bits(begin, end)
        found = [self._parts[part].bits(first, last) for part, first, last in self._pieces.of(begin, end)]
        return np.concatenate([np.empty(0, np.uint8), *found])

    def ordinals(self, begin: np.ndarray) -> np.ndarray:
        """Words that start before each of the tokens ``begin`` (int64 ``[n]``, below the number of tokens), int64."""
        if len(self._parts) == 1:
            return self._parts[0].ordinals(begin)
        part = self._pieces.part(begin)
        ordinals = self._words_before[part]
        for number in np.unique(part):
            here = part == number
            ordinals[here] += self._parts[number].ordinals(begin[here] - self._pieces.begins[number])
        return ordinals

    def release(self) -> None:
        """Give back the memory of bits that were read (`prealign.stores.shards.release`)."""
        for part in self._parts:
            part.release()

    def between(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray, int, int]:
        """The words that lie wholly inside tokens ``begin:end``.

        Returns ``(starts, ends, ordinal, stop)``: int64 token indices relative to ``begin``, the number of the first of
        these words in the store, and the relative index up to which every word is whole (the start of a word that
        ``end`` cuts, else ``end - begin``).
        """
        window = self.bits(begin, end)
        starts = np.flatnonzero(window[0::2])
        ends = np.flatnonzero(window[1::2]) + 1
        ordinal = int(self.ordinals(np.array([begin]))[0]) if begin < self.tokens else self.words
        if len(ends) and (not len(starts) or ends[0] <= starts[0]):
            ends = ends[1:]  # the tail of a word that starts before the window
        stop = end - begin
        if len(starts) > len(ends):
            stop = int(starts[-1])
            starts = starts[:-1]
        return starts, ends, ordinal, stop


class WordMapFile:
    """One ``.words``; `WordMap`'s sizes and methods."""

    def __init__(self, path: Path) -> None:
        fields, size = read_header(path, _HEADER, _MAGIC, "word map", "word-map header")
        version, self.tokens, self.words = fields
        bits = -(-2 * self.tokens // 64) * 8
        ranks = -(-self.tokens // _RANK_STRIDE)
        expected = _HEADER.size + bits + 8 * ranks
        if version != 1 or size != expected:
            raise UserError(
                f"{path}: found version {version}, {size} bytes; expected version 1, {expected}; prepare it again"
            )
        # plain views of the memory maps: a slice of numpy.memmap costs ten times as much as one of an array
        empty = np.empty(0, np.uint8)
        self._bits = np.asarray(np.memmap(path, np.uint8, "r", _HEADER.size, (bits,))) if bits else empty
        self._ranks = np.asarray(np.memmap(path, "<u8", "r", _HEADER.size + bits, (ranks,))) if ranks else empty
        last = self._bits[(ranks - 1) * (_RANK_STRIDE // 4) :] & _STARTS_BEFORE[4] if ranks else empty
        found = int(self._ranks[-1]) + int(np.bitwise_count(last).sum()) if ranks else 0
        if found != self.words:
            raise UserError(f"{path}: found {found} words, {self.words} by its header; prepare it again")

    def bits(self, begin: int, end: int) -> np.ndarray:
        first = begin // 4
        return np.unpackbits(self._bits[first : -(-end // 4)], count=2 * (end - 4 * first), bitorder="little")[
            2 * (begin - 4 * first) :
        ]

    def release(self) -> None:
        release(self._bits)
        release(self._ranks)

    def ordinals(self, begin: np.ndarray) -> np.ndarray:
        block = begin // _RANK_STRIDE
        ordinal = self._ranks[block].astype(np.int64)
        if not np.any(begin % _RANK_STRIDE):
            return ordinal
        place = np.arange(_RANK_STRIDE // 4)  # a byte holds four tokens
        packed = self._bits.take(block[:, None] * (_RANK_STRIDE // 4) + place, mode="clip")
        tokens = np.clip(begin[:, None] % _RANK_STRIDE - 4 * place, 0, 4)
        return ordinal + np.bitwise_count(packed & _STARTS_BEFORE[tokens]).sum(axis=1, dtype=np.int64)
