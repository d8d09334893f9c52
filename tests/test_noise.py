"""The gradient noise against per-example gradients, and the law of minibatch norms by counting."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from oracles.precision import in_float64

from dlstudy import losses, models, noise

N = 5


def measured(model, params, images, labels, chunk=None):
    return noise.gradient_and_noise(
        lambda z, y: (losses.cross_entropy(z, y), losses.error_rate(z, y)),
        model.apply, params, (images, labels), len(model.widths) + 1, chunk,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["one_conv", "two_conv"])
def problem(request):
    """A CNN with few parameters and five images: what is measured, and every example's gradient.

    In float64; a chunk of 2 leaves a shorter last one.
    """
    two = request.param == "two_conv"
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(N, 5, 4, 1)), np.int32(np.arange(N) % 3)
    model = models.CNN((2, 3) if two else (2,), 3, pool=two)
    with jax.enable_x64(True):
        shapes = jax.eval_shape(
            lambda key: models.initialise(model, key, jnp.asarray(images[0])), jax.random.key(0)
        )
        params = jax.tree.map(lambda p: rng.normal(size=p.shape), shapes)

        def loss(params, image, label):
            return losses.cross_entropy(
                model.apply({"params": params}, image[None])[0], label[None]
            )

        @jax.jit
        def everything(params):
            each_loss, each = jax.vmap(jax.value_and_grad(loss), (None, 0, 0))(
                params, images, labels
            )
            found = measured(model, params, images, labels, 2)
            found = found._replace(gradient=ravel_pytree(found.gradient)[0])
            gradients = jax.vmap(lambda g: ravel_pytree(g)[0])(each)
            logits, _ = model.apply({"params": params}, images)
            return found, (each_loss, gradients), logits

        found, (each_loss, gradients), logits = jax.device_get(everything(params))
    return found, each_loss, gradients, logits.argmax(1) != labels


def test_the_pass_measures_loss_error_and_gradient(problem):
    found, each_loss, gradients, wrong = problem
    np.testing.assert_allclose(found.loss, each_loss.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.error, wrong.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.gradient, gradients.mean(0), rtol=1e-10, atol=1e-14)


def test_the_trace_is_centred_and_divides_by_n(problem):
    found, _, gradients, _ = problem
    spread = np.square(gradients - gradients.mean(0)).sum()
    np.testing.assert_allclose(found.trace, spread / N, rtol=1e-11)
    np.testing.assert_allclose(found.trace, np.trace(np.cov(gradients.T, bias=True)), rtol=1e-11)


def mean_square(batches, gradients):
    """E||g_B||^2 over all `batches`, each a tuple of examples."""
    return np.mean([np.square(gradients[list(batch)].mean(0)).sum() for batch in batches])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_batches_drawn_with_replacement_add_the_trace_over_their_size(problem, size):
    found, _, gradients, _ = problem
    expected = mean_square(itertools.product(range(N), repeat=size), gradients)
    law = found.gradient @ found.gradient + found.trace / size
    np.testing.assert_allclose(law, expected, rtol=1e-11)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_batches_of_an_epoch_add_less(problem, size):
    found, _, gradients, _ = problem
    expected = mean_square(itertools.combinations(range(N), size), gradients)
    law = found.gradient @ found.gradient + found.trace / size * (N - size) / (N - 1)
    np.testing.assert_allclose(law, expected, rtol=1e-11)


@in_float64
def test_equal_examples_have_no_noise():
    model = models.CNN((2,), 3)
    images, labels = np.ones((4, 3, 3, 1)), np.zeros(4, np.int32)

    @jax.jit
    def measure(key):
        params = models.initialise(model, key, jnp.asarray(images[0]))
        return measured(model, params, images, labels)

    found = measure(jax.random.key(0))
    assert abs(found.trace) < 1e-14
