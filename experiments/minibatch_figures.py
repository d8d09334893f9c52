"""The figures of `minibatch`, from its record alone; titles state what was found."""

import warnings

import numpy as np

from experiments import minibatch_claims as claims

ENDS = {"small": "small batch", "equal_epochs": "large, equal epochs",
        "equal_steps": "large, equal steps"}  # fmt: skip


def figures(record):
    """Yields (name, figure) for whatever the record holds."""
    for name, draw in (
        ("noise", gradient_noise),
        ("hyperbola", hyperbola),
        ("stable_rate", stable_rate),
        ("roughness", roughness),
        ("minima", minima),
        ("cost", cost),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # medians of nothing, after divergence
            yield name, draw(record)


def _median(values, form="{:.3g}") -> str:
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return form.format(np.median(values)) if values.size else "unknown"


def _seeds(record) -> str:
    return f"{record.sizes['seed']} seeds"


def _logarithmic(axis, which="xy"):
    """Logarithmic axes, where anything finite was drawn."""
    from dlstudy import plots

    for name in which:
        if np.isfinite(getattr(axis.dataLim, f"interval{name}")).all():
            plots.logarithmic(axis, name)


def gradient_noise(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    size = record.batch.values.astype(float)
    sigma = claims.sigma(record)[:, None]
    for i, (sampling, words) in enumerate((("with", "with replacement"), ("without", "without"))):
        values = claims.values_of(record, "noise_sd", sampling=sampling) / sigma
        whole = (size == float(record.attrs["examples"])) & (sampling == "without")
        values = np.where(whole[:, None], np.nan, values)  # rounding
        folded = values.transpose(0, 2, 1).reshape(-1, len(size))
        plots.seeds_over(left, size, folded, words, i, marker="o")
    left.plot(size, size**-0.5, color="0.35", linewidth=1, linestyle=(0, (4, 3)),
              label="slope -1/2")  # fmt: skip
    fine = np.geomspace(size[0], 0.999 * float(record.attrs["examples"]), 200)
    count = float(record.attrs["examples"])
    left.plot(fine, np.sqrt((count - fine) / (count - 1) / fine), color="0.35", linewidth=1,
              linestyle=":", label="with the factor √((N-B)/(N-1))")  # fmt: skip
    _logarithmic(left)
    slope = _median(np.asarray(claims.noise_slope(record)) - 0.5, "{:.3f}")
    plots.labels(left, f"With replacement the noise falls with slope {slope}", "batch size",
                 "sd of the gradient over that of one example's")  # fmt: skip
    at = np.arange(record.sizes["checkpoint"])
    for i, (values, words) in enumerate((
        (claims.exact_scale(record), "tr Σ / |g|², all examples"),
        (claims.values_of(record, "noise_scale"), "two batch sizes, ratio of means"),
        (claims.values_of(record, "noise_mean_of_ratios"), "two batch sizes, mean of ratios"),
    )):  # fmt: skip
        plots.seeds_over(right, at, np.where(values > 0, values, np.nan).T, words, i,
                         singles=False, marker="o")  # fmt: skip
    _logarithmic(right, "y")
    right.set_xticks(at, [str(c) for c in record.checkpoint.values])
    scale = claims.exact_scale(record)
    title = f"The noise scale goes from {_median(scale[0])} to {_median(scale[-1])} examples"
    plots.labels(right, title, "step of training", "noise scale (examples)")
    made.supxlabel(f"medians and quartiles of {_seeds(record)}, left of all checkpoints too; "
                   "estimates that are negative are left out", fontsize=8)  # fmt: skip
    return made


def hyperbola(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    size = record.batch.values.astype(float)
    for i, (race, words) in enumerate((("race", "rate tuned for each size"),
                                       ("shared", "one rate for all"))):  # fmt: skip
        steps = claims.values_of(record, f"{race}_steps")
        examples = claims.examples_to_target(record, race)
        look = plots.style(i)
        left.plot(steps.ravel(), examples.ravel(), "o", color=look["color"], alpha=0.2,
                  markersize=3)  # fmt: skip
        left.plot(np.nanmedian(steps, 1), np.nanmedian(examples, 1), marker="os"[i], markersize=5,
                  linewidth=1.4, label=words, **look)  # fmt: skip
        plots.seeds_over(right, size, steps.T, words, i, marker="os"[i])
    fits = claims.fits(record)
    least, critical = np.nanmedian([[f.min_steps, f.size] for f in fits], 0)
    fine = np.geomspace(size[0], size[-1], 200)
    curve = least * (1 + critical / fine)
    dashed = {"color": "0.25", "linewidth": 1.2, "linestyle": (0, (4, 3))}
    left.plot(curve, curve * fine, label="(S/Smin - 1)(E/Emin - 1) = 1", **dashed)
    right.plot(fine, curve, **dashed)
    found = _median(claims.scale_on_the_way(record))
    for value, words, shape in ((critical, "critical size of the fit", "-"),
                                (np.nanmedian(claims.scale_on_the_way(record)), "noise scale",
                                 ":")):  # fmt: skip
        if np.isfinite(value):
            right.axvline(value, color="0.4", linewidth=1, linestyle=shape, label=words)
    _logarithmic(left)
    _logarithmic(right)
    goal = f"{float(record.attrs['target']):g}"
    residual = _median(100 * np.expm1(claims.hyperbola_residual(record)), "{:.2g}%")
    plots.labels(left, f"Steps against examples to a loss of {goal}: {residual} off the hyperbola",
                 "steps S", "examples E")  # fmt: skip
    title = f"Critical size {_median([f.size for f in fits])}; noise scale on the way {found}"
    plots.labels(right, title, "batch size", f"steps to a loss of {goal}")
    made.supxlabel(f"medians of {_seeds(record)}; dots and thin lines are single seeds; the one "
                   f"rate is {float(record.attrs['shared_rate']):g}", fontsize=8)  # fmt: skip
    return made


def stable_rate(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    size, level = record.batch.values, record.level.values
    near, far = (record[name].values.astype(float) for name in ("rate", "rate_beyond"))
    for i, (axis, x, values, words) in enumerate((
        (left, size, claims.largest_stable(record, "stable"), "minibatches"),
        (left, level, claims.largest_stable(record, "noisy"), "full gradient with their noise"),
        (right, size, claims.largest_undiverged(record), "minibatches"),
    )):  # fmt: skip
        plots.seeds_over(axis, x, 2.0**values.T, words, i % 2, marker="os"[i % 2])
    for axis, rates in ((left, near), (right, np.concatenate([near, far]))):
        _logarithmic(axis, "xy")
        axis.set_ylim(rates[0] / 1.3, rates[-1] * 1.3)
        axis.set_yticks(rates, [f"{r:g}" for r in rates])
        axis.set_yticks([], minor=True)
    gain = _median(2.0 ** np.asarray(claims.rate_gain(record)))
    steps = int(record.attrs["stable_steps"])
    plots.labels(left, f"The largest batch allows {gain} times the smallest one's rate",
                 "batch size", f"largest rate that is stable for {steps} steps")  # fmt: skip
    gain = _median(2.0 ** np.asarray(claims.rate_gain_plain(record)))
    plots.labels(right, f"By the plain rule, which asks a run only not to diverge: {gain} times",
                 "batch size", "largest rate that does not diverge", legend=False)  # fmt: skip
    made.supxlabel(
        f"median and quartiles of {_seeds(record)}; all rates of the grids are marked; stable: "
        f"ends below {claims.LEARNED:g} of the first loss; diverged: above ten times it",
        fontsize=8,
    )
    return made


def roughness(record):
    from dlstudy import plots

    made, axes = plots.figure(3, 1, 5.2, 4.0)
    size = record.batch.values.astype(float)
    for i, (race, words) in enumerate((("race", "rate tuned for each size"),
                                       ("shared", "one rate for all"))):  # fmt: skip
        for axis, name in ((axes[0], "rise_share"), (axes[1], "roughness")):
            values = 100 * claims.values_of(record, f"{race}_{name}")
            plots.seeds_over(axis, size, values.T, words, i, marker="os"[i])
    for axis in axes[:2]:
        _logarithmic(axis, "x")
    ends = claims.at_ends(record, "race_rise_share")
    small, large = record.batch.values[[0, -1]]
    words = [_median(100 * e, "{:.2g}%") for e in ends]
    plots.labels(axes[0], f"Steps that raise it: {words[0]} at {small}, {words[1]} at {large}",
                 "batch size", "steps that raise the full loss (%)")  # fmt: skip
    words = [_median(100 * e, "{:.2g}%") for e in claims.at_ends(record, "race_roughness")]
    plots.labels(axes[1], f"Climbed back: {words[0]} of the fall at {small}, {words[1]} at {large}",
                 "batch size", "rises over net fall, in 32 parts (%)", legend=False)  # fmt: skip
    part = record.part.values / record.part.values[-1]
    for i, batch in enumerate(sorted({small, *claims.pair(record), large})):
        values = claims.values_of(record, "race_curve", batch=batch)
        plots.seeds_over(axes[2], 100 * part, values.T[:1], f"batch of {batch}", i)
    _logarithmic(axes[2], "y")
    plots.labels(axes[2], "The way to the target, first seed", "share of the steps taken (%)",
                 "full training loss (nat)")  # fmt: skip
    made.supxlabel(f"medians and quartiles of {_seeds(record)}, from the first look at the loss "
                   "to the target", fontsize=8)  # fmt: skip
    return made


def minima(record):
    from dlstudy import plots

    made, axes = plots.figure(4, 1, 4.2, 4.0)
    small, large = claims.pair(record)
    count = record.sizes["seed"]
    aside = np.linspace(-0.2, 0.2, count) if count > 1 else np.zeros(1)
    rows = (
        (axes[0], lambda arm: claims.eigenvalue(record, arm), "largest eigenvalue (nat)"),
        (axes[1], lambda arm: claims.values_of(record, "end_filter_sharpness", arm=arm),
         "rise along filter directions (nat)"),
        (axes[2], lambda arm: 100 * claims.values_of(record, "end_test_error", arm=arm),
         "test error (%)"),
    )  # fmt: skip
    for axis, of, words in rows:
        for i, arm in enumerate(ENDS):
            look = plots.style(i)["color"]
            values = of(arm)
            axis.plot(i + aside, values, "os^"[i], color=look, markersize=3.5, alpha=0.55)
            axis.plot([i - 0.3, i + 0.3], 2 * [np.nanmedian(values)], color=look, linewidth=2.6)
        axis.set_xticks(range(3), [f"{small}", f"{large},\nequal epochs", f"{large},\nequal steps"])
        axis.set_ylabel(words)
    _logarithmic(axes[0], "y")
    _logarithmic(axes[1], "y")
    times = lambda *found: " and ".join(_median(2.0 ** np.asarray(f)) for f in found)  # noqa: E731
    titles = (
        f"Largest eigenvalue: {times(claims.sharper(record), claims.sharper_by_steps(record))} "
        "times",
        f"Filter sharpness: "
        f"{times(claims.rises_faster(record), claims.rises_faster_by_steps(record))} times",
        "Test error: "
        + " and ".join(
            _median(100 * f(record), "{:+.2g}")
            for f in (claims.generalises_worse, claims.generalises_worse_by_steps)
        )
        + " points",
    )
    for axis, title, (_, _, words) in zip(axes, titles, rows, strict=False):
        plots.labels(axis, title, "batch size", words)
    for i, name in enumerate(("lambda_max", "filter_sharpness")):
        own, copy = (claims.values_of(record, f"end_{p}{name}", arm="small")
                     for p in ("", "rescaled_"))  # fmt: skip
        axes[3].plot(own, copy, "os"[i], color=plots.style(i)["color"], alpha=0.6, markersize=4,
                     label=("largest eigenvalue", "rise along filter directions")[i])  # fmt: skip
    _logarithmic(axes[3])
    low, high = axes[3].get_xlim()
    axes[3].plot([low, high], [low, high], color="0.35", linewidth=1, linestyle=(0, (4, 3)),
                 label="equal")  # fmt: skip
    plots.labels(axes[3], "A rescaled copy's eigenvalue: "
                 f"{_median(2.0 ** np.asarray(claims.copy_is_sharper(record)))} times",
                 "of the network (nat)", "of its rescaled copy (nat)")  # fmt: skip
    made.supxlabel(f"{_seeds(record)}, each run at the rate with the lowest tuning loss; bars are "
                   "medians; titles: the large batch against the small, after as many epochs and "
                   "after as many steps", fontsize=8)  # fmt: skip
    return made


def cost(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    size = record.cost_batch.values.astype(float)
    speed = claims.values_of(record, "speed")
    plots.seeds_over(left, size, speed.T, "steps chained in one program", 0, marker="o")
    called = claims.values_of(record, "called_speed")
    plots.seeds_over(left, size, called.T, "each step a call from Python", 2, marker="^")
    left.plot(size, record["first_speed"].values, marker="s", markersize=4,
              label="with the call that compiles", **plots.style(1))  # fmt: skip
    first = np.nanmedian(speed[0])
    left.plot(size, first * size / size[0], color="0.35", linewidth=1, linestyle=(0, (4, 3)),
              label="in proportion to the batch")  # fmt: skip
    _logarithmic(left)
    gain = _median(2.0 ** np.asarray(claims.speed_growth(record)))
    plots.labels(left, f"{size[-1]:g} at a time: {gain} times the examples a second", "batch size",
                 "examples a second")  # fmt: skip
    memory = record["memory"].values
    right.plot(size, memory, marker="o", label="arguments, results and scratch", **plots.style(0))
    _logarithmic(right)
    plots.labels(right, f"Memory of a step: {memory[0]:.3g} MiB at {size[0]:g}, {memory[-1]:.3g} "
                 f"MiB at {size[-1]:g}", "batch size", "memory of the compiled step (MiB)",
                 legend=False)  # fmt: skip
    made.supxlabel(f"one device; {_seeds(record)}: a turn of the clock each", fontsize=8)
    return made
