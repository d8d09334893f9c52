"""The record of `momentum`: names, units and axes for what the runs measured."""

import json

import numpy as np

from experiments import momentum_quadratics as quadratics

METHODS = tuple(quadratics.methods(10.0, 0.9))
NOISE_RATES = tuple(float(rate) for rate in 2.0 ** (np.arange(-24, 5) / 2))  # times 1 / L
# Rate of the exponential average over that at which it is the book's.
FACTORS = (0.5, 0.9, 0.99, 0.999, 1.0, 1.001, 1.01, 1.1, 2.0)
FORMS = ("book", "plain", "averaged_matched", "averaged_unmatched")
OPTIMIZERS = ("sgd", "momentum")
BATCHES = ("whole", "batches")

ARMS = {
    **{name: f"{name} on quadratics" for name in METHODS},
    "book": "the book's momentum in the comparison of the forms",
    "averaged_matched": "the exponential average at rate / (1 - alpha)",
    "averaged_unmatched": "the exponential average at the book's rate",
    "plain": "gradient descent at the book's rate",
    **{f"{o}_{b}": f"{o} on the network, {b}" for b in BATCHES for o in OPTIMIZERS},
}

# name: (dimensions, unit, long name)
VARIABLES = {
    "spectral_radius": (("way", "kappa", "seed"), "1",
                        "largest modulus of the companion matrices' eigenvalues"),
    "theory": (("way", "kappa"), "1", "contraction per step by the formula; nan: there is none"),
    "steps": (("way", "kappa", "seed"), "steps", "until the target; nan: not reached"),
    "contraction": (("way", "kappa", "seed"), "1",
                    "mean factor per step of the distance from the minimum, over the whole run"),
    "zigzag": (("way", "kappa", "seed"), "1",
               "share of steps at more than 90 degrees to the one before"),
    "path": (("way", "kappa", "seed"), "1", "length of the way over the start's distance"),
    "place": (("seed", "dimension"), "1", "eigenvalues: kappa to the power of minus this"),
    "plane_path": (("way", "seed", "plane_step", "axis"), "1", "points of a run in a plane"),
    "plane_hessian": (("seed", "axis", "other_axis"), "1", "Hessian there"),
    "noisy_steps": (("noise_alpha", "noise_rate", "noise", "seed"), "steps",
                    "until the expected cost is at its target; nan: not reached"),
    "form_distance": (("factor", "seed"), "1",
                      "largest relative distance of the average's way from the book's"),
    "form_steps": (("form", "seed"), "steps", "until the target; nan: not reached"),
    "net_steps": (("batch", "optimizer", "rate", "seed"), "steps",
                  "until the training loss is at its target; nan: not reached"),
    "net_tune_steps": (("batch", "optimizer", "rate", "seed"), "steps",
                       "until the tuning loss is at its target; nan: not reached"),
    **{f"{b}_train_loss": (("optimizer", "rate", "seed", f"{b}_step"), "nat",
                           "training loss of the network") for b in BATCHES},
}  # fmt: skip


def capped(steps, most) -> np.ndarray:
    """Steps as numbers; nan where the last one did not reach the target."""
    return np.where(steps > most, np.nan, np.asarray(steps, float))


def first_below(loss, target: float, every: int) -> np.ndarray:
    """Step of the first measurement [..., M] at which the loss is at most `target`; nan: none."""
    with np.errstate(invalid="ignore"):
        good = np.asarray(loss) <= target
    return np.where(good.any(-1), every * good.argmax(-1), np.nan)


def assemble(config, seeds, rows: dict[str, dict]):
    """The record.

    Args:
      config: the experiment's `Config`.
      seeds: labels of the seeds.
      rows: by stage, as `momentum_runs` makes them; values [S, ...].

    Returns:
      `xarray.Dataset`.
    """
    import xarray

    found = quadratic_part(config, rows["quadratics"])
    noisy = rows["noise"]["noisy_steps"]
    noisy = noisy.reshape(len(seeds), 1 + len(config.noise_alphas), len(NOISE_RATES), -1)
    found["noisy_steps"] = np.moveaxis(np.where(noisy < 0, np.nan, noisy), 0, 3)
    found["form_distance"] = rows["forms"]["form_distance"].T
    found["form_steps"] = capped(rows["forms"]["form_steps"], config.form_steps).T
    diverged = np.full((len(ARMS), len(seeds)), -1, np.int32)
    arms = list(ARMS)
    lost = ~(found.pop("distance") < quadratics.LOST).all(1)
    diverged[: len(METHODS)][lost] = 0
    reached = {"train": [], "tune": []}
    for batch in BATCHES:
        own = {n: np.moveaxis(rows[batch][f"{n}_loss"], 0, 2) for n in reached}
        for split, steps in reached.items():
            steps.append(first_below(own[split], config.loss_target, config.every))
        found[f"{batch}_train_loss"] = own["train"].astype(np.float32)
        for i, optimizer in enumerate(OPTIMIZERS):
            gone = ~np.isfinite(own["train"][i, ..., -1]).any(0)
            diverged[arms.index(f"{optimizer}_{batch}"), gone] = 0
    found["net_steps"], found["net_tune_steps"] = (np.stack(of) for of in reached.values())
    variables = {
        name: (dims, found[name], {"units": unit, "long_name": words})
        for name, (dims, unit, words) in VARIABLES.items()
    }
    variables["diverged_step"] = (
        ("arm", "seed"), diverged,
        {"units": "1", "long_name": "0 where the arm has no finite result; -1: it has one"},
    )  # fmt: skip
    coords = {
        "arm": arms,
        "seed": seeds,
        "way": list(METHODS),
        "kappa": list(config.kappas),
        "noise_alpha": [0.0, *config.noise_alphas],
        "noise_rate": list(NOISE_RATES),
        "noise": list(config.noises),
        "factor": list(FACTORS),
        "form": list(FORMS),
        "batch": list(BATCHES),
        "optimizer": list(OPTIMIZERS),
        "rate": list(config.rates),
        "plane_step": np.arange(found["plane_path"].shape[2]),
        "axis": [0, 1],
        **{f"{b}_step": config.every * np.arange(found[f"{b}_train_loss"].shape[3])
           for b in BATCHES},
    }  # fmt: skip
    attributes = {
        "data": f"{config.data}; normal draws, other ones for every seed",
        "arms": json.dumps(ARMS),
        "alpha": config.alpha,
        "target": config.target,
        "noise_kappa": config.noise_kappa,
        "noise_target": config.noise_target,
        "form_rate": config.form_rate,
        "loss_target": config.loss_target,
        "batch_size": config.batch_size,
    }
    return xarray.Dataset(variables, coords, attributes)


def quadratic_part(config, row: dict) -> dict[str, np.ndarray]:
    """What the stage "quadratics" found, methods before condition numbers before seeds."""
    to_front = lambda values: np.moveaxis(values, 0, 2)  # noqa: E731
    distance, steps = to_front(row["distance"]), to_front(row["steps"]).astype(float)
    shape = steps.shape
    kappas = np.array(config.kappas)
    theory, radius = np.full(shape[:2], np.nan), np.full(shape, np.nan)
    for k, kappa in enumerate(kappas):
        constants = quadratics.methods(float(kappa), config.alpha)
        for m, name in enumerate(METHODS):
            if name in quadratics.THEORY:
                theory[m, k] = quadratics.THEORY[name](kappa)
            radius[m, k] = [
                quadratics.spectral_radius(constants[name], kappa**-place)
                for place in row["place"]
            ]  # fmt: skip
    return {
        "distance": distance,
        "steps": np.where(distance <= config.target, steps, np.nan),
        "contraction": distance ** (1 / steps),
        "zigzag": to_front(row["turns"]) / np.maximum(steps - 1, 1),
        "path": to_front(row["path"]),
        "spectral_radius": radius,
        "theory": theory,
        "place": row["place"],
        "plane_path": np.moveaxis(row["plane_path"], 0, 1),
        "plane_hessian": row["plane_hessian"],
    }
