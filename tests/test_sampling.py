"""Drawing without replacement: sizes, and that subsets are equally likely."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dlstudy.sampling import without_replacement


@settings(max_examples=30)
@given(st.integers(1, 40), st.data())
def test_exactly_so_many_are_drawn_of_every_row(count, data):
    size = data.draw(st.integers(1, count))
    drawn = without_replacement(jax.random.key(count), (3, 2, count), size)
    assert drawn.shape == (3, 2, count)
    assert drawn.dtype == bool
    assert (np.asarray(drawn).sum(-1) == size).all()


@pytest.mark.parametrize(("count", "size"), [(5, 2), (4, 1), (6, 3), (4, 4)])
def test_every_subset_is_equally_likely(count, size):
    drawn = np.asarray(without_replacement(jax.random.key(0), (6000, count), size))
    codes = drawn @ (1 << np.arange(count))
    subsets = [sum(1 << i for i in chosen) for chosen in itertools.combinations(range(count), size)]
    found = np.array([(codes == code).sum() for code in subsets])
    assert found.sum() == 6000
    if len(subsets) > 1:
        assert stats.chisquare(found).pvalue > 1e-3


def test_size_may_be_traced_and_rows_are_drawn_apart():
    key = jax.random.key(3)
    sizes = jnp.array([1, 7, 30])
    traced = jax.jit(jax.vmap(lambda size: without_replacement(key, (30,), size)))(sizes)
    for row, size in zip(traced, sizes.tolist(), strict=True):
        np.testing.assert_array_equal(row, without_replacement(key, (30,), size))
    # The smaller of one key are part of the larger.
    assert not (traced[0] & ~traced[1]).any()
    assert traced[2].all()
    rows = without_replacement(key, (50, 30), 5)
    assert len(np.unique(np.asarray(rows), axis=0)) == 50


@pytest.mark.parametrize("count", [0, 2**16 + 1])
def test_an_axis_without_room_is_refused(count):
    with pytest.raises(ValueError, match="must hold from 1 to 65536"):
        without_replacement(jax.random.key(0), (count,), 1)
