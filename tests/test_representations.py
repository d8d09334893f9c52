"""What linear CKA must not notice, and what it must."""

import jax
import numpy as np
import pytest
from oracles.precision import in_float64

from dlstudy.representations import linear_cka

cka = jax.jit(linear_cka)


def features(seed, examples=12, width=20):
    return np.random.default_rng(seed).normal(size=(examples, width))


def rotation(size, seed=9):
    return np.linalg.qr(features(seed, size, size))[0]


@in_float64
def test_it_is_the_normalised_cross_covariance():
    a, b = features(0), features(1, width=7)
    a0, b0 = a - a.mean(0), b - b.mean(0)
    norm = lambda m: np.linalg.norm(m)  # noqa: E731 - equation 5 of the paper, feature space
    expected = norm(b0.T @ a0) ** 2 / (norm(a0.T @ a0) * norm(b0.T @ b0))
    np.testing.assert_allclose(cka(a, b), expected, rtol=1e-12)
    np.testing.assert_allclose(cka(b, a), expected, rtol=1e-12)


@in_float64
def test_it_is_one_for_itself_and_ignores_rotation_scale_and_shift():
    a = features(0)
    np.testing.assert_allclose(cka(a, a), 1, rtol=1e-12)
    np.testing.assert_allclose(cka(a, -3.5 * a @ rotation(20) + 2), 1, rtol=1e-12)
    b = features(1)
    np.testing.assert_allclose(cka(a, b @ rotation(20)), cka(a, b), rtol=1e-11)


@in_float64
def test_it_notices_a_linear_map_that_is_no_rotation():
    a = features(0)
    assert cka(a, a * np.geomspace(1, 1000, 20)) < 0.9


def test_unrelated_features_of_many_examples_have_almost_none():
    a, b = (features(seed, examples=1000, width=3).astype(np.float32) for seed in (0, 1))
    assert 0 <= cka(a, b) < 0.02


def test_numbers_of_examples_must_agree():
    with pytest.raises(AssertionError):
        linear_cka(features(0), features(0, examples=5))
