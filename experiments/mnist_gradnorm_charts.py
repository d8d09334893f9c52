"""The interactive chart of `mnist_gradnorm`, from its record alone."""

import json
import warnings

import numpy as np

from dlstudy import records
from experiments.report_charts import Chart, rounded

STEPS = 500  # at most, evenly spread
SERIES = {  # field: (label, colour), as in the figure of the budget
    "first": ("first order promises, g'd", "var(--series-1)"),
    "second": ("second order takes back, ½ d'Hd", "var(--series-2)"),
    "both": ("both orders", "var(--series-3)"),
    "realised": ("realised", "var(--text)"),
}


def charts(record):
    """Yields every chart that the record holds."""
    if "first_order" in record:
        budget = budget_by_step(records.without_diverged(record))
        if len(budget["step"]):
            yield taylor_steps(record, budget)


def budget_by_step(record) -> dict[str, np.ndarray]:
    """Decrease of the batch's loss in a step: quartiles [3, steps] over seeds of each series.

    Steps that no seed measured are left out, and of very many all but `STEPS`.
    """
    first, second, realised = (
        -record[name].sel(arm="main").transpose("seed", "step").values.astype(float)
        for name in ("first_order", "second_order", "realised")
    )
    measured = np.flatnonzero(np.isfinite(first + second + realised).any(0))
    places = np.linspace(0, len(measured) - 1, min(STEPS, len(measured))).round().astype(int)
    kept = measured[np.unique(places)]
    values = {"first": first, "second": -second, "both": first + second, "realised": realised}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = {
            name: np.nanquantile(of[:, kept], [0.25, 0.5, 0.75], axis=0)
            for name, of in values.items()
        }
    return {"step": record.step.values[kept], **found}


def columns_of(budget) -> dict[str, list]:
    """By name: steps, and of each series its median and its quartiles, `_low` and `_high`."""
    columns = {"step": budget["step"].tolist()}
    for name in SERIES:
        for ending, values in zip(("_low", "", "_high"), budget[name], strict=True):
            columns[name + ending] = rounded(values, 3)
    return columns


def linear_below(budget) -> float:
    """Power of ten below which nearly all is too small to matter: there the axis is linear."""
    sizes = np.abs(budget["realised"][1])
    small = np.nanquantile(sizes[sizes > 0], 0.1) if (sizes > 0).any() else 1.0
    return float(10.0 ** np.floor(np.log10(small)))


def taylor_steps(record, budget) -> Chart:
    import altair as alt

    per_epoch = int(record.attrs["steps_per_epoch"])
    steps = budget["step"]
    begin, end = int(steps[0]), int(steps[-1])
    unit = linear_below(budget)
    ends = [
        alt.param(name=name, value=value,
                  bind=alt.binding_range(min=begin, max=end, step=1, name=label))
        for name, value, label in (("begin", begin, "From step"), ("end", end, "to step"))
    ]  # fmt: skip
    x = alt.X(
        "step:Q", title="step", axis=alt.Axis(grid=False, format="d", tickMinStep=1, tickCount=8),
        scale=alt.Scale(
            nice=False, zero=False,
            domainMin=alt.ExprRef("min(begin, end)"),
            domainMax=alt.ExprRef("max(begin, end, min(begin, end) + 1)"),
        ),
    )  # fmt: skip
    decades = unit * 10.0 ** np.arange(0, 12, 2)
    axis = alt.Axis(values=[*(-decades[::-1]), 0, *decades], format="~g",
                    title="decrease of the batch's loss in a step (nat)")  # fmt: skip
    scale = alt.Scale(type="symlog", constant=unit)
    colours = alt.Scale(
        domain=[label for label, _ in SERIES.values()], range=[c for _, c in SERIES.values()]
    )
    columns = columns_of(budget)
    base = alt.Chart(alt.Data(values=[columns])).transform_flatten(list(columns)).encode(x=x)
    legend = alt.Legend(title=None, columns=alt.ExprRef("narrow ? 1 : 2"), symbolType="stroke",
                        symbolOpacity=1, symbolStrokeWidth=2.5, labelLimit=300)  # fmt: skip
    colour = alt.Color("part:N", scale=colours, legend=legend)
    bands, lines = [], []
    for name, (label, _) in SERIES.items():
        part = base.transform_calculate(part=json.dumps(label))
        dash = [5, 3] if name == "realised" else [1, 0]
        bands.append(
            part.mark_area(opacity=0.12, aria=False, clip=True).encode(
                y=alt.Y(f"{name}_low:Q", scale=scale, axis=axis), y2=f"{name}_high:Q", color=colour
            )
        )
        lines.append(
            part.mark_line(strokeWidth=1.5, strokeDash=dash, aria=False, clip=True).encode(
                y=alt.Y(f"{name}:Q", scale=scale, axis=axis), color=colour
            )
        )
    hover = alt.selection_point(
        name="hover", fields=["step"], nearest=True, on="pointerover", clear="pointerout",
        empty=False,
    )  # fmt: skip
    numbers = [alt.Tooltip(f"{name}:Q", title=label, format=".3~g")
               for name, (label, _) in SERIES.items()]  # fmt: skip
    rule = (
        base.transform_calculate(epoch=f"ceil(datum.step / {per_epoch})")
        .mark_rule(color="var(--text)", strokeWidth=1, aria=False, clip=True)
        .encode(
            opacity=alt.condition(hover, alt.value(0.6), alt.value(0)),
            tooltip=[alt.Tooltip("step:Q", format="d"), alt.Tooltip("epoch:Q"), *numbers],
        )
        .add_params(hover)
    )
    chart = (
        alt.layer(*bands, *lines, rule)
        .add_params(*ends, alt.param(name="narrow", value=False))
        .properties(width="container", height=340)
    )
    seeds = record.sizes["seed"]
    return Chart(
        "taylor_steps",
        "Taylor budget by step",
        "What a step of the main arm does to the loss of its own batch: the decrease that the "
        "gradient promises, what the second order takes back, both together, and the realised "
        f"decrease. Median and quartiles of {seeds} seeds at {len(steps)} of the steps; the axis "
        f"is linear below {unit:g} nat. The sliders choose a stretch of steps; hover for the "
        "numbers.",
        chart,
    )
