import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlstudy import models, patterns


def random_patterns(*shape, seed=0):
    return np.random.default_rng(seed).random(shape) < 0.4


@given(st.integers(1, 100), st.integers(0, 2**20))
def test_packing_keeps_every_unit_at_its_bit(units, seed):
    pattern = random_patterns(2, 3, units, seed=seed)
    words = np.asarray(patterns.pack(jnp.asarray(pattern)))
    assert words.dtype == np.uint32
    assert words.shape == (2, 3, -(-units // 32))
    for unit in range(units):
        bit = words[..., unit // 32] >> np.uint32(unit % 32) & np.uint32(1)
        np.testing.assert_array_equal(bit, pattern[..., unit])
    np.testing.assert_array_equal(patterns.unpack(jnp.asarray(words), units), pattern)
    padding = patterns.unpack(jnp.asarray(words), words.shape[-1] * 32)[..., units:]
    assert not padding.any()


@pytest.mark.parametrize("sizes", [(3, 5), (32, 1, 40), (64,)])
def test_hamming_distances_are_counts_over_units_one_by_one(sizes):
    units = sum(sizes)
    a, b = random_patterns(2, 4, 7, units)
    words = [patterns.pack(jnp.asarray(p)) for p in (a, b)]
    whole = np.zeros((4, 7), int)
    by_layer, by_unit = np.zeros((4, 7, len(sizes)), int), np.zeros((4, units), int)
    layer_of = np.repeat(np.arange(len(sizes)), sizes)
    for e in range(4):
        for n in range(7):
            for u in range(units):
                differs = int(a[e, n, u] != b[e, n, u])
                whole[e, n] += differs
                by_layer[e, n, layer_of[u]] += differs
                by_unit[e, u] += differs
    np.testing.assert_array_equal(patterns.hamming(*words), whole)
    np.testing.assert_array_equal(patterns.hamming_by_layer(*words, sizes), by_layer)
    np.testing.assert_array_equal(patterns.hamming_by_unit(*words, units), by_unit)
    mapped = jax.vmap(jax.vmap(patterns.hamming))(*words)
    np.testing.assert_array_equal(mapped, whole)


def test_layers_go_by_number_also_after_jit():
    model = models.MLP((3,) * 12, 1)
    x = jnp.linspace(-1, 1, 5)[:, None]
    params = models.initialise(model, jax.random.key(0), x[0])
    _, taps = jax.jit(lambda p: model.apply({"params": p}, x))(params)
    assert patterns.layer_names(taps) == [f"pre_{i}" for i in range(12)]
    assert patterns.layer_sizes(taps) == (3,) * 12
    on = patterns.of_taps(taps)
    for i in range(12):
        np.testing.assert_array_equal(on[:, 3 * i : 3 * i + 3], taps[f"pre_{i}"] > 0)
    one = patterns.activation_pattern(model.apply, params, x[2])
    np.testing.assert_array_equal(one, on[2])
    seeds = jax.vmap(lambda key: models.initialise(model, key, x[0]))(
        jax.random.split(jax.random.key(1), 2)
    )
    pattern = functools.partial(patterns.activation_pattern, model.apply)
    every = jax.vmap(jax.vmap(pattern, (None, 0)), (0, None))(seeds, x)
    assert every.shape == (2, 5, 36)


def test_a_convolution_has_a_unit_at_every_place():
    model = models.CNN((2, 3), 4, pool=True)
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    params = models.initialise(model, jax.random.key(0), jnp.asarray(images[0]))
    _, taps = model.apply({"params": params}, jnp.asarray(images))
    assert patterns.layer_sizes(taps) == (8 * 8 * 2, 4 * 4 * 3)
    on = patterns.of_taps(taps)
    assert on.shape == (3, 8 * 8 * 2 + 4 * 4 * 3)
    np.testing.assert_array_equal(on[1, :128], np.ravel(taps["pre_0"][1] > 0))
    one = patterns.activation_pattern(model.apply, params, jnp.asarray(images[1]))
    np.testing.assert_array_equal(one, on[1])


def test_a_unit_at_zero_is_off():
    assert not patterns.of_taps({"pre_0": jnp.zeros((1, 2))}).any()


def test_first_and_last_change():
    history = jnp.array([[1, 1, 0], [1, 2, 0], [1, 2, 1], [1, 1, 1]])
    first, last = patterns.first_and_last_change(history)
    assert first.tolist() == [0, 1, 2]
    assert last.tolist() == [0, 3, 2]
    one = patterns.first_and_last_change(history[:1])
    assert [a.tolist() for a in one] == [[0, 0, 0]] * 2
    bits = patterns.pack(jnp.asarray(random_patterns(5, 4, 40)))
    assert patterns.first_and_last_change(bits)[1].shape == (4, 2)
