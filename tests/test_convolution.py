"""Convolution and pooling against XLA's own, SciPy and Flax, with all derivatives."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles.precision import in_float64

from dlstudy import convolution

# channels, height, width, batch, outputs, kernel height, kernel width
SHAPES = [
    (1, 5, 5, 2, 3, 3, 3),
    (3, 7, 4, 2, 2, 3, 5),
    (2, 4, 9, 3, 4, 5, 1),
    (2, 1, 3, 1, 1, 3, 3),
]


def arrays(channels, height, width, batch, outputs, *kernel, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(channels, height, width, batch))
    return x, rng.normal(size=(*kernel, channels, outputs)), rng.normal(size=outputs)


def reference(x, kernel):
    """The same convolution on [B, H, W, C], by XLA."""
    out = jax.lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return out.transpose(3, 1, 2, 0)


@pytest.mark.parametrize("shape", SHAPES)
@in_float64
def test_convolution_equals_xla_in_value_gradient_and_hessian_product(shape):
    x, kernel, _ = arrays(*shape)
    direction = arrays(*shape, seed=1)[:2]
    weights = np.random.default_rng(2).normal(size=(shape[4], *x.shape[1:]))

    def everything(convolve):
        def loss(arguments):
            return jnp.vdot(weights, jnp.sin(convolve(*arguments)))

        @jax.jit
        def measure(arguments, direction):
            gradient, product = jax.jvp(jax.grad(loss), (arguments,), (direction,))
            return convolve(*arguments), gradient, product

        return measure((x, kernel), direction)

    expected = everything(reference)
    for convolve in (convolution.convolve, convolution.convolve_lax):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
            everything(convolve),
            expected,
        )


def test_convolution_equals_scipy():
    x, kernel, _ = (a.astype(np.float32) for a in arrays(*SHAPES[1]))
    found = convolution.convolve(x, kernel)
    for b in range(x.shape[-1]):
        for o in range(kernel.shape[-1]):
            planes = [
                scipy.signal.correlate2d(x[c, :, :, b], kernel[:, :, c, o], mode="same")
                for c in range(len(x))
            ]
            np.testing.assert_allclose(found[o, :, :, b], sum(planes), rtol=1e-4, atol=1e-5)


def test_patches_are_ordered_like_a_kernel():
    x, _, _ = arrays(*SHAPES[1])
    window = np.asarray(convolution.patches(jnp.asarray(x, jnp.float32), 3, 5))
    padded = np.pad(x.astype(np.float32), ((0, 0), (1, 1), (2, 2), (0, 0)))
    rows, columns = x.shape[1:3]
    row = 0
    for i in range(3):
        for j in range(5):
            for c in range(len(x)):
                shifted = padded[c, i : i + rows, j : j + columns]
                np.testing.assert_array_equal(window[row], shifted)
                row += 1
    assert row == len(window)


@pytest.mark.parametrize("size", [(2, 3), (3, 4), (2, 2)])
def test_an_even_kernel_is_refused(size):
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}.*odd"):
        convolution.convolve(jnp.ones((1, 5, 5, 1)), jnp.ones((*size, 1, 1)))


# --- pooling


def flax_pool(x):
    return nn.max_pool(x.transpose(3, 1, 2, 0), (2, 2), (2, 2)).transpose(3, 1, 2, 0)


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (3, 5, 7, 2), (1, 2, 3, 1), (1, 3, 2, 2)])
@in_float64
def test_pooling_equals_flax_in_value_and_derivatives(shape):
    rng = np.random.default_rng(0)
    x, direction = rng.normal(size=(2, *shape))  # no ties
    weights = rng.normal(size=(shape[0], shape[1] // 2, shape[2] // 2, shape[3]))

    def everything(pool):
        loss = lambda x: jnp.vdot(weights, jnp.sin(pool(x)))  # noqa: E731
        return jax.jit(lambda x: (pool(x), *jax.jvp(jax.grad(loss), (x,), (direction,))))(x)

    for found, expected in zip(
        everything(convolution.max_pool), everything(flax_pool), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


pool_gradient = jax.jit(jax.grad(lambda x: convolution.max_pool(x).sum()))


@given(hnp.arrays(np.float32, (2, 2), elements=st.sampled_from([-1.0, 0.0, 1.0])))
def test_a_tie_sends_the_gradient_to_one_of_the_equals(block):
    gradient = np.asarray(pool_gradient(block[None, :, :, None]))[0, :, :, 0]
    assert sorted(gradient.ravel()) == [0, 0, 0, 1]
    assert block[gradient == 1] == block.max()
    if block[0, 0] == block.max():
        assert gradient[0, 0] == 1


# --- layers that measure each example's own gradient


def per_example_square_norms(loss, params, x):
    """||d loss_b / d params||^2 by one gradient an example; x[..., B]."""

    def one(example):
        gradient = jax.grad(lambda p: loss(p, example[..., None]))(params)
        return sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient))

    return jax.vmap(one, in_axes=-1)(x)


@pytest.mark.parametrize("layer", ["convolution", "dense"])
@in_float64
def test_a_probe_collects_square_norms_and_leaves_the_gradient_alone(layer):
    rng = np.random.default_rng(0)
    if layer == "convolution":
        x, *params = arrays(3, 4, 5, 6, 2, 3, 3)
        plain = lambda x, k, b: convolution.convolve(x, k) + b[:, None, None, None]  # noqa: E731
        probed = convolution.probed_convolve
    else:
        x = rng.normal(size=(7, 6))
        params = [rng.normal(size=(4, 7)), rng.normal(size=4)]
        plain = lambda x, k, b: k @ x + b[:, None]  # noqa: E731
        probed = convolution.probed_dense
    weights = rng.normal(size=plain(x, *params).shape[:-1])
    params = tuple(params)

    def total(out):  # a sum over examples of something that is not linear
        return jnp.sin(out * weights[..., None]).sum()

    def loss(params, x):
        return total(plain(x, *params))

    def probed_loss(params, x, probe):
        return total(probed(x, *params, probe))

    @jax.jit
    def both(params, x):
        probe = jnp.zeros(x.shape[-1])
        values = probed(x, *params, probe), plain(x, *params)
        *gradients, norms = jax.grad(probed_loss, (0, 1, 2))(params, x, probe)
        gradients = tuple(gradients), jax.grad(loss, (0, 1))(params, x)
        return values, gradients, (norms, per_example_square_norms(loss, params, x))

    for found, expected in both(params, x):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), found, expected
        )
