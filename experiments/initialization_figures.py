"""The figures of `initialization`, from its record alone; titles state what was found."""

import warnings

import numpy as np

from experiments import initialization_claims as claims

WORDS = {
    "zeros": "zeros",
    "normal": "N(0, 0.01²)",
    "uniform": "U(±1/√m)",
    "lecun": "LeCun",
    "glorot": "Glorot",
    "he": "He",
    "orthogonal": "orthogonal",
    "sparse": "sparse N(0, 1)",
    "lecun_uncorrected": "LeCun,\nnot widened",
}
MOST_LOSS = 10.0  # a loss at least this large, or lost, is drawn here
OPTIMIZERS = {"momentum": "Momentum", "adam": "Adam"}


def figures(record):
    """Yields (name, figure) for whatever the record holds."""
    for name, draw in (
        ("moments", moments),
        ("gains", gains),
        ("draws", draws),
        ("rates", rates),
        ("rescued", rescued),
        ("depths", depths),
        ("scales", scales),
        ("biases", biases),
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


def _names(record, *without) -> list[str]:
    return [str(name) for name in record["measured"].values if name not in without]


def _style(name: str) -> dict:
    """The same look for an initialiser in every figure."""
    from dlstudy import plots

    if name == "zeros":
        return {"color": "0.55", "linestyle": ":"}
    return plots.style(list(WORDS).index(name) - 1)


def _legend_beside(made, axis):
    """The axis's legend, right of the figure, where it covers nothing."""
    handles, names = axis.get_legend_handles_labels()
    made.legend(handles, names, loc="outside right upper", frameon=False, fontsize=8.5)


def _by_layer(record, moment: str, name: str, bias: float = 0.0) -> np.ndarray:
    """[S x draws, layers]; gradients relative to the top layer's. nan where nothing is left."""
    own = record[f"{moment}_moment"].sel(measured=name, bias=bias)
    values = own.transpose("seed", "draw", "layer").values.reshape(-1, record.sizes["layer"])
    values = values / values[:, -1:] if moment == "backward" else values
    return np.where(values > 0, values, np.nan)


def _theory(record, moment: str, name: str, bias: float = 0.0) -> np.ndarray:
    values = record[f"{moment}_theory"].sel(measured=name, bias=bias).values
    return np.where(values > 0, values, np.nan)


def _band(axis, record, moment, name, bias, look, label):
    """Median and quartiles over seeds and draws, and theory dotted."""
    values, layers = _by_layer(record, moment, name, bias), record.layer.values
    low, middle, high = np.nanquantile(values, [0.25, 0.5, 0.75], axis=0)
    # Where only some draws have anything left, the median is nothing.
    left = np.isfinite(values).mean(0) > 0.5
    low, middle, high = (np.where(left, v, np.nan) for v in (low, middle, high))
    axis.fill_between(layers, low, high, color=look["color"], alpha=0.25, linewidth=0)
    axis.plot(layers, middle, label=label, linewidth=1.8, **look)
    axis.plot(layers, _theory(record, moment, name, bias), color=look["color"], linewidth=4,
              alpha=0.3)  # fmt: skip


def moments(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    for axis, moment in zip(axes, ("forward", "backward"), strict=True):
        for name in _names(record, "zeros", "lecun_uncorrected"):
            _band(axis, record, moment, name, 0.0, _style(name), WORDS[name])
        if np.isfinite(axis.dataLim.intervaly).all():
            axis.set_yscale("log")
    down = [
        f"{WORDS[name]} {_median(claims.decades(record, name), '{:+.1f}')}"
        for name in ("lecun", "he", "sparse") if name in _names(record)
    ]  # fmt: skip
    shown = [WORDS[name] for name in _names(record) if name == "zeros"]
    up = claims.gain_up(record)
    title = f"Gains are those expected to {_median(100 * up)}% (the worst, median seed)"
    plots.labels(axes[0], title, "hidden layer", "second moment of activations")
    plots.labels(axes[1], f"Decades from top to first layer: {', '.join(down)}", "hidden layer",
                 "second moment of gradients, top = 1", legend=False)  # fmt: skip
    made.supxlabel(
        f"median and quartiles over {_seeds(record)} with {record.sizes['draw']} draws, zero bias; "
        "broad lines: expected, without the shortfall of typical draws"
        + ("; zeros are 0 throughout" if shown else ""),
        fontsize=8,
    )
    return made


def gains(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    names = _names(record, "zeros")
    width = float(record.attrs["moment_width"])
    up = {n: claims.ratios(record, n).mean(1) for n in names}
    typical = {
        moment: {
            n: np.exp(np.log(claims.ratios(record, n, f"one_{moment}")).mean(1)) for n in names
        }
        for moment in ("forward", "backward")
    }
    series = (
        ("mean ratio of activations", up, 0), ("typical, activations", typical["forward"], 1),
        ("typical, gradients", typical["backward"], 2),
    )  # fmt: skip
    for axis, relative in zip(axes, (False, True), strict=True):
        for label, found, index in series:
            if not relative and index:
                continue
            for i, name in enumerate(names):
                gain = claims.expected(record, "gain", name)
                values = 100 * (found[name] / gain - 1) if relative else found[name]
                place = i + (0.22 * (index - 1) if relative else 0)
                axis.plot(np.full(len(values), place), values, "os^"[index], markersize=3.5,
                          alpha=0.5, color=plots.CYCLE[index],
                          label=None if i else label)  # fmt: skip
        for i, name in enumerate(names):
            gain, log = (claims.expected(record, v, name) for v in ("gain", "log_gain"))
            levels = [(gain, "expected")]
            if relative:
                typically = 100 * (np.exp(log) / gain - 1)
                levels = [(0.0, "expected"), (typically, "expected, typical draw")]
            for j, (level, label) in enumerate(levels):
                axis.plot([i - 0.38, i + 0.38], [level, level], color="0.2",
                          linestyle=("-", ":")[j], linewidth=1.4,
                          label=None if i else label)  # fmt: skip
        axis.set_xticks(range(len(names)), [WORDS[n] for n in names], fontsize=7.5, rotation=20)
    plots.logarithmic(axes[0])
    read = [f"{WORDS[n]} {_median(up[n])}" for n in ("he", "glorot", "uniform") if n in up]
    plots.labels(axes[0], "Gain of a square ReLU layer: " + ", ".join(read), "",
                 "ratio of sums of squares, layer over layer", legend=False)  # fmt: skip
    short = _median(claims.shortfall(record) / width, "{:.3f}")
    title = f"Typical draws: {short} in the logarithm (-5/(2n) = {-2.5 / width:.3f})"
    plots.labels(axes[1], title, "", "measured over expected, less 1 (%)", legend=False)
    _legend_beside(made, axes[1])
    made.supxlabel(
        f"each dot a seed: mean over {record.sizes['layer'] - 1} layers and "
        f"{record.sizes['draw']} draws; the first layer is left out",
        fontsize=8,
    )
    return made


def draws(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    names = [n for n in _names(record) if n in (*claims.SMALL, "he")]
    layers, width = record.layer.values, float(record.attrs["moment_width"])
    steps = layers - layers[0]
    for axis, moment in zip(axes, ("forward", "backward"), strict=True):
        found = []
        for name in names:
            own = record[f"one_{moment}_moment"].sel(measured=name, bias=0.0)
            values = own.transpose("seed", "draw", "layer").values.reshape(-1, len(layers))
            values = values[:, ::-1] if moment == "backward" else values
            found.append(values / values[:, :1] / claims.expected(record, "gain", name) ** steps)
        found = np.concatenate(found)
        low, middle, high = np.nanquantile(found, [0.05, 0.5, 0.95], axis=0)
        axis.fill_between(steps, low, high, alpha=0.2, linewidth=0, color=plots.CYCLE[0],
                          label="nine tenths of the draws")  # fmt: skip
        axis.plot(steps, middle, linewidth=1.8, label="median draw", **plots.style(0))
        axis.plot(steps, found.mean(0), linewidth=1.8, label="mean over draws", **plots.style(1))
        axis.plot(steps, np.exp(-2.5 * steps / width), color=plots.CYCLE[0], linewidth=4,
                  alpha=0.3, label=r"$e^{-5\ell/(2n)}$")  # fmt: skip
        plots.reference(axis, 1.0, "expected")
        plots.logarithmic(axis)
        last = found[:, -1]
        top = last[np.argsort(last)[-max(1, len(last) // 10) :]].sum() / last.sum()
        what = {"forward": "Activations", "backward": "Gradients"}[moment]
        title = (
            f"{what}: median {_median(last)}, mean {last.mean():.2g}; a tenth of the draws holds "
            f"{100 * top:.0f}%"
        )
        plots.labels(axis, title, "layers passed", "second moment over its expectation",
                     legend=moment == "forward")  # fmt: skip
    made.supxlabel(
        f"{len(names)} initialisers with normal or uniform weights, {_seeds(record)}, "
        f"{record.sizes['draw']} draws each, one input; at the last layer in the titles",
        fontsize=8,
    )
    return made


def _shown_loss(values):
    values = np.where(np.isfinite(values), values, np.inf)
    return np.minimum(values, MOST_LOSS)


def rates(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    for axis, (optimizer, words) in zip(axes, OPTIMIZERS.items(), strict=True):
        rate = record["rate"].sel(optimizer=optimizer).values
        x = np.arange(len(rate))
        for name in map(str, record["retuned"].values):
            own = record["train_loss"].sel(optimizer=optimizer, retuned=name)
            values = _shown_loss(own.transpose("seed", "place").values)
            low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
            look = _style(name)
            axis.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
            axis.plot(x, middle, marker="o", markersize=3.5, linewidth=1.6, label=WORDS[name],
                      **look)  # fmt: skip
        plots.reference(axis, float(record.attrs["target"]), "the target")
        common = int(np.argmin(np.abs(rate - float(record.attrs[f"{optimizer}_rate"]))))
        axis.axvline(common, color="0.6", linewidth=0.9, label="the common rate")
        plots.logarithmic(axis)
        axis.set_xticks(x, [f"{r:g}" for r in rate])
        never = [
            WORDS[n] for n in map(str, record["retuned"].values)
            if not claims.learned(record, optimizer, n).any()
        ]  # fmt: skip
        title = f"{words}: {len(never)} of {record.sizes['retuned']} never learn in any seed"
        plots.labels(axis, title, "learning rate", "training loss at the end (nat)", legend=False)
    _legend_beside(made, axes[0])
    made.supxlabel(
        f"{record.attrs['train_depth']} layers of {record.attrs['width']}; median and quartiles of "
        f"{_seeds(record)}; {MOST_LOSS:g}: as much or more, or lost",
        fontsize=8,
    )
    return made


def at_any_rate(record, optimizer: str, name: str) -> np.ndarray:
    """bool[S]; zeros have the common rate only, as any other changes nothing."""
    if name in record["retuned"].values:
        return claims.learned(record, optimizer, name).any(1)
    return claims.learned_at_common(record, optimizer, name)


def rescued(record):
    from dlstudy import plots

    made, axes = plots.figure(2)
    names = [str(name) for name in record["initializer"].values]
    for axis, (optimizer, words) in zip(axes, OPTIMIZERS.items(), strict=True):
        common = [100 * claims.learned_at_common(record, optimizer, n).mean() for n in names]
        best = [100 * at_any_rate(record, optimizer, n).mean() for n in names]
        places = np.arange(len(names))
        axis.bar(places - 0.2, common, 0.38, color=plots.CYCLE[0], label="at the common rate")
        axis.bar(places + 0.2, best, 0.38, color=plots.CYCLE[1], hatch="//", edgecolor="white",
                 label="at some rate of the grid")  # fmt: skip
        axis.set_xticks(places, [WORDS[n] for n in names], fontsize=8, rotation=20)
        axis.set_ylim(0, 103)
        poor = [n for n in names if n in claims.POOR]
        found = [f"{np.mean([v[names.index(n)] for n in poor]):.0f}%" if poor else "unknown"
                 for v in (common, best)]  # fmt: skip
        title = f"{words}: poor scales learn in {found[0]} of runs, retuned in {found[1]}"
        plots.labels(axis, title, "", "seeds whose network learns (%)",
                     legend=optimizer == "momentum")  # fmt: skip
    made.supxlabel(
        f"{record.attrs['train_depth']} layers, {_seeds(record)}; learns: training loss below "
        f"{record.attrs['target']:g} nat; poor: {', '.join(WORDS[n] for n in claims.POOR)}",
        fontsize=8,
    )
    return made


def depths(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    x = record["depth"].values
    shares = {}
    for name in map(str, record["initializer"].values):
        own = record["depth_train_loss"].sel(initializer=name).transpose("seed", "depth").values
        shares[name] = 100 * (own < float(record.attrs["target"])).mean(0)
        look = _style(name)
        left.plot(x, shares[name], marker="o", markersize=4, linewidth=1.6, label=WORDS[name],
                  **look)  # fmt: skip
        right.plot(x, np.median(_shown_loss(own), 0), marker="o", markersize=4, linewidth=1.6,
                   **look)  # fmt: skip
    left.set_ylim(-3, 103)
    plots.reference(right, float(record.attrs["target"]), "the target")
    plots.logarithmic(right)
    last = [f"{WORDS[n]} {shares[n][-1]:.0f}%" for n in ("he", "lecun", "uniform") if n in shares]
    rate = f"Adam at {record.attrs['adam_rate']:g}"
    plots.labels(left, f"{x[-1]} layers learn: {', '.join(last)}", "hidden layers",
                 "seeds whose network learns (%)")  # fmt: skip
    plots.labels(right, f"Their losses, {rate}", "hidden layers", "training loss at the end (nat)")
    made.supxlabel(f"{rate}, {_seeds(record)}; medians on the right, where {MOST_LOSS:g} stands "
                   "for as much or more, or lost", fontsize=8)  # fmt: skip
    return made


def _scaled(record) -> dict[str, float]:
    """Variants that are He's weights times a factor, or as good as, by rising factor."""
    near = {"uniform": 6**-0.5, "lecun": 2**-0.5, "he": 1.0}
    variants = [str(v) for v in record["variant"].values]
    found = {v: near.get(v) or float(v.split("*")[1]) for v in variants if v in near or "*" in v}
    return dict(sorted(found.items(), key=lambda pair: pair[1]))


def scales(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    factors = _scaled(record)
    x = np.array(list(factors.values()))
    shares = {}
    for i, (optimizer, words) in enumerate(OPTIMIZERS.items()):
        own = record["common_train_loss"].sel(optimizer=optimizer, variant=list(factors))
        losses = own.transpose("seed", "variant").values
        shares[words] = 100 * (losses < float(record.attrs["target"])).mean(0)
        rate = f"{words} at {record.attrs[f'{optimizer}_rate']:g}"
        left.plot(x, shares[words], marker="os"[i], markersize=4.5, linewidth=1.6, label=rate,
                  **plots.style(i))  # fmt: skip
        plots.seeds_over(right, x, _shown_loss(losses), rate, i, marker="os"[i])
    left.set_ylim(-3, 103)
    plots.logarithmic(left, "x")
    plots.logarithmic(right, "xy")
    found = []
    for words, share in shares.items():
        most = x[share > 50]
        ends = sorted({f"{factor:.2g}" for factor in (*most[:1], *most[-1:])})
        span = " to ".join(ends) or "none"
        found.append(f"{span} ({words})")
    plots.labels(left, f"Most seeds learn at factors {', '.join(found)}",
                 "factor of He's weights", "seeds whose network learns (%)")  # fmt: skip
    plots.labels(right, "Their losses", "factor of He's weights", "training loss at the end (nat)",
                 legend=False)  # fmt: skip
    made.supxlabel(
        f"{record.attrs['train_depth']} layers, {_seeds(record)}, zero bias; LeCun is He times "
        "0.71, U(±1/√m) as good as He times 0.41",
        fontsize=8,
    )
    return made


def biases(record):
    from dlstudy import plots

    made, axes = plots.figure(2, 2)
    shown = [n for n in ("he", "lecun") if n in _names(record)]
    arms = [(name, float(bias)) for name in shown for bias in sorted(record["bias"].values)]
    for i, (name, bias) in enumerate(arms):
        look, label = plots.style(i), f"{WORDS[name]}, bias {bias:g}"
        for axis, moment in zip(axes, ("forward", "backward"), strict=False):
            _band(axis, record, moment, name, bias, look, label)
        own = record["spread"].sel(measured=name, bias=bias)
        values = own.transpose("seed", "draw", "layer").values.reshape(-1, record.sizes["layer"])
        axes[2].plot(record.layer, np.nanmedian(np.where(values > 0, values, np.nan), 0),
                     linewidth=1.8, **look)  # fmt: skip
        variant = name if bias == 0 else f"{name}{bias:+g}"
        for j, optimizer in enumerate(OPTIMIZERS):
            share = 100 * claims.learned_at_common(record, optimizer, variant).mean()
            axes[3].bar(i + (j - 0.5) * 0.38, share, 0.36, color=plots.CYCLE[j],
                        hatch=("", "//")[j], edgecolor="white",
                        label=None if i else OPTIMIZERS[optimizer])  # fmt: skip
    for axis in axes[:3]:
        if np.isfinite(axis.dataLim.intervaly).all():
            axis.set_yscale("log")
    axes[3].set_xticks(range(len(arms)), [f"{WORDS[n]},\nbias {b:g}" for n, b in arms], fontsize=8)
    axes[3].set_ylim(0, 125)
    axes[3].set_yticks(range(0, 101, 20))
    low, high = claims.lowest_bias(record), claims.highest_bias(record)

    def read(name, bias):
        if name not in shown:
            return "unknown"
        value = np.median(claims.decades(record, name, bias=bias))
        return "nothing left" if value <= claims.NOTHING_LEFT else f"{value:+.1f}"

    plots.labels(axes[0], "Activations by layer", "hidden layer", "second moment of activations")
    title = (
        f"Decades down: He {read('he', low)} with {low:g}; LeCun {read('lecun', 0.0)}, "
        f"{read('lecun', high)} with {high:g}"
    )
    plots.labels(axes[1], title, "hidden layer", "second moment of gradients, top = 1",
                 legend=False)  # fmt: skip
    apart = _median(10 ** claims.told_apart(record), "{:.1e}") if "lecun" in shown else "unknown"
    title = f"Variance over inputs at the top, LeCun: {apart} times as large with {high:g}"
    plots.labels(axes[2], title, "hidden layer", "variance over inputs / second moment",
                 legend=False)  # fmt: skip
    plots.labels(axes[3], f"What learns at the common rate, {record.attrs['train_depth']} layers",
                 "", "seeds whose network learns (%)")  # fmt: skip
    made.supxlabel(
        f"{_seeds(record)}; medians and quartiles over draws, as long as most have anything left; "
        "broad lines: the limit of wide layers",
        fontsize=8,
    )
    return made
