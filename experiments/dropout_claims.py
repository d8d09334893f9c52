"""The claims of `dropout`: a statistic of the record, and a threshold, for each.

Where errors are compared, each arm has the rate (and, as "dropout", the share dropped) with the
lowest tuning error, and of several the lowest tuning loss; by tuning loss alone the network without
dropout, which grows overconfident, would get rates at which it has more errors. Where speed or the
lowest training loss is compared, each arm has the rate that is best at just that. "Judged" is the
arm with the share --judged_drop. Thresholds are the smallest effects worth having, fixed with their
reasons before the first run.
"""

import numpy as np

from dlstudy.claims import Claim, combine
from experiments import dropout_record as records

NEAR_BEST = 1.1  # times the lowest tuning loss: from there on a run is as good as it gets

# -- parts of statistics


def judged(record) -> float:
    return float(record.attrs["judged_drop"])


def by_run(record, name: str, drop: float) -> np.ndarray:
    """A variable of all rates of one share dropped, [S, rates, ...]."""
    values = record[name].sel(p=drop).transpose("seed", "rate", ...).values
    return values.astype(float)


def chosen_error(record, drops, prefix: str = "") -> np.ndarray:
    """Test error [S] of the run with the lowest tuning error among these shares and all rates."""

    def runs(name):
        return np.concatenate([by_run(record, prefix + name, drop) for drop in drops], 1)

    best = records.best_of(runs("tune_error"), runs("tune_loss"), [slice(None)])
    lost = ~np.isfinite(runs("tune_loss")).any(1)
    return np.where(lost, np.nan, np.take_along_axis(runs("test_error"), best, 1)[:, 0])


def dropped(record) -> list[float]:
    """The shares dropped, without 0."""
    return [float(drop) for drop in record.p.values if drop > 0]


def increase(record, arm: str, scaling: str = "as_it_is", fraction=None) -> np.ndarray:
    """Test error with a share of units ablated less that with all, [S], [S, F] for None."""
    own = record.sel(examined=arm)
    error = own["ablated_error"].sel(scaling=scaling).transpose("seed", "fraction").values
    more = error - own["whole_error"].values[:, None]
    if fraction is None:
        return more
    return more[:, np.flatnonzero(np.isclose(record.fraction.values, fraction))[0]]


def spared(record, other: str, scaling: str = "as_it_is") -> np.ndarray:
    """How much more error another arm gains by ablation than the judged one, [S]."""
    fraction = record.attrs["judged_fraction"]
    own = records.names([judged(record)])[0]
    lost, kept = (increase(record, arm, scaling, fraction) for arm in (other, own))
    return lost - kept


def epochs_to(loss: np.ndarray, target) -> np.ndarray:
    """Epochs [...] until loss [..., E] first is at most the target, in parts of an epoch.

    Between two epochs the logarithm of the loss is interpolated; before the first one the loss is
    that of equal probabilities of ten classes. NaN: it never is.
    """
    target = np.broadcast_to(np.asarray(target, float), loss.shape[:-1])[..., None]
    with np.errstate(invalid="ignore", divide="ignore"):
        hit = loss <= target
        after = hit.argmax(-1)[..., None]
        before = np.concatenate([np.full((*loss.shape[:-1], 1), np.log(10)), loss], -1)
        low = np.log(np.take_along_axis(loss, after, -1))
        high = np.log(np.take_along_axis(before, after, -1))
        part = np.where(high > np.log(target), (high - np.log(target)) / (high - low), 0)
    return np.where(hit.any(-1), (after + part)[..., 0], np.nan)


def fastest(epochs: np.ndarray, otherwise) -> np.ndarray:
    """Fewest epochs over the rates, [S, rates] to [S]; `otherwise` where none gets there."""
    least = np.where(np.isnan(epochs), np.inf, epochs).min(1)
    return np.where(np.isfinite(least), least, otherwise)


def to_target(record, drop: float, name: str = "train_loss") -> np.ndarray:
    """Epochs to the target at the fastest rate, [S]; all epochs, a lower bound, where none is."""
    loss = by_run(record, f"{name}_by_epoch", drop)
    return fastest(epochs_to(loss, float(record.attrs["target"])), loss.shape[-1])


def to_best(record, drop: float) -> np.ndarray:
    """Epochs until the tuning loss comes near the arm's lowest, at the fastest rate, [S]."""
    loss = by_run(record, "tune_loss_by_epoch", drop)
    lowest = np.nanmin(loss, (1, 2))
    return fastest(epochs_to(loss, NEAR_BEST * lowest[:, None]), np.nan)


def noise_ratio(record, name: str, other: str, drop: float) -> np.ndarray:
    """One measure of the gradients over another, [S, checkpoints]."""
    own = record.sel(p=drop)
    values = [own[part].transpose("seed", "checkpoint").values.astype(float) for part in
              (name, other)]  # fmt: skip
    return values[0] / values[1]


def floor(record, width, drop: float, name="capacity_loss", milestone: int = -1) -> np.ndarray:
    """Lowest loss on random labels over the rates, [S]; milestone -2: after half the epochs."""
    loss = record[name].sel(width=width, capacity_p=drop).isel(milestone=milestone)
    return np.nanmin(loss.transpose("seed", "capacity_rate").values.astype(float), 1)


# -- 3.1a


def spared_of_plain(record):
    """increase of test error by ablation: without dropout minus with it"""
    return spared(record, "plain")


def spared_of_wide(record):
    """increase of test error by ablation: wider network without dropout minus with dropout"""
    return spared(record, "wide")


def spared_of_l2(record):
    """increase of test error by ablation: L2 penalty minus dropout"""
    return spared(record, "l2")


def spared_rescaled(record):
    """increase of test error, units left rescaled: without dropout minus with it"""
    return spared(record, "plain", "rescaled")


def less_correlated(record):
    """mean |correlation| of two units of a layer on test images: without minus with dropout"""
    layers = record["correlation"].mean("layer").transpose("examined", "seed")
    own = records.names([judged(record)])[0]
    return layers.sel(examined="plain").values - layers.sel(examined=own).values


# -- 3.1b


def more_noise(record):
    """log2 of tr Sigma, masks on over off at the same parameters, mean over checkpoints"""
    return np.log2(noise_ratio(record, "noise_total", "noise_off", judged(record))).mean(1)


def more_relative_noise(record):
    """the same ratio, each tr Sigma over its own squared mean gradient"""
    means = np.log2(noise_ratio(record, "square_on", "square_off", judged(record))).mean(1)
    return more_noise(record) - means


def more_epochs(record):
    """log2 of epochs to the target training loss, masks off: with dropout over without"""
    return np.log2(to_target(record, judged(record)) / to_target(record, 0.0))


def more_epochs_masked(record):
    """the same ratio, the loss read as it is trained, with masks on"""
    epochs = [to_target(record, drop, "masked_loss") for drop in (judged(record), 0.0)]
    return np.log2(epochs[0] / epochs[1])


def later_best(record):
    """log2 of epochs until the tuning loss is near its lowest: with dropout over without"""
    return np.log2(to_best(record, judged(record)) / to_best(record, 0.0))


def slowdown_left(record):
    """share of the slowdown, in logarithms, that is left with several masks averaged"""
    loss = record["averaged_train_loss"].transpose("seed", "rate", "averaged_epoch").values
    averaged = fastest(epochs_to(loss.astype(float), float(record.attrs["target"])), np.nan)
    single, plain = to_target(record, judged(record)), to_target(record, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(single > plain, np.log(averaged / plain) / np.log(single / plain), np.nan)


# -- 3.1c


def _capacity_cost(record, name, kept: float = 1.0):
    width, drop = int(record.attrs["judged_width"]), judged(record)
    with_it = floor(record, width, drop, name)
    return np.log10(with_it / floor(record, round(kept * width), 0.0, name))


def capacity_cost(record):
    """log10 of the lowest loss on random labels: with dropout over without, same width"""
    return _capacity_cost(record, "capacity_loss")


def capacity_cost_of_kept(record):
    """the same, over a network with only as many units as dropout keeps"""
    return _capacity_cost(record, "capacity_loss", 1 - judged(record))


def _still_falling(record, name):
    width, drop = int(record.attrs["judged_width"]), judged(record)
    half, whole = (floor(record, width, drop, name, milestone) for milestone in (-2, -1))
    return np.log10(half / whole)


def still_falling(record):
    """log10 of the lowest loss with dropout after half the epochs over that after all"""
    return _still_falling(record, "capacity_loss")


def still_falling_masked(record):
    """the same of the loss with masks on"""
    return _still_falling(record, "capacity_masked")


def comes_back(record):
    """log10 of the lowest loss with dropout over that after a quarter more epochs without"""
    width, drop = int(record.attrs["judged_width"]), judged(record)
    lifted = record["lifted_loss"].sel(width=width, capacity_p=drop)
    lifted = lifted.transpose("seed", "capacity_rate").values.astype(float)
    return np.log10(floor(record, width, drop) / np.nanmin(lifted, 1))


# -- 3.1d


def gain(record):
    """test error on all training images: without dropout minus with it, best share and rate"""
    return chosen_error(record, [0.0]) - chosen_error(record, dropped(record))


def small_gain(record):
    """test error on the small training set: without dropout minus with it"""
    own, other = (chosen_error(record, drops, "small_") for drops in (dropped(record), [0.0]))
    return other - own


def weaker_when_small(record):
    """log2 of test error, without over with dropout: all training images minus the small set"""
    ratio = {
        prefix: np.log2(chosen_error(record, [0.0], prefix)
                        / chosen_error(record, dropped(record), prefix))
        for prefix in ("", "small_")
    }  # fmt: skip
    return ratio[""] - ratio["small_"]


# -- the claims

_POINT = "one test image in a hundred"
_QUARTER = float(np.log2(1.25))
_MORE = "a quarter more"
_TRAINED = ("plain", "judged")
_HELD = ("capacity_plain", "capacity_dropout")
SECTION = "3 (1)"


def _claim(id, sentence, statistic, direction, threshold, reason, **more):
    more = {"kind": "paired", "unit": "", "section": SECTION} | more
    return Claim(
        id=id, sentence=sentence, statistic=statistic, direction=direction, threshold=threshold,
        reason=reason, **more,
    )  # fmt: skip


_ROBUST = "Trained units can be taken away at less cost in test error"
_NOISE = "At the same parameters gradients are noisier with masks on"
_SLOW = "More epochs are needed to the same training loss"
_HIGHER = "The smallest training loss on random labels is higher"
_SETTLED = "That loss has stopped falling: capacity is short, not time"
_SMALL = "The test error is lower on few training images"

CLAIMS = (
    combine(
        "3.1a",
        "Dropout prevents co-adaptation of units",
        (
            _claim(
                "3.1a1", _ROBUST, spared_of_plain, "above", 0.01, _POINT, figure="ablation",
                arms=_TRAINED, condition="against the same network without dropout",
                control=_claim(
                    "3.1a1", _ROBUST, spared_of_wide, "above", 0.01, _POINT, figure="ablation",
                    arms=("judged", "wide"), condition="against a wider network without dropout",
                ),
                trap="wider networks are redundant by themselves; arms differ in error to begin "
                "with: each one's own increase counts, at the rate it was tuned to",
            ),
            _claim(
                "3.1a2", "It is so against an L2 penalty too", spared_of_l2, "above", 0.01, _POINT,
                figure="ablation", arms=("judged", "l2"),
                trap="any regulariser may do it: smaller weights, a flatter function",
            ),
            _claim(
                "3.1a3", "It is so where the units left make up for those taken away",
                spared_rescaled, "above", 0.01, _POINT, figure="ablation", arms=_TRAINED,
                trap="ablation shrinks the sums that the next layer gets; only training with "
                "masks has seen biases against smaller sums",
            ),
            _claim(
                "3.1a4", "Units are less correlated", less_correlated, "above", 0.02,
                "a fiftieth of the whole scale", figure="correlation", arms=_TRAINED,
                trap="units that never change have no correlation: they are left out",
            ),
        ),
        section=SECTION,
    ),
    combine(
        "3.1b",
        "Dropout adds gradient noise and slows convergence; more epochs are needed",
        (
            _claim(
                "3.1b1", _NOISE, more_noise, "above", _QUARTER, f"{_MORE} variance",
                unit="octaves", figure="noise", arms=("judged",), condition="tr Sigma as it is",
                control=_claim(
                    "3.1b1", _NOISE, more_relative_noise, "above", _QUARTER, f"{_MORE} variance",
                    unit="octaves", figure="noise", arms=("judged",),
                    condition="tr Sigma over the squared norm of the mean gradient",
                ),
                oracle="over all masks of a small network the parts of masks and examples are "
                "exact, and add up to the whole",
                trap="with masks the mean gradient grows too; comparing trained networks compares "
                "parameters",
            ),
            _claim(
                "3.1b2", _SLOW, more_epochs, "above", _QUARTER, f"{_MORE} epochs", unit="octaves",
                figure="convergence", arms=_TRAINED, condition="where the loss is measured with "
                "masks off",
                control=_claim(
                    "3.1b2", _SLOW, more_epochs_masked, "above", _QUARTER, f"{_MORE} epochs",
                    unit="octaves", figure="convergence", arms=_TRAINED,
                    condition="where it is measured with masks on",
                ),
                trap="with masks on the loss of a trained network stays high, however long it is "
                "trained; one rate for all arms",
            ),
            _claim(
                "3.1b3", "More epochs are needed to come near the lowest tuning loss", later_best,
                "above", _QUARTER, f"{_MORE} epochs", unit="octaves", figure="optimum",
                arms=_TRAINED, trap="an arm still improving when training ends has its best later "
                "than it seems",
            ),
            _claim(
                "3.1b4", "The noise is the cause: with several masks averaged in each step, less "
                "than half of the slowdown is left", slowdown_left, "below", 0.5,
                "less than half", figure="optimum", arms=("plain", "judged", "averaged"),
                trap="dropout also changes what is minimised: averaging masks leaves that alone",
            ),
        ),
        section=SECTION,
    ),
    combine(
        "3.1c",
        "Dropout reduces effective capacity",
        (
            _claim(
                "3.1c1", _HIGHER, capacity_cost, "above", float(np.log10(2)), "a factor of two",
                unit="decades", figure="capacity", arms=_HELD,
                condition="against the same width without dropout",
                control=_claim(
                    "3.1c1", _HIGHER, capacity_cost_of_kept, "above", float(np.log10(2)),
                    "a factor of two", unit="decades", figure="capacity", arms=_HELD,
                    condition="against as many units as dropout keeps, without dropout",
                ),
                trap="the loss with masks on, which dropout raises in any network",
            ),
            _claim(
                "3.1c2", _SETTLED, still_falling, "below", _QUARTER * float(np.log10(2)),
                "a fall of a quarter in the second half of the epochs", unit="decades",
                figure="capacity_time", arms=_HELD, condition="where the loss is measured with "
                "masks off",
                control=_claim(
                    "3.1c2", _SETTLED, still_falling_masked, "below",
                    _QUARTER * float(np.log10(2)),
                    "a fall of a quarter in the second half of the epochs", unit="decades",
                    figure="capacity_time", arms=_HELD,
                    condition="where it is measured with masks on",
                ),
                trap="slow convergence after a fixed number of epochs reads as lack of capacity",
            ),
        ),
        section=SECTION,
    ),
    combine(
        "3.1d",
        "Dropout generalises better",
        (
            _claim(
                "3.1d1", "The test error is lower on all training images", gain, "above", 0.005,
                "half an image in a hundred", figure="test_error",
                arms=("plain", "dropout"),
                trap="rates chosen by tuning loss: without dropout that is a rate with more errors",
            ),
            _claim(
                "3.1d2", _SMALL, small_gain, "above", 0.01, _POINT, figure="test_error",
                arms=("small_plain", "small_dropout"), reading="source",
                other_reading=_claim(
                    "3.1d2", "Dropout helps less on few training images", weaker_when_small,
                    "above", 0.0, "any difference in the book's direction", unit="octaves",
                    figure="test_error", reading="book", section="book 7.12",
                    arms=("plain", "dropout", "small_plain", "small_dropout"),
                    trap="a larger error can fall by more: ratios are compared",
                ),
            ),
        ),
        section=SECTION,
    ),
    _claim(
        "3.1e", "(added) What dropout holds back is training, not the network: without masks the "
        "same network soon gets below that loss", comes_back, "above", float(np.log10(2)),
        "a factor of two", unit="decades", figure="capacity", arms=("capacity_dropout",),
        trap="training longer with masks lowers the loss as well: how far, 3.1c2 says",
    ),
)  # fmt: skip
