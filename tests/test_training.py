"""A step against what it says of itself, an epoch against a count, descent at its edge."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from oracles.precision import in_float64

from dlstudy import curvature, optimizers, training

# --- a quadratic, on which two orders are exact


def line_loss(params, batch):
    """Half the mean squared error of a linear map: quadratic in the parameters."""
    x, y = batch
    return jnp.square(x @ params["w"] + params["b"] - y).mean() / 2


def line_problem(examples=12, dtype=np.float32):
    """Data and start of a linear regression on four features."""
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(examples, 4)).astype(dtype), rng.normal(size=examples).astype(dtype))
    start = {"b": np.array(0.5, dtype), "w": rng.normal(size=4).astype(dtype)}
    return data, start


def line_trainer(start, name="sgd", rate=0.05, batch_size=4, **settings):
    return training.make_trainer(
        lambda key: jax.tree.map(jnp.asarray, start),
        line_loss,
        optimizers.make(name, rate),
        batch_size,
        needs_curvature=name == "capped",
        **settings,
    )


def epochs_of(trainer, epochs):
    """A compiled (key, data) -> states after each epoch, and metrics of all steps."""

    @jax.jit
    def run(key, data):
        def epoch(state, _):
            state, metrics = trainer.epoch(state, key, data)
            return state, (state, metrics)

        return jax.lax.scan(epoch, trainer.init(key), length=epochs)[1]

    def on_numpy(key, data):
        states, metrics = jax.device_get(run(key, data))
        return states, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), metrics)

    return on_numpy


def run_epochs(trainer, data, epochs):
    return epochs_of(trainer, epochs)(jax.random.key(0), data)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("adam", np.float32), ("adam", np.float64), ("momentum", np.float32), ("capped", np.float64)],
)
def test_the_taylor_budget_is_exact_on_a_quadratic(name, dtype):
    with jax.enable_x64(dtype == np.float64):
        data, start = line_problem(dtype=dtype)
        _, metrics = run_epochs(line_trainer(start, name), data, 3)
    budget = metrics.first_order + metrics.second_order
    assert budget.dtype == dtype
    assert np.all(np.abs(metrics.realised) > 1e-6)
    # Rounding is relative to the loss, of which the change is a difference.
    bound = 8 * np.finfo(dtype).eps * (metrics.loss + np.abs(metrics.first_order))
    assert np.all(np.abs(budget - metrics.realised) < bound)


def test_a_step_measures_the_step_that_rounding_left():
    data, start = line_problem()
    _, metrics = run_epochs(line_trainer(start, rate=1e-12), data, 1)
    for name in ("update_norm", "first_order", "second_order", "realised"):
        assert not getattr(metrics, name).any()
    assert metrics.grad_norm.all()


def test_the_rate_that_the_curvature_caps():
    """On the whole set a capped step ends where the slope along its gradient is zero."""
    data, start = line_problem()
    states, metrics = run_epochs(line_trainer(start, "capped", 1e6, batch_size=12), data, 1)
    gradient = jax.grad(line_loss)(start, data)
    after = jax.tree.map(lambda a: a[0], states.params)
    slope = optax.tree.vdot(gradient, jax.grad(line_loss)(after, data))
    assert abs(slope) < 1e-5 * metrics.grad_norm[0] ** 2
    assert metrics.update_norm[0] < 1e5 * metrics.grad_norm[0]


# --- metrics against the same by hand


@pytest.mark.parametrize("chunk", [None, 3])  # 3: a shorter last chunk
@in_float64
def test_metrics_are_what_their_names_say(chunk):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(8, 4)), rng.normal(size=8)
    start = {"b": np.array(0.5), "w": rng.normal(size=4)}
    loss = lambda p, b: jnp.sin(b[0] @ p["w"] + p["b"] - b[1]).mean()  # noqa: E731
    trainer = training.make_trainer(
        lambda key: start, loss, optimizers.make("adam", 0.1), 8, chunk=chunk
    )

    @jax.jit
    def both():
        state = trainer.init(jax.random.key(0))
        after, metrics = trainer.step(state, (x, y))
        return after, metrics, jax.grad(loss)(start, (x, y)), loss(after.params, (x, y))

    after, metrics, gradient, loss_after = jax.device_get(both())
    u = x @ start["w"] + start["b"] - y
    design = np.column_stack([np.ones(8), x])  # b before w, as in the tree
    g, _ = ravel_pytree(gradient)
    np.testing.assert_allclose(g, np.cos(u) @ design / 8, rtol=1e-12)
    d = np.asarray(ravel_pytree(jax.tree.map(np.subtract, start, after.params))[0])
    hessian = -(design * np.sin(u)[:, None]).T @ design / 8
    expected = {
        "loss": np.sin(u).mean(),
        "grad_norm": np.linalg.norm(g),
        "layer_grad_norm": [abs(g[0]), np.linalg.norm(g[1:])],
        "update_norm": np.linalg.norm(d),
        "first_order": -g @ d,
        "second_order": d @ hessian @ d / 2,
        "realised": loss_after - np.sin(u).mean(),
    }
    assert expected.keys() == metrics._asdict().keys()
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(metrics, name), value, rtol=1e-10, err_msg=name)
    np.testing.assert_allclose(d, 0.1 * np.sign(g), rtol=1e-6)  # Adam's first step
    assert after.step == 1
    assert training.layer_names(start) == ("b", "w")


def test_layer_norms_add_up_in_squares():
    data, start = line_problem()
    _, metrics = run_epochs(line_trainer(start), data, 2)
    assert metrics.layer_grad_norm.shape == (6, 2)
    np.testing.assert_allclose(
        np.square(metrics.layer_grad_norm).sum(1), np.square(metrics.grad_norm), rtol=1e-6
    )


def test_a_chunked_step_is_the_same_step():
    data, start = line_problem(16)
    whole = run_epochs(line_trainer(start, "capped", batch_size=8), data, 2)
    parts = run_epochs(line_trainer(start, "capped", batch_size=8, chunk=4), data, 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole, parts)


# --- what is measured when


@pytest.fixture(scope="module")
def measured_at_every_step():
    data, start = line_problem(examples=15)
    return run_epochs(line_trainer(start, batch_size=3), data, 2)


@pytest.mark.parametrize("every", [0, 1, 3])
def test_norms_rest_between_their_steps(every, measured_at_every_step):
    data, start = line_problem(examples=15)
    trainer = line_trainer(
        start, batch_size=3, instruments=training.Instruments(0, 0, norms_every=every)
    )
    _, metrics = run_epochs(trainer, data, 2)
    due = np.arange(10) % every == 0 if every else np.zeros(10, bool)
    full = measured_at_every_step[1]
    for name in ("grad_norm", "layer_grad_norm", "update_norm"):
        found = np.asarray(getattr(metrics, name))
        np.testing.assert_array_equal(np.isfinite(found).reshape(10, -1).all(1), due)
        np.testing.assert_allclose(found[due], np.asarray(getattr(full, name))[due], rtol=1e-5)


@pytest.mark.parametrize(
    ("every", "budget", "change"),
    [
        ((3, 0), 3, 3),
        ((0, 2), 0, 2),
        ((0, 1), 0, 1),
        ((0, 0), 0, 0),
        ((4, 1), 4, 4),  # the budget has the realised change with it
    ],
)
def test_instruments_rest_between_their_steps(every, budget, change, measured_at_every_step):
    data, start = line_problem(examples=15)
    trainer = line_trainer(start, batch_size=3, instruments=training.Instruments(*every))
    states, metrics = run_epochs(trainer, data, 2)
    steps = np.arange(10)  # counted through both epochs
    for name, n in (("first_order", budget), ("second_order", budget), ("realised", change)):
        due = steps % n == 0 if n else np.zeros(10, bool)
        np.testing.assert_array_equal(np.isfinite(getattr(metrics, name)), due, err_msg=name)
    full_states, full = measured_at_every_step
    np.testing.assert_allclose(metrics.loss, full.loss, rtol=1e-6)
    np.testing.assert_allclose(states.params["w"], full_states.params["w"], rtol=1e-5)
    for name in ("first_order", "second_order", "realised"):
        found = getattr(metrics, name)
        due = np.isfinite(found)
        np.testing.assert_allclose(
            found[due], getattr(full, name)[due], rtol=1e-4, atol=1e-6, err_msg=name
        )


# --- an epoch's batches


@functools.cache
def counter(examples, batch_size):
    """Compiled epochs that count visits: example i is the unit vector e_i, and the loss minus the
    mean parameter along it, so that gradient descent at rate `batch_size` counts in them.
    """
    trainer = training.make_trainer(
        lambda key: {"w": jnp.zeros(examples)},
        lambda params, batch: -(batch @ params["w"]).mean(),
        optimizers.make("sgd", float(batch_size)),
        batch_size,
        instruments=training.Instruments(0, 0),
    )
    return epochs_of(trainer, EPOCHS)


EPOCHS = 6


def visits(examples, batch_size, seed):
    """How often each epoch visits each example, [EPOCHS, examples]."""
    data = np.eye(examples, dtype=np.float32)
    states, metrics = counter(examples, batch_size)(jax.random.key(seed), data)
    assert len(metrics.loss) == states.step[-1] == EPOCHS * (examples // batch_size)
    found = np.diff(states.params["w"], axis=0, prepend=0)
    np.testing.assert_allclose(found, found.round(), atol=1e-5)
    return found.round()


@pytest.mark.parametrize(("examples", "batch_size"), [(10, 3), (6, 6), (9, 5)])
def test_an_epoch_visits_every_example_at_most_once_and_drops_the_rest(examples, batch_size):
    found = visits(examples, batch_size, seed=0)
    assert set(np.unique(found)) <= {0, 1}
    np.testing.assert_array_equal(found.sum(1), examples // batch_size * batch_size)


def test_each_epoch_and_each_key_has_its_own_order():
    first, second = (visits(10, 3, seed) for seed in (0, 1))
    assert len(np.unique(first, axis=0)) > 1  # not always the same one is dropped
    assert np.any(first != second)
    np.testing.assert_array_equal(first, visits(10, 3, 0))


# --- the edge of stability (Cohen et al. 2021, 2022)


def chebyshev_problem():
    """T5 at 20 equispaced points: half the mean squared error of a tanh network of width 100."""
    x = np.linspace(-1, 1, 20)[:, None]
    y = 16 * x**5 - 20 * x**3 + 5 * x
    rng = np.random.default_rng(0)
    uniform = lambda fan_in, *shape: rng.uniform(-1, 1, shape) / np.sqrt(fan_in)  # noqa: E731
    start = {
        "a": uniform(1, 1, 100),
        "b": uniform(1, 100),
        "c": uniform(100, 100, 1),
        "d": uniform(100, 1),
    }

    def loss(p):
        hidden = jnp.tanh(x @ p["a"] + p["b"][None])
        return jnp.square(hidden @ p["c"] + p["d"][None] - y).mean() / 2

    return loss, start


@functools.partial(jax.jit, static_argnames=("name", "steps", "checks"))
def sharpness_along(name, rate, steps, checks):
    """Largest Hessian eigenvalue, Adam's preconditioned, `checks` times along full-batch descent.

    The first is before training; a pair of arrays [checks + 1]. By Lanczos from the last
    eigenvector, to a relative residual of 1e-3.
    """
    loss, start = chebyshev_problem()
    optimizer = optimizers.make(name, rate)
    flat, unravel = ravel_pytree(start)

    def step(state, _):
        params, inner = state
        update, inner = optimizer.update(jax.grad(loss)(params), inner)
        return (jax.tree.map(jnp.add, params, update), inner), None

    def sharpness(state, vector):
        params, inner = state
        scale = jnp.ones_like(flat)
        if name == "adam":
            scale = jax.lax.rsqrt(ravel_pytree(optimizers.adam_preconditioner(inner))[0])

        def product(v):
            return (
                scale * ravel_pytree(curvature.hessian_product(loss, params, unravel(scale * v)))[0]
            )

        return curvature.largest_eigenpair(product, vector, tolerance=1e-3, max_products=60)

    def check(carry, _):
        state, vector = carry
        state, _ = jax.lax.scan(step, state, length=steps // checks)
        pair = sharpness(state, vector + 1e-3 * noise)
        return (state, pair.vector), pair

    noise = jnp.asarray(np.random.default_rng(1).normal(size=flat.shape))
    state = start, optimizer.init(start)
    before = sharpness(state, noise)
    _, after = jax.lax.scan(check, (state, before.vector), length=checks)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), before, after)


def in_units_of(limit, found):
    assert np.all(found.residual <= 1e-3 * np.abs(found.value))
    return np.asarray(found.value / limit)


@in_float64
def test_gradient_descent_sharpens_to_two_over_its_rate():
    ratio = in_units_of(2 / 0.06, sharpness_along("sgd", 0.06, 20_000, 40))
    assert ratio[0] < 0.8
    assert abs(np.median(ratio[-10:]) - 1) < 0.03


@in_float64
def test_at_a_small_rate_it_stays_far_below():
    ratio = in_units_of(2 / 0.01, sharpness_along("sgd", 0.01, 20_000, 40))
    assert ratio.max() < 0.2
    assert np.median(ratio[-10:]) == pytest.approx(0.09, abs=0.03)


@in_float64
def test_adam_sharpens_to_38_over_its_rate_in_its_own_metric():
    ratio = in_units_of(38 / 3e-3, sharpness_along("adam", 3e-3, 4_000, 40))
    late = np.abs(ratio[-20:] - 1)
    assert np.median(late) < 0.05
    assert late.max() < 0.1  # it oscillates about the edge
