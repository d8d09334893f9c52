"""The claims of `adaptive` (problem 2, questions 3 and 4, and the book's algorithms 8.1 to 8.7).

Statistics are in `adaptive_statistics` and `adaptive_problem_statistics`. Thresholds are the
smallest effects worth having, fixed with their reasons before the first run.
"""

import numpy as np

from dlstudy.claims import Claim, combine
from experiments import adaptive_problem_statistics as on
from experiments import adaptive_statistics as of
from experiments.adaptive_conformance import ALGORITHMS

_ALGEBRA = "1e-9: rounding of float64, as it grows over the steps"
_TENTH = "a tenth"
_HALF_POINT = "half a point: three of 598 test images"
_POINT = "one point: six of 598 test images"
_QUARTER = "a quarter of a decade: one rate of the grid"


def _claim(id, sentence, statistic, direction, threshold, reason, *, against=None, **more):
    """A claim; `against`: statistic and condition of the same claim as a control."""
    more = {"kind": "paired", "unit": "", "section": "2 (3)"} | more
    shared = dict(
        id=id, sentence=sentence, direction=direction, threshold=threshold, reason=reason,
        **{name: more[name] for name in ("kind", "unit", "section", "figure", "arms")},
    )  # fmt: skip
    if against:
        control, condition = against
        more["control"] = Claim(**shared, statistic=control, condition=condition)
    return Claim(**shared | more, statistic=statistic)


def _exact(id, sentence, statistic, threshold, reason=_ALGEBRA, **more):
    return _claim(id, sentence, statistic, "within", threshold, reason, kind="exact", **more)


_SCALED = {"figure": "scaling", "arms": ("scaling",)}
_STEPS = {"figure": "first_steps", "arms": ("steps",)}
_ADAMS = {"figure": "peaks", "arms": ("adam", "adam_uncorrected")}
_SEARCH = {"figure": "search", "unit": "of 1"}
_FIRST = "The first step is as long as the rate"

_ADAPTS = combine(
    "2.3a",
    "Adam adapts the rate per parameter",
    (
        _exact(
            "2.3a1", "Scaling the loss leaves Adam's curve as it is", of.adam_loss_change, 1e-9,
            oracle="no change for delta = 0 (exact)", **_SCALED,
        ),
        _claim(
            "2.3a2", "So it does, nearly, with the default delta", of.adam_delta_change, "below",
            0.01, "a hundredth of the loss: delta 1e-8 is small beside any gradient that matters",
            **_SCALED,
        ),
        _claim(
            "2.3a3", "It changes the curve of plain descent", of.sgd_loss_change, "above", 0.1,
            "a tenth of the loss", trap="at scales above 1 descent may diverge: those up to 1 only",
            **_SCALED,
        ),
        _exact(
            "2.3a4", "The rate of plain descent scales with the loss", of.sgd_matched_change, 1e-9,
            oracle="the rate divided by the scale undoes it (exact)", **_SCALED,
        ),
        _exact(
            "2.3a5", "Scaling an input by c multiplies the rate of its weights by c under Adam",
            of.adam_feature_gap, 1e-9, oracle="the same curve (exact)", **_SCALED,
        ),
        _exact(
            "2.3a6", "Under plain descent by c^2", of.sgd_feature_gap, 1e-9,
            oracle="the same curve (exact)", **_SCALED,
        ),
        _exact(
            "2.3a7", "The first change of what the input does grows with c under Adam",
            of.adam_exponent, 1e-9, oracle="exponent 1 (exact)", **_SCALED,
        ),
        _exact(
            "2.3a8", "Under plain descent with c^2", of.sgd_exponent, 1e-9,
            oracle="exponent 2 (exact)", **_SCALED,
        ),
        _claim(
            "2.3a9", "After training the exponents still differ by about one", of.exponents_apart,
            "above", 0.5, "half of the difference in the first step", **_SCALED,
        ),
    ),
)  # fmt: skip

_BIAS = combine(
    "2.3b",
    "Bias correction stabilises the first steps",
    (
        _exact(
            "2.3b1", _FIRST, of.first_step_corrected, 1e-9, reading="book",
            oracle="1 rate, with bias correction (exact)",
            other_reading=Claim(
                id="2.3b1", sentence=_FIRST, kind="exact", statistic=of.first_step_uncorrected,
                direction="within", threshold=1e-9, reason=_ALGEBRA, unit="", section="2 (3)",
                reading="source",
                oracle="(1 - 0.9) / sqrt(1 - 0.999) = 3.162 rates by equations 5 and 6 as they "
                "stand (exact)", **_STEPS,
            ), **_STEPS,
        ),
        _exact(
            "2.3b2", "Without correction it is 3.162 times as long", of.first_excess, 1e-9,
            oracle="(1 - 0.9) / sqrt(1 - 0.999) for gradients far above delta (exact)",
            trap="Optax's Adam has no switch for the correction", **_STEPS,
        ),
        _exact(
            "2.3b3", "Under a constant gradient the excess peaks at 6.57", of.highest_excess, 5e-5,
            "half of the last digit of 6.5685", oracle="max of (1 - 0.9^t) / sqrt(1 - 0.999^t)",
            **_STEPS,
        ),
        _exact(
            "2.3b4", "It peaks in step 12", of.step_of_excess, 0.0, "a step is a whole number",
            **_STEPS,
        ),
        _claim(
            "2.3b5", "On a network the loss peaks higher in the first steps without correction",
            of.peak_excess, "above", float(np.log10(1.1)), "a tenth of the first loss",
            unit="decades", condition="at the highest rate Adam can use",
            against=(of.peak_excess_own, "each at the highest rate it can use"),
            trap="without it the first thousand steps are longer: a lower rate does as well",
            **_ADAMS,
        ),
        _claim(
            "2.3b6", "Correction lets higher rates be used", of.usable_rate_gain, "above", 0.125,
            "half of a step of the grid of rates, of the default preset", unit="decades",
            figure="rates", arms=("adam", "adam_uncorrected"),
        ),
    ),
)  # fmt: skip

_ROBUST = combine(
    "2.3c",
    "Adam is more robust to its hyperparameters than momentum",
    (
        _claim(
            "2.3c1", "Its rates within 10% of the best error span more decades than momentum's",
            of.wider_than_momentum, "above", 0.25, _QUARTER, unit="decades",
            condition="of each one's best error",
            against=(of.wider_at_one_error, "of the better one's best error"),
            trap="a wide interval about a worse error; the grid's edge cuts it off: no number then",
            figure="rates", arms=("adam", "momentum"),
        ),
        _claim(
            "2.3c2", "More than plain descent's", of.wider_than_sgd, "above", 0.25, _QUARTER,
            unit="decades", figure="rates", arms=("adam", "sgd"),
        ),
        _claim(
            "2.3c3", f"The best of {of.FEW} random trials has a lower error under Adam",
            of.few_trials, "below", -0.01, _POINT, condition="with delta fixed",
            against=(of.few_trials_delta, "with delta searched"),
            trap="ranges decide what few trials find: rates at full speed have one range for all",
            arms=("search_adam_fixed", "search_momentum"), **_SEARCH,
        ),
        _claim(
            "2.3c4", "The best of all trials is no worse under Adam than under momentum",
            of.all_trials_delta, "below", 0.005, _HALF_POINT, condition="with delta searched",
            against=(of.all_trials, "with delta fixed"),
            oracle="Adam >= momentum >= SGD as trials grow (Choi et al. 2019)",
            trap="delta fixed; an optimum at the range's edge: no number then",
            arms=("search_adam", "search_momentum"), **_SEARCH,
        ),
        _claim(
            "2.3c5", "Nor under momentum than under plain descent", of.momentum_over_sgd, "below",
            0.005, _HALF_POINT, arms=("search_momentum", "search_sgd"), **_SEARCH,
        ),
    ),
)  # fmt: skip

_COUNTER = {"section": "added", "arms": ("counterexamples",)}
_WRONG_END = "On Reddi's losses Adam ends at +1, the worst point"
_BASE = "On it AdaGrad, RMSProp and Adam call everything positive"

_FAILS = combine(
    "2.3d",
    "(added) Adam is not always better",
    (
        _exact(
            "2.3d1", _WRONG_END, on.reddi_adam, 0.02, "a few of the last steps, 0.005 each",
            condition="with rho2 = 1 / (1 + C^2)",
            against=(on.reddi_hidden, "with rho2 one half"), figure="reddi",
            oracle="Adam ends near +1, the optimum is -1 (Reddi et al. 2018)",
            trap="rho2 of a half or more hides it", **_COUNTER,
        ),
        _exact(
            "2.3d2", "AMSGrad ends at the optimum, -1", on.reddi_amsgrad, 0.02,
            "a few of the last steps, 0.005 each", figure="reddi",
            trap="AMSGrad as published has no bias correction", **_COUNTER,
        ),
        _claim(
            "2.3d3", "On Wilson's data the minimum-norm solution is always right",
            on.wilson_shortest, "above", 1.0, "always", kind="exact", figure="wilson",
            oracle="accuracy 1.00 (Wilson et al. 2017)", **_COUNTER,
        ),
        _exact(
            "2.3d4", _BASE, on.wilson_adaptive, 1e-9, "the share of positives, to rounding",
            condition="with sums from 0", against=(on.wilson_hidden, "with Optax's AdaGrad"),
            oracle="the weights are proportional to sign(X'y) (exact)", figure="wilson",
            trap="Optax's AdaGrad starts its sum at 0.1, which hides it", **_COUNTER,
        ),
    ),
)  # fmt: skip

_BOOK = {"section": "book 8.4, 8.5"}
_PACE = {"figure": "pace", "arms": ("steps",)} | _BOOK
_TRACK = {"figure": "tracking", "arms": ("tracking",)} | _BOOK
_SLOPE = "AdaGrad's step falls with the root of time"
_EARLY, _WHOLE = "with rates chosen on the first quarter", "with rates chosen on the whole way"

_SHRINKS = combine(
    "2.4b",
    "AdaGrad's rate shrinks without end; RMSProp's does not",
    (
        _exact(
            "2.4b1", _SLOPE, on.adagrad_slope, 1e-9, condition="with its sum from 0",
            against=(on.optax_slope, "with Optax's sum from 0.1, at a gradient of 0.001"),
            oracle="slope -1/2 for accumulator and delta 0 (exact)",
            trap="Optax's AdaGrad starts its sum at 0.1: the slope is -0.01", **_PACE,
        ),
        _exact(
            "2.4b2", "RMSProp's first step is rate / sqrt(1 - rho), 3.16 rates", on.rmsprop_first,
            1e-9, oracle="exact for gradients far above sqrt(delta)", **_PACE,
        ),
        _exact(
            "2.4b3", "It tends to the rate", on.rmsprop_last, 1e-9, oracle="the rate (exact)",
            **_PACE,
        ),
        _claim(
            "2.4b4", "Behind a drifting minimum too AdaGrad's effective rate shrinks",
            on.adagrad_gain, "below", -0.4, "most of the slope of -1/2", **_TRACK,
        ),
        _claim(
            "2.4b5", "RMSProp's does not", on.rmsprop_gain, "within", 0.1, "a fifth of -1/2",
            **_TRACK,
        ),
        _claim(
            "2.4b6", "AdaGrad falls behind a drifting minimum", on.drift_early, "above",
            float(np.log10(1.1)), "a tenth of the distance", unit="decades", condition=_EARLY,
            against=(on.drift_whole, _WHOLE),
            trap="a rate tuned for one length of the way makes up for the shrinking", **_TRACK,
        ),
        _claim(
            "2.4b7", "It falls behind once gradients have become small", on.calm_early, "above",
            float(np.log10(1.1)), "a tenth of the distance", unit="decades", condition=_EARLY,
            against=(on.calm_whole, _WHOLE),
            trap="plain descent falls behind too, as its steps shrink with the gradients", **_TRACK,
        ),
    ),
    section="2 (4)",
)  # fmt: skip

_SWING = {"figure": "oscillation", "arms": ("oscillation",), "section": "2 (4)"}
_AS_FAST, _OWN = "at equal progress: the slower one at its fastest", "each at its fastest rate"
_TURN = "a twentieth of the steps"
_LESS = "RMSProp's largest swing is smaller"
_FEWER = "RMSProp turns back less often than plain descent"

_CALMS = combine(
    "2.4c",
    "RMSProp prevents extreme oscillation",
    (
        _claim(
            "2.4c1", f"{_FEWER}, curvatures along the coordinates", on.reversals_axis, "above",
            0.05, _TURN, condition=_AS_FAST, against=(on.reversals_axis_best, _OWN), **_SWING,
        ),
        _claim(
            "2.4c2", f"{_LESS}, curvatures along the coordinates", on.swings_axis, "below",
            -float(np.log10(1.5)), "half as large again", unit="decades", condition=_AS_FAST,
            against=(on.swings_axis_best, _OWN), **_SWING,
        ),
        _claim(
            "2.4c3", f"{_FEWER} where curvatures are rotated", on.reversals_rotated, "above", 0.05,
            _TURN, trap="alone along the axes does one rate per coordinate help", **_SWING,
        ),
        _claim(
            "2.4c4", f"{_LESS} where curvatures are rotated", on.swings_rotated, "below",
            -float(np.log10(1.5)), "half as large again", unit="decades", **_SWING,
        ),
        _claim(
            "2.4c5", f"{_FEWER} where curvatures wander", on.reversals_moving, "above", 0.05, _TURN,
            condition=_AS_FAST, against=(on.reversals_moving_best, _OWN), **_SWING,
        ),
        _claim(
            "2.4c6", f"{_LESS} where curvatures wander", on.swings_moving, "below",
            -float(np.log10(1.5)), "half as large again", unit="decades", condition=_AS_FAST,
            against=(on.swings_moving_best, _OWN), **_SWING,
        ),
        _claim(
            "2.4c7", "At four times the best rate plain descent swings far more than RMSProp",
            on.too_high_axis, "above", 1.0, "ten times", unit="decades",
            condition="with curvatures along the coordinates",
            against=(on.too_high_rotated, "in a random rotation"), **_SWING,
        ),
    ),
    section="2 (4)",
)  # fmt: skip

_CONFORMS = combine(
    "2.5",
    "Each book algorithm 8.1-8.7 is implemented as the book states it",
    tuple(
        _claim(
            f"2.5{letter}", f"{name} is that of {where}",
            on.conformance_of(name), "below", 1e-12, "rounding of float64 over 100 steps",
            kind="exact", oracle="the formula in NumPy, step by step (exact)",
            trap="accumulators, delta inside or outside the root, Nesterov's point, schedules",
            figure="conformance", arms=("conformance",), section="book 8.3 to 8.5",
        )
        for letter, (name, where) in zip("abcdefghij", ALGORITHMS.items(), strict=True)
    ),
    section="book 8.3 to 8.5",
)  # fmt: skip

CLAIMS = (_ADAPTS, _BIAS, _ROBUST, _FAILS, _SHRINKS, _CALMS, _CONFORMS)
