"""The record of `weight_decay`: rows of the stages in, one labelled data set out."""

import json

import numpy as np

from experiments import weight_decay_linear as linear

OPTIMIZERS = ("sgd", "momentum", "adam")
# Coupled penalties over the decoupled decay, in words; see `weight_decay_runs.base_factors`. The
# gradient of lambda |w|^2 is that of twice lambda |w|^2 / 2.
FACTORS = ("none", "book", "source", "matched")
PATHS = ("none", "coupled", "matched", "decoupled")
PLANE_SHOWN = 400  # steps of the paths in the plane

# name: (dimensions after the seed, unit, long name).
VARIABLES = {
    "decoupled_norm": (("optimizer", "step"), "1", "l2 norm of the weights, decoupled decay"),
    "coupled_norm": (("optimizer", "step", "factor"), "1", "l2 norm of the weights, penalty"),
    "distance": (("optimizer", "step", "factor"), "1",
                 "distance of the two runs' weights over their norm"),
    "shrinkage": (("optimizer", "factor"), "1",
                  "what a step takes off the weights beside the loss's gradient, over rate x decay "
                  "(of use for sgd only)"),
    "match_factor": (("optimizer", "match"), "1", "penalty over decay, of the search"),
    "match_distance": (("optimizer", "match"), "1", "largest distance of the two runs, at it"),
    "plane_path": (("optimizer", "path", "plane_step", "axis"), "1", "weights in the plane"),
    "plane_end": (("optimizer", "path", "axis"), "1", "weights in the plane at the end"),
    "plane_hessian": (("axis", "other_axis"), "1", "Hessian of the quadratic in the plane"),
    "plane_minimum": (("axis",), "1", "its minimum"),
    "plane_ridge": (("axis",), "1", "its minimum with the penalty (1 - beta) x decay"),
    "progress": (("case", "time"), "1", "rate x steps x largest eigenvalue"),
    "ratio": (("case", "time", "direction"), "1", "eigenvalue over ridge's penalty"),
    "descent_shrinkage": (("case", "time", "direction"), "1",
                          "weights of descent over those of least squares, along an eigenvector"),
    "ridge_shrinkage": (("case", "time", "direction"), "1", "the same of ridge"),
    "descent_risk": (("case", "time"), "1", "expected excess squared error of descent"),
    "ridge_risk": (("case", "time"), "1", "expected excess squared error of ridge"),
    "descent_loss": (("case", "time"), "1", "excess squared error of descent, this draw"),
    "ridge_loss": (("case", "time"), "1", "excess squared error of ridge, this draw"),
    "nearest": (("case", "time"), "octaves", "nearest ridge's penalty over 1 / (rate x steps)"),
    "norm": (("rate", "penalty", "epoch"), "1", "l2 norm of all parameters"),
    "train_loss": (("rate", "penalty", "epoch"), "nat", "mean loss on the training images"),
    "tune_loss": (("rate", "penalty", "epoch"), "nat", "mean loss on the tuning images"),
    "test_loss": (("rate", "penalty", "epoch"), "nat", "mean loss on the test images"),
    "train_error": (("rate", "penalty", "epoch"), "1", "share of training images misclassified"),
    "tune_error": (("rate", "penalty", "epoch"), "1", "share of tuning images misclassified"),
    "test_error": (("rate", "penalty", "epoch"), "1", "share of test images misclassified"),
}  # fmt: skip


def epochs_of(config, unit: int) -> int:
    """Epochs of a row that count; the others fill it up."""
    return min(config.block, config.epochs - (unit - 1) * config.block) if unit else 1


def assemble(config, seeds, rows):
    """The record of all parts.

    Args:
      config: the experiment's `Config`.
      seeds: labels of the seeds, S of them.
      rows: of each stage by name, as `weight_decay_runs` makes them.

    Returns:
      `xarray.Dataset` over `seed` and the dimensions in `VARIABLES`. `penalty` 0 is no penalty;
      `epoch` 0 is before training.
    """
    import xarray

    found = _trajectories(rows["trajectories"])
    found |= rows["plane"][0] | rows["linear"][0]
    found |= {
        name: np.concatenate(
            [row[name][..., : epochs_of(config, i)] for i, row in enumerate(rows["network"])], -1
        )
        for name in rows["network"][0]
    }
    variables = {
        name: (("seed", *dims), np.asarray(found[name]), {"units": unit, "long_name": words})
        for name, (dims, unit, words) in VARIABLES.items()
    }
    diverged = _diverged(found, config)
    variables["diverged_step"] = (
        ("arm", "seed"),
        np.stack(list(diverged.values())),
        {"units": "1", "long_name": "step after which an arm was not finite; -1: none"},
    )
    coords = {
        "seed": seeds,
        "arm": list(diverged),
        "optimizer": list(OPTIMIZERS),
        "factor": list(FACTORS),
        "path": list(PATHS),
        "step": np.arange(1, config.steps + 1),
        "case": [case.name for case in linear.CASES],
        "steps_done": ("time", linear.times(config.linear_steps)),
        "rate": list(config.rates),
        "penalty": [0.0, *config.penalties],
        "strength": ("penalty", [0.0, *config.strengths], {
            "units": "1", "long_name": "the penalty as a multiple of |w|^2 / 2"}),
        "epoch": np.arange(config.epochs + 1),
    }  # fmt: skip
    attributes = {
        "data": "digits",
        "reading": config.reading,
        "decay": config.decay,
        "momentum": config.momentum,
        "label_noise": config.label_noise,
        "train_images": config.train_size,
        "steps_per_epoch": config.train_size // config.batch_size,
        "cases": json.dumps({case.name: case.words for case in linear.CASES}),
    }
    return xarray.Dataset(variables, coords, attributes)


def _trajectories(rows) -> dict[str, np.ndarray]:
    """Two rows for each optimizer, the wide search and the fine one: [S, optimizer, ...]."""
    stacked = {
        name: np.stack([row[name] for row in rows[::2]], 1)
        for name in ("decoupled_norm", "coupled_norm", "distance", "shrinkage")
    }
    for name, key in (("match_factor", "factor"), ("match_distance", "largest_distance")):
        both = [np.concatenate([wide[key], fine[key][:, len(FACTORS):]], 1)
                for wide, fine in zip(rows[::2], rows[1::2], strict=True)]  # fmt: skip
        stacked[name] = np.stack(both, 1)
    return stacked


def _diverged(found, config) -> dict[str, np.ndarray]:
    """By arm, the step after which each seed is not finite, or -1. An arm that is tuned diverges
    where all that it chooses from does."""
    arms = {}
    for i, name in enumerate(OPTIMIZERS):
        finite = np.isfinite(found["distance"][:, i]).all(2)
        arms[name] = _first_bad(finite)
    finite = np.isfinite(found["descent_loss"]).all((1, 2))
    arms["linear"] = np.where(finite, -1, 1)
    finite = np.isfinite(found["train_loss"]) & np.isfinite(found["norm"])
    per_epoch = config.train_size // config.batch_size
    for name, chosen in (("stopping", slice(0, 1)), ("penalty", slice(1, None))):
        first = _first_bad(finite[:, :, chosen].any((1, 2)))
        arms[name] = np.where(first < 0, -1, (first - 1) * per_epoch)
    return arms


def _first_bad(finite: np.ndarray) -> np.ndarray:
    """Position (from 1) of the first False of each row [S, T]; -1: none."""
    return np.where(finite.all(1), -1, 1 + finite.argmin(1))
