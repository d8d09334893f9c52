"""The figures of `weight_decay`, from its record alone; titles state what was found."""

import json
import warnings

import numpy as np

from dlstudy.records import without_diverged
from experiments import weight_decay_claims as claims
from experiments import weight_decay_linear as linear

NAMES = {"sgd": "plain descent", "momentum": "momentum", "adam": "Adam"}
RATIO = "λ/\N{GREEK SMALL LETTER ALPHA}"  # eigenvalue over the penalty of ridge
FLOOR = 1e-17  # zeros are drawn here on a logarithmic axis


def figures(record):
    """Yields (name, figure) for whatever the record holds."""
    good = without_diverged(record)
    for name, draw, of in (
        ("plane", plane, record),
        ("trajectories", trajectories, good),
        ("distances", distances, good),
        ("shrinkage", shrinkage, good),
        ("risk", risk, good),
        ("acting_penalty", acting_penalty, good),
        ("paths", paths, good),
        ("norms", norms, good),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # medians of nothing, after divergence
            yield name, draw(of)


def _median(values) -> float:
    values = np.asarray(values, float)
    return float(np.nanmedian(values)) if np.isfinite(values).any() else np.nan


def _words(values, digits: int = 3) -> str:
    """Median as text; "unknown" where there is none."""
    found = _median(values)
    return f"{found:.{digits}g}" if np.isfinite(found) else "unknown"


def _most(values, digits: int = 3) -> str:
    values = np.asarray(values, float)
    return f"{np.nanmax(values):.{digits}g}" if np.isfinite(values).any() else "unknown"


def _seeds(record) -> str:
    words = f"median, quartiles and single runs of {record.sizes['seed']} seeds"
    left_out = record.attrs.get("left_out")
    return f"{words}; left out, as diverged: seed {left_out}" if left_out else words


# -- 1.1a


def plane(record):
    """Paths of the first seed in the plane, one panel for each optimizer."""
    from dlstudy import plots

    own = record.isel(seed=0)
    beta, decay = record.attrs["momentum"], record.attrs["decay"]
    labels = {
        "none": "no decay",
        "coupled": "penalty λ",
        "matched": f"penalty {1 - beta:.3g} λ",
        "decoupled": "decay λ",
    }
    made, axes = plots.figure(3, width=4.8, height=4.4)
    hessian, minimum = own["plane_hessian"].values, own["plane_minimum"].values
    for axis, (name, words) in zip(axes, NAMES.items(), strict=True):
        found = own["plane_path"].sel(optimizer=name)
        ends = own["plane_end"].sel(optimizer=name)
        points = found.values.reshape(-1, 2)
        points = points[np.isfinite(points).all(1)]
        low, high = points.min(0), points.max(0)
        pad = 0.08 * (high - low).max() + 1e-9
        grid = [np.linspace(a - pad, b + pad, 80) for a, b in zip(low, high, strict=True)]
        mesh = np.stack(np.meshgrid(*grid), -1) - minimum
        loss = 0.5 * np.einsum("...i,ij,...j", mesh, hessian, mesh)
        axis.contour(*grid, np.sqrt(loss), levels=12, colors="0.8", linewidths=0.6)
        for i, (path, label) in enumerate(labels.items()):
            line = found.sel(path=path).values
            look = plots.style(i)
            axis.plot(*line.T, label=label, linewidth=1.6, **look)
            axis.plot(*ends.sel(path=path).values, "o", color=look["color"], markersize=5)
        axis.plot(*minimum, "+", color="black", markersize=10, label="minimum of the loss")
        away = {
            path: np.linalg.norm((ends.sel(path=path) - ends.sel(path="decoupled")).values)
            for path in ("coupled", "matched")
        }
        title = (
            f"{words[0].upper()}{words[1:]}: the decay ends {away['coupled']:.2g} from\n"
            f"penalty λ, {away['matched']:.2g} from penalty {1 - beta:.3g} λ"
        )
        plots.labels(axis, title, "first weight", "second weight", name == "sgd")
        axis.set_aspect("equal", "datalim")
    made.supxlabel(
        f"seed {int(own.seed)}; a quadratic loss, λ = {decay:g}, momentum {beta:g}; "
        f"first {record.sizes['plane_step'] - 1} steps, dots: where each ends", fontsize=8,
    )  # fmt: skip
    return made


_FACTORS = {
    "none": "no penalty",
    "book": "penalty (λ/2)‖w‖²",
    "source": "penalty λ‖w‖²",
    "matched": "penalty (1 - β)(λ/2)‖w‖²",
}


def trajectories(record):
    """Norms of the network's weights under both decays."""
    from dlstudy import plots

    made, axes = plots.figure(3, width=4.8, height=4.2)
    for axis, (name, words) in zip(axes, NAMES.items(), strict=True):
        found = record.sel(optimizer=name)
        for i, (factor, label) in enumerate(_FACTORS.items()):
            if factor != "matched" or name == "momentum":
                values = found["coupled_norm"].sel(factor=factor)
                plots.seeds_over(axis, record.step, values, label, i, singles=False)
        plots.seeds_over(axis, record.step, found["decoupled_norm"], "decay λ", 6, singles=False)
        title = (
            f"{words[0].upper()}{words[1:]}: penalty and decay differ by\n"
            f"{_words(claims.largest_distance(record, name), 2)} of the weights' norm"
        )
        if name == "sgd":
            off = [
                _words(record["shrinkage"].sel(optimizer=name, factor=f))
                for f in ("book", "source")
            ]
            title += f"; factors 1 - {off[0]} ηλ, 1 - {off[1]} ηλ"
        plots.labels(axis, title, "step", "‖w‖")
    made.supxlabel(f"network on digits, float64; median and quartiles of {record.sizes['seed']} "
                   "seeds", fontsize=8)  # fmt: skip
    return made


def distances(record):
    """Distance of the trajectories by step, and at its largest by penalty."""
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    shown = [(name, "book", words) for name, words in NAMES.items()]
    shown.insert(1, ("sgd", "source", "plain descent, λ‖w‖²"))
    shown.append(("momentum", "matched", "momentum, penalty (1 - β) λ"))
    for i, (name, factor, label) in enumerate(shown):
        values = record["distance"].sel(optimizer=name, factor=factor)
        plots.seeds_over(left, record.step, np.maximum(values, FLOOR), label, i)
    left.set_yscale("log")
    largest = [_words(claims.largest_distance(record, name), 2) for name in NAMES]
    title = f"At the same λ: {largest[0]} (descent), {largest[1]} (momentum), {largest[2]} (Adam)"
    plots.labels(left, title, "step", "‖w penalty - w decay‖ / ‖w decay‖")
    for i, (name, words) in enumerate(NAMES.items()):
        found = record[["match_factor", "match_distance"]].sel(optimizer=name)
        factor = found["match_factor"].transpose("seed", "match").values
        distance = found["match_distance"].transpose("seed", "match").values
        for f, d in zip(factor, distance, strict=True):
            order = np.argsort(f)
            order = order[f[order] > 0]
            look = plots.style(i) | {"linestyle": "-"}
            right.plot(f[order], np.maximum(d[order], FLOOR), linewidth=0.6, alpha=0.4, **{
                k: v for k, v in look.items() if k == "color"})  # fmt: skip
        none = _median(record["distance"].sel(optimizer=name, factor="none").max("step"))
        right.plot([], [], label=words, **plots.style(i) | {"linestyle": "-"})
        right.plot(factor[factor > 0].min() / 2, none, marker="<^v"[i], color=plots.CYCLE[i])
    right.set_xscale("log")
    right.set_yscale("log")
    least = [_words(claims.least_distance(record, name), 2) for name in NAMES]
    title = f"At the best penalty: {least[0]}, {least[1]}, {least[2]}"
    plots.labels(right, title, "penalty / decay (triangles: no penalty)",
                 "largest distance over all steps")  # fmt: skip
    made.supxlabel(f"{_seeds(record)}; left: 0 is drawn at {FLOOR:g}; right: each seed's search",
                   fontsize=8)  # fmt: skip
    return made


# -- 1.1b, linear regression


def _cases(record) -> dict[str, str]:
    return json.loads(record.attrs["cases"])


def _per_case(axis, record, values, bounds):
    """Points of each seed by case, with the bound of its step size where there is one."""
    from dlstudy import plots

    names = list(_cases(record).values())
    for i, found in enumerate(values):
        spread = np.linspace(-0.15, 0.15, len(found)) if len(found) > 1 else [0.0]
        axis.plot(i + np.asarray(spread), found, "o", markersize=3, color=plots.COLOURS["blue"])
        if bounds[i] is not None:
            axis.plot([i - 0.35, i + 0.35], [bounds[i]] * 2, color=plots.COLOURS["orange"],
                      linewidth=2, label="bound of its steps" if i == 0 else None)  # fmt: skip
    axis.set_yscale("log")
    plots.logarithmic(axis)
    axis.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)


def _bounds(which: int) -> list[float | None]:
    plain = [c for c in linear.CASES if c.name.startswith("gd")]
    return [linear.suprema(c.step)[which] if c in plain else None for c in linear.CASES]


def shrinkage(record):
    """Shrinkage of early stopping and ridge along each eigenvector, and the worst by case."""
    from dlstudy import plots

    made, (left, middle, right) = plots.figure(3, width=5.2)
    own = record.sel(case="gd")
    ratio, descent, ridge = (
        own[name].transpose("seed", "time", "direction").values
        for name in ("ratio", "descent_shrinkage", "ridge_shrinkage")
    )
    x = np.geomspace(max(1e-3, ratio.min()), ratio.max(), 400)
    flow, curve = -np.expm1(-x), linear.ridge_shrinkage(x)
    plots.cloud(left, ratio, descent, "early stopping", 0, most=1500)
    plots.cloud(left, ratio, ridge, "ridge", 1, most=1500)
    left.plot(x, flow, color="black", linewidth=1, label=f"1 - exp(-{RATIO})")
    left.plot(x, curve, color="black", linewidth=1, linestyle="--", label="ridge in theory")
    left.set_xscale("log")
    left.set_ylim(-0.05, 1.1)
    more = f"{np.mean(descent > ridge):.0%}" if descent.size else "unknown"
    title = f"Early stopping keeps more than ridge at {more} of the points"
    plots.labels(left, title, f"{RATIO} = rate x steps x eigenvalue",
                 "weight over that of least squares")  # fmt: skip
    plots.cloud(middle, ratio, descent - ridge, "measured", 0, most=3000)
    middle.plot(x, flow - curve, color="black", linewidth=1, label="limit of small steps")
    plots.reference(middle, linear.GAP, f"{linear.GAP}")
    plots.reference(middle, -linear.GAP, "")
    middle.axvline(linear.GAP_AT, color="0.35", linewidth=1, linestyle=":",
                   label=f"{RATIO} = {linear.GAP_AT}")  # fmt: skip
    middle.set_xscale("log")
    away = np.abs(descent - ridge)
    where = ratio.ravel()[np.nanargmax(away)] if np.isfinite(away).any() else np.nan
    plots.labels(middle, f"Largest difference {_most(away, 4)}, at {RATIO} = {where:.3g}", RATIO,
                 "early stopping - ridge")  # fmt: skip
    values = [claims.largest_gap(record, case) for case in _cases(record)]
    _per_case(right, record, values, _bounds(0))
    title = (
        f"Without the ½ the difference is {_words(values[4])}, with momentum {_words(values[7])}"
    )
    plots.labels(right, title, "", "largest difference of the shrinkages")
    made.supxlabel(f"linear regression, float64, {record.sizes['seed']} seeds x "
                   f"{record.sizes['direction']} directions x {record.sizes['time']} times; left "
                   "and middle: steps of 0.01 / largest eigenvalue", fontsize=8)  # fmt: skip
    return made


def risk(record):
    """Risk of early stopping over that of ridge: expected, of single draws, and by case."""
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    own = record.sel(case="gd")
    x = own["progress"].transpose("seed", "time").values[0]
    for i, (what, label) in enumerate((("risk", "expected over the noise"),
                                       ("loss", "this draw of the noise"))):  # fmt: skip
        ratio = own[f"descent_{what}"] / own[f"ridge_{what}"]
        plots.seeds_over(left, x, ratio.transpose("seed", "time"), label, i)
    plots.reference(left, linear.RISK, f"bound, {linear.RISK:.3g}")
    left.set_xscale("log")
    expected, single = claims.risk_ratio(record), claims.risk_ratio(record, what="loss")
    title = f"At most {_most(expected)} times ridge's risk; single draws reach {_most(single)}"
    plots.labels(left, title, "rate x steps x largest eigenvalue", "risk / risk of ridge")
    values = [claims.risk_ratio(record, case) for case in _cases(record)]
    _per_case(right, record, values, _bounds(1))
    middle = np.array([_median(v) for v in values])
    title = "No case has a finite risk"
    if np.isfinite(middle).any():
        worst = int(np.nanargmax(middle))
        title = f"Largest with: {list(_cases(record).values())[worst]}, {middle[worst]:.3g}"
    plots.labels(right, title, "", "largest expected risk / ridge's")
    made.supxlabel(_seeds(record), fontsize=8)
    return made


def acting_penalty(record):
    """The penalty of the ridge nearest to the stopped weights, over 1 / (rate x steps)."""
    from dlstudy import plots

    made, (axis,) = plots.figure()
    cases = _cases(record)
    for i, case in enumerate(("gd", "gd_0.1", "no_half", "momentum")):
        own = record.sel(case=case)
        x = own["progress"].transpose("seed", "time").values[0]
        values = 2.0 ** own["nearest"].transpose("seed", "time").values
        plots.seeds_over(axis, x, values, cases[case], i)
    plots.reference(axis, 1.0, "1 / (rate x steps)")
    axis.set_xscale("log")
    plots.logarithmic(axis)
    plain, heavy = (2.0 ** claims.acting_penalty(record, case) for case in ("gd", "momentum"))
    title = f"Nearest ridge: {_words(plain)} of 1 / (rate x steps), with momentum {_words(heavy)}"
    plots.labels(axis, title, "rate x steps x largest eigenvalue",
                 "penalty of the nearest ridge x rate x steps")  # fmt: skip
    made.supxlabel(f"{_seeds(record)}; the search ends at 1/128", fontsize=8)
    return made


# -- 1.1b and d, network


def paths(record):
    """Test error along the epochs and along the penalties, on one axis of 1 / penalty."""
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    steps = record.attrs["steps_per_epoch"]
    order = ("seed", "rate", "penalty", "epoch")
    error = record["test_error"].transpose(*order).values
    for i, rate in enumerate(record.rate.values):
        time = rate * steps * record.epoch.values[1:]
        plots.seeds_over(left, time, 100 * error[:, i, 0, 1:], f"early stopping, rate {rate:g}", i,
                         singles=False)  # fmt: skip
    chosen = claims.penalised(record)
    if record.sizes["seed"]:
        by_penalty = error[np.arange(len(error)), chosen.rate, 1:, -1]
        inverse = 1 / record["strength"].values[1:]
        plots.seeds_over(left, inverse, 100 * by_penalty, "L2, at the end", 6, marker="o",
                         singles=False)  # fmt: skip
    left.set_xscale("log")
    ends = {
        name: 100 * choice(record).of(record, "test_error")
        for name, choice in (
            ("stopped", claims.stopped), ("penalised", claims.penalised),
            ("neither", claims.neither),
        )
    }  # fmt: skip
    title = (
        f"Tuned, test errors are {_words(ends['stopped'])}% (stopped), "
        f"{_words(ends['penalised'])}% (L2), {_words(ends['neither'])}% (neither)"
    )
    plots.labels(left, title, "rate x steps, or 1 / penalty (of |w|²/2)", "test error / %")
    differences = {"stopped": ends["stopped"] - ends["penalised"],
                   "neither": ends["neither"] - ends["penalised"]}  # fmt: skip
    for i, values in enumerate(differences.values()):
        spread = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else [0.0]
        right.plot(i + np.asarray(spread), values, "o", color=plots.CYCLE[i])
        right.plot([i - 0.3, i + 0.3], [_median(values)] * 2, color="black", linewidth=2)
    right.axhspan(-2, 2, color="0.85", zorder=0, label="margin of two points")
    right.set_xticks([0, 1], ["early stopping", "neither"])
    edge = (
        np.isin(chosen.penalty, (1, record.sizes["penalty"] - 1)).mean() if len(error) else np.nan
    )
    title = (
        f"Minus L2: {_words(differences['stopped'])} points (stopped), "
        f"{_words(differences['neither'])} (neither); {edge:.0%} at the grid's edge"
    )
    plots.labels(right, title, "", "test error minus that of L2 / points")
    made.supxlabel(f"median and quartiles, and right single runs, of {record.sizes['seed']} seeds; "
                   f"{record.attrs['label_noise']:.0%} wrong labels", fontsize=8)  # fmt: skip
    return made


def norms(record):
    """Norms over the epochs of the decayed and the undecayed run, and where the latter stopped."""
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    stop = claims.stopped(record)
    without = claims.norms(record, stop)
    with_penalty = claims.norms(record, claims.decayed(record))
    epochs = record.epoch.values[1:]
    plots.seeds_over(left, epochs, without, "undecayed", 0)
    plots.seeds_over(left, epochs, with_penalty, "decayed, same rate", 1)
    at_stop = stop.of(record, "norm")
    left.plot(stop.epoch, at_stop, "v", color="black", markersize=4, label="stops")
    share = claims.share_below(record)
    title = f"The decayed run is the smaller one in {100 * _median(share):.3g}% of the epochs"
    plots.labels(left, title, "epoch", "‖w‖")
    end = with_penalty[:, -1] if with_penalty.size else np.full(0, np.nan)
    right.plot(at_stop, end, "o", color=plots.COLOURS["blue"])
    line = [np.nanmin([at_stop, end]), np.nanmax([at_stop, end])] if len(end) else [0, 1]
    right.plot(line, line, color="0.35", linewidth=1, linestyle="--", label="equal")
    falls = (np.diff(with_penalty, axis=1) < 0).mean(1)
    title = (
        f"The decayed run ends at {_words(end / at_stop)} of the norm at the stop,\n"
        f"and its norm falls in {100 * _median(falls):.3g}% of the epochs"
    )
    plots.labels(right, title, "‖w‖ when stopped", "‖w‖ of the decayed run at the end")
    made.supxlabel(f"{_seeds(record)}; rate, epoch and penalty tuned for each", fontsize=8)
    return made
