"""The figures of `adaptive`, from its record alone; titles state what was found."""

import warnings

import numpy as np

from dlstudy import plots, search
from experiments import adaptive_problem_figures as problems
from experiments import adaptive_statistics as of
from experiments.adaptive_words import legend, median, number, seeds_line

NAMES = {
    "sgd": "SGD", "momentum": "momentum", "nesterov": "Nesterov", "adagrad": "AdaGrad",
    "rmsprop": "RMSProp", "rmsprop_nesterov": "RMSProp, Nesterov", "adam": "Adam",
    "averaged_momentum": "averaged momentum", "adam_uncorrected": "Adam, uncorrected",
    "amsgrad": "AMSGrad",
}  # fmt: skip
SPACES = {
    "sgd": "SGD: rate", "momentum": "momentum: rate, alpha",
    "adam": "Adam: rate, rho1, rho2, delta", "adam_fixed": "Adam, delta fixed at 1e-8",
}  # fmt: skip


def figures(record):
    """Yields (name, figure)."""
    for name, draw in (
        ("rates", rates), ("search", found_by_search), ("first_steps", problems.first_steps),
        ("peaks", peaks), ("pace", problems.pace), ("tracking", problems.tracking),
        ("reddi", problems.reddi), ("wilson", problems.wilson), ("scaling", scaling),
        ("oscillation", problems.oscillation), ("conformance", problems.conformance),
    ):  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # medians of nothing, after failures
            made = draw(record)
        if not made.get_supxlabel():
            made.supxlabel(seeds_line(record), fontsize=8)
        yield name, made


def rates(record):
    """Error against rate, and the interval within 10% of the best, for each optimizer."""
    made, (left, right) = plots.figure(2, height=4.6)
    rate, names = record["rate"].values, [str(name) for name in record["optimizer"].values]
    for i, name in enumerate(names):
        error = 100 * of.values(record, "tune_error", optimizer=name)
        marker = "o" if i >= len(plots.CYCLE) else ""  # colours come again
        plots.seeds_over(left, rate, error, NAMES[name], i, singles=False, marker=marker)
    left.set_xscale("log")
    plots.logarithmic(left, "y")
    best = {name: 100 * median(of.values(record, "tune_error", optimizer=name).min(1))
            for name in names}  # fmt: skip
    lowest = min(best, key=best.get)
    title = f"Best median tuning error: {NAMES[lowest]}, {number(best[lowest])}%"
    plots.labels(left, title, "learning rate", "tuning error (%)")
    legend(left, fontsize=7.5, ncols=5, loc="upper center",
                bbox_to_anchor=(0.5, -0.14))  # fmt: skip

    widths = {name: of.width(record, name) for name in names}
    order = sorted(names, key=lambda name: np.nan_to_num(median(widths[name]), nan=-1))
    for place, name in enumerate(order):
        usable = of.usable(record, name)
        for seed in range(len(usable)):
            spots = rate[usable[seed]]
            shift = place + 0.3 * ((seed + 0.5) / len(usable) - 0.5) * 2
            right.plot(spots, np.full(len(spots), shift), ".", markersize=2.5, alpha=0.7,
                       color=plots.CYCLE[names.index(name) % len(plots.CYCLE)])  # fmt: skip
    right.set_xscale("log")
    right.set_xlim(rate[0], rate[-1])
    words = [f"{NAMES[name]}\n{number(median(widths[name]))} decades" for name in order]
    right.set_yticks(range(len(order)), words, fontsize=7.5)
    cut = sum(int(np.isnan(width).sum()) for width in widths.values())
    at_edge = "no interval reaches the grid's edge" if not cut else f"{cut} reach the grid's edge"
    title = (
        f"Within 10% of its best: Adam {number(median(widths['adam']))} decades, momentum "
        f"{number(median(widths['momentum']))};\n{at_edge} (a row of dots for each seed)"
    )
    plots.labels(right, title, "learning rate", "", legend=False)
    return made


def found_by_search(record):
    """Expected test error of the best of K trials, and where the best trials lie."""
    made, (left, right) = plots.figure(2, height=4.4)
    trials = np.arange(1, record.sizes["trial"] + 1)
    ends = {}
    for i, (space, label) in enumerate(SPACES.items()):
        scores, told = (
            of.values(record, f"search_{name}", space=space)
            for name in ("tune_error", "test_error")
        )
        curves = 100 * search.expected_best(scores, told)
        look = plots.style(i)
        low, high = search.band(curves)
        left.fill_between(trials, low, high, color=look["color"], alpha=0.2, linewidth=0)
        left.plot(trials, curves.mean(0), label=label, linewidth=1.8, **look)
        ends[space] = curves.mean(0)
    plots.logarithmic(left, "xy")
    few = min(of.FEW, len(trials)) - 1
    title = (
        f"Of {few + 1} trials: Adam {number(ends['adam_fixed'][few])}%, momentum "
        f"{number(ends['momentum'][few])}%;\nof {len(trials)}: Adam (delta searched) "
        f"{number(ends['adam'][-1])}%, momentum {number(ends['momentum'][-1])}%, SGD "
        f"{number(ends['sgd'][-1])}%"
    )
    plots.labels(left, title, "trials K", "test error of the best of K (%), mean, 90% band")
    words = {"rate": "rate", "slow": "1 - alpha or rho1", "slower": "1 - rho2", "delta": "delta"}
    for i, space in enumerate(SPACES):
        for j, name in enumerate(words):
            place = of.values(record, "place", name=name, space=space)
            spread = np.linspace(-0.08, 0.08, len(place)) if len(place) > 1 else [0]
            right.plot(
                np.asarray(spread) + j + 0.2 * (i - 1.5),
                place,
                "osD^"[i],
                markersize=3.5,
                alpha=0.7,
                color=plots.CYCLE[i],
                label=SPACES[space] if j == 0 else None,
            )
    right.axhspan(0, of.EDGE, color="0.85")
    right.axhspan(1 - of.EDGE, 1, color="0.85")
    right.set(ylim=(-0.02, 1.25))
    right.set_xticks(range(len(words)), words.values())
    made.supxlabel(f"{record.sizes['seed']} seeds, each with its own trials", fontsize=8)
    place = record["place"]
    edge = ((place < of.EDGE) | (place > 1 - of.EDGE)).any("space")
    counted = [f"{words[n]}: {int(edge.sel(name=n).sum())}" for n in words]
    title = f"Seeds with a best trial at an edge of the range (grey):\n{', '.join(counted)}"
    plots.labels(right, title, "hyperparameter", "place of the best trial in its range (log)")
    legend(right, fontsize=7, ncols=2, loc="upper center")
    return made


def peaks(record):
    """The early peak of the loss with and without bias correction, and first losses at a rate."""
    made, (left, right) = plots.figure(2)
    rate = record["rate"].values
    labels = {"adam": "with correction", "adam_uncorrected": "without correction"}
    index = of.highest_usable(record, "adam")
    for i, (name, label) in enumerate(labels.items()):
        peak = of.values(record, "early_peak", optimizer=name)
        plots.seeds_over(left, rate, peak, label, i)
        losses = of.values(record, "early_loss", optimizer=name)
        shown = losses[np.arange(len(losses)), index]
        plots.seeds_over(right, record["early_step"].values + 1, shown, label, i)
    left.set_xscale("log")
    plots.logarithmic(left, "y")
    plots.logarithmic(right, "y")
    middle = median(rate[index])
    left.axvline(middle, color="0.5", linewidth=0.8, linestyle=":")
    ratio = [10 ** median(f(record)) for f in (of.peak_excess, of.peak_excess_own)]
    title = (
        f"At Adam's highest usable rate the peak is {number(ratio[0])} times as high\n"
        f"without; {number(ratio[1])} times with each at its own"
    )
    plots.labels(left, title, "learning rate (dotted: median highest usable)",
                 "largest early loss over the first")  # fmt: skip
    gain = number(10 ** median(of.usable_rate_gain(record)))
    title = f"First losses at that rate; correction\nallows rates {gain} times as high"
    plots.labels(right, title, "step", "loss of the batch (nats)")
    return made


def scaling(record):
    """What scaling the loss and one input does under Adam and under plain descent."""
    made, (left, right) = plots.figure(2, height=4.4)
    scale = record["loss_scale"].values
    words = {
        "adam": "Adam", "adam_no_delta": "Adam, no delta", "adam_scaled_delta": "Adam, delta x c",
        "sgd": "SGD", "sgd_matched": "SGD, rate / c",
    }  # fmt: skip
    for i, (arm, label) in enumerate(words.items()):
        change = np.maximum(of.values(record, "loss_change", scaling_arm=arm), 1e-17)
        plots.seeds_over(left, scale, change, label, i, marker="o")
    left.set(xscale="log", yscale="log")
    title = (
        "Scaling the loss changes Adam's curve by "
        f"{number(median(of.adam_delta_change(record)))},\nwithout delta by "
        f"{number(median(of.adam_loss_change(record)))}"
    )
    plots.labels(left, title, "the loss is multiplied by c", "largest relative change of the curve")
    scale = record["feature_scale"].values
    for i, (arm, label) in enumerate((("adam", "Adam"), ("sgd", "SGD"))):
        for j, moment in enumerate(("first", "last")):
            change = of.values(record, "feature_change", feature_arm=arm, moment=moment)
            at_one = change[:, scale == 1]
            after = "after the first step" if j == 0 else "after all"
            plots.seeds_over(right, scale, change / at_one, f"{label}, {after}", 2 * i + j,
                             singles=False, marker="o")  # fmt: skip
    plots.logarithmic(right, "xy")
    found = [
        median(of.exponent(record, arm, moment)) for moment in ("first", "last")
        for arm in ("adam", "sgd")
    ]  # fmt: skip
    title = (
        f"An input times c: its effect changes with c^{number(found[0])} under Adam, "
        f"c^{number(found[1])}\nunder SGD; after all steps c^{number(found[2])} and "
        f"c^{number(found[3])}"
    )
    plots.labels(right, title, "one input feature is multiplied by c",
                 "change of its effective weights, 1 at c = 1")  # fmt: skip
    return made
