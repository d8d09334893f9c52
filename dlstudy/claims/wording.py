"""Words for people: the reason behind a verdict, numbers, seeds."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from pathlib import Path

from dlstudy import stats
from dlstudy.claims.claim import Claim
from dlstudy.claims.verdict import Verdict


def reason(claim: Claim, verdict: Verdict, against: int) -> str:
    """The counts behind a verdict; `against` counts the seeds that speak against the claim."""
    words = {"paired": _paired, "proportion": _share, "exact": _exact}[claim.kind]
    return words(claim, verdict, against) + _look(verdict) + left_out(claim, verdict)


def _look(verdict: Verdict) -> str:
    """Which look, where there are several."""
    if verdict.looks is None:
        return ""
    level = f"level {100 * float(verdict.look_level):.6g}%"
    return f"; look {verdict.looks} of {verdict.of_looks} ({verdict.seeds} seeds, {level})"


def _paired(claim: Claim, verdict: Verdict, against: int) -> str:
    of = f"of {verdict.n} seeds lie"
    value = f"{number(claim.threshold)} {claim.unit}".rstrip()
    supported, refuted = verdict.verdict == "supported", verdict.verdict == "refuted"
    if verdict.needed is None:
        count = f"{verdict.n} seed" + ("s" if verdict.n != 1 else "")
        fewest = stats.fewest_seeds(verdict.look_level)
        return f"{count} cannot decide, at least {fewest} are needed"
    if claim.direction == "within":
        text = f"{verdict.beyond} {of} inside the nearer end of ±{value} ({verdict.needed} needed)"
        if refuted:
            needed = stats.needed_against(verdict.n, claim.direction, verdict.look_level)
            text = f"{against} {of} beyond one end of ±{value} ({needed} needed)"
    else:
        side, other = claim.direction, "below" if claim.direction == "above" else "above"
        if refuted:
            text = f"{against} {of} {other} {value} ({verdict.needed} needed)"
        elif supported:
            text = f"{verdict.beyond} {of} {side} {value} ({verdict.needed} needed)"
        else:
            text = f"{verdict.beyond} {of} {side} {value} and {against} {other}"
            text += f" ({verdict.needed} needed on one side)"
    if math.isinf(verdict.low):
        return f"{text}; so few seeds leave the interval unbounded"
    if (supported or refuted) and not _clear(claim, verdict):
        # The verdict spends 1 - level on a side, the two-sided interval half of that.
        return f"{text}; on the edge, the interval still reaches the threshold"
    return text


def _clear(claim: Claim, verdict: Verdict) -> bool:
    """Whether the whole interval lies on the side of the threshold that the verdict names."""
    t, low, high = claim.threshold, verdict.low, verdict.high
    supported = verdict.verdict == "supported"
    if claim.direction == "within":
        return -t < low and high < t if supported else t < low or high < -t
    return low > t if supported == (claim.direction == "above") else high < t


def _share(claim: Claim, verdict: Verdict, against: int) -> str:
    ones = verdict.beyond if claim.direction == "above" else against
    if verdict.verdict == "inconclusive":
        where = "holds"
    else:
        above = (verdict.verdict == "supported") == (claim.direction == "above")
        where = "lies above" if above else "lies below"
    interval = f"{number(verdict.low)} to {number(verdict.high)}"
    return f"{ones} of {verdict.n} seeds; the interval {interval} {where} {number(claim.threshold)}"


def _exact(claim: Claim, verdict: Verdict, against: int) -> str:
    limit = {"above": "at least ", "below": "at most ", "within": "within ±"}[claim.direction]
    limit += f"{number(claim.threshold)} {claim.unit}".rstrip()
    if verdict.verdict == "refuted":
        return f"{against} of {verdict.n} values are not {limit}"
    return f"all {verdict.n} values are {limit}"


def left_out(claim: Claim, verdict: Verdict) -> str:
    """The end of a reason: which seeds diverged or are missing, and whether that matters."""
    text = ""
    if verdict.diverged:
        what = "diverged but counted" if claim.keep_diverged else "diverged and left out"
        text += f"; {what}: {seed_names(verdict.diverged)}"
    if verdict.missing:
        text += f"; without a value: {seed_names(verdict.missing)}"
    if verdict.at_worst != verdict.verdict:
        text += f"; {verdict.at_worst} if these spoke against it"
    return text


def seed_names(labels: Iterable[int]) -> str:
    """ "seed 3" or "seeds 3, 7"."""
    labels = [str(label) for label in labels]
    return f"seed{'s' if len(labels) > 1 else ''} {', '.join(labels)}"


def one_line(error: Exception) -> str:
    """Type and first line of an error."""
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def describe_statistic(statistic: Callable) -> tuple[str, str, str]:
    """Dotted name of a statistic, the first line of its docstring, and its file and line.

    The file is named from the folder that holds its top-level package; "" where there is none.
    """
    while isinstance(statistic, functools.partial):
        statistic = statistic.func
    module = getattr(statistic, "__module__", "")
    name = getattr(statistic, "__qualname__", type(statistic).__qualname__)
    doc = (getattr(statistic, "__doc__", None) or "").strip()
    return f"{module}.{name}", doc.splitlines()[0].rstrip(".") if doc else "", _place(statistic)


def _place(statistic: Callable) -> str:
    code = getattr(statistic, "__code__", None)
    if code is None:
        return ""
    parts = Path(code.co_filename).parts[-1 - statistic.__module__.count(".") :]
    return f"{'/'.join(parts)}:{code.co_firstlineno}"


def number(x: float | None) -> str:
    """Three significant digits; "" for a number that does not exist."""
    if x is None or math.isnan(x):
        return ""
    if math.isinf(x):
        return "∞" if x > 0 else "-∞"
    return f"{x:.0f}" if 1000 <= abs(x) < 1e6 else f"{x:.3g}"
