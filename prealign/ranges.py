"""Index arithmetic with ranges of different lengths."""

import numpy as np


def ranges(starts: np.ndarray | int, lengths: np.ndarray) -> np.ndarray:
    """``start, start + 1, ..., start + length - 1`` of every range, one range after the other: int64
    ``[lengths.sum()]``.

    ``lengths``: int64 ``[n]``, some of which may be 0; ``starts``: ``[n]``, or one for all.
    """
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)
