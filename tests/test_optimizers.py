"""Optimizers against the book's formulas in NumPy, and the bounds on Adam's step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles.precision import in_float64

from dlstudy import optimizers
from dlstudy.errors import UserError
from experiments import adaptive_reference


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


# --- conformance

RATES = 0.02 * 0.97 ** np.arange(100)  # a schedule: where the rate enters matters


def noisy_gradient(t, theta):
    """A gradient that depends on the point, over eight decades, and is 0 for one parameter."""
    size = 10.0 ** np.arange(-5, 4, 2)
    drift = np.minimum(size, 1) * theta[:-1]  # stable, or rounding would grow with the path
    return np.append(drift + size * np.sin(1.3 * t + np.arange(5)), 0)


@pytest.mark.parametrize("constants", [{}, "others"])
@pytest.mark.parametrize("name", optimizers.NAMES)
@in_float64
def test_a_hundred_steps_are_those_of_the_formula(name, constants):
    others = {
        "adagrad": {"delta": 1e-3}, "rmsprop": {"rho": 0.5, "delta": 1e-3},
        "rmsprop_nesterov": {"rho": 0.99, "alpha": 0.5}, "momentum": {"alpha": 0.0},
        "nesterov": {"alpha": 0.99}, "averaged_momentum": {"beta": 0.5},
    }  # fmt: skip
    adams = {"rho1": 0.5, "rho2": 0.9, "delta": 1e-3}
    if constants:
        constants = others.get(name, adams if "adam" in name or name == "amsgrad" else {})
    theta = np.linspace(-1, 1, 6)
    schedule = jnp.asarray(RATES)
    optimizer = optimizers.standard_promotion(
        getattr(optimizers, name)(lambda count: schedule[count], **constants)
    )
    alpha = constants.get("alpha", 0.9)
    looks_ahead = "nesterov" in name
    params, state, found = jnp.asarray(theta), optimizer.init(jnp.asarray(theta)), [theta]
    update = jax.jit(optimizer.update)
    for t in range(len(RATES)):
        change, state = update(jnp.asarray(noisy_gradient(t, np.asarray(params))), state)
        params = params + change
        point = optimizers.nesterov_point(params, state, alpha) if looks_ahead else params
        found.append(np.asarray(point))
    changes = adaptive_reference.BY_NAME[name](noisy_gradient, theta, RATES, **constants)
    expected = theta + np.cumsum(changes, 0)
    np.testing.assert_allclose(found[1:], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "constant"),
    [("momentum", "alpha"), ("nesterov", "alpha"), ("rmsprop_nesterov", "alpha"),
     ("averaged_momentum", "beta"), ("sgd", None), ("adagrad", None), ("rmsprop", None),
     ("adam", None), ("adam_uncorrected", None), ("amsgrad", None)],
)  # fmt: skip
@in_float64
def test_by_name_with_a_momentum(name, constant):
    gradients = np.random.default_rng(1).normal(size=(10, 3))
    found, _ = changes(name, gradients, 0.1, momentum=0.7)
    named = {constant: 0.7} if constant else {}
    optimizer = optimizers.standard_promotion(getattr(optimizers, name)(0.1, **named))
    state = optimizer.init(jnp.zeros(3))
    for gradient, change in zip(gradients, found, strict=True):
        expected, state = optimizer.update(jnp.asarray(gradient), state)
        np.testing.assert_allclose(change, expected, rtol=1e-12)
    assert (np.abs(found - changes(name, gradients, 0.1)[0]).max() > 0.01) == (constant is not None)


OPTAX = {
    "sgd": optax.sgd,
    "adam": optax.adam,
    "rmsprop": lambda rate: optax.rmsprop(rate, eps=1e-6),
    "rmsprop_nesterov": lambda rate: optax.rmsprop(rate, eps=0, momentum=0.9, nesterov=True),
    "averaged_momentum": lambda rate: optax.chain(
        optax.ema(0.9, debias=False), optax.scale_by_learning_rate(rate)
    ),
}


@pytest.mark.parametrize("name", optimizers.NAMES)
@in_float64
def test_with_the_same_falling_rates_optax_agrees_where_the_table_says(name):
    default = OPTAX.get(name) or {
        "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
        "nesterov": lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True),
        "adam_uncorrected": optax.adam,
    }.get(name, getattr(optax, name, None))
    gradients = np.random.default_rng(3).normal(size=(20, 3))
    schedule = jnp.asarray(RATES)
    own, theirs = (
        optimizers.standard_promotion(made(lambda count: schedule[count]))
        for made in (getattr(optimizers, name), default)
    )
    states, apart = [o.init(jnp.zeros(3)) for o in (own, theirs)], 0.0
    for gradient in gradients:
        (mine, states[0]), (other, states[1]) = (
            o.update(jnp.asarray(gradient), s) for o, s in zip((own, theirs), states, strict=True)
        )
        apart = max(apart, float(np.abs(mine - other).max() / np.abs(mine).max()))
    assert apart < 1e-12 if name in OPTAX else apart > 1e-3


@pytest.mark.parametrize("wide", [False, True])
def test_the_rate_of_algorithm_8_1_falls_in_a_line_and_stays(wide):
    with jax.enable_x64(wide):
        schedule = optimizers.linear_decay(0.5, 0.005, 40)
        found = jax.jit(jax.vmap(schedule))(jnp.arange(60))
        assert found.dtype == (jnp.float64 if wide else jnp.float32)
        expected = adaptive_reference.linear_decay(0.5, 0.005, 40, 60)
        np.testing.assert_allclose(found, expected, rtol=1e-12 if wide else 1e-5)
    np.testing.assert_allclose(expected[[0, 39, 59]], [0.5 - 0.495 / 40, 0.005, 0.005])


@in_float64
def test_averaged_momentum_is_the_books_at_a_tenth_of_the_rate():
    gradients = np.random.default_rng(2).normal(size=(50, 4))
    averaged, _ = changes("averaged_momentum", gradients, 0.3)
    plain, _ = changes("momentum", gradients, 0.03)
    np.testing.assert_allclose(averaged, plain, rtol=1e-12)


@in_float64
def test_a_diverged_gradient_stays_visible():
    found, _ = changes("rmsprop_nesterov", np.array([[0.0, np.nan, np.inf]]), 0.1)
    assert found[0, 0] == 0
    assert np.isnan(found[0, 1:]).all()


@in_float64
def test_the_first_step_without_bias_correction_is_3_162_times_as_long_and_6_57_at_step_12():
    gradients = np.ones((100, 1))
    ratio = (changes("adam_uncorrected", gradients, 1.0)[0] / changes("adam", gradients, 1.0)[0])[
        :, 0
    ]
    np.testing.assert_allclose(ratio[0], 0.1 / np.sqrt(0.001), rtol=1e-6)
    assert ratio.argmax() == 11
    assert ratio.max() == pytest.approx(6.57, abs=0.005)


@in_float64
def test_adagrads_step_falls_with_the_root_of_time_and_rmsprops_settles():
    gradients = np.full((400, 1), 1e-3)
    shrinking = -changes("adagrad", gradients, 1.0, delta=0.0)[0][:, 0]
    np.testing.assert_allclose(shrinking, np.arange(1, 401) ** -0.5, rtol=1e-12)
    settling = -changes("rmsprop", np.ones((400, 1)), 1.0, delta=0.0)[0][:, 0]
    np.testing.assert_allclose(settling[[0, -1]], [10**0.5, 1], rtol=1e-12)


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
    weights = 0.999 ** np.arange(steps)[::-1]  # the corrected moment is a plain weighted mean
    expected = np.sqrt(weights @ np.square(gradients) / weights.sum()) + 1e-8
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
    listed = ", ".join((*optimizers.NAMES, "capped"))
    with pytest.raises(UserError, match=f"--optimizer=adamw: must be one of {listed}"):
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
