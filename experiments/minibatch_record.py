"""The record of `minibatch`: names, units and axes for what the runs measured."""

import numpy as np

SAMPLING = ("with", "without")  # replacement
ENDS = ("small", "equal_epochs", "equal_steps")  # the last two: the large batch
PARTS = 32  # of the steps to the target, over which roughness is measured

PER_END = {
    "rate": ("1", "learning rate with the lowest tuning loss"),
    "train_loss": ("nat", "training loss"),
    "train_error": ("1", "share of training images misclassified"),
    "tune_loss": ("nat", "tuning loss"),
    "tune_error": ("1", "share of tuning images misclassified"),
    "test_loss": ("nat", "test loss"),
    "test_error": ("1", "share of test images misclassified"),
    "lambda_max": ("nat", "largest eigenvalue of the training loss's Hessian"),
    "lambda_residual": ("nat", "residual of that eigenvalue"),
    "filter_sharpness": ("nat", "mean rise of the training loss along filter directions"),
    "rescaled_lambda_max": ("nat", "largest eigenvalue of the rescaled copy"),
    "rescaled_lambda_residual": ("nat", "residual of that eigenvalue"),
    "rescaled_filter_sharpness": ("nat", "rise along filter directions of the rescaled copy"),
    "rescaled_difference": ("1", "largest difference of a logit between network and copy"),
}
PER_RACE = {
    "steps": ("steps", "steps to the target loss"),
    "rate": ("1", "learning rate that gets there first"),
    "rise_share": ("1", "share of the steps looked at that raise the full loss"),
    "roughness": ("1", "what the full loss climbs back on the way, over what it falls in all"),
}
PER_CHECKPOINT = {
    "loss": ("nat", "training loss at the checkpoint"),
    "trace": ("1", "trace of the covariance of per-example gradients, tr Sigma"),
    "square": ("1", "squared norm of the full gradient"),
    "scale": ("examples", "noise scale from batches of two sizes, as the ratio of means"),
    "scale_error": ("examples", "its standard error"),
    "mean_of_ratios": ("examples", "the same as the mean over draws of their own ratios"),
}


def of_race(before, after, every: int, rates, target: float) -> dict[str, np.ndarray]:
    """What the looks at the full loss say.

    Args:
      before: float[S, looks, R], full loss before the last step of each look; NaN: no look.
      after: the same after that step.
      every: steps from look to look.
      rates: the R rates.
      target: the loss to get below.

    Returns:
      lane_steps [S, R], steps to the target at each rate (NaN: not before the first other was
      there); of the first rate there, the lower loss deciding ties: steps, rate, rise_share,
      roughness [S], and curve [S, PARTS + 1], the full loss at equal parts of the steps. NaN
      where no rate gets there.
    """
    with np.errstate(invalid="ignore"):
        there = after < target
    look = there.argmax(1)
    reached = there.any(1)
    lane_steps = np.where(reached, (look + 1.0) * every, np.nan)
    final = np.take_along_axis(after, look[:, None], 1)[:, 0]
    row = {"lane_steps": lane_steps}
    row |= {name: np.full(len(after), np.nan) for name in PER_RACE}
    row["curve"] = np.full((len(after), PARTS + 1), np.nan)
    for s in np.flatnonzero(reached.any(1)):
        order = np.lexsort((final[s], np.where(reached[s], lane_steps[s], np.inf)))
        best = order[0]
        last = look[s, best]
        ups, downs = after[s, : last + 1, best], before[s, : last + 1, best]
        curve = after[s, np.linspace(0, last, PARTS + 1).round().astype(int), best]
        row["steps"][s], row["rate"][s] = lane_steps[s, best], rates[best]
        row["rise_share"][s] = np.mean(ups > downs)
        row["roughness"][s] = np.maximum(np.diff(curve), 0).sum() / max(curve[0] - curve[-1], 1e-9)
        row["curve"][s] = curve
    return row


def assemble(config, seeds, rows: dict):
    """The record.

    Args:
      config: the settings.
      seeds: indices of the seeds.
      rows: of each stage, values [S, ...].

    Returns:
      `xarray.Dataset` over batch, rate, seed and others; see the coordinates.
    """
    import xarray

    about = lambda unit, words: {"units": unit, "long_name": words}  # noqa: E731
    stacked = {
        stage: {name: np.stack([np.asarray(row[name]) for row in found]) for name in found[0]}
        for stage, found in rows.items()
    }
    last = lambda values: np.moveaxis(values, 1, -1)  # noqa: E731  # seeds to the end
    variables = {}

    noise = stacked["noise"]
    variables["noise_sd"] = (
        ("checkpoint", "sampling", "batch", "seed"), last(noise["sd"]),
        about("1", "root mean squared distance of a batch's gradient from the full one"),
    )  # fmt: skip
    for name, (unit, words) in PER_CHECKPOINT.items():
        variables[f"noise_{name}"] = ("checkpoint", "seed"), noise[name], about(unit, words)

    for stage, words_of_arm in (("race", "rate tuned"), ("shared", "one rate for all sizes")):
        found = stacked[stage]
        for name, (unit, words) in PER_RACE.items():
            if (stage, name) != ("shared", "rate"):
                text = f"{words}, {words_of_arm}"
                variables[f"{stage}_{name}"] = ("batch", "seed"), found[name], about(unit, text)
        words = f"full loss at equal parts of the steps to the target, {words_of_arm}"
        variables[f"{stage}_curve"] = ("batch", "part", "seed"), last(found["curve"]), about(
            "nat", words
        )  # fmt: skip
    variables["race_lane_steps"] = (
        ("batch", "rate", "seed"), last(stacked["race"]["lane_steps"]),
        about("steps", "steps to the target loss; NaN: not before the fastest rate was there"),
    )  # fmt: skip

    stable, count = stacked["stable"], len(config.batch_sizes)
    for prefix, part, dims, arm in (
        ("stable", slice(count), ("batch", "rate"), "minibatches"),
        ("beyond", slice(count, 2 * count), ("batch", "rate_beyond"), "minibatches"),
        ("noisy", slice(2 * count, None), ("level", "rate"),
         "the full set with noise as of such batches"),
    ):  # fmt: skip
        for name, words in (("end", "full loss after the last step"),
                            ("worst", "largest full loss at any look")):  # fmt: skip
            variables[f"{prefix}_{name}"] = (
                (*dims, "seed"), last(stable[name][part]), about("nat", f"{words}, {arm}"),
            )  # fmt: skip
    variables["start_loss"] = ("seed",), stable["start"][0], about(
        "nat", "training loss before training"
    )  # fmt: skip

    ends = stacked["ends"]
    for name, (unit, words) in PER_END.items():
        variables[f"end_{name}"] = ("arm", "seed"), ends[name], about(unit, words)
    variables["end_steps"] = ("arm",), ends["steps"][:, 0], about("steps", "steps taken")
    diverged = np.where(np.isfinite(ends["train_loss"]), -1, ends["steps"])
    variables["diverged_step"] = ("arm", "seed"), diverged.astype(np.int32), about(
        "1", "step at which the run at the arm's best rate had diverged; -1: it did not"
    )  # fmt: skip

    cost = stacked["cost"]
    variables |= {
        "memory": (("cost_batch",), cost["memory"][0, 0],
                   about("MiB", "arguments, results and scratch of a compiled step")),
        "first_speed": (("cost_batch",), cost["first_speed"][0, 0],
                        about("examples/s", "examples a second of a first call, which compiles")),
    }  # fmt: skip
    for name, words in (("speed", "steps chained in one program"),
                        ("called_speed", "steps that are calls from Python")):  # fmt: skip
        variables[name] = ("cost_batch", "seed"), last(cost[name])[0], about(
            "examples/s", f"examples a second of {words}, a turn per seed"
        )  # fmt: skip
    coords = {
        "batch": list(config.batch_sizes),
        "rate": list(config.rates),
        "rate_beyond": list(config.rates_beyond),
        "seed": seeds,
        "sampling": list(SAMPLING),
        "checkpoint": list(config.checkpoints),
        "level": list(config.levels),
        "arm": list(ENDS),
        "cost_batch": list(config.cost_sizes),
        "part": np.arange(PARTS + 1),
    }
    names = ("small_batch", "large_batch", "target", "shared_rate", "reference_batch",
             "stable_steps", "epochs", "radius", "draws")  # fmt: skip
    attributes = {"data": config.data, "examples": config.examples}
    attributes |= {name: getattr(config, name) for name in names}
    record = xarray.Dataset(variables, coords, attributes)
    for name in ("batch", "level", "cost_batch"):
        record[name].attrs = about("examples", "batch size")
    for name in ("rate", "rate_beyond"):
        record[name].attrs = about("1", "learning rate")
    return record
