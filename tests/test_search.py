"""`dlstudy.search` against brute force over all sets of trials."""

import itertools
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from dlstudy import search


def by_brute_force(scores, values, k):
    """Mean over all sets of k trials and, where scores tie, over who is chosen."""
    found = []
    for chosen in itertools.combinations(range(len(scores)), k):
        least = min(scores[i] for i in chosen)
        found.append(np.mean([values[i] for i in chosen if scores[i] == least]))
    return np.mean(found)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_chances_are_binomial_and_sum_to_one(n):
    found = search.chances_of_best(n)
    for k in range(1, n + 1):
        exact = [math.comb(n - 1 - i, k - 1) / math.comb(n, k) for i in range(n)]
        np.testing.assert_allclose(found[k - 1], exact, rtol=1e-14, atol=0)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-14)


@hypothesis.given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(-9, 9)), min_size=1, max_size=6)
)
def test_the_expectation_is_that_over_all_sets_ties_included(pairs):
    scores, values = np.array(pairs, float).T
    for given_values in (None, values):
        found = search.expected_best(scores, given_values)
        told = scores if given_values is None else values
        exact = [by_brute_force(scores, told, k) for k in range(1, len(scores) + 1)]
        np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-12)


@hypothesis.given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_more_trials_never_find_worse_from_the_mean_to_the_best(scores):
    found = search.expected_best(scores)
    assert np.all(np.diff(found) <= 1e-12)
    np.testing.assert_allclose(found[[0, -1]], [np.mean(scores), np.min(scores)], atol=1e-12)


def test_leading_axes_are_rows():
    scores = np.random.default_rng(0).normal(size=(2, 3, 5))
    found = search.expected_best(scores, -scores)
    alone = search.expected_best(scores[1, 2], -scores[1, 2])
    np.testing.assert_allclose(found[1, 2], alone, rtol=1e-12)


@pytest.mark.parametrize("scores", [[np.nan, 1], [np.inf], []])
def test_scores_that_cannot_be_ranked_are_refused(scores):
    with pytest.raises(ValueError, match="finite"):
        search.expected_best(scores)


def test_no_trials_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        search.chances_of_best(0)


def test_the_band_holds_the_mean_and_narrows():
    curves = np.random.default_rng(1).normal([0, 5, 9], size=(400, 3))
    few, many = search.band(curves[:20]), search.band(curves)
    assert np.all((many[0] < curves.mean(0)) & (curves.mean(0) < many[1]))
    assert np.all(np.diff(many, axis=0) < np.diff(few, axis=0))
    np.testing.assert_array_equal(search.band(curves[:20]), few)  # repeatable
    # A normal mean's 90% interval is 2 x 1.645 sd / sqrt(n) wide.
    np.testing.assert_allclose(np.diff(many, axis=0)[0], 3.29 / 20, rtol=0.15)
    assert np.isnan(search.band(curves[:1])).all()
