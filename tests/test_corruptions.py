"""Corruptions: against scipy.ndimage, closed forms and what each must keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.precision import in_float64
from scipy import ndimage

from dlstudy import corruptions
from dlstudy.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(7)


def images(height=9, width=7, count=3, channels=2, dtype=np.float64):
    rng = np.random.default_rng(0)
    return rng.uniform(0, 1, (count, height, width, channels)).astype(dtype)


@pytest.mark.parametrize("name", corruptions.NAMES)
def test_severity_0_is_the_identity_and_later_ones_go_further(name):
    given = images(12, 12, channels=1, dtype=np.float32)
    severities = jnp.arange(corruptions.SEVERITIES + 1)
    found = jax.jit(jax.vmap(lambda s: corruptions.corrupt(name, given, s, KEY)))(severities)
    found = np.asarray(found)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], given)
    assert found.min() >= 0
    assert found.max() <= 1
    if name == "rotation":  # of random pixels, any turn is as far as any other
        assert (np.diff(corruptions.STRENGTHS[name]) > 0).all()
    else:
        assert (np.diff(np.abs(found - given).mean((1, 2, 3, 4))) > 0).all()
    alone = corruptions.corrupt(name, given, 3, KEY)
    np.testing.assert_allclose(alone, found[3], atol=2e-6)
    assert len(corruptions.STRENGTHS[name]) == corruptions.SEVERITIES + 1


@in_float64
def test_blur_is_that_of_scipy_and_keeps_the_mean():
    given = images()
    for sd in (0.3, 1.0, 2.5):
        blurred = np.asarray(corruptions.blur(jnp.asarray(given), sd))
        expected = given
        for axis, size in ((1, 9), (2, 7)):
            expected = ndimage.gaussian_filter1d(expected, sd, axis, mode="reflect", radius=size)
        np.testing.assert_allclose(blurred, expected, rtol=1e-12)
        np.testing.assert_allclose(blurred.mean((1, 2)), given.mean((1, 2)), rtol=1e-12)
    flat = np.full((1, 5, 5, 1), 0.4)
    np.testing.assert_allclose(corruptions.blur(jnp.asarray(flat), 1.7), flat, rtol=1e-12)


@pytest.mark.parametrize("degrees", [10.0, 50.0, 135.0])
@in_float64
def test_rotation_is_that_of_scipy(degrees):
    given = images()
    found = corruptions.rotation(jnp.asarray(given), degrees)
    expected = ndimage.rotate(
        given, degrees, axes=(1, 2), reshape=False, order=1, mode="grid-constant"
    )
    np.testing.assert_allclose(found, expected, atol=1e-12)


@in_float64
def test_a_right_angle_moves_pixels_anticlockwise():
    given = images(6, 6)
    found = corruptions.rotation(jnp.asarray(given), 90.0)
    np.testing.assert_allclose(found, np.rot90(given, axes=(1, 2)), atol=1e-12)


@in_float64
def test_contrast_keeps_the_mean_and_scales_the_spread():
    given = images()
    found = np.asarray(corruptions.contrast(jnp.asarray(given), 0.35))
    np.testing.assert_allclose(found.mean((1, 2, 3)), given.mean((1, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found.std((1, 2, 3)), 0.35 * given.std((1, 2, 3)), rtol=1e-12)


@in_float64
def test_brightness_adds_and_noise_has_its_size():
    given = images()
    found = corruptions.brightness(jnp.asarray(given), 0.3)
    np.testing.assert_allclose(found, np.minimum(given + 0.3, 1), rtol=1e-12)
    grey = jnp.full((4, 60, 60, 1), 0.5)
    noisy = np.asarray(corruptions.noise(grey, 0.05, KEY))  # far from black and white
    assert noisy.std() == pytest.approx(0.05, rel=4 / np.sqrt(2 * noisy.size))
    assert noisy.mean() == pytest.approx(0.5, abs=4 * 0.05 / np.sqrt(noisy.size))
    double = np.asarray(corruptions.noise(grey, 0.1, KEY))
    np.testing.assert_allclose(double - 0.5, 2 * (noisy - 0.5), atol=1e-12)
    other = np.asarray(corruptions.noise(grey, 0.05, jax.random.key(8)))
    assert abs(np.corrcoef(noisy.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(noisy.size)


def test_unknown_names_list_the_known():
    with pytest.raises(UserError, match="fog: must be one of blur, contrast, brightness, noise"):
        corruptions.corrupt("fog", images(), 1, KEY)
    with pytest.raises(UserError, match="6: must be from 0 to 5"):
        corruptions.corrupt("blur", images(), 6, KEY)
