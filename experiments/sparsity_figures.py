"""The figures of `sparsity`, from its record alone; titles state what was found."""

import warnings

import numpy as np

from experiments import sparsity_claims as claims

UPDATES = {
    "proximal": "L1, proximal step",
    "source": "L1, source's update (2)",
    "falling": "the same, falling rate",
    "elastic_net": "elastic net, proximal",
    "l2": "L2",
}
ARMS = {
    "network_l2": "L2",
    "network_source": "L1, source's\nupdate (2)",
    "network_l1": "L1,\nproximal",
    "network_group": "groups",
}
ALPHA = "strength alpha of the penalty"


def figures(record):
    """Yields (name, figure)."""
    for name, draw in (
        ("zeros", zeros),
        ("closed_form", closed_form),
        ("trajectories", trajectories),
        ("path", path),
        ("matched", matched),
        ("pixels", pixels),
        ("features", features),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # medians of nothing, after divergence
            made = draw(record)
        yield name, made


def _median(values) -> float:
    values = np.asarray(values, float)
    return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")


def _share(values) -> str:
    """Median as a percentage; in words where there is none."""
    value = _median(values)
    return f"{100 * value:.3g}%" if np.isfinite(value) else "an unknown share"


def _seeds(record) -> str:
    return f"median, quartiles and single runs of {record.sizes['seed']} seeds"


def _path_axis(axis, values):
    """A logarithmic axis of strengths, linear next to 0 where 0 is one of them."""
    positive = [v for v in values if v > 0]
    if positive:
        if len(positive) < len(values):
            axis.set_xscale("symlog", linthresh=min(positive))
        else:
            axis.set_xscale("log")


def zeros(record):
    from dlstudy import plots

    made, (left, middle, right) = plots.figure(3, width=5.4, height=4.4)
    weights = record.attrs["weights"]
    best = 100 * claims.of_update(record, "closed_zeros", "proximal") / weights
    left.plot(record.alpha, np.median(best, 0), color="0.6", linewidth=5, label="L1's minimum")
    for i, (update, label) in enumerate(UPDATES.items()):
        share = 100 * claims.of_update(record, "zeros", update) / weights
        plots.seeds_over(left, record.alpha, share, label, i, marker=".")
        error = claims.of_update(record, "closed_error", update)
        positive = np.where(error > 0, error, np.nan)
        plots.seeds_over(middle, record.alpha, positive, label, i, singles=False, marker=".")
    found = [_share(s(record)) for s in (claims.proximal_zeros, claims.source_zeros)]
    title = f"Of the minimum's zeros the proximal step has {found[0]},\nupdate (2) {found[1]}"
    plots.labels(left, title, ALPHA, "weights at exactly 0, in 100")
    middle.set_yscale("log")
    worst = [_median(s(record)) for s in (claims.proximal_error, claims.source_error)]
    title = f"Proximal: {worst[0]:.1g} from the minimum at most,\nupdate (2): {worst[1]:.1g}"
    plots.labels(middle, title, ALPHA, "largest distance from the minimum / largest |w*|")
    for i, update in ((1, "source"), (4, "l2")):
        for name, words, line in (("cut_zeros", "called 0", "-"), ("cut_wrong", "wrongly", ":")):
            values = 100 * claims.of_update(record, name, update) / weights
            right.plot(
                record.alpha, np.median(values, 0), color=plots.CYCLE[i], linestyle=line,
                marker=".", label=f"{UPDATES[update]}, {words}",
            )  # fmt: skip
    cut = _median(claims.of_update(record, "cut_zeros", "l2").sum(1))
    title = f"Control: a cutoff at {record.attrs['cutoff']:g} afterwards\n"
    title += f"calls {cut:.3g} weights of L2 zero along the path"
    plots.labels(right, title, ALPHA, "weights, in 100")
    for axis in (left, middle, right):
        _path_axis(axis, record.alpha.values)
    made.supxlabel(
        f"quadratics of {weights} weights, float64; {_seeds(record)}; wrongly: called 0 and not 0 "
        "at the minimum, or vice versa", fontsize=8,
    )  # fmt: skip
    return made


def closed_form(record):
    from dlstudy import plots

    made, axes = plots.figure(2, 2, width=5.2, height=3.8)
    alpha = float(record.alpha[len(record.alpha) // 2])
    h, wanted = record["curvatures"].values, record["targets"].values
    ratio = _config(record)["l2_ratio"]
    line = np.linspace(-4, 4, 801)
    for i, (axis, update) in enumerate(
        zip(axes, ("proximal", "source", "elastic_net", "l2"), strict=True)
    ):
        ridge = {"elastic_net": ratio * alpha, "l2": alpha}.get(update, 0)
        w = record["end_weights"].sel(update=update).values
        x, y = h * wanted / (alpha or 1), (h + ridge) * w / (alpha or 1)
        curve = line if update == "l2" else np.sign(line) * np.maximum(np.abs(line) - 1, 0)
        axis.plot(line, curve, color="0.7", linewidth=4, label="closed form", zorder=0.5)
        near = np.abs(x) < 4
        plots.cloud(axis, x[near], y[near], "weights at the end", i)
        off = np.abs(y - (x if update == "l2" else np.sign(x) * np.maximum(np.abs(x) - 1, 0)))
        title = f"{UPDATES[update]}: {off.max():.1g} off at most"
        title += f", {int((w == 0).sum())} of {w.size} exactly 0"
        factor = {"elastic_net": "(H + alpha2) w / alpha", "l2": "(H + alpha) w / alpha"}.get(
            update, "H w / alpha"
        )
        plots.labels(axis, title, "H w* / alpha", factor)
        axis.set(xlim=(-4, 4), ylim=(-4, 4) if update == "l2" else (-3.2, 3.2))
    made.supxlabel(
        f"alpha = {alpha:g}, all weights of {record.sizes['seed']} seeds; in these coordinates the "
        "closed form (7.23) is one curve for all curvatures", fontsize=8,
    )  # fmt: skip
    return made


def _config(record):
    import json

    return json.loads(record.attrs["config"])


def trajectories(record):
    from dlstudy import plots

    made, axes = plots.figure(2, width=6.4, height=4.0)
    middle = len(record.alpha) // 2
    alpha = float(record.alpha[middle])
    shown = record["trajectories"].isel(seed=0)
    count = record.sizes["weight_shown"]
    h, wanted = (record[n].values[0, :count] for n in ("curvatures", "targets"))
    small = np.flatnonzero(h * np.abs(wanted) < alpha)[:4]
    for axis, update in zip(axes, ("source", "proximal"), strict=True):
        for i, weight in enumerate(small):
            values = shown.sel(update=update).values[weight]
            axis.plot(values, linewidth=1.3, label=f"weight {weight}", **plots.style(i))
        plots.reference(axis, 0, "their place at the minimum")
        crossings = _median(claims.of_update(record, "crossings", update)[:, middle])
        at_zero = _median(claims.of_update(record, "zeros_hit", update)[:, middle])
        of = _median(claims.of_update(record, "closed_zeros", update)[:, middle])
        title = f"{UPDATES[update]}: {crossings:.0f} crossings of 0 in all,\n"
        title += f"{at_zero:.3g} of {of:.3g} such weights end at exactly 0"
        plots.labels(axis, title, "step", "weight")
        axis.set_yscale("symlog", linthresh=0.02)
    made.supxlabel(
        f"alpha = {alpha:g}, seed {int(record.seed[0])}, weights that are 0 at the minimum; "
        f"counts: medians over {record.sizes['seed']} seeds, crossings of one weight; "
        "linear below 0.02",
        fontsize=8,
    )  # fmt: skip
    return made


def _best_rates(record, arm):
    """Strengths of an arm, and the place [S, strengths] of the rate of least tuning error."""
    own = np.flatnonzero(record["penalty"].values == arm)
    strengths = np.unique(record["strength"].values[own])
    error = record["tune_error"].values
    error = np.where(np.isfinite(error), error, np.inf)
    places = [own[record["strength"].values[own] == s] for s in strengths]
    return strengths, np.stack([p[error[:, p].argmin(1)] for p in places], 1)


def path(record):
    from dlstudy import plots

    made, (left, middle, right) = plots.figure(3, width=5.4, height=4.2)
    for i, (arm, label) in enumerate(ARMS.items()):
        strengths, places = _best_rates(record, arm)
        found = {
            name: 100 * np.take_along_axis(record[name].values.astype(float), places, 1)
            for name in ("zero_share", "tune_error", "test_error", "units_removed")
        }
        label = label.replace("\n", " ")
        plots.seeds_over(left, strengths, found["zero_share"], label, i, marker=".")
        plots.seeds_over(middle, strengths, found["test_error"], label, i, singles=False,
                         marker=".")  # fmt: skip
        right.plot(np.median(found["zero_share"], 0), np.median(found["test_error"], 0),
                   label=label, marker=".", **plots.style(i))  # fmt: skip
    most = {}
    for arm in ("network_l1", "network_l2", "network_source"):
        zero = np.take_along_axis(record["zero_share"].values, _best_rates(record, arm)[1], 1)
        most[arm] = _median(zero.max(1))
    title = f"At most {most['network_l1']:.0%} zeros with proximal L1,\n"
    title += f"{most['network_source']:.0%} with update (2), {most['network_l2']:.0%} with L2"
    plots.labels(left, title, "strength of the penalty", "weights at exactly 0, in 100")
    strengths = record["strength"].values
    for axis in (left, middle):
        _path_axis(axis, strengths)
    error = _share(claims.at_match(record, "test_error", "network_l2"))
    plots.labels(middle, f"The best L2 model errs on {error} of the test images",
                 "strength of the penalty", "test error, in 100")  # fmt: skip
    plots.percent_from_zero(middle)
    plots.labels(right, "What zeros cost: test error against zeros", "weights at exactly 0, in 100",
                 "test error, in 100")  # fmt: skip
    plots.percent_from_zero(right)
    made.supxlabel(f"{record.attrs['data']}; of each strength the rate with the least tuning "
                   f"error; {_seeds(record)}; right: medians", fontsize=8)  # fmt: skip
    return made


def _at_match(record, name):
    """Values [S] by label of the models compared, L2 with its smallest weights cut too."""
    found = {label: claims.at_match(record, name, arm) for arm, label in ARMS.items()}
    cut = claims.at_pruned_match(record, name)
    return {"L2": found.pop("L2"), "L2, smallest\ncut": cut, **found}


def matched(record):
    from dlstudy import plots

    made, axes = plots.figure(2, 2, width=6.0, height=3.6)
    for axis, (name, label) in zip(axes, (
        ("zero_share", "weights at 0"), ("units_removed", "hidden units left out"),
        ("pixels_read", "pixels read"), ("test_error", "test error"),
    ), strict=True):  # fmt: skip
        values = _at_match(record, name)
        for i, found in enumerate(values.values()):
            _strip(axis, i, 100 * found, plots.CYCLE[i])
        axis.set_xticks(range(len(values)), values, fontsize=8)
        own, l2, cut = values["L1,\nproximal"], values["L2"], values["L2, smallest\ncut"]
        title = f"{label.capitalize()}: L1 {_share(own)}, L2 {_share(l2)}, cut {_share(cut)}"
        plots.labels(axis, title, "", f"{label}, in 100")
        axis.set_ylim(bottom=0)
        axis.grid(False, axis="x")
    words = (
        "the model with most zeros of each arm within "
        f"{100 * record.attrs['margin']:g} in 100 of the best L2 model's tuning error; "
        f"dots: {record.sizes['seed']} seeds, bar: median"
    )
    missing = [arm for arm in ARMS if (claims.picked(record, arm) < 0).any()]
    if missing:
        words += f"; no match for some seeds of {', '.join(missing)}"
    made.supxlabel(words, fontsize=8)
    return made


def _strip(axis, place, values, colour):
    """Dots side by side in the order of the seeds, and their median."""
    values = np.asarray(values, float)
    offsets = np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else np.zeros(1)
    axis.scatter(place + offsets, values, s=14, color=colour, alpha=0.6, linewidths=0)
    if np.isfinite(values).any():
        axis.hlines(np.nanmedian(values), place - 0.35, place + 0.35, color=colour, linewidth=2.5)


def pixels(record):
    from dlstudy import plots

    arms = ("network_l2", "network_source", "network_l1", "network_group")
    made, axes = plots.figure(4, width=3.3, height=3.6)
    shape = np.atleast_1d(record.attrs["image_shape"])
    for axis, arm in zip(axes, arms, strict=True):
        place = claims.picked(record, arm)[0]
        axis.grid(False)
        axis.set_xticks([])
        axis.set_yticks([])
        name = ARMS[arm].replace("\n", " ")
        if place < 0:
            plots.labels(axis, f"{name}: no match", "", "")
            continue
        norm = record["shown_pixels"].values[place].reshape(shape)
        norm = np.where(np.isfinite(norm), norm, 0)
        image = axis.imshow(np.where(norm > 0, norm, np.nan), cmap="cividis", vmin=0)
        axis.set_facecolor("white")
        for y, x in np.argwhere(norm == 0) if norm.size <= 100 else ():
            axis.text(x, y, "0", ha="center", va="center", fontsize=7, color="0.4")
        bar = made.colorbar(image, ax=axis, shrink=0.75, location="bottom")
        bar.set_label("norm of a pixel's weights", fontsize=8)
        plots.labels(axis, f"{name}: reads {(norm > 0).sum()} of {norm.size}", "", "")
    varying = record.attrs["pixels_that_vary"]
    made.supxlabel(
        f"pixels that the first layer reads, seed {int(record.seed[0])}, at matched error; white: "
        f"all weights exactly 0; {varying:.0%} of the pixels vary at all", fontsize=8,
    )  # fmt: skip
    return made


def features(record):
    from dlstudy import plots

    made, (left, middle, right) = plots.figure(3, width=5.4, height=4.2)
    rho = record.correlation.values
    for i, (name, arm, label) in enumerate((
        ("f1", "linear_l1", "L1, not 0"), ("top_f1", "linear_l1", "L1, largest"),
        ("f1", "linear_l2", "L2, not 0"), ("top_f1", "linear_l2", "L2, largest"),
    )):  # fmt: skip
        values = record[name].sel(linear_arm=arm).values
        plots.seeds_over(left, rho, values, label, i, singles=False, marker=".")
    ends = _median(claims.quality(record)), _median(claims.quality_correlated(record))
    strong = rho[claims.place_of(record, True)]
    title = f"F1 of L1's features: {ends[0]:.2f}, at correlation {strong:g}: {ends[1]:.2f}"
    plots.labels(left, title, "correlation of neighbours", "F1 of the features")
    for i, (name, label) in enumerate((("precision", "precision"), ("recall", "recall"))):
        for j, arm in enumerate(("linear_l1", "linear_l2")):
            values = record[name].sel(linear_arm=arm).values
            words = f"{label}, {('L1', 'L2')[j]}"
            plots.seeds_over(middle, rho, values, words, 2 * j + i, singles=j == 0, marker=".")
    selected = [_median(claims.of_linear(record, "selected", arm, True)) for arm in
                ("linear_l1", "linear_l2")]  # fmt: skip
    title = f"At {strong:g} L1 selects {selected[0]:.3g}, L2 {selected[1]:.3g} of "
    title += f"{record.attrs['features']} features"
    plots.labels(middle, title, "correlation of neighbours", "by weights that are not 0")
    for axis in (left, middle):
        axis.set_ylim(0, 1.05)
    seed = record.isel(seed=0, correlation=0)
    place = np.arange(record.sizes["feature"])
    right.bar(place, seed["linear_truth"], color="0.75", width=0.9, label="truth")
    for i, arm in enumerate(("linear_l1", "linear_l2")):
        w = seed["linear_weights"].sel(linear_arm=arm).values
        used = w != 0
        right.plot(
            place[used], w[used], ("o", "x")[i], color=plots.CYCLE[i], markersize=4,
                   markerfacecolor="none", label=f"{('L1', 'L2')[i]}: {used.sum()} used",
        )  # fmt: skip
    number = int((seed["linear_truth"] != 0).sum())
    plots.labels(right, f"Seed {int(record.seed[0])}, independent: {number} features matter",
                 "feature", "weight (a weight of 0 is not drawn)")  # fmt: skip
    made.supxlabel(
        f"median and quartiles of {record.sizes['seed']} seeds; strength by the rule of one "
        "standard error on the tuning split; largest: as many as matter", fontsize=8,
    )  # fmt: skip
    return made
