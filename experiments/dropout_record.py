"""The record of `dropout`: rows of the stages in, one labelled data set out."""

import numpy as np

ENDS = {  # of every run, once it is trained
    "train_loss": ("nat", "training loss, masks off"),
    "tune_loss": ("nat", "tuning loss"),
    "tune_error": ("1", "share of tuning images misclassified"),
    "test_loss": ("nat", "test loss"),
    "test_error": ("1", "share of test images misclassified"),
}
NOISE = {
    "noise_total": ("1", "variance of an example's gradient, masks on, summed over parameters"),
    "noise_examples": ("1", "part of it between examples, of the mean over masks"),
    "noise_masks": ("1", "part of it between masks of one example"),
    "noise_off": ("1", "variance of an example's gradient at the same parameters, masks off"),
    "square_on": ("1", "squared norm of the mean gradient, masks on"),
    "square_off": ("1", "squared norm of the mean gradient, masks off"),
}
SCALINGS = ("as_it_is", "rescaled")  # of the units that are left after ablation
WITH_MASKS = "mean loss of the epoch's steps, with the masks they were taken with"


def best_of(error: np.ndarray, loss: np.ndarray, groups) -> np.ndarray:
    """The run [S, groups] of each group with the lowest error; of several, the lowest loss.

    Args:
      error: [S, C], shares of images: two differ by far more than a ten-thousandth, or are equal.
      loss: [S, C]; runs where it is not finite are no candidates, unless all are lost.
      groups: slices of the C runs.
    """
    with np.errstate(invalid="ignore"):
        order = np.where(np.isfinite(loss), error + 1e-5 * loss / (1 + loss), np.inf)
    return np.stack([group.start + order[:, group].argmin(1) for group in map(_whole, groups)], 1)


def _whole(group: slice) -> slice:
    return slice(group.start or 0, group.stop)


def milestones(epochs: int) -> list[int]:
    """Epochs at which the lowest loss so far is kept: the last one, its half, quarter, ..."""
    return sorted({max(1, epochs >> k) for k in range(6)})


def lowest_so_far(loss: np.ndarray) -> np.ndarray:
    """The lowest finite loss up to each of `milestones`, [..., E] to [..., milestones]; or NaN."""
    least = np.minimum.accumulate(np.where(np.isfinite(loss), loss, np.inf), -1)
    least = least[..., [epoch - 1 for epoch in milestones(loss.shape[-1])]]
    return np.where(np.isfinite(least), least, np.nan).astype(np.float32)


def assemble(config, seeds, rows: dict):
    """The record.

    Args:
      config: the settings.
      seeds: indices of the seeds.
      rows: of each stage by name, as `dropout_runs` makes them; "lifted" beside "capacity".

    Returns:
      `xarray.Dataset`. `p` 0 is no dropout. Splits are each seed's own.
    """
    import xarray

    about = lambda unit, words: {"units": unit, "long_name": words}  # noqa: E731
    drops, rates = (0.0, *config.drops), config.rates
    dropped = len(drops) * len(rates)
    joined = {
        name: {key: np.concatenate([row[key] for row in part], -1)
               for key in ("train_loss", "tune_loss", "masked_loss") if key in part[0]}
        for name, part in rows.items()
    }  # fmt: skip
    variables = {}

    def put(name, dims, values, meta, shape=None):
        """values [S, C, ...] as [dims..., seed, ...], the C runs folded to `shape`."""
        values = np.asarray(values, np.float32)
        if shape:
            values = values.reshape(len(values), *shape, *values.shape[2:])
        place = len(shape) if shape else 1
        at = (*dims[:place], "seed", *dims[place:])
        variables[name] = at, np.moveaxis(values, 0, place), about(*meta)

    grid = len(drops), len(rates)
    first = lambda values: values[:, :dropped]  # noqa: E731
    for key, words in (
        ("train_loss", "training loss after the epoch, masks off"),
        ("tune_loss", "tuning loss after the epoch"), ("masked_loss", WITH_MASKS),
    ):  # fmt: skip
        put(f"{key}_by_epoch", ("p", "rate", "epoch"), first(joined["learn"][key]),
            ("nat", words), grid)  # fmt: skip
    of_part = {
        "": ("learn", slice(dropped), ("p", "rate"), grid, ""),
        "l2_": ("learn", slice(dropped, None), ("penalty", "rate"),
                (len(config.penalties), len(rates)), ", L2 penalty"),
        "wide_": ("wide", slice(None), ("rate",), None, ", wider network"),
        "small_": ("small", slice(dropped), ("p", "rate"), grid, ", small training set"),
    }  # fmt: skip
    for prefix, (part, runs, dims, shape, more) in of_part.items():
        for name, (unit, words) in ENDS.items():
            values = rows[part][-1][f"end_{name}"][:, runs]
            put(prefix + name, dims, values, (unit, f"{words}, after training{more}"), shape)
    for name in ("train_loss", "masked_loss"):
        words = "training loss after the epoch, masks off" if name == "train_loss" else WITH_MASKS
        put(f"averaged_{name}", ("rate", "averaged_epoch"), joined["averaged"][name],
            ("nat", f"{words}; masks averaged"))  # fmt: skip
    for name, meta in NOISE.items():
        put(name, ("p", "checkpoint"), np.stack([row[name] for row in rows["learn"]], 2), meta)
    both = [rows[part][-1] for part in ("learn", "wide")]
    for name, dims, meta in (
        ("ablated_error", ("scaling", "fraction"), ("1", "test error with units ablated")),
        ("correlation", ("layer",), ("1", "mean |correlation| of two units of a layer")),
        ("norm", (), ("1", "l2 norm of the weights")),
    ):  # fmt: skip
        put(name, ("examined", *dims), np.concatenate([row[name] for row in both], 1), meta)
    put("whole_error", ("examined",), _chosen_errors(config, rows), (
        "1", "test error of the same runs with all units"))  # fmt: skip

    held = ("width", "capacity_p", "capacity_rate")
    shape = len(config.capacity_widths), 1 + len(config.capacity_drops), len(config.capacity_rates)
    for name, key, words in (
        ("capacity_loss", "train_loss", "lowest training loss so far on random labels, masks off"),
        ("capacity_masked", "masked_loss", f"lowest so far on random labels: {WITH_MASKS}"),
    ):
        put(name, (*held, "milestone"), lowest_so_far(joined["capacity"][key]), ("nat", words),
            shape)  # fmt: skip
    lifted = lowest_so_far(joined["lifted"]["train_loss"])[..., -1]
    put("lifted_loss", held, lifted, ("nat", "lowest training loss on random labels in one more "
                                      "quarter of the epochs without masks"), shape)  # fmt: skip

    diverged = _diverged(config, joined)
    variables["diverged_step"] = (
        ("arm", "seed"), np.stack(list(diverged.values())),
        about("1", "step after which no run of an arm was finite; -1: none"),
    )  # fmt: skip
    coords = {
        "seed": seeds,
        "arm": list(diverged),
        "p": list(drops),
        "rate": list(rates),
        "penalty": list(config.penalties),
        "epoch": np.arange(1, config.epochs + 1),
        "averaged_epoch": np.arange(1, config.averaged_epochs + 1),
        "checkpoint": np.arange(0, config.epochs, config.block),
        "examined": [*names(drops), "l2", "wide"],
        "scaling": list(SCALINGS),
        "fraction": list(config.fractions),
        "layer": np.arange(1, len(config.widths) + 1),
        "width": list(config.capacity_widths),
        "capacity_p": [0.0, *config.capacity_drops],
        "capacity_rate": list(config.capacity_rates),
        "milestone": milestones(config.capacity_epochs),
    }
    kept = ("data", "train_size", "small_size", "capacity_size", "judged_drop", "judged_fraction",
            "judged_width", "target", "masks", "wider")  # fmt: skip
    return xarray.Dataset(variables, coords, {name: getattr(config, name) for name in kept})


def names(drops) -> list[str]:
    """Of the arms without and with dropout."""
    return [f"dropout_{drop:g}" if drop else "plain" for drop in drops]


def _chosen_errors(config, rows) -> np.ndarray:
    """Test error of the runs examined, [S, examined]."""
    from experiments import dropout_parts

    found = []
    for part in dropout_parts.parts(config):
        if part.examined:
            end = rows[part.name][-1]
            chosen = best_of(end["end_tune_error"], end["end_tune_loss"], part.examined)
            found.append(np.take_along_axis(end["end_test_error"], chosen, 1))
    return np.concatenate(found, 1)


def _diverged(config, joined) -> dict[str, np.ndarray]:
    """By arm, the step after which none of its runs was finite, or -1, int32[S]."""
    rates = len(config.rates)
    judged = (1 + config.drops.index(config.judged_drop)) * rates
    end = (1 + len(config.drops)) * rates
    folds = np.arange(joined["capacity"]["masked_loss"].shape[1]).reshape(
        len(config.capacity_widths), 1 + len(config.capacity_drops), -1
    )
    arms = {
        "plain": ("learn", slice(rates)),
        "judged": ("learn", slice(judged, judged + rates)),
        "dropout": ("learn", slice(rates, end)),
        "l2": ("learn", slice(end, None)),
        "wide": ("wide", slice(None)),
        "averaged": ("averaged", slice(None)),
        "small_plain": ("small", slice(rates)),
        "small_dropout": ("small", slice(rates, end)),
        "capacity_plain": ("capacity", folds[:, 0].ravel()),
        "capacity_dropout": ("capacity", folds[:, 1:].ravel()),
    }
    sizes = {"small": config.small_size, "capacity": config.capacity_size}
    found = {}
    for arm, (part, runs) in arms.items():
        finite = np.isfinite(joined[part]["masked_loss"][:, runs]).any(1)
        size = sizes.get(part, config.train_size)
        steps = size // min(config.batch_size, size)
        first = np.where(finite.all(1), -1, (1 + finite.argmin(1)) * steps)
        found[arm] = first.astype(np.int32)
    return found
