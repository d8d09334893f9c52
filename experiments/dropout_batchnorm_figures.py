"""The figures of `dropout_batchnorm`, from its record alone; titles state what was found."""

import warnings

import numpy as np

from experiments import dropout_batchnorm_claims as claims

ARMS = {
    "after": "after BN",
    "before": "before BN",
    "after_recalibrated": "after BN, recalibrated",
    "before_recalibrated": "before BN, recalibrated",
    "none": "no BN",
}


def figures(record):
    """Yields (name, figure) for whatever the record holds."""
    for name, draw in (
        ("variance_ratio", variance_ratio),
        ("order", order),
        ("drop_rates", drop_rates),
        ("best_rate", best_rate),
        ("stability", stability),
        ("training", training),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # medians of nothing, after divergence
            yield name, draw(record)


def median(values, form="{:.3g}") -> str:
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return form.format(np.median(values)) if values.size else "unknown"


def percent(values) -> str:
    return median(100 * np.asarray(values, float), "{:.2f}%")


def seeds_of(record) -> str:
    return f"{record.sizes['seed']} seeds"


def judged(record) -> float:
    return float(record.attrs["judged_drop"])


def variance_ratio(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    layers = record.start_layer.values
    start = record.sel(start_p=0.5)
    for i, (name, words) in enumerate((
        ("met", "as the test meets it"), ("alone", "layers below set right"),
    )):  # fmt: skip
        values = start[f"start_{name}"].transpose("seed", "start_layer").values
        plots.seeds_over(left, layers, values, words, i, marker="os"[i])
    left.plot(layers, claims.RECTIFIED**layers, "x", color="0.2", markersize=9,
              label="0.405 to the power of the layer")  # fmt: skip
    trained = record.layer.values
    for i, arm in enumerate(("before", "after")):
        values = claims.by_layer(record, "ratio", arm)
        plots.seeds_over(right, trained, values, f"dropout {ARMS[arm]}", i, marker="os"[i])
        values = claims.by_layer(record, "ratio", arm, 0.0)
        plots.seeds_over(
            right, trained, values, f"dropout {ARMS[arm]}, p = 0", 2 + i, singles=False
        )
    for axis, numbers in ((left, layers), (right, trained)):
        plots.logarithmic(axis)
        plots.reference(axis, claims.RECTIFIED, "0.405: rectified normal, keep ½")
        axis.set_xticks(numbers)
    first = start["start_met"].isel(start_layer=0).values
    title = f"Before training, keep ½: {median(first)} at the first layer"
    y = "variance in the test / in training"
    plots.labels(left, title, "batch normalisation of layer", y)
    ratios = {arm: claims.by_layer(record, "ratio", arm)[:, -1] for arm in ("before", "after")}
    title = (
        f"Trained, p = {judged(record):g}, last layer: {median(ratios['before'])} before BN, "
        f"{median(ratios['after'])} after"
    )
    plots.labels(right, title, "batch normalisation of layer", y)
    made.supxlabel(f"median and quartiles of {seeds_of(record)}; running statistics in the test",
                   fontsize=8)  # fmt: skip
    return made


def order(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    arms = [arm for arm in ARMS if arm in record.arm.values]
    count = record.sizes["seed"]
    aside = np.linspace(-0.22, 0.22, count) if count > 1 else np.zeros(1)
    rate = f"p = {judged(record):g}"
    for axis, value, when in (
        (axes[0], claims.at_drop, f"at {rate}"), (axes[1], claims.at_best, "at the best p"),
    ):  # fmt: skip
        for i, arm in enumerate(arms):
            values = 100 * value(record, arm)
            colour = plots.style(i)["color"]
            axis.plot(i + aside, values, "o", color=colour, markersize=3.5, alpha=0.6,
                      label="a seed" if i == 0 else None)  # fmt: skip
            axis.plot([i - 0.32, i + 0.32], 2 * [np.nanmedian(values)], color=colour, linewidth=2.6,
                      label="median" if i == 0 else None)  # fmt: skip
        axis.set_xticks(range(len(arms)), [ARMS[arm].replace(", ", ",\n") for arm in arms],
                        fontsize=8)  # fmt: skip
        found = [percent(value(record, arm)) for arm in ("before", "after")]
        title = f"Test error {when}: {found[0]} with dropout before BN, {found[1]} after"
        plots.labels(axis, title, "", "test error (%)")
    low = min(axis.get_ylim()[0] for axis in axes)
    high = max(axis.get_ylim()[1] for axis in axes)
    for axis in axes:
        axis.set_ylim(low, high)
    made.supxlabel(f"{seeds_of(record)}; learning rate, and on the right p, by the tuning error; "
                   "recalibrated: statistics of the training images without dropout",
                   fontsize=8)  # fmt: skip
    return made


def drop_rates(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    drops = record.p.values
    for axis, arms in (
        (left, ("after", "before", "before_recalibrated")), (right, ("after", "none")),
    ):  # fmt: skip
        for arm in arms:
            index = list(ARMS).index(arm)
            plots.seeds_over(axis, drops, 100 * claims.tuned(record, arm).T, ARMS[arm], index,
                             marker="o")  # fmt: skip
    top = float(drops[-1])
    found = [percent(claims.at_drop(record, arm, top)) for arm in ("before", "after")]
    plots.labels(left, f"At p = {top:g}: {found[0]} before BN, {found[1]} after",
                 "p, rate of dropping", "test error (%)")  # fmt: skip
    found = [percent(claims.at_drop(record, arm, 0.0)) for arm in ("none", "after")]
    plots.labels(right, f"At p = 0: {found[0]} without BN, {found[1]} with it",
                 "p, rate of dropping", "test error (%)")  # fmt: skip
    made.supxlabel(f"median and quartiles of {seeds_of(record)}; learning rate by the tuning error",
                   fontsize=8)  # fmt: skip
    return made


def best_rate(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    drops = record.p.values
    for i, arm in enumerate(("none", "after")):
        counts = np.bincount(claims.best_place(record, arm), minlength=len(drops))
        place = np.arange(len(drops)) + (i - 0.5) * 0.38
        look = plots.style(i)
        left.bar(place, counts, 0.36, color=look["color"], label=ARMS[arm], hatch=("", "//")[i],
                 edgecolor="white")  # fmt: skip
        gains = 100 * claims.gain(record, arm)
        spots = i + (np.linspace(-0.2, 0.2, len(gains)) if len(gains) > 1 else np.zeros(1))
        right.plot(spots, gains, "o", color=look["color"], markersize=4, alpha=0.7)
        right.plot([i - 0.3, i + 0.3], 2 * [np.nanmedian(gains)], color=look["color"],
                   linewidth=2.6, label=f"median, {ARMS[arm]}")  # fmt: skip
    left.set_xticks(range(len(drops)), [f"{p:g}" for p in drops])
    left.yaxis.get_major_locator().set_params(integer=True)
    means = [f"{claims.best_drop(record, arm).mean():.2f}" for arm in ("none", "after")]
    plots.labels(left, f"Best p on average {means[0]} without BN, {means[1]} with it",
                 "p with the lowest tuning error", "seeds")  # fmt: skip
    right.set_xticks([0, 1], [ARMS["none"], ARMS["after"]])
    plots.reference(right, 0.0, "no gain")
    more = 100 * claims.interaction(record)
    title = f"Dropout's gain: {median(more, '{:+.2f}')} points more without BN (median of pairs)"
    plots.labels(right, title, "", "test error at p = 0 less at best p (points)")
    made.supxlabel(f"{seeds_of(record)}; p and learning rate by the tuning error", fontsize=8)
    return made


def training(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    drop, epochs = judged(record), record.epoch.values
    for axis, network in zip(axes, ("none", "after"), strict=True):
        found = []
        for i, p in enumerate((0.0, drop)):
            plots.seeds_over(axis, epochs, claims.curve(record, network, p), f"p = {p:g}", i)
            fell = 100 * (1 - 10 ** -claims.last_fall(record, network, p))
            found.append(f"{median(fell, '{:.0f}%')} at p = {p:g}")
        plots.logarithmic(axis)
        name = {"none": "Without BN", "after": "With BN, dropout after it,"}[network]
        title = f"{name} the last quarter of the epochs takes off\n{found[0]}, {found[1]}"
        plots.labels(axis, title, "epoch", "training loss, dropout on (nat)")
    made.supxlabel(f"median and quartiles of {seeds_of(record)}; mean over an epoch's batches; "
                   "learning rate by the tuning error", fontsize=8)  # fmt: skip
    return made


def stability(record):
    from dlstudy import plots

    made, (left, middle, right) = plots.figure(3, 1, 5.4)
    drops = record.p.values
    for i, arm in enumerate(("after", "before")):
        cost = np.stack([100 * claims.fast_cost(record, arm, p) for p in drops], 1)
        rough = np.stack([2 ** claims.rough(record, arm, p) for p in drops], 1)
        zeros = np.stack([claims.by_layer(record, "zeros", arm, p).mean(1) for p in drops], 1)
        spread = np.stack([claims.by_layer(record, "spread", arm, p).mean(1) for p in drops], 1)
        plots.seeds_over(left, drops, cost, f"dropout {ARMS[arm]}", i, marker="os"[i])
        plots.seeds_over(middle, drops, rough, f"dropout {ARMS[arm]}", i, marker="os"[i])
        plots.cloud(right, 100 * zeros, spread, f"dropout {ARMS[arm]}", i)
    at, top = f"At p = {judged(record):g}", float(record.rate.values[-1])
    found = [median(100 * claims.fast_cost(record, arm), "{:.1f}") for arm in ("before", "after")]
    title = f"{at}, rate {top:g} costs {found[0]} points before BN, {found[1]} after"
    plots.labels(left, title, "p, rate of dropping",
                 f"test error at learning rate {top:g} less the best (points)")  # fmt: skip
    title = f"{at} the loss is {median(2 ** claims.rougher(record))} times as rough before BN"
    plots.labels(middle, title, "p, rate of dropping",
                 "roughness of the training loss (octaves a step)")  # fmt: skip
    sparse = [median(100 * claims.by_layer(record, "zeros", arm).mean(1), "{:.0f}%")
              for arm in ("before", "after")]  # fmt: skip
    title = f"{at}, {sparse[0]} of BN's input is zero before, {sparse[1]} after"
    plots.labels(right, title, "zeros in BN's input while training (%)",
                 "fluctuation of the batch variance (relative)")  # fmt: skip
    made.supxlabel(
        f"{seeds_of(record)}: median and quartiles; left statistics measured again without "
        "dropout; middle mean over learning rates; right each seed and p at its best learning "
        "rate, mean over layers",
        fontsize=8,
    )
    return made
