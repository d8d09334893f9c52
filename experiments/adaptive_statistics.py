"""Statistics of `adaptive`, scales, bias correction and robustness: record -> number per seed."""

import numpy as np

from dlstudy import search

TOLERATED = 1.1  # times the best error: a usable rate
FEW = 4  # trials of a short search
EDGE = 0.02  # of a range of hyperparameters, at either end
CAP = 1e6  # of a peak, where losses overflow


def values(record, variable, /, **at) -> np.ndarray:
    """A variable at these labels, seeds first, float64."""
    return record[variable].sel(**at).transpose("seed", ...).values.astype(float)


def take(rows, index) -> np.ndarray:
    """rows[s, index[s]] for every seed; NaN where the index is negative."""
    found = rows[np.arange(len(rows)), np.maximum(index, 0)]
    return np.where(index < 0, np.nan, found)


# -- 2.3a: scales


def _loss_change(record, arm):
    return values(record, "loss_change", scaling_arm=arm).max(1)


def adam_loss_change(record):
    """largest relative change of Adam's loss curve over all scales of the loss, delta 1e-30"""
    return _loss_change(record, "adam_no_delta")


def adam_delta_change(record):
    """the same with Adam's default delta, 1e-8"""
    return _loss_change(record, "adam")


def sgd_loss_change(record):
    """largest relative change of plain descent's loss curve over the scales of the loss up to 1"""
    change = record["loss_change"].sel(scaling_arm="sgd")
    return change.isel(loss_scale=record["loss_scale"].values <= 1).max("loss_scale").values


def sgd_matched_change(record):
    """the same over all scales with the rate divided by the scale"""
    return _loss_change(record, "sgd_matched")


def adam_feature_gap(record):
    """largest relative distance of losses: feature scaled by c, its rate times c; Adam"""
    return values(record, "feature_gap", feature_arm="adam").max(1)


def sgd_feature_gap(record):
    """largest relative distance of losses: feature scaled by c, rate times c^2; plain descent"""
    return values(record, "feature_gap", feature_arm="sgd").max(1)


def exponent(record, arm, moment):
    """Slope of log change of a feature's weights over log scale, by least squares, [S]."""
    change = values(record, "feature_change", feature_arm=arm, moment=moment)
    logs = np.log(record["feature_scale"].values)
    logs = logs - logs.mean()
    return np.log(change) @ logs / (logs @ logs)


def adam_exponent(record):
    """slope of log change of a feature's effective weights over its log scale, minus 1; Adam"""
    return exponent(record, "adam", "first") - 1


def sgd_exponent(record):
    """slope of log change of a feature's effective weights over its log scale, minus 2; SGD"""
    return exponent(record, "sgd", "first") - 2


def exponents_apart(record):
    """that slope after all steps: plain descent minus Adam"""
    return exponent(record, "sgd", "last") - exponent(record, "adam", "last")


# -- 2.3b: bias correction


def first_step(record, arm):
    return values(record, "step_size", step_arm=arm)[:, 0]


def first_step_corrected(record):
    """first step of Adam over its rate, minus 1; with bias correction"""
    return first_step(record, "adam") - 1


def first_step_uncorrected(record):
    """first step of Adam over its rate, minus 1; equations 5 and 6 without bias correction"""
    return first_step(record, "adam_uncorrected") - 1


def excess(record) -> np.ndarray:
    """Step without over step with bias correction, [S, moments]."""
    sizes = [values(record, "step_size", step_arm=arm) for arm in ("adam_uncorrected", "adam")]
    return sizes[0] / sizes[1]


def first_excess(record):
    """first step without over with bias correction, over 0.1 / sqrt(0.001), minus 1"""
    return excess(record)[:, 0] / (0.1 / np.sqrt(0.001)) - 1


def highest_excess(record):
    """largest ratio of a step without and with bias correction, minus 6.5685"""
    return excess(record).max(1) - 6.5685


def step_of_excess(record):
    """step in which the ratio is largest, minus 12"""
    return record["step"].values[excess(record).argmax(1)] - 12.0


def usable(record, name) -> np.ndarray:
    """bool[S, rates]: error within 10% of the optimizer's own best."""
    error = values(record, "tune_error", optimizer=name)
    return error <= TOLERATED * error.min(1, keepdims=True)


def highest_usable(record, name) -> np.ndarray:
    """Index of the highest usable rate, [S]."""
    found = usable(record, name)
    return found.shape[1] - 1 - found[:, ::-1].argmax(1)


def peak_at(record, name, index) -> np.ndarray:
    """log10 of the early peak over the first loss at these rates, [S]."""
    peak = take(values(record, "early_peak", optimizer=name), index)
    return np.log10(np.where(np.isfinite(peak), np.minimum(peak, CAP), CAP))


def peak_excess(record):
    """log10 of the early peak without over with correction, at Adam's highest usable rate"""
    index = highest_usable(record, "adam")
    return peak_at(record, "adam_uncorrected", index) - peak_at(record, "adam", index)


def peak_excess_own(record):
    """log10 of the early peak without over with correction, each at its highest usable rate"""
    with_it, without = (
        peak_at(record, name, highest_usable(record, name)) for name in ("adam", "adam_uncorrected")
    )
    return without - with_it


def usable_rate_gain(record):
    """decades from the highest usable rate without correction to that with it"""
    logs = np.log10(record["rate"].values)
    return logs[highest_usable(record, "adam")] - logs[highest_usable(record, "adam_uncorrected")]


# -- 2.3c: robustness


def width(record, name, best=None) -> np.ndarray:
    """Decades of rate with an error within 10% of the best, [S]; NaN: cut off by the grid's edge.

    Between rates of the grid the error's logarithm is interpolated linearly. `best` is the error
    to compare with [S], else the optimizer's own.
    """
    error = values(record, "tune_error", optimizer=name)
    best = error.min(1) if best is None else best
    above = np.log(np.maximum(error, 1e-12) / (TOLERATED * np.maximum(best, 1e-12))[:, None])
    left, right = above[:, :-1], above[:, 1:]
    step = np.diff(np.log10(record["rate"].values))
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = np.abs(np.minimum(left, right)) / np.abs(left - right)
    both, none = (left <= 0) & (right <= 0), (left > 0) & (right > 0)
    part = np.where(both, 1.0, np.where(none, 0.0, crossing))
    cut = (above[:, 0] <= 0) | (above[:, -1] <= 0)
    return np.where(cut, np.nan, part @ step)


def wider(record, other):
    return width(record, "adam") - width(record, other)


def wider_than_momentum(record):
    """decades of rate within 10% of each one's best error: Adam minus momentum"""
    return wider(record, "momentum")


def wider_than_sgd(record):
    """decades of rate within 10% of each one's best error: Adam minus plain descent"""
    return wider(record, "sgd")


def wider_at_one_error(record):
    """decades of rate within 10% of the better one's best error: Adam minus momentum"""
    pair = ("adam", "momentum")
    best = np.minimum(*(values(record, "tune_error", optimizer=name).min(1) for name in pair))
    return width(record, "adam", best) - width(record, "momentum", best)


def found_by_search(record, space) -> np.ndarray:
    """Expected test error of the best of K trials, chosen by tuning error, [S, K].

    NaN for a seed whose best trial has a rate at the edge of the range.
    """
    scores, told = (
        values(record, f"search_{name}", space=space) for name in ("tune_error", "test_error")
    )
    place = values(record, "place", name="rate", space=space)
    inside = (place > EDGE) & (place < 1 - EDGE)
    return np.where(inside[:, None], search.expected_best(scores, told), np.nan)


def _search_gap(record, one, other, trials=None):
    index = (record.sizes["trial"] if trials is None else min(trials, record.sizes["trial"])) - 1
    return found_by_search(record, one)[:, index] - found_by_search(record, other)[:, index]


def few_trials(record):
    """expected test error of the best of 4 trials: Adam, delta fixed, minus momentum"""
    return _search_gap(record, "adam_fixed", "momentum", FEW)


def few_trials_delta(record):
    """expected test error of the best of 4 trials: Adam, delta searched, minus momentum"""
    return _search_gap(record, "adam", "momentum", FEW)


def all_trials_delta(record):
    """test error of the best of all trials: Adam, delta searched, minus momentum"""
    return _search_gap(record, "adam", "momentum")


def all_trials(record):
    """test error of the best of all trials: Adam, delta fixed, minus momentum"""
    return _search_gap(record, "adam_fixed", "momentum")


def momentum_over_sgd(record):
    """test error of the best of all trials: momentum minus plain descent"""
    return _search_gap(record, "momentum", "sgd")
