"""Counter-based randomness: 64-bit values that depend on their arguments alone, never on call order, platform or
version.

``mix`` is the finaliser of SplitMix64 (Steele, Lea, Flood 2014), applied once per argument.
"""

from enum import IntEnum
from typing import Any

import numpy as np


class Draw(IntEnum):
    """What a seed is used for; ``mix(seed, Draw.X, ...)`` keeps the uses apart."""

    PERMUTED_TABLE = 1
    SWITCHING = 2
    SAMPLE_ORDER = 3
    WINDOW_ORDER = 4
    WORD_BATCHES = 5
    PROBE = 6
    FACTS = 7
    FACTS_ORDER = 8
    LEAKAGE = 9


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)


def mix(*parts: int | np.ndarray) -> np.ndarray:
    """Hash integers (scalars or arrays that broadcast) to uint64; a different order of arguments is another hash."""
    with np.errstate(over="ignore"):
        state: np.ndarray | np.uint64 = np.uint64(0)
        for part in parts:
            value: np.ndarray | np.uint64 = (
                part.astype(np.uint64) if isinstance(part, np.ndarray) else np.uint64(int(part) & 0xFFFFFFFFFFFFFFFF)
            )
            state = _finalise(state ^ _finalise(value + _GOLDEN))
        return np.asarray(state, dtype=np.uint64)


def _finalise(z: Any) -> Any:
    z = (z ^ (z >> _S30)) * _M1
    z = (z ^ (z >> _S27)) * _M2
    return z ^ (z >> _S31)


def draws(state: np.ndarray, index: np.ndarray, number: int) -> np.ndarray:
    """``mix(..., index, number)`` for many ``index`` (int64 or uint64, ``[n]``), where ``state`` is ``mix(...)``.

    The same bits as `mix`, with a quarter of its passes over memory.
    """
    with np.errstate(over="ignore"):
        value = index.astype(np.uint64)
        value += _GOLDEN
        buffer = np.empty_like(value)
        _finalise_in_place(value, buffer)
        value ^= state
        _finalise_in_place(value, buffer)
        value ^= _finalise(np.uint64(number) + _GOLDEN)
        _finalise_in_place(value, buffer)
        return value


def _finalise_in_place(z: np.ndarray, buffer: np.ndarray) -> None:
    for shift, factor in ((_S30, _M1), (_S27, _M2)):
        np.right_shift(z, shift, out=buffer)
        z ^= buffer
        z *= factor
    np.right_shift(z, _S31, out=buffer)
    z ^= buffer


def uniform(bits: np.ndarray) -> np.ndarray:
    """Map uint64 to float64 in [0, 1), 53 bits."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(index: np.ndarray, size: int | np.ndarray, key: int | np.ndarray) -> np.ndarray:
    """Apply the ``key``-th pseudo-random permutation of ``range(size)`` to ``index`` (int64), without a table.

    A four-round Feistel network on the next even power of two, walked until the value falls inside the range. ``size``
    and ``key`` broadcast against ``index``: each element may belong to a permutation of its own.
    """
    index, size, key = np.broadcast_arrays(np.asarray(index, np.int64), np.asarray(size, np.int64), np.asarray(key))
    if index.size and (np.any(index < 0) or np.any(index >= size)):
        raise IndexError("permute: index outside range(size)")
    bits = np.maximum(1, (np.ceil(np.log2(np.maximum(size, 2).astype(np.float64))).astype(np.int64) + 1) // 2)
    half = bits.astype(np.uint64)
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = [mix(key, round_) for round_ in range(4)]
    value = index.astype(np.uint64)
    result = np.empty(index.shape, dtype=np.int64)
    todo = np.ones(index.shape, dtype=bool)
    while todo.any():
        left, right = value >> half, value & mask
        for round_key in keys:
            left, right = right, left ^ (mix(round_key, right) & mask)
        value = (left << half) | right
        inside = todo & (value < size.astype(np.uint64))
        result[inside] = value[inside].astype(np.int64)
        todo &= ~inside
    return result
