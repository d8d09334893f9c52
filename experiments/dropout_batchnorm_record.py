"""The record of `dropout_batchnorm`: names, units and axes for what the runs measured."""

import numpy as np

MODES = ("running", "recalibrated")
ORDERS = ("after", "before")  # networks with batch normalisation

START = {  # of the untrained network, [P, L]
    "met": "mean over units of Var_test / Var_train at batch normalisation, as the network "
    "meets it: running statistics of training, dropout off",
    "alone": "the same ratio once the layers below use statistics measured without dropout",
    "predicted": "v / ((c^2 + v) / keep - c^2), c and v of each unit, keep = 1 - p",
    "mistaken": "the same formula with p in the place of keep",
}
BY_LAYER = {
    "ratio": "Var_test / Var_train of a layer's input to batch normalisation: test images "
    "without dropout over training images with it, variances summed over units",
    "zeros": "share of zeros in a layer's input to batch normalisation while training",
    "spread": "fluctuation of the batch variance, relative to its mean, root mean square over "
    "units: training batches with dropout",
}
ENDS = {
    "tune_error": ("1", "share of tuning images misclassified"),
    "test_error": ("1", "share of test images misclassified"),
    "tune_loss": ("nat", "tuning loss"),
    "test_loss": ("nat", "test loss"),
}


def epochs_of(config, unit: int) -> int:
    """Epochs of a block; the last may be shorter."""
    return min(config.block, config.epochs - unit * config.block)


def steps_of(config) -> int:
    """Steps of an epoch."""
    return config.train_size // config.batch_size


def arms_of(name: str) -> list[tuple[str, str]]:
    """(arm, mode) of a network; recalibrated statistics make an arm of their own."""
    return [(name, "running")] + [(f"{name}_recalibrated", "recalibrated")] * (name in ORDERS)


def roughness(loss) -> np.ndarray:
    """Standard deviation over steps of log2 of a batch's loss over the one before.

    Losses [..., T], result [...]; NaN where any loss is not finite.
    """
    loss = np.asarray(loss, float)
    with np.errstate(all="ignore"):
        return np.diff(np.log2(np.maximum(loss, np.finfo(np.float32).tiny)), axis=-1).std(-1)


def first_bad(loss) -> np.ndarray:
    """The first step [...] with a loss that is not finite; -1: there is none."""
    bad = ~np.isfinite(loss)
    return np.where(bad.any(-1), bad.argmax(-1), -1)


def assemble(config, seeds, start: dict, trained: dict):
    """The record.

    Args:
      config: the settings.
      seeds: indices of the seeds.
      start: of the untrained networks, values [S, P, L].
      trained: rows of blocks of epochs by name of the network, values [S, C, ...].

    Returns:
      `xarray.Dataset` over seed, arm, network, order, p, rate, layer and epoch.
    """
    import xarray

    shape = len(seeds), len(config.drops), len(config.rates)
    per_run = ("p", "rate", "seed")
    fold = lambda v: np.moveaxis(v.reshape(*shape, *v.shape[2:]), 0, 2)  # noqa: E731
    about = lambda unit, words: {"units": unit, "long_name": words}  # noqa: E731
    arms = [(name, arm, mode) for name in trained for arm, mode in arms_of(name)]
    last = {name: rows[-1] for name, rows in trained.items()}
    steps = config.epochs * steps_of(config)
    loss = {
        name: fold(np.concatenate([row["loss"] for row in rows], 2)[:, :, :steps])
        for name, rows in trained.items()
    }
    variables = {}
    for key, (unit, words) in ENDS.items():
        values = np.stack([fold(last[name][f"{key}_{mode}"]) for name, _, mode in arms])
        variables[key] = ("arm", *per_run), values, about(unit, f"{words}, dropout off")
    networks = list(trained)
    for key, unit, words in (
        ("train_error", "1", "share of training images misclassified"),
        ("train_loss", "nat", "training loss"),
    ):
        values = np.stack([fold(last[name][f"{key}_running"]) for name in networks])
        variables[key] = ("network", *per_run), values, about(unit, f"{words}, dropout off")
    by_epoch = [loss[name].reshape(*loss[name].shape[:3], config.epochs, -1) for name in networks]
    variables["minibatch_loss"] = (
        ("network", *per_run, "epoch"), np.stack(by_epoch).mean(-1),
        about("nat", "mean loss of an epoch's batches, dropout on, each before its step"),
    )  # fmt: skip
    variables["roughness"] = (
        ("network", *per_run), np.stack([roughness(loss[name]) for name in networks]),
        about("octaves", "standard deviation over steps of the change of log2 of the batch loss"),
    )  # fmt: skip
    for key, words in BY_LAYER.items():
        values = np.stack([fold(last[name][key]) for name in ORDERS])
        variables[key] = ("order", *per_run, "layer"), values, about("1", words)
    for key, words in START.items():
        values = np.moveaxis(start[key], 0, 2)
        variables[f"start_{key}"] = ("start_p", "start_layer", "seed"), values, about("1", words)
    bad = {name: first_bad(loss[name]) for name in networks}
    diverged = np.stack([_all_bad(bad[name]) for name, _, _ in arms])
    variables["diverged_step"] = (
        ("arm", "seed"), diverged.astype(np.int32),
        about("1", "step by which every run of the arm had a loss that is not finite; -1: none"),
    )  # fmt: skip
    variables["diverged_at"] = (
        ("network", *per_run), np.stack([bad[name] for name in networks]).astype(np.int32),
        about("1", "first step with a loss that is not finite; -1: none"),
    )  # fmt: skip
    coords = {
        "arm": [arm for _, arm, _ in arms],
        "network": networks,
        "order": list(ORDERS),
        "p": list(config.drops),
        "rate": list(config.rates),
        "seed": seeds,
        "layer": np.arange(1, len(config.widths) + 1),
        "epoch": np.arange(1, config.epochs + 1),
        "start_p": [p for p in config.drops if p > 0],
        "start_layer": np.arange(1, config.start_depth + 1),
    }
    attributes = {
        "data": config.data,
        "train_images": config.train_size,
        "judged_drop": config.judged_drop,
        "batch_size": config.batch_size,
    }
    return xarray.Dataset(variables, coords, attributes)


def _all_bad(bad: np.ndarray) -> np.ndarray:
    """Last of the first bad steps [p, rate, S] where every run has one, else -1: [S]."""
    runs = bad.reshape(-1, bad.shape[-1])
    return np.where((runs >= 0).all(0), runs.max(0), -1)
