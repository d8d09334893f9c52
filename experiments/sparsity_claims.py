"""The claims of `sparsity` (problem 1 (2)): a statistic of the record, and a threshold, for each.

Networks are compared at matched error: of each arm the model with the most zero weights among those
whose tuning error is within a margin (--margin) of the best L2 model's, over all strengths and
rates of the arm; the test split has no part in the choice. Thresholds are the smallest effects
worth having, fixed with their reasons before the first run.
"""

import numpy as np

from dlstudy.claims import Claim, combine

# -- quadratics


def of_update(record, name, update):
    """Values [S, strengths] of one update."""
    return record[name].sel(update=update).values.astype(float)


def zeros_hit(record, update):
    """Of the weights that are 0 at the minimum, the share [S] that end at exactly 0, all strengths.

    NaN where no weight is 0 at the minimum.
    """
    wanted = of_update(record, "closed_zeros", update).sum(1)
    hit = of_update(record, "zeros_hit", update).sum(1)
    return np.where(wanted > 0, hit / np.maximum(wanted, 1), np.nan)


def source_zeros(record):
    """share of the weights that are 0 at L1's minimum that update (2) leaves at exactly 0"""
    return zeros_hit(record, "source")


def proximal_zeros(record):
    """share of the weights that are 0 at L1's minimum that the proximal step sets to exactly 0"""
    return zeros_hit(record, "proximal")


def false_zeros(record):
    """weights that the proximal step has at 0 and the minimum has not, all strengths"""
    return sum(of_update(record, n, "proximal") * s for n, s in (("zeros", 1), ("zeros_hit", -1))
               ).sum(1)  # fmt: skip


def l2_zeros(record):
    """weights that are exactly 0 under L2, all strengths"""
    return of_update(record, "zeros", "l2").sum(1)


def source_error(record):
    """largest distance of update (2) from the closed form, over the largest |w*|, all strengths"""
    return of_update(record, "closed_error", "source").max(1)


def proximal_error(record):
    """largest distance of the proximal step from the closed form, over the largest |w*|"""
    return of_update(record, "closed_error", "proximal").max(1)


def elastic_zeros(record):
    """share of the weights that are 0 at the elastic net's minimum that end at exactly 0"""
    return zeros_hit(record, "elastic_net")


def elastic_error(record):
    """largest distance of the elastic net from its closed form, over the largest |w*|"""
    return of_update(record, "closed_error", "elastic_net").max(1)


def cut_zeros(record):
    """weights that a cutoff calls 0 where there is no 0: the fewer of update (2)'s and L2's"""
    return np.minimum(*[of_update(record, "cut_zeros", u).sum(1) for u in ("source", "l2")])


# -- networks


def of_arm(record, name, arm):
    """Values [S, conditions] of one arm's networks."""
    return record[name].values[:, record["penalty"].values == arm].astype(float)


def limit(record):
    """Tuning error [S] up to which a model matches the best L2 model."""
    error = of_arm(record, "tune_error", "network_l2")
    best = np.where(np.isfinite(error), error, np.inf).min(1)
    return best + record.attrs["margin"] + 1e-6  # rounding of float32


def sparsest(zeros, error, most):
    """Place [S] of the model with most zeros among those that match; of equals that of least error.

    Args:
      zeros, error: [S, models].
      most: the largest error [S] of a match.

    Returns:
      int[S], -1 where none matches.
    """
    match = np.isfinite(zeros) & (error <= most[:, None])
    # Errors are below 1 and differ by one image at least; zeros by one weight.
    score = np.where(match, zeros - 1e-9 * np.where(match, error, 0), -1)
    return np.where(match.any(1), score.argmax(1), -1)


def picked(record, arm):
    """Place [S] of the model chosen of an arm, among all conditions; -1: none matches."""
    own = np.flatnonzero(record["penalty"].values == arm)
    place = sparsest(
        of_arm(record, "zero_share", arm), of_arm(record, "tune_error", arm), limit(record)
    )
    return np.where(place >= 0, own[place], -1)


def taken(values, place):
    """values[S, models] at place[S]; NaN at -1."""
    values = np.asarray(values, float)
    found = np.take_along_axis(values, np.maximum(place, 0)[:, None], 1)[:, 0]
    return np.where(place >= 0, found, np.nan)


def at_match(record, name, arm):
    """Value [S] of the model chosen of an arm."""
    return taken(record[name].values, picked(record, arm))


def at_pruned_match(record, name):
    """Value [S] of the L2 model chosen, its smallest weights cut as far as it still matches.

    Only the levels are searched: the sparsest of all models at all levels would be one that the
    tuning images let through by luck, and no match elsewhere.
    """
    own = sparsest(
        of_arm(record, "zero_share", "network_l2"), of_arm(record, "tune_error", "network_l2"),
        limit(record),
    )  # fmt: skip

    def of_chosen(n):
        values = record[f"pruned_{n}"].values.astype(float)
        rows = np.take_along_axis(values, np.maximum(own, 0)[:, None, None], 1)[:, 0]
        return np.where(own[:, None] >= 0, rows, np.nan)

    level = sparsest(of_chosen("zero_share"), of_chosen("tune_error"), limit(record))
    return taken(of_chosen(name), level)


def l1_more_zeros(record):
    """share of weights at 0, L1 - L2, at matched error"""
    return at_match(record, "zero_share", "network_l1") - at_match(
        record, "zero_share", "network_l2"
    )


def source_more_zeros(record):
    """share of weights at 0, the source's update (2) - L2, at matched error"""
    return at_match(record, "zero_share", "network_source") - at_match(
        record, "zero_share", "network_l2"
    )


def l1_more_than_pruned(record):
    """share of weights at 0, L1 - L2 with its smallest weights cut, at matched error"""
    return at_match(record, "zero_share", "network_l1") - at_pruned_match(record, "zero_share")


def l1_more_units(record):
    """share of hidden units without weights, L1 - L2, at matched error"""
    return at_match(record, "units_removed", "network_l1") - at_match(
        record, "units_removed", "network_l2"
    )


def matched(record):
    """test error, L1 - L2, of the models compared"""
    return at_match(record, "test_error", "network_l1") - at_match(
        record, "test_error", "network_l2"
    )


def group_more_units(record):
    """share of hidden units without weights, group lasso - L1, at matched error"""
    return at_match(record, "units_removed", "network_group") - at_match(
        record, "units_removed", "network_l1"
    )


def fewer_pixels(record):
    """share of pixels that the first layer reads, L2 - L1, at matched error"""
    return at_match(record, "pixels_read", "network_l2") - at_match(
        record, "pixels_read", "network_l1"
    )


def fewer_pixels_than_pruned(record):
    """share of pixels that the first layer reads, L2 with its smallest weights cut - L1"""
    return at_pruned_match(record, "pixels_read") - at_match(record, "pixels_read", "network_l1")


# -- linear data

CORRELATED = 0.9  # or the strongest correlation below it


def place_of(record, correlated):
    """Place on the axis of correlations: the first, 0, or the one called correlated."""
    values = record["correlation"].values
    return int(max(1, np.searchsorted(values, CORRELATED, "right") - 1)) if correlated else 0


def of_linear(record, name, arm, correlated=False):
    """Value [S] of a linear model."""
    found = record[name].sel(linear_arm=arm).values[:, place_of(record, correlated)]
    return found.astype(float)


def f1_gain(record):
    """F1 of the features with a weight that is not 0, L1 - L2, independent features"""
    return of_linear(record, "f1", "linear_l1") - of_linear(record, "f1", "linear_l2")


def top_gain(record):
    """F1 of the k largest weights, k known, L1 - L2, independent features"""
    return of_linear(record, "top_f1", "linear_l1") - of_linear(record, "top_f1", "linear_l2")


def quality(record):
    """F1 of the features that L1 selects, independent features"""
    return of_linear(record, "f1", "linear_l1")


def quality_correlated(record):
    """F1 of the features that L1 selects, neighbours correlated (0.9 by default)"""
    return of_linear(record, "f1", "linear_l1", True)


# -- the claims

_ROUNDING = "1e-12 of the largest weight: rounding of float64"
_TENTH = "a tenth: less would not be seen in a picture of the weights"


def _claim(id, sentence, statistic, direction, threshold, reason, **more):
    more = {"kind": "paired", "unit": "", "section": "1 (2)"} | more
    return Claim(
        id=id, sentence=sentence, statistic=statistic, direction=direction, threshold=threshold,
        reason=reason, **more,
    )  # fmt: skip


def _two_readings(id, sentence, source, book, direction, threshold, reason, *, trap, figure):
    """The source's update (2) as the claim, the proximal step beside it."""
    more = {"kind": "exact", "figure": figure}
    other = _claim(
        id, sentence, book, direction, threshold, reason, reading="book", arms=("proximal",),
        oracle="equation 7.23: sign(w*) max(|w*| - alpha / H, 0)", **more,
    )  # fmt: skip
    return _claim(
        id, sentence, source, direction, threshold, reason, reading="source", arms=("source",),
        oracle="equation 7.23: sign(w*) max(|w*| - alpha / H, 0)", trap=trap, other_reading=other,
        **more,
    )  # fmt: skip


_NETWORKS = ("network_l1", "network_l2")
_AT_MATCH = "a comparison at different errors: models match within a margin on the tuning split"
_CUT = "with the smallest weights of L2 cut afterwards"

CLAIMS = (
    combine(
        "1.2a",
        "L1 drives small weights to exactly zero, L2 does not",
        (
            _two_readings(
                "1.2a1", "L1 sets the weights that are 0 at its minimum to exactly 0",
                source_zeros, proximal_zeros, "above", 1.0, "all of them: the claim says exactly",
                trap="a step along a subgradient crosses 0 and comes back; a cutoff afterwards "
                "fakes zeros", figure="zeros",
            ),
            _two_readings(
                "1.2a2", "It ends at the minimum", source_error, proximal_error, "below", 1e-12,
                _ROUNDING, trap="too few steps", figure="closed_form",
            ),
            _claim(
                "1.2a3", "It sets no others to 0", false_zeros, "within", 0.0, "an identity",
                kind="exact", arms=("proximal",), figure="closed_form",
            ),
            _claim(
                "1.2a4", "L2 sets none to exactly 0", l2_zeros, "within", 0.0, "an identity",
                kind="exact", arms=("l2",), oracle="H w* / (H + alpha), which is not 0",
                figure="zeros",
            ),
        ),
        section="1 (2)",
    ),
    combine(
        "1.2b",
        "L1 gives more compact models",
        (
            _claim(
                "1.2b1", "More weights are 0", l1_more_zeros, "above", 0.1, _TENTH,
                reading="book", arms=_NETWORKS, condition="as trained", trap=_AT_MATCH,
                figure="matched",
                control=_claim(
                    "1.2b1", "More weights are 0", l1_more_than_pruned, "above", 0.1, _TENTH,
                    condition=_CUT, arms=_NETWORKS, figure="matched",
                ),
                other_reading=_claim(
                    "1.2b1", "More weights are 0", source_more_zeros, "above", 0.1, _TENTH,
                    reading="source", arms=("network_source", "network_l2"), figure="matched",
                ),
            ),
            _claim(
                "1.2b2", "Whole neurons are left without weights", l1_more_units, "above", 0.1,
                "a tenth of the hidden units: less saves no time", arms=_NETWORKS, trap=_AT_MATCH,
                figure="matched",
            ),
            _claim(
                "1.2b3", "At the same test error", matched, "within", 0.02,
                "two in a hundred: twice the margin by which models match on the tuning split",
                arms=_NETWORKS, figure="matched",
            ),
        ),
        section="1 (2)",
    ),
    combine(
        "1.2c",
        "L1 models are easier to interpret",
        (
            _claim(
                "1.2c1", "The features they use are the true ones more often than L2's", f1_gain,
                "above", 0.1, "a tenth of F1: one feature in ten",
                arms=("linear_l1", "linear_l2"), condition="where a weight that is not 0 is a use",
                control=_claim(
                    "1.2c1", "The features they use are the true ones more often than L2's",
                    top_gain, "above", 0.1, "a tenth of F1: one feature in ten",
                    condition="where the largest weights are, their number known",
                    arms=("linear_l1", "linear_l2"), figure="features",
                ),
                trap="every feature of an L2 model has a weight: by that rule it selects all",
                figure="features",
            ),
            _claim(
                "1.2c2", "Most of what they say about features is right", quality, "above", 0.7,
                "F1 of 0.7: three of ten statements wrong are as many as a reader can bear",
                arms=("linear_l1",), condition="with independent features",
                control=_claim(
                    "1.2c2", "Most of what they say about features is right", quality_correlated,
                    "above", 0.7, "the same", condition="with correlated features",
                    arms=("linear_l1",), figure="features",
                ),
                trap="of features that go together L1 takes any one", figure="features",
            ),
            _claim(
                "1.2c3", "The first layer reads fewer pixels", fewer_pixels, "above", 0.1,
                _TENTH, arms=_NETWORKS, condition="as trained", trap=_AT_MATCH, figure="pixels",
                control=_claim(
                    "1.2c3", "The first layer reads fewer pixels", fewer_pixels_than_pruned,
                    "above", 0.1, _TENTH, condition=_CUT, arms=_NETWORKS, figure="pixels",
                ),
            ),
        ),
        section="1 (2)",
    ),
    _claim(
        "1.2d", "(added) A cutoff afterwards makes zeros of any update, and proves nothing",
        cut_zeros, "above", 0.0, "any: neither update has a weight at 0", unit="weights",
        arms=("source", "l2"), figure="zeros",
    ),
    combine(
        "1.2e",
        "(added) The elastic net has exact zeros as well",
        (
            _claim("1.2e1", "Where its minimum has them", elastic_zeros, "above", 1.0,
                   "all of them", kind="exact", arms=("elastic_net",), figure="zeros"),
            _claim(
                "1.2e2", "It ends at its minimum", elastic_error, "below", 1e-12, _ROUNDING,
                kind="exact", arms=("elastic_net",), figure="closed_form",
                oracle="sign(w*) max(|w*| - alpha1 / H, 0) H / (H + alpha2)",
            ),
        ),
        section="1 (2)",
    ),
    _claim(
        "1.2f", "(added) A penalty on groups removes more neurons than L1", group_more_units,
        "above", 0.1, "a tenth of the hidden units: less saves no time",
        arms=("network_group", "network_l1", "network_l2"), trap=_AT_MATCH, figure="matched",
    ),
)  # fmt: skip
