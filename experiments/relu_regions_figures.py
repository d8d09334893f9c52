"""The figures of `relu_regions`, from its record alone; titles state what was found."""

import warnings

import numpy as np

from dlstudy.records import without_diverged
from experiments import relu_regions_claims as claims

EPOCH = "epoch"
SHOWN = 240  # epochs of the picture of moving regions, evenly spread
FRAMES = 60
WINDOWS = 100  # stretches of epochs of which the mean is shown
X = "x"


def figures(record):
    """Yields (name, figure) for whatever the record holds."""
    from matplotlib.ticker import MaxNLocator

    good = without_diverged(record)
    for name, draw, of in (
        ("errors", errors, good),
        ("function", function, record),
        ("patterns", patterns_over_x, record),
        ("motion", motion, record),
        ("hamming", hamming, good),
        ("counts", counts, good),
        ("settling", settling, good),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # medians of nothing, after divergence
            made = draw(of)
        for axis in made.axes:
            if axis.get_xlabel() == EPOCH:
                axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        yield name, made
    yield "regions", animation(record)


def _median(values) -> float:
    return float(np.nanmedian(np.asarray(values, float)))


def _share(values) -> str:
    """Median of ratios as a percentage; in words where there is none."""
    values = np.asarray(values, float)
    return f"{100 * np.nanmedian(values):.3g}%" if np.isfinite(values).any() else "an unknown share"


def _seeds(record) -> str:
    words = f"median, quartiles and single runs of {record.sizes['seed']} seeds"
    left_out = record.attrs.get("left_out")
    return f"{words}; left out, as diverged: seed {left_out}" if left_out else words


def held(values):
    """[S, epochs] with each seed's last value carried on after its end."""
    values = np.array(values, float)
    last = np.maximum.accumulate(np.where(np.isfinite(values), np.arange(values.shape[1]), 0), 1)
    return np.take_along_axis(values, last, 1)


def _shown(record, arm="main"):
    """Epochs to show of the first seed, their regions, and the seed's label."""
    from experiments.relu_regions_record import pieces_of

    end = int(claims.trained(record, arm)[0])
    epochs = np.unique(np.linspace(0, end, min(end + 1, SHOWN)).astype(int))
    flat = record["shown_params"].sel(arm=arm).values[epochs]
    return epochs, pieces_of(record, flat), int(record.seed[0])


def _target(x):
    return np.sin(np.pi * x / 4)


def _values(pieces):
    """The network's output at its knots, [K + 1]."""
    left = pieces.slopes[:, 0] * pieces.knots[:-1] + pieces.intercepts[:, 0]
    last = pieces.slopes[-1, 0] * pieces.knots[-1] + pieces.intercepts[-1, 0]
    return np.append(left, last)


def errors(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    for i, (name, label) in enumerate((
        ("mean_error", "mean, samples"), ("grid_mean_error", "mean, fine grid"),
        ("max_error", "maximum, samples"), ("grid_max_error", "maximum, fine grid"),
    )):  # fmt: skip
        values = held(claims.in_arm(record, name))
        plots.seeds_over(left, record.epoch, values, label, i, singles=i % 2 == 1)
    plots.logarithmic(left)
    kept = claims.mean_error_kept(record), claims.max_error_kept(record)
    title = f"Mean and maximal error end at {_share(kept[0])} and {_share(kept[1])} of their start"
    plots.labels(left, title, EPOCH, "|f - g|")
    for i, arm in enumerate(record.arm.values):
        values = held(claims.in_arm(record, "mean_error", arm))
        plots.seeds_over(right, record.epoch, values, _words(record)[arm], i)
    plots.logarithmic(right)
    converged = int(claims.converged(record).sum())
    title = f"{converged} of {record.sizes['seed']} runs converge before the cap"
    plots.labels(right, title, EPOCH, "mean |f - g| on the samples")  # fmt: skip
    made.supxlabel(f"{_seeds(record)}; a run that stopped keeps its last value", fontsize=8)
    return made


def _words(record):
    import json

    return json.loads(record.attrs["arms"])


def _draw_function(axis, pieces):
    """Adds the regions, the target, the network and its breakpoints to an axis."""
    from dlstudy import plots

    x = np.linspace(pieces.knots[0], pieces.knots[-1], 400)
    plots.regions_under(axis, pieces.knots, plots.pattern_colours(pieces.patterns), -1.6, 1.6)
    axis.plot(x, _target(x), color="white", linewidth=3.5)
    axis.plot(x, _target(x), label="g(x) = sin(πx/4)", **plots.style(6) | {"linestyle": "--"})
    values = _values(pieces)
    axis.plot(pieces.knots, values, color="white", linewidth=3.5)
    axis.plot(pieces.knots, values, color=plots.COLOURS["black"], linewidth=1.4, label="network")
    axis.plot(pieces.knots[1:-1], values[1:-1], "o", color="black", markersize=3,
              markerfacecolor="white", label="breakpoint")  # fmt: skip
    axis.set(xlim=(pieces.knots[0], pieces.knots[-1]), ylim=(-1.6, 1.6))
    axis.grid(False)


def function(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    epochs, found, seed = _shown(record)
    neurons = record.attrs["neurons"]
    for axis, i in zip(axes, (0, -1), strict=True):
        when = "before training" if epochs[i] == 0 else f"after epoch {epochs[i]}"
        count = len(found[i].knots) - 1
        _draw_function(axis, found[i])
        title = f"Seed {seed} {when}: {count} regions, {neurons} neurons"
        plots.labels(axis, title, X, "f(x)")
    made.supxlabel("colour: hash of the activation pattern; light and dark: even and odd number of "
                   "active units", fontsize=8)  # fmt: skip
    return made


def patterns_over_x(record):
    from matplotlib.colors import ListedColormap

    from dlstudy import plots
    from dlstudy.regions.resolve import unpack

    made, axes = plots.figure(2)
    epochs, found, seed = _shown(record)
    widths = np.atleast_1d(record.attrs["widths"])
    colours = ListedColormap(["white", plots.COLOURS["blue"]])
    for axis, i in zip(axes, (0, -1), strict=True):
        words, start = [-(-int(w) // 64) for w in widths], 0
        rows = []
        for width, count in zip(widths, words, strict=True):
            rows.append(unpack(found[i].patterns[:, start : start + count], int(width)))
            start += count
        on = np.concatenate(rows, 1)
        units = np.arange(on.shape[1] + 1)
        axis.pcolormesh(found[i].knots, units, on.T, cmap=colours, vmin=0, vmax=1, rasterized=True)
        for edge in np.cumsum(widths)[:-1]:
            axis.axhline(edge, **plots.style(1))
        when = "before training" if epochs[i] == 0 else f"after epoch {epochs[i]}"
        never = int((~on.any(0)).sum()), int(on.all(0).sum())
        axis.grid(False)
        title = f"Seed {seed} {when}: {never[0]} units never fire, {never[1]} always"
        plots.labels(axis, title, X, "unit (layers from below)")
    made.supxlabel("blue: the unit is on; dashed: from one layer to the next", fontsize=8)
    return made


def motion(record):
    from dlstudy import plots

    made, (axis,) = plots.figure(1, 1, 8.0, 5.0)
    epochs, found, seed = _shown(record)
    x = np.linspace(found[0].knots[0], found[0].knots[-1], 801)
    middles = (x[1:] + x[:-1]) / 2
    rows = [
        plots.pattern_colours(p.patterns)[np.searchsorted(p.knots, middles, "right") - 1]
        for p in found
    ]
    edges = np.append(epochs - 0.5, epochs[-1] + 0.5)
    axis.pcolormesh(x, edges, np.stack(rows), rasterized=True)
    axis.grid(False)
    axis.invert_yaxis()
    counts = [len(p.knots) - 1 for p in (found[0], found[-1])]
    title = f"Regions of seed {seed}: {counts[0]} before training, {counts[1]} at the end"
    plots.labels(axis, title, X, EPOCH)
    made.supxlabel("colour: the activation pattern", fontsize=8)
    return made


def animation(record):
    from dlstudy import plots

    made, (axis,) = plots.figure()
    epochs, found, seed = _shown(record)
    # More frames early, where more happens.
    chosen = np.unique(np.round((len(epochs) - 1) * np.linspace(0, 1, FRAMES) ** 2).astype(int))

    def draw(frame):
        for artist in (*axis.collections, *axis.lines):
            artist.remove()
        i = chosen[frame]
        _draw_function(axis, found[i])
        count = len(found[i].knots) - 1
        words = f"Seed {seed}, epoch {epochs[i]}: {count} regions"
        title = axis.set_title(words, fontsize=10.5, loc="left")
        if not axis.get_legend():
            axis.legend(loc="upper left", fontsize=8)
        changing = *axis.collections, *axis.lines, title
        return *changing, *axis.spines.values(), axis.get_legend()

    axis.set(xlabel=X, ylabel="f(x)")
    return plots.Moving(made, draw, len(chosen))


def windows(values):
    """[S, epochs] as means over at most WINDOWS stretches of epochs: (their middles, [S, W])."""
    parts = np.array_split(np.arange(values.shape[1]), min(WINDOWS, values.shape[1]))
    means = np.full((len(values), len(parts)), np.nan)
    for i, part in enumerate(parts):
        seen = np.isfinite(values[:, part])
        total = np.where(seen, values[:, part], 0).sum(1)
        means[:, i] = np.where(seen.any(1), total / np.maximum(seen.sum(1), 1), np.nan)
    return np.array([1 + part.mean() for part in parts]), means


def hamming(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    for i, arm in enumerate(a for a in ("main", "decay") if a in record.arm):
        values = claims.in_arm(record, "hamming", arm)[:, 1:]
        plots.seeds_over(left, *windows(values), _words(record)[arm], i)
    left.set_yscale("symlog", linthresh=0.1)
    left.set_ylim(bottom=0)
    kept = _share(claims.hamming_kept(record))
    title = f"At a constant rate the distance ends at {kept} of its start"
    plots.labels(left, title, EPOCH, "units x samples that change in an epoch")
    at_samples = claims.in_arm(record, "hamming")[:, 1:] / record.attrs["samples"]
    over_all = claims.in_arm(record, "domain_hamming")[:, 1:]
    for i, (values, label) in enumerate((
        (at_samples, "mean over the samples"), (over_all, "mean over the domain, exact"),
    )):  # fmt: skip
        plots.seeds_over(right, *windows(values), label, i, singles=False)
    plots.logarithmic(right)
    blind = (at_samples == 0)[over_all > 0].mean() if (over_all > 0).any() else 0.0
    title = f"In {blind:.0%} of the epochs with a change the samples see none"
    plots.labels(right, title, EPOCH, "units that change at a point in an epoch")
    stretch = -(-(record.sizes["epoch"] - 1) // WINDOWS)
    words = f"{_seeds(record)}; means over up to {stretch} epochs, of the runs that still go on"
    made.supxlabel(words, fontsize=8)
    return made


def counts(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    left, right = axes
    neurons = record.attrs["neurons"]
    for i, (name, label) in enumerate(
        (("regions", "exact"), ("sample_regions", "the samples see"))
    ):
        plots.seeds_over(left, record.epoch, held(claims.in_arm(record, name)), label, i)
    plots.reference(left, neurons, f"{neurons} neurons")
    left.set_ylim(bottom=0)
    seen = _median(claims.at_end(record, "sample_regions") / claims.at_end(record, "regions"))
    plots.labels(left, f"At the end the samples see {seen:.0%} of the regions", EPOCH, "regions")
    if "size_regions" in record:
        sizes = record.width.values * len(np.atleast_1d(record.attrs["widths"]))
        for i, moment in enumerate(record.moment.values):
            values = record["size_regions"].sel(moment=moment).values.T
            words = "before training" if moment == "start" else "after training"
            plots.seeds_over(right, sizes, values, words, i, marker="os"[i])
        right.plot(sizes, sizes, color="0.35", linestyle=(0, (4, 3)), label="as many as neurons")
        plots.logarithmic(right, "xy")
        ratio = record["size_regions"].sel(moment="start").values[-1] / sizes[-1]
        plots.labels(right, f"{sizes[-1]} neurons start with {_median(ratio):.2g} regions a neuron",
                     "hidden neurons", "regions on the domain")  # fmt: skip
    else:
        right.set_visible(False)
    made.supxlabel(_seeds(record), fontsize=8)
    return made


def settling(record):
    from dlstudy import plots

    made, (axis,) = plots.figure()
    share = np.linspace(0, 1, 101)
    for i, (name, label) in enumerate((
        ("hamming", "changes of patterns"), ("displacement", "way of the weights"),
    )):  # fmt: skip
        rows = [np.full(len(share), np.nan)]
        for values, end in zip(claims.in_arm(record, name), claims.trained(record), strict=True):
            total = np.cumsum(values[1 : end + 1])
            if end and np.isfinite(total[-1]) and total[-1] > 0:
                rows.append(np.interp(share * end, np.arange(end + 1), np.append(0, total)))
                rows[-1] = rows[-1] / total[-1]
        plots.seeds_over(axis, 100 * share, 100 * np.array(rows), label, i)
    leads = 100 * claims.half_lead(record)
    title = "No pattern changed"
    if np.isfinite(leads).any():
        lead = -_median(leads)
        sooner = "sooner" if lead >= 0 else "later"
        title = (
            f"Half of the patterns' changes come {abs(lead):.0f} points {sooner} than the weights'"
        )
    plots.labels(axis, title, "share of the run's epochs (%)", "share of its sum (%)")
    made.supxlabel(_seeds(record), fontsize=8)
    return made
