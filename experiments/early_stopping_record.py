"""The record of `early_stopping`: rows of the stages in, one labelled data set out."""

import json
from typing import NamedTuple

import numpy as np

# name: (unit, long name), float32.
MEASURED = {
    "norm": ("1", "l2 norm of all parameters"),
    "train_loss": ("nat", "cross-entropy on the data trained on"),
    "train_error": ("1", "share of the data trained on that is misclassified"),
    "valid_loss": ("nat", "cross-entropy on the validation set"),
    "valid_error": ("1", "share of the validation set that is misclassified"),
    "tune_loss": ("nat", "cross-entropy on the tuning split"),
    "tune_error": ("1", "share of the tuning split that is misclassified"),
    "test_loss": ("nat", "cross-entropy on the test images, true labels"),
    "test_error": ("1", "share of the test images that are misclassified, true labels"),
    "noisy_test_error": ("1", "the same with labels as wrong as in training"),
    "peek_loss": ("nat", "cross-entropy on as many test images as there are for validation"),
    "peek_error": ("1", "share of these that are misclassified"),
    "fresh_error": ("1", "share of the other test images that are misclassified"),
}
TRAJECTORIES = ("stopped", "decayed", "neither")
ARMS = (
    *TRAJECTORIES, "retrain_steps", "retrain_epochs", "continue_last", "continue_best",
)  # fmt: skip
WORDS = {
    "stopped": "stopped (7.1)",
    "decayed": "decayed (L2)",
    "neither": "neither",
    "retrain_steps": "7.2, i* in steps",
    "retrain_epochs": "7.2, i* in passes",
    "continue_last": "7.3, from the stop",
    "continue_best": "7.3, from the best",
}


class Choice(NamedTuple):
    """What the tuning split chose for each seed of an arm, [S] each."""

    rate: np.ndarray  # float32
    penalty: np.ndarray  # float32
    at: tuple[np.ndarray, np.ndarray]  # int, places in the grid


def evaluations_of(config, unit: int) -> int:
    """Evaluations of a row of the grid that count; the others fill it up."""
    return min(config.block, config.cap - (unit - 1) * config.block) if unit else 1


def choose(config, curves) -> dict[str, Choice]:
    """Learning rate and penalty of each arm, each seed for itself.

    The least error on the tuning split decides, ties the least loss: of "neither" and "decayed" at
    the end of training, of "stopped" where algorithm 7.1 with the main patience stops.
    """
    end = np.full(curves["tune_error"].shape[:3], config.cap)
    stop = stops(curves[f"valid_{config.criterion}"], config)
    return {
        "stopped": _choice(config, curves, stop, slice(0, 1)),
        "decayed": _choice(config, curves, end, slice(1, None)),
        "neither": _choice(config, curves, end, slice(0, 1)),
    }


def stops(curves, config) -> np.ndarray:
    """Best evaluation by algorithm 7.1, int[...], on curves [..., cap + 1]; 0: before training."""
    import jax
    import jax.numpy as jnp

    from dlstudy.early_stopping import replay

    flat = jnp.asarray(curves[..., 1:].reshape(-1, config.cap))
    found = jax.jit(jax.vmap(lambda errors: replay(errors, 1, config.patience).best))(flat)
    return np.asarray(found).reshape(curves.shape[:-1])


def _choice(config, curves, at, penalties) -> Choice:
    """The best of all rates and of some penalties; `at`: evaluation [rates, penalties, S]."""
    error, loss = (
        np.nan_to_num(
            np.take_along_axis(curves[name], at[..., None], 3)[:, penalties, :, 0], nan=np.inf
        )
        for name in ("tune_error", "tune_loss")
    )
    shape, seeds = error.shape[:2], error.shape[2]
    order = np.lexsort((loss.reshape(-1, seeds), error.reshape(-1, seeds)), axis=0)
    rate, penalty = np.unravel_index(order[0], shape)
    penalty = penalty + (penalties.start or 0)
    return Choice(
        np.asarray(config.rates, np.float32)[rate],
        np.asarray(config.penalties, np.float32)[penalty],
        (rate, penalty),
    )


def assemble(config, seeds, curves, chosen, stop, retrained, continued):
    """The record of all arms.

    Args:
      config: the experiment's `Config`.
      seeds: labels of the seeds, S of them.
      curves: of the grid, [rates, penalties, S, cap + 1].
      chosen: by arm, see `choose`.
      stop: rows [S, ...] of algorithm 7.1.
      retrained: rows [2, S, P] of 7.2, in steps and in passes.
      continued: rows [2, S, P, ...] of 7.3, from the last and the best parameters.

    Returns:
      `xarray.Dataset` over `arm`, `trajectory`, `patience`, `seed`, `step` (of an evaluation),
      `rate`, `penalty`, `start` (of 7.3) and `further_step`.
    """
    import xarray

    every = config.every
    total = config.cap * every
    arange = np.arange(len(seeds))
    shape = len(seeds), len(config.waits)
    paths = {
        arm: {name: curves[name][(*choice.at, arange)] for name in MEASURED}
        for arm, choice in chosen.items()
    }
    # 7.1 is a program of its own, whose start is that of the grid.
    paths["stopped"] = {
        name: np.concatenate([values[:, :1], stop[f"curve_{name}"]], 1)
        for name, values in paths["stopped"].items()
    }
    own = stop["evaluations"] * every
    results = {"stopped": stop | {"steps": own, "further_steps": np.zeros_like(own)}}
    for arm in ("decayed", "neither"):
        ends = {n: np.broadcast_to(v[:, -1:], shape) for n, v in paths[arm].items()}
        results[arm] = ends | {"steps": np.full(shape, total), "further_steps": np.zeros(shape)}
    for rows, names in ((retrained, ARMS[3:5]), (continued, ARMS[5:])):
        for i, arm in enumerate(names):
            row = {name: values[i] for name, values in rows.items()}
            results[arm] = row | {"steps": own + row["further_steps"]}

    def variable(dims, values, unit, words, dtype=np.float32):
        return dims, np.asarray(values, dtype), {"units": unit, "long_name": words}

    by_arm = ("arm", "seed", "patience")
    steps = {
        "steps": ("1", "steps spent, those of 7.1 included; without those of the tuning"),
        "further_steps": ("1", "of these, steps after those of 7.1"),
    }
    variables = {
        name: variable(by_arm, np.stack([results[arm][name] for arm in ARMS]), *text)
        for name, text in (MEASURED | steps).items()
    }
    for name, (unit, words) in MEASURED.items():
        values = np.stack([paths[arm][name] for arm in TRAJECTORIES])
        dims = ("trajectory", "seed", "step")
        variables[f"curve_{name}"] = variable(dims, values, unit, f"{words}, over training")
    watched = ("seed", "patience")
    for name, dims, words, dtype in (
        ("best_step", watched, "i*: steps until the least validation error", np.int32),
        ("evaluations", watched, "evaluations until 7.1 stopped", np.int32),
        ("by_patience", watched, "1 if patience stopped 7.1, 0 if the cap did", np.int32),
        ("peeked_step", watched, "i* with test images for validation", np.int32),
    ):
        variables[name] = variable(dims, stop[name], "1", words, dtype)
    unit = "nat" if config.criterion == "loss" else "1"
    variables["watched"] = variable(
        ("seed", "evaluation"), stop["watched"], unit, "validation error that 7.1 was given"
    )
    onward = ("start", "seed", "patience")
    for name, unit, words, dtype in (
        ("threshold", "nat", "J on the sub-training set at the start of 7.3", np.float32),
        ("reached", "1", "1 if J on the validation set came down to it", np.int32),
        ("capped", "1", "1 if the cap ended 7.3", np.int32),
    ):
        variables[name] = variable(onward, continued[name], unit, words, dtype)
    at = list(config.waits).index(config.patience)
    variables["objectives"] = variable(
        ("start", "seed", "further_step"), continued["objectives"][:, :, at], "nat",
        "J on the validation set in 7.3, main patience; NaN: ended",
    )  # fmt: skip
    for name in ("tune_error", "test_error", "train_error"):
        variables[f"grid_{name}"] = variable(
            ("rate", "penalty", "seed"), curves[name][..., -1], "1",
            f"{MEASURED[name][1]}, at the end of training",
        )  # fmt: skip
    for name, words in (("rate", "learning rate"), ("penalty", "penalty lambda")):
        values = np.stack([getattr(chosen[arm], name) for arm in TRAJECTORIES])
        variables[f"chosen_{name}"] = variable(
            ("trajectory", "seed"), values, "1", f"{words} that the tuning split chose"
        )
    variables["diverged_step"] = variable(
        ("arm", "seed"), _diverged(config, paths, results, at), "1",
        "steps after which the losses are not finite; -1: they always are", np.int32,
    )  # fmt: skip
    coords = {
        "arm": list(ARMS),
        "trajectory": list(TRAJECTORIES),
        "seed": seeds,
        "patience": list(config.waits),
        "step": every * np.arange(config.cap + 1),
        "evaluation": np.arange(1, config.cap + 1),
        "further_step": every * np.arange(config.continue_cap + 1),
        "rate": list(config.rates),
        "penalty": list(config.penalties),
        "start": ["last", "best"],
    }
    attributes = {
        "data": config.data,
        "main_patience": config.patience,
        "every": every,
        "cap": config.cap,
        "criterion": config.criterion,
        "label_noise": config.label_noise,
        "train_size": config.train_size,
        "validation_size": config.validation_size,
        "arms": json.dumps(WORDS),
    }
    return xarray.Dataset(variables, coords, attributes)


def _diverged(config, paths, results, at) -> np.ndarray:
    """First step with a loss that is not finite, int[arms, S]; -1: none."""
    found = []
    for arm in ARMS:
        if arm in TRAJECTORIES:
            bad = ~np.isfinite(paths[arm]["train_loss"] + paths[arm]["valid_loss"])
            if arm == "stopped":  # what came after the stop is no part of it
                own = results["stopped"]["evaluations"][:, at, None]
                bad &= np.arange(config.cap + 1) <= own
            found.append(np.where(bad.any(1), bad.argmax(1) * config.every, -1))
        else:
            row = results[arm]
            bad = ~np.isfinite((row["train_loss"] + row["valid_loss"])[:, at])
            found.append(np.where(bad, row["steps"][:, at], -1))
    return np.stack(found)
