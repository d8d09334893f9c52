"""The figures of `distribution_shift`, from its record alone; titles state what was found."""

import warnings

import numpy as np

from experiments import distribution_shift_claims as claims
from experiments.dropout_batchnorm_figures import median, percent, seeds_of

LABELS = {
    "running": "BN, running statistics",
    "batch": "BN, those of the test batch",
    "recalibrated": "BN, recalibrated",
    "ordered": "BN, class-ordered batches",
    "none": "no BN",
}


def figures(record):
    """Yields (name, figure) for whatever the record holds."""
    for name, draw in (
        ("error_by_severity", error_by_severity),
        ("degradation", degradation),
        ("gains", gains),
        ("mean_shift", mean_shift),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # medians of nothing
            yield name, draw(record)


def words_of(corruption: str) -> str:
    return corruption[0].upper() + corruption[1:]


def error_by_severity(record):
    """A panel for each kind of corruption, then their mean."""
    from dlstudy import plots

    kinds = [str(kind) for kind in record.corruption.values]
    rows = -(-(len(kinds) + 1) // 3)
    made, axes = plots.figure(min(3, len(kinds) + 1), rows, 4.8, 3.4)
    severity = record.severity.values
    for number, axis in enumerate(axes[: len(kinds) + 1]):
        last = number == len(kinds)
        pick = slice(None) if last else slice(number, number + 1)
        ends = {}
        for i, (arm, label) in enumerate(LABELS.items()):
            values = 100 * claims.errors(record, arm)[pick].mean(0).T
            plots.seeds_over(axis, severity, values, label, i, singles=False, marker="o")
            ends[arm] = median(values[:, -1], "{:.0f}%")
        words = "Mean of all" if last else words_of(kinds[number])
        title = (
            f"{words}, severity {severity[-1]}: running {ends['running']},\n"
            f"batch {ends['batch']}, recalibrated {ends['recalibrated']}, no BN {ends['none']}"
        )
        plots.labels(axis, title, "severity", "test error (%)", legend=number == 0)
        axis.set_xticks(severity)
        axis.set_ylim(bottom=0)
    for axis in axes[len(kinds) + 1 :]:
        axis.set_axis_off()
    made.supxlabel(f"median and quartiles of {seeds_of(record)}; test batches of "
                   f"{record.attrs['test_batch']}; each network at its best learning rate",
                   fontsize=8)  # fmt: skip
    return made


def degradation(record):
    """What shift adds to the clean error, at the same clean error and at each one's best."""
    from dlstudy import plots

    made, axes = plots.figure(2)
    arms = ("running", "batch", "recalibrated", "none")
    for axis, pick, words in (
        (axes[0], "matched", "At the same clean error"), (axes[1], "best", "Each at its best"),
    ):  # fmt: skip
        for arm in arms:
            index = list(LABELS).index(arm)
            over = claims.errors(record, arm, pick).mean(0)
            values = 100 * (over - over[:1]).T
            plots.seeds_over(axis, record.severity.values, values, LABELS[arm], index, marker="o")
        added = [median(100 * claims.degradation(record, arm, pick), "{:.1f}")
                 for arm in ("running", "none")]  # fmt: skip
        start = [percent(claims.clean(record, arm, pick)) for arm in ("running", "none")]
        title = (
            f"{words} ({start[0]}, {start[1]}): shift adds {added[0]} points, {added[1]} without BN"
        )
        plots.labels(axis, title, "severity", "test error above the clean one (points)")
        axis.set_xticks(record.severity.values)
    made.supxlabel(f"median and quartiles of {seeds_of(record)}; mean over "
                   f"{record.sizes['corruption']} kinds of corruption; in brackets the clean test "
                   "errors with BN (running statistics) and without", fontsize=8)  # fmt: skip
    return made


def gains(record):
    """What other statistics take off the error, by kind of corruption."""
    from dlstudy import plots

    made, (axis,) = plots.figure(1, 1, 9.0, 4.4)
    kinds = [str(kind) for kind in record.corruption.values]
    arms = ("batch", "recalibrated", "ordered")
    running = claims.shifted(record, "running")
    for i, arm in enumerate(arms):
        look = plots.style(list(LABELS).index(arm))
        values = 100 * (running - claims.shifted(record, arm))
        values = np.concatenate(
            [100 * (claims.clean(record, "running") - claims.clean(record, arm))[None], values]
        )
        place = np.arange(len(values)) + (i - 1) * 0.26
        spread = np.linspace(-0.08, 0.08, values.shape[1]) if values.shape[1] > 1 else np.zeros(1)
        axis.plot((place[:, None] + spread).ravel(), values.ravel(), "o", markersize=2.8,
                  alpha=0.5, color=look["color"])  # fmt: skip
        axis.hlines(np.nanmedian(values, 1), place - 0.12, place + 0.12, color=look["color"],
                    linewidth=2.6, linestyle=("-", "--", ":")[i], label=LABELS[arm])  # fmt: skip
    axis.set_xticks(range(len(kinds) + 1), ["clean", *kinds])
    plots.reference(axis, 0.0, "running statistics")
    measures = claims.batch_gain, claims.recalibrated_gain, claims.ordered_gain
    found = [median(100 * gain(record), "{:.1f}") for gain in measures]
    title = (
        f"Points off the error under shift: {found[0]} by batch statistics, {found[1]} "
        f"recalibrated, {found[2]} in class order"
    )
    plots.labels(axis, title, "", "test error: running less other statistics (points)")
    made.supxlabel(f"{seeds_of(record)}, bars are medians; means over severities 1 to "
                   f"{record.severity.values[-1]}", fontsize=8)  # fmt: skip
    return made


def mean_shift(record):
    from dlstudy import plots

    made, (left, right) = plots.figure(2)
    for i, kind in enumerate(record.corruption.values):
        own = record.sel(pick="best", corruption=kind)
        for axis, name in ((left, "shift"), (right, "spread")):
            values = own[name].transpose("seed", "severity").values
            plots.seeds_over(axis, record.severity.values, values, str(kind), i, singles=False,
                             marker="o")  # fmt: skip
    title = f"Means move by {median(claims.mean_shift(record))} standard deviations more than clean"
    plots.labels(left, title, "severity", "first layer: mean less running mean (running sd)")
    ends = record["spread"].sel(pick="best").isel(severity=-1).median("seed").values
    title = f"Variances at severity {record.severity.values[-1]}: {ends.min():.2g} to "
    plots.labels(right, title + f"{ends.max():.2g} times the running ones", "severity",
                 "first layer: variance over running variance")  # fmt: skip
    if np.isfinite(right.dataLim.intervaly).all():
        plots.logarithmic(right)
    for axis in (left, right):
        axis.set_xticks(record.severity.values)
    made.supxlabel(f"median and quartiles of {seeds_of(record)}; on corrupted tuning images",
                   fontsize=8)  # fmt: skip
    return made
