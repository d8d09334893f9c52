"""The record of `mnist_gradnorm`: rows of the stages in, one labelled data set out."""

import json

import numpy as np

# name: (unit, long name). Dimensions follow from the shape.
STEP_VARIABLES = {
    "loss": ("nat", "minibatch loss before the step"),
    "grad_norm": ("nat per unit", "l2 norm of the minibatch gradient"),
    "layer_grad_norm": ("nat per unit", "l2 norm of the minibatch gradient, by layer"),
    "update_norm": ("1", "l2 norm of the step d taken"),
    "first_order": ("nat", "first-order change of the batch's loss, -g'd"),
    "second_order": ("nat", "second-order change of the batch's loss, d'Hd / 2"),
    "realised": ("nat", "change of the same batch's loss by the step"),
}
EPOCH_VARIABLES = {
    "train_loss": ("nat", "mean loss on the training set"),
    "train_error": ("1", "share of the training set misclassified"),
    "tune_loss": ("nat", "mean loss on the tuning set"),
    "tune_error": ("1", "share of the tuning set misclassified"),
    "test_loss": ("nat", "mean loss on the test set"),
    "test_error": ("1", "share of the test set misclassified"),
    "churn": ("1", "share of test predictions that changed since the last evaluation"),
    "displacement": ("1", "l2 distance of the parameters from an epoch ago"),
    "distance": ("1", "l2 distance of the parameters from their start"),
    "full_grad_norm": ("nat per unit", "l2 norm of the full-batch gradient"),
    "full_layer_grad_norm": ("nat per unit", "l2 norm of the full-batch gradient, by layer"),
    "gradient_trace": ("nat2 per unit2", "tr Sigma, per-example gradient covariance, over N"),
    "gradient_curvature": ("nat per unit2", "curvature along the gradient, g'Hg / g'g"),
    "sharpness": ("nat per unit2", "largest eigenvalue of the Hessian"),
    "sharpness_residual": ("1", "residual of that eigenvalue, relative"),
    "sharpness_products": ("1", "Hessian products spent on it"),
    "preconditioned_sharpness": ("1", "largest eigenvalue of Adam's preconditioned Hessian"),
    "preconditioned_sharpness_residual": ("1", "residual of that eigenvalue, relative"),
    "preconditioned_sharpness_products": ("1", "Hessian products spent on it"),
}
HEAD_VARIABLES = {
    "head_test_error": ("1", "test error of a new head on the convolution frozen at this epoch"),
    "feature_similarity": ("1", "linear CKA of the features at this epoch with the final ones"),
}


def rate_arm(rate: float) -> str:
    """Name of the arm with this fixed rate."""
    return f"sgd_{rate:g}"


def assemble(config, data, seeds, rows):
    """The record of all arms.

    Args:
      config: the experiment's `Config`.
      data: the data set.
      seeds: labels of the seeds, S of them.
      rows: of each stage by name, as `mnist_gradnorm_runs` makes them.

    Returns:
      `xarray.Dataset` over `arm`, `seed`, `epoch` (0 is before training), `step` (1 is the first
      update), `layer` and `frozen_at`. NaN: not measured, or after the arm's last epoch.
    """
    import xarray

    arms = _by_arm(config, rows, len(seeds))
    per_epoch = arms["main"]["loss"].shape[2]
    steps = config.epochs * per_epoch
    variables = {}
    for name, (unit, words) in STEP_VARIABLES.items():
        if name.endswith("_norm") and not config.norms_every:
            continue
        values = {arm: _join_steps(found[name]) for arm, found in arms.items() if name in found}
        dims = ("arm", "seed", "step") + (("layer",) if name.startswith("layer") else ())
        variables[name] = _variable(dims, values, arms, steps, unit, words)
    for name, (unit, words) in EPOCH_VARIABLES.items():
        values = {arm: found[name] for arm, found in arms.items() if name in found}
        dims = ("arm", "seed", "epoch") + (("layer",) if "layer" in name else ())
        if values:
            variables[name] = _variable(dims, values, arms, config.epochs + 1, unit, words)
    losses = variables["loss"][1]
    variables["diverged_step"] = (
        ("seed", "arm"),
        np.stack([_first_bad(arms[arm], losses[i]) for i, arm in enumerate(arms)], 1),
        {
            "units": "1",
            "long_name": "first step with a loss, or at the end parameters, that are "
            "not finite; -1: none",
        },
    )
    coords = {
        "arm": list(arms),
        "seed": seeds,
        "epoch": np.arange(config.epochs + 1),
        "step": np.arange(1, steps + 1),
        "layer": [f"conv_{i}" for i in range(len(config.channels))] + ["head"],
    }
    if "heads" in rows:
        coords["frozen_at"] = list(config.frozen_at)
        for name, (unit, words) in HEAD_VARIABLES.items():
            values = np.stack([row[name] for row in rows["heads"]], 1)
            variables[name] = (("seed", "frozen_at"), values, {"units": unit, "long_name": words})
    size = config.curvature_size or len(data.train.y)
    whole = size == len(data.train.y)
    attributes = {
        "data": data.name,
        "train_images": len(data.train.y),
        "batch_size": config.batch_size,
        "optimizer": config.optimizer,
        "steps_per_epoch": per_epoch,
        "curvature_set": f"{'all' if whole else 'a fixed, stratified'} {size} training images",
        "arms": json.dumps(_descriptions(config, arms)),
    }
    return xarray.Dataset(variables, coords, attributes)


def _by_arm(config, rows, seeds: int) -> dict[str, dict[str, np.ndarray]]:
    """Values [S, rows, ...] of each variable by arm; the stage of several rates is taken apart."""
    arms = {}
    for stage, found in rows.items():
        if stage == "heads":
            continue
        stacked = {name: np.stack([row[name] for row in found], 1) for name in found[0]}
        if stage != "rates":
            arms[stage] = stacked
            continue
        for i, rate in enumerate(config.rates):
            part = slice(i * seeds, (i + 1) * seeds)
            arms[rate_arm(rate)] = {name: values[part] for name, values in stacked.items()}
    return arms


def _join_steps(values: np.ndarray) -> np.ndarray:
    """[S, 1 + epochs, T, ...] -> [S, epochs * T, ...]: row 0, before training, has no steps."""
    values = values[:, 1:]
    return values.reshape(values.shape[0], -1, *values.shape[3:])


def _variable(dims, values, arms, length, unit, words):
    """One variable over all arms; arms that lack it, or end sooner, are NaN there."""
    example = next(iter(values.values()))
    full = np.full((len(arms), example.shape[0], length, *example.shape[2:]), np.nan, np.float32)
    for i, arm in enumerate(arms):
        if arm in values:
            full[i, :, : values[arm].shape[1]] = values[arm]
    return dims, full, {"units": unit, "long_name": words}


def _first_bad(found, losses: np.ndarray) -> np.ndarray:
    """First step (from 1) whose loss is not finite, of each seed; -1 if all are.

    The last step where only the parameters after it are not.
    """
    trained = found["loss"][:, 1:].reshape(losses.shape[0], -1).shape[1]
    bad = ~np.isfinite(losses[:, :trained])
    bad[:, -1] |= found["diverged"][:, -1]
    return np.where(bad.any(1), bad.argmax(1) + 1, -1)


def _descriptions(config, arms) -> dict[str, str]:
    words = {
        "main": f"{config.optimizer}, rate {config.learning_rate:g}",
        "label_noise": f"{config.optimizer}, rate {config.learning_rate:g}, "
        f"{config.control_label_noise:.0%} wrong labels",
        "capped": f"sgd, rate capped by curvature, at most {max(config.rates, default=0):g}",
    }
    words |= {rate_arm(rate): f"sgd, fixed rate {rate:g}" for rate in config.rates}
    return {arm: words[arm] for arm in arms}
