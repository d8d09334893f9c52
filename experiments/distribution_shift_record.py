"""The record of `distribution_shift`: names, units and axes for what the runs measured."""

import numpy as np

# How a network with batch normalisation is run, and the one without.
MODES = ("running", "batch", "recalibrated", "ordered")
NETWORKS = ("bn", "none")
PICKS = ("best", "matched")
ABOUT_ARMS = (
    "running statistics; those of each test batch; of corrupted tuning images; of test batches in "
    "the order of their classes; none: without batch normalisation"
)


def assemble(config, seeds, row: dict):
    """The record.

    Args:
      config: the settings.
      seeds: indices of the seeds.
      row: values [S, ...] as `distribution_shift_runs.Study.one` makes them.

    Returns:
      `xarray.Dataset` over seed, arm, pick, corruption, severity, network, rate and epoch.
      Severity 0 is no corruption.
    """
    import xarray

    about = lambda unit, words: {"units": unit, "long_name": words}  # noqa: E731
    arms = [*MODES, "none"]
    errors = np.stack([row[f"error_{arm}"] for arm in arms], 1)  # [S, arm, pick, corruption, ...]
    by_run = ("network", "rate", "epoch", "seed")
    by_image = ("arm", "pick", "corruption", "severity", "seed")
    bad = row["bad_step"]
    lost = np.where((bad >= 0).all(2), bad.max(2), -1)  # every learning rate
    diverged = np.concatenate([np.repeat(lost[:, :1], len(MODES), 1), lost[:, 1:]], 1).T
    variables = {
        "error": (by_image, np.moveaxis(errors, 0, -1),
                  about("1", f"share of test images misclassified; arms: {ABOUT_ARMS}")),
        "shift": (
            ("pick", "corruption", "severity", "seed"), np.moveaxis(row["shift"], 0, -1),
            about("1", "distance of the first layer's mean on corrupted tuning images from the "
                  "running mean, in running standard deviations: root mean square over units"),
        ),
        "spread": (
            ("pick", "corruption", "severity", "seed"), np.moveaxis(row["spread"], 0, -1),
            about("1", "variance of the first layer on corrupted tuning images over the running "
                  "variance, each summed over units"),
        ),
        "tune_error": (by_run, np.moveaxis(row["tune_error"], 0, -1),
                       about("1", "share of clean tuning images misclassified after an epoch")),
        "chosen": (
            ("network", "pick", "seed"), np.moveaxis(row["chosen"], 0, -1).astype(np.int32),
            about("1", "epochs x learning rate's index + epoch from 0 of the network picked"),
        ),
        "diverged_step": (
            ("arm", "seed"), diverged.astype(np.int32),
            about("1", "step by which every learning rate had a loss not finite; -1: none"),
        ),
    }  # fmt: skip
    coords = {
        "arm": arms,
        "pick": list(PICKS),
        "corruption": list(config.corruptions),
        "severity": np.arange(errors.shape[-1]),
        "network": list(NETWORKS),
        "rate": list(config.rates),
        "epoch": np.arange(1, config.epochs + 1),
        "seed": seeds,
    }
    attributes = {
        "data": config.data,
        "train_images": config.train_size,
        "test_batch": config.test_batch,
        "recalibration": config.recalibration,
    }
    return xarray.Dataset(variables, coords, attributes)
