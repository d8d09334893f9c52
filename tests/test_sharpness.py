"""Filter-normalised sharpness: lengths of the directions, a quadratic, and rescaled networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlstudy import losses, models, sharpness

pytestmark = pytest.mark.usefixtures("quick_compilation")


def network():
    """A network [3, 5, 4, 2], its parameters, and a batch."""
    model = models.MLP((5, 4), 2)
    images = jax.random.normal(jax.random.key(1), (6, 3))
    params = models.initialise(model, jax.random.key(0), images[0])
    return model, params, (images, jnp.arange(6, dtype=jnp.int32) % 2)


def test_every_filter_of_a_direction_is_as_long_as_the_weights():
    _, params, _ = network()
    way = sharpness.filter_direction(params, jax.random.key(2))
    for name, own in params.items():
        rows = [np.asarray(tree["kernel"]) for tree in (way[name], own)]
        if name != "head":
            rows = [np.vstack([r, t["bias"]]) for r, t in zip(rows, (way[name], own), strict=True)]
        lengths = [np.linalg.norm(r, axis=0) for r in rows]
        np.testing.assert_allclose(*lengths, rtol=1e-6)
    assert not way["head"]["bias"].any()


def test_the_rise_of_a_quadratic_is_its_half_squared_radius():
    _, params, _ = network()
    params["head"]["bias"] = 0 * params["head"]["bias"]
    half = lambda p: sum(jnp.square(a).sum() for a in jax.tree.leaves(p)) / 2  # noqa: E731
    found = sharpness.filter_sharpness(half, params, jax.random.key(3), 0.3, 5)
    np.testing.assert_allclose(found, 0.3**2 * half(params), rtol=1e-4)


def test_a_rescaled_network_is_the_same_function_and_rises_alike():
    """To the bit: the factor is a power of two."""
    model, params, batch = network()
    copy = sharpness.rescaled(params, 4.0)

    def loss(p):
        return losses.cross_entropy(model.apply({"params": p}, batch[0])[0], batch[1])

    np.testing.assert_array_equal(loss(copy), loss(params))
    assert not np.allclose(copy["hidden_1"]["kernel"], params["hidden_1"]["kernel"])
    rises = [sharpness.filter_sharpness(loss, p, jax.random.key(4), 0.25) for p in (params, copy)]
    np.testing.assert_array_equal(*rises)
    assert rises[0] != 0
