"""The gradient noise against per-example gradients, and the law of minibatch norms by counting."""

import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from oracles.precision import in_float64

from dlstudy import convolution, losses, models, noise

N = 5


def measured(model, params, images, labels, chunk=None):
    return noise.gradient_and_noise(
        lambda z, y: (losses.cross_entropy(z, y), losses.error_rate(z, y)),
        model.apply, params, (images, labels), len(model.widths) + 1, chunk,
    )  # fmt: skip


@pytest.fixture(scope="module")
def problem(network):
    """What is measured, and every example's gradient by vmap."""
    return network[:4]


@pytest.fixture(scope="module", params=["one_conv", "two_conv"])
def network(request):
    """A CNN with few parameters and five images: what is measured of it.

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
            flat = jax.vmap(lambda g: ravel_pytree(g)[0])
            logits, _ = model.apply({"params": params}, images)
            separate = noise.network_gradients(
                losses.cross_entropy, model.apply, params, (images, labels)
            )
            factors = noise.network_gradients(
                losses.cross_entropy, model.apply, params, (images, labels), factored=True
            )["head"]["kernel"]
            return found, (each_loss, flat(each)), logits, (flat(separate), factors)

        found, (each_loss, gradients), logits, one_pass = jax.device_get(everything(params))
    return found, each_loss, gradients, logits.argmax(1) != labels, one_pass


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


# --- any loss


def quadratic(params, batch):
    """A loss without structure: mean over examples of (x w - y)^2 / 2 + a quartic in the bias."""
    x, y = batch
    return jnp.mean(jnp.square(x @ params["w"] - y) / 2 + params["b"] ** 4 * y)


def own_by_hand(params, batch):
    """Gradients of `quadratic`, [N, 3] for w and then b."""
    x, y = batch
    by_w = (x @ params["w"] - y)[:, None] * x
    return np.concatenate([by_w, (4 * params["b"] ** 3 * y)[:, None]], 1)


@pytest.fixture(scope="module")
def regression():
    rng = np.random.default_rng(1)
    batch = rng.normal(size=(7, 2)), rng.normal(size=7)
    return {"w": rng.normal(size=2), "b": np.float64(0.7)}, batch


@pytest.mark.parametrize("chunk", [2, 3, 7])
def test_per_example_gradients_are_those_by_hand(regression, chunk):
    params, batch = regression
    with jax.enable_x64(True):
        own = noise.per_example_gradients(quadratic, *jax.tree.map(jnp.asarray, regression), chunk)
        found = np.concatenate([own["w"], own["b"][:, None]], 1)
    np.testing.assert_allclose(found, own_by_hand(params, batch), rtol=1e-12)


@pytest.mark.parametrize("chunk", [2, 7])
def test_the_spread_of_any_loss_is_that_of_its_gradients(regression, chunk):
    params, batch = regression
    own = own_by_hand(params, batch)
    with jax.enable_x64(True):
        found = noise.gradient_spread(quadratic, *jax.tree.map(jnp.asarray, regression), chunk)
        gradient = np.append(found.gradient["w"], found.gradient["b"])
    np.testing.assert_allclose(gradient, own.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.trace, np.trace(np.cov(own.T, bias=True)), rtol=1e-12)


def test_the_spread_of_examples_that_nearly_agree_keeps_its_digits():
    """In float32, where a difference of mean squares would be rounding."""
    params = {"w": jnp.ones(1), "b": jnp.float32(0)}
    x = jnp.ones((4, 1))
    y = jnp.array([0, 2**-9, 0, 2**-9]) - 1000  # all differences are exact
    found = noise.gradient_spread(quadratic, params, (x, y))
    np.testing.assert_allclose(found.trace, (2.0**-10) ** 2, rtol=1e-6)


def test_one_backward_pass_gives_the_gradients_of_all_examples(network):
    """Whole, and the head's kernel as factors."""
    _, _, gradients, _, (separate, factors) = network
    np.testing.assert_allclose(separate, gradients, rtol=1e-11, atol=1e-13)
    head = np.einsum("ob,ib->boi", *factors).reshape(N, -1)
    np.testing.assert_allclose(head, gradients[:, -head.shape[1] :], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("most", [0, 100])
def test_factors_are_written_out(most, monkeypatch):
    monkeypatch.setattr(convolution, "IN_CACHE", most)
    rng = np.random.default_rng(0)
    delta, inputs = (jnp.asarray(rng.normal(size=(n, 2)), jnp.float32) for n in (3, 4))
    whole = convolution.Outer(delta, inputs).whole()
    np.testing.assert_array_equal(whole[1], np.outer(delta[:, 1], inputs[:, 1]))


# --- the noise scale


def squares_of_all(gradients, size):
    """||g_B||^2 of all batches of a size drawn with replacement."""
    batches = itertools.product(range(len(gradients)), repeat=size)
    return np.array([np.square(gradients[list(b)].mean(0)).sum() for b in batches])


def test_estimates_from_two_sizes_are_unbiased(regression):
    """Over all batches, each as often as it is drawn, the means are the numbers themselves."""
    own = own_by_hand(*regression)[:5]
    small, large = squares_of_all(own, 1), squares_of_all(own, 3)
    with jax.enable_x64(True):
        found = noise.noise_scale(jnp.array(np.repeat(small, 25)), jnp.array(large), 1, 3)
    mean = own.mean(0)
    trace, square = np.square(own - mean).sum(1).mean(), mean @ mean
    np.testing.assert_allclose(found.trace, trace, rtol=1e-12)
    np.testing.assert_allclose(found.square, square, rtol=1e-12)
    np.testing.assert_allclose(found.scale, trace / square, rtol=1e-12)


def test_the_standard_error_is_the_spread_of_the_estimate():
    rng = np.random.default_rng(3)
    draws, trials, small, large = 400, 500, 2, 16
    each = 1 + rng.normal(size=(trials, 2, draws, 6, large))
    a, b = (np.square(each[:, i, ..., :n].mean(-1)).sum(-1) for i, n in ((0, small), (1, large)))
    with jax.enable_x64(True):
        found = jax.device_get(jax.vmap(lambda x, y: noise.noise_scale(x, y, small, large))(a, b))
    np.testing.assert_allclose(found.scale.mean(), 1, rtol=0.01)  # tr Sigma = |g|^2 = 6
    for name in ("scale", "trace", "square"):
        spread, error = getattr(found, name).std(), getattr(found, f"{name}_error").mean()
        np.testing.assert_allclose(error, spread, rtol=0.12, err_msg=name)


@hypothesis.given(st.floats(0.5, 1e5), st.floats(0.5, 1e5))
def test_an_exact_hyperbola_is_found(least, size):
    batch = 2.0 ** np.arange(0, 18, 2)
    steps = least * (1 + size / batch)
    found = noise.fit_critical_batch(steps, steps * batch)
    np.testing.assert_allclose([found.min_steps, found.size], [least, size], rtol=1e-5)
    law = (steps / found.min_steps - 1) * (steps * batch / found.min_examples - 1)
    np.testing.assert_allclose(law, 1, rtol=1e-3)
    np.testing.assert_allclose(found.steps(batch), steps, rtol=1e-6)
    assert found.residual < 1e-6


def test_missing_sizes_are_left_out_of_the_fit_and_two_are_too_few():
    batch = np.array([1.0, 4, 16, 64])
    steps = 10 * (1 + 8 / batch)
    steps[1] = np.nan
    assert noise.fit_critical_batch(steps, steps * batch).size == pytest.approx(8)
    steps[2] = np.inf
    assert np.isnan(noise.fit_critical_batch(steps, steps * batch).size)
