"""The record of `constraints`: names, units and axes for what the runs measured."""

import json

import numpy as np

BY_STEP = ("loss", "column_norm", "free_column_norm")  # of each run, in a row
DIVERGED = 10.0  # times the loss before training: from there on a run has diverged

PER_RUN = {  # at the end of training
    "train_loss": ("nat", "training loss"),
    "train_error": ("1", "share of training images misclassified"),
    "tune_loss": ("nat", "tuning loss"),
    "tune_error": ("1", "share of tuning images misclassified"),
    "test_loss": ("nat", "test loss"),
    "test_error": ("1", "share of test images misclassified"),
    "dead": ("1", "share of hidden units with |w_in| |w_out| below 0.001"),
    "inactive": ("1", "share of hidden units that are off at every training image"),
}


def joined(rows: list[dict], steps: int) -> dict[str, np.ndarray]:
    """The blocks of one phase as one: by step [S, C, steps], the rest as after the last block."""
    found = dict(rows[-1])
    # Blocks are filled up to one length with NaN: only the last may be shorter.
    for name in BY_STEP:
        found[name] = np.concatenate([row[name] for row in rows], 2)[:, :, :steps]
    return found


def diverged_at(loss: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The first step [S, C] whose batch had a loss that is not finite or far above the start's.

    -1: there is none. `loss` [S, C, T] and `start` [S, C].
    """
    bad = ~(loss <= DIVERGED * start[..., None])
    return np.where(bad.any(2), bad.argmax(2), -1)


def ends(found: dict) -> dict[str, np.ndarray]:
    """What `PER_RUN` names, [S, C]; NaN where the parameters are lost."""
    lost = ~np.isfinite(found["train_loss"])
    values = {
        name: found[name].mean(2) if name in ("dead", "inactive") else found[name]
        for name in PER_RUN
    }
    return {name: np.where(lost, np.nan, v).astype(np.float32) for name, v in values.items()}


def assemble(config, seeds, arms, rates: dict, paths: dict, lifted: dict):
    """The record.

    Args:
      config: the settings.
      seeds: indices of the seeds.
      arms: conditions by name.
      rates: what `joined` gives of the runs at every rate, arms before rates.
      paths: of no penalty and the path of penalties, then no bound and the path of radii.
      lifted: the same runs after as many epochs without either.

    Returns:
      `xarray.Dataset` over arm, multiplier, seed, epoch and step, and penalty and radius for the
      paths, whose first entry is without.
    """
    import xarray

    shape = len(seeds), len(arms), len(config.multipliers)
    per_run = ("arm", "multiplier", "seed")
    fold = lambda v: np.moveaxis(v.reshape(*shape, *v.shape[2:]), 0, 2)  # noqa: E731
    about = lambda unit, words: {"units": unit, "long_name": words}  # noqa: E731
    variables = {}
    for name, values in ends(rates).items():
        variables[name] = per_run, fold(values), about(*PER_RUN[name])
    steps = rates["loss"].shape[2]
    by_epoch = rates["loss"].reshape(*rates["loss"].shape[:2], config.epochs, -1).mean(3)
    when = diverged_at(rates["loss"], rates["start_loss"])
    # The end may be lost in the last step, which no batch has seen.
    when = np.where((when < 0) & ~np.isfinite(rates["train_loss"]), steps, when)
    words = "largest norm of any unit's incoming weights"
    variables |= {
        "start_loss": (per_run, fold(rates["start_loss"]),
                       about("nat", "training loss before training")),
        "diverged_at": (
            per_run, fold(when).astype(np.int32),
            about("1", "first step with a loss not finite or above ten times the start's"),
        ),
        "minibatch_loss": ((*per_run, "epoch"), fold(by_epoch),
                           about("nat", "mean loss of an epoch's batches, each before its step")),
        "column_norm": ((*per_run, "step"), fold(rates["column_norm"]),
                        about("1", f"{words}, after the step")),
        "free_column_norm": ((*per_run, "step"), fold(rates["free_column_norm"]),
                             about("1", f"{words}, after the step and before projecting")),
    }  # fmt: skip
    split = 1 + len(config.path_penalties)
    for path, dim, part in (
        ("penalty", "penalty", slice(split)), ("projection", "radius", slice(split, None))
    ):  # fmt: skip
        for name, values in ends(paths).items():
            unit, long = PER_RUN[name]
            variables[f"{path}_{name}"] = (dim, "seed"), values[:, part].T, about(unit, long)
        both = (paths["dead"] & lifted["dead"]).mean(2)
        for name, values, long in (
            ("lifted_dead", lifted["dead"].mean(2), "share of units without weight"),
            ("still_dead", both, "share of units without weight both before and then"),
            ("lifted_train_error", lifted["train_error"], "training error"),
        ):
            words = f"{long}, after as many epochs without penalty and bound"
            values = values[:, part].T.astype(np.float32)
            variables[f"{path}_{name}"] = (dim, "seed"), values, about("1", words)
    variables["column_bound"] = (
        ("arm",), np.array([arm.column for arm in arms.values()]),
        about("1", "bound on the norm of a column; infinite: none"),
    )  # fmt: skip
    # Dims as bare names are taken for one another's by NumPy's iteration over strings.
    variables = {
        k: ((d,) if isinstance(d, str) else d, *rest) for k, (d, *rest) in variables.items()
    }
    coords = {
        "arm": list(arms),
        "multiplier": list(config.multipliers),
        "seed": seeds,
        "epoch": np.arange(1, config.epochs + 1),
        "step": np.arange(1, steps + 1),
        "penalty": [0.0, *config.path_penalties],
        "radius": [np.inf, *config.path_radii],
    }
    attributes = {
        "data": config.data,
        "rate": config.rate,
        "path_rate": config.path_rate,
        "middle_radius": config.middle_radius,
        "match_error": config.match_error,
        "match_margin": config.match_margin,
        "hidden_units": sum(config.widths),
        "widths": json.dumps(list(config.widths)),
    }
    record = xarray.Dataset(variables, coords, attributes)
    return record.assign(diverged_step=at_best_rate(record))


def at_best_rate(record):
    """Step [arm, seed] at which the run at the arm's best rate diverged: -1, unless all did."""
    from experiments import constraints_claims as claims

    found = np.stack([
        claims.at_best(record, "diverged_at", arm, otherwise=0) for arm in record.arm.values
    ])  # fmt: skip
    words = "step at which the run at the arm's best rate diverged; -1: it did not"
    return ("arm", "seed"), found.astype(np.int32), {"units": "1", "long_name": words}
