"""Means over chunks equal means over the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.precision import in_float64

from dlstudy import chunks

# (examples, asked, examples per chunk): one chunk, an even split, a shorter last chunk
SPLITS = [(6, 6, 6), (6, 9, 6), (12, 5, 4), (12, 6, 6), (7, 3, 3), (11, 4, 4), (5, 4, 4), (7, 1, 1)]


def example(examples):
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=(examples, 3)), "y": rng.normal(size=examples)}


@given(st.integers(1, 3000), st.integers(1, 300))
def test_a_chunk_is_the_largest_divisor_unless_that_is_less_than_half(examples, asked):
    size = chunks.chunk_size(examples, asked)
    limit = min(asked, examples)
    divisors = [d for d in range(1, limit + 1) if examples % d == 0]
    large = [d for d in divisors if 2 * d >= limit]
    assert size == (large[-1] if large else limit)


def test_the_default_is_small_on_a_cpu_and_everything_elsewhere(monkeypatch):
    assert chunks.chunk_size(64) == chunks.CPU_CHUNK == 16
    assert chunks.chunk_size(10) == 10
    assert chunks.chunk_of_products() == 8
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert chunks.chunk_size(64) == 64
    assert chunks.chunk_of_products() is None


@pytest.mark.parametrize(("examples", "asked", "size"), SPLITS)
@in_float64
def test_the_mean_is_that_of_the_whole(examples, asked, size):
    assert chunks.chunk_size(examples, asked) == size
    data = example(examples)
    seen = []

    def means(batch):
        seen.append(len(batch["y"]))
        return {"x": batch["x"].mean(0), "xy": (batch["x"] * batch["y"][:, None]).mean(0)}

    found = jax.jit(lambda d: chunks.mean_over_chunks(means, d, asked))(data)
    np.testing.assert_allclose(found["x"], data["x"].mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["xy"], (data["x"].T @ data["y"]) / examples, rtol=1e-12)
    assert max(seen) == size  # nothing larger than a chunk is ever in flight


@pytest.mark.parametrize(("examples", "asked", "size"), SPLITS)
@in_float64
def test_rows_come_back_in_order(examples, asked, size):
    data = example(examples)
    found = chunks.map_over_chunks(lambda d: {"r": d["x"].sum(1) * d["y"]}, data, asked)
    np.testing.assert_allclose(found["r"], data["x"].sum(1) * data["y"], rtol=1e-12)


@in_float64
def test_it_can_be_differentiated_inside_and_outside():
    data = example(7)
    w = np.array([0.3, -1.0, 2.0])

    def loss(w, batch):
        return jnp.square(jnp.tanh(batch["x"] @ w) - batch["y"]).mean()

    @jax.jit
    def gradients(w):
        inside = chunks.mean_over_chunks(lambda b: jax.grad(loss)(w, b), data, 3)
        outside = jax.grad(lambda w: chunks.mean_over_chunks(lambda b: loss(w, b), data, 3))(w)
        return jax.grad(loss)(w, data), inside, outside

    whole, inside, outside = gradients(w)
    np.testing.assert_allclose(inside, whole, rtol=1e-12)
    np.testing.assert_allclose(outside, whole, rtol=1e-12)


def test_the_types_of_the_function_are_kept():
    found = chunks.mean_over_chunks(lambda d: d.mean(0), jnp.ones((7, 2), jnp.float32), 3)
    assert found.dtype == jnp.float32
