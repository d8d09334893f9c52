"""Ensembles against brute force, closed forms and scikit-learn's scores."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.precision import in_float64

from dlstudy import ensembles, models

pytestmark = pytest.mark.usefixtures("quick_compilation")


def softmax(z):
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def regression(seed, units=5, classes=3, inputs=7):
    rng = np.random.default_rng(seed)
    weights, bias = rng.normal(0, 2, (units, classes)), rng.normal(size=(1, classes))
    return jnp.asarray(rng.normal(0, 2, (inputs, units))), jnp.asarray(weights), jnp.asarray(bias)


def masks_by_hand(x, weights, bias, rate):
    """(probabilities [2^d, N, C], probability of each mask [2^d])."""
    found, chance = [], []
    for mask in itertools.product((0, 1), repeat=x.shape[1]):
        found.append(softmax(np.asarray(x) * np.array(mask) / (1 - rate) @ weights + bias))
        chance.append(np.prod([1 - rate if kept else rate for kept in mask]))
    return np.array(found), np.array(chance)


@pytest.mark.parametrize("rate", [0.5, 0.2])
@in_float64
def test_all_masks_are_averaged_with_their_probabilities(rate):
    x, weights, bias = regression(0)
    every = ensembles.every_mask(lambda x, scale: (x * scale[None]) @ weights + bias, 5, rate)
    p, chance = masks_by_hand(x, weights, bias, rate)
    np.testing.assert_allclose(np.sort(np.exp(every.log_weights)), np.sort(chance), rtol=1e-12)
    arithmetic = (chance[:, None, None] * p).sum(0)
    geometric = np.exp((chance[:, None, None] * np.log(p)).sum(0))
    geometric /= geometric.sum(1, keepdims=True)
    found = {m: np.exp(ensembles.average(every, m)(x)) for m in ("arithmetic", "geometric")}
    np.testing.assert_allclose(found["arithmetic"], arithmetic, rtol=1e-12)
    np.testing.assert_allclose(found["geometric"], geometric, rtol=1e-11)
    # Weight scaling is the geometric mean to rounding, and not the arithmetic one.
    scaled = np.exp(ensembles.predictor(lambda x: x @ weights + bias)(x))
    np.testing.assert_allclose(scaled, geometric, atol=1e-13)
    assert np.abs(scaled - arithmetic).max() > 0.01


@in_float64
def test_weight_scaling_is_exact_for_softmax_regression_with_4096_masks():
    x, weights, bias = regression(1, units=ensembles.MOST_UNITS)
    every = ensembles.every_mask(lambda x, scale: (x * scale[None]) @ weights + bias, 12, 0.3)
    scaled = ensembles.predictor(lambda x: x @ weights + bias)(x)
    np.testing.assert_allclose(ensembles.average(every, "geometric")(x), scaled, atol=1e-11)


@in_float64
def test_without_dropout_all_means_are_the_network():
    x, weights, bias = regression(2)
    every = ensembles.every_mask(lambda x, scale: (x * scale[None]) @ weights + bias, 5, 0.0)
    plain = ensembles.predictor(lambda x: x @ weights + bias)(x)
    for mean in ("arithmetic", "geometric"):
        np.testing.assert_allclose(ensembles.average(every, mean)(x), plain, atol=1e-12)


@in_float64
def test_random_masks_tend_to_all_masks_and_know_their_error():
    x, weights, bias = regression(3)
    every = ensembles.every_mask(lambda x, scale: (x * scale[None]) @ weights + bias, 5, 0.4)
    exact = np.exp(ensembles.average(every)(x))
    many = ensembles.random_masks(
        lambda x, key: models.drop(key, x[0], 0.4)[None] @ weights + bias, jax.random.key(0), 3000
    )
    log_p = ensembles.predictions(many, x[:1])
    found, each = ensembles.estimate(log_p), np.exp(log_p)
    assert np.all(np.abs(found.mean - exact[:1]) < 4.5 * found.standard_error)
    np.testing.assert_allclose(found.mean, each.mean(0), rtol=1e-10)
    np.testing.assert_allclose(found.standard_error, each.std(0, ddof=1) / 3000**0.5, rtol=1e-9)
    np.testing.assert_allclose(np.exp(ensembles.average(many)(x[:1])), found.mean, rtol=1e-10)


@in_float64
def test_bagging_is_the_mean_of_separate_models():
    rng = np.random.default_rng(4)
    x, params = jnp.asarray(rng.normal(size=(6, 4))), jnp.asarray(rng.normal(size=(3, 4, 2)))
    many = ensembles.bagged_members(lambda w, x: x @ w, params)
    by_hand = np.stack([softmax(np.asarray(x @ w)) for w in params])
    np.testing.assert_allclose(np.exp(ensembles.average(many)(x)), by_hand.mean(0), rtol=1e-12)
    assert ensembles.parameter_bytes(params) == 3 * ensembles.parameter_bytes(params[0]) == 192


@in_float64
def test_predictions_combine_with_their_weights():
    rng = np.random.default_rng(9)
    p, weights = softmax(rng.normal(0, 3, (6, 5, 3))), rng.dirichlet(np.ones(6))
    log_p, log_weights = jnp.log(jnp.asarray(p)), jnp.log(jnp.asarray(weights))
    by_hand = {
        "arithmetic": np.tensordot(weights, p, 1),
        "geometric": softmax(np.tensordot(weights, np.log(p), 1)),
    }
    for mean, expected in by_hand.items():
        found = ensembles.combine(log_p, log_weights, mean)
        np.testing.assert_allclose(np.exp(found), expected, rtol=1e-12)
    inside = jnp.array([[1.0, 0, 1, 0, 0, 1], [0, 1, 0, 0, 0, 0]])
    found = jax.vmap(ensembles.combine, (None, 0))(log_p, ensembles.of_subsets(inside))
    np.testing.assert_allclose(np.exp(found), [p[[0, 2, 5]].mean(0), p[1]], rtol=1e-12)
    # Probabilities far below what exp can hold; and none at all.
    tiny = jnp.array([[[-900.0, 0]], [[-901.0, -jnp.inf]]])
    found = ensembles.combine(tiny, ensembles.of_subsets(jnp.ones(2)))[0]
    np.testing.assert_allclose(
        found, [-900 + np.log((1 + np.exp(-1)) / 2), np.log(0.5)], rtol=1e-12
    )


def test_a_majority_beats_the_mean_and_ties_go_to_the_mean():
    p = jnp.array([[[0.6, 0.4]], [[0.6, 0.4]], [[0.01, 0.99]]])
    assert p.mean(0).argmax() == 1
    many = ensembles.Ensemble(lambda logits, x: logits, jnp.log(p), jnp.full(3, -np.log(3)))
    shares = np.exp(ensembles.vote(many)(None))
    mean = np.asarray(p).mean(0)
    np.testing.assert_allclose(shares, (np.array([[2, 1]]) + mean / 2) / 3.5, rtol=1e-6)
    assert ensembles.majority(jnp.log(p)[1:]).argmax() == 1  # one vote each
    never = jnp.array([[[0.0, -jnp.inf]]])
    assert np.isfinite(ensembles.majority(never)).all()


@pytest.mark.parametrize("bins", [1, 15])
def test_scores_by_hand(bins):
    rng = np.random.default_rng(5)
    p, labels = softmax(rng.normal(0, 2, (200, 4))), rng.integers(0, 4, 200)
    log_p = jnp.asarray(np.log(p), jnp.float32)
    found = ensembles.scores(log_p, jnp.asarray(labels, jnp.int32))
    assert found.error == pytest.approx((p.argmax(1) != labels).mean())
    assert found.negative_log_likelihood == pytest.approx(-np.log(p[range(200), labels]).mean())
    right = np.eye(4)[labels]
    assert found.squared_error == pytest.approx(((p - right) ** 2).sum(1).mean(), rel=1e-5)
    confidence, hit, total = p.max(1), p.argmax(1) == labels, 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            total += inside.sum() / 200 * abs(hit[inside].mean() - confidence[inside].mean())
    own = ensembles.calibration_error(log_p, jnp.asarray(labels, jnp.int32), bins)
    assert own == pytest.approx(total, rel=1e-4)
    sure = ensembles.scores(jnp.log(jnp.eye(4)), jnp.arange(4))
    assert jax.tree.map(float, sure) == (0, 0, 0, 0)


def test_diversity_by_hand():
    chosen = np.array([[0, 1, 1, 0], [0, 1, 0, 1], [1, 0, 0, 1]])
    log_p = jnp.log(jnp.where(np.eye(2)[chosen] > 0, 0.9, 0.1))
    labels = jnp.array([0, 1, 0, 0])
    apart = np.array([[0, 2, 4], [2, 0, 2], [4, 2, 0]]) / 4
    np.testing.assert_allclose(ensembles.disagreement(log_p), apart)
    assert ensembles.over_pairs(ensembles.disagreement(log_p)) == pytest.approx(8 / 12)
    misses = (chosen != np.asarray(labels)).astype(float)
    expected = np.corrcoef(misses)
    np.testing.assert_allclose(
        ensembles.error_correlation(log_p, labels), expected, rtol=1e-5, atol=1e-6
    )
    always = ensembles.error_correlation(log_p[:1], jnp.array(chosen[0]))
    assert np.isnan(always).all()
    assert np.isnan(ensembles.over_pairs(always))


@jax.jit
def parts(p, labels):
    return ensembles.moments(ensembles.error_products(p, labels))


def squared_error(p, labels):
    """Of the mean of members' probabilities [K, N, C]."""
    return np.square(p.mean(0) - np.eye(p.shape[2])[labels]).sum(1).mean()


@given(st.integers(0, 10**6), st.sampled_from([1, 4]))
def test_squared_error_is_v_over_k_and_c(seed, members):
    rng = np.random.default_rng(seed)
    p, labels = softmax(rng.normal(0, 3, (members, 9, 3))), rng.integers(0, 3, 9)
    with jax.enable_x64(True):
        found = ensembles.expected_error(*map(float, parts(p, labels)), members)
    np.testing.assert_allclose(squared_error(p, labels), found, rtol=1e-13)


def test_subsets_of_k_have_the_predicted_error_on_average():
    # Over all subsets of k of K members the mean error is that of v and c of all K.
    p, labels = softmax(np.random.default_rng(6).normal(0, 2, (5, 8, 3))), np.arange(8) % 3
    with jax.enable_x64(True):
        both = [float(part) for part in parts(p, labels)]
    for k in range(1, 6):
        errors = [
            squared_error(p[list(rows)], labels) for rows in itertools.combinations(range(5), k)
        ]
        expected = ensembles.expected_error(*both, k)
        assert np.mean(errors) == pytest.approx(expected, rel=1e-12)


def test_windows_of_a_ring_are_subsets_that_favour_no_member():
    windows = ensembles.rings(5)
    np.testing.assert_array_equal(windows[1, 4], [1, 0, 0, 0, 1])  # two members from the last on
    np.testing.assert_array_equal(windows.sum(1), np.repeat(np.arange(1, 6), 5).reshape(5, 5))
    p, labels = softmax(np.random.default_rng(7).normal(0, 2, (5, 8, 3))), np.arange(8) % 3
    rows = [0, 1, 4]
    with jax.enable_x64(True):
        products = ensembles.error_products(jnp.asarray(p), jnp.asarray(labels))
        found = ensembles.moments(products, jnp.asarray(windows[2, 4], jnp.float64))
        own = parts(p[rows], labels)
    np.testing.assert_allclose(found, own, rtol=1e-12)


def test_bootstrap_rows_leave_a_part_out():
    rows = jax.vmap(lambda key: ensembles.bootstrap_rows(key, 1000))(
        jax.random.split(jax.random.key(0), 20)
    )
    assert rows.min() >= 0
    assert rows.max() < 1000
    seen = np.mean([len(set(r)) / 1000 for r in np.asarray(rows).tolist()])
    assert seen == pytest.approx(1 - np.exp(-1), abs=0.01)


def test_training_cost_counts_what_is_trained_on():
    assert ensembles.gradient_evaluations(103, 20, 3, members=4) == 4 * 3 * 100


def test_what_cannot_be_combined_is_refused():
    with pytest.raises(ValueError, match="13 units"):
        ensembles.every_mask(None, 13, 0.5)
    with pytest.raises(ValueError, match="mean is 'harmonic'; it must be arithmetic or geometric"):
        ensembles.average(ensembles.Ensemble(None, None, None), "harmonic")
    with pytest.raises(ValueError, match="mean is 'harmonic'"):
        ensembles.combine(None, None, "harmonic")
