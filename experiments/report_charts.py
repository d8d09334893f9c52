"""Charts of the report: specifications for the Vega-Lite that the page carries.

Colours are named by the page's own variables, so that a chart follows the reader's theme and the
printer's without being drawn again. Functions here get finished numbers.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dlstudy.claims import Verdict
from dlstudy.claims.wording import number

if TYPE_CHECKING:
    import altair

FARTHEST = 100.0  # thresholds from zero that the overview shows; beyond it there is an arrow
NEAR_ZERO = 0.01  # below it the overview's axis is linear
MOST_VALUES = 200  # that a strip shows
STRIP = 76  # pixels of an arm in a strip
# Shape tells verdicts apart without colour.
SHAPES = {"supported": "circle", "refuted": "M-1,-1L1,1M-1,1L1,-1", "conditional": "diamond",
          "inconclusive": "circle"}  # fmt: skip
FILLED = ("supported", "conditional")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

CONFIG = {
    "background": None,
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--text)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "gridColor": "var(--faint)",
    },
    "legend": {
        "labelColor": "var(--text)",
        "titleColor": "var(--muted)",
        "labelFontSize": 12,
        "labelLimit": 260,
        "orient": "top",
    },
    "title": {"color": "var(--text)", "fontSize": 13, "fontWeight": 600, "anchor": "start"},
}


class Chart(NamedTuple):
    """An interactive chart of an experiment, made from its record.

    Attributes:
        name: letters, digits and underscores.
        title: what is seen, in a few words.
        description: what is drawn and how to use it; what those get who cannot see it.
        chart: with `width="container"`. A parameter bound to a slider over positions can have
            its words in `usermeta={"words": {parameter: [...]}}`.
    """

    name: str
    title: str
    description: str
    chart: "altair.TopLevelMixin"


def to_spec(chart: "altair.TopLevelMixin") -> dict[str, Any]:
    """The specification as plain data, without the address of its schema."""
    spec = chart.to_dict()
    return {name: value for name, value in spec.items() if name not in ("$schema", "config")}


@functools.cache
def javascript() -> str:
    """Vega-Lite of the version that Altair writes for, as a script that sets window.vegaEmbed."""
    import altair
    import vl_convert

    version = ".".join(altair.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    known = vl_convert.get_vegalite_versions()
    bundle = vl_convert.javascript_bundle(vl_version=version if version in known else None)
    return f"(()=>{{{bundle}}})();"  # its short names stay its own


def rounded(values, digits: int = 5) -> list[float | None]:
    """Numbers with so many significant digits, for JSON: what is not finite is None."""
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in np.ravel(values)]


# ---------------------------------------------------------------------------- all claims


def forest_row(verdict: Verdict, href: str, notes: dict[str, str]) -> dict[str, Any] | None:
    """One row of `forest`: everything over the threshold; None where that cannot be.

    Args:
        verdict: of a claim.
        href: where a click leads.
        notes: numbers in words, by the name that is shown on hovering.
    """
    if verdict.effect is None or not verdict.threshold:
        return None
    at = verdict.effect / verdict.threshold
    row = {"claim": f"{verdict.id} {verdict.sentence}", "verdict": verdict.verdict, "href": href}
    row |= {"at": _inside(at), "text": _as_text(verdict, notes)} | notes
    row |= dict(zip(("side", "side_end"), _supporting_side(verdict), strict=True))
    ends = [at, *(e / verdict.threshold for e in (verdict.low, verdict.high) if e is not None)]
    row |= {"low": _inside(min(ends)), "high": _inside(max(ends))}
    row |= {"low_off": True} if min(ends) < -FARTHEST else {}
    row |= {"high_off": True} if max(ends) > FARTHEST else {}
    return row


def _inside(x: float) -> float:
    return float(f"{min(max(x, -FARTHEST), FARTHEST):.5g}")


def _supporting_side(verdict: Verdict) -> tuple[float, float]:
    """The stretch of the axis in which the claim holds."""
    if verdict.direction == "within":
        return -1.0, 1.0
    upwards = (verdict.direction == "above") == (verdict.threshold > 0)
    return (1.0, FARTHEST) if upwards else (-FARTHEST, 1.0)


def _as_text(verdict: Verdict, notes: dict[str, str]) -> str:
    numbers = "; ".join(f"{name} {value}" for name, value in notes.items() if value)
    return f"{verdict.id} {verdict.sentence}: {verdict.verdict}; {numbers}"


def forest_domain(rows: Iterable[dict[str, Any]]) -> tuple[float, float]:
    """The decades, from 0 or below to 10 or above, that hold all rows."""
    seen = [row[name] for row in rows for name in ("at", "low", "high") if name in row]
    low, high = min([0.0, *seen]), max([1.0, *seen])
    return (
        max(d for d in (0.0, -1.0, -10.0, -FARTHEST) if d <= low),
        min(d for d in (10.0, FARTHEST) if d >= high),
    )


def forest(rows: Sequence[dict[str, Any]], domain: tuple[float, float], legend: bool):
    """Effects in units of their thresholds; the band is the side on which a claim holds."""
    import altair as alt

    ticks = [t for t in (-100, -10, -1, -0.1, 0, 0.1, 1, 10, 100) if domain[0] <= t <= domain[1]]
    scale = alt.Scale(type="symlog", constant=NEAR_ZERO, domain=list(domain), nice=False)
    axis = alt.Axis(values=ticks, format="~r", grid=True, title="effect / threshold")
    y = alt.Y(
        "claim:N", sort=None, title=None,
        axis=alt.Axis(
            labelLimit=380, ticks=False, domain=False, labelPadding=8,
            minExtent=alt.ExprRef("narrow ? 40 : 390"),  # all parts of the overview in line
            labelExpr="narrow ? split(datum.label, ' ')[0] : datum.label",
        ),
    )  # fmt: skip
    outcomes = list(SHAPES)
    colours = alt.Scale(domain=outcomes, range=[f"var(--{name})" for name in outcomes])
    shapes = alt.Scale(domain=outcomes, range=list(SHAPES.values()))
    fills = alt.Scale(
        domain=outcomes, range=[f"var(--{o})" if o in FILLED else "transparent" for o in outcomes]
    )
    key = alt.Legend(title=None) if legend else None
    stroke = alt.Stroke("verdict:N", scale=colours, legend=key)
    ends = [{name: min(max(row[name], domain[0]), domain[1]) for name in ("side", "side_end")}
            for row in rows]  # fmt: skip
    values = [row | ends for row, ends in zip(rows, ends, strict=True)]
    base = alt.Chart(alt.Data(values=values)).encode(y=y)
    hover = [alt.Tooltip(f"{name}:N") for name in ("claim", "verdict", *_NOTES)]
    quiet = {"aria": False, "clip": True}

    def x(field):
        return alt.X(f"{field}:Q", scale=scale, axis=axis)

    def arrow(flag, field, shape):
        mark = base.transform_filter(f"isValid(datum.{flag}) && datum.{flag}")
        mark = mark.mark_point(shape=shape, size=50, strokeWidth=2, opacity=1, aria=False)
        return mark.encode(x=x(field), stroke=stroke)

    return (
        alt.layer(
            base.mark_bar(color="var(--band)", height={"band": 0.8}, **quiet).encode(
                x=x("side"), x2="side_end:Q"
            ),
            base.mark_rule(color="var(--muted)", strokeDash=[3, 3], aria=False).encode(
                x=alt.X(datum=1), y=alt.YValue(0), y2=alt.Y2Value("height")
            ),
            base.mark_rule(strokeWidth=2, **quiet).encode(
                x=x("low"), x2="high:Q", stroke=stroke
            ),
            arrow("low_off", "low", "triangle-left"),
            arrow("high_off", "high", "triangle-right"),
            base.mark_point(size=70, strokeWidth=2, opacity=1).encode(
                x=x("at"), description="text:N",
                shape=alt.Shape("verdict:N", scale=shapes, legend=key),
                stroke=stroke,
                fill=alt.Fill("verdict:N", scale=fills, legend=key),
            ),
            # Over everything: hovering and clicking anywhere in a row.
            base.transform_calculate(left=str(domain[0]), right=str(domain[1]))
            .mark_bar(color="transparent", height={"band": 1}, aria=False, cursor="pointer")
            .encode(x=x("left"), x2="right:Q", tooltip=hover, href="href:N"),
        )
        .add_params(alt.param(name="narrow", value=False))
        .properties(width="container", height=24 * len(rows))
    )  # fmt: skip


_NOTES = ("effect", "interval", "claimed", "seeds")


def notes(verdict: Verdict, claimed: str) -> dict[str, str]:
    """What hovering over a claim says of it."""
    interval = counted = ""
    if verdict.low is not None:
        interval = f"[{number(verdict.low)}, {number(verdict.high)}]"
    if verdict.n:
        counted = f"{verdict.beyond} of {verdict.n}"
    effect = f"{number(verdict.effect)} {verdict.unit}".rstrip()
    return dict(zip(_NOTES, (effect, interval, claimed, counted), strict=True))


# ---------------------------------------------------------------------------- one claim


def strip_rows(arms: Sequence[tuple[str, Verdict]]) -> list[dict[str, Any]]:
    """Data of `strip`: the values of each arm, its median and interval, and the thresholds.

    Of very many values the smallest, the largest and evenly spread ones between are shown.
    """
    rows = []
    for arm, verdict in arms:
        # What an exact claim is judged on need not belong to seeds, nor have been kept.
        pairs = [(v, s) for v, s in zip(verdict.values, verdict.labels, strict=False)
                 if math.isfinite(v)]  # fmt: skip
        if len(pairs) > MOST_VALUES:
            pairs.sort()
            places = np.linspace(0, len(pairs) - 1, MOST_VALUES).astype(int)
            pairs = [pairs[i] for i in places]
        place = {s: i for i, s in enumerate(sorted(s for _, s in pairs))}
        for (_, seed), x in zip(pairs, rounded([v for v, _ in pairs]), strict=True):
            rows.append({"arm": arm, "x": x, "seed": seed, "place": place[seed]})
        if pairs and verdict.kind == "paired":
            ends = rounded((verdict.effect, verdict.low, verdict.high))
            rows.append({"arm": arm, **dict(zip(("middle", "low", "high"), ends, strict=True))})
        if pairs and verdict.threshold is not None:
            margins = (-1, 1) if verdict.direction == "within" and verdict.threshold else (1,)
            rows += [{"arm": arm, "threshold": m * verdict.threshold} for m in margins]
    return rows


def strip_ends(rows: Iterable[dict[str, Any]]) -> tuple[float, float]:
    """The stretch of the axis that holds all rows, and a margin."""
    names = ("x", "low", "high", "middle", "threshold")
    seen = [row[name] for row in rows for name in names if row.get(name) is not None]
    low, high = min(seen), max(seen)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def strip():
    """Each seed's value against the threshold; one specification for all claims.

    Its data have the name "strip", its height is `STRIP` for each arm, and its parameters
    `low_end` and `high_end` are `strip_ends`. An interval without an end is drawn to the median.
    """
    import altair as alt

    base = alt.Chart(alt.NamedData("strip")).encode(
        y=alt.Y("arm:N", sort=None, title=None, axis=alt.Axis(
            ticks=False, domain=False, labelPadding=8, labelLimit=150,
            labelExpr="narrow ? '' : datum.label",
        ))
    )  # fmt: skip

    def of(field):
        return base.transform_filter(f"isValid(datum.{field})")

    ends = [alt.ExprRef("low_end"), alt.ExprRef("high_end")]
    scale = alt.Scale(domain=ends, nice=False, zero=False)
    axis = alt.Axis(title=None, tickCount=5, format="~g", grid=False)
    flat = {"height": STRIP - 16, "aria": False}

    def x(field):
        return alt.X(f"{field}:Q", scale=scale, axis=axis)

    return (
        alt.layer(
            of("middle").mark_bar(color="var(--band)", **flat).encode(
                x=x("from"), x2="to:Q"
            ).transform_calculate(
                **{"from": "isValid(datum.low) ? datum.low : datum.middle",
                   "to": "isValid(datum.high) ? datum.high : datum.middle"}
            ),
            of("middle").mark_bar(stroke="var(--text)", strokeWidth=2, **flat).encode(
                x=x("middle"), x2="middle:Q"
            ),
            of("threshold").mark_bar(stroke="var(--refuted)", strokeWidth=2, **flat).encode(
                x=x("threshold"), x2="threshold:Q"
            ),
            of("seed").transform_calculate(
                text="'seed ' + datum.seed + ': ' + format(datum.x, '.4~g')"
            ).mark_circle(size=34, color="var(--supported)", opacity=0.75).encode(
                x=x("x"), yOffset=alt.YOffset("place:Q", scale=alt.Scale(padding=12)),
                tooltip="text:N", description="text:N",
            ),
        )
        .add_params(
            alt.param(name="narrow", value=False),
            alt.param(name="low_end", value=0), alt.param(name="high_end", value=1),
        )
        .properties(width="container")
    )  # fmt: skip
