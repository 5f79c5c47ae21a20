"""One text in one file or in several: ``NAME.bin``, or ``NAME-00000-of-00004.bin`` and so on, read as if it were one.

A shard ends with a document, so it is a store of its own. Windows of tokens run over the ends of shards, and words are
numbered through, so samples and draws are the same however a text is cut.
"""

import mmap
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from prealign.errors import UserError

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")


def shard_name(name: str, number: int, shards: int) -> str:
    """``name-00002-of-00010``."""
    return f"{name}-{number:05}-of-{shards:05}"


def find_shards(prefix: Path, suffix: str) -> list[Path]:
    """The files of a text, in order: ``prefix + suffix`` where there is no set of shards. Raises `UserError` for a set
    that is not complete."""
    whole = prefix.with_name(prefix.name + suffix)
    found = {
        (int(match[1]), int(match[2])): path
        for path in prefix.parent.glob(f"{prefix.name}-*-of-*{suffix}")
        if (match := _SHARD.search(path.name.removesuffix(suffix)))
    }
    if whole.exists() or not found:
        return [whole]
    shards = max(count for _, count in found)
    for number in range(shards):
        if (number, shards) not in found:
            missing = prefix.with_name(shard_name(prefix.name, number, shards) + suffix)
            raise UserError(f"{missing}: no such file; expected {shards} shards; run launchers/prepare.py")
    if len(found) > shards:
        raise UserError(f"{whole.parent}: found shards of several sets of '{prefix.name}{suffix}'; prepare it again")
    return [found[number, shards] for number in range(shards)]


class JoinedArray:
    """Arrays of one dtype, one after the other, read by slices as if they were one."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self._parts = parts
        self._pieces = Pieces([len(part) for part in parts])
        self.dtype = parts[0].dtype

    def __len__(self) -> int:
        return self._pieces.total

    def __getitem__(self, where: slice) -> np.ndarray:
        begin, end, _ = where.indices(len(self))
        found = [self._parts[part][first:last] for part, first, last in self._pieces.of(begin, end)]
        return found[0] if len(found) == 1 else np.concatenate([self._parts[0][:0], *found])


def joined(parts: Sequence[np.ndarray]) -> np.ndarray | JoinedArray:
    """Arrays as one, at no cost where there is one."""
    return parts[0] if len(parts) == 1 else JoinedArray(parts)


def release(array: np.ndarray) -> None:
    """Give back what this process holds in memory of a mapped file (it is read again when it is needed), so that a pass
    over a large file takes no more of it than one over a small file."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


class Pieces:
    """Where ranges of a row of parts lie."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.begins = np.cumsum([0, *sizes], dtype=np.int64)
        self.total = int(self.begins[-1])

    def part(self, place: np.ndarray) -> np.ndarray:
        """Part of each place (int64, ``[n]``, below the total)."""
        return np.searchsorted(self.begins, place, side="right") - 1

    def of(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """``(part, first, last)`` of a range, with ``first`` and ``last`` counted within the part."""
        if begin >= end:
            return
        part = int(np.searchsorted(self.begins, begin, side="right")) - 1
        while begin < end:
            before, after = int(self.begins[part]), int(self.begins[part + 1])
            if before < after:
                yield part, begin - before, min(end, after) - before
            begin, part = max(begin, after), part + 1
