"""Statistics of `adaptive` on problems with known answers: record -> number per seed."""

import numpy as np

from experiments.adaptive_statistics import first_step, take, values

STEEPER = 4.0  # times the best rate, on the quadratics
LATE = slice(20, None)  # parts of the way in which tracking is judged, of 40
FIRST_QUARTER = slice(0, 10)
WHOLE = slice(0, None)


# -- 2.3d: counter-examples


def _reddi_end(record, arm, optimum):
    return values(record, "reddi_end", reddi_arm=arm) - optimum


def reddi_adam(record):
    """where Adam ends, minus 1"""
    return _reddi_end(record, "adam", 1)


def reddi_hidden(record):
    """where Adam with the larger rho2 ends, minus 1"""
    return _reddi_end(record, "adam_large_rho", 1)


def reddi_amsgrad(record):
    """where AMSGrad ends, plus 1"""
    return _reddi_end(record, "amsgrad", -1)


def wilson_accuracy(record, arm):
    """Accuracy on new examples, [S]; NaN where the training examples are not all right."""
    fitted = values(record, "wilson_train_accuracy", wilson_arm=arm) == 1
    return np.where(fitted, values(record, "wilson_accuracy", wilson_arm=arm), np.nan)


def wilson_shortest(record):
    """accuracy on new examples, lower of the minimum-norm solution's and gradient descent's"""
    return np.minimum(*(wilson_accuracy(record, a) for a in ("minimum_norm", "gradient_descent")))


def wilson_adaptive(record):
    """accuracy on new examples minus the share of positives, farthest: AdaGrad, RMSProp, Adam"""
    base = values(record, "base_rate")
    gaps = [np.abs(wilson_accuracy(record, a) - base) for a in ("adagrad", "rmsprop", "adam")]
    return np.max(gaps, axis=0)


def wilson_hidden(record):
    """accuracy on new examples minus the share of positives: Optax's AdaGrad"""
    return np.abs(wilson_accuracy(record, "adagrad_optax") - values(record, "base_rate"))


# -- 2.4b: shrinking steps


def adagrad_slope(record):
    """slope of log step over log t under a constant magnitude, plus 1/2; AdaGrad, sum from 0"""
    return values(record, "step_slope", step_arm="adagrad") + 0.5


def optax_slope(record):
    """the same of Optax's AdaGrad, whose sum starts at 0.1, at a gradient of 0.001"""
    return values(record, "step_slope", step_arm="adagrad_optax") + 0.5


def rmsprop_first(record):
    """first step of RMSProp over its rate / sqrt(1 - rho), minus 1"""
    return first_step(record, "rmsprop") * np.sqrt(1 - record.attrs["rho"]) - 1


def rmsprop_last(record):
    """last step of RMSProp over its rate, minus 1"""
    return values(record, "step_size", step_arm="rmsprop")[:, -1] - 1


def tracked(record, world, tracker, name, choose_by) -> np.ndarray:
    """A variable at the rate with the least error on the tuning walk, [S, parts]; NaN at an edge.

    Args:
      record: of the run.
      world: "drift" or "calm".
      tracker: the optimizer.
      name: "track_error" or "track_gain".
      choose_by: the parts of the tuning walk by which the rate is chosen.
    """
    tune = values(record, "tune_track_error", world=world, tracker=tracker)
    mean = tune[..., choose_by].mean(2)
    index = np.where(np.isfinite(mean), mean, np.inf).argmin(1)
    index = np.where((index == 0) | (index == mean.shape[1] - 1), -1, index)
    found = values(record, name, world=world, tracker=tracker)
    return np.where(
        (index < 0)[:, None], np.nan, found[np.arange(len(found)), np.maximum(index, 0)]
    )


def gain_slope(record, tracker):
    """Slope of log gain over log time along the drifting minimum, rate chosen early, [S]."""
    gain = np.log(tracked(record, "drift", tracker, "track_gain", FIRST_QUARTER))
    logs = np.log(record["part"].values)
    logs = logs - logs.mean()
    return gain @ logs / (logs @ logs)


def adagrad_gain(record):
    """slope of log (step / gradient) over log t, following a drifting minimum; AdaGrad"""
    return gain_slope(record, "adagrad")


def rmsprop_gain(record):
    """slope of log (step / gradient) over log t, following a drifting minimum; RMSProp"""
    return gain_slope(record, "rmsprop")


def tracking_loss(record, world, choose_by):
    late = [
        np.sqrt(tracked(record, world, tracker, "track_error", choose_by)[:, LATE].mean(1))
        for tracker in ("adagrad", "rmsprop")
    ]
    return np.log10(late[0] / late[1])


def drift_early(record):
    """log10 of the late distance from a drifting minimum, AdaGrad over RMSProp; early rates"""
    return tracking_loss(record, "drift", FIRST_QUARTER)


def drift_whole(record):
    """the same with both rates chosen by the whole way"""
    return tracking_loss(record, "drift", WHOLE)


def calm_early(record):
    """log10 of that distance once gradients have shrunk, AdaGrad over RMSProp; early rates"""
    return tracking_loss(record, "calm", FIRST_QUARTER)


def calm_whole(record):
    """the same with both rates chosen by the whole way"""
    return tracking_loss(record, "calm", WHOLE)


# -- 2.4c: oscillation


def fastest(record, problem, swinger) -> np.ndarray:
    """Index of the rate that is first at the target, [S]; -1: none is, or it lies at an edge."""
    time = values(record, "swing_time", problem=problem, swinger=swinger)
    index = np.where(np.isfinite(time), time, np.inf).argmin(1)
    bad = ~np.isfinite(time).any(1) | (index == 0) | (index == time.shape[1] - 1)
    return np.where(bad, -1, index)


def as_fast(record, problem, swinger) -> np.ndarray:
    """Index of the lowest rate with which this one is no later than the slower of both, [S].

    The slower has its fastest rate, and the other one that makes as much progress. -1: there is
    none, or it lies at an edge of the grid.
    """
    limit = np.max([
        take(values(record, "swing_time", problem=problem, swinger=name),
             fastest(record, problem, name)) for name in ("sgd", "rmsprop")
    ], 0)  # fmt: skip
    time = values(record, "swing_time", problem=problem, swinger=swinger)
    soon = np.where(np.isfinite(time), time, np.inf) <= limit[:, None]
    index = soon.argmax(1)
    return np.where(soon.any(1) & (index > 0) & (index < time.shape[1] - 1), index, -1)


def swings(record, problem, name, equal=True) -> tuple[np.ndarray, np.ndarray]:
    """(descent's, RMSProp's), both equally fast, or each at its fastest rate."""
    rate_of = as_fast if equal else fastest
    return tuple(
        take(values(record, f"swing_{name}", problem=problem, swinger=swinger),
             rate_of(record, problem, swinger)) for swinger in ("sgd", "rmsprop")
    )  # fmt: skip


def _fewer_reversals(record, problem, equal=True):
    descent, adaptive = swings(record, problem, "reversals", equal)
    return descent - adaptive


def _smaller_swings(record, problem, equal=True):
    """log10 of RMSProp's amplitude over descent's; none counts as a thousandth of the start."""
    descent, adaptive = (np.maximum(a, 1e-3) for a in swings(record, problem, "amplitude", equal))
    return np.log10(adaptive / descent)


def reversals_axis(record):
    """share of reversed steps, descent minus RMSProp, equally fast; along the coordinates"""
    return _fewer_reversals(record, "axis")


def reversals_rotated(record):
    """the same in a random rotation"""
    return _fewer_reversals(record, "rotated")


def reversals_moving(record):
    """the same with curvatures along the coordinates that wander"""
    return _fewer_reversals(record, "moving")


def reversals_moving_best(record):
    """share of reversed steps, descent minus RMSProp, each at its fastest; wandering curvatures"""
    return _fewer_reversals(record, "moving", equal=False)


def reversals_axis_best(record):
    """share of reversed steps, descent minus RMSProp, each at its fastest; along the coordinates"""
    return _fewer_reversals(record, "axis", equal=False)


def swings_axis(record):
    """log10 of the amplitude, RMSProp over descent, equally fast; along the coordinates"""
    return _smaller_swings(record, "axis")


def swings_rotated(record):
    """the same in a random rotation"""
    return _smaller_swings(record, "rotated")


def swings_axis_best(record):
    """log10 of the amplitude, RMSProp over descent, each at its fastest; along the coordinates"""
    return _smaller_swings(record, "axis", equal=False)


def swings_moving(record):
    """log10 of the amplitude, RMSProp as fast over descent; wandering curvatures"""
    return _smaller_swings(record, "moving")


def swings_moving_best(record):
    """log10 of the amplitude, RMSProp over descent, each at its fastest; wandering curvatures"""
    return _smaller_swings(record, "moving", equal=False)


def too_high(record, problem):
    """log10 of the largest amplitude at four times each one's best rate: descent over RMSProp."""
    further = round(4 * np.log2(STEEPER))  # the grid is in quarter octaves
    found = []
    for swinger in ("sgd", "rmsprop"):
        rows = values(record, "swing_largest", problem=problem, swinger=swinger)
        index = fastest(record, problem, swinger)
        index = np.where((index < 0) | (index + further >= rows.shape[1]), -1, index + further)
        found.append(np.maximum(take(rows, index), 1e-3))
    return np.log10(found[0] / found[1])


def too_high_axis(record):
    """log10 of the largest amplitude at four times the best rate, descent over RMSProp; aligned"""
    return too_high(record, "axis")


def too_high_rotated(record):
    """the same in a random rotation"""
    return too_high(record, "rotated")


# -- 2.5: conformance


def conformance_of(name):
    """Statistic: largest distance of an algorithm from its formula, over both schedules."""

    def statistic(record):
        return values(record, "conformance", algorithm=name).max(1)

    statistic.__name__ = statistic.__qualname__ = f"conformance_{name}"
    statistic.__doc__ = f"largest distance of {name} from its formula in 100 steps, two schedules"
    return statistic
