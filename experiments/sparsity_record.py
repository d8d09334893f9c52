"""The record of `sparsity`: rows of the studies in, one labelled data set out."""

import numpy as np

UPDATES = ("proximal", "source", "falling", "l2", "elastic_net")
LINEAR = ("linear_l1", "linear_l2")
NETWORK = ("network_l1", "network_l2", "network_group", "network_source")

_PATH = ("update", "seed", "alpha")
# name: (dimensions, unit, long name)
QUADRATIC = {
    "zeros": (_PATH, "1", "weights that are exactly 0 at the end"),
    "closed_zeros": (_PATH, "1", "weights that are 0 at the minimum"),
    "zeros_hit": (_PATH, "1", "weights that are 0 at the minimum and exactly 0 at the end"),
    "cut_zeros": (_PATH, "1", "weights smaller than the cutoff at the end"),
    "cut_wrong": (_PATH, "1", "weights that the cutoff calls 0 and the minimum not, or vice versa"),
    "closed_error": (_PATH, "1", "largest distance from the minimum over the largest |w*|"),
    "crossings": (_PATH, "1", "changes of sign of a weight that is 0 at the minimum, mean"),
    "trajectories": (("update", "seed", "weight_shown", "step"), "1", "weights by step"),
    "end_weights": (("update", "seed", "weight"), "1", "weights at the end"),
    "curvatures": (("seed", "weight"), "1", "curvature H of the quadratic"),
    "targets": (("seed", "weight"), "1", "minimum w* of the quadratic without a penalty"),
}
_LINEAR = ("linear_arm", "seed", "correlation")
LINEAR_VARIABLES = {
    "precision": (_LINEAR, "1", "share of the selected features that matter"),
    "recall": (_LINEAR, "1", "share of the features that matter that are selected"),
    "f1": (_LINEAR, "1", "F1 of the features with a weight that is not 0"),
    "selected": (_LINEAR, "1", "features with a weight that is not 0"),
    "top_f1": (
        _LINEAR,
        "1",
        "F1 of the largest weights, as many as there are features that matter",
    ),
    "risk": (_LINEAR, "1", "expected squared error of the prediction, noise aside"),
    "chosen": (_LINEAR, "1", "place on the path of the strength chosen by the tuning split"),
    "linear_weights": ((*_LINEAR, "feature"), "1", "weights"),
    "linear_truth": (("seed", "correlation", "feature"), "1", "true weights"),
    "residual": (("seed", "correlation"), "1", "largest residual of a proximal step on the paths"),
}
_NETWORK = ("seed", "condition")
NETWORK_VARIABLES = {
    "train_loss": (_NETWORK, "nat", "cross-entropy on the training split, penalty aside"),
    "tune_error": (_NETWORK, "1", "error on the tuning split"),
    "test_error": (_NETWORK, "1", "error on the test split"),
    "zero_share": (_NETWORK, "1", "share of weights that are exactly 0"),
    "zero_share_before": (_NETWORK, "1", "the same before the full-batch steps at the end"),
    "units_removed": (_NETWORK, "1", "share of hidden units without incoming or outgoing weights"),
    "pixels_read": (_NETWORK, "1", "share of pixels with a weight into the first layer"),
}
_PRUNED = ("seed", "l2_condition", "level")
PRUNED_VARIABLES = {
    f"pruned_{name}": (_PRUNED, unit, f"{words}, L2 with its smallest weights cut afterwards")
    for name, (_, unit, words) in NETWORK_VARIABLES.items()
    if name not in ("train_loss", "zero_share_before")
}


def _variable(values, dims, unit, words, seed_first):
    """One variable; values come with the seed in front, whatever the order of `dims`."""
    values = np.asarray(values)
    if seed_first:
        values = np.moveaxis(values, 0, dims.index("seed"))
    return dims, values, {"units": unit, "long_name": words}


def assemble(config, data, seeds, quadratic, linear, network):
    """The record of all studies.

    Args:
      config: the experiment's `Config`.
      data: the images.
      seeds: labels of the seeds, S of them.
      quadratic: values [S, ...] as `sparsity_runs` makes them.
      linear: likewise; [S, correlations, arms, ...].
      network: likewise.

    Returns:
      `xarray.Dataset` over `seed` and: `update` x `alpha`; `linear_arm` x `correlation`;
      `condition` (with coordinates `penalty`, `strength` and `rate`). `arm` names all of them.
    """
    import xarray

    variables = {name: _variable(quadratic[name], *text, True) for name, text in QUADRATIC.items()}
    for name, text in LINEAR_VARIABLES.items():
        values = np.asarray(linear[name])
        if "linear_arm" in text[0]:
            values = np.moveaxis(values, 2, 1)
        variables[name] = _variable(values, *text, True)
    for name, text in (NETWORK_VARIABLES | PRUNED_VARIABLES).items():
        variables[name] = _variable(network[name], *text, True)
    arms, strengths, rates = map(list, zip(*network["labels"], strict=True))
    variables["shown_pixels"] = (
        ("condition", "pixel"), np.asarray(network["pixel_norm"][0]),
        {"units": "1", "long_name": "norm of a pixel's weights into the first layer, first seed"},
    )  # fmt: skip
    in_l2 = np.array(arms) == "network_l2"
    variables["diverged_step"] = (
        ("arm", "seed"), _diverged(config, quadratic, linear, network["finite"], np.array(arms)),
        {"units": "1", "long_name": "first step or epoch that is not finite; -1: none"},
    )  # fmt: skip
    return xarray.Dataset(
        variables,
        {
            "arm": [*UPDATES, *LINEAR, *NETWORK],
            "seed": seeds,
            "update": list(UPDATES),
            "alpha": list(config.alphas),
            "linear_arm": list(LINEAR),
            "correlation": list(config.correlations),
            "penalty": ("condition", arms),
            "strength": ("condition", strengths),
            "rate": ("condition", rates),
            "l2_strength": ("l2_condition", np.array(strengths)[in_l2]),
        },
        {
            "data": data.name,
            "margin": config.margin,
            "cutoff": config.cutoff,
            "weights": config.weights,
            "informative": config.informative,
            "features": config.features,
            "image_shape": list(data.train.x.shape[1:3]),
            "pixels_that_vary": float((np.ptp(data.train.x.reshape(len(data.train.x), -1), 0) > 0)
                                      .mean()),
        },
    )  # fmt: skip


def _diverged(config, quadratic, linear, finite, arms) -> np.ndarray:
    """[arm, S]: a network's arm diverged when none of its rates is finite any more.

    A rate that is too high is a rate not chosen, no divergence of the arm.
    """
    from experiments.sparsity import BLOCK

    last = config.quadratic_steps, config.linear_steps
    rows = [
        np.where(np.isfinite(quadratic["closed_error"][:, i]).all(-1), -1, last[0])
        for i in range(len(UPDATES))
    ]
    for i in range(len(LINEAR)):
        good = np.isfinite(linear["linear_weights"][:, :, i]).all((-1, -2))
        rows.append(np.where(good, -1, last[1]))
    for name in NETWORK:
        lost = ~finite[:, :, arms == name].any(-1)  # [blocks, S]
        when = np.minimum((lost.argmax(0) + 1) * BLOCK, config.epochs)
        rows.append(np.where(lost.any(0), when, -1))
    return np.stack(rows).astype(np.int32)
