"""The claims of `dropout_batchnorm`: a statistic of the record, and a threshold, for each.

"After" is batch normalisation, ReLU, dropout; "before" is ReLU, dropout, batch normalisation. The
learning rate of every arm and rate of dropping is each seed's own choice by the tuning error, and
so is the best rate of dropping; errors are of test images, with dropout off. Thresholds are the
smallest effects worth having, fixed with their reasons before the first run.
"""

import math

import numpy as np

from dlstudy.claims import Claim, combine
from dlstudy.stats import rank_correlation

# Of max(z, 0), z standard normal: v / ((c^2 + v) / keep - c^2) at keep 1/2.
RECTIFIED = (math.pi - 1) / (2 * math.pi - 1)

# -- parts of statistics


def _scores(record, arm: str) -> np.ndarray:
    """Tuning errors [p, rate, S], equal ones told apart by the tuning loss."""
    own = record.sel(arm=arm)
    error, loss = (
        own[name].transpose("p", "rate", "seed").values.astype(float)
        for name in ("tune_error", "tune_loss")
    )
    loss = np.where(np.isfinite(loss), np.clip(loss, 0, 10), 10)
    return np.where(np.isfinite(error), error, 1) + 1e-5 * loss  # below one image of the split


def place(record, drop) -> int:
    """Index of a rate of dropping; the judged one for None."""
    value = float(record.attrs["judged_drop"]) if drop is None else drop
    return int(np.abs(record.p.values - value).argmin())


def tuned(record, arm: str) -> np.ndarray:
    """Test error [p, S], each at the learning rate with the lowest tuning error."""
    error = record["test_error"].sel(arm=arm).transpose("p", "rate", "seed").values.astype(float)
    best = _scores(record, arm).argmin(1)[:, None]
    return np.take_along_axis(error, best, 1)[:, 0]


def curve(record, network: str, drop) -> np.ndarray:
    """Mean loss of an epoch's batches [S, epochs], dropout on, at the learning rate of `tuned`."""
    at = place(record, drop)
    best = _scores(record, network).argmin(1)[at]
    loss = record["minibatch_loss"].sel(network=network)
    loss = loss.transpose("p", "rate", "seed", "epoch").values.astype(float)[at]
    return loss[best, np.arange(len(best))]


def last_fall(record, network: str, drop) -> np.ndarray:
    """log10 of the loss after three quarters of the epochs over that after all, [S]."""
    loss = curve(record, network, drop)
    epochs = loss.shape[1]
    return np.log10(loss[:, max(math.ceil(0.75 * epochs), 1) - 1] / loss[:, -1])


def best_place(record, arm: str) -> np.ndarray:
    """Index of the best rate of dropping, [S]."""
    return _scores(record, arm).min(1).argmin(0)


def best_drop(record, arm: str) -> np.ndarray:
    return record.p.values[best_place(record, arm)].astype(float)


def at_drop(record, arm: str, drop=None) -> np.ndarray:
    """Test error [S] at one rate of dropping, the judged one for None."""
    return tuned(record, arm)[place(record, drop)]


def at_best(record, arm: str) -> np.ndarray:
    """Test error [S] at the best rate of dropping."""
    errors = tuned(record, arm)
    return errors[best_place(record, arm), np.arange(errors.shape[1])]


def gain(record, arm: str) -> np.ndarray:
    """What dropout at its best rate takes off the test error, [S]."""
    return at_drop(record, arm, 0.0) - at_best(record, arm)


def by_layer(record, name: str, order: str, drop=None) -> np.ndarray:
    """A variable [S, layers] at the learning rate that the tuning error prefers."""
    index = place(record, drop)
    values = record[name].sel(order=order).isel(p=index)
    values = values.transpose("seed", "rate", "layer").values.astype(float)
    best = _scores(record, order)[index].argmin(0)
    return values[np.arange(len(best)), best]


def rough(record, network: str, drop=None) -> np.ndarray:
    """log2 of the roughness of training, mean over all learning rates, [S]."""
    values = record["roughness"].sel(network=network).isel(p=place(record, drop))
    return np.log2(values.transpose("rate", "seed").values.astype(float)).mean(0)


def fast_cost(record, order: str, drop=None) -> np.ndarray:
    """Test error [S] at the highest learning rate less that at the best.

    With statistics measured again without dropout, so that the shift of variances has no part.
    """
    arm = f"{order}_recalibrated"
    error = record["test_error"].sel(arm=arm).isel(p=place(record, drop), rate=-1)
    return error.transpose("seed").values.astype(float) - at_drop(
        record, arm, float(record.p.values[place(record, drop)])
    )


def ratio_at(record, order: str, drop=None) -> np.ndarray:
    """log2 of Var_test / Var_train of a trained network, [S, layers]."""
    return np.log2(by_layer(record, "ratio", order, drop))


# -- 3.5a


def order_cost(record):
    """test error at the judged rate of dropping: dropout before batch normalisation minus after"""
    return at_drop(record, "before") - at_drop(record, "after")


def order_cost_at_best(record):
    """the same, each order at its own best rate of dropping"""
    return at_best(record, "before") - at_best(record, "after")


def start_ratio(record):
    """Var_test / Var_train at the first batch normalisation before training, less 0.405: keep 1/2

    Inputs are normal, so that every unit's value before dropout is a rectified normal one.
    """
    halves = record["start_met"].isel(start_layer=0)
    return halves.sel(start_p=0.5).transpose("seed").values - RECTIFIED


def start_deeper(record):
    """the ratio at the last layer as met, over the first's to the power of the number of layers"""
    met = record["start_met"].sel(start_p=0.5).transpose("seed", "start_layer").values
    return np.log2(met[:, -1] / met[:, 0] ** met.shape[1])


def formula_error(record):
    """largest relative error of v / ((c^2 + v) / keep - c^2) over layers and rates, keep = 1 - p"""
    gap = np.abs(record["start_predicted"] / record["start_alone"] - 1)
    return gap.max(("start_p", "start_layer")).values


def shift_spared(record):
    """log2 of Var_test / Var_train of a trained network, mean over layers: after minus before"""
    return (ratio_at(record, "after") - ratio_at(record, "before")).mean(1)


def shift_left(record):
    """largest |log2 of Var_test / Var_train| over the layers of a trained network: dropout after"""
    return np.abs(ratio_at(record, "after")).max(1)


def shift_without(record):
    """the same in the network trained without dropout"""
    return np.abs(ratio_at(record, "after", 0.0)).max(1)


def recalibration_gain(record):
    """test error of dropout before, judged rate: running minus recalibrated statistics"""
    return at_drop(record, "before") - at_drop(record, "before_recalibrated")


def order_cost_of_dropout(record):
    """test error, before minus after: at the judged rate of dropping less without dropout"""
    return order_cost(record) - (at_drop(record, "before", 0.0) - at_drop(record, "after", 0.0))


def cost_left(record):
    """test error with recalibrated statistics, judged rate: dropout before minus after"""
    return at_drop(record, "before_recalibrated") - at_drop(record, "after_recalibrated")


def cost_left_of_dropout(record):
    """the same less what the orders differ by without dropout"""
    orders = ("before_recalibrated", "after_recalibrated")
    without = [at_drop(record, arm, 0.0) for arm in orders]
    return cost_left(record) - (without[0] - without[1])


def _fails_with_sparsity(record, orders) -> np.ndarray:
    pairs = [
        (by_layer(record, "zeros", order, drop).mean(1), fast_cost(record, order, drop))
        for order in orders for drop in record.p.values
    ]  # fmt: skip
    return rank_correlation(*map(np.stack, zip(*pairs, strict=True)))


def fails_with_sparsity(record):
    """rank correlation over orders and rates of dropping: zeros in BN's input and fast_cost"""
    return _fails_with_sparsity(record, ("after", "before"))


def fails_with_sparsity_before(record):
    """the same over the rates of dropping with dropout before batch normalisation alone"""
    return _fails_with_sparsity(record, ("before",))


def fails_more(record):
    """cost of the highest learning rate at the judged rate of dropping: before minus after

    The cost is in test error, against the best learning rate, with recalibrated statistics.
    """
    return fast_cost(record, "before") - fast_cost(record, "after")


def fails_more_without(record):
    """the same where nothing is dropped, and ReLU alone makes the input sparse"""
    return fast_cost(record, "before", 0.0) - fast_cost(record, "after", 0.0)


def rougher(record):
    """log2 of the roughness of the training loss, judged rate: dropout before over after"""
    return rough(record, "before") - rough(record, "after")


def noisier(record):
    """log2 of the fluctuation of batch variances, judged rate, mean of layers: before over after"""
    spread = [np.log2(by_layer(record, "spread", order)).mean(1) for order in ("before", "after")]
    return spread[0] - spread[1]


# -- 3.5b


def lower_best(record):
    """best rate of dropping: without batch normalisation minus with it"""
    return best_drop(record, "none") - best_drop(record, "after")


def interaction(record):
    """what dropout takes off the test error: without batch normalisation minus with it"""
    return gain(record, "none") - gain(record, "after")


def regularises(record):
    """test error without dropout: without batch normalisation minus with it"""
    return at_drop(record, "none", 0.0) - at_drop(record, "after", 0.0)


def fits_less(record):
    """gap of test and training error without dropout: without batch normalisation minus with it"""
    index = place(record, 0.0)

    def gap(name):
        train = record["train_error"].sel(network=name).isel(p=index)
        train = train.transpose("rate", "seed").values.astype(float)
        best = _scores(record, name)[index].argmin(0)
        return at_drop(record, name, 0.0) - train[best, np.arange(len(best))]

    return gap("none") - gap("after")


# -- the claims

_HALF_POINT = "half a percentage point, a tenth of the usual error here"
_POINT = "a percentage point"
_TENTH = "a tenth: less is within the variance's own sampling error"


def _claim(id, sentence, statistic, direction, threshold, reason, **more):
    more = {"kind": "paired", "unit": "", "section": "3 (5)"} | more
    return Claim(
        id=id, sentence=sentence, statistic=statistic, direction=direction, threshold=threshold,
        reason=reason, **more,
    )  # fmt: skip


_ORDERED = "more than half way from no order to perfect order"
_AFTER = "Dropout after batch normalisation has the lower test error"
_FORMULA = "Dropout before batch normalisation lowers the variance by v / ((c^2 + v) / keep - c^2)"
_FAILS = "Training fails sooner at a high learning rate where BN's input is sparse"
_SPARSE = "The sparser the input of batch normalisation, the more a high learning rate costs"
_HARMS = "Dropout before costs more with recalibrated statistics too: it harms training"
_SHIFT = "With dropout after it, no batch normalisation sees its variance shift"

CLAIMS = (
    combine(
        "3.5a",
        "Dropout belongs after batch normalisation, not before: a sparse input leads to "
        "instability",
        (
            _claim(
                "3.5a1", _AFTER, order_cost, "above", 0.005, _HALF_POINT, figure="order",
                arms=("before", "after"), condition="at the same rate of dropping",
                control=_claim(
                    "3.5a1", _AFTER, order_cost_at_best, "above", 0.005, _HALF_POINT,
                    figure="order", arms=("before", "after"),
                    condition="each at its best rate of dropping",
                ),
                trap="one learning rate for both: each has its own",
            ),
            _claim(
                "3.5a2", "Dropout before batch normalisation shifts its variance in a test",
                shift_spared, "above", 0.32, "a quarter more variance kept", unit="octaves",
                figure="variance_ratio", arms=("before", "after"),
            ),
            _claim(
                "3.5a3", _SPARSE, fails_with_sparsity, "above", 0.5, _ORDERED, figure="stability",
                arms=("before_recalibrated", "after_recalibrated"),
                condition="over both orders and all rates of dropping",
                control=_claim(
                    "3.5a3", _SPARSE, fails_with_sparsity_before, "above", 0.5, _ORDERED,
                    figure="stability", arms=("before_recalibrated",),
                    condition="with dropout before, over rates of dropping",
                ),
                trap="the orders differ in more than zeros, and more dropout is more of both: a "
                "correlation, not a cause",
            ),
            _claim(
                "3.5a4", _FAILS, fails_more, "above", 0.01, _POINT, figure="stability",
                arms=("before_recalibrated", "after_recalibrated"), condition="with dropout",
                control=_claim(
                    "3.5a4", _FAILS, fails_more_without, "above", 0.01, _POINT,
                    figure="stability", arms=("before_recalibrated", "after_recalibrated"),
                    condition="without dropout, sparse by ReLU alone",
                ),
                trap="the shift of variances in a test looks like failed training: statistics are "
                "measured again without dropout",
            ),
            _claim(
                "3.5a6", "(added) The cost is of dropout, not of the order alone",
                order_cost_of_dropout, "above", 0.005, _HALF_POINT, figure="drop_rates",
                arms=("before", "after"),
                trap="batch normalisation changes sides of ReLU as well: what the orders differ by "
                "without dropout is taken off",
            ),
            _claim(
                "3.5a5", "The batch statistics of a sparse input fluctuate more", noisier, "above",
                0.14, "a tenth more", unit="octaves", figure="stability", arms=("before", "after"),
            ),
        ),
        section="3 (5)",
    ),
    _claim(
        "3.5c", "For rectified normal inputs at keep 1/2 the variance falls to 0.405",
        start_ratio, "within", 0.01, "a fortieth of the value: sampling error of the variances",
        section="added (Li et al. 2018)", figure="variance_ratio", keep_diverged=True,
        oracle="(pi - 1) / (2 pi - 1) = 0.405; half-normal 0.267",
        trap="a zero bias and normal inputs: elsewhere c and v are others",
    ),
    _claim(
        "3.5d", _FORMULA, formula_error, "below", 0.05,
        "a twentieth: sampling error of the variances", section="added (Li et al. 2018)",
        figure="variance_ratio", keep_diverged=True,
        trap="keep = 1 - p, not p: at p = 1/2 the two agree",
    ),
    _claim(
        "3.5e", "Running statistics pass the shift on: the ratios of the layers multiply",
        start_deeper, "within", 0.14, "a tenth", unit="octaves", section="added",
        figure="variance_ratio", keep_diverged=True,
        oracle="0.405 to the power of the layer, before training",
    ),
    _claim(
        "3.5f", _SHIFT, shift_left, "below", 0.14, _TENTH, unit="octaves", section="added",
        figure="variance_ratio", arms=("after",), condition="with dropout",
        control=_claim(
            "3.5f", _SHIFT, shift_without, "below", 0.14, _TENTH, unit="octaves", section="added",
            figure="variance_ratio", arms=("after",), condition="without dropout",
        ),
        trap="the next layer's batch normalisation stands behind this layer's dropout",
    ),
    _claim(
        "3.5g", "Statistics measured again without dropout take away what dropout before costs",
        recalibration_gain, "above", 0.005, _HALF_POINT, section="added (Li et al. 2018)",
        figure="order", arms=("before", "before_recalibrated"),
    ),
    _claim(
        "3.5h", _HARMS, cost_left, "above", 0.005, _HALF_POINT, section="added", figure="order",
        arms=("before_recalibrated", "after_recalibrated"), condition="in all",
        control=_claim(
            "3.5h", _HARMS, cost_left_of_dropout, "above", 0.005, _HALF_POINT, section="added",
            figure="drop_rates", arms=("before_recalibrated", "after_recalibrated"),
            condition="less what the orders differ by without dropout",
        ),
    ),
    _claim(
        "3.5i", "The training loss is rougher from step to step with dropout before batch "
        "normalisation", rougher, "above", 0.14, "a tenth", unit="octaves", section="added",
        figure="stability", arms=("before", "after"),
        trap="relative to the loss: one that stays high looks smooth",
    ),
    combine(
        "3.5b",
        "With batch normalisation a lower dropout rate is best, and dropout matters less",
        (
            _claim(
                "3.5b1", "The best rate of dropping is lower with batch normalisation", lower_best,
                "above", 0.05, "more than half of the grid's smallest step", figure="best_rate",
                arms=("none", "after"),
                trap="one learning rate for all: each rate of dropping has its own",
            ),
            _claim(
                "3.5b2", "Dropout takes less off the test error with batch normalisation",
                interaction, "above", 0.005, _HALF_POINT, figure="best_rate",
                arms=("none", "after"),
                trap="a network that trains too short gains less: see what the last quarter of the "
                "epochs still takes off its loss",
            ),
            _claim(
                "3.5b3", "Without dropout, batch normalisation alone has the lower test error",
                regularises, "above", 0.005, _HALF_POINT, figure="drop_rates",
                arms=("none", "after"),
            ),
            _claim(
                "3.5b4", "Without dropout, batch normalisation alone narrows the gap to the "
                "training error", fits_less, "above", 0.005, _HALF_POINT, figure="drop_rates",
                arms=("none", "after"),
            ),
        ),
        section="3 (5)",
    ),
)  # fmt: skip
