"""The networks against the same networks put together from Flax's own layers."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.precision import in_float64

from dlstudy import models


class FlaxCNN(nn.Module):
    """Flax's layers, channels last: ReLU, then pooling, then a flattened dense layer."""

    widths: tuple[int, ...]
    outputs: int
    pool: bool
    kernel: int

    @nn.compact
    def __call__(self, x):
        before = []
        for i, width in enumerate(self.widths):
            x = nn.Conv(width, (self.kernel, self.kernel), name=f"conv_{i}")(x)
            before.append(x)
            x = nn.relu(x)
            x = nn.max_pool(x, (2, 2), (2, 2)) if self.pool else x
        features = x
        x = x.reshape(len(x), -1)
        return nn.Dense(self.outputs, name="head")(x), before, features


def random_params(model, images, seed=0):
    """Parameters with biases that are not zero."""
    example = jax.ShapeDtypeStruct(images.shape[1:], images.dtype)
    shapes = jax.eval_shape(lambda key: models.initialise(model, key, example), jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: rng.normal(size=p.shape).astype(p.dtype) / 3, shapes)


CASES = [((3,), False, 3, (6, 5, 1)), ((3, 2), True, 3, (8, 9, 2)), ((2, 2), False, 5, (4, 3, 1))]


@pytest.mark.parametrize(("widths", "pool", "kernel", "shape"), CASES)
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@in_float64
def test_a_cnn_equals_flax_layers(widths, pool, kernel, shape, backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    images = np.random.default_rng(1).normal(size=(4, *shape))
    model = models.CNN(widths, 3, pool, kernel)
    params = random_params(model, images)
    logits, taps = jax.jit(lambda p: model.apply({"params": p}, images))(params)

    # Flax flattens height, width, channel.
    down = 2 ** len(widths) if pool else 1
    sizes = (widths[-1], shape[0] // down, shape[1] // down)
    head = params["head"]["kernel"].reshape(3, *sizes).transpose(2, 3, 1, 0)
    theirs = params | {"head": params["head"] | {"kernel": head.reshape(-1, 3)}}
    flax = FlaxCNN(widths, 3, pool, kernel)
    expected, before, features = jax.jit(lambda p: flax.apply({"params": p}, images))(theirs)

    np.testing.assert_allclose(logits, expected, rtol=1e-10, atol=1e-12)
    assert set(taps) == {"features", *(f"pre_{i}" for i in range(len(widths)))}
    for i, pre in enumerate(before):
        np.testing.assert_allclose(taps[f"pre_{i}"], pre, rtol=1e-10, atol=1e-12)
    features = np.asarray(features).transpose(0, 3, 1, 2).reshape(len(images), -1)
    np.testing.assert_allclose(taps["features"], features, rtol=1e-10, atol=1e-12)
    probes = np.zeros((len(widths) + 1, len(images)))
    probed, _ = jax.jit(lambda p: model.apply({"params": p}, images, probes))(params)
    np.testing.assert_allclose(probed, logits, rtol=1e-12)


def test_initial_parameters():
    model = models.CNN((32, 16), 10, pool=True)
    initialise = jax.jit(lambda key: models.initialise(model, key, jnp.zeros((28, 28, 1))))
    params = initialise(jax.random.key(0))
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes == {
        "conv_0": {"bias": (32,), "kernel": (3, 3, 1, 32)},
        "conv_1": {"bias": (16,), "kernel": (3, 3, 32, 16)},
        "head": {"bias": (10,), "kernel": (10, 16 * 7 * 7)},
    }
    for name, fan_in in (("conv_0", 9), ("conv_1", 9 * 32), ("head", 16 * 7 * 7)):
        kernel = np.asarray(params[name]["kernel"])
        assert not np.any(params[name]["bias"])
        assert kernel.dtype == np.float32
        # LeCun: variance 1 / fan-in; the sample variance scatters by sqrt(2 / n).
        scatter = np.sqrt(2 / kernel.size)
        assert kernel.var() * fan_in == pytest.approx(1, abs=4 * scatter)
    chex.assert_trees_all_equal(params, initialise(jax.random.key(0)))
    other = initialise(jax.random.key(1))
    assert np.all(other["head"]["kernel"] != params["head"]["kernel"])


@pytest.mark.parametrize("widths", [(), (5,), (7, 3)])
def test_examples_last_is_the_same_network(widths):
    key = jax.random.key(1)
    x = jax.random.normal(key, (6, 4))
    model = models.MLP(widths, 3)
    params = models.initialise(model, key, x[0])

    def both(p):
        return model.apply({"params": p}, x)[0], models.examples_last(p, x.T).T

    np.testing.assert_allclose(*both(params), rtol=1e-5, atol=1e-6)
    slopes = [jax.grad(lambda p, i=i: jnp.sin(both(p)[i]).sum())(params) for i in (0, 1)]
    chex.assert_trees_all_close(*slopes, rtol=1e-5, atol=1e-5)


def test_the_derivative_of_relu_at_zero_is_zero():
    assert jax.grad(nn.relu)(0.0) == 0
    model = models.CNN((2,), 3)
    images = np.ones((2, 4, 4, 1), np.float32)
    params = random_params(model, images)
    params["conv_0"] = jax.tree.map(np.zeros_like, params["conv_0"])  # pre-activations are 0
    total = lambda p: model.apply({"params": p}, images)[0].sum()  # noqa: E731
    gradient = jax.jit(jax.grad(total))(params)
    assert not any(np.any(g) for g in jax.tree.leaves(gradient["conv_0"]))


def test_images_without_a_batch_axis_are_refused():
    model = models.CNN((2,), 3)
    with pytest.raises(AssertionError, match="rank"):
        model.init(jax.random.key(0), jnp.zeros((4, 4, 1)))
