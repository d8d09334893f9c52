"""Optimizers against the book's formulas in NumPy, and the bounds on Adam's step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import adam
from oracles.precision import in_float64

from dlstudy import optimizers
from dlstudy.errors import UserError


def changes(name, gradients, rate, **settings):
    """The change of the parameters at each step, [T, n], for gradients[T, n]; and the state."""

    @jax.jit
    def run(gradients, rate):
        optimizer = optimizers.make(name, rate, **settings)

        def step(state, gradient):
            change, state = optimizer.update(gradient, state)
            return state, change

        return jax.lax.scan(step, optimizer.init(jnp.zeros_like(gradients[0])), gradients)

    state, found = run(gradients, rate)
    return np.asarray(found), state


@in_float64
def test_adam_is_the_books_step_by_step():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(100, 5)) * 10.0 ** np.arange(-6, 4, 2)
    found, _ = changes("adam", gradients, 0.01)
    np.testing.assert_allclose(found, adam.steps(gradients, 0.01), rtol=1e-12)


@pytest.mark.parametrize("name", ["sgd", "momentum"])
@in_float64
def test_descent_and_heavy_ball_are_the_books(name):
    gradients = np.random.default_rng(0).normal(size=(30, 4))
    alpha = 0.8 if name == "momentum" else 0.0
    velocity, expected = np.zeros(4), []
    for g in gradients:  # algorithm 8.2
        velocity = alpha * velocity - 0.05 * g
        expected.append(velocity)
    found, _ = changes(name, gradients, 0.05, momentum=0.8)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# --- how far Adam can step (the rate is 1 below)


@in_float64
def test_adams_first_step_is_the_rate_whatever_the_gradient():
    gradient = np.array([[1e-3, -1.0, 1e6, 1e-8, 0.0]])
    found, _ = changes("adam", gradient, 1.0)
    # delta = 1e-8 halves the step of a gradient of 1e-8.
    np.testing.assert_allclose(found, [[-1, 1, -1, -0.5, 0]], rtol=2e-5)


@in_float64
def test_after_a_lone_spike_adam_steps_3_16_rates():
    gradients = np.zeros((12_000, 1))
    gradients[-1] = 5.0
    found, _ = changes("adam", gradients, 1.0)
    assert not found[:-1].any()
    np.testing.assert_allclose(-found[-1], 0.1 / np.sqrt(0.001), rtol=1e-5)


LARGEST = 0.1 / np.sqrt(0.001 * (1 - 0.9**2 / 0.999))  # (Cauchy-Schwarz)


@in_float64
def test_the_largest_adam_step_is_7_27_rates_and_is_reached():
    assert pytest.approx(7.27, abs=0.005) == LARGEST
    gradients = np.zeros((12_000, 1))
    # Each gradient larger than the last by rho2 / rho1: equality in Cauchy-Schwarz.
    gradients[-200:, 0] = (0.999 / 0.9) ** np.arange(200)
    found, _ = changes("adam", gradients, 1.0)
    np.testing.assert_allclose(-found[-1], LARGEST, rtol=1e-5)


@given(hnp.arrays(np.float64, (40, 2), elements=st.floats(-1e3, 1e3)), st.integers(0, 2))
def test_adam_never_steps_further(gradients, growth):
    with jax.enable_x64(True):
        steps, _ = bounded(gradients * (0.999 / 0.9) ** (growth * np.arange(40.0)[:, None]))
    assert np.abs(steps).max() <= LARGEST


@jax.jit
def bounded(gradients):
    optimizer = optimizers.make("adam", 1.0)

    def step(state, gradient):
        change, state = optimizer.update(gradient, state)
        return state, change

    state, steps = jax.lax.scan(step, optimizer.init(jnp.zeros_like(gradients[0])), gradients)
    return steps, state


# --- the preconditioner


@pytest.mark.parametrize("steps", [1, 2, 60])
@in_float64
def test_the_preconditioner_is_the_root_of_the_corrected_second_moment(steps):
    gradients = np.random.default_rng(0).normal(size=(steps, 4)) * [1e-6, 1e-3, 1, 1e3]
    found, state = changes("adam", gradients, 0.1)
    preconditioner = optimizers.adam_preconditioner(state)
    expected = np.sqrt(adam.second_moment(gradients)) + 1e-8
    np.testing.assert_allclose(preconditioner, expected, rtol=1e-11)
    # Adam's step is the rate times the corrected first moment over it.
    first = optax.tree.get(state, "mu") / (1 - 0.9**steps)
    np.testing.assert_allclose(found[-1], -0.1 * first / preconditioner, rtol=1e-11)


def test_the_preconditioner_keeps_float32_and_its_digits():
    gradients = np.float32([[2.0, -4.0]] * 3)
    _, state = changes("adam", gradients, 0.1)
    found = optimizers.adam_preconditioner(state)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, [2, 4], rtol=1e-6)


def test_before_the_first_step_the_preconditioner_is_one():
    params = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
    found = jax.jit(lambda p: optimizers.adam_preconditioner(optimizers.make("adam", 0.1).init(p)))(
        params
    )
    assert jax.tree.structure(found) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, found, params)


# --- the rate capped by the curvature


def quadratic(seed, n=6):
    """A positive definite matrix, float64[n, n], and a point."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n))
    return root @ root.T + 0.1 * np.eye(n), rng.normal(size=n)


@pytest.mark.parametrize("rate", [1e-4, 1e3])
@in_float64
def test_the_cap_minimises_a_quadratic_along_the_gradient(rate):
    matrix, point = quadratic(0)
    optimizer = optimizers.make("capped", rate)
    gradient = matrix @ point
    curvature = gradient @ matrix @ gradient
    change = jax.jit(lambda g, c: optimizer.update(g, optimizer.init(g), curvature=c)[0])(
        gradient, curvature
    )
    if rate == 1e-4:  # below the minimum's distance the cap does not bind
        np.testing.assert_allclose(change, -rate * gradient, rtol=1e-12)
    else:
        slope_there = gradient @ matrix @ (point + np.asarray(change))
        assert abs(slope_there) <= 1e-12 * (gradient @ gradient)


@given(st.integers(0, 10**6), st.floats(1e-3, 1e3), st.floats(-10, 10))
def test_the_capped_rate_is_never_above_the_rate_nor_the_minimum(seed, rate, curvature):
    gradient = np.random.default_rng(seed).normal(size=3).astype(np.float32)
    change = np.asarray(capped(gradient, np.float32(rate), np.float32(curvature)))
    used = -(change @ gradient) / (gradient @ gradient)
    best = gradient @ gradient / curvature if np.float32(curvature) > 0 else np.inf
    assert used == pytest.approx(min(rate, best), rel=1e-5)


@jax.jit
def capped(gradient, rate, curvature):
    optimizer = optimizers.make("capped", rate)
    return optimizer.update(gradient, optimizer.init(gradient), curvature=curvature)[0]


def test_a_zero_gradient_moves_nothing():
    np.testing.assert_array_equal(capped(np.zeros(3, np.float32), 1.0, 0.0), 0)


# --- by name


def test_an_unknown_name():
    with pytest.raises(UserError, match="--optimizer=adamw: must be one of adam, sgd, momentum"):
        optimizers.make("adamw", 0.1)


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_rates_are_an_axis_of_one_program(name):
    traces = []

    def last(rate):
        traces.append(rate)
        optimizer = optimizers.make(name, rate)
        gradient = jnp.float32([1.0, -2.0])
        return optimizer.update(gradient, optimizer.init(gradient))[0]

    found = jax.jit(jax.vmap(last))(jnp.float32([0.1, 0.2]))
    assert len(traces) == 1
    np.testing.assert_allclose(found[1], 2 * found[0], rtol=1e-6)
