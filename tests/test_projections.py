"""`dlstudy.projections`: brute force, the laws of a projection, and chains of Optax."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dlstudy import losses, models, projections
from dlstudy.projections import after_update, norms, onto_balls, onto_balls_tree

pytestmark = pytest.mark.usefixtures("quick_compilation")
ROUNDING = 6e-7  # of float32, relative
AXES = (0, 1, None)
# Few shapes: each is compiled once.
KERNELS = st.sampled_from([(1, 1), (5, 3), (2, 6)]).flatmap(
    lambda shape: hnp.arrays(
        np.float32, shape, elements=st.floats(-100, 100, width=32, allow_subnormal=False)
    )
)
RADII = st.floats(0.0625, 64, width=32)
AXIS = st.sampled_from(AXES)


def brute_force(kernel, radius, axis):
    """Vector by vector, in float64."""
    kernel = np.array(kernel, np.float64)
    vectors = {0: kernel.T, 1: kernel, None: [kernel.reshape(-1)]}[axis]
    for vector in vectors:  # views
        length = np.sqrt(sum(w * w for w in vector))
        if length > radius:
            vector *= radius / length
    return kernel


compiled = jax.jit(onto_balls, static_argnums=2)


def project(kernel, radius, axis):
    return np.asarray(compiled(kernel, np.asarray(radius, kernel.dtype), axis))


@given(KERNELS, RADII, AXIS)
def test_it_is_brute_force_and_lies_in_the_ball(kernel, radius, axis):
    found = project(kernel, radius, axis)
    np.testing.assert_allclose(found, brute_force(kernel, radius, axis), rtol=ROUNDING, atol=1e-30)
    lengths = np.sqrt(np.square(found.astype(float)).sum(axis))
    assert np.all(lengths <= radius * (1 + ROUNDING))


@pytest.mark.parametrize("axis", AXES)
def test_it_is_brute_force_in_float64(axis):
    kernel = np.random.default_rng(0).normal(size=(30, 20))
    with jax.enable_x64(True):
        found = project(kernel, 3.0, axis)
        again = project(found, 3.0, axis)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, brute_force(kernel, 3.0, axis), rtol=1e-12)
    np.testing.assert_allclose(again, found, rtol=1e-12)
    assert (found != kernel).any()


@given(KERNELS, RADII, AXIS)
def test_it_is_idempotent(kernel, radius, axis):
    once = project(kernel, radius, axis)
    np.testing.assert_allclose(project(once, radius, axis), once, rtol=ROUNDING)


@given(KERNELS, st.integers(0, 2**32 - 1), st.floats(0.001, 100), RADII, AXIS)
def test_it_is_non_expansive(kernel, seed, size, radius, axis):
    other = kernel + np.random.default_rng(seed).normal(size=kernel.shape).astype("f4") * size
    other = other.astype(np.float32)
    before = np.linalg.norm(kernel.astype(float) - other)
    after = np.linalg.norm(project(kernel, radius, axis).astype(float)
                           - project(other, radius, axis))  # fmt: skip
    # Rounding of each result is relative to its own length.
    scale = min(radius * np.sqrt(kernel.size), np.linalg.norm(kernel) + np.linalg.norm(other))
    assert after <= before + ROUNDING * (before + scale)


@pytest.mark.parametrize(("axis", "optax_axis"), [(0, 1), (1, 0)])
def test_it_is_optax_mapped_over_the_vectors(axis, optax_axis):
    kernel = jax.random.normal(jax.random.key(0), (8, 5))
    peer = jax.vmap(
        lambda w: optax.projections.projection_l2_ball(w, 2.0), optax_axis, optax_axis
    )(kernel)  # fmt: skip
    chex.assert_trees_all_close(onto_balls(kernel, 2.0, axis), peer, rtol=ROUNDING)
    whole = optax.projections.projection_l2_ball(kernel, 2.0)
    chex.assert_trees_all_close(onto_balls(kernel, 2.0, None), whole, rtol=ROUNDING)
    assert np.abs(whole - peer).max() > 0.1  # what is meant by the axis matters


def test_extreme_weights_and_radii():
    huge = jnp.full((4, 2), 1e30)
    np.testing.assert_allclose(project(huge, 2.0, 0), np.ones((4, 2)), rtol=ROUNDING)
    np.testing.assert_array_equal(project(huge, jnp.inf, 0), huge)
    np.testing.assert_array_equal(project(np.zeros((3, 2), "f4"), 1.0, 0), np.zeros((3, 2)))
    tiny = jnp.full((4, 2), 1e-30)
    np.testing.assert_allclose(norms(tiny)[0], 2e-30, rtol=1e-5)
    broken = np.array(
        [[np.nan, 3.0], [1.0, 4.0]], np.float32
    )  # a column that is lost does not spread
    np.testing.assert_allclose(project(broken, 1.0, 0)[:, 1], [0.6, 0.8], rtol=ROUNDING)
    assert np.isnan(project(broken, 1.0, 0)[0, 0])


def test_a_convolution_has_its_incoming_weights_on_three_axes():
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 4, 6))
    flat = onto_balls(kernel.reshape(36, 6), 1.5, 0).reshape(kernel.shape)
    chex.assert_trees_all_close(onto_balls(kernel, 1.5, (0, 1, 2)), flat, rtol=ROUNDING)


def test_each_vector_may_have_its_own_radius():
    kernel = jnp.ones((4, 3))
    radii = jnp.array([[1.0, 2.0, 3.0]])
    np.testing.assert_allclose(norms(onto_balls(kernel, radii, 0)), [[1, 2, 2]], rtol=ROUNDING)


# --- the transformation

MODEL = models.MLP((6, 5), 3)
BATCH = jax.random.normal(jax.random.key(5), (20, 4)), jnp.arange(20) % 3


def start(key=0):
    return models.initialise(MODEL, jax.random.key(key), BATCH[0][0])


@jax.jit
def gradient(params):
    return jax.grad(
        lambda p: losses.cross_entropy(MODEL.apply({"params": p}, BATCH[0])[0], BATCH[1])
    )(params)


def trajectory(optimizer, params, steps=12):
    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.jit(lambda s: jax.lax.scan(step, s, length=steps)[1])(
        (params, optimizer.init(params))
    )


@pytest.mark.parametrize("axis", AXES)
def test_every_norm_is_bounded_after_every_step(axis):
    radius = 0.7
    path = trajectory(
        optax.chain(optax.sgd(3.0), after_update(radius, axis)),
        onto_balls_tree(start(), radius, axis),
    )
    for layer in path.values():
        along = {0: 1, 1: 2, None: (1, 2)}[axis]
        lengths = np.sqrt(np.square(np.asarray(layer["kernel"], float)).sum(along))
        assert lengths.max() <= radius * (1 + ROUNDING)
        assert lengths.max() > 0.99 * radius
    biases = [np.linalg.norm(layer["bias"], axis=1).max() for layer in path.values()]
    assert max(biases) > radius


def test_it_is_the_step_and_then_brute_force():
    params, rate, radius = onto_balls_tree(start(), 0.6), 2.0, 0.6
    path = trajectory(optax.chain(optax.sgd(rate), after_update(radius)), params, 5)
    for t in range(5):
        grads = gradient(params)
        params = {
            name: {
                "kernel": brute_force(p["kernel"] - rate * grads[name]["kernel"], radius, 0)
                .astype(np.float32),
                "bias": p["bias"] - rate * grads[name]["bias"],
            }
            for name, p in params.items()
        }  # fmt: skip
        now = jax.tree.map(lambda a, t=t: a[t], path)
        chex.assert_trees_all_close(now, params, rtol=1e-5, atol=1e-6)
        params = now


@pytest.mark.parametrize("radius", [1e3, np.inf, lambda shape: 100.0 * shape[1]])
def test_in_a_large_ball_the_update_is_the_plain_optimizer_s_to_the_bit(radius):
    params, plain = start(), optax.sgd(0.1, momentum=0.9)
    bounded = optax.chain(plain, after_update(radius))
    states = plain.init(params), bounded.init(params)
    for _ in range(3):
        grads = gradient(params)
        expected, first = plain.update(grads, states[0], params)
        found, second = bounded.update(grads, states[1], params)
        chex.assert_trees_all_equal(found, expected)
        states, params = (first, second), optax.apply_updates(params, found)


def test_biases_are_untouched_unless_asked():
    params = jax.tree.map(lambda a: a + 5, start())
    left, taken = (onto_balls_tree(params, 0.5, biases=asked) for asked in (False, True))
    for name, layer in params.items():
        np.testing.assert_array_equal(left[name]["bias"], layer["bias"])
        np.testing.assert_allclose(jnp.linalg.norm(taken[name]["bias"]), 0.5, rtol=ROUNDING)
        np.testing.assert_array_equal(taken[name]["kernel"], left[name]["kernel"])


def test_over_seeds_and_over_radii_it_is_one_after_another():
    radii = jnp.array([0.3, 0.8, jnp.inf])
    run = lambda params, radius: trajectory(  # noqa: E731
        optax.chain(optax.sgd(1.0), after_update(radius)), params, 4
    )
    starts = [start(key) for key in range(2)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *starts)
    found = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))(stacked, radii)
    for s, params in enumerate(starts):
        for r, radius in enumerate(radii):
            one = jax.tree.map(lambda a, s=s, r=r: a[s, r], found)
            chex.assert_trees_all_close(one, run(params, radius), rtol=1e-5, atol=1e-6)


def test_a_projection_needs_the_parameters():
    link = projections.after_update(1.0)
    with pytest.raises(ValueError, match="needs the parameters"):
        link.update(start(), link.init(start()))


def test_projecting_before_the_update_leaves_the_ball():
    """The trap: the order of the two."""
    params, radius = onto_balls_tree(start(), 0.6), 0.6
    stepped = jax.tree.map(lambda p, g: p - 3.0 * g, params, gradient(params))
    assert max(norms(layer["kernel"]).max() for layer in stepped.values()) > 1.01 * radius
