"""The figures of `dropout`, from its record alone; titles state what was found."""

import warnings

import numpy as np

from experiments import dropout_claims as claims
from experiments import dropout_record as records


def figures(record):
    """Yields (name, figure)."""
    for name, draw in (
        ("ablation", ablation),
        ("correlation", correlation),
        ("noise", noise),
        ("convergence", convergence),
        ("optimum", optimum),
        ("capacity", capacity),
        ("capacity_time", capacity_time),
        ("test_error", test_error),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # medians of nothing, after divergence
            yield name, draw(record)


def _median(values, form="{:.2g}") -> str:
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return form.format(np.median(values)) if values.size else "unknown"


def _points(values) -> str:
    return _median(100 * np.asarray(values, float), "{:.1f}")


def _seeds(record) -> str:
    return f"median and quartiles of {record.sizes['seed']} seeds"


def _drop_words(drop) -> str:
    return f"{drop:g} dropped" if drop else "no dropout"


def _words(arm: str, record) -> str:
    kind, _, share = arm.partition("_")
    wider = f"{record.attrs['wider']} times as wide"
    named = {"plain": "no dropout", "l2": "L2 penalty, tuned", "wide": f"no dropout, {wider}"}
    return named.get(kind) or _drop_words(float(share))


def _logarithmic(axis, which="y"):
    """Logarithmic where something was drawn."""
    from dlstudy import plots

    for name in which:
        span = axis.dataLim.intervalx if name == "x" else axis.dataLim.intervaly
        if np.isfinite(span).all():
            plots.logarithmic(axis, name)


def _judged_name(record) -> str:
    return records.names([claims.judged(record)])[0]


def ablation(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    own, at = _judged_name(record), float(record.attrs["judged_fraction"])
    shown = ["plain", own, "wide", "l2"]
    others = [a for a in map(str, record.examined.values) if a not in shown]
    fractions = np.concatenate([[0], record.fraction.values])
    for axis, scaling in zip(axes, records.SCALINGS, strict=True):
        for i, arm in enumerate((*shown, *others)):
            more = 100 * claims.increase(record, arm, scaling)
            values = np.concatenate([np.zeros((len(more), 1)), more], 1)
            plots.seeds_over(axis, 100 * fractions, values, _words(arm, record), i,
                             singles=False, marker="o")  # fmt: skip
        lost = {arm: _points(claims.increase(record, arm, scaling, at)) for arm in shown}
        title = (
            f"{100 * at:g}% ablated: +{lost['plain']} points without dropout, +{lost[own]} with, "
            f"+{lost['wide']} wider"
        )
        words = "units left as they are" if scaling == "as_it_is" else "units left rescaled"
        plots.labels(axis, title, f"hidden units taken away (%), {words}",
                     "increase of test error (points)", legend=axis is axes[0])  # fmt: skip
    made.supxlabel(
        f"{_seeds(record)}; random sets of each layer's units, the same for all arms of one width; "
        "each arm at the rate with its lowest tuning error",
        fontsize=8,
    )
    return made


def correlation(record):
    from dlstudy import plots

    made, (axis,) = plots.figure(1, 1, 7.2)
    drops = record.p.values
    for i, layer in enumerate(record.layer.values):
        own = record["correlation"].sel(layer=layer)
        values = own.sel(examined=records.names(drops)).transpose("seed", "examined").values
        plots.seeds_over(axis, drops, values, f"hidden layer {layer}", i, marker="o")
        for j, arm in enumerate(("wide", "l2")):
            middle = np.nanmedian(own.sel(examined=arm).values)
            axis.plot([drops[0]], [middle], "D^"[j], color=plots.style(i)["color"], markersize=7,
                      fillstyle="none", label=f"layer {layer}, {_words(arm, record)}")  # fmt: skip
    less = claims.less_correlated(record)
    own = _drop_words(claims.judged(record))
    title = f"{own.capitalize()}: correlation {_median(-less, '{:+.3f}')} against none"
    plots.labels(axis, title, "share of hidden units dropped",
                 "mean |correlation| of two units of a layer")  # fmt: skip
    axis.set_ylim(bottom=0)
    made.supxlabel(f"{_seeds(record)}; test images, outputs after ReLU", fontsize=8)
    return made


def noise(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    own, epochs = record.sel(p=claims.judged(record)), record.checkpoint.values
    for i, (name, words) in enumerate((
        ("noise_total", "masks on, in all"), ("noise_masks", "part of the masks"),
        ("noise_examples", "part of the examples"), ("noise_off", "masks off"),
    )):  # fmt: skip
        values = own[name].transpose("seed", "checkpoint").values.astype(float)
        values = np.where(values > 0, values, np.nan)
        plots.seeds_over(left, epochs, values, words, i, singles=False, marker="o")
    _logarithmic(left)
    ratio = 2 ** np.asarray(claims.more_noise(record), float)
    words = _drop_words(claims.judged(record))
    title = f"{words.capitalize()}: tr Σ {_median(ratio)} times that with masks off"
    plots.labels(left, title, "epoch", "tr Σ of the gradient of one example (1)")
    drops = record.p.values
    for i, at in enumerate((0, len(epochs) // 2, len(epochs) - 1)):
        values = np.stack([
            claims.noise_ratio(record, "noise_total", "noise_off", drop)[:, at] for drop in drops
        ], 1)  # fmt: skip
        plots.seeds_over(right, drops, values, f"after {epochs[at]} epochs", i, singles=False,
                         marker="o")  # fmt: skip
    _logarithmic(right)
    share = 100 * claims.noise_ratio(record, "noise_masks", "noise_total", claims.judged(record))
    title = f"Masks are {_median(share, '{:.0f}')}% of the noise with {words}"
    plots.labels(right, title, "share of hidden units dropped", "tr Σ, masks on over off")
    made.supxlabel(
        f"{_seeds(record)}; at the same parameters, those of runs with so much dropout at one "
        "rate; medians in titles are over seeds and epochs",
        fontsize=8,
    )
    return made


def convergence(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    drops, target = record.p.values, float(record.attrs["target"])
    epochs, all_epochs = record.epoch.values, record.sizes["epoch"]
    for axis, name, words in (
        (axes[0], "train_loss", "off"), (axes[1], "masked_loss", "on")
    ):  # fmt: skip
        for i, drop in enumerate(drops):
            loss = claims.by_run(record, f"{name}_by_epoch", drop)
            to = claims.epochs_to(loss, target)
            end = claims.by_run(record, "train_loss", drop)
            # The fastest rate; where none gets there, the one that ends lowest.
            late = np.where(np.isfinite(end), end, 1e9) + 1e3
            best = np.where(np.isnan(to), late, to).argmin(1)
            values = loss[np.arange(len(best)), best]
            plots.seeds_over(axis, epochs, values, _drop_words(drop), i, singles=False)
        _logarithmic(axis)
        plots.reference(axis, target, f"target, {target:g} nat")
        found = [claims.to_target(record, drop, name) for drop in (0.0, claims.judged(record))]
        text = [
            f"at least {all_epochs}" if np.median(t) >= all_epochs else _median(t) for t in found
        ]
        own = _drop_words(claims.judged(record))
        title = f"Masks {words}: {text[0]} epochs to the target, {text[1]} with {own}"
        plots.labels(axis, title, "epoch", f"training loss, masks {words} (nat)",
                     legend=axis is axes[0])  # fmt: skip
    made.supxlabel(
        f"{_seeds(record)}, each at the rate that reaches the target first, or ends lowest where "
        "none does; masks on: mean over the epoch's steps",
        fontsize=8,
    )
    return made


def optimum(record):
    from dlstudy import plots

    made, (axis,) = plots.figure(1, 1, 7.6)
    drops = record.p.values
    most = record.sizes["epoch"]
    for i, (measure, words) in enumerate((
        (claims.to_target, f"to a training loss of {float(record.attrs['target']):g} nat"),
        (claims.to_best, "to within a tenth of the arm's lowest tuning loss"),
    )):  # fmt: skip
        values = np.stack([measure(record, drop) for drop in drops], 1)
        plots.seeds_over(axis, drops, values, words, i, marker="o")
    loss = record["averaged_train_loss"].transpose("seed", "rate", "averaged_epoch").values
    averaged = claims.fastest(claims.epochs_to(loss, float(record.attrs["target"])), np.nan)
    if np.isfinite(averaged).any():
        axis.plot([claims.judged(record)], [np.nanmedian(averaged)], "D", markersize=8,
                  fillstyle="none", color=plots.style(2)["color"],
                  label=f"to that loss, {record.attrs['masks']} masks averaged")  # fmt: skip
    _logarithmic(axis)
    plots.reference(axis, most, f"all {most} epochs: not reached, or later")
    own = _drop_words(claims.judged(record))
    times = [_median(2 ** np.asarray(s(record), float)) for s in
             (claims.more_epochs, claims.later_best)]  # fmt: skip
    left = _median(100 * np.asarray(claims.slowdown_left(record), float), "{:.0f}")
    title = (
        f"{own.capitalize()}: {times[0]} times the epochs to the loss, {times[1]} to the best; "
        f"{left}% left with masks averaged"
    )
    plots.labels(axis, title, "share of hidden units dropped", "epochs")
    tune = record["tune_loss_by_epoch"].sel(p=claims.judged(record)).min("rate")
    last = (tune.transpose("seed", "epoch").values.argmin(1) >= 0.9 * most - 1).sum()
    made.supxlabel(
        f"{_seeds(record)}; each arm and seed at its fastest rate; what is left of the slowdown is "
        f"in logarithms;\n{own}: lowest tuning loss in the last tenth of the epochs in {last} of "
        f"{record.sizes['seed']} seeds",
        fontsize=8,
    )
    return made


def capacity(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    widths, drops = record.width.values, record.capacity_p.values
    for i, drop in enumerate(drops):
        values = np.stack([claims.floor(record, width, drop) for width in widths], 1)
        plots.seeds_over(left, widths, values, _drop_words(drop), i, marker="o")
        plots.seeds_over(right, widths * (1 - drop), values, _drop_words(drop), i, marker="o")
    lifted = np.stack([
        np.nanmin(record["lifted_loss"].sel(width=w, capacity_p=claims.judged(record))
                  .transpose("seed", "capacity_rate").values, 1) for w in widths
    ], 1)  # fmt: skip
    words = f"{_drop_words(claims.judged(record))}, then a quarter more epochs without"
    plots.seeds_over(left, widths, lifted, words, len(drops), singles=False, marker="s")
    for axis, ticks in ((left, widths), (right, sorted({*widths, *(widths * (1 - drops[-1]))}))):
        _logarithmic(axis, "xy")
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_xticks([], minor=True)
    own, width = _drop_words(claims.judged(record)), record.attrs["judged_width"]
    times = [_median(10 ** np.asarray(s(record), float), "{:.3g}") for s in
             (claims.capacity_cost, claims.capacity_cost_of_kept)]  # fmt: skip
    plots.labels(left, f"{width} units, {own}: {times[0]} times the loss without", "hidden units",
                 "lowest training loss on random labels (nat)")  # fmt: skip
    plots.labels(right, f"As many units as are kept, without dropout: {times[1]} times",
                 "hidden units kept on average", "lowest training loss on random labels (nat)",
                 legend=False)  # fmt: skip
    made.supxlabel(f"{_seeds(record)}; {record.attrs['capacity_size']} images, masks off when "
                   "measured; lowest over rates and epochs", fontsize=8)  # fmt: skip
    return made


def capacity_time(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    when, width = record.milestone.values, int(record.attrs["judged_width"])
    own = claims.judged(record)
    kept = round(width * (1 - own))
    for axis, name, words, falling in (
        (axes[0], "capacity_loss", "off", claims.still_falling),
        (axes[1], "capacity_masked", "on", claims.still_falling_masked),
    ):  # fmt: skip
        curves = [(width, drop) for drop in record.capacity_p.values] + [(kept, 0.0)]
        for i, (units, drop) in enumerate(curves):
            values = np.stack([
                claims.floor(record, units, drop, name, at) for at in range(len(when))
            ], 1)  # fmt: skip
            plots.seeds_over(axis, when, values, f"{units} units, {_drop_words(drop)}", i,
                             singles=False, marker="o")  # fmt: skip
        _logarithmic(axis, "xy")
        part = 100 * (1 - 10 ** -np.asarray(falling(record), float))
        share = _median(part, "{:.0f}")
        title = f"Masks {words}, {_drop_words(own)}: falls {share}% in the second half"
        plots.labels(axis, title, "epochs of training", f"lowest loss so far, masks {words} (nat)",
                     legend=axis is axes[0])  # fmt: skip
    made.supxlabel(f"{_seeds(record)}; random labels; lowest over rates and epochs so far",
                   fontsize=8)  # fmt: skip
    return made


def test_error(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    drops = record.p.values
    for axis, prefix, size, better, arms in (
        (axes[0], "", "train_size", claims.gain, ("l2", "wide")),
        (axes[1], "small_", "small_size", claims.small_gain, ()),
    ):
        values = np.stack([claims.chosen_error(record, [drop], prefix) for drop in drops], 1)
        plots.seeds_over(axis, drops, 100 * values, "rate tuned for each share", 0, marker="o")
        best = claims.chosen_error(record, claims.dropped(record), prefix)
        plots.reference(axis, 100 * np.nanmedian(best), "share and rate tuned")
        for j, arm in enumerate(arms):
            error = 100 * record["whole_error"].sel(examined=arm).values
            axis.plot([0], [np.nanmedian(error)], "D^"[j], markersize=7, fillstyle="none",
                      color=plots.style(2 + j)["color"], label=_words(arm, record))  # fmt: skip
        gain = 100 * np.asarray(better(record), float)
        points = _median(gain, "{:+.1f}")
        title = f"{record.attrs[size]} training images: tuned dropout gains {points} points"
        plots.labels(axis, title, "share of hidden units dropped", "test error (%)")
        axis.set_ylim(bottom=0)
    made.supxlabel(f"{_seeds(record)}, each with its own test images; tuned: lowest tuning error",
                   fontsize=8)  # fmt: skip
    return made
