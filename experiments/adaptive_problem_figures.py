"""Figures of `adaptive` on problems with known answers; titles state what was found."""

import json

import numpy as np

from dlstudy import plots
from experiments import adaptive_problem_statistics as on
from experiments import adaptive_statistics as of
from experiments.adaptive_words import legend, median, number

EARLY = 40  # steps shown of the first


def first_steps(record):
    """Sizes of Adam's first steps with and without bias correction, and their ratio."""
    made, (left, right) = plots.figure(2)
    early = record["step"].values <= EARLY
    step = record["step"].values
    for i, (arm, label) in enumerate((
        ("adam", "with correction"), ("adam_uncorrected", "without (source's equations 5, 6)"),
    )):  # fmt: skip
        sizes = of.values(record, "step_size", step_arm=arm)
        plots.seeds_over(left, step[early], sizes[:, early], label, i, marker="o")
    first = 1 + median(of.first_step_uncorrected(record))
    title = f"Without correction Adam's first step is {number(first)} rates long"
    plots.labels(left, title, "step", "size of the step (rates), constant gradient")
    ratio = of.excess(record)
    plots.seeds_over(right, step, ratio, "measured", 0)
    exact = (1 - 0.9**step) / np.sqrt(1 - 0.999**step)
    right.plot(step, exact, ":", color="black", linewidth=1.6,
               label="(1 - 0.9^t) / sqrt(1 - 0.999^t)")  # fmt: skip
    right.set_xscale("log")
    peak, at = median(ratio.max(1)), median(step[ratio.argmax(1)])
    title = f"The excess peaks at {number(peak)} in step {number(at)}"
    plots.labels(right, title, "step", "step without over with correction")
    return made


def pace(record):
    """Steps of AdaGrad and RMSProp under a gradient of constant magnitude."""
    made, (axis,) = plots.figure(1, width=7.2, height=4.4)
    step = record["step"].values
    small = record.attrs["small_gradient"]
    words = {
        "adagrad": "AdaGrad, sum from 0", "adagrad_optax": f"Optax's, from 0.1, gradient {small:g}",
        "rmsprop": "RMSProp",
    }  # fmt: skip
    for i, (arm, label) in enumerate(words.items()):
        sizes = of.values(record, "step_size", step_arm=arm)
        plots.seeds_over(axis, step, sizes, label, i)
    axis.plot(step, step**-0.5, ":", color="black", linewidth=1.4, label="slope -1/2")
    axis.set(xscale="log", yscale="log")
    plots.reference(axis, 1.0, "the rate")
    slopes = [median(f(record)) - 0.5 for f in (on.adagrad_slope, on.optax_slope)]
    last = 1 + median(on.rmsprop_last(record))
    title = (
        f"AdaGrad's step falls with slope {number(slopes[0])}, Optax's with {number(slopes[1])};\n"
        f"RMSProp's tends to {number(last)} rates"
    )
    plots.labels(axis, title, "step", "size of the step (rates), constant magnitude")
    legend(axis, fontsize=8, loc="lower left", bbox_to_anchor=(0, 0.12))
    return made


def tracking(record):
    """Distance from a moving minimum, and step over gradient, in both worlds."""
    made, axes = plots.figure(2, 2, height=3.4)
    part = record["part"].values
    names = {"adagrad": "AdaGrad", "rmsprop": "RMSProp", "sgd": "SGD"}
    titles = (
        ("drift", on.drift_early, on.drift_whole, "drifting minimum"),
        ("calm", on.calm_early, on.calm_whole, "then small gradients"),
    )
    for row, (world, early, whole, words) in enumerate(titles):
        for column, (name, unit) in enumerate((
            ("track_error", "distance from the minimum (rms)"), ("track_gain", "step / gradient"),
        )):  # fmt: skip
            axis = axes[2 * row + column]
            for i, (tracker, label) in enumerate(names.items()):
                found = on.tracked(record, world, tracker, name, on.FIRST_QUARTER)
                found = np.sqrt(found) if column == 0 else found
                plots.seeds_over(axis, part, found, label, i, singles=False)
            plots.logarithmic(axis, "y")
            if column == 0:
                title = (
                    f"{words.capitalize()}: AdaGrad ends {number(10 ** median(early(record)))} "
                    f"times as far off as RMSProp\n(rates chosen on the first quarter; on the "
                    f"whole way {number(10 ** median(whole(record)))})"
                )
            else:
                slopes = [median(f(record)) for f in (on.adagrad_gain, on.rmsprop_gain)]
                title = (
                    f"AdaGrad's gain falls with slope {number(slopes[0])},\nRMSProp's with "
                    f"{number(slopes[1])} (log over log)" if row == 0
                    else f"Half way gradients shrink to {record.attrs['calm']:g}"
                )  # fmt: skip
            plots.labels(axis, title, "step", unit)
    return made


def reddi(record):
    """Ways on Reddi's losses."""
    made, (axis,) = plots.figure(1, width=7.2)
    words = {
        "adam": "Adam, rho2 = 1 / (1 + C²)",
        "adam_large_rho": f"Adam, rho2 = {record.attrs['reddi_hidden']:g}",
        "amsgrad": "AMSGrad",
    }  # fmt: skip
    for i, (arm, label) in enumerate(words.items()):
        path = of.values(record, "reddi_x", reddi_arm=arm)
        plots.seeds_over(axis, record["reddi_step"].values, path, label, i)
    axis.set_xscale("log")
    plots.reference(axis, -1.0, "optimum")
    ends = [median(of.values(record, "reddi_end", reddi_arm=arm)) for arm in words]
    title = (
        f"Adam ends at {number(ends[0])}, AMSGrad at {number(ends[2])}; the optimum is -1\n"
        f"(the larger rho2 hides it: {number(ends[1])})"
    )
    plots.labels(axis, title, "step", "x")
    return made


def wilson(record):
    """Accuracies on Wilson's data set, against the share of positives."""
    made, (axis,) = plots.figure(1, width=7.2)
    words = {
        "minimum_norm": "minimum\nnorm", "gradient_descent": "gradient\ndescent",
        "adagrad": "AdaGrad", "rmsprop": "RMSProp", "adam": "Adam",
        "adagrad_optax": "Optax's\nAdaGrad",
    }  # fmt: skip
    base = of.values(record, "base_rate")
    for i, arm in enumerate(words):
        accuracy = of.values(record, "wilson_accuracy", wilson_arm=arm)
        spread = np.linspace(-0.25, 0.25, len(accuracy)) if len(accuracy) > 1 else np.zeros(1)
        axis.plot(i + spread, accuracy, "o", markersize=4.5, color=plots.CYCLE[0],
                  label="accuracy" if i == 0 else None)  # fmt: skip
        axis.plot(i + spread, base, "_", markersize=7, color=plots.CYCLE[1],
                  label="share of positives" if i == 0 else None)  # fmt: skip
    axis.set_xticks(range(len(words)), words.values())
    axis.set_ylim(0, 1.05)
    shortest = median(on.wilson_shortest(record))
    gap, hidden = median(on.wilson_adaptive(record)), median(on.wilson_hidden(record))
    title = (
        f"The minimum-norm solution is right in {number(shortest)} of all cases, adaptive methods\n"
        f"in the share of positives to {number(gap)}; Optax's AdaGrad is {number(hidden)} off it"
    )
    plots.labels(axis, title, "", "accuracy on new examples (share)")
    legend(axis, fontsize=8.5, loc="lower left")
    return made


def oscillation(record):
    """Largest swing against rate, and reversals and swings at equal progress."""
    made, axes = plots.figure(3, 2, width=5.0, height=3.5)
    words = {"axis": "along the axes", "rotated": "rotated", "moving": "wandering"}
    names = {"sgd": "SGD", "rmsprop": "RMSProp"}
    goal = record.attrs["target"]
    grids = {"sgd": "descent_rate", "rmsprop": "rmsprop_rate"}
    for column, (problem, where) in enumerate(words.items()):
        top, below = axes[column], axes[3 + column]
        for i, (swinger, label) in enumerate(names.items()):
            index = median(on.fastest(record, problem, swinger))
            rate = record[grids[swinger]].values
            relative = rate / rate[int(index)] if np.isfinite(index) and index >= 0 else rate
            largest = of.values(record, "swing_largest", problem=problem, swinger=swinger)
            plots.seeds_over(top, relative, np.maximum(largest, 1e-3), label, i, singles=False)
        top.set(xscale="log", yscale="log")
        top.axvline(4, color="0.5", linewidth=0.8, linestyle=":")
        apart = number(10 ** median(on.too_high(record, problem)))
        plots.labels(top, f"{where.capitalize()}: at four times the best rate SGD\nswings "
                     f"{apart} times as far (swings counted to 1e6)",
                     "rate over the median fastest rate", "largest swing (starts)")  # fmt: skip
        equal, best = (on.swings(record, problem, "reversals", own) for own in (True, False))
        found = {
            "SGD": equal[0], "RMSProp\nas fast": equal[1],
            "SGD at\nits fastest": best[0], "RMSProp at\nits fastest": best[1],
        }  # fmt: skip
        for i, values in enumerate(found.values()):
            spread = np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else np.zeros(1)
            below.plot(i + spread, values, "osD^"[i], markersize=4, color=plots.CYCLE[i])
        below.set_xticks(range(4), list(found))
        below.set_ylim(-0.03, 1.03)
        medians = " / ".join(number(median(values)) for values in found.values())
        plots.labels(below, f"{where.capitalize()}: median reversals {medians}", "",
                     f"share of steps reversed\nuntil distance x {goal:g}")  # fmt: skip
    return made


def conformance(record):
    """A table: distance from the formula, and of Optax's default from it."""
    made, (axis,) = plots.figure(1, width=8.0, height=4.4)
    axis.axis("off")
    numbers = json.loads(record.attrs["algorithms"])
    rows = []
    for name, where in numbers.items():
        ours = of.values(record, "conformance", algorithm=name).max()
        theirs = record["optax_gap"].sel(algorithm=name).median("seed")
        gaps = [float(theirs.sel(schedule=schedule)) for schedule in ("constant", "falling")]
        shown = ["the same" if gap < 1e-9 else f"{100 * gap:.3g}%" for gap in gaps]
        rows.append([name, where, f"{ours:.1e}", *shown])
    columns = ["algorithm", "from", "largest distance\nfrom the formula",
               "Optax's default\nconstant rate", "Optax's default\nfalling rate"]  # fmt: skip
    table = axis.table(rows, colLabels=columns, loc="center", cellLoc="left",
                       colWidths=[0.26, 0.18, 0.2, 0.18, 0.18])  # fmt: skip
    table.auto_set_font_size(False)
    table.set_fontsize(8.5)
    table.scale(1, 1.35)
    for column in range(len(columns)):
        table[0, column].set_height(0.12)
    worst = float(record["conformance"].max())
    equal = sum(row[3] == "the same" for row in rows)
    title = (
        f"In 100 steps no algorithm is further than {number(worst)} from its formula; at a "
        f"constant\nrate Optax's default of the same or nearest name is the same in "
        f"{equal} of {len(rows)}"
    )
    made.supxlabel(
        f"largest distance over {record.sizes['seed']} seeds; else: median largest gap, in percent "
        "of the path's extent", fontsize=8,
    )  # fmt: skip
    plots.labels(axis, title, "", "", legend=False)
    return made
