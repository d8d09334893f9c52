"""The record of `adaptive`: rows of the stages in, one labelled data set out."""

import json

import numpy as np

from experiments import adaptive_conformance as conformance
from experiments import adaptive_networks as networks
from experiments import adaptive_problems as problems
from experiments import adaptive_scaling as scales

# Arms beside the optimizers at their best rates and the spaces of random search.
PROBLEM_ARMS = {
    "steps": "steps under a constant gradient",
    "counterexamples": "those of Reddi et al. and of Wilson et al.",
    "tracking": "a moving minimum",
    "oscillation": "descent on quadratics, at the best rates",
    "conformance": "every algorithm against its formula",
    "scaling": "a network with its loss or one input scaled",
}

# name: (dimensions, unit, long name)
VARIABLES = {
    "step_size": (("step_arm", "seed", "step"), "rates", "size of a step under a gradient of "
                  "constant magnitude"),
    "step_slope": (("step_arm", "seed"), "1", "slope of log step size over log step"),
    "gradient_size": (("seed",), "1", "magnitude of that gradient; Optax's AdaGrad has its own"),
    "reddi_x": (("reddi_arm", "seed", "reddi_step"), "1", "x after a step; the optimum is -1"),
    "reddi_end": (("reddi_arm", "seed"), "1", "x after the last step"),
    "wilson_accuracy": (("wilson_arm", "seed"), "1", "share of new examples classified rightly"),
    "wilson_train_accuracy": (("wilson_arm", "seed"), "1", "the same of the training examples"),
    "wilson_residual": (("wilson_arm", "seed"), "1", "root mean squared residual in training"),
    "base_rate": (("seed",), "1", "share of positive labels among the new examples"),
    "tune_track_error": (("world", "tracker", "seed", "track_rate", "part"), "1",
                         "squared distance from the moving minimum, per coordinate; to tune on"),
    "track_error": (("world", "tracker", "seed", "track_rate", "part"), "1",
                    "squared distance from the moving minimum, per coordinate"),
    "track_gain": (("world", "tracker", "seed", "track_rate", "part"), "1",
                   "size of the step over that of the gradient, root mean squares"),
    "swing_time": (("problem", "swinger", "seed", "swing_rate"), "steps",
                   "until the distance to the minimum stays below the target; nan: it does not"),
    "swing_reversals": (("problem", "swinger", "seed", "swing_rate"), "1",
                        "share of the steps until then that point against the one before"),
    "swing_amplitude": (("problem", "swinger", "seed", "swing_rate"), "starts",
                        "largest |coordinate| over its start once beyond the minimum, until then"),
    "swing_largest": (("problem", "swinger", "seed", "swing_rate"), "starts",
                      "the same over all steps"),
    "conformance": (("algorithm", "schedule", "seed"), "1",
                    "largest distance from the formula in 100 steps, relative above 1"),
    "optax_gap": (("algorithm", "schedule", "seed"), "1",
                  "largest distance of Optax's default from the formula over the path's extent"),
    "loss_change": (("scaling_arm", "seed", "loss_scale"), "1",
                    "largest relative change of the loss curve when the loss is scaled"),
    "scaled_curve": (("feature_arm", "seed", "loss_scale", "scale_step"), "nats",
                     "loss over its scale"),
    "feature_change": (("feature_arm", "seed", "feature_scale", "moment"), "1",
                       "change of the scaled feature's weights, as they act on the unscaled one"),
    "feature_gap": (("feature_arm", "seed", "feature_scale"), "1",
                    "largest relative distance of the loss curves: scaled feature, scaled rate"),
    "early_loss": (("optimizer", "seed", "rate", "early_step"), "nats",
                   "loss of the batch, first run"),
    "early_peak": (("optimizer", "seed", "rate"), "1",
                   "largest of the early losses over the first"),
    "tune_loss": (("optimizer", "seed", "rate"), "nats", "tuning loss at the end"),
    "test_loss": (("optimizer", "seed", "rate"), "nats", "test loss at the end"),
    "tune_error": (("optimizer", "seed", "rate"), "1", "tuning error at the end"),
    "test_error": (("optimizer", "seed", "rate"), "1", "test error at the end"),
    "diverged_at": (("optimizer", "seed", "rate"), "step",
                    "first batch whose loss is not finite or ten times the first; -1: none"),
    "search_tune_error": (("space", "seed", "trial"), "1", "tuning error at the end of a trial"),
    "search_test_error": (("space", "seed", "trial"), "1", "test error at the end of a trial"),
    "search_diverged_at": (("space", "seed", "trial"), "step", "as diverged_at"),
    "hyperparameter": (("name", "seed", "trial"), "1", "what a trial has drawn, in every space"),
    "place": (("name", "space", "seed"), "1",
              "where the best trial lies in the range, 0 to 1, logarithmic; nan: not searched"),
}  # fmt: skip

# Hyperparameters that a space searches.
SEARCHED = {
    "sgd": ("rate",),
    "momentum": ("rate", "slow"),
    "adam": ("rate", "slow", "slower", "delta"),
    "adam_fixed": ("rate", "slow", "slower"),
}


def assemble(config, seeds, rows):
    """The record.

    Args:
      config: the experiment's `Config`.
      seeds: labels of the seeds, S of them.
      rows: by stage, as `adaptive_runs` makes them: values [S, ...]; a list for "rates" (by
        optimizer) and "search" (by family).

    Returns:
      `xarray.Dataset`.
    """
    import xarray

    found = _by_seed(rows) | _networks(rows)
    low, high = _limits(config)
    trials = found["hyperparameter"]
    best = np.stack([found["search_tune_error"][i].argmin(1) for i in range(len(SEARCHED))])
    at_best = np.take_along_axis(trials[:, None], best[None, ..., None], 3)[..., 0]
    place = np.log(at_best / low[:, None, None]) / np.log(high / low)[:, None, None]
    named = np.array([
        [name in SEARCHED[space] for space in networks.SPACES] for name in networks.Trial._fields
    ])  # fmt: skip
    found["place"] = np.where(named[..., None], place, np.nan)
    variables = {
        name: (dims, np.asarray(found[name]), {"units": unit, "long_name": words})
        for name, (dims, unit, words) in VARIABLES.items()
    }
    arms, steps = diverged(config, found)
    variables["diverged_step"] = (
        ("arm", "seed"), steps,
        {"units": "step", "long_name": "first step without a finite result; -1: none"},
    )  # fmt: skip
    coords = {
        "arm": arms,
        "seed": seeds,
        "step_arm": list(problems.STEP_ARMS),
        "step": problems.moments(config.steps),
        "reddi_arm": list(problems.REDDI_ARMS),
        "reddi_step": problems.moments(config.reddi_steps),
        "wilson_arm": list(problems.WILSON_ARMS),
        "world": list(problems.WORLDS),
        "tracker": list(problems.TRACKERS),
        "track_rate": config.track_rates,
        "part": (np.arange(problems.BINS) + 0.5) * (config.track_steps // problems.BINS),
        "problem": list(problems.PROBLEMS),
        "swinger": list(problems.SWINGERS),
        "swing_rate": np.arange(len(config.descent_rates)),
        "descent_rate": ("swing_rate", config.descent_rates),
        "rmsprop_rate": ("swing_rate", config.rmsprop_rates),
        "algorithm": list(conformance.ALGORITHMS),
        "schedule": list(conformance.SCHEDULES),
        "scaling_arm": list(scales.SCALING_ARMS),
        "feature_arm": list(scales.FEATURE_ARMS),
        "loss_scale": list(config.loss_scales),
        "feature_scale": list(config.feature_scales),
        "scale_step": np.arange(config.scale_steps + 1),
        "moment": ["first", "last"],
        "optimizer": list(config.optimizers),
        "rate": config.rate_grid,
        "early_step": np.arange(config.early_steps),
        "space": list(networks.SPACES),
        "trial": np.arange(config.trials),
        "name": list(networks.Trial._fields),
    }
    attributes = {
        "data": "digits",
        "problem_arms": json.dumps(PROBLEM_ARMS),
        "algorithms": json.dumps(conformance.ALGORITHMS),
        "rates_per_decade": config.rates_per_decade,
        "small_gradient": config.small_gradient,
        "rho": config.rho,
        "condition_number": config.condition,
        "target": config.target,
        "calm": config.calm,
        "reddi_hidden": config.reddi_hidden,
    }
    return xarray.Dataset(variables, coords, attributes)


def _by_seed(rows) -> dict:
    """Variables of the problems, with the seed where the record has it."""
    counter, scaling, swings = rows["counterexamples"], rows["scaling"], rows["oscillation"]
    tracking = rows["tracking"]
    values = {
        **rows["steps"], **counter, **rows["conformance"], **scaling,
        "tune_track_error": tracking["tune_error"], "track_error": tracking["test_error"],
        "track_gain": tracking["test_gain"], "scaled_curve": scaling["curves"],
        **{f"swing_{name}": found for name, found in swings.items()},
    }  # fmt: skip
    return {
        name: np.moveaxis(values[name], 0, VARIABLES[name][0].index("seed"))
        for name in VARIABLES
        if name in values
    }


def _networks(rows) -> dict:
    """Variables of the networks: optimizers, spaces and hyperparameters first, then seeds."""
    names = (
        "early_loss",
        "early_peak",
        "tune_loss",
        "test_loss",
        "tune_error",
        "test_error",
        "diverged_at",
    )
    found = {name: np.stack([row[name] for row in rows["rates"]]) for name in names}
    for name in ("tune_error", "test_error", "diverged_at"):
        both = np.concatenate([row[name] for row in rows["search"]], 1)
        found[f"search_{name}"] = np.moveaxis(both, 0, 1)
    found["hyperparameter"] = np.stack([rows["search"][0][n] for n in networks.Trial._fields])
    return found


def _limits(config) -> np.ndarray:
    """Lower and upper ends of the ranges, [2, hyperparameters]."""
    return np.array([
        config.search_rate, config.search_slow, config.search_slower, config.search_delta
    ]).T  # fmt: skip


def diverged(config, found) -> tuple[list[str], np.ndarray]:
    """Arms, and int32[arms, S]: where an arm of a seed stopped being finite, at its best rate."""
    seeds = len(found["base_rate"])
    good = {name: np.ones(seeds, bool) for name in PROBLEM_ARMS}
    good["counterexamples"] = np.isfinite(found["reddi_end"]).all(0)
    good["conformance"] = np.isfinite(found["conformance"]).all((0, 1))
    good["scaling"] = np.isfinite(found["feature_gap"]).all((0, 2))
    steps = {name: np.where(fine, -1, 0) for name, fine in good.items()}
    at = found["tune_error"].argmin(2)
    for i, name in enumerate(config.optimizers):
        steps[name] = found["diverged_at"][i, np.arange(seeds), at[i]]
    at = found["search_tune_error"].argmin(2)
    for i, space in enumerate(networks.SPACES):
        steps[f"search_{space}"] = found["search_diverged_at"][i, np.arange(seeds), at[i]]
    return list(steps), np.stack(list(steps.values())).astype(np.int32)
