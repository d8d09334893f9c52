"""The figures of `saddles`, from its record alone; titles state what was found."""

import warnings

import numpy as np

from experiments import saddles_claims as claims
from experiments import saddles_landscapes as landscapes

WORDS = {
    "gd": "gradient descent",
    "momentum": "momentum (book), its rate",
    "averaged": "exponential average (source), its rate",
    "gd_at_walls": "gradient descent, highest rate of the walls",
    "gd_without_walls": "gradient descent, rate / (1 - alpha), no walls",
}
SIZES = {"whole": "whole set", "batches": "minibatches"}
FLOOR = 1e-17  # of the distances shown; an exact zero has no logarithm


def figures(record):
    """Yields (name, figure)."""
    for name, draw in (
        ("saddle", saddle),
        ("well", well),
        ("plateau", plateau),
        ("symmetric", symmetric),
        ("small", small),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # medians of nothing
            yield name, draw(record)


def _median(values, form="{:.3g}") -> str:
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return form.format(np.median(values)) if values.size else "unknown"


def _percent(share) -> str:
    return f"{100 * np.mean(share):.3g}%" if np.size(share) else "unknown"


def _seeds(record) -> str:
    return f"median, quartiles and single runs of {record.sizes['seed']} seeds"


def _logarithmic(axis, which="xy"):
    """Not where nothing was drawn: matplotlib has no ticks for an empty axis."""
    from dlstudy import plots

    if np.isfinite(axis.dataLim.intervaly).all():
        plots.logarithmic(axis, which)


def saddle(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    sigma = record["sigma"].values[1:]
    steps = claims.saddle_means(record)
    theory = record["saddle_theory"].transpose("sigma", "seed").values[1:]
    # Curvatures differ between seeds: one falls on another once the steps are in its units.
    growth = np.log1p(float(record.attrs["saddle_rate"]) * record["falling"].values)
    plots.seeds_over(left, sigma, (steps * growth[None]).T, "noise on the gradient", 0, marker="o")
    left.plot(sigma, np.nanmedian(theory * growth[None], 1), color="0.35", linewidth=1.2,
              linestyle=(0, (4, 3)), label="theory: slope 1")  # fmt: skip
    _logarithmic(left, "x")
    slope = claims.saddle_slope(record)
    title = f"Slope over ln(1/sigma) {_median(1 + slope, '{:.4f}')} of 1 / ln(1 + rate x curvature)"
    plots.labels(left, title, "standard deviation of the noise",
                 "mean steps to leave x ln(1 + rate x curvature)")  # fmt: skip
    sigmas = record["sigma"].values
    left_at = record["saddle_left"].transpose("sigma", "walker", "seed").values
    picked = [0, 1, (len(sigmas) + 1) // 2, len(sigmas) - 1]
    rows = [(f"on the saddle, sigma {sigmas[i]:g}", left_at[i]) for i in picked]
    rows += [
        (f"on the ridge, axes {words}, sigma 0", record["ridge_left"].sel(axes=axes).values[None])
        for axes, words in (("along", "along it"), ("turned", "turned"))
    ]
    end = float(record.attrs["saddle_steps"]) * np.nanmin(growth, initial=np.inf)
    times = np.linspace(0, min(end, 60.0), 400)
    for i, (label, at) in enumerate(rows):
        at = np.sort(np.where(np.isnan(at), np.inf, at * growth[None]).ravel())
        share = 100 * np.searchsorted(at, times, "right") / max(len(at), 1)
        right.plot(times, share, label=label, linewidth=1.6, **plots.style(i))
    right.set(xlim=(0, 1.5 * times[-1]), ylim=(-3, 103))  # room for the legend
    along, turned = claims.ridge_along(record), claims.ridge_turned(record)
    title = (
        f"Without noise {_percent(along)} leave the ridge, {_percent(turned)} once its axes are\n"
        f"turned: rounding; at the least noise {_percent(claims.saddle_share(record))}"
    )
    plots.labels(right, title, "step x ln(1 + rate x curvature)",
                 "runs that have left (%)")  # fmt: skip
    right.legend(frameon=False, fontsize=8, loc="center right")
    made.supxlabel(
        f"left: {_seeds(record)}, each the mean of {record.sizes['walker']} walkers; right: all of "
        "them; the ridge: one run a seed, without noise", fontsize=8,
    )  # fmt: skip
    return made


def well(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    barrier = record["barrier"].values
    plots.seeds_over(left, barrier, record["well_mean"].transpose("seed", "barrier").values,
                     "walkers", 0, marker="o")  # fmt: skip
    for i, (name, label) in enumerate((
        ("well_exact", "integral equation (exact)"), ("well_kramers", "Kramers' formula"),
    )):  # fmt: skip
        values = np.nanmedian(record[name].transpose("barrier", "seed").values, 1)
        left.plot(barrier, values, label=label, linewidth=1.5, **plots.style(i + 1))
    _logarithmic(left, "y")
    off, slope = claims.well_off(record), claims.kramers_slope(record)
    title = (
        f"Steps are {_median(100 * np.expm1(off), '{:+.1f}')}% off the exact equation;\n"
        f"slope {_median(1 + slope)} of Kramers' exponent"
    )
    words = "barrier / (rate x variance / 2)"
    plots.labels(left, title, f"{words}: less noise to the right", "mean steps to the other well")
    given = int(record.attrs["well_given"])
    for i, (name, label) in enumerate((
        ("well_share", f"in {given} steps"), ("well_ever", f"in {record.attrs['well_steps']} steps")
    )):  # fmt: skip
        shares = 100 * record.sortby("well_noise")[name].transpose("seed", "well_noise").values
        plots.seeds_over(right, np.sort(record["well_noise"].values), shares, label, i,
                         marker="os"[i])  # fmt: skip
    exact = record["well_exact"].transpose("barrier", "seed").values
    theory = 100 * np.nanmedian(-np.expm1(-given / exact), 1)
    right.plot(1 / barrier, theory, color="0.35", linewidth=1.2, linestyle=(0, (4, 3)),
               label=f"1 - exp(-{given} / exact mean)")  # fmt: skip
    title = (
        f"In {given} steps {_percent(claims.well_with(record))} leave with the most noise, "
        f"{_percent(claims.well_without(record))} without"
    )
    plots.labels(right, title, "rate x variance / 2 over the barrier", "walkers that have left (%)")
    made.supxlabel(f"{_seeds(record)} with {record.sizes['walker']} walkers each", fontsize=8)
    return made


def plateau(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    alpha = float(record.attrs["alpha"])
    steps = record["speed_step"].values
    shown = steps <= 60
    for i, (form, label) in enumerate((
        ("book", "book: v ← αv - εg"), ("source", "source: v ← βv + (1 - β)g"),  # noqa: RUF001
    )):  # fmt: skip
        speed = record["speed"].sel(form=form).transpose("seed", "speed_step").values[:, shown]
        plots.seeds_over(left, steps[shown], speed, label, i, singles=False)
    dots = steps[shown][::5]
    left.plot(dots, landscapes.speed_ratio(alpha, dots), "o", color="black", markersize=3.5,
              markerfacecolor="white", label="(1 - alphaᵗ) / (1 - alpha)")  # fmt: skip
    left.plot(dots, 1 - alpha**dots, "s", color="black", markersize=3.5, markerfacecolor="white",
              label="1 - alphaᵗ")  # fmt: skip
    plots.reference(left, 1.0, "gradient descent")
    ends = [_median(record["speed"].sel(form=form).values[:, -1]) for form in ("book", "source")]
    title = f"On a constant slope {ends[0]} times the speed; the source's form {ends[1]}"
    plots.labels(left, title,
                 "step", "step size / gradient descent's")  # fmt: skip
    count = record.sizes["seed"]
    aside = np.linspace(-0.12, 0.12, count) if count > 1 else np.zeros(1)
    for j, (name, label) in enumerate((("constant", "constant slope"), ("sigmoid", "sigmoid"))):
        for i, way in enumerate(WORDS):
            values = claims.valley(record, way, name)
            colour = plots.style(i)["color"]
            right.plot(i + 0.3 * j - 0.15 + aside, values, "os"[j], color=colour, markersize=3.5,
                       alpha=0.6, label=label if i == 0 else None)  # fmt: skip
    _logarithmic(right, "y")
    right.set_xticks(range(len(WORDS)), [w.replace(", ", ",\n") for w in WORDS.values()],
                     fontsize=7, rotation=15)  # fmt: skip
    times = lambda octaves: _median(2.0 ** np.asarray(octaves))  # noqa: E731
    title = (
        f"Sigmoid: gradient descent takes {times(claims.momentum_gain(record))} times momentum's "
        f"steps,\n{times(claims.gain_with_walls(record))} at its highest rate, "
        f"{times(claims.gain_without_walls(record))} without walls"
    )
    plots.labels(right, title, "", "steps across the valley")
    made.supxlabel(f"{_seeds(record)}; alpha = beta = {alpha:g}", fontsize=8)
    return made


def symmetric(record):
    from dlstudy import plots

    made, axes = plots.figure(3, 1, 5.2, 4.2)
    noises, steps = record["noise"].values, record["symmetric_step"].values
    picked = [0, 1, (len(noises) + 1) // 2, len(noises) - 1]
    for axis, (size, label) in zip(axes, SIZES.items(), strict=False):
        found = claims.spreads(record, size).astype(float)
        for i, noise in enumerate(picked):
            plots.seeds_over(axis, steps, np.maximum(found[noise], FLOOR),
                             f"noise {noises[noise]:g} on every weight", i)  # fmt: skip
        _logarithmic(axis, "y")
        largest = np.nanmax(found[0], initial=0.0)
        title = f"{label.capitalize()}: {largest:.2g} apart at most without noise on the weights"
        plots.labels(axis, title, "step", "relative distance between equal units (0: 1e-17)")
    right = axes[2]
    for i, (size, label) in enumerate(SIZES.items()):
        left = claims.units_left(record, size)[1:]
        plots.seeds_over(right, noises[1:], left.T, label, i, marker="os"[i])
    _logarithmic(right, "x")
    ends = [_median(of) for of in (claims.units_by_batches(record), claims.units_by_noise(record))]
    title = (
        f"At the end units are {ends[0]} apart by minibatches,\n{ends[1]} by noise of "
        f"{noises[-1]:g} on every weight"
    )
    plots.labels(right, title, "standard deviation of noise on every weight",
                 f"steps until units differ by {claims.APART:g}")  # fmt: skip
    made.supxlabel(f"{_seeds(record)}; {SIZES['batches']} of {record.attrs['batch_size']} images",
                   fontsize=8)  # fmt: skip
    return made


def small(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    steps = record["small_step"].values
    words = {"small": f"{float(record.attrs['scale']):g} of the usual weights",
             "zero": "weights of zero"}  # fmt: skip
    for axis, (start, label) in zip(axes, words.items(), strict=True):
        for i, (size, noisy) in enumerate((s, n) for n in (0, 1) for s in SIZES):
            loss = record["small_loss"].sel(size=size, start=start, noisy=noisy)
            loss = loss.transpose("seed", "small_step").values
            noise = f", noise {float(record.attrs['small_noise']):g}" if noisy else ""
            plots.seeds_over(axis, steps, loss, f"{SIZES[size]}{noise}", i)
        axis.set_ylim(-0.1, 4.0)  # single batches throw the loss far up
        plots.reference(axis, claims.LEFT, "left: nine tenths of ln 10")
        found = [claims.small_left(record, size, start, noisy)
                 for size, noisy in (("whole", 0), ("batches", 0), ("whole", 1))]  # fmt: skip
        whole, batches, noise = (
            f"step {_median(at, '{:.0f}')}" if np.isfinite(at).any() else "never" for at in found
        )
        title = (
            f"{label.capitalize()}, left by the whole set: {whole};\n"
            f"by minibatches: {batches}; by noise on every weight: {noise}"
        )
        plots.labels(axis, title, "step", "loss (nat)")
    made.supxlabel(f"{_seeds(record)}; {SIZES['batches']} of {record.attrs['batch_size']} images; "
                   "medians of the seeds that leave", fontsize=8)  # fmt: skip
    return made
