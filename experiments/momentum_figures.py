"""The figures of `momentum`, from its record alone; titles state what was found."""

import warnings

import numpy as np

from experiments import momentum_claims as claims

WORDS = {
    "gd": "gradient descent, best rate",
    "heavy_ball": "heavy ball, best constants",
    "nesterov": "Nesterov, best constants",
    "nesterov_usual": "Nesterov, rate 1/L",
    "gd_cautious": "gradient descent, rate 1/L",
    "momentum_cautious": "momentum {alpha:g}, rate 1/L",
    "averaged_cautious": "exponential average {alpha:g}, rate 1/L",
    "momentum_at_best": "momentum {alpha:g} at gradient descent's best rate",
    "gd_tenth": "gradient descent, a tenth of its best rate",
    "momentum_tenth": "momentum {alpha:g} at that tenth",
}


def figures(record):
    """Yields (name, figure)."""
    for name, draw in (
        ("paths", paths),
        ("rates", rates),
        ("zigzag", zigzag),
        ("noise", noise),
        ("forms", forms),
        ("network", network),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # medians of nothing, after divergence
            yield name, draw(record)


def words_of(record, name: str) -> str:
    return WORDS[name].format(alpha=float(record.attrs["alpha"]))


def _median(values, form="{:.3g}") -> str:
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return form.format(np.median(values)) if values.size else "unknown"


def _times(octaves) -> str:
    """A ratio of steps from its octaves."""
    return f"{_median(2.0 ** np.asarray(octaves, float))} times"


def _seeds(record) -> str:
    return f"median, quartiles and single runs of {record.sizes['seed']} seeds"


def _logarithmic(axis, which="xy"):
    """Not where nothing was drawn: matplotlib has no ticks for an empty axis."""
    from dlstudy import plots

    if np.isfinite(axis.dataLim.intervaly).all():
        plots.logarithmic(axis, which)


def _of(record, name: str, way: str):
    """A variable of one method, [S, kappas]."""
    return record[name].sel(way=way).transpose("seed", "kappa").values


def paths(record):
    from dlstudy import plots

    made, axes = plots.figure(3, 1, 4.2, 4.2)
    hessian = record["plane_hessian"].values[0]
    shown = ("gd", "heavy_ball", "nesterov")
    farthest = np.abs(record["plane_path"].sel(way=list(shown)).values[:, 0])
    size = 1.05 * min(np.nanmax(farthest, initial=0.5), 3.0)
    line = np.linspace(-size, size, 200)
    grid = np.stack(np.meshgrid(line, line), -1)
    level = 0.5 * np.einsum("...i,ij,...j", grid, hessian, grid)
    for i, (axis, way) in enumerate(zip(axes, shown, strict=True)):
        points = record["plane_path"].sel(way=way).values[0]
        axis.contour(line, line, np.sqrt(np.maximum(level, 0)), 12, colors="0.75", linewidths=0.7)
        look = plots.style(i) | {"linestyle": "-"}
        axis.plot(*points.T, marker="o", markersize=3, linewidth=1.2, **look)
        axis.plot(0, 0, "*", color="black", markersize=9)
        axis.set(aspect="equal", xlim=(-size, size), ylim=(-size, size))
        away = np.linalg.norm(points, axis=1)
        end = f"{away[-1] / away[0]:.2g}" if np.isfinite(away[-1]) else "an unknown part"
        title = f"{words_of(record, way).capitalize()}:\n{end} of the way left"
        plots.labels(axis, title, "θ₁ (no unit)", "θ₂ (no unit)", legend=False)
    first = record["seed"].values[0]
    made.supxlabel(
        f"a quadratic of condition number {quadratic_kappa(hessian):.0f}, {len(points) - 1} steps, "
        f"seed {first}; star: the minimum", fontsize=8,
    )  # fmt: skip
    return made


def quadratic_kappa(hessian) -> float:
    values = np.linalg.eigvalsh(hessian)
    return float(values[-1] / values[0])


def rates(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    kappa = record["kappa"].values
    for i, way in enumerate(("gd", "heavy_ball", "nesterov", "nesterov_usual")):
        look = plots.style(i)
        theory = 1 - record["theory"].sel(way=way).values
        left.plot(kappa, theory, linewidth=1.3, label=f"{words_of(record, way)}: theory", **look)
        left.plot(kappa, 1 - np.nanmedian(_of(record, "spectral_radius", way), 0), "o",
                  color=look["color"], markersize=5)  # fmt: skip
        left.plot(kappa, 1 - np.nanmedian(_of(record, "contraction", way), 0), "x",
                  color=look["color"], markersize=6)  # fmt: skip
    left.plot([], [], "o", color="0.3", label="spectral radius of the companion matrix")
    left.plot([], [], "x", color="0.3", label="measured, mean over the run")
    worst = max(np.abs(of(record)).max() for of in
                (claims.gd_off, claims.heavy_ball_off, claims.nesterov_off))  # fmt: skip
    title = f"Spectral radii are those of theory to {worst:.0e}"
    plots.labels(left, title, "condition number κ", "1 - contraction per step")
    shown = ("gd", "heavy_ball", "nesterov", "gd_tenth", "momentum_tenth")
    for i, way in enumerate(shown):
        index = i if i < 3 else i + 1
        plots.seeds_over(right, kappa, _of(record, "steps", way), words_of(record, way), index,
                         singles=False, marker="o")  # fmt: skip
    for axis in (left, right):
        _logarithmic(axis)
    right.set_ylim(top=20 * right.get_ylim()[1])  # room for the legend
    middle, part = claims.middle(record), float(record.attrs["target"])
    steps = lambda way: _median(claims.steps_of(record, way), "{:.0f}")  # noqa: E731
    title = (
        f"κ = {middle:g}: {steps('gd')} steps, {steps('heavy_ball')} with heavy ball; "
        f"slope of the gain ½ {_median(claims.gain_slope(record), '{:+.2f}')}"
    )
    plots.labels(right, title, "condition number κ", f"steps to {part:g} of the distance")
    made.supxlabel(f"medians of {record.sizes['seed']} seeds, quartiles on the right", fontsize=8)
    return made


def zigzag(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    kappa = record["kappa"].values
    shown = ("gd", "heavy_ball", "nesterov", "nesterov_usual", "gd_cautious", "momentum_at_best")
    for i, way in enumerate(shown):
        for axis, name, unit in ((left, "zigzag", 100), (right, "path", 1)):
            plots.seeds_over(axis, kappa, unit * _of(record, name, way), words_of(record, way), i,
                             singles=False, marker="o")  # fmt: skip
    _logarithmic(left, "x")
    _logarithmic(right)
    left.set_ylim(-3, 103)
    at = record["zigzag"].sel(kappa=claims.middle(record))
    share = lambda way: _median(100 * at.sel(way=way).values, "{:.0f}%")  # noqa: E731
    title = (
        f"κ = {claims.middle(record):g}: {share('gd')} of gradient descent's steps turn back,\n"
        f"{share('heavy_ball')} of heavy ball's, {share('momentum_at_best')} with momentum at "
        f"its rate, {share('gd_cautious')} at 1/L"
    )
    plots.labels(left, title, "condition number κ", "steps at over 90° to the one before (%)",
                 legend=False)  # fmt: skip
    way = record["path"].sel(kappa=claims.middle(record))
    length = lambda name: _median(way.sel(way=name).values)  # noqa: E731
    title = f"Their ways are {length('gd')} and {length('heavy_ball')} times the distance"
    plots.labels(right, title, "condition number κ", "length of the way / distance to the minimum")
    made.supxlabel(f"medians and quartiles of {record.sizes['seed']} seeds", fontsize=8)
    return made


def noise(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    amounts = record["noise"].values
    for i, (momentum, label) in enumerate((
        (False, "gradient descent, best rate"), (True, "momentum, best rate and alpha"),
    )):  # fmt: skip
        steps = claims.best_with_noise(record, momentum).T
        plots.seeds_over(left, amounts, steps, label, i, marker="o")
    gain = 2.0 ** claims.gain_with_noise(record).T
    plots.seeds_over(right, amounts, gain, "steps of descent / of momentum", 2, marker="o")
    plots.reference(right, 1.0, "no gain")
    lowest = amounts[amounts > 0].min() if (amounts > 0).any() else 1.0
    for axis in (left, right):
        axis.set_xscale("symlog", linthresh=lowest)
        axis.set_xlim(0, max(amounts[-1], lowest) * 1.1)
        axis.set_xticks(amounts, [f"{amount:g}" for amount in amounts])
        _logarithmic(axis, "y")
    right.set_ylim(bottom=min(0.9, np.nanmin(gain, initial=0.9)))
    target, kappa = (float(record.attrs[name]) for name in ("noise_target", "noise_kappa"))
    plots.labels(left, f"κ = {kappa:g}, every constant the best of its grid",
                 "noise (1: descent at 1/L ends at the target)",
                 f"steps to {target:g} of the expected cost")  # fmt: skip
    title = (
        f"Descent takes {_times(claims.exact_gain(record))} momentum's steps without noise, "
        f"{_times(claims.noisy_gain(record))} with {amounts[-1]:g}"
    )
    plots.labels(right, title, "noise (1: descent at 1/L ends at the target)", "ratio of steps")
    made.supxlabel(f"{_seeds(record)}; expected costs in closed form", fontsize=8)
    return made


def forms(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    factor = record["factor"].values
    off = factor - 1
    distance = record["form_distance"].transpose("seed", "factor").values
    for i, (side, label) in enumerate(((off < 0, "rate too low"), (off > 0, "rate too high"))):
        plots.seeds_over(left, np.abs(off[side])[np.argsort(np.abs(off[side]))],
                         distance[:, side][:, np.argsort(np.abs(off[side]))], label, i,
                         marker="os"[i])  # fmt: skip
    _logarithmic(left)
    same = float(np.nanmax(claims.matched_distance(record)))
    plots.reference(left, max(same, 1e-17), f"at η = ε/(1 - beta): at most {same:.0e}")
    plots.labels(left, f"At η = ε/(1 - beta) the ways agree to {same:.0e}, beside it they part",
                 "|η (1 - beta)/ε - 1|", "largest relative distance of the ways")  # fmt: skip
    names = {"book": "book, ε", "averaged_matched": "source,\nη = ε/(1 - beta)",
             "averaged_unmatched": "source,\nη = ε", "plain": "gradient\ndescent, ε"}  # fmt: skip
    count = record.sizes["seed"]
    aside = np.linspace(-0.2, 0.2, count) if count > 1 else np.zeros(1)
    for i, name in enumerate(names):
        steps = claims.form_steps(record, name)
        right.plot(i + aside, steps, "o", color=plots.style(i)["color"], markersize=4, alpha=0.6)
    _logarithmic(right, "y")
    right.set_xticks(range(len(names)), list(names.values()))
    slower = 10.0 ** (claims.unmatched_slower(record) - np.log10(1 - float(record.attrs["alpha"])))
    against = 2.0 ** claims.averaged_gain(record)
    title = (
        f"With η = ε the source's form takes {_median(slower)} times the book's steps,\n"
        f"gradient descent {_median(against)} times the source's"
    )
    plots.labels(right, title, "", f"steps to {float(record.attrs['target']):g} of the distance")
    made.supxlabel(f"{_seeds(record)}; alpha = beta = {float(record.attrs['alpha']):g}", fontsize=8)
    return made


def network(record):
    from dlstudy import plots

    made, axes = plots.figure(2, 2)
    words = {"whole": "the whole set", "batches": f"batches of {record.attrs['batch_size']}"}
    target = float(record.attrs["loss_target"])
    for column, (batch, label) in enumerate(words.items()):
        top, below = axes[column], axes[2 + column]
        steps = record[f"{batch}_step"].values
        for i, (optimizer, name) in enumerate((("sgd", "SGD"), ("momentum", "momentum"))):
            found = record["net_steps"].sel(batch=batch, optimizer=optimizer)
            found = found.transpose("seed", "rate").values
            plots.seeds_over(top, record["rate"].values, found, name, i, marker="o")
            chosen = claims.chosen_rate(record, batch, optimizer)
            loss = record[f"{batch}_train_loss"].sel(optimizer=optimizer)
            loss = loss.transpose("seed", "rate", f"{batch}_step").values
            loss = loss[np.arange(len(chosen)), chosen].astype(float)
            loss[chosen < 0] = np.nan
            plots.seeds_over(below, steps, loss, f"{name}, its best rate", i)
        gain = {"whole": claims.whole_gain, "batches": claims.batches_gain}[batch](record)
        _logarithmic(top)
        _logarithmic(below, "y")
        plots.labels(top, f"{label.capitalize()}: SGD takes {_times(gain)} momentum's steps",
                     "learning rate", f"steps to a training loss of {target:g} nat")  # fmt: skip
        plots.reference(below, target, "the target")
        pair = [_median(claims.network_steps(record, batch, o)) for o in ("sgd", "momentum")]
        plots.labels(below, f"Median steps to the target: {pair[0]} and {pair[1]}", "step",
                     "training loss (nat)")  # fmt: skip
    made.supxlabel(f"{_seeds(record)}; best rate: by the tuning loss, of each seed", fontsize=8)
    return made
