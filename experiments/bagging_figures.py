"""The figures of `bagging`, from its record alone; titles state what was found."""

import warnings

import numpy as np

from dlstudy import ensembles
from dlstudy.stats import rank_correlation
from experiments import bagging_claims as claims

WORDS = {
    "bagging": "rows, start and order",
    "bootstrap": "rows (bootstrap) alone",
    "init": "start alone",
    "order": "order alone",
    "init_order": "start and order",
}


def figures(record):
    """Yields (name, figure) for whatever the record holds."""
    for name, draw in (
        ("exact", exact), ("masks", masks), ("error", error), ("diversity", diversity),
        ("table", table),
    ):  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # medians of nothing, after divergence
            yield name, draw(record)


def _median(values, form="{:.3g}") -> str:
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return form.format(np.median(values)) if values.size else "unknown"


def _largest(values) -> str:
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return f"{values.max():.1e}" if values.size else "unknown"


def _seeds(record) -> str:
    return f"{record.sizes['seed']} seeds"


def exact(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    own = record["regression_log_p"]
    scaled = own.sel(averaging="weight scaling").values
    for axis, name in zip(axes, ("geometric mean", "arithmetic mean"), strict=True):
        other = own.sel(averaging=name).values
        plots.cloud(axis, scaled, other, f"{name} of all masks", 0)
        if name == "arithmetic mean":
            twice = own.sel(averaging="scaled twice").values
            plots.cloud(axis, scaled, twice, "weights scaled once too often", 1)
        low = np.nanmin(scaled) if np.isfinite(scaled).any() else -1.0
        axis.plot([low, 0], [low, 0], color="0.35", linewidth=1, linestyle=(0, (4, 3)),
                  label="equal")  # fmt: skip
        gap = record["regression_gap"].sel(averaging=name).values
        found = _largest(gap) if name == "geometric mean" else _median(gap)
        plots.labels(
            axis, f"Weight scaling and {name}: at most {found} nat apart",
            "log-probability by weight scaling (nat)", "log-probability by another rule (nat)",
        )  # fmt: skip
    units, share = record.attrs["exact_units"], record.attrs["exact_drop"]
    made.supxlabel(
        f"softmax regression on {units} pixels, {2**units} masks, {100 * share:g}% dropped; right "
        f"class of test images, {_seeds(record)}; titles: over all "
        "classes, left of all seeds, right of the median seed", fontsize=8,
    )  # fmt: skip
    return made


def masks(record):
    from dlstudy import plots

    made, axes = plots.figure(3, 1, 5.2)
    number = record.masks.values
    scaled = lambda name: record[f"predictor_{name}"].sel(predictor="weight scaling")  # noqa: E731
    spread = np.nanmedian(record["mask_variance"].values)
    axes[0].plot(number, spread / number, marker="o", markersize=4, label="mean of m masks "
                 "(variance of a mask / m)", **plots.style(0))  # fmt: skip
    far = {}
    for i, predictor in enumerate(("weight scaling", "scaled twice"), 1):
        values = claims.distance_from_masks(record, predictor)
        axes[0].axhline(np.nanmedian(values), label=predictor, linewidth=1.8, **plots.style(i))
        far[predictor] = record["predictor_geometric_distance"].sel(predictor=predictor).values
        axes[0].axhline(np.nanmedian(far[predictor]), label=f"{predictor}, from the geometric mean",
                        linewidth=0.9, **plots.style(i))  # fmt: skip
    if np.isfinite(axes[0].dataLim.intervaly).all():
        plots.logarithmic(axes[0], "xy")
    ratio = claims.distance_over_variance(record)
    as_many = _median(1 / np.where(ratio > 0, ratio, np.nan), "{:.2g}")
    times = _median(far["scaled twice"] / far["weight scaling"], "{:.2g}")
    plots.labels(
        axes[0], f"As near as {as_many} masks; scaled twice {times} times as far from geometric",
        "masks averaged", "squared distance from the mean over masks",
    )  # fmt: skip
    for axis, name, factor, unit, words in (
        (axes[1], "error", 100, "%", "test error (%)"),
        (axes[2], "negative_log_likelihood", 1, " nat", "negative log likelihood (nat)"),
    ):
        values = factor * record[f"mask_{name}"].transpose("seed", "masks").values
        plots.seeds_over(axis, number, values, "mean of m masks", 0, singles=False, marker="o")
        for i, predictor in enumerate(("weight scaling", "scaled twice", "geometric mean"), 1):
            own = factor * record[f"predictor_{name}"].sel(predictor=predictor).values
            label = f"{predictor} of {number[-1]} masks" if i == 3 else predictor
            axis.axhline(np.nanmedian(own), label=label, linewidth=1.6, **plots.style(i))
        axis.set_xscale("log")
        plots.logarithmic(axis, "x")
        one, all_of = _median(factor * scaled(name).values), _median(values[:, -1])
        plots.labels(axis, f"Weight scaling {one}{unit}, {number[-1]} masks {all_of}{unit}",
                     "masks averaged", words, legend=axis is axes[2])  # fmt: skip
    made.supxlabel(f"dropout network after the longest training; medians (and quartiles) of "
                   f"{_seeds(record)}", fontsize=8)  # fmt: skip
    return made


def error(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    k = record.k.values
    bagged, masked = (
        lambda name: (
            record[name].sel(sources="bagging").transpose("seed", "k").values.astype(float)
        ),
        lambda name: claims.of_chosen_masks(record, name),
    )
    of_arm = lambda arm: record["error"].sel(arm=arm).transpose("seed", "k").values  # noqa: E731
    for i, (values, words) in enumerate((
        (of_arm("bagging"), "k bagged models"),
        (masked("members_error"), f"k random masks, after {k[-1]} times the epochs"),
        (of_arm("dropout"), "dropout, k times the epochs"),
        (of_arm("wide"), "dropout, k times the units"),
        (of_arm("small"), "k bagged models of 1/k of the units"),
    )):  # fmt: skip
        plots.seeds_over(left, k, 100 * values, words, i, singles=False, marker="osD^v"[i])
    whole = 100 * np.nanmedian(claims.at_k(record, "error", "init", 1))
    if np.isfinite(whole):
        plots.reference(left, whole, "one model on the whole set")
    ends = [_median(100 * values[:, -1]) for values in (of_arm("bagging"), of_arm("dropout"))]
    plots.labels(left, f"k = {k[-1]}: bagging {ends[0]}% of test images wrong, dropout {ends[1]}%",
                 "k", "test error (%)")  # fmt: skip
    order = lambda name: record[name].sel(sources="order").transpose("seed", "k").values  # noqa: E731
    for i, (of, words) in enumerate((
        (bagged, f"bagging: own {WORDS['bagging']}"),
        (masked, "dropout: random masks of one network"),
        (order, f"models of their own {WORDS['order']}"),
    )):  # fmt: skip
        plots.seeds_over(right, k, of("parts_error"), words, i, singles=False, marker="osD"[i])
        line = ensembles.expected_error(of("variance"), of("covariance")[:, -1:], k)
        right.plot(k, np.nanmedian(line, 0), color="0.2", linewidth=1, linestyle=(0, (4, 3)),
                   label="v/k + (k-1)c/k, v and c of all" if i == 0 else None)  # fmt: skip
        floor = np.nanmedian(of("covariance")[:, -1])
        right.axhline(floor, color=plots.style(i)["color"], linewidth=0.9, linestyle=":",
                      label="c, its limit" if i == 0 else None)  # fmt: skip
    gap = np.asarray(claims.neighbour_gap(record), float)
    title = f"The line is off by {_median(100 * gap)}% at most (median seed); with c of the k"
    plots.labels(right, f"{title} by {_largest(100 * claims.identity_gap(record))}%", "k",
                 "squared error of the mean probabilities")  # fmt: skip
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        ticks = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= k[-1]]
        axis.set_xticks(ticks, [str(n) for n in ticks])
        axis.set_xticks([], minor=True)
    made.supxlabel(
        f"median and quartiles of {_seeds(record)}; {record.attrs['train_size']} training images; "
        "rates and shares dropped by the tuning split", fontsize=8,
    )  # fmt: skip
    return made


def diversity(record):
    from dlstudy import plots

    made, axes = plots.figure(3, 2, 5.2)
    of, k = claims.by_sources, int(record.k[-1])
    apart, together = "disagreement of two (%)", "correlation of two's errors, 0 or 1 an image (%)"
    gained = "test error of one less that of all (points)"
    panels = [
        (kind, of(record, name, kind), claims.gains(record, kind), words, gained, "gain")
        for kind in ("models", "masks")
        for name, words in (("disagreement", apart), ("correlation", together))
    ]
    panels.insert(
        2, ("models", of(record, "disagreement"), of(record, "members_error"), apart,
            "test error of all (%)", "error"),
    )  # fmt: skip
    whole_set = _median(claims.error_with_diversity_on_whole_set(record), "{:.2f}")
    for axis, (kind, x, y, x_words, y_words, name) in zip(axes[:5], panels, strict=True):
        _points(axis, record, kind, x, y)
        found = _median(rank_correlation(x, y), "{:.2f}")
        found += f" ({whole_set} without own rows)" if name == "error" else ""
        plots.labels(axis, f"{kind.capitalize()}: rank with {name} {found}", x_words,
                     y_words, legend=axis in (axes[0], axes[3]))  # fmt: skip
    ratios = []
    for kind in ("models", "masks"):
        v, c, whole = (of(record, name, kind) for name in ("variance", "covariance", "parts_error"))
        ratios.append(c / v)
        _points(axes[5], record, kind, c / v, whole / v)
    ratios = np.concatenate(ratios)
    if np.isfinite(ratios).any():
        line = np.array([np.nanmin(ratios), np.nanmax(ratios)])
        axes[5].plot(100 * line, 100 * (1 / k + (k - 1) / k * line), color="0.35", linewidth=1,
                     linestyle=(0, (4, 3)), label="1/k + (k-1)/k c/v, exact")  # fmt: skip
        axes[5].legend(frameon=False, fontsize=8.5, handles=axes[5].lines[-1:])
    shares = [_median(100 * of(record, "covariance", kind) / of(record, "variance", kind), "{:.2g}")
              for kind in ("models", "masks")]  # fmt: skip
    plots.labels(axes[5], f"Errors in common, c/v: models {shares[0]}%, masks {shares[1]}%",
                 "correlation of errors, c/v (%)", "squared error of all over that of one (%)",
                 legend=False)  # fmt: skip
    made.supxlabel(
        f"{k} models that differ in one or more things, or {k} random masks of a network that "
        f"trained {k} times as long; small: {_seeds(record)}, large: medians; rank correlations: "
        "of the median seed", fontsize=8,
    )  # fmt: skip
    return made


def _points(axis, record, kind, x, y):
    """Percentages of every seed and their medians, for each source of one kind, [sources, S]."""
    from dlstudy import plots

    first = 0 if kind == "models" else len(claims.members_of(record, "models"))
    for i, source in enumerate(claims.members_of(record, kind)):
        look = {"color": plots.style(first + i)["color"]}
        shape = "o^sDvPX*<>"[(first + i) % 10]
        drop = source.removeprefix("masks ")
        words = WORDS.get(source) or f"masks, {100 * float(drop):g}% of units dropped"
        axis.plot(100 * x[i], 100 * y[i], shape, markersize=3.5, alpha=0.4, **look)
        axis.plot([np.nanmedian(100 * x[i])], [np.nanmedian(100 * y[i])], shape, markersize=9,
                  markeredgecolor="black", label=words, **look)  # fmt: skip


def rows_of_table(record) -> list[tuple[str, ...]]:
    """Predictor, error, likelihood, calibration, bytes, training cost and passes, as text."""
    k, counts = int(record.k[-1]), int(np.max(record.attrs["counts"]))

    def row(words, values, arm, n, passes):
        error, likelihood, calibration = values
        size, cost = (float(record[name].sel(arm=arm, k=n)) for name in ("bytes", "training_cost"))
        return (
            words, f"{_median(100 * np.asarray(error, float))}%", _median(likelihood),
            _median(calibration), f"{size / 1000:.4g}", f"{cost / 1e6:.4g}", f"{passes}",
        )  # fmt: skip

    names = ("error", "negative_log_likelihood", "calibration_error")
    own = lambda arm, n: [claims.at_k(record, name, arm, n) for name in names]  # noqa: E731
    votes = [claims.of_sources(record, f"vote_{name}", "bagging") for name in names]
    many = [record[f"mask_{name}"].isel(masks=-1).values for name in names]
    masks = 2 ** int(record.attrs["exact_units"])

    def exact(words, averaging, passes):
        found = [record[f"regression_{name}"].sel(averaging=averaging).values for name in names]
        return row(f"softmax regression, {words}", found, "regression", 1, passes)

    return [
        row("one model, whole set", own("init", 1), "init", 1, 1),
        row(f"{k} bagged, mean", own("bagging", k), "bagging", k, k),
        row(f"{k} bagged, majority vote", votes, "bagging", k, k),
        row(f"{k} starts and orders, mean", own("init_order", k), "init_order", k, k),
        row(f"{counts} bagged of 1/{counts} of the units", own("small", counts), "small", counts,
            counts),
        row("dropout, weight scaling", own("dropout", 1), "dropout", 1, 1),
        row(f"dropout, {k} times the epochs", own("dropout", k), "dropout", k, 1),
        row(f"the same, {int(record.masks[-1])} masks", many, "dropout", k, int(record.masks[-1])),
        row(f"dropout, {counts} times the units", own("wide", counts), "wide", counts, 1),
        exact("weight scaling", "weight scaling", 1),
        exact(f"all {masks} masks, geometric", "geometric mean", masks),
        exact(f"all {masks} masks, arithmetic", "arithmetic mean", masks),
    ]  # fmt: skip


def table(record):
    from dlstudy import plots

    made, (axis,) = plots.figure(1, 1, 11.5, 4.4)
    heads = (
        "predictor", "test error", "negative log\nlikelihood (nat)", "calibration\nerror",
        "parameters\n(kB)", "training cost (million\ngradients x weights)", "passes to\npredict",
    )  # fmt: skip
    shown = axis.table(rows_of_table(record), colLabels=heads, loc="center", cellLoc="right",
                       colWidths=[0.3, *[0.11] * 4, 0.15, 0.11], edges="horizontal")  # fmt: skip
    shown.auto_set_font_size(False)
    shown.set_fontsize(9)
    shown.scale(1, 1.35)
    for (place, column), cell in shown.get_celld().items():
        cell.set_edgecolor("0.8")
        if column == 0:
            cell.set_text_props(ha="left")
        if place == 0:
            cell.set_height(1.9 * cell.get_height())
    axis.axis("off")
    k = int(record.k[-1])
    ratio = float(record["bytes"].sel(arm="bagging", k=k) / record["bytes"].sel(arm="dropout", k=k))
    packed = _median(record["zlib_ratio"].values, "{:.4g}")
    title = f"{k} models take {ratio:g} times the bytes of one, {packed} times after zlib"
    axis.set_title(title, fontsize=10.5, loc="left")
    made.supxlabel(
        f"medians of {_seeds(record)}; training cost: gradients of single examples x weights of "
        f"the network; the softmax regressions see {record.attrs['exact_units']} pixels, in "
        "float64", fontsize=8,
    )  # fmt: skip
    return made
