"""Curvature against dense algebra, and against networks measured elsewhere in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from oracles import curvature_cases
from oracles.precision import in_float64

from dlstudy import chunks, curvature, losses, models, noise, optimizers

# --- products and directional derivatives against the dense Hessian


def tiny_problem(seed):
    """Six points with labels, parameters of a tanh network, and a direction."""
    rng = np.random.default_rng(seed)
    params = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=4), "c": rng.normal(size=(4, 3))}
    direction = jax.tree.map(lambda p: rng.normal(size=p.shape), params)
    return (rng.normal(size=(6, 3)), rng.integers(3, size=6)), params, direction


def tanh_loss(params, data):
    """Mean cross-entropy of the tanh network."""
    hidden = jnp.tanh(data[0] @ params["a"] + params["b"][None])
    return losses.cross_entropy(hidden @ params["c"], data[1])


@jax.jit
def dense_and_ours(data, params, direction):
    """Loss, gradient and dense Hessian of the flat parameters, and what `curvature` says."""
    flat, unravel = ravel_pytree(params)
    of_flat = lambda p: tanh_loss(unravel(p), data)  # noqa: E731
    loss = lambda p: tanh_loss(p, data)  # noqa: E731
    product = curvature.hessian_product(loss, params, direction)
    return (
        (of_flat(flat), jax.grad(of_flat)(flat), jax.hessian(of_flat)(flat)),
        (ravel_pytree(product)[0], curvature.directional(loss, params, direction)),
    )


@pytest.mark.parametrize("seed", range(3))
@in_float64
def test_products_and_derivatives_are_those_of_the_dense_hessian(seed):
    data, params, direction = tiny_problem(seed)
    (loss, gradient, dense), (product, along) = dense_and_ours(data, params, direction)
    d = np.asarray(ravel_pytree(direction)[0])
    np.testing.assert_allclose(product, dense @ d, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(along.value, loss, rtol=1e-12)
    np.testing.assert_allclose(along.slope, gradient @ d, rtol=1e-10)
    np.testing.assert_allclose(along.curvature, d @ dense @ d, rtol=1e-10)


@in_float64
def test_on_a_quadratic_both_orders_are_exact():
    matrix = symmetric(np.linspace(-1, 3, 5), seed=0)
    point, step = np.random.default_rng(1).normal(size=(2, 5))
    loss = lambda p: p @ matrix @ p / 2 + p.sum()  # noqa: E731
    along = jax.jit(lambda p, d: curvature.directional(loss, p, d))(point, step)
    change = loss(point - step) - loss(point)
    np.testing.assert_allclose(-along.slope + along.curvature / 2, change, rtol=1e-12)


# --- the largest eigenvalue


def symmetric(values, seed=0):
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    values = np.asarray(values, float)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(values.size, values.size)))
    return (q * values) @ q.T


def start_of(size, seed=5):
    return np.random.default_rng(seed).normal(size=size)


@functools.partial(jax.jit, static_argnames=("tolerance", "max_products"))
def largest(matrix, start, tolerance=1e-6, max_products=50):
    found = curvature.largest_eigenpair(
        lambda v: matrix @ v, start, tolerance=tolerance, max_products=max_products
    )
    left = matrix @ found.vector - found.value * found.vector
    return found, jnp.linalg.norm(left)


@pytest.mark.parametrize(
    ("values", "products"),
    [
        (np.linspace(-3, 2, 30), 30),
        (np.geomspace(1, 1e6, 30), 30),
        ([1.0] * 29 + [1.5], 2),
        (-np.linspace(0.5, 9, 30), 30),  # negative definite: the largest is the nearest to 0
        ([2.5] * 30, 1),  # a multiple of the identity
        ([-2.5] * 30, 1),
        ([0.0] * 30, 1),
        ([5.0, 3, 1] + [0.0] * 27, 4),  # of low rank
        ([-5.0, -3, -1] + [0.0] * 27, 5),  # here the largest is 0, and rounding costs a product
    ],
)
@in_float64
def test_it_is_the_largest_eigenvalue(values, products):
    matrix = symmetric(values)
    found, left = largest(matrix, start_of(30))
    expected = np.linalg.eigvalsh(matrix)[-1]
    size = np.abs(values).max()
    np.testing.assert_allclose(found.value, expected, rtol=1e-6, atol=1e-12 * size)
    np.testing.assert_allclose(np.linalg.norm(found.vector), 1, rtol=1e-12)
    np.testing.assert_allclose(found.residual, left, rtol=1e-6, atol=1e-12 * size)
    assert found.products <= products


@in_float64
def test_a_matrix_of_one_row():
    for value in (4.0, -4.0, 0.0):
        found, _ = largest(np.array([[value]]), np.array([-2.0]))
        assert (found.value, found.products, found.residual) == (value, 1, 0)
        assert abs(found.vector) == 1
        assert found.converged


@in_float64
def test_a_warm_start_at_the_eigenvector_costs_one_product():
    matrix = symmetric(np.linspace(-3, 2, 30))
    vector = np.linalg.eigh(matrix)[1][:, -1]
    found, left = largest(matrix, -7 * vector)
    assert found.products == 1
    assert found.converged
    np.testing.assert_allclose(found.value, 2, rtol=1e-12)
    assert max(found.residual, left) < 1e-12
    near = vector + 1e-3 * start_of(30)
    assert largest(matrix, near, tolerance=1e-2)[0].products < 4
    assert largest(matrix, start_of(30), tolerance=1e-2)[0].products > 4


@in_float64
def test_a_warm_start_sees_that_another_eigenvalue_has_overtaken():
    values = np.concatenate([np.linspace(-1, 1, 28), [9, 10]])
    matrix = symmetric(values)
    vectors = np.linalg.eigh(matrix)[1]
    second, fresh = vectors[:, -2], start_of(30) / np.linalg.norm(start_of(30)) + vectors[:, -1]
    np.testing.assert_allclose(largest(matrix, second)[0].value, 9)  # why it is needed
    start = curvature.warm_start(second, 50 * fresh)
    np.testing.assert_allclose(largest(matrix, start, 1e-2)[0].value, 10, rtol=1e-3)
    assert start @ second > 0.7 * np.linalg.norm(start)
    again = largest(matrix, curvature.warm_start(vectors[:, -1], fresh), 1e-2)[0]
    assert again.products <= 3
    np.testing.assert_allclose(again.value, 10, rtol=1e-3)


@in_float64
def test_a_warm_start_without_an_eigenvector_is_the_fresh_one():
    fresh = start_of(5)
    start = curvature.warm_start(np.zeros(5), fresh)
    np.testing.assert_allclose(start, fresh / np.linalg.norm(fresh))
    np.testing.assert_array_equal(curvature.warm_start(np.eye(5)[0], np.zeros(5)), np.eye(5)[0])


@pytest.mark.parametrize("cap", [1, 3, 7])
@in_float64
def test_the_products_are_counted_and_capped(cap):
    matrix = symmetric(np.linspace(-3, 2, 30))
    calls = []

    def product(v):
        jax.debug.callback(lambda: calls.append(1))
        return matrix @ v

    start = start_of(30)
    found = jax.jit(
        lambda v: curvature.largest_eigenpair(product, v, tolerance=1e-9, max_products=cap)
    )(start)
    jax.effects_barrier()
    assert len(calls) == found.products == cap
    assert not found.converged
    # The best that `cap` products can do: the largest Ritz value of the Krylov space.
    krylov = np.stack([np.linalg.matrix_power(matrix, k) @ start for k in range(cap)], 1)
    q, _ = np.linalg.qr(krylov)
    np.testing.assert_allclose(found.value, np.linalg.eigvalsh(q.T @ matrix @ q)[-1], rtol=1e-6)


def test_float32_finds_no_copies_and_no_value_beyond_the_spectrum():
    """Without reorthogonalisation the leading pair reappears and hides the rest."""
    values = np.concatenate([np.linspace(-1, 1, 60), [900.0, 1000.0]])
    matrix = symmetric(values).astype(np.float32)
    found, left = largest(matrix, start_of(62).astype(np.float32), 1e-6, 62)
    assert found.value.dtype == found.vector.dtype == found.residual.dtype == jnp.float32
    np.testing.assert_allclose(found.value, 1000, rtol=1e-5)
    assert left < 1e-3 * 1000
    assert largest(matrix, start_of(62).astype(np.float32), 1e-2, 62)[0].products <= 6


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_scale_of_the_matrix_does_not_matter(scale):
    matrix = scale * symmetric(np.linspace(-1, 1, 30) ** 3)
    found, left = largest(matrix.astype(np.float32), start_of(30).astype(np.float32), 1e-2, 30)
    assert found.products > 3
    assert found.converged
    np.testing.assert_allclose(found.value, scale, rtol=1e-3)
    assert left <= 1.1e-2 * scale


@given(
    st.lists(st.floats(-10, 10), min_size=6, max_size=6),
    st.integers(0, 2**20),
    st.sampled_from([(1e-1, 2), (1e-1, 6), (1e-3, 6)]),
)
@in_float64
def test_the_residual_bounds_the_error(values, seed, limits):
    """A Ritz value is within its residual of an eigenvalue, and never above the largest."""
    tolerance, cap = limits
    matrix = symmetric(values, seed)
    found, left = largest(matrix, start_of(6, seed), tolerance, cap)
    rounding = 1e-12 * (1 + np.abs(values).max())
    assert found.residual == pytest.approx(float(left), rel=1e-6, abs=rounding)
    assert np.abs(found.value - np.array(values)).min() <= found.residual + rounding
    assert found.value <= max(values) + rounding
    assert np.linalg.norm(found.vector) == pytest.approx(1, rel=1e-12)
    assert 1 <= found.products <= cap
    if found.converged:
        assert found.residual <= tolerance * np.abs(found.value) + rounding
    else:
        assert found.products == cap


# --- networks measured elsewhere


class Measured:
    """What this library reads of a case, compiled once for each network and precision."""

    def __init__(self, case):
        self.model = models.CNN(case.widths, case.classes, pool=True)
        self.data = (case.images, case.labels)
        self.once = jax.jit(self._once)
        self.top = jax.jit(self._top, static_argnames=("tolerance", "max_products"))

    def loss(self, params, batch):
        return losses.cross_entropy(self.model.apply({"params": params}, batch[0])[0], batch[1])

    def product(self, params, vector):
        return chunks.mean_over_chunks(
            lambda b: curvature.hessian_product(lambda p: self.loss(p, b), params, vector),
            self.data,
        )

    def _once(self, params, gradient):
        """Everything but eigenvalues; `gradient` is the direction of the products."""
        along = chunks.mean_over_chunks(
            lambda b: curvature.directional(lambda p: self.loss(p, b), params, gradient), self.data
        )
        found = noise.gradient_and_noise(
            lambda z, y: (losses.cross_entropy(z, y), losses.error_rate(z, y)),
            self.model.apply, params, self.data, 3,
        )  # fmt: skip
        return along, found, self.product(params, gradient)

    def _top(self, params, scale, start, tolerance, max_products):
        """Largest eigenpair of the Hessian with its rows and columns multiplied by `scale`."""
        root, unravel = ravel_pytree(scale)
        return curvature.largest_eigenpair(
            lambda v: root * ravel_pytree(self.product(params, unravel(root * v)))[0],
            start, tolerance=tolerance, max_products=max_products,
        )  # fmt: skip


@functools.cache
def measured(name, dtype):
    return Measured(curvature_cases.load(name, "init", dtype))


def relative(found, expected):
    """Distance of two trees over the length of the second."""
    found, expected = (ravel_pytree(tree)[0] for tree in (found, expected))
    return float(jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected))


def check_case(name, state, dtype, tolerances):
    case = curvature_cases.load(name, state, dtype)
    gradient = jax.tree.map(lambda g: g.astype(dtype), case.tree(case.arrays["grad64"]))
    product = jax.tree.map(lambda g: g.astype(dtype), case.tree(case.arrays["Hg64"]))
    along, found, ours = measured(name, dtype).once(case.params, gradient)
    want = case.numbers
    first, second, spread = tolerances
    np.testing.assert_allclose(found.loss, want["loss"], rtol=first)
    np.testing.assert_allclose(along.value, want["loss"], rtol=first)
    np.testing.assert_allclose(found.error, want["error"], rtol=1e-6)
    assert relative(found.gradient, gradient) < first
    np.testing.assert_allclose(along.slope, want["grad_norm"] ** 2, rtol=2 * first)
    np.testing.assert_allclose(along.curvature, want["gHg"], rtol=second)
    assert relative(ours, product) < second
    np.testing.assert_allclose(found.trace, want["tr_Sigma"], rtol=spread)
    return case


@pytest.mark.parametrize("state", ["init", "trained"])
@in_float64
def test_the_tiny_network_in_float64(state):
    case = check_case("tiny", state, np.float64, (1e-12, 1e-10, 1e-11))
    ones = jax.tree.map(np.ones_like, case.params)
    size = case.arrays["grad64"].size
    top = measured("tiny", np.float64).top(case.params, ones, start_of(size), 1e-7, 150)
    assert top.converged
    np.testing.assert_allclose(top.value, case.numbers["top_eigs"][0], rtol=1e-10)
    theirs = ravel_pytree(case.tree(case.arrays["top_vecs64"][:, 0]))[0]
    assert abs(top.vector @ theirs) > 1 - 1e-10


@in_float64
def test_the_preconditioned_sharpness_of_the_tiny_network_in_float64():
    case = curvature_cases.load("tiny", "trained", np.float64)
    about = case.numbers["adam"]
    nu = case.tree(case.arrays["adam_nu"].astype(np.float64))
    state = optimizers.make("adam", about["lr"]).init(jax.tree.map(jnp.asarray, case.params))
    state = optax.tree.set(state, nu=nu, count=jnp.int32(about["t"]))
    preconditioner = optimizers.adam_preconditioner(state)
    scale = jax.tree.map(lambda p: 1 / np.sqrt(p), preconditioner)
    start = start_of(case.arrays["grad64"].size)
    top = measured("tiny", np.float64).top(case.params, scale, start, 1e-7, 150)
    assert top.converged
    np.testing.assert_allclose(top.value, case.numbers["precond_top_eigs"][0], rtol=1e-10)


def test_a_network_of_20000_parameters_in_float32():
    case = check_case("cnn2", "init", np.float32, (2e-6, 1e-5, 1e-5))
    ones = jax.tree.map(np.ones_like, case.params)
    start = start_of(case.arrays["grad64"].size).astype(np.float32)
    top = measured("cnn2", np.float32).top(case.params, ones, start, 1e-2, 20)
    assert top.converged
    # The error of the value is of second order in the residual of 1%.
    np.testing.assert_allclose(top.value, case.numbers["top_eigs"][0], rtol=1e-3)
    theirs = ravel_pytree(case.tree(case.arrays["top_vecs64"][:, 0]))[0]
    assert abs(top.vector @ theirs.astype(np.float32)) > 0.99
