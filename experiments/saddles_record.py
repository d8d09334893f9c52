"""The record of `saddles`: names, units and axes for what the runs measured."""

import json

import numpy as np

from experiments import saddles_landscapes as landscapes

HEIGHTS = (0.8, 1.25)  # of the double well's barrier, drawn in between
SPEED_STEPS = 200  # on a constant slope
SIZES = ("whole", "batches")
AXES = ("along", "turned")
VALLEYS = ("constant", "sigmoid")
METHODS = tuple(landscapes.valley_methods(1.0, 0.9))
STARTS = ("small", "zero")

ARMS = {
    "saddle": "walkers on the saddle",
    "ridge": "descent from the ridge without noise",
    "well": "walkers in the double well",
    **{name: f"{name} in the flat valley" for name in METHODS},
    **{f"symmetric_{size}": f"equal units, {size}" for size in SIZES},
    **{f"small_{size}": f"small and zero weights, {size}" for size in SIZES},
}

# name: (dimensions, unit, long name)
VARIABLES = {
    "saddle_left": (("sigma", "walker", "seed"), "steps",
                    "until the saddle is left; nan: not left"),
    "ridge_left": (("axes", "seed"), "steps", "the same from the ridge, without noise"),
    "falling": (("seed",), "1", "curvature of the saddle's falling direction"),
    "saddle_theory": (("sigma", "seed"), "steps", "expected steps for small noise; nan: none"),
    "well_mean": (("barrier", "seed"), "steps",
                  "mean until the bottom of the other well: steps made over walkers that arrived"),
    "well_exact": (("barrier", "seed"), "steps", "the same, from the integral equation"),
    "well_kramers": (("barrier", "seed"), "steps", "the same, by Kramers' formula"),
    "well_share": (("well_noise", "seed"), "1",
                   "share of walkers that arrive in the steps given; the first without noise"),
    "well_ever": (("well_noise", "seed"), "1", "the same in all steps"),
    "height": (("seed",), "1", "of the barrier"),
    "valley_steps": (("valley", "way", "seed"), "steps", "across the valley; nan: not across"),
    "steepness": (("seed",), "1", "of the valley with a constant slope"),
    "depth": (("seed",), "1", "distance of the start from the middle of the sigmoid"),
    "speed": (("form", "seed", "speed_step"), "1",
              "size of a step on a constant slope over gradient descent's"),
    "symmetric_loss": (("size", "noise", "seed", "symmetric_step"), "nat", "loss of all images"),
    "symmetric_spread": (("size", "noise", "seed", "symmetric_step"), "1",
                         "distance of the units' weights from the first unit's, relative"),
    "small_loss": (("size", "start", "noisy", "seed", "small_step"), "nat", "loss of all images"),
}  # fmt: skip


def assemble(config, seeds, rows: dict[str, dict]):
    """The record.

    Args:
      config: the experiment's `Config`.
      seeds: labels of the seeds.
      rows: by stage, as `saddles_runs` makes them; values [S, ...].

    Returns:
      `xarray.Dataset`.
    """
    import xarray

    last = lambda values: np.moveaxis(np.asarray(values), 0, -1)  # noqa: E731
    counted = lambda left: np.where(left < 0, np.nan, left)  # noqa: E731
    saddle, well, valley = rows["saddle"], rows["well"], rows["valley"]
    sigmas, barriers = np.array([0.0, *config.sigmas]), np.array(config.barriers)
    walked, given = well["well_left"], config.well_given
    arrived = (walked >= 0) & (walked <= given)
    theory = np.full((len(sigmas), len(seeds)), np.nan)
    theory[1:] = landscapes.saddle_steps(
        config.saddle_rate, saddle["falling"][None], sigmas[1:, None]
    )
    crossed = last(valley["valley_steps"]).astype(float)
    networks = {
        name: np.moveaxis(rows[stage][name], 0, -2).astype(np.float32)
        for stage in ("symmetric", "small") for name in rows[stage]
    }  # fmt: skip
    small = networks.pop("small_loss")
    networks.pop("small_spread")
    found = {
        "saddle_left": last(counted(saddle["saddle_left"])),
        "ridge_left": last(counted(saddle["ridge_left"])),
        "falling": saddle["falling"],
        "saddle_theory": theory,
        "well_mean": last(landscapes.mean_of_exponential(walked[:, 1:], config.well_steps)),
        "well_exact": last(well["well_exact"]),
        "well_kramers": landscapes.kramers(
            well["height"][None], config.well_rate, barriers[:, None]
        ),
        "well_share": last(arrived.mean(-1)),
        "well_ever": last((walked >= 0).mean(-1)),
        "height": well["height"],
        "valley_steps": np.where(crossed > config.valley_steps, np.nan, crossed),
        "steepness": valley["steepness"],
        "depth": valley["depth"],
        "speed": np.moveaxis(valley["speed"], 0, 1),
        **networks,
        "small_loss": small.reshape(len(SIZES), len(STARTS), 2, *small.shape[2:]),
    }
    variables = {
        name: (dims, found[name], {"units": unit, "long_name": words})
        for name, (dims, unit, words) in VARIABLES.items()
    }
    variables["diverged_step"] = (
        ("arm", "seed"), diverged(found),
        {"units": "1", "long_name": "0 where the arm's loss is not finite; -1: it is"},
    )  # fmt: skip
    coords = {
        "arm": list(ARMS),
        "seed": seeds,
        "sigma": sigmas,
        "axes": list(AXES),
        "barrier": barriers,
        "well_noise": [0.0, *(1 / barriers)],
        "valley": list(VALLEYS),
        "way": list(METHODS),
        "form": ["book", "source"],
        "speed_step": np.arange(1, SPEED_STEPS + 1),
        "size": list(SIZES),
        "noise": [0.0, *config.weight_noises],
        "start": list(STARTS),
        "noisy": [0, 1],
        "symmetric_step": config.every * np.arange(found["symmetric_loss"].shape[-1]),
        "small_step": config.every * np.arange(small.shape[-1]),
    }
    attributes = {
        "data": f"{config.images} images of {config.data}; normal draws for every seed",
        "arms": json.dumps(ARMS),
        "alpha": config.alpha,
        "saddle_rate": config.saddle_rate,
        "saddle_steps": config.saddle_steps,
        "well_rate": config.well_rate,
        "well_steps": config.well_steps,
        "well_given": given,
        "valley_rate": config.valley_rate,
        "batch_size": config.batch_size,
        "scale": config.scale,
        "small_noise": config.weight_noises[-1],
    }
    return xarray.Dataset(variables, coords, attributes)


def diverged(found) -> np.ndarray:
    """int32[arms, S]: 0 where a network's loss is not finite somewhere, else -1."""
    good = {name: np.isfinite(found["height"]) for name in ARMS}
    for i, size in enumerate(SIZES):
        for name in ("symmetric", "small"):
            loss = np.moveaxis(found[f"{name}_loss"][i], -2, -1)
            good[f"{name}_{size}"] = np.isfinite(loss).all(tuple(range(loss.ndim - 1)))
    return np.stack([np.where(good[arm], -1, 0).astype(np.int32) for arm in ARMS])
