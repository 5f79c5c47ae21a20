"""`draws` is `mix`."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prealign.random_streams import draws, mix


@given(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 100),
    st.lists(st.integers(0, 2**62), min_size=1),
    st.integers(0, 5),
)
def test_draws_are_those_of_mix(seed: int, epoch: int, index: list[int], number: int) -> None:
    values = np.array(index)
    assert np.array_equal(draws(mix(seed, epoch), values, number), mix(seed, epoch, values, number))
    epochs = epoch + np.arange(len(values))
    assert np.array_equal(draws(mix(seed, epochs), values, number), mix(seed, epochs, values, number))
