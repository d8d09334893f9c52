"""Cross-entropy against Optax and SciPy, and where others lose their digits; error rates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.test_util import check_grads
from oracles.precision import in_float64
from scipy.special import log_softmax, logsumexp, softmax

from dlstudy import losses

cross_entropy = jax.jit(losses.cross_entropy)
value_and_gradient = jax.jit(jax.value_and_grad(losses.cross_entropy))


def exact(logits, labels):
    """Mean cross-entropy by log1p in float64: relative rounding also of tiny losses."""
    logits = np.asarray(logits, np.float64)
    own = np.take_along_axis(logits, labels[:, None], 1)
    gaps = logits - own
    np.put_along_axis(gaps, labels[:, None], -np.inf, 1)
    others = logsumexp(gaps, axis=1)
    return np.mean(np.logaddexp(0, others))


logit = st.floats(-50, 50)


@in_float64
def test_each_example_s_is_its_own_on_either_axis():
    logits = np.random.default_rng(0).normal(size=(5, 3)) * 4
    labels = np.array([0, 2, 1, 1, 0], np.int32)
    each = losses.cross_entropies(logits, labels)
    assert each.shape == (5,)
    expected = -np.take_along_axis(log_softmax(logits, 1), labels[:, None], 1)[:, 0]
    np.testing.assert_allclose(each, expected, rtol=1e-12)
    np.testing.assert_allclose(losses.cross_entropies(logits.T, labels, axis=0), each, rtol=1e-13)
    with pytest.raises(AssertionError):
        losses.cross_entropies(logits[0], labels)


@given(hnp.arrays(np.float64, (4, 3), elements=logit), st.tuples(*[st.integers(0, 2)] * 4))
@in_float64
def test_it_is_minus_the_mean_log_softmax(logits, labels):
    labels = np.array(labels, np.int32)
    expected = -np.mean(np.take_along_axis(log_softmax(logits, 1), labels[:, None], 1))
    np.testing.assert_allclose(cross_entropy(logits, labels), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(cross_entropy(logits, labels), exact(logits, labels), rtol=1e-12)


@in_float64
def test_it_equals_optax():
    logits = 3 * np.random.default_rng(0).normal(size=(50, 10))
    labels = np.arange(50) % 10
    with jax.numpy_dtype_promotion("standard"):
        theirs = jax.jit(optax.softmax_cross_entropy_with_integer_labels)(logits, labels)
    np.testing.assert_allclose(cross_entropy(logits, labels), theirs.mean(), rtol=1e-12)


@pytest.mark.parametrize("gap", [1, 5, 10, 20, 40, 80])
def test_a_tiny_loss_keeps_its_digits_in_float32(gap):
    """At a gap of 20 the loss is 4e-9, which log-sum-exp minus the own logit rounds to 0."""
    logits = np.zeros((3, 3), np.float32)
    logits[:, 1] = np.float32([gap, gap + 0.3, gap + 0.7])
    labels = np.ones(3, np.int32)
    value, gradient = value_and_gradient(logits, labels)
    assert value.dtype == gradient.dtype == jnp.float32
    np.testing.assert_allclose(value, exact(logits, labels), rtol=1e-5)
    others = softmax(logits.astype(np.float64), 1)[:, [0, 2]]
    np.testing.assert_allclose(gradient[:, (0, 2)], others / 3, rtol=1e-5)


@pytest.mark.parametrize("gap", [1e3, 1e30, 1e38])
def test_large_gaps_do_not_overflow(gap):
    logits = np.float32([[gap, 0, -gap], [0, 0, gap]])
    for labels, expected in ([0, 2], 0), ([1, 2], gap / 2), ([1, 0], gap):
        value, gradient = value_and_gradient(logits, np.int32(labels))
        np.testing.assert_allclose(value, np.float32(expected), rtol=1e-6)
        assert np.isfinite(gradient).all()


@in_float64
def test_the_gradient_is_softmax_minus_the_label():
    logits = 3 * np.random.default_rng(0).normal(size=(6, 4))
    labels = np.arange(6) % 4
    expected = (softmax(logits, 1) - np.eye(4)[labels]) / 6
    np.testing.assert_allclose(value_and_gradient(logits, labels)[1], expected, rtol=1e-11)


@in_float64
def test_derivatives_of_both_orders():
    logits = 2 * np.random.default_rng(0).normal(size=(3, 4))
    labels = np.arange(3)
    direction = np.random.default_rng(1).normal(size=logits.shape)
    loss = lambda z: cross_entropy(z, labels)  # noqa: E731
    check_grads(loss, (logits,), order=1, rtol=1e-6, atol=1e-8)

    @jax.jit
    def products(z):
        slope = lambda z: jax.jvp(loss, (z,), (direction,))[1]  # noqa: E731
        forward = jax.jvp(slope, (z,), (direction,))[1]
        return forward, jax.jvp(jax.grad(loss), (z,), (direction,))[1]

    p = softmax(logits, 1)
    expected = p * (direction - (p * direction).sum(1, keepdims=True)) / 3
    forward, reverse = products(logits)
    np.testing.assert_allclose(reverse, expected, rtol=1e-10)
    np.testing.assert_allclose(forward, np.vdot(direction, expected), rtol=1e-10)


def test_error_rate():
    logits = np.float32([[1, 0, 0], [0, 2, 1], [0, 1, 3], [2, 2, 1]])  # a tie goes to the first
    labels = np.int32([0, 1, 1, 1])
    rate = losses.error_rate(logits, labels)
    assert rate == 0.5
    assert rate.dtype == jnp.float32


@pytest.mark.parametrize("function", [losses.cross_entropy, losses.error_rate])
def test_shapes_are_checked(function):
    with pytest.raises(AssertionError, match="rank"):
        function(jnp.ones((2, 3)), jnp.ones((2, 3), jnp.int32))
