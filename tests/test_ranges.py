"""Ranges one after the other, against Python's."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prealign.ranges import ranges

FEW = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 9)), max_size=20)


@given(FEW)
def test_ranges_are_those_of_python(pairs: list[tuple[int, int]]) -> None:
    starts, lengths = np.array(pairs, np.int64).reshape(-1, 2).T
    assert ranges(starts, lengths).tolist() == [n for start, length in pairs for n in range(start, start + length)]
    assert ranges(0, lengths).tolist() == [n for _, length in pairs for n in range(length)]
    assert ranges(starts, lengths).dtype == np.int64
