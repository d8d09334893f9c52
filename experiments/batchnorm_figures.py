"""The figures of `batchnorm`, from its record alone; titles state what was found."""

import warnings

import numpy as np

from experiments import batchnorm_claims as claims
from experiments.batchnorm_theory import LIMIT, growth

RUNS = {
    "none": "without BN",
    "bn": "with BN",
    "bn_fixed": "BN, gamma 1 and beta 0",
    "bn_noisy": "BN with noise after it",
}
ORDERS = {"iid": "i.i.d.", "few": "of about four classes", "class": "by class"}


def figures(record):
    """Yields (name, figure) for whatever the record holds."""
    for draw in (floor, rates, growth_by_batch, smoothness, shift, regularisation, gap, statistics,
                 test_batches, convergence, degradation):  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # medians of nothing, after divergence
            name = "growth" if draw is growth_by_batch else draw.__name__
            yield name, draw(record)


def median(values, form="{:.3g}") -> str:
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return form.format(np.median(values)) if values.size else "unknown"


def _times(logarithms) -> str:
    """The median of a ratio from its decadic logarithms."""
    return median(10.0 ** np.asarray(logarithms, float))


def _about(made, record, words: str):
    made.supxlabel(f"median and quartiles of {record.sizes['seed']} seeds; {words}", fontsize=8)


def _log(axis, which="y"):
    """Logarithmic axes, those on which there is anything positive to show."""
    from dlstudy import plots

    for name in which:
        low, high = getattr(axis.dataLim, f"interval{name}")
        if np.isfinite([low, high]).all() and high > 0:
            plots.logarithmic(axis, name)


def _finite(values, top=1e6):
    values = np.asarray(values, float)
    return np.where(np.isfinite(values) & (np.abs(values) < top), values, np.nan)


def floor(record):
    from dlstudy import plots

    made, (axis,) = plots.figure(1, 1, 8.2, 4.4)
    rate = record.floor_rate.values
    for i, arm in enumerate(record.floor_arm.values):
        values = record["floor"].sel(floor_arm=arm).transpose("seed", "floor_rate").values
        plots.seeds_over(axis, rate, _finite(values), RUNS[str(arm)], i, marker="os^"[i])
    _log(axis, "xy")
    title = (
        f"Floor of the loss over that without BN: {_times(claims.floor_affine(record))} times "
        f"with BN, {_times(claims.floor_fixed(record))} with gamma and beta fixed"
    )
    plots.labels(axis, title, "learning rate of Adam", "lowest training loss (nat)")
    fell = _times(claims.floor_falls(record))
    _about(made, record, f"random labels of {record.attrs['floor_images']} images, all one batch; "
           f"half the steps end at up to {fell} times this loss")  # fmt: skip
    return made


def rates(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    rate = record.rate.values
    for i, (run, words) in enumerate(RUNS.items()):
        values = claims.values_of(record, "curve", "seed", "rate", run=run)[..., -1]
        plots.seeds_over(
            left, rate, _finite(values, 100), words, i, singles=False, marker="os^D"[i]
        )
    _log(left, "xy")
    gain = median(2.0 ** claims.rate_gain(record))
    title = f"The largest stable rate with BN is {gain} times that without"
    plots.labels(left, title, "learning rate", "training loss at the end (nat)")
    for i, (run, words) in enumerate(RUNS.items()):
        how = {"run": run, "split": "tune", "mode": "running"}
        values = claims.values_of(record, "loss", "seed", "rate", **how)
        plots.seeds_over(right, rate, _finite(values, 100), words, i, singles=False,
                         marker="os^D"[i])  # fmt: skip
    _log(right, "xy")
    own = [median(2.0 ** claims.best_rate(record, run)) for run in ("none", "bn")]
    cost = _times(claims.untuned_cost(record))
    title = f"Best rates: {own[0]} without, {own[1]} with BN, which at {own[0]} has {cost} its loss"
    plots.labels(right, title, "learning rate", "tuning loss, running statistics (nat)",
                 legend=False)  # fmt: skip
    likeness = [median(record["similarity"].sel(pair=pair)) for pair in ("bn", "none_again")]
    _about(made, record, f"last hidden layers (CKA): BN and none {likeness[0]}, two starts without "
           f"{likeness[1]}")  # fmt: skip
    return made


def growth_by_batch(record):
    from dlstudy import plots

    made, (axis,) = plots.figure(1, 1, 8.2, 4.4)
    sizes = record.growth_batch.values
    values = claims.values_of(record, "growth", "seed", "growth_batch")
    line = np.unique(np.geomspace(sizes[0], sizes[-1], 80).astype(int))
    axis.plot(line, [growth(size) for size in line], color="0.35", linewidth=1.2,
              label="theory, infinitely wide")  # fmt: skip
    axis.plot(np.repeat(sizes[None], len(values), 0).ravel(), values.ravel(), "o", alpha=0.5,
              markersize=4, color=plots.style(0)["color"], label="a seed, with BN")  # fmt: skip
    plain = record["plain_growth"].values
    axis.plot(np.full(len(plain), sizes[-1]), plain, "s", alpha=0.5, markersize=4,
              color=plots.style(1)["color"], label="a seed, without BN")  # fmt: skip
    plots.reference(axis, LIMIT, f"π / (π - 1) = {LIMIT:.3f}")
    _log(axis, "x")
    axis.set_xticks(sizes, [f"{size}" for size in sizes])
    axis.set_xticks([], minor=True)
    found = [median(column, "{:.3f}") for column in values.T]
    title = f"Gradients grow by {', '.join(found)} a layer in batches of " + ", ".join(
        map(str, sizes)
    )
    plots.labels(axis, title, "batch size", "growth a layer of the squared gradient")
    made.supxlabel("before training, Linear-BN-ReLU; first layer and output aside", fontsize=8)
    return made


def smoothness(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    looks = record.look.values
    for axis, name in zip(axes, ("loss_range", "gradient_change"), strict=True):
        for i, (run, at, words) in enumerate((
            ("none", claims.at_best, "without BN, own rate"),
            ("bn", claims.at_best, "BN, own rate"),
            ("bn", claims.at_common, "BN, the best rate without it"),
        )):  # fmt: skip
            values = _finite(at(record, name, run))
            plots.seeds_over(axis, looks, values, words, i, singles=False, marker="os^"[i])
        _log(axis)
    title = (
        f"Range of the loss with BN: {_times(claims.range_ratio(record))} of that without, "
        f"{_times(claims.range_ratio_common(record))} at one rate"
    )
    plots.labels(axes[0], title, "epoch", "range of the loss along the step (nat)")
    title = f"Change of the gradient with BN: {_times(claims.gradient_ratio(record))} of that"
    plots.labels(axes[1], f"{title} without", "epoch", "largest relative change of the gradient",
                 legend=False)  # fmt: skip
    _about(made, record, "along the negative gradient, up to four times the step")
    return made


def shift(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    looks = record.look.values
    for axis, name in zip(axes, ("shift", "shift_cosine"), strict=True):
        for i, (run, at, words) in enumerate((
            ("none", claims.at_best, "without BN"), ("bn", claims.at_best, "with BN"),
            ("bn_noisy", claims.at_best, "BN with noise"),
            ("bn", claims.at_common, "BN, the best rate without it"),
        )):  # fmt: skip
            values = _finite(at(record, name, run)).mean(-1)
            plots.seeds_over(axis, looks, values, words, i, singles=False, marker="os^D"[i])
    _log(axes[0])
    title = (
        f"Shift with BN: {_times(claims.shift_ratio(record))} of that without, with noise "
        f"{_times(claims.noisy_shift(record))} of BN's"
    )
    plots.labels(axes[0], title, "epoch", "l2 distance of a layer's two gradients")
    title = f"Training loss with noisy BN: {_times(claims.noisy_loss(record))} of that without BN"
    plots.labels(axes[1], title, "epoch", "cosine of a layer's two gradients", legend=False)
    _about(made, record, "gradients before and after the step of the layers below, mean over "
           "layers; each at its own rate but for the last")  # fmt: skip
    return made


def regularisation(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    rate, own = record.size_rate.values, {"mode": "recalibrated"}
    batch = {"size": record.attrs["ghost_batch"], "order": "iid"} | own
    for i, (kind, how, words) in enumerate((
        ("size", batch, "noisy statistics"), ("ghost", own, "steady, ghost batch")
    )):  # fmt: skip
        loss, error = (
            claims.values_of(record, f"{kind}_{name}", "seed", "size_rate", "split", **how)
            for name in ("loss", "error")
        )
        both = loss[..., 2] - loss[..., 0], 100 * error[..., 2]
        for axis, values in zip(axes, both, strict=True):
            plots.seeds_over(axis, rate, _finite(values), words, i, marker="os"[i])
    for axis in axes:
        _log(axis, "x")
    gaps = claims.ghosts(record, "loss", "test") - claims.ghosts(record, "loss", "train")
    title = f"Gap at the best rates: {median(gaps[0])} nat with noise, {median(gaps[1])} without"
    plots.labels(axes[0], title, "learning rate", "test minus training loss (nat)")
    errors = 100 * claims.ghosts(record, "error", "test")
    title = f"Test error: {median(errors[0])}% with noise, {median(errors[1])}% without"
    plots.labels(axes[1], title, "learning rate", "test error (%)", legend=False)
    _about(made, record, f"batches of {record.attrs['ghost_batch']}; a ghost batch of "
           f"{record.attrs['ghost_images']} enters the statistics alone")  # fmt: skip
    return made


def _by_size(axis, record, of, orders=ORDERS):
    """Lines over the batch size, one for each order; of(order): [sizes, S]."""
    from dlstudy import plots

    sizes = record["size"].values
    for i, order in enumerate(orders):
        values = _finite(of(order)).T
        plots.seeds_over(axis, sizes, values, f"batches {ORDERS[order]}", i, singles=False,
                         marker="os^"[i])  # fmt: skip
    _log(axis, "x")
    axis.set_xticks(sizes, [f"{size}" for size in sizes])
    axis.set_xticks([], minor=True)


def gap(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    _by_size(axes[0], record, lambda order: claims.gaps(record, order))
    found = claims.gaps(record, "iid")
    title = f"Train/eval gap, i.i.d.: {median(found[0])} nat in the smallest batches, "
    plots.labels(axes[0], f"{title}{median(found[-1])} in the largest", "batch size",
                 "|loss, running - loss, batch statistics| (nat)")  # fmt: skip
    running = {"split": "train", "mode": "running"}
    _by_size(axes[1], record, lambda order: claims.at_sizes(record, "size_loss", order, **running))
    largest = [
        median(claims.at_sizes(record, "size_loss", order, **running)[-1]) for order in ORDERS
    ]
    title = f"Training loss in the largest batches: {largest[0]} i.i.d., {largest[2]} by class"
    plots.labels(axes[1], title, "batch size", "training loss, running statistics (nat)",
                 legend=False)  # fmt: skip
    _about(made, record, "training images, rates by the tuning loss: left with batch, right with "
           "running statistics")  # fmt: skip
    return made


def statistics(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    sizes = record["size"].values
    _by_size(axes[0], record, lambda order: claims.at_sizes(record, "mean_spread", order)[..., 0])
    count = record.attrs["train_size"] // sizes * sizes
    axes[0].plot(sizes, np.sqrt((count - sizes) / (sizes * (count - 1))), color="0.35",
                 linewidth=1, linestyle=(0, (4, 3)), label="√((n - B) / (B (n - 1)))")  # fmt: skip
    _log(axes[0])
    slopes = [median(claims.spread_slope(record, order)) for order in ("iid", "class")]
    title = f"Slope over all layers: {slopes[0]} in i.i.d. batches, {slopes[1]} by class"
    plots.labels(axes[0], title, "batch size", "spread of batch means (standard deviations)")
    for i, (name, words) in enumerate((
        ("last_sd", "losses of an epoch's batches, BN"),
        ("probe_sd", "same images, statistics of batches"),
    )):  # fmt: skip
        values = _finite(claims.at_sizes(record, name)).T
        plots.seeds_over(axes[1], sizes, values, words, 2 * i, singles=False, marker="o^"[i])
    plain, of = record["plain_size"].values, claims.without(record, "plain_last_sd")
    labels = ("the same without BN, a seed", None)
    for label, x, values in zip(labels, plain, of, strict=False):
        axes[1].plot(np.full(len(values), x), _finite(values), "s", markersize=3.5, alpha=0.5,
                     color=plots.style(1)["color"], label=label)  # fmt: skip
    _log(axes[1], "xy")
    axes[1].set_xticks(sizes, [f"{size}" for size in sizes])
    axes[1].set_xticks([], minor=True)
    times = [_times(of(record)) for of in (claims.small_fluctuation, claims.large_fluctuation)]
    title = f"Fluctuation with BN over without: {times[0]} in batches of {sizes[0]}, {times[1]}"
    plots.labels(axes[1], f"{title} of {sizes[-1]}", "batch size",
                 "standard deviation of the loss (nat)")  # fmt: skip
    _about(made, record, "left: first layer; right: i.i.d. batches")
    return made


def test_batches(record):
    from dlstudy import plots

    made, (axis,) = plots.figure(1, 1, 8.2, 4.4)
    sizes = record.test_size.values
    for i, (order, words) in enumerate((("iid", "i.i.d."), ("class", "by class"))):
        values = 100 * claims.in_test_batches(record, order)
        plots.seeds_over(axis, sizes, values, f"statistics of test batches {words}", i,
                         marker="os"[i])  # fmt: skip
    running = 100 * claims.at_best(record, "error", "bn", split="test", mode="running")
    if np.isfinite(running).any():
        plots.reference(axis, float(np.nanmedian(running)), "running statistics")
    _log(axis, "xy")
    found = 100 * claims.in_test_batches(record)
    title = (
        f"Test error: {median(running)}% with running statistics, {median(found[:, 0])}% in "
        f"batches of {sizes[0]}, {median(found[:, -1])}% in one of all {sizes[-1]}"
    )
    plots.labels(axis, title, "size of test batches", "test error (%)")
    _about(made, record, f"trained in i.i.d. batches of {record.attrs['batch_size']}")
    return made


def convergence(record):
    from dlstudy import plots

    made, (axis,) = plots.figure(1, 1, 8.2, 4.4)
    looks = record.look.values
    values = 100 * claims.at_best(record, "epoch_error", "bn")
    momenta = record.attrs["momentum"], record.attrs["slow_momentum"]
    names = ("all test images together", *(f"running, momentum {m:g}" for m in momenta))
    for i, words in enumerate(names):
        plots.seeds_over(axis, looks, values[..., i], words, i, marker="os^"[i])
    _log(axis)
    apart = [median(100 * of(record)) for of in (claims.short_fast, claims.short_slow)]
    title = (
        f"After {record.attrs['short_epochs']} epochs running statistics err {apart[0]} points "
        f"more at momentum {momenta[0]:g}, {apart[1]} at {momenta[1]:g}"
    )
    plots.labels(axis, title, "epoch", "test error (%)")
    _about(made, record, "the same runs: momentum changes no step of training")
    return made


def degradation(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    for axis, mode in zip(axes, ("running", "recalibrated"), strict=True):
        for i, order in enumerate(ORDERS):
            plots.cloud(axis, claims.spreads(record, order), 100 * claims.lost(record, order, mode),
                        f"batches {ORDERS[order]}", i)  # fmt: skip
        axis.axhline(0, color="0.35", linewidth=0.8)
    title = f"Rank correlation {median(claims.degradation_correlation(record))} (median seed)"
    plots.labels(axes[0], title, "spread of batch means in training (standard deviations)",
                 "test accuracy lost to running statistics (points)")  # fmt: skip
    few = [
        median(100 * claims.lost(record, "few", mode)[-1]) for mode in ("running", "recalibrated")
    ]
    title = f"Largest batches of four classes: {few[0]} points lost, {few[1]} after recalibration"
    plots.labels(axes[1], title, "spread of batch means in training (standard deviations)",
                 "the same to recalibrated statistics (points)", legend=False)  # fmt: skip
    made.supxlabel(
        f"{record.sizes['seed']} seeds, each batch size and order at the rate that is best with "
        "batch statistics; lost from test batches like those of training",
        fontsize=8,
    )
    return made
