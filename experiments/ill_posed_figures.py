"""The figures of `ill_posed`, from its record alone; titles state what was found."""

import warnings

import numpy as np

from experiments import ill_posed_claims as claims

# Arms whose numbers a figure shows; a seed that failed in one of them is left out of it.
FLOWS = ("flow", "flow_decay")
STEPS = ("gradient_descent", "other_start", "weight_decay", "weight_decay_other", "adam")
FLOOR = 1e-17  # of the distances shown; an exact zero has no logarithm


def figures(record):
    """Yields (name, figure)."""
    for name, draw, arms in (
        ("growth", growth, FLOWS),
        ("solutions", solutions, STEPS),
        ("inverse", inverse, ("dual", "primal")),
        ("whitening", whitening, ("whitening",)),
    ):
        good = succeeded(record, arms)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # medians of nothing, after failures
            yield name, draw(good)


def succeeded(record, arms):
    """The seeds of a record that did not fail in any of these arms; `left_out` names the others."""
    good = (record["diverged_step"].sel(arm=list(arms)) < 0).all("arm").values
    if good.all():
        return record
    left_out = ", ".join(str(seed) for seed in record["seed"].values[~good])
    return record.isel(seed=good).assign_attrs(left_out=left_out)


def _median(values) -> float:
    values = np.asarray(values, float)
    return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")


def _number(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "an unknown number"


def _power(value: float) -> str:
    return f"10^{np.log10(value):.0f}" if 0 < value < np.inf else "an unknown number"


def _seeds(record) -> str:
    words = f"median, quartiles and single runs of {record.sizes['seed']} seeds"
    left_out = record.attrs.get("left_out")
    return f"{words}; left out, as failed: seed {left_out}" if left_out else words


def _penalties(record) -> list[str]:
    return ["no penalty", *(f"penalty {value:g}" for value in record["penalty"].values[1:])]


def _logarithmic(record, *axes):
    """Both axes; not where no seed is left, as matplotlib has no ticks for an empty one."""
    for axis in axes if record.sizes["seed"] else ():
        axis.set(xscale="log", yscale="log")


def growth(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    log_time, margin = record["log_time"].values, record["margin"].values
    norm = record["norm"].values
    for i, label in enumerate(_penalties(record)):
        plots.seeds_over(left, log_time, norm[i], label, i)
    kept = record["descent_step"].values > 0
    steps = np.log(record.attrs["rate"] * record["descent_step"].values[kept])
    descent = np.nanmedian(record["descent_norm"].values[:, kept], 0)
    left.plot(steps[::6], descent[::6], "o", color="black", markersize=3.5, zorder=4,
              markerfacecolor="white", label="gradient descent itself, no penalty")  # fmt: skip
    slope, end = _median(1 / margin), _median(norm[0, :, -1])
    line = end + slope * (log_time - log_time[-1])
    left.plot(log_time[line > 0], line[line > 0], color="black", linewidth=1.2, zorder=3,
              linestyle=(0, (3, 4)), label="slope 1 / margin (median)")  # fmt: skip
    held = max(_median(of) for of in norm[1:, :, -1])
    title = f"Median |w| ends at {_number(end)} without a penalty, at most {_number(held)} with one"
    plots.labels(left, title, "ln t (t: rate x steps)", "|w|")

    local = np.gradient(norm, log_time, axis=2) * margin[:, None]
    for i, label in enumerate(_penalties(record)):
        plots.seeds_over(right, log_time, local[i], label, i, singles=i == 0)
    late = log_time > 1
    naive = norm[0][:, late] * margin[:, None] / log_time[late]
    plots.seeds_over(right, log_time[late], naive, "no penalty, |w| / ln t instead", len(norm),
                     singles=False)  # fmt: skip
    plots.reference(right, 1.0, "theory without a penalty: 1")
    right.set_ylim(-0.05, 1.25)
    off, wrong = _median(np.abs(claims.growth(record))), _median(np.abs(naive[:, -1] - 1))
    title = f"Late slope x margin is 1 to {_number(off)}; |w| / ln t misses by {_number(wrong)}"
    plots.labels(right, title, "ln t (t: rate x steps)", "d|w| / d ln t x margin")
    right.legend(frameon=False, fontsize=8.5, loc="center right", bbox_to_anchor=(1, 0.4))
    made.supxlabel(_seeds(record), fontsize=8)
    return made


def solutions(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    step = record["step"].values
    ridge = f"weight decay {record.attrs['ridge_of_solvers']:g}"
    words = {
        "gradient_descent": "gradient descent from 0",
        "other_start": "gradient descent, other start",
        "adam": "Adam from 0",
        "weight_decay": f"{ridge}, from 0",
        "weight_decay_other": f"{ridge}, other start",
    }
    for axis, name in ((left, "distance"), (right, "residual")):
        for i, (solver, label) in enumerate(words.items()):
            values = np.maximum(record[name].sel(solver=solver).values, FLOOR)
            plots.seeds_over(axis, step, values, label, i, singles=i < 3)
        _logarithmic(record, axis)
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xlim(0, step[-1])
    zero, other = claims.from_zero(record), claims.from_another_start(record)
    adam = claims.end_of(record, "distance", "adam")
    title = (
        f"From 0 gradient descent ends {_number(_median(zero))} from the shortest solution,\n"
        f"from another start {_number(_median(other))}, Adam {_number(_median(adam))}"
    )
    plots.labels(left, title, "step", "distance from the shortest solution / its norm")
    unseen, beyond = _median(claims.adam_unseen(record)), _median(claims.beyond_decay(record))
    title = (
        f"Adam's solution has {_number(unseen)} that X does not see; weight decay\n"
        f"ends {_number(beyond)} from the stabilised inverse's solution"
    )
    plots.labels(right, title, "step", "|Xw - y| / |y|")
    made.supxlabel(_seeds(record), fontsize=8)
    return made


def inverse(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    ridge, smallest = record["ridge"].values, record["smallest"].values[:, None]
    theory = ridge / (smallest * (smallest**2 + ridge))
    words = {
        "dual": "X'(XX' + ridge I)^-1",
        "primal": "(X'X + ridge I)^-1 X'",
    }
    for i, (form, label) in enumerate(words.items()):
        error = record["inverse_error"].sel(form=form).values
        plots.seeds_over(left, ridge, np.maximum(error, FLOOR), label, i)
        plots.seeds_over(right, ridge, error / theory, label, i)
    left.plot(ridge, np.nanmedian(theory, 0), color="0.35", linewidth=1, linestyle=(0, (4, 3)),
              label="theory: ridge / (s (s² + ridge))")  # fmt: skip
    _logarithmic(record, left, right)
    slopes = [_median(claims.slope_in(record, form)) for form in words]
    title = (
        f"Slope from {claims.LOWEST:g} on: dual {_number(slopes[0])}, primal {_number(slopes[1])}"
    )
    plots.labels(left, title, "ridge", "|pseudoinverse - stabilised inverse|")
    plots.reference(right, 1.0, "theory")
    right.set_ylim(0.1, 1e6)
    primal = record["inverse_error"].sel(form="primal").values / theory
    off = np.nanmedian(np.abs(primal - 1), 0) > 0.1
    below = np.cumprod(off).sum()  # so many of the smallest ridges, without a gap
    title = f"At a ridge of {ridge[0]:.1g} the primal form is still within 10% of theory"
    if below:
        title = (
            f"The primal form is over 10% off theory from a ridge of {ridge[below - 1]:.1g} down"
        )
    plots.labels(right, title, "ridge", "error / theory")
    made.supxlabel(
        f"{_seeds(record)}; X is {record.attrs['rows']} x {record.attrs['columns']}, s its "
        "smallest singular value", fontsize=8,
    )  # fmt: skip
    return made


def whitening(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    stabiliser = record["stabiliser"].values
    positive = stabiliser > 0
    bound = record["largest_new"].values[:, None] / stabiliser[positive]
    for i, (name, label) in enumerate((
        ("new_variance", "new samples"), ("train_variance", "training samples"),
    )):  # fmt: skip
        values = record[name].values[:, positive]
        plots.seeds_over(left, stabiliser[positive], values, label, i)
    left.plot(stabiliser[positive], np.nanmedian(bound, 0), color="0.35", linewidth=1,
              linestyle=":", label="bound: variance / stabiliser")  # fmt: skip
    plots.reference(left, 1.0, "what whitening is to give")
    without, with_one = (_median(10**f(record))
                         for f in (claims.variance_without, claims.variance_with))  # fmt: skip
    chosen = record.attrs["main_stabiliser"]
    title = f"New samples' variance: {_power(without)} without, {_number(with_one)} at {chosen:g}"
    plots.labels(left, title, "stabiliser (mean variances)", "largest variance after whitening")
    condition = record["condition"].values
    plots.seeds_over(right, stabiliser[positive], condition[:, positive], "stabilised", 0)
    at_zero = condition[:, ~positive]
    if at_zero.size:
        plots.reference(right, _median(at_zero), "without a stabiliser")
    _logarithmic(record, left, right)
    for axis in (left, right):
        axis.axvline(chosen, color="0.6", linewidth=0.8, linestyle=":")
    lost = _median(record["without_root"].sel(stabiliser=0.0).values)
    title = f"Without, {_number(lost)} of {record.attrs['columns']} directions have no real root"
    plots.labels(right, title, "stabiliser (mean variances)", "condition of the whitening matrix")
    made.supxlabel(
        f"{_seeds(record)}; {record.attrs['rows']} samples of {record.attrs['columns']} features; "
        "dotted: the stabiliser of the claims", fontsize=8,
    )  # fmt: skip
    return made
