"""The figures of `mnist_gradnorm`, from its record alone; titles state what was found."""

import json
import warnings

import numpy as np

from dlstudy import records
from dlstudy.curvature import RESIDUAL
from experiments import mnist_gradnorm_claims as claims

EPOCH = "epoch"


def figures(record):
    """Yields (name, figure) for whatever the record holds."""
    from matplotlib.ticker import MaxNLocator

    record = records.without_diverged(record)
    for name, draw, needs in (
        ("gradient_norms", gradient_norms, "grad_norm"),
        ("error", error, "test_error"),
        ("loss", loss, "train_loss"),
        ("signal_and_noise", signal_and_noise, "gradient_trace grad_norm"),
        ("taylor_budget", taylor_budget, "first_order"),
        ("curvature", curvature, "sharpness"),
        ("movement", movement, "displacement"),
        ("steps", steps, "update_norm"),
        ("rates", rates, "realised train_loss tune_error"),
        ("heads", heads, "head_test_error"),
    ):
        if not all(name in record for name in needs.split()):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # medians of nothing, after divergence
            made = draw(record)
        if made is not None:
            for axis in made.axes:
                if axis.get_xlabel().startswith(EPOCH):
                    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            yield name, made


def _median(values) -> float:
    return float(np.nanmedian(np.asarray(values, float)))


def _effect(statistic, record) -> float:
    """Median of a claim's statistic for a title; nan where the record does not allow it."""
    try:
        return _median(statistic(record))
    except (KeyError, IndexError, ValueError, StopIteration):
        return float("nan")


def _words(record, arm: str) -> str:
    return json.loads(record.attrs["arms"])[arm]


def _seeds(record) -> str:
    words = f"median, quartiles and single runs of {record.sizes['seed']} seeds"
    left_out = record.attrs.get("left_out")
    return f"{words}; left out, as diverged: seed {left_out}" if left_out else words


def _change(ratio: float) -> str:
    """A ratio in words: 'fall to 3%', 'grow 2.1-fold', 'stay level'."""
    if np.isnan(ratio):
        return "could not be compared with"
    if 0.9 <= ratio <= 1.1:
        return "stay level"
    return f"fall to {ratio:.2g} of" if ratio < 1 else f"grow {ratio:.2g}-fold over"


def _changed(ratio: float, what: str, since: str) -> str:
    joint = "" if 0.9 <= ratio <= 1.1 else f" {since}"
    return f"{what} {_change(ratio)}{joint}"


def _splits(record) -> list[str]:
    return [split for split in ("train", "tune", "test") if f"{split}_loss" in record]


def _norms(record, arm):
    norms = claims.norm_by_epoch(record, arm)
    return np.arange(1, norms.shape[1] + 1), norms


def gradient_norms(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    kept = _effect(claims.minibatch_norm_kept, record)
    plots.seeds_over(left, *_norms(record, "main"), "minibatch", 0)
    if "label_noise" in record.arm:
        plots.seeds_over(left, *_norms(record, "label_noise"), "minibatch, wrong labels added", 1)
    if "full_grad_norm" in record:
        full = record["full_grad_norm"]
        plots.seeds_over(left, record.epoch, full.sel(arm="main"), "full batch", 2)
    plots.logarithmic(left)
    title = _changed(kept, "Minibatch gradient norms", "the first epoch's")
    plots.labels(left, title, EPOCH, "l2 norm (nat per unit), median over steps")
    by_layer = record["layer_grad_norm"].sel(arm="main").values
    by_layer = by_layer.reshape(
        by_layer.shape[0], -1, record.attrs["steps_per_epoch"], by_layer.shape[-1]
    )
    for i, layer in enumerate(record.layer.values):
        norms = np.nanmedian(by_layer[..., i], 2)
        plots.seeds_over(right, np.arange(1, norms.shape[1] + 1), norms, str(layer), i)
    plots.logarithmic(right)
    plots.labels(right, "Minibatch gradient norm by layer", EPOCH, "l2 norm (nat per unit)")
    made.supxlabel(_seeds(record), fontsize=8)
    return made


def error(record):
    from dlstudy import plots

    made, (axis,) = plots.figure()
    for i, split in enumerate(_splits(record)):
        values = 100 * record[f"{split}_error"].sel(arm="main")
        plots.seeds_over(axis, record.epoch, values, f"{split} set", i)
    if "label_noise" in record.arm:
        noisy = 100 * record["test_error"].sel(arm="label_noise")
        plots.seeds_over(axis, record.epoch, noisy, "test set, wrong labels added", 3)
    plots.percent_from_zero(axis)
    last = _median(record["test_error"].sel(arm="main").isel(epoch=-1))
    plots.labels(axis, f"The test error ends at {last:.1%}", EPOCH, "misclassified (%)")
    made.supxlabel(_seeds(record), fontsize=8)
    return made


def loss(record):
    from dlstudy import plots

    made, (axis,) = plots.figure()
    for i, split in enumerate(_splits(record)):
        plots.seeds_over(
            axis, record.epoch, record[f"{split}_loss"].sel(arm="main"), f"{split} set", i
        )
    plots.logarithmic(axis)
    first, last = (record["train_loss"].sel(arm="main").isel(epoch=e) for e in (0, -1))
    title = f"The training loss goes from {_median(first):.2g} to {_median(last):.2g} nat"
    plots.labels(axis, title, EPOCH, "mean cross-entropy (nat)")
    made.supxlabel(_seeds(record), fontsize=8)
    return made


def signal_and_noise(record):
    from dlstudy import plots

    made, (axis,) = plots.figure()
    size, batch = record.attrs["train_images"], record.attrs["batch_size"]
    factor = (size - batch) / max(size - 1, 1)
    signal = np.square(record["full_grad_norm"].sel(arm="main"))
    noise = record["gradient_trace"].sel(arm="main") * factor / batch
    squares = claims.by_epoch(np.square(claims.in_arm(record, "grad_norm")), record)
    squares = np.nanmean(squares, 2)
    plots.seeds_over(axis, record.epoch, signal, "signal: squared full-batch norm", 0)
    plots.seeds_over(axis, record.epoch, noise, "noise: tr Σ / B, drawn without replacement", 1)
    plots.seeds_over(axis, record.epoch, signal + noise, "their sum", 2, singles=False)
    middles = np.arange(1, squares.shape[1] + 1) - 0.5
    plots.seeds_over(
        axis, middles, squares, "measured: mean squared minibatch norm", 6, singles=False
    )
    plots.logarithmic(axis)
    share = _median((noise / (signal + noise)).isel(epoch=-1))
    title = f"At the end {share:.0%} of a squared minibatch norm is noise"
    plots.labels(axis, title, EPOCH, "squared norm (nat² per unit²)")
    made.supxlabel(f"B = {batch}, N = {size}; {_seeds(record)}", fontsize=8)
    return made


def taylor_budget(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    parts = {
        name: claims.by_epoch(record[name].sel(arm="main"), record)
        for name in ("first_order", "second_order", "realised")
    }
    if not np.isfinite(parts["first_order"]).any():
        return None
    parts = {name: values[:, :, np.isfinite(values).any((0, 1))] for name, values in parts.items()}
    epochs = np.arange(1, parts["realised"].shape[1] + 1)
    first, second, actual = (parts[k] for k in ("first_order", "second_order", "realised"))
    for i, (values, label) in enumerate((
        (-first, "first order promises, g'd"),
        (second, "second order takes back, ½ d'Hd"),
        (-first - second, "both orders"),
        (-actual, "realised"),
    )):  # fmt: skip
        plots.seeds_over(left, epochs, np.nanmean(values, 2), label, (0, 1, 2, 6)[i])
    plots.logarithmic(left)
    ratio = _median(np.nanmean(second, 2) / -np.nanmean(first, 2))
    title = f"The second order takes back {ratio:.0%} of what the first promises"
    plots.labels(left, title, EPOCH, "decrease of the batch's loss in a step (nat), mean")
    late = slice(-claims.late_count(record), None)
    shown = [1e3 * values[:, late] for values in (actual, first, first + second)]
    plots.cloud(right, shown[0], shown[1], "first order", 0)
    plots.cloud(right, shown[0], shown[2], "both orders", 1)
    if np.isfinite(shown).any((1, 2, 3)).all():
        low, high = np.nanquantile(shown[0], [0.01, 0.995])
        right.plot([low, high], [low, high], color="0.35", linewidth=1, label="exact")
        bottom, top = np.nanquantile(shown[1:], [0.01, 0.995])
        right.set(xlim=(low, high), ylim=(min(low, bottom), max(high, top)))
    gain = _effect(claims.second_order_gain, record)
    title = f"The second order adds {gain:.2f} of explained variance (shown: late epochs)"
    plots.labels(right, title, "realised change (0.001 nat)", "predicted change (0.001 nat)")
    made.supxlabel(_seeds(record), fontsize=8)
    return made


def curvature(record):
    from dlstudy import plots

    rate, optimizer = _main_rate(record)
    second = "preconditioned_sharpness" in record
    made, axes = plots.figure(2 if second else 1)
    for i, (name, label) in enumerate((
        ("sharpness", "largest eigenvalue"), ("gradient_curvature", "along the gradient, g'Hg/g'g")
    )):  # fmt: skip
        plots.seeds_over(axes[0], record.epoch, _usable(record, name), label, i)
    if optimizer == "sgd":
        plots.reference(axes[0], 2 / rate, f"2 / rate = {2 / rate:g}")
    plots.logarithmic(axes[0])
    growth = _effect(lambda r: claims.growth(_usable(r, "sharpness"), r), record)
    title = _changed(growth, "Largest Hessian eigenvalues", "those after epoch 1")
    plots.labels(axes[0], title, EPOCH, "curvature (nat per unit²)")
    if second:
        values = _usable(record, "preconditioned_sharpness")
        plots.seeds_over(axes[1], record.epoch, values, "largest eigenvalue of P^(-½) H P^(-½)", 2)
        plots.reference(axes[1], 38 / rate, f"38 / rate = {38 / rate:g} (full-batch Adam)")
        plots.logarithmic(axes[1])
        last = _median(values.isel(epoch=-1)) * rate / 38
        title = f"Preconditioned sharpness ends at {last:.2g} of 38 / rate"
        plots.labels(axes[1], title, EPOCH, "curvature (nat)")
    made.supxlabel(f"curvature of {record.attrs['curvature_set']}; {_seeds(record)}", fontsize=8)
    return made


def _main_rate(record) -> tuple[float, str]:
    optimizer, rate = _words(record, "main").split(", rate ")
    return float(rate), optimizer


def _usable(record, name):
    """Values by epoch of the main arm; eigenvalues with too large a residual are left out."""
    values = record[name].sel(arm="main")
    if f"{name}_residual" not in record:
        return values
    return values.where(record[f"{name}_residual"].sel(arm="main") <= RESIDUAL)


def movement(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    for i, (name, label) in enumerate((
        ("displacement", "in this epoch"), ("distance", "since the start")
    )):  # fmt: skip
        plots.seeds_over(left, record.epoch, record[name].sel(arm="main"), label, i)
    kept = _effect(claims.late_displacement, record)
    title = _changed(kept, "Displacements of an epoch", "the first's")
    plots.labels(left, title, EPOCH, "l2 distance of the parameters")
    plots.logarithmic(left)
    if "churn" in record:
        plots.seeds_over(right, record.epoch, 100 * record["churn"].sel(arm="main"), "", 2)
        late = _effect(claims.late_churn, record)
        title = f"Late epochs change {late:.2%} of the test predictions"
        plots.labels(
            right, title, EPOCH, "predictions changed since the last evaluation (%)", legend=False
        )
        plots.percent_from_zero(right)
    made.supxlabel(_seeds(record), fontsize=8)
    return made


def steps(record):
    from dlstudy import plots

    made, (axis,) = plots.figure()
    arms = ["main", *[a for a in claims.fixed_arms(record)][:1]]
    for i, arm in enumerate(arms):
        x, y = (
            claims.by_epoch(claims.in_arm(record, name, arm), record)[:, 1:]
            for name in ("grad_norm", "update_norm")
        )
        if x.size:
            plots.cloud(axis, x, y, _words(record, arm), i)
    plots.logarithmic(axis, "xy")
    slope = _effect(claims.step_elasticity, record) if record.sizes["epoch"] > 2 else np.nan
    title = f"Within an epoch, a tenfold gradient makes the main arm's step {10**slope:.1f}-fold"
    plots.labels(axis, title, "minibatch gradient norm (nat per unit)", "l2 norm of the step")
    made.supxlabel("steps after the first epoch, a sample over seeds", fontsize=8)
    return made


def rates(record):
    from dlstudy import plots

    arms = claims.fixed_arms(record)
    if not arms:
        return None
    made, (left, right) = plots.figure(2)
    for i, arm in enumerate([*arms, "capped"]):
        values = record["train_loss"].sel(arm=arm)
        plots.seeds_over(left, record.epoch, values, _words(record, arm), i, singles=False)
    plots.logarithmic(left)
    best = _words(record, claims.best_fixed(record))
    plots.labels(left, f"Best on the tuning split: {best}", EPOCH, "training loss (nat)")
    rises = [claims.rises(record, arm).values for arm in (*arms, "capped")]
    names = [f"rate {arm.removeprefix('sgd_')}" for arm in arms]
    right.boxplot(rises, tick_labels=[*names, "capped"], widths=0.5)
    fewer = _effect(claims.fewer_rises, record)
    title = f"The cap avoids {fewer:.1f} rises in 100 steps at the largest rate"
    plots.labels(right, title, "plain gradient descent", "steps that raise their batch's loss (%)")
    made.supxlabel(_seeds(record), fontsize=8)
    return made


def heads(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    x = record.frozen_at
    plots.seeds_over(left, x, 100 * record["head_test_error"], "", 0, marker="o")
    gain = _effect(claims.head_gain, record)
    change = round(-100 * gain, 1) + 0.0  # not -0.0
    title = f"Learning the convolution early changes the test error by {change:+.1f} points"
    plots.labels(left, title, "epoch at which the convolution is frozen", "test error (%)")
    plots.seeds_over(right, x, record["feature_similarity"], "", 2, marker="o")
    right.ticklabel_format(axis="y", useOffset=False)
    first = record.frozen_at.values[0]
    early = _median(record["feature_similarity"].isel(frozen_at=0))
    title = f"After epoch {first} features have CKA {early:.4f} with the last"
    plots.labels(right, title, "epoch at which the convolution is frozen", "linear CKA")
    made.supxlabel(_seeds(record), fontsize=8)
    return made
