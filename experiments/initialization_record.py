"""The record of `initialization`: names, units and axes for what the runs measured."""

import numpy as np

from dlstudy import initializers
from experiments import initialization_theory as theory

OPTIMIZERS = ("momentum", "adam")
CONTROL = "lecun_uncorrected"  # the usual mistake; measured, not trained
DIVERGED = 10.0  # times the loss before training: from there on a run has diverged

MOMENTS = {
    "forward": "mean over inputs and units of the squared activation",
    "backward": "mean over inputs and units of the squared gradient of a fixed direction of the "
    "outputs with respect to the activations",
    "kernel": "mean over inputs and weights of the same gradient's square with respect to the "
    "kernel below; nan: the first, which is not square",
    "one_forward": "mean over units of the squared activation, of the first input",
    "one_backward": "mean over units of the squared gradient of a fixed direction of the outputs "
    "with respect to the activations, of the first input",
    "spread": "part of the activations' second moment that is variance over inputs; nan: all are 0",
}
PER_RUN = {
    "train_loss": ("nat", "training loss at the end"),
    "train_error": ("1", "share of training images misclassified at the end"),
    "diverged_at": ("1", "first step with a loss not finite or above ten times the first; -1: "
                    "there is none"),
    "moved": ("1", "largest change of any weight of the square layers"),
}  # fmt: skip


def measured(config) -> list[str]:
    """Initialisers whose second moments are taken."""
    return [*config.initializers, CONTROL]


def biases(config) -> list[float]:
    """Biases with which they are taken: none first."""
    return [0.0, *config.biases]


def joined(rows: list[dict]) -> dict[str, np.ndarray]:
    """Chunks of runs one after another, [S, runs, ...]."""
    return {name: np.concatenate([row[name] for row in rows], 1) for name in rows[0]}


def profiles(config, squares, pixels: int) -> dict[str, np.ndarray]:
    """What theory says, float64[measured, biases, layers] by name."""
    from experiments.initialization_runs import constants_of

    found = [
        [
            theory.profile(
                name, bias, squares, pixels, config.moment_width, config.moment_depth,
                **constants_of(config, name),
            )
            for bias in biases(config)
        ]
        for name in measured(config)
    ]  # fmt: skip
    return {
        field: np.array([[getattr(p, field) for p in row] for row in found])
        for field in theory.Profile._fields
    }


def assemble(config, seeds, arms, squares, pixels, moments, trained):
    """The record.

    Args:
      config: the settings.
      seeds: indices of the seeds.
      arms: what was trained at the common rates, by name; the initialisers come first.
      squares: mean square of the pixels of the inputs of the second moments.
      pixels: of an image.
      moments: a row per initialiser, values [S, biases, draws, layers].
      trained: by optimizer and depth, rows with values [S, runs, ...]: at the first depth of each
        optimizer initialisers x rates, then the other arms at the common rate, then what fills up
        the last row; at other depths the initialisers at the common rate.

    Returns:
      `xarray.Dataset`.
    """
    import xarray

    from experiments.initialization_runs import constants_of

    about = lambda unit, words: {"units": unit, "long_name": words}  # noqa: E731
    names, inits, tuned = measured(config), list(config.initializers), list(config.retuned)
    variables = {}
    for name, words in MOMENTS.items():
        values = np.stack([row[name] for row in moments])  # [measured, S, biases, draws, layers]
        if name == "kernel":
            room = [(0, 0)] * 4 + [(1, 0)]
            values = np.pad(values, room, constant_values=np.nan)
        variables[f"{name}_moment" if name != "spread" else name] = (
            ("measured", "bias", "draw", "layer", "seed"), np.moveaxis(values, 1, -1),
            about("1", words),
        )  # fmt: skip
    for name, values in profiles(config, squares, pixels).items():
        variables[f"{name}_theory"] = (
            ("measured", "bias", "layer"), values,
            about("1", f"expected {MOMENTS[name]}" + (", 1 at the top" * (name == "backward"))),
        )  # fmt: skip
    for name, function, words in (
        ("gain", initializers.relu_gain, "expected gain of a square ReLU layer's sum of squares"),
        ("log_gain", initializers.log_gain, "expected natural logarithm of that gain"),
    ):
        width = {"inputs": config.moment_width, "outputs": config.moment_width}
        width = width if name == "gain" else {"width": config.moment_width}
        values = [function(n, **width, **constants_of(config, n)) for n in names]
        variables[name] = ("measured",), np.array(values), about("1", words)

    places = len(config.momentum_rates)
    others = [arm for arm in arms if arm not in tuned]
    # In the order of `arms`: those at every rate, and the others after them.
    in_order = [[*tuned, *others].index(arm) for arm in arms]
    runs = len(tuned) * places
    at_depth = [joined(trained[o, config.depth]) for o in OPTIMIZERS]
    common_place = [
        list(getattr(config, f"{o}_rates")).index(getattr(config, f"{o}_rate")) for o in OPTIMIZERS
    ]

    def at_every_rate(name):
        """[optimizers, initialisers, rates, S, ...]"""
        values = np.stack([found[name][:, :runs] for found in at_depth])
        values = values.reshape(*values.shape[:2], len(tuned), places, *values.shape[3:])
        return np.moveaxis(values, 1, 3)

    for name, about_it in PER_RUN.items():
        values = at_every_rate(name)
        axes = ("optimizer", "retuned", "place", "seed")
        variables[name] = axes, values, about(*about_it)
        rest = np.stack([found[name][:, runs : runs + len(others)].T for found in at_depth])
        own = np.stack([values[i, :, place] for i, place in enumerate(common_place)])
        common = np.concatenate([own, rest], 1)[:, in_order]
        variables[f"common_{name}"] = (
            ("optimizer", "variant", "seed"), common,
            about(about_it[0], f"{about_it[1]}, at the common rate"),
        )  # fmt: skip
        by_depth = [
            common[1, : len(inits)] if depth == config.depth
            else trained["adam", depth][0][name].T
            for depth in config.depths
        ]  # fmt: skip
        variables[f"depth_{name}"] = (
            ("depth", "initializer", "seed"), np.stack(by_depth),
            about(about_it[0], f"{about_it[1]}, under Adam at the common rate"),
        )  # fmt: skip
    variables["loss"] = (
        ("optimizer", "retuned", "place", "seed", "epoch"), at_every_rate("loss"),
        about("nat", "mean loss of an epoch's batches, each before its step"),
    )  # fmt: skip
    variables["rate"] = (
        ("optimizer", "place"), np.array([getattr(config, f"{o}_rates") for o in OPTIMIZERS]),
        about("1", "learning rate"),
    )  # fmt: skip
    when = variables["common_diverged_at"][1]
    when = when.reshape(-1, when.shape[-1]).astype(np.int32)
    variables["diverged_step"] = (
        ("arm", "seed"), np.concatenate([when, np.full_like(when[:1], -1)]),
        about("1", "step at which the run at the common rate diverged; -1: it did not, as where "
              "nothing is trained"),
    )  # fmt: skip
    coords = {
        "measured": names,
        "bias": biases(config),
        "draw": np.arange(config.draws),
        "layer": np.arange(1, config.moment_depth + 1),
        "optimizer": list(OPTIMIZERS),
        "initializer": inits,
        "retuned": tuned,
        "place": np.arange(places),
        "variant": list(arms),
        "depth": list(config.depths),
        "epoch": np.arange(1, config.epochs + 1),
        "arm": [*(f"{o}/{arm}" for o in OPTIMIZERS for arm in arms), "untrained"],
        "seed": seeds,
    }
    attributes = {
        "data": config.data,
        "momentum_rate": config.momentum_rate,
        "adam_rate": config.adam_rate,
        "moment_width": config.moment_width,
        "width": config.width,
        "train_depth": config.depth,
        "target": config.target,
    }
    return xarray.Dataset(variables, coords, attributes)
