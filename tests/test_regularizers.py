"""`regularizers` against closed forms, optimality conditions and traces by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlstudy import regularizers as reg

NUMBERS = st.floats(-5, 5, allow_subnormal=False)
STRENGTHS = st.floats(0, 3, allow_subnormal=False)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def quadratic(seed, size=30):
    """Curvatures, minimum and start of a diagonal quadratic, NumPy float64."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0.1, 1, size), rng.normal(size=size), rng.normal(size=size)


def descend(step, start, steps):
    return np.asarray(
        jax.jit(lambda w: jax.lax.fori_loop(0, steps, lambda _, v: step(v), w))(start)
    )


# --- minima in closed form


@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("ridge", [0.0, 0.2])
def test_proximal_descent_ends_at_the_closed_form(alpha, ridge):
    h, target, start = quadratic(0)
    by_hand = np.sign(target) * np.maximum(np.abs(target) - alpha / h, 0) * h / (h + ridge)
    np.testing.assert_allclose(
        reg.diagonal_minimiser(h, target, alpha, ridge), by_hand, rtol=1e-14, atol=0
    )
    prox = lambda w, t: reg.elastic_net_prox(w, t * alpha, t * ridge)  # noqa: E731
    end = descend(lambda w: reg.proximal_step(w, h * (w - target), 0.9, prox), start, 1000)
    np.testing.assert_allclose(end, by_hand, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(end == 0, by_hand == 0)


def test_an_orthogonal_design_is_the_diagonal_case():
    rng = np.random.default_rng(1)
    h = rng.uniform(0.2, 1, 12)
    x = np.linalg.qr(rng.normal(size=(40, 12)))[0] * np.sqrt(h)  # X'X = diag(h)
    y = rng.normal(size=40)
    target, alpha = x.T @ y / h, 0.15
    prox = lambda w, t: reg.soft_threshold(w, t * alpha)  # noqa: E731
    end = descend(lambda w: reg.proximal_step(w, x.T @ (x @ w - y), 1.0, prox), np.ones(12), 600)
    expected = reg.diagonal_minimiser(h, target, alpha)
    np.testing.assert_allclose(end, expected, rtol=1e-12, atol=1e-14)
    assert 0 < (end == 0).sum() < 12


def test_l2_ends_at_its_closed_form_without_a_zero():
    h, target, start = quadratic(2)
    for step in (
        lambda w: w - 0.9 * (h * (w - target) + 0.3 * w),
        lambda w: reg.proximal_step(w, h * (w - target), 0.9, lambda v, t: reg.shrink(v, 0.3 * t)),
    ):
        end = descend(step, start, 1000)
        np.testing.assert_allclose(end, h * target / (h + 0.3), rtol=1e-12)
        assert np.all(end != 0)


def test_the_subgradient_crosses_zero_and_does_not_stay():
    # No loss, rate x strength = 0.125: every number is exact in binary.
    w, trace = jnp.array([0.3125]), []
    for _ in range(5):
        w = reg.subgradient_step(w, jnp.zeros(1), 0.125, 1.0)
        trace.append(float(w[0]))
    assert trace == [0.1875, 0.0625, -0.0625, 0.0625, -0.0625]
    assert reg.subgradient_step(jnp.zeros(1), jnp.ones(1), 0.5, 9.0)[0] == -0.5  # sign(0) is 0
    h, target, start = quadratic(3)
    end = descend(lambda w: reg.subgradient_step(w, h * (w - target), 0.2, 0.3), start, 3000)
    best = reg.diagonal_minimiser(h, target, 0.3)
    assert (best == 0).sum() > 5
    assert np.all(end != 0)
    assert np.abs(end - best).max() > 1e-3


def test_accelerated_descent_meets_the_conditions_of_a_minimum():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(50, 20)) @ (np.eye(20) + 0.4)
    hessian, slope = x.T @ x / 50, x.T @ rng.normal(size=50) / 50
    strengths = np.abs(slope).max() * np.array([1.0, 0.5, 0.1])
    bound = np.abs(hessian).sum(1).max()
    found = jax.jit(jax.vmap(lambda s: reg.minimise(
        lambda w: hessian @ w - slope, lambda w, t: reg.soft_threshold(w, t * s), 1 / bound,
        jnp.zeros(20), 3000,
    )))(jnp.array(strengths))  # fmt: skip
    assert found.residual.max() < 1e-12
    for w, strength in zip(np.asarray(found.params), strengths, strict=True):
        gradient = hessian @ w - slope
        np.testing.assert_allclose(gradient[w != 0], -strength * np.sign(w[w != 0]), rtol=1e-10)
        assert np.all(np.abs(gradient[w == 0]) <= strength * (1 + 1e-10))
    np.testing.assert_array_equal(found.params[0], 0)  # at the strength where nothing is left


# --- maps


@given(NUMBERS, STRENGTHS)
def test_the_soft_threshold_is_zero_exactly_inside(w, t):
    found = float(reg.soft_threshold(jnp.asarray(w), t))
    assert (found == 0) == (abs(w) <= t)
    assert abs(found - np.sign(w) * max(abs(w) - t, 0)) == 0


@given(st.lists(NUMBERS, min_size=6, max_size=6), STRENGTHS, STRENGTHS, STRENGTHS)
def test_the_joint_map_is_the_minimum_it_claims(w, first, second, group):
    w = np.array(w).reshape(3, 2)
    strengths = reg.Strengths(first, second, group)

    def objective(v):
        v = jnp.asarray(v)
        return float(
            0.5 * jnp.square(v - w).sum() + 0.7 * (reg.elastic_net(v, first, second)
                                                   + group * reg.group_lasso(v))
        )  # fmt: skip

    best = np.asarray(reg.sparse_group_prox(jnp.asarray(w), 0.7, strengths))
    rng = np.random.default_rng(0)
    # 1-strongly convex: any other point is higher by half its squared distance at least.
    for scale in (1e-3, 0.1, 1.0):
        for _ in range(3):
            off = scale * rng.normal(size=w.shape)
            assert objective(best + off) >= objective(best) + 0.5 * (off**2).sum() - 1e-9


@given(st.lists(NUMBERS, min_size=8, max_size=8), STRENGTHS, STRENGTHS)
def test_maps_are_non_expansive(values, t, s):
    a, b = jnp.asarray(values[:4]).reshape(2, 2), jnp.asarray(values[4:]).reshape(2, 2)
    strengths = reg.Strengths(t, s, t)
    for prox in (
        lambda w: reg.soft_threshold(w, t),
        lambda w: reg.shrink(w, s),
        lambda w: reg.group_soft_threshold(w, t),
        lambda w: reg.sparse_group_prox(w, 0.5, strengths),
    ):
        assert np.linalg.norm(prox(a) - prox(b)) <= np.linalg.norm(a - b) * (1 + 1e-12) + 1e-15


def test_a_group_is_zero_as_a_whole_or_not():
    w = jnp.array([[3.0, 0.1], [4.0, 0.1], [0.0, 0.0], [0.0, 0.0]])  # norms 5 and 0.14
    found = np.asarray(reg.group_soft_threshold(w, 0.5))  # cut 0.5 * sqrt(4) = 1
    np.testing.assert_allclose(found[:, 0], [3 * 0.8, 4 * 0.8, 0, 0], rtol=1e-14)
    np.testing.assert_array_equal(found[:, 1], 0)
    by_row = np.asarray(reg.group_soft_threshold(w.T, 0.5, axis=1))
    np.testing.assert_array_equal(by_row, found.T)
    assert np.isfinite(reg.group_soft_threshold(jnp.zeros((3, 2)), 0.0)).all()


def test_penalties_by_hand():
    tree = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[2.0]])}
    assert reg.l1(tree) == 5
    assert reg.l2(tree) == 4.5
    assert reg.l2(tree, half=False) == 9
    assert reg.elastic_net(tree, 2.0, 10.0) == 55
    assert reg.group_lasso(jnp.array([[3.0, 0.0], [4.0, 1.0]])) == pytest.approx(6 * 2**0.5)


# --- Optax


def test_both_normalisations_of_l2_decay_as_they_say():
    w, rate, strength = {"w": jnp.array([2.0, -3.0])}, 0.25, 0.5
    nothing = jax.tree.map(jnp.zeros_like, w)
    for half, factor in ((True, 1 - rate * strength), (False, 1 - 2 * rate * strength)):
        chain = optax.chain(reg.add_l2_gradient(strength, half), optax.scale(-rate))
        updates, _ = chain.update(nothing, chain.init(w), w)
        np.testing.assert_array_equal(optax.apply_updates(w, updates)["w"], factor * w["w"])
        penalty = jax.grad(lambda p, half=half: strength * reg.l2(p, half))(w)
        np.testing.assert_array_equal(-rate * penalty["w"], updates["w"])
        assert float(reg.shrink(jnp.asarray(1.0), strength, half)) == 1 / (
            1 + strength * (2 - half)
        )


def test_chains_are_the_steps():
    h, target, start = quadratic(5)
    prox = lambda w, t: reg.soft_threshold(w, 0.3 * t)  # noqa: E731
    gradient = lambda w: h * (w - target)  # noqa: E731
    pairs = (
        (optax.chain(optax.scale(-0.5), reg.proximal(prox, 0.5)),
         lambda w: reg.proximal_step(w, gradient(w), 0.5, prox)),
        (optax.chain(reg.add_l1_subgradient(0.3), optax.scale(-0.5)),
         lambda w: reg.subgradient_step(w, gradient(w), 0.5, 0.3)),
    )  # fmt: skip
    for chain, step in pairs:
        w = other = jnp.asarray(start)
        state = chain.init(w)
        for _ in range(60):
            updates, state = chain.update(gradient(w), state, w)
            w, other = optax.apply_updates(w, updates), step(other)
            np.testing.assert_allclose(w, other, rtol=1e-12, atol=1e-14)
            np.testing.assert_array_equal(w == 0, other == 0)
    assert (w != 0).all()
    with pytest.raises(ValueError, match="params"):
        reg.proximal(prox, 0.5).update(gradient(w), reg.ProximalState(jnp.int32(0)))
    with pytest.raises(ValueError, match="params"):
        reg.add_l1_subgradient(0.3).update(gradient(w), optax.EmptyState())


def test_behind_momentum_the_step_is_the_rate_over_one_minus_momentum():
    h, target, start = quadratic(6)
    prox = lambda w, t: reg.soft_threshold(w, 0.2 * t)  # noqa: E731
    rate, momentum = 0.02, 0.9

    def end(step):
        chain = optax.chain(optax.trace(momentum), optax.scale(-rate), reg.proximal(prox, step))

        def body(_, carry):
            w, state = carry
            updates, state = chain.update(h * (w - target), state, w)
            return optax.apply_updates(w, updates), state

        start_ = jnp.asarray(start)
        return jax.jit(lambda: jax.lax.fori_loop(0, 6000, body, (start_, chain.init(start_))))()[0]

    best = reg.diagonal_minimiser(h, target, 0.2)
    np.testing.assert_allclose(end(rate / (1 - momentum)), best, rtol=1e-9, atol=1e-10)
    assert np.abs(end(rate) - best).max() > 0.01


def test_a_schedule_is_followed_and_a_grid_is_one_trace():
    traces = []

    def run(strength):
        traces.append(1)
        schedule = lambda count: jnp.where(count == 0, 1.0, 0.5)  # noqa: E731
        chain = reg.proximal(lambda w, t: reg.soft_threshold(w, strength * t), schedule)
        w = jnp.array([2.0])
        state = chain.init(w)
        for _ in range(2):
            updates, state = chain.update(jnp.zeros(1), state, w)
            w = optax.apply_updates(w, updates)
        return w[0]

    found = jax.jit(jax.vmap(run))(jnp.array([0.0, 1.0, 2.0]))
    np.testing.assert_array_equal(found, [2.0, 0.5, 0.0])
    assert len(traces) == 1


def test_biases_are_left_alone():
    params = {"head": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    found = reg.on_kernels(lambda name, w: w * (3 if name == "head" else 0), params)
    assert found["head"]["kernel"][0, 0] == 3
    assert found["head"]["bias"][0] == 1
    assert list(reg.kernels(params)) == ["head"]
