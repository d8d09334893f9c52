"""The claims of `bagging`: a statistic of the record, and a threshold, for each.

K is the largest number of models. Every arm has, at each k and in each seed, the learning rate
(and the share dropped) with the lowest tuning error. Thresholds are the smallest effects worth
having, fixed with their reasons before the first run.
"""

import numpy as np

from dlstudy import ensembles
from dlstudy.claims import Claim, combine
from dlstudy.stats import rank_correlation

# -- parts of statistics


def at_k(record, name: str, arm: str, k: int = 0) -> np.ndarray:
    """A score [S] of an arm's ensemble of k; of the largest for 0, or counted from it below."""
    k = k if k > 0 else int(record.k[-1]) + k
    return record[name].sel(arm=arm, k=k).values.astype(float)


def of_sources(record, name: str, sources: str) -> np.ndarray:
    return record[name].sel(sources=sources).transpose("seed", ...).values.astype(float)


def best_by_tuning(record, arm: str) -> np.ndarray:
    """Test error [S] of an arm at whatever k has the lowest tuning error, the smallest of such."""
    own = record.sel(arm=arm)
    tune = own["tune_error"].transpose("k", "seed").values.astype(float)
    index = np.where(np.isfinite(tune), tune, np.inf).argmin(0)
    return own["error"].transpose("k", "seed").values[index, np.arange(len(index))].astype(float)


def members_of(record, kind: str) -> list[str]:
    """The sources of one kind: "models" trained separately, or "masks" of a network."""
    return [name for name in record.sources.values if name.startswith("masks") == (kind == "masks")]


def by_sources(record, name: str, kind: str = "models", k: int = -1) -> np.ndarray:
    """[sources, S]: a variable of the sources of one kind, at position k of those with sizes."""
    own = record[name].sel(sources=members_of(record, kind))
    own = own.isel(k=k) if "k" in own.dims else own
    return own.transpose("sources", "seed").values.astype(float)


def gains(record, kind: str = "models") -> np.ndarray:
    """Test error of a member minus that of all of them together, [sources, S], of the same ones."""
    return by_sources(record, "members_error", kind, 0) - by_sources(record, "members_error", kind)


def of_chosen_masks(record, name: str) -> np.ndarray:
    """[S, ...]: a variable of the masks of the dropout network that the tuning split chose."""
    own = record[name].sel(sources=members_of(record, "masks")).transpose("sources", "seed", ...)
    drop = at_k(record, "drop", "dropout")
    index = np.abs(np.array(record.attrs["drops"])[:, None] - drop).argmin(0)
    found = own.values[index, np.arange(len(drop))].astype(float)
    found[np.isnan(drop)] = np.nan
    return found


# -- 3.2a


def geometric_gap(record):
    """largest difference in log-probability: weight scaling and geometric mean of all masks"""
    return record["regression_gap"].sel(averaging="geometric mean").values


def _above_masks(record, name):
    own = record[f"predictor_{name}"].sel(predictor="weight scaling").values.astype(float)
    return own - record[f"mask_{name}"].isel(masks=-1).values


def error_above_masks(record):
    """test error: weight scaling minus the mean over all random masks"""
    return _above_masks(record, "error")


def likelihood_above_masks(record):
    """negative log likelihood: weight scaling minus the mean over all random masks"""
    return _above_masks(record, "negative_log_likelihood")


def distance_from_masks(record, predictor: str = "weight scaling") -> np.ndarray:
    """Squared distance of a predictor from the mean over masks [S], without that mean's noise.

    The mean's own error adds its variance to the expected squared distance.
    """
    own = record["predictor_distance"].sel(predictor=predictor).values.astype(float)
    return own - record["mask_noise"].values


def distance_over_variance(record):
    """squared distance of weight scaling from the mean over masks, over the variance of a mask"""
    return distance_from_masks(record) / record["mask_variance"].values


def geometric_over_arithmetic(record):
    """squared distance of weight scaling from the geometric mean over masks, over arithmetic"""
    own = record["predictor_geometric_distance"].sel(predictor="weight scaling").values
    arithmetic = distance_from_masks(record)
    # Where the noise taken off leaves nothing, the distance is not measured.
    return own.astype(float) / np.where(arithmetic > 0, arithmetic, np.nan)


# -- 3.2b


def _gap_to_line(record, pairs) -> np.ndarray:
    """Largest |error - v/k - (k-1)c/k| over the error [S], c at the positions `pairs` of k."""
    k = record.k.values[None, :, None]
    error, v, c = (
        record[name].transpose("sources", "k", "seed").values.astype(float)
        for name in ("parts_error", "variance", "covariance")
    )
    return (np.abs(error - ensembles.expected_error(v, c[:, pairs], k)) / error).max((0, 1))


def identity_gap(record):
    """largest over kinds of members and k of |error - v/k - (k-1)c/k| over the error"""
    return _gap_to_line(record, slice(None))


def neighbour_gap(record):
    """the same with c of all pairs of all members in place of the pairs that are averaged"""
    return _gap_to_line(record, slice(-1, None))


def gain_of_bagging(record):
    """test error: one bagged model minus all together"""
    return at_k(record, "error", "bagging", 1) - at_k(record, "error", "bagging")


def gain_on_whole_set(record):
    """test error: one model trained on the whole set minus the bagged ensemble"""
    return at_k(record, "error", "init", 1) - at_k(record, "error", "bagging")


def dropout_same_compute(record):
    """test error: dropout trained K times as long minus K bagged models"""
    return at_k(record, "error", "dropout") - at_k(record, "error", "bagging")


def dropout_any_compute(record):
    """test error: dropout trained up to K times as long, as the tuning split prefers, minus K"""
    return best_by_tuning(record, "dropout") - at_k(record, "error", "bagging")


def dropout_same_parameters(record):
    """test error: dropout in a network as large as all models minus these models bagged"""
    k = int(np.max(record.attrs["counts"]))
    return at_k(record, "error", "wide", k) - at_k(record, "error", "bagging", k)


def dropout_same_small(record):
    """test error: dropout in a network of the usual size minus k models of 1/k of its width

    k is the one of the grid with the lowest tuning error.
    """
    small = best_by_tuning(record.sel(k=np.atleast_1d(record.attrs["counts"])), "small")
    return at_k(record, "error", "dropout", 1) - small


# -- 3.2c


def _ratio(record):
    bytes_of = lambda arm: record["bytes"].sel(arm=arm).values.astype(float)  # noqa: E731
    return bytes_of("bagging") / bytes_of("dropout")


def byte_ratio(record):
    """largest over k of |bytes of k models over bytes of the dropout network - k|, as trained"""
    gap = np.abs(_ratio(record) - record.k.values).max()
    return np.full(record.sizes["seed"], gap)


def zlib_ratio(record):
    """bytes of the arrays of all K models over those of one, compressed by zlib, less K"""
    return record["zlib_ratio"].values.astype(float) - float(record.k[-1])


# -- 3.2d


def members_disagree(record):
    """share of test images that two bagged models classify differently"""
    return of_sources(record, "disagreement", "bagging")


def _gain_of(record, arm):
    return at_k(record, "error", arm, 1) - at_k(record, "error", arm)


def gain_of_order(record):
    """test error: one model minus all, which share rows and start and differ in order alone"""
    return _gain_of(record, "order")


def gain_with_diversity(record):
    """rank correlation over sources of diversity: disagreement and what averaging gains"""
    return rank_correlation(by_sources(record, "disagreement"), gains(record))


def gain_with_correlation(record):
    """rank correlation over sources of diversity: two members' errors' and what averaging gains"""
    return rank_correlation(by_sources(record, "correlation"), gains(record))


def gain_with_mask_diversity(record):
    """rank correlation over shares dropped: disagreement of masks and what averaging K gains"""
    return rank_correlation(by_sources(record, "disagreement", "masks"), gains(record, "masks"))


def error_with_diversity(record):
    """rank correlation over sources of diversity: disagreement and the ensemble's test error"""
    return rank_correlation(by_sources(record, "disagreement"), by_sources(record, "members_error"))


def error_with_diversity_on_whole_set(record):
    """the same over the sources whose members all have the whole training set"""
    return error_with_diversity(record.sel(sources=["init", "order", "init_order"]))


def vote_over_mean(record):
    """test error: majority vote minus mean, of all bagged models"""
    return of_sources(record, "vote_error", "bagging") - at_k(record, "error", "bagging")


def vote_over_mean_likelihood(record):
    """negative log likelihood: shares of votes minus mean probabilities, of all bagged models"""
    votes = of_sources(record, "vote_negative_log_likelihood", "bagging")
    return votes - at_k(record, "negative_log_likelihood", "bagging")


def gain_of_masks(record):
    """test error: one random mask minus the mean over all random masks"""
    one = of_chosen_masks(record, "members_error")[:, 0]
    return one - record["mask_error"].isel(masks=-1).values


def masks_disagree(record):
    """share of test images that two random masks classify differently"""
    return of_chosen_masks(record, "disagreement")


_ROUNDING = "rounding of sums over 4,096 masks in float64"
_HALF_POINT = "half a percentage point of test error: three of 600 test images"
_POINT = "one percentage point of test error: six of 600 test images"
_ORDERED = "more than half way from no order to perfect order"


def _claim(id, sentence, statistic, direction, threshold, reason, **more):
    more = {"kind": "paired", "unit": "", "section": "3 (2)"} | more
    return Claim(
        id=id, sentence=sentence, statistic=statistic, direction=direction, threshold=threshold,
        reason=reason, **more,
    )  # fmt: skip


_SIMILAR = "k models store k times the bytes of the dropout network"
_TOGETHER = "Together bagged models err less than one of them"

CLAIMS = (
    combine(
        "3.2a",
        "Dropout approximates an ensemble with one model",
        (
            _claim(
                "3.2a1",
                "On softmax regression weight scaling is the renormalised geometric mean over all "
                "masks", geometric_gap, "below", 1e-10, _ROUNDING, kind="exact",
                unit="nat", arms=("regression",), figure="exact",
                oracle="0 to rounding: the geometric mean of softmax regressions is the softmax of "
                "the mean logits (book 7.56 to 7.66)",
                trap="the arithmetic mean is another predictor (in the figure); masks need their "
                "probabilities as weights unless the share dropped is 1/2",
            ),
            _claim(
                "3.2a2", "On a network its test error is that of many random masks",
                error_above_masks, "within", 0.005, _HALF_POINT, arms=("dropout",),
                figure="masks",
            ),
            _claim(
                "3.2a3", "Its negative log likelihood is that of many random masks",
                likelihood_above_masks, "within", 0.02,
                "2% in the probability of the right class", unit="nat", arms=("dropout",),
                figure="masks",
                trap="masks that are divided by what they keep have scaled the weights already: "
                "scaled once more (in the figure) they predict something else",
            ),
            _claim(
                "3.2a5", "It is far nearer to the geometric than to the arithmetic mean over masks",
                geometric_over_arithmetic, "below", 0.5, "half of the squared distance",
                arms=("dropout",), figure="masks", section="book 7.12",
                trap="arithmetic for geometric mean",
            ),
        ),
        section="3 (2)",
    ),
    combine(
        "3.2b",
        "Bagging averages separately trained models",
        (
            _claim(
                "3.2b1", "The squared error of k models is v/k + (k-1)c/k", identity_gap, "below",
                1e-5, "rounding in float32 of sums over 600 images", kind="exact", figure="error",
                oracle="an identity; over all subsets of k of K models c of all pairs is exact too",
                section="book 7.50",
            ),
            _claim(
                "3.2b2", _TOGETHER, gain_of_bagging, "above", 0.01, _POINT, arms=("bagging",),
                figure="error", condition="with rows, start and order of their own",
                control=_claim(
                    "3.2b2", _TOGETHER, gain_of_order, "above", 0.01, _POINT, arms=("order",),
                    figure="diversity", condition="with an order of their own alone",
                ),
                trap="members that share a start, or an order, are copies of one another",
            ),
            _claim(
                "3.2b3", "They err less than one model that has all of the training set",
                gain_on_whole_set, "above", 0.005, _HALF_POINT, arms=("bagging", "init"),
                figure="error",
                trap="a bagged model sees 63% of the examples: it is the weaker one to beat",
            ),
            _claim(
                "3.2b4", "At equal training cost dropout errs no more than bagging",
                dropout_same_compute, "below", 0.005, _HALF_POINT, arms=("bagging", "dropout"),
                figure="error", condition="when dropout trains K times as long",
                control=_claim(
                    "3.2b4", "At equal training cost dropout errs no more than bagging",
                    dropout_any_compute, "below", 0.005, _HALF_POINT, figure="error",
                    arms=("bagging", "dropout"),
                    condition="when it may stop earlier, by the tuning split",
                ),
                trap="one rate for all: each arm has its own, and dropout its own share",
            ),
            _claim(
                "3.2b5", "With as many parameters, in a wider network, it errs no more",
                dropout_same_parameters, "below", 0.005, _HALF_POINT, arms=("bagging", "wide"),
                figure="error",
            ),
            _claim(
                "3.2b6", "It errs no more than an ensemble of as many parameters as one network",
                dropout_same_small, "below", 0.005, _HALF_POINT, arms=("dropout", "small"),
                figure="error",
            ),
        ),
        section="3 (2)",
    ),
    _claim(
        "3.2c", _SIMILAR, byte_ratio, "below", 0, "algebra", kind="exact", figure="table",
        condition="in bytes of the parameter arrays", arms=("bagging", "dropout"),
        control=_claim(
            "3.2c", _SIMILAR, zlib_ratio, "within", 0, "algebra", kind="exact", figure="table",
            condition="in bytes of the same arrays compressed by zlib", arms=("bagging", "dropout"),
        ),
        oracle="k", trap="files compress differently",
    ),
    combine(
        "3.2d",
        "Both gain from diversity among models, bagging by averaging or voting",
        (
            _claim(
                "3.2d1", "Bagged models disagree", members_disagree, "above", 0.02,
                "one image in fifty: without it an average changes nothing", figure="diversity",
                arms=("bagging",),
            ),
            _claim(
                "3.2d2", "More diverse members gain more from averaging", gain_with_diversity,
                "above", 0.5, _ORDERED, figure="diversity",
                trap="members sharing rows, start or order: arms with one source each",
            ),
            _claim(
                "3.2d3", "An ensemble's error falls with diversity", error_with_diversity, "below",
                -0.5, _ORDERED, figure="diversity", condition="whatever its members' error",
                control=_claim(
                    "3.2d3", "An ensemble's error falls with diversity",
                    error_with_diversity_on_whole_set, "below", -0.5, _ORDERED, figure="diversity",
                    condition="among models of the whole training set, which err alike",
                ),
                oracle="E/v = 1/k + (k-1)/k c/v rises with c/v (book 7.50 and 7.51)",
                trap="bootstrap samples make members more diverse, and worse: at equal v the error "
                "falls by the identity of 3.2b1",
            ),
            _claim(
                "3.2d4", "Majority vote and mean err alike", vote_over_mean, "within", 0.005,
                _HALF_POINT, arms=("bagging",), figure="table",
                trap="argmax gives ties to the lower class: here to the mean",
            ),
            _claim(
                "3.2d5", "The mean has the better probabilities", vote_over_mean_likelihood,
                "above", 0.02, "2% in the probability of the right class", unit="nat",
                arms=("bagging",), figure="table",
            ),
            _claim(
                "3.2d6", "Random masks of one network disagree", masks_disagree, "above", 0.02,
                "one image in fifty", arms=("dropout",), figure="diversity",
            ),
            _claim(
                "3.2d7", "Their mean errs less than one of them", gain_of_masks, "above", 0.01,
                _POINT, arms=("dropout",), figure="masks",
            ),
            _claim(
                "3.2d8", "Members whose errors are less correlated gain more from averaging",
                gain_with_correlation, "below", -0.5, _ORDERED, figure="diversity",
                trap="members sharing rows, start or order: arms with one source each",
            ),
            _claim(
                "3.2d9", "Random masks that disagree more gain more from averaging",
                gain_with_mask_diversity, "above", 0.5, _ORDERED, arms=("dropout",),
                figure="diversity", trap="masks that drop more are worse alone: the gain is over "
                "such masks, not over weight scaling",
            ),
        ),
        section="3 (2)",
    ),
    _claim(
        "3.2e", "(added) Weight scaling is nearer to the mean over masks than the mean of ten "
        "masks is", distance_over_variance, "below", 0.1, "a mean of ten masks has a tenth of the "
        "variance of one; the book finds 10 to 20 enough", arms=("dropout",),
        figure="masks", section="book 7.12",
        trap="the noise of the Monte Carlo mean adds to the distance: it is taken off; weights "
        "scaled twice are shown beside it",
    ),
)  # fmt: skip
