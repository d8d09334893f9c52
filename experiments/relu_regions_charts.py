"""The interactive chart of `relu_regions`, from its record alone."""

import numpy as np

from experiments import relu_regions_claims as claims
from experiments.report_charts import Chart, rounded

FRAMES = 60
HEIGHT = 1.6  # of the axis, up and down


def charts(record):
    """Yields every chart that the record holds."""
    yield regions(record)


def frames(record) -> np.ndarray:
    """Epochs to show of the first seed; more of the early ones, in which more happens."""
    end = int(claims.trained(record)[0])
    epochs = np.unique(np.round(end * np.linspace(0, 1, FRAMES) ** 2).astype(int))
    params = record["shown_params"].sel(arm="main").values[epochs]
    return epochs[np.isfinite(params).all(1)]


def row_of(pieces) -> dict[str, list]:
    """The regions of one network, from left to right, as lists: where each begins, the output
    there, units that are on, colour. One more entry, without units and colour, is the last end.
    """
    from matplotlib.colors import to_hex

    from dlstudy.plots import pattern_colours

    values = pieces.slopes[:, 0] * pieces.knots[:-1] + pieces.intercepts[:, 0]
    end = pieces.slopes[-1, 0] * pieces.knots[-1] + pieces.intercepts[-1, 0]
    return {
        "x": rounded(pieces.knots), "y": rounded(np.append(values, end), 4),
        "on": [*np.bitwise_count(pieces.patterns).sum(1).tolist(), None],
        "colour": [*(to_hex(c) for c in pattern_colours(pieces.patterns)), None],
    }  # fmt: skip


def regions(record) -> Chart:
    import altair as alt

    from experiments.relu_regions_record import pieces_of

    epochs = frames(record)
    found = pieces_of(record, record["shown_params"].sel(arm="main").values[epochs])
    counts = [len(pieces.slopes) for pieces in found]
    seed, neurons = int(record.seed[0]), int(record.attrs["neurons"])
    rows = [{"frame": i, **row_of(pieces)} for i, pieces in enumerate(found)]
    last = len(epochs) - 1
    frame = alt.param(
        name="frame", value=last,
        bind=alt.binding_range(min=0, max=last, step=1, name="Epoch"),
    )  # fmt: skip
    x = alt.X("x:Q", title="x", axis=alt.Axis(grid=False, tickCount=9), scale=alt.Scale(nice=False))
    y = alt.Y("y:Q", title="f(x)", axis=alt.Axis(grid=False),
              scale=alt.Scale(domain=[-HEIGHT, HEIGHT], nice=False))  # fmt: skip
    shown = (
        alt.Chart(alt.Data(values=rows))
        .transform_filter("datum.frame == frame")
        .transform_flatten(["x", "y", "on", "colour"])
        .transform_window(x2="lead(x)", y2="lead(y)", sort=[{"field": "x"}])
        .transform_filter("isValid(datum.x2)")
        .transform_calculate(slope="(datum.y2 - datum.y) / (datum.x2 - datum.x)")
    )
    wave = alt.Chart(alt.sequence(-2, 2.01, 0.05, as_="x"))
    wave = wave.transform_calculate(y="sin(PI * datum.x / 4)").encode(x=x, y=y)
    hover = [
        alt.Tooltip("x:Q", title="from x", format=".4~g"),
        alt.Tooltip("x2:Q", title="to x", format=".4~g"),
        alt.Tooltip("slope:Q", title="slope", format=".3~g"),
        alt.Tooltip("on:Q", title=f"units on, of {neurons}"),
    ]
    line = shown.encode(x=x, y=y, x2="x2:Q", y2="y2:Q")
    title = f"'Epoch ' + {epochs.tolist()}[frame] + ': ' + {counts}[frame] + ' regions'"
    chart = (
        alt.layer(
            shown.mark_rect(aria=False).encode(
                x=x, x2="x2:Q", y=alt.value("height"), y2=alt.value(0), tooltip=hover,
                color=alt.Color("colour:N", scale=None),
            ),
            wave.mark_line(color="white", strokeWidth=3.5, aria=False),
            wave.mark_line(color="black", strokeWidth=1.4, strokeDash=[6, 4], aria=False),
            line.mark_rule(color="white", strokeWidth=4, strokeCap="round", aria=False, clip=True),
            line.mark_rule(color="black", strokeWidth=1.6, strokeCap="round", aria=False,
                           clip=True),
            shown.transform_filter(f"datum.x > {found[0].knots[0]}").mark_point(
                filled=True, fill="white", stroke="black", size=22, strokeWidth=1.2, opacity=1,
                aria=False, clip=True,
            ).encode(x=x, y=y),
        )
        .add_params(frame)
        .properties(
            width="container", height=340, title=alt.TitleParams(text=alt.ExprRef(title)),
            usermeta={"words": {"frame": [str(e) for e in epochs]}, "play": "frame"},
        )
    )  # fmt: skip
    return Chart(
        "regions",
        "Activation regions by epoch",
        f"Seed {seed} of the main arm: the network's output (solid; circles at its breakpoints) "
        "and sin(πx/4) (dashed), over the network's activation regions, coloured by pattern. "
        f"{counts[0]} regions before training, {counts[-1]} after epoch {epochs[-1]}, of "
        f"{neurons} neurons. The slider goes through {len(epochs)} epochs; hover over a region "
        "for its ends, slope and units.",
        chart,
    )
