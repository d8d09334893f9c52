"""Initialisers: second moments in closed form, structure, and the gains of ReLU layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import truncnorm

from dlstudy import initializers
from dlstudy.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")
ALL = (*initializers.NAMES, "lecun_uncorrected")
SIZES = 12, 20  # inputs, outputs


@functools.cache
def draw_many(name, shape=SIZES):
    """float64[1500, inputs, outputs]"""
    init = initializers.make(name)
    keys = jax.random.split(jax.random.key(0), 1500)
    draw = jax.jit(lambda keys: jax.lax.map(lambda k: init(k, shape, jnp.float32), keys))
    return np.asarray(draw(keys), float)


@pytest.mark.parametrize("name", ALL)
def test_the_second_moment_of_a_weight(name):
    found = np.square(draw_many(name)).mean((1, 2))
    expected = initializers.second_moment(name, *SIZES)
    error = 5 * found.std() / len(found) ** 0.5 + 1e-6 * expected
    assert abs(found.mean() - expected) <= error


def test_what_the_book_and_others_give():
    """The gains of a square layer that are quoted: exact."""
    gains = {name: initializers.relu_gain(name, 100, 100) for name in ALL}
    expected = {
        "zeros": 0, "normal": 0.005, "uniform": 1 / 6, "lecun": 1 / 2, "glorot": 1 / 2, "he": 1,
        "orthogonal": 1, "sparse": 7.5, "lecun_uncorrected": 0.386871,
    }  # fmt: skip
    assert gains == pytest.approx(expected, rel=1e-6)
    assert initializers.relu_gain("orthogonal", 100, 100, gain=1.0) == pytest.approx(0.5)
    assert initializers.relu_gain("sparse", 100, 100, count=4, std=0.5) == pytest.approx(0.5)


def test_ranges_and_structure():
    inputs, outputs = SIZES
    draws = {name: draw_many(name) for name in ALL}
    assert np.abs(draws["uniform"]).max() == pytest.approx(inputs**-0.5, rel=1e-3)
    assert np.abs(draws["glorot"]).max() == pytest.approx((6 / (inputs + outputs)) ** 0.5, rel=1e-3)
    cut = 2 / initializers.TRUNCATED_VARIANCE**0.5
    for name, variance, edge in (
        ("lecun", 1 / inputs, cut), ("he", 2 / inputs, cut), ("lecun_uncorrected", 1 / inputs, 2),
    ):  # fmt: skip
        assert np.abs(draws[name]).max() == pytest.approx(edge * variance**0.5, rel=5e-3)
    assert not draws["zeros"].any()
    squares = draws["orthogonal"][0] @ draws["orthogonal"][0].T
    np.testing.assert_allclose(squares, 2 * np.eye(inputs), atol=1e-5)


def test_sparse_gives_each_unit_its_count_of_weights_anywhere():
    assert draw_many("sparse").all()  # 15 of 12 inputs: all
    init = initializers.make("sparse", count=5, std=2.0)
    keys = jax.random.split(jax.random.key(1), 300)
    drawn = np.asarray(jax.jit(jax.vmap(lambda k: init(k, SIZES)))(keys), float)
    assert set((drawn != 0).sum(1).ravel()) == {5}
    share = (drawn != 0).mean((0, 2))  # of 6000 units, by input
    np.testing.assert_allclose(share, 5 / 12, atol=5 * (5 / 12 * 7 / 12 / 6000) ** 0.5)
    assert drawn[drawn != 0].std() == pytest.approx(2, rel=0.02)


def test_the_truncated_normal_has_the_moments_assumed():
    variance, kurtosis = truncnorm.stats(-2, 2, moments="vk")
    assert pytest.approx(variance) == initializers.TRUNCATED_VARIANCE
    assert pytest.approx(kurtosis + 3) == initializers._TRUNCATED_KURTOSIS
    assert pytest.approx(0.774, abs=5e-4) == initializers.TRUNCATED_VARIANCE


# --- gains


@pytest.mark.parametrize("name", ["normal", "uniform", "lecun", "glorot", "he", "orthogonal",
                                  "sparse", "lecun_uncorrected"])  # fmt: skip
def test_the_expected_gain_over_many_draws(name):
    """Any input will do, rectified or not; five standard errors."""
    weights = draw_many(name, (20, 20))
    below = np.random.default_rng(3).exponential(size=20) * (np.arange(20) % 3 > 0)
    gains = np.square(np.maximum(below @ weights, 0)).sum(1) / (below @ below)
    error = 5 * gains.std() / len(gains) ** 0.5
    assert abs(gains.mean() - initializers.relu_gain(name, 20, 20)) < error


@pytest.mark.parametrize("name", ["uniform", "he", "orthogonal", "sparse"])
def test_a_draw_and_its_mirror_image_share_out_the_linear_gain(name):
    """|max(W'h, 0)|^2 + |max(-W'h, 0)|^2 = |W'h|^2: where the half comes from (exact)."""
    weights = draw_many(name, (20, 20))[:3]
    below = np.random.default_rng(0).normal(size=20)
    sums = sum(np.square(np.maximum(sign * below @ weights, 0)).sum(1) for sign in (1, -1))
    np.testing.assert_allclose(sums, np.square(below @ weights).sum(1), rtol=1e-13)
    if name == "orthogonal":  # no randomness is left
        np.testing.assert_allclose(sums, 2 * below @ below, rtol=1e-5)


@pytest.mark.parametrize("name", ["normal", "uniform", "glorot", "he", "orthogonal", "sparse"])
def test_the_typical_gain_of_a_chain_of_layers(name):
    """The mean logarithm over many layers, of which each reads what the last one gave."""
    weights = draw_many(name, (20, 20))
    above = np.maximum(np.random.default_rng(1).normal(size=20), 0)
    logs = []
    for kernel in weights:
        below = above / np.linalg.norm(above)
        above = np.maximum(below @ kernel, 0)
        logs.append(np.log(above @ above))
    logs = np.array(logs[10:])
    error = 4 * logs.std() / len(logs) ** 0.5
    assert abs(logs.mean() - initializers.log_gain(name, 20)) < error


def test_the_log_gain_of_normal_weights_is_that_of_chi_squares():
    """Of a normal layer it is known: the logarithm of a chi-square with Binomial(n, 1/2) degrees
    of freedom, less log n, twice the gain of 1/2. The formula keeps order 1 / n.
    """
    from scipy.special import digamma
    from scipy.stats import binom

    for width in (32, 100, 400):
        k = np.arange(1, width + 1)
        exact = np.sum(binom.pmf(k, width, 0.5) * (digamma(k / 2) + np.log(2))) + np.log(2 / width)
        found = initializers.log_gain("normal", width, std=(2 / width) ** 0.5)
        assert found == pytest.approx(-5 / (2 * width))
        assert abs(found - exact) < 8 / width**2
    assert np.exp(50 * initializers.log_gain("normal", 100, std=0.02**0.5)) == pytest.approx(
        0.2865, abs=1e-4
    )


def test_zeros_have_no_gain():
    assert initializers.log_gain("zeros", 10) == -np.inf


# --- trees and names


def test_redraw_fills_a_tree_of_layers():
    sizes = {"hidden_0": (6, 5), "hidden_1": (5, 4), "head": (4, 3)}  # as of `models.MLP`
    params = {n: {"kernel": jnp.zeros(s), "bias": jnp.zeros(s[1])} for n, s in sizes.items()}
    init = initializers.make("he")
    drawn = initializers.redraw(jax.random.key(1), params, init, bias=0.1)
    assert jax.tree.structure(drawn) == jax.tree.structure(params)
    for layer in drawn.values():
        np.testing.assert_array_equal(layer["bias"], np.float32(0.1))
    assert drawn["hidden_1"]["kernel"].shape == (5, 4)
    kernels = [np.asarray(layer["kernel"]).ravel()[:4] for layer in drawn.values()]
    assert len({kernel.tobytes() for kernel in kernels}) == 3  # a draw of its own for each


def test_single_and_double_precision():
    key = jax.random.key(0)
    with jax.enable_x64(True):
        for name in ALL:
            for dtype in (jnp.float32, jnp.float64):
                init = initializers.make(name)
                made = jax.eval_shape(lambda k, i=init, d=dtype: i(k, (4, 3), d), key)
                assert (made.shape, made.dtype) == ((4, 3), dtype), name


def test_unknown_names_list_the_known_ones():
    for function in (initializers.make, lambda name: initializers.second_moment(name, 3, 3)):
        with pytest.raises(UserError, match="--initializers=xavier: must be one of zeros, normal"):
            function("xavier")
    with pytest.raises(TypeError, match="he has no constant gain"):
        initializers.make("he", gain=2.0)
