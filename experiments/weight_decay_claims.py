"""The claims of `weight_decay` (problem 1.1): a statistic of the record and a threshold for each.

Thresholds are fixed with their reasons before the first run. What is tuned is tuned for each seed,
by the loss on the tuning split: the stopped run's rate and epoch; the penalised run's rate and
penalty, at the last epoch.
"""

from typing import NamedTuple

import numpy as np

from dlstudy.claims import Claim, combine
from experiments import weight_decay_linear as linear

# -- parts of statistics


def largest_distance(record, optimizer, factor="book"):
    """Largest distance [S] of penalty and decay over the steps; NaN once not finite."""
    return record["distance"].sel(optimizer=optimizer, factor=factor).max("step", skipna=False)


def least_distance(record, optimizer):
    """Largest distance over the steps [S] at the penalty where it is least."""
    return record["match_distance"].sel(optimizer=optimizer).min("match").values


def largest_gap(record, case="gd"):
    """Largest difference [S] of the shrinkages over all times and directions."""
    found = record[["descent_shrinkage", "ridge_shrinkage"]].sel(case=case)
    gap = np.abs(found["descent_shrinkage"] - found["ridge_shrinkage"])
    return gap.max(("time", "direction"), skipna=False).values


def risk_ratio(record, case="gd", what="risk"):
    """Largest ratio [S] of descent's risk (or loss, of the one draw) to ridge's over the times."""
    ratio = record[f"descent_{what}"].sel(case=case) / record[f"ridge_{what}"].sel(case=case)
    return ratio.max("time", skipna=False).values


class Choice(NamedTuple):
    """Positions [S] in `rate`, `penalty` (0 is none) and `epoch` of a record."""

    rate: np.ndarray
    penalty: np.ndarray
    epoch: np.ndarray

    def of(self, record, name) -> np.ndarray:
        """Values [S] of a variable there."""
        values = record[name].transpose("seed", "rate", "penalty", "epoch").values
        return values[np.arange(len(values)), self.rate, self.penalty, self.epoch].astype(float)


def choose(record, penalties=slice(None), epochs=slice(None), rates=None) -> Choice:
    """The least tuning loss of each seed over parts of the axes; rates [S]: at these rates only."""
    values = record["tune_loss"].transpose("seed", "rate", "penalty", "epoch").values
    allowed = np.zeros(values.shape, bool)
    allowed[:, :, penalties, epochs] = True
    if rates is not None:
        allowed &= np.arange(values.shape[1])[None, :, None, None] == rates[:, None, None, None]
    values = np.where(allowed & np.isfinite(values), values, np.inf)
    return Choice(*np.unravel_index(values.reshape(len(values), -1).argmin(1), values.shape[1:]))


def stopped(record) -> Choice:
    """The best moment of the runs without a penalty."""
    return choose(record, slice(0, 1))


def penalised(record) -> Choice:
    """The best penalty, at the end."""
    return choose(record, slice(1, None), slice(-1, None))


def neither(record) -> Choice:
    """The best rate without a penalty, at the end."""
    return choose(record, slice(0, 1), slice(-1, None))


def decayed(record) -> Choice:
    """The best penalty at the end, at the stopped run's rate: what it is paired with."""
    return choose(record, slice(1, None), slice(-1, None), stopped(record).rate)


def norms(record, choice: Choice) -> np.ndarray:
    """Norms [S, epochs after the first] of the run chosen, whatever the epoch chosen."""
    values = record["norm"].transpose("seed", "rate", "penalty", "epoch").values
    return values[np.arange(len(values)), choice.rate, choice.penalty, 1:].astype(float)


# -- 1.1a


def distance_of_descent(record):
    """largest distance of penalty and decay over all steps, over the weights' norm; descent"""
    return largest_distance(record, "sgd").values


def distance_of_momentum(record):
    """largest distance of penalty and decay over all steps, over the weights' norm; momentum"""
    return largest_distance(record, "momentum").values


def source_excess(record):
    """what a step with the penalty lambda |w|^2 takes off the weights / (rate x lambda), minus 1"""
    return record["shrinkage"].sel(optimizer="sgd", factor="source").values - 1


def book_excess(record):
    """what a step with lambda / 2 |w|^2 takes off the weights / (rate x lambda), minus 1"""
    return record["shrinkage"].sel(optimizer="sgd", factor="book").values - 1


def end_distance(record, path="matched"):
    """distance of the end points, penalty (1 - beta) lambda and decay lambda, over their norm"""
    ends = record["plane_end"].sel(optimizer="momentum")
    decoupled = ends.sel(path="decoupled").values
    away = np.linalg.norm(ends.sel(path=path).values - decoupled, axis=1)
    return away / np.linalg.norm(decoupled, axis=1)


def end_distance_unmatched(record):
    """distance of the end points, penalty lambda and decay lambda, over their norm"""
    return end_distance(record, "coupled")


def adam_distance(record):
    """largest distance of penalty and decay over all steps, at the best penalty searched; Adam"""
    return least_distance(record, "adam")


# -- 1.1b


def shrinkage_gap(record):
    """largest difference of the shrinkages of descent and ridge, over times and directions"""
    return largest_gap(record)


def shrinkage_gap_no_half(record):
    """the same, descent on the mean squared error without its factor of a half"""
    return largest_gap(record, "no_half")


def expected_risk(record):
    """largest ratio of the expected risks of descent and ridge, over times"""
    return risk_ratio(record)


def expected_risk_start(record):
    """the same, descent from a random point instead of zero"""
    return risk_ratio(record, "start")


def acting_penalty(record, case="gd"):
    """penalty of the nearest ridge over 1 / (rate x steps), median over times, in octaves"""
    return record["nearest"].sel(case=case).median("time", skipna=False).values


def acting_penalty_momentum(record):
    """penalty of the nearest ridge over 1 / (rate x steps), median over times; momentum"""
    return acting_penalty(record, "momentum")


def error_difference(record):
    """test error of the stopped run minus that of the penalised one, both tuned"""
    return stopped(record).of(record, "test_error") - penalised(record).of(record, "test_error")


def error_difference_neither(record):
    """test error at the end without a penalty minus that of the penalised run, both tuned"""
    return neither(record).of(record, "test_error") - penalised(record).of(record, "test_error")


# -- 1.1d


def share_below(record):
    """share of the epochs after which the decayed run's weights have the smaller norm"""
    without, with_penalty = norms(record, stopped(record)), norms(record, decayed(record))
    share = (with_penalty < without).mean(1)
    return np.where(np.isfinite(without).all(1) & np.isfinite(with_penalty).all(1), share, np.nan)


def norm_at_stop(record):
    """norm of the stopped run minus that of the undecayed one in the epoch it stopped"""
    choice = stopped(record)
    undecayed = record["norm"].sel(penalty=0.0).transpose("seed", "rate", "epoch").values
    same = undecayed[np.arange(len(undecayed)), choice.rate, choice.epoch].astype(float)
    return choice.of(record, "norm") - same


# -- the claims

_ROUNDING = "1e-9: rounding of float64, as it grows over the steps"
_POINTS = "two points: about the standard error of a share of one in ten among 180 images"


def _claim(id, sentence, statistic, direction, threshold, reason, *, against=None, **more):
    """A claim; `against`: statistic, condition and arms of the same claim as a control."""
    more = {"kind": "paired", "unit": "", "section": "1 (1)"} | more
    about = {"id": id, "sentence": sentence, "direction": direction, "threshold": threshold,
             "reason": reason}  # fmt: skip
    if against:
        other, condition, arms = against
        own = {name: more[name] for name in ("kind", "unit", "section", "figure")}
        more["control"] = Claim(**about, **own, statistic=other, condition=condition, arms=arms)
    return Claim(**about, **more, statistic=statistic)


_FACTOR = "Each step multiplies the weights by 1 - rate x lambda"

CLAIMS = (
    combine(
        "1.1a",
        "With an L2 penalty lambda, every step of gradient descent multiplies the weights by "
        "1 - rate x lambda: weight decay",
        (
            _claim(
                "1.1a1",
                "Penalty and decay give the same weights throughout",
                distance_of_descent,
                "within",
                1e-9,
                _ROUNDING,
                kind="exact",
                against=(distance_of_momentum, "with momentum", ("momentum",)),
                condition="under plain descent",
                arms=("sgd",),
                oracle="plain descent: identical",
                trap="optax.adamw multiplies its decay by the rate; the decay here is rate x "
                "lambda",
                figure="distances",
            ),
            _claim(
                "1.1a2",
                _FACTOR,
                source_excess,
                "within",
                1e-9,
                _ROUNDING,
                kind="exact",
                unit="of rate x lambda",
                arms=("sgd",),
                reading="source",
                oracle="lambda |w|^2: 1, as its factor is 1 - 2 x rate x lambda; "
                "lambda / 2 |w|^2: 0",
                figure="trajectories",
                other_reading=_claim(
                    "1.1a2",
                    _FACTOR,
                    book_excess,
                    "within",
                    1e-9,
                    _ROUNDING,
                    kind="exact",
                    unit="of rate x lambda",
                    arms=("sgd",),
                    reading="book",
                    figure="trajectories",
                ),
            ),
            _claim(
                "1.1a3",
                "With momentum beta, decay lambda ends where a penalty does",
                end_distance,
                "within",
                1e-9,
                _ROUNDING,
                kind="exact",
                against=(end_distance_unmatched, "with penalty lambda", ("momentum",)),
                condition="with penalty (1 - beta) x lambda",
                arms=("momentum",),
                oracle="the minimum of the quadratic with the penalty (1 - beta) x lambda",
                figure="plane",
            ),
            _claim(
                "1.1a4",
                "Under Adam no penalty follows the decay",
                adam_distance,
                "above",
                0.01,
                "1% of the weights: far beyond rounding",
                arms=("adam",),
                trap="a grid too coarse for the best penalty: it is searched a second time, finely",
                oracle="not equivalent for any penalty (Loshchilov & Hutter 2019)",
                figure="distances",
            ),
        ),
        section="1 (1)",
    ),
    combine(
        "1.1b",
        "Early stopping acts like L2",
        (
            _claim(
                "1.1b1",
                "It shrinks every direction nearly as ridge with 1 / (rate x steps)",
                shrinkage_gap,
                "below",
                0.2047,
                f"the bound at steps of 0.01 / largest eigenvalue; {linear.GAP} in the limit",
                kind="exact",
                against=(shrinkage_gap_no_half, "with the factor of a half dropped", ("linear",)),
                condition="with half the mean squared error",
                arms=("linear",),
                oracle=f"at most {linear.GAP}, reached at eigenvalue / penalty = {linear.GAP_AT}, "
                "in the limit of small steps (Ali, Kolter & Tibshirani 2019)",
                trap="factor of a half, mean for sum, a start that is not zero, momentum: each is "
                "a case of its own in the figure",
                figure="shrinkage",
            ),
            _claim(
                "1.1b2",
                "Its risk is at most 1.69 times that of this ridge",
                expected_risk,
                "below",
                1.6921,
                f"the bound at steps of 0.01 / largest eigenvalue; {linear.RISK} in the limit",
                kind="exact",
                against=(expected_risk_start, "from a random start", ("linear",)),
                condition="from zero",
                arms=("linear",),
                oracle="at most 1.69 in the limit of small steps (Ali, Kolter & Tibshirani 2019)",
                trap="the bound is on the expected risk: single draws of the noise can exceed it",
                figure="risk",
            ),
            _claim(
                "1.1b3",
                "The nearest ridge has the penalty 1 / (rate x steps)",
                acting_penalty,
                "within",
                1.0,
                "a factor of two",
                unit="octaves",
                against=(acting_penalty_momentum, "with momentum", ("linear",)),
                condition="without momentum",
                arms=("linear",),
                oracle="1 / (rate x steps) for small eigenvalues (Goodfellow et al. 2016, 7.45)",
                trap="momentum beta makes a step worth 1 / (1 - beta) of them",
                figure="acting_penalty",
            ),
            _claim(
                "1.1b4",
                "On a network it ends at the test error of the best penalty",
                error_difference,
                "within",
                0.02,
                _POINTS,
                against=(error_difference_neither, "without stopping", ("stopping", "penalty")),
                condition="with early stopping",
                arms=("stopping", "penalty"),
                trap="both tuned on the tuning split; where there is nothing to gain anything is "
                "equivalent: see the run without stopping",
                figure="paths",
            ),
        ),
        section="1 (1)",
    ),
    combine(
        "1.1d",
        "L2 shrinks the weights throughout training, early stopping only chooses the moment",
        (
            _claim(
                "1.1d1",
                "The decayed run has the smaller weights throughout",
                share_below,
                "above",
                0.9,
                "nine epochs in ten",
                unit="of the epochs",
                arms=("stopping", "penalty"),
                trap="another rate is another run: both have the stopped run's",
                figure="norms",
            ),
            _claim(
                "1.1d2",
                "The stopped run has the undecayed run's weights when it stops",
                norm_at_stop,
                "within",
                0.0,
                "an identity, true by construction",
                kind="exact",
                arms=("stopping",),
                oracle="0: it is that run up to there",
                figure="norms",
            ),
        ),
        section="1 (1)",
    ),
)
