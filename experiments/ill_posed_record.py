"""The record of `ill_posed`: rows of the stages in, one labelled data set out."""

import json

import numpy as np

from experiments import ill_posed_problems as problems

# What can fail to be finite on its own. Arms of the record; claims name them.
ARMS = {
    "flow": "gradient flow of logistic regression without a penalty",
    "flow_decay": "the same with a penalty",
    "gradient_descent": "least squares by gradient descent from zero",
    "other_start": "least squares by gradient descent from another start",
    "weight_decay": "least squares by gradient descent with weight decay, from zero",
    "weight_decay_other": "least squares by gradient descent with weight decay, from another start",
    "adam": "least squares by Adam from zero",
    "dual": "stabilised inverse as X' (XX' + ridge I)^-1",
    "primal": "stabilised inverse as (X'X + ridge I)^-1 X'",
    "whitening": "PCA whitening",
}

NEWTON = 1e-9  # of a Newton step that was to be the last: the integrator has failed beyond it

# name: (dimensions, unit, long name)
VARIABLES = {
    "norm": (("penalty", "seed", "log_time"), "|w| of the gradient flow, bias included"),
    "newton": (("penalty", "seed"), "largest last Newton step over |w|, of all steps of the flow"),
    "descent_norm": (("seed", "descent_step"), "|w| of gradient descent without a penalty"),
    "margin": (("seed",), "hard margin with the bias as a feature, by least-distance programming"),
    "distance": (("solver", "seed", "step"),
                 "distance from the minimum-norm solution over its norm"),
    "residual": (("solver", "seed", "step"), "|Xw - y| over |y|"),
    "from_ridge": (("solver", "seed"),
                   "distance of the end from (X'X + ridge I)^-1 X'y over its norm"),
    "unseen": (("solver", "seed"),
               "part of the end that X maps to zero, over the norm of the shortest solution"),
    "between_starts": (("decayed", "seed"),
                       "distance between the ends from two starts, over the norm of the shortest"),
    "inverse_error": (("form", "seed", "ridge"),
                      "spectral norm of the pseudoinverse minus the stabilised inverse; nan: not "
                      "to be inverted"),
    "smallest": (("seed",), "smallest singular value of X"),
    "train_variance": (("seed", "stabiliser"), "largest variance of whitened training samples"),
    "new_variance": (("seed", "stabiliser"), "largest variance of whitened new samples"),
    "condition": (("seed", "stabiliser"), "condition number of the whitening matrix"),
    "without_root": (("seed", "stabiliser"),
                     "directions whose computed variance is not positive, left out"),
    "largest_new": (("seed",), "largest variance of new samples in any direction"),
}  # fmt: skip


def stabilisers(config) -> np.ndarray:
    """Of whitening: none, the ridges of the inverse, and the one that the claims are about."""
    return np.unique([0.0, *config.ridges, config.stabiliser])


def assemble(config, seeds, rows):
    """The record.

    Args:
      config: the experiment's `Config`.
      seeds: labels of the seeds, S of them.
      rows: by stage, as `ill_posed_runs` makes them: a list of blocks for "flow", else one row.

    Returns:
      `xarray.Dataset` in float64.
    """
    import xarray

    from experiments.ill_posed_runs import SOLVERS, moments

    solutions, algebra = rows["solutions"], rows["algebra"]
    blocks = {name: np.concatenate([row[name] for row in rows["flow"]], 2)
              for name in ("norm", "newton")}  # fmt: skip
    swap = lambda values: np.swapaxes(values, 0, 1)  # noqa: E731
    found = {
        "norm": swap(blocks["norm"]),
        "newton": swap(blocks["newton"].max(2)),
        **rows["descent"],
        **{name: swap(values) for name, values in solutions.items()},
        "inverse_error": np.stack([algebra[form] for form in problems.FORMS]),
        **{name: values for name, values in algebra.items() if name not in problems.FORMS},
    }
    variables = {
        name: (dims, np.asarray(found[name], float), {"units": "1", "long_name": words})
        for name, (dims, words) in VARIABLES.items()
    }
    variables["diverged_step"] = (
        ("arm", "seed"), diverged(found),
        {"units": "1", "long_name": "0 where the arm has no finite result; -1: it has one"},
    )  # fmt: skip
    coords = {
        "arm": list(ARMS),
        "seed": seeds,
        "penalty": [0.0, *config.penalties],
        "log_time": ("log_time", config.log_times.ravel(), {"units": "1", "long_name": "ln t"}),
        "descent_step": moments(config.descent_steps),
        "solver": list(SOLVERS),
        "step": moments(config.steps),
        "decayed": [0, 1],
        "form": list(problems.FORMS),
        "ridge": config.ridges,
        "stabiliser": stabilisers(config),
    }
    attributes = {
        "data": "normal draws, other ones for every seed",
        "arms": json.dumps(ARMS),
        "rate": config.learning_rate,
        "rows": config.rows,
        "columns": config.columns,
        "ridge_of_solvers": config.ridge,
        "main_stabiliser": config.stabiliser,
    }
    return xarray.Dataset(variables, coords, attributes)


def diverged(found) -> np.ndarray:
    """int32[arms, S]: 0 where an arm of a seed has no finite result, else -1."""
    from experiments.ill_posed_runs import SOLVERS

    # A flow whose equations were not solved is no flow.
    flows = np.isfinite(found["norm"]).all(2) & (found["newton"] < NEWTON)
    good = {"flow": flows[0], "flow_decay": flows[1:].all(0)}
    good |= {name: np.isfinite(found["distance"][i, :, -1]) for i, name in enumerate(SOLVERS)}
    good |= {form: np.isfinite(found["inverse_error"][i]).any(1)
             for i, form in enumerate(problems.FORMS)}  # fmt: skip
    good["whitening"] = np.isfinite(found["new_variance"]).all(1)
    return np.stack([np.where(good[arm], -1, 0).astype(np.int32) for arm in ARMS])
