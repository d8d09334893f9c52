"""The figures of `early_stopping`, from its record alone; titles state what was found."""

import json
import warnings

import numpy as np

from experiments import early_stopping_claims as claims

STEP = "step"
ERROR = "test error (%)"
SHORT = {
    "stopped": "7.1", "retrain_steps": "7.2\nsteps", "retrain_epochs": "7.2\npasses",
    "continue_last": "7.3\nfrom stop", "continue_best": "7.3\nfrom best",
    "decayed": "L2", "neither": "neither",
}  # fmt: skip
ALGORITHMS = tuple(SHORT)[:5]


def figures(record):
    """Yields (name, figure)."""
    for name, draw in (
        ("curves", curves),
        ("algorithms", algorithms),
        ("arms", arms),
        ("cost", cost),
        ("patience", patience),
        ("peeking", peeking),
        ("tuning", tuning),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # medians of nothing, after divergence
            yield name, draw(record)


def _median(values) -> float:
    return float(np.nanmedian(np.asarray(values, float)))


def _points(value: float) -> str:
    """A difference of errors in percentage points, for the middle of a sentence."""
    return f"{100 * value:.1f}" if np.isfinite(value) else "an unknown number of"


def _better(value: float, than: str) -> str:
    """A gain in test error in words."""
    if not np.isfinite(value):
        return f"cannot be compared with {than}"
    if value == 0:
        return f"does as well as {than}"
    return f"errs {_points(abs(value))} points {'less' if value > 0 else 'more'} than {than}"


def _words(record):
    return json.loads(record.attrs["arms"])


def _seeds(record) -> str:
    words = f"{record.sizes['seed']} seeds, patience {record.attrs['main_patience']}"
    bad = int((record["diverged_step"] >= 0).any("arm").sum())
    return f"{words}; {bad} with an arm that diverged" if bad else words


def _dots(axis, rows, names):
    """Each seed as a dot, seeds joined across columns, and the median as a bar."""
    from dlstudy import plots

    values = np.stack(rows, 1)
    places = np.arange(values.shape[1])
    axis.plot(places, values.T, color="0.6", linewidth=0.5, alpha=0.5, zorder=1)
    for i, column in enumerate(values.T):
        look = plots.style(i)["color"]
        axis.plot(np.full(len(column), i), column, "o", color=look, markersize=3.5, alpha=0.7)
        middle = np.nanmedian(column)
        axis.plot([i - 0.3, i + 0.3], [middle, middle], color=look, linewidth=2.5)
    axis.set_xticks(places, names)
    axis.set_xlim(-0.6, len(names) - 0.4)


def curves(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    every, main = record.attrs["every"], record.attrs["main_patience"]
    for i, name in enumerate(("train_loss", "valid_loss", "test_loss")):
        label = {"train": "sub-training set", "valid": "validation set",
                 "test": "test images, true labels"}[name[:-5]]  # fmt: skip
        plots.seeds_over(left, record.step, claims.curve(record, name), label, i, singles=False)
    best = record["best_step"].sel(patience=main).values
    left.axvline(_median(best), color="0.35", linewidth=1, linestyle=(0, (4, 3)),
                 label="i*, median")  # fmt: skip
    ends = claims.curve(record, "valid_loss")
    rise = _median(ends[:, -1] / np.nanmin(ends, 1))
    title = f"Without a stop the validation loss ends at {rise:.3g} times its least"
    plots.labels(left, title, STEP, "cross-entropy (nat)")
    left.set_ylim(bottom=0)

    # One seed, with everything the three algorithms do after another.
    seed = int(record.seed[0])
    own = record.isel(seed=0).sel(patience=main)
    path = record["curve_valid_loss"].sel(trajectory="stopped").isel(seed=0)
    stop = int(own["evaluations"]) * every
    shown = path.step <= stop
    right.plot(path.step[shown], path[shown], label="7.1: validation loss", **plots.style(0))
    right.plot(path.step[~shown], path[~shown], color="0.75", linewidth=1, label="had 7.1 gone on")
    look = plots.style(1)
    onward = record["objectives"].sel(start="last").isel(seed=0)
    right.plot(stop + record.further_step, onward, label="7.3: validation loss", **look)
    threshold = float(own["threshold"].sel(start="last"))
    right.axhline(threshold, color=look["color"], linewidth=0.8, linestyle=":",
                  label="7.3: threshold ϵ")  # fmt: skip
    height = right.get_ylim()[1]
    for place, (name, x) in enumerate((
        ("i*: 7.1's parameters, 7.2's steps", int(own["best_step"])),
        ("7.1 stops", stop),
        ("7.2 in passes ends", int(own["further_steps"].sel(arm="retrain_epochs"))),
        ("7.3 ends", stop + int(own["further_steps"].sel(arm="continue_last"))),
    )):  # fmt: skip
        look = plots.style(2 + place)
        right.axvline(x, color=look["color"], linestyle=look["linestyle"], linewidth=1.2)
        right.plot([x], [height * (0.98 - 0.05 * place)], "v", color=look["color"], label=name)
    further = int(own["further_steps"].sel(arm="continue_last"))
    capped = bool(own["capped"].sel(start="last"))
    found = f"hits its cap of {further} steps" if capped else f"ends after {further} steps more"
    title = f"Seed {seed}: 7.1 stops at step {stop}, 7.3 {found}"
    plots.labels(right, title, STEP, "cross-entropy (nat)", legend=False)
    right.legend(loc="upper right", fontsize=7.5, framealpha=0.9, edgecolor="none")
    made.supxlabel(f"left: median and quartiles of {_seeds(record)}; training, validation and "
                   f"threshold with wrong labels", fontsize=8)  # fmt: skip
    return made


def algorithms(record):
    from dlstudy import plots

    made, (axis,) = plots.figure(1, 1, 8.0, 4.4)
    rows = [100 * claims.of_arm(record, "test_error", arm) for arm in ALGORITHMS]
    _dots(axis, rows, [SHORT[arm] for arm in ALGORITHMS])
    gain = _better(_median(claims.retraining_gain(record)), "7.1")
    other = _better(-_median(claims.harm(record)), "that")
    plots.labels(axis, f"Retraining for i* steps {gain}; continuing {other}", "algorithm", ERROR)
    made.supxlabel(f"dots: seeds, joined; bars: medians; {_seeds(record)}; in the title medians of "
                   "differences within a seed", fontsize=8)  # fmt: skip
    return made


def arms(record):
    from dlstudy import plots

    made, axes = plots.figure(3, 1, 4.6, 4.2)
    names = ("stopped", "decayed", "neither")
    labels = ["stopped", "L2", "neither"]
    rows = [claims.of_arm(record, "norm", arm) for arm in names]
    _dots(axes[0], rows, labels)
    axes[0].set_ylim(bottom=0)
    ratios = [_median(f(record)) for f in (claims.norm_stopped, claims.norm_decayed)]
    plots.labels(axes[0], "Norms {:.2f} and {:.2f} of neither's".format(*ratios), "arm", "‖θ‖")
    _dots(axes[1], [100 * claims.gap(record, arm) for arm in names], labels)
    falls = [_median(f(record)) for f in (claims.gap_stopped, claims.gap_decayed)]
    plots.labels(axes[1], f"Gap smaller by {_points(falls[0])} and {_points(falls[1])} points",
                 "arm", "test - training error (%)")  # fmt: skip
    _dots(axes[2], [100 * claims.of_arm(record, "test_error", arm) for arm in names], labels)
    gains = [_median(f(record)) for f in (claims.gain_stopped, claims.gain_decayed)]
    plots.labels(axes[2], f"Error lower by {_points(gains[0])} and {_points(gains[1])} points",
                 "arm", ERROR)  # fmt: skip
    left = _median(claims.of_arm(record, "train_error", "neither"))
    words = (
        "gap: labels as wrong on both sides; test error: true labels; neither ends at a training"
    )
    made.supxlabel(f"{_seeds(record)}; {words} error of {100 * left:.2g}%", fontsize=8)
    return made


def cost(record):
    from dlstudy import plots

    made, (axis,) = plots.figure(1, 1, 8.0, 4.6)
    main = record.attrs["main_patience"]
    for i, arm in enumerate(ALGORITHMS):
        x, y = (record[name].sel(arm=arm).median("seed").values for name in ("steps", "test_error"))
        axis.plot(x, 100 * y, marker="osD^v"[i], markersize=5, label=_words(record)[arm],
                  **plots.style(i))  # fmt: skip
        at = list(record.patience.values).index(main)
        axis.plot(x[at], 100 * y[at], "o", markersize=13, markerfacecolor="none",
                  color=plots.style(i)["color"])  # fmt: skip
    ratio = _median(claims.cost(record))
    found = f"{ratio:.2g} times" if np.isfinite(ratio) else "an unknown multiple of"
    title = f"After 7.1, continuing takes {found} the steps of retraining"
    plots.labels(axis, title, "steps in all, those of 7.1 included", ERROR)
    waits = ", ".join(map(str, record.patience.values))
    words = f"medians of {record.sizes['seed']} seeds along patience {waits}; ringed: {main}"
    made.supxlabel(words, fontsize=8)
    return made


def patience(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    waits, main = record.patience.values, record.attrs["main_patience"]
    for i, arm in enumerate(ALGORITHMS):
        values = 100 * record["test_error"].sel(arm=arm).transpose("seed", "patience").values
        plots.seeds_over(left, waits, values, _words(record)[arm], i, marker="osD^v"[i],
                         singles=False)  # fmt: skip
    path = 100 * claims.curve(record, "test_error")
    plots.reference(left, _median(np.nanmin(path, 1)), "best moment in hindsight")
    left.axhline(_median(path[:, -1]), color="0.35", linewidth=1, linestyle=":",
                 label="end of training")  # fmt: skip
    plots.logarithmic(left, "x")
    left.set_xticks(waits, waits)
    left.minorticks_off()
    loss = _median(claims.regret(record))
    title = f"With patience {main}, 7.1 errs {_points(loss)} points more than in hindsight"
    plots.labels(left, title, "patience (evaluations)", ERROR, legend=False)
    left.legend(fontsize=8, framealpha=0.9, edgecolor="none", ncols=2)
    best = record["best_step"].transpose("seed", "patience").values
    stop = record["evaluations"].transpose("seed", "patience").values * record.attrs["every"]
    for i, (values, label) in enumerate(((best, "i*"), (stop, "stop"))):
        plots.seeds_over(right, waits, values, label, i, marker="os"[i])
    plots.logarithmic(right, "x")
    right.set_xticks(waits, waits)
    right.minorticks_off()
    hindsight = record.attrs["every"] * _argmin(path)
    plots.reference(right, float(np.median(hindsight)), "least test error")
    ended = float(record["by_patience"].mean())
    title = f"Patience, not the cap, ends {ended:.0%} of the trainings"
    plots.labels(right, title, "patience (evaluations)", STEP)
    made.supxlabel(f"median and quartiles of {record.sizes['seed']} seeds; an evaluation every "
                   f"{record.attrs['every']} steps", fontsize=8)  # fmt: skip
    return made


def _argmin(rows):
    return np.argmin(np.where(np.isfinite(rows), rows, np.inf), 1)


def peeking(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    chosen, fresh = (claims.peeked(record, name) for name in ("peek_error", "fresh_error"))
    flattery = fresh - chosen
    names = ["images that\nchose the stop", "other\ntest images"]
    _dots(left, [100 * chosen, 100 * fresh], names)
    shift = _median(flattery)
    side = "less" if shift >= 0 else "more"
    title = f"The images that chose the stop err {_points(abs(shift))} points {side}"
    plots.labels(left, title, "stopped by test images", "error (%)")
    best = np.stack([
        100 * np.nanmin(claims.curve(record, "peek_error"), 1),
        100 * np.take_along_axis(
            claims.curve(record, "fresh_error"),
            _argmin(claims.curve(record, "peek_error"))[:, None], 1,
        )[:, 0],
    ])  # fmt: skip
    _dots(right, list(best), names)
    shift = _median(best[1] - best[0]) / 100
    side = "less" if shift >= 0 else "more"
    title = f"Picked by its error, the least of a curve: {_points(abs(shift))} points {side}"
    plots.labels(right, title, "stopped where the error on test images is least", "error (%)")
    made.supxlabel(f"{record.attrs['validation_size']} test images choose the stop, as many as the "
                   f"validation set has; {_seeds(record)}", fontsize=8)  # fmt: skip
    return made


def tuning(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    penalties = record.penalty.values
    places = np.arange(len(penalties))
    for i, rate in enumerate(record.rate.values):
        for axis, name in ((left, "grid_tune_error"), (right, "grid_test_error")):
            values = 100 * record[name].sel(rate=rate).transpose("seed", "penalty").values
            plots.seeds_over(axis, places, values, f"rate {rate:g}", i, marker="osD^v<>"[i % 6],
                             singles=False)  # fmt: skip
    found = record["grid_tune_error"].median("seed").values
    best = np.unravel_index(np.argmin(np.where(np.isfinite(found), found, np.inf)), found.shape)
    rate = record.rate.values[best[0]]
    title = f"The tuning split prefers λ = {penalties[best[1]]:g} at rate {rate:g}"
    plots.labels(left, title, "penalty λ", "error on the tuning split, wrong labels (%)")
    taken = record["chosen_penalty"].sel(trajectory="decayed").values
    at_edge = np.mean(np.isclose(taken, penalties[1]) | np.isclose(taken, penalties[-1]))
    title = f"{at_edge:.0%} of the seeds choose a penalty at the grid's edge"
    plots.labels(right, title, "penalty λ", ERROR)
    for axis in (left, right):
        axis.set_xticks(places, [f"{p:g}" for p in penalties])
    made.supxlabel(f"at the end of training; median and quartiles of {record.sizes['seed']} seeds, "
                   "each of which chooses for itself", fontsize=8)  # fmt: skip
    return made
