"""The figures of `constraints`, from its record alone; titles state what was found."""

import warnings

import numpy as np

from experiments import constraints_claims as claims

SHOWN = 600  # points of a curve over steps


def figures(record):
    """Yields (name, figure) for whatever the record holds."""
    for name, draw in (
        ("diverged", diverged_fraction),
        ("stable_rate", stable_rate),
        ("training", training),
        ("column_norms", column_norms),
        ("dead", dead),
        ("lifted", lifted),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # medians of nothing, after divergence
            yield name, draw(record)


def words_of(arm: str) -> str:
    kind, _, strength = arm.partition("_")
    return {
        "none": "no constraint",
        "column": f"columns ≤ {strength}",
        "row": f"rows, as column {strength}",
        "frobenius": f"Frobenius, as column {strength}",
        "penalty": f"L2 penalty, λ = {strength}",
    }[kind]


def main_arms(record) -> list[str]:
    """One of each kind: few enough to tell apart."""
    return ["none", *(claims.middle(record, k) for k in ("column", "penalty", "row", "frobenius"))]


def _median(values, form="{:.3g}") -> str:
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return form.format(np.median(values)) if values.size else "unknown"


def _percent(values) -> str:
    return _median(100 * np.asarray(values, float), "{:.3g}%")


def _seeds(record) -> str:
    return f"{record.sizes['seed']} seeds"


def rates_of(record) -> np.ndarray:
    return float(record.attrs["rate"]) * record.multiplier.values.astype(float)


def diverged_fraction(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    rates, bounded = rates_of(record), claims.middle(record)
    shown = ["none", *claims.arms_of(record, "column"), *main_arms(record)[2:]]
    for i, arm in enumerate(shown):
        for axis, lost in (
            (left, claims.diverged(record, arm)), (right, ~claims.stable(record, arm))
        ):  # fmt: skip
            axis.plot(rates, 100 * lost.mean(1), marker="o", markersize=3.5, linewidth=1.6,
                      label=words_of(arm), **plots.style(i))  # fmt: skip
    for axis in (left, right):
        plots.logarithmic(axis, "x")
        axis.set_ylim(-3, 103)
    share = lambda arm: f"{100 * claims.diverged(record, arm).mean():.3g}%"  # noqa: E731
    title = (
        f"{share('none')} of all runs diverge without, {share(bounded)} with {words_of(bounded)}"
    )
    plots.labels(left, title, "learning rate", "runs that diverged (%)")
    share = lambda arm: f"{100 * (~claims.stable(record, arm)).mean():.3g}%"  # noqa: E731
    title = f"{share('none')} are not stable without, {share(bounded)} with {words_of(bounded)}"
    plots.labels(right, title, "learning rate", "runs that were not stable (%)", legend=False)
    made.supxlabel(
        f"{_seeds(record)} at each rate; diverged: a loss not finite or above ten times the "
        "start's; stable: neither that nor a training loss that ends above half its start",
        fontsize=8,
    )
    return made


def stable_rate(record):
    from dlstudy import plots

    made, (axis,) = plots.figure(1, 1, 9.0, 4.4)
    arms, rate = [str(arm) for arm in record.arm.values], float(record.attrs["rate"])
    count = record.sizes["seed"]
    aside = np.linspace(-0.24, 0.24, count) if count > 1 else np.zeros(1)
    weak = {arm: claims.largest_stable(record, arm, 1.0) for arm in arms}
    for i, arm in enumerate(arms):
        kind = ("none", "column", "penalty", "row", "frobenius").index(arm.split("_")[0])
        values = rate * 2 ** claims.largest_stable(record, arm)
        colour = plots.style(kind)["color"]
        axis.plot(i + aside, values, "o", color=colour, markersize=3.5, alpha=0.55,
                  label="a seed" if i == 0 else None)  # fmt: skip
        axis.plot([i - 0.34, i + 0.34], 2 * [np.nanmedian(values)], color=colour, linewidth=2.6,
                  label="median" if i == 0 else None)  # fmt: skip
        label = "median by the weak rule: ends below its start" if i == 0 else None
        axis.plot([i - 0.34, i + 0.34], 2 * [rate * 2 ** np.nanmedian(weak[arm])], color="0.35",
                  linewidth=1.2, linestyle=":", label=label)  # fmt: skip
    if np.isfinite(axis.dataLim.intervaly).all():
        axis.set_yscale("log", base=2)
        plots.logarithmic(axis)
    rates = rates_of(record)
    axis.set_ylim(rates[0] / 1.3, rates[-1] * 1.6)
    axis.set_yticks(rates)
    axis.set_yticks([], minor=True)
    axis.set_yticklabels([f"{r:g}" for r in rates])
    axis.set_xticks(range(len(arms)), [words_of(arm).replace(", ", ",\n") for arm in arms],
                    fontsize=8, rotation=20)  # fmt: skip
    gain = claims.rate_gain(record)
    title = (
        f"Largest stable rate with {words_of(claims.middle(record))}: {_median(2.0**gain)} times "
        "that of no constraint (median over seeds)"
    )
    plots.labels(axis, title, "", "largest stable learning rate")
    made.supxlabel(f"{_seeds(record)}; lowest and highest rate of the grid: {rates[0]:g} and "
                   f"{rates[-1]:g}", fontsize=8)  # fmt: skip
    return made


def training(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    groups = (main_arms(record), ["none", *claims.arms_of(record, "column")])
    for axis, arms in zip((left, right), groups, strict=True):
        for i, arm in enumerate(arms):
            values = claims.at_best(record, "minibatch_loss", arm)
            plots.seeds_over(axis, record.epoch, values, words_of(arm), i, singles=i < 2)
        if np.isfinite(axis.dataLim.intervaly).all():
            plots.logarithmic(axis)
        axis.xaxis.get_major_locator().set_params(integer=True)
    bounded = claims.middle(record)
    ratio = 10.0 ** claims.optimisation_cost(record)
    title = f"{words_of(bounded)}: training loss {_median(ratio)} times that of no constraint"
    plots.labels(left, title[0].upper() + title[1:], "epoch", "mean loss of the batches (nat)")
    ends = [_median(claims.at_best(record, "train_loss", arm), "{:.2g}") for arm in groups[1]]
    plots.labels(right, f"No constraint, then radii: ends at {', '.join(ends)}", "epoch",
                 "mean loss of the batches (nat)")  # fmt: skip
    made.supxlabel(f"median and quartiles of {_seeds(record)}, each arm and seed at the rate with "
                   "the lowest tuning loss", fontsize=8)  # fmt: skip
    return made


def column_norms(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    steps = record.step.values
    kept = np.unique(np.linspace(0, len(steps) - 1, min(SHOWN, len(steps))).astype(int))
    bounded, bound = claims.middle(record), float(record.attrs["middle_radius"])
    last = record.multiplier.values[-1]
    views = (
        lambda name, arm: claims.at_best(record, name, arm),
        lambda name, arm: (
            record[name].sel(arm=arm, multiplier=last).transpose("seed", "step").values
        ),
    )
    for axis, view in zip(axes, views, strict=True):
        free = view("free_column_norm", bounded)[:, kept]
        plots.seeds_over(axis, steps[kept], free, f"{words_of(bounded)}, before projecting", 5,
                         singles=False)  # fmt: skip
        for i, arm in enumerate(main_arms(record)):
            values = view("column_norm", arm)[:, kept].astype(float)
            values = np.where(np.isfinite(values) & (values < 1e30), values, np.nan)
            plots.seeds_over(axis, steps[kept], values, words_of(arm), i, singles=False)
        if np.isfinite(axis.dataLim.intervaly).all():
            plots.logarithmic(axis)
        plots.reference(axis, bound, f"the bound, {bound:g}")
    over = np.asarray(claims.overshoot(record), float)
    title = f"Largest column at each arm's best rate; bounds exceeded by {_most(over)} at most"
    plots.labels(axes[0], title, "step", "largest norm of a unit's incoming weights")
    before = _median(1 + np.asarray(claims.overshoot_before(record), float), "{:.0f}")
    top = f"{rates_of(record)[-1]:g}"
    title = f"At rate {top}; before projecting {before} times a bound (median seed)"
    plots.labels(axes[1], title, "step", "largest norm of a unit's incoming weights", legend=False)
    made.supxlabel(
        f"median and quartiles of {_seeds(record)} after every step, as long as the weights are "
        "finite; exceeded and before projecting: over all radii, rates and steps",
        fontsize=8,
    )
    return made


def _most(values) -> str:
    values = values[np.isfinite(values)]
    return f"{max(values.max(), 0):.1e}" if values.size else "an unknown part"


PATHS = (("penalty", "L2 penalty"), ("projection", "columns bounded"))


def path_lines(axis, record, name: str, index: int = 0):
    """Medians of a share over that of the training error, along both paths, and all runs."""
    from dlstudy import plots

    for i, (path, label) in enumerate(PATHS):
        errors = 100 * record[f"{path}_train_error"].transpose(..., "seed").values
        shares = 100 * record[f"{path}_{name}"].transpose(..., "seed").values
        look = plots.style(index + i)
        axis.plot(errors.ravel(), shares.ravel(), "o", color=look["color"], markersize=2.5,
                  alpha=0.3)  # fmt: skip
        axis.plot(np.nanmedian(errors, 1), np.nanmedian(shares, 1), marker="os"[i], markersize=5,
                  linewidth=1.8, label=label, **look)  # fmt: skip


def dead(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    target = 100 * float(record.attrs["match_error"])
    for axis, name, words, spared in (
        (axes[0], "dead", "without weight", claims.dead_spared(record)),
        (axes[1], "inactive", "off at every input", claims.inactive_spared(record)),
    ):
        path_lines(axis, record, name)
        if np.isfinite(axis.dataLim.intervalx).all():
            axis.set_xscale("log")
            plots.logarithmic(axis, "x")
        axis.axvline(target, color="0.35", linewidth=1, linestyle=(0, (4, 3)),
                     label=f"compared at {target:g}%")  # fmt: skip
        found = [_percent(claims.at_match(record, path, name)) for path, _ in PATHS]
        matched = int(np.isfinite(spared).sum())
        title = f"{words.capitalize()}: {found[0]} with a penalty, {found[1]} with projection"
        plots.labels(axis, f"{title} ({matched} seeds)", "training error (%)",
                     f"hidden units {words} (%)")  # fmt: skip
    made.supxlabel(
        f"each dot a run, lines medians of {_seeds(record)}, from none to the strongest; without "
        "weight: product of the norms of incoming and outgoing weights below 0.001",
        fontsize=8,
    )
    return made


def lifted(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    for axis, (path, label), dim, words in zip(
        axes, PATHS, ("penalty", "radius"), ("penalty λ", "largest norm of a column"), strict=True
    ):
        x = record[dim].values[1:]
        for i, (name, when) in enumerate((
            ("dead", "before it is lifted"), ("lifted_dead", "after as many epochs without"),
            ("still_dead", "both times"),
        )):  # fmt: skip
            values = 100 * record[f"{path}_{name}"].transpose("seed", dim).values[:, 1:]
            plots.seeds_over(axis, x, values, when, i, singles=False, marker="o")
        plots.logarithmic(axis, "x")
        before = record[f"{path}_dead"].values[1:]
        now = record[f"{path}_still_dead"].values[1:]
        share = f"{100 * np.nansum(now) / np.nansum(before):.3g}%" if np.nansum(before) else "none"
        title = f"{label}, then lifted: {share} of the dead units stay dead"
        plots.labels(axis, title[0].upper() + title[1:], words, "units without weight (%)")
    axes[1].invert_xaxis()
    made.supxlabel(f"median and quartiles of {_seeds(record)}; stronger to the right; the titles "
                   "sum over all strengths", fontsize=8)  # fmt: skip
    return made
