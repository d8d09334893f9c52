"""judge: claims and a record in, verdicts out. The rules themselves are in `dlstudy.stats`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dlstudy import stats
from dlstudy.claims import wording
from dlstudy.claims.claim import Claim
from dlstudy.claims.verdict import Verdict, compound, with_control

if TYPE_CHECKING:
    import xarray


def judge(
    claims: Iterable[Claim], record: xarray.Dataset | None, level: float = stats.LEVEL
) -> list[Verdict]:
    """Judge every claim on one record; a bad statistic makes its claim inconclusive.

    A record whose seeds came in batches, as its attributes seed_batch and seed_cap say, is judged
    at the looks of its plan (see `stats.Looks`), on the first so many seeds; an exact claim,
    which nothing is random about, once and on all.

    Args:
        claims: with distinct ids.
        record: the experiment's record; None if there is none, which leaves all inconclusive.
        level: confidence.

    Returns:
        One verdict per claim, in order; a compound claim is followed by its parts. p-values are
        adjusted over these; use `adjust` again on the verdicts of several experiments.

    Raises:
        ValueError: two claims share an id (a fault of the experiment, whatever the record).
    """
    verdicts = [verdict for claim in claims for verdict in _judge(claim, record, level)]
    ids = [verdict.id for verdict in verdicts]
    repeated = sorted({i for i in ids if ids.count(i) > 1})
    if repeated:
        raise ValueError(f"claims share the id {', '.join(repeated)}")
    return adjust(verdicts)


def _judge(claim: Claim, record: xarray.Dataset | None, level: float) -> list[Verdict]:
    if claim.kind == "compound":
        judged = [_judge(part, record, level) for part in claim.parts]
        whole = compound(claim, [verdicts[0] for verdicts in judged], level)
        return [whole, *chain.from_iterable(judged)]
    verdict = _judge_arm(claim, record, level)
    if claim.control:
        verdict = with_control(verdict, _judge_arm(claim.control, record, level))
    if claim.other_reading:
        other = _judge(claim.other_reading, record, level)[0]
        verdict = replace(verdict, other_reading=other)
    return [verdict]


def adjust(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Set p_holm and p_against_holm over a whole ledger of verdicts.

    Controls and other readings belong to the family.
    Support and refutation are two families. A claim that could not be read still counts in their
    size: the family was fixed before the run, and a failure must not make the rest look stronger.
    """
    verdicts = list(verdicts)
    arms = [arm for verdict in verdicts for arm in _arms(verdict)]
    tests = [arm for arm in arms if arm.kind in ("paired", "proportion")]
    p_holm = stats.holm([1.0 if t.p is None else t.p for t in tests])
    against = stats.holm([1.0 if t.p_against is None else t.p_against for t in tests])
    adjusted = {id(t): pair for t, *pair in zip(tests, p_holm, against, strict=True)}

    def fill(verdict: Verdict) -> Verdict:
        p, p_against = (None, None) if verdict.p is None else adjusted[id(verdict)]
        beside = {
            name: fill(getattr(verdict, name))
            for name in ("control", "other_reading")
            if getattr(verdict, name)
        }
        return replace(verdict, p_holm=p, p_against_holm=p_against, **beside)

    return [fill(verdict) for verdict in verdicts]


def _arms(verdict: Verdict) -> list[Verdict]:
    """A verdict and those beside it."""
    beside = [verdict.control, verdict.other_reading]
    return [verdict, *chain.from_iterable(_arms(other) for other in beside if other)]


def undecided(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The verdicts that more seeds could still decide; controls and other readings too.

    Not those of statistics that failed, nor of exact claims.
    """
    return [arm for arm in decidable(verdicts) if arm.verdict == "inconclusive"]


def decidable(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The verdicts that rest on a number of seeds."""
    arms = [arm for verdict in verdicts for arm in _arms(verdict)]
    return [arm for arm in arms if arm.kind in ("paired", "proportion") and arm.n]


# --- one arm ---------------------------------------------------------------------------------


class _Unusable(Exception):
    """The record or the statistic gives nothing to judge; the message is the reason."""


class _Counts(NamedTuple):
    """What the seeds say: of n, how many speak for the claim and how many against."""

    beyond: int
    against: int
    n: int


def _judge_arm(claim: Claim, record: xarray.Dataset | None, level: float) -> Verdict:
    """Judge one claim in its own arm, without its control."""
    verdict = _unjudged(claim, level)
    try:
        plan = looks_of(record)
    except _Unusable as error:
        return replace(verdict, n=0, reason=str(error))
    if plan is None or claim.kind == "exact":
        verdict = _judge_once(claim, record, verdict)
    else:
        verdict = _first_decided(claim, record, verdict, plan)
    return replace(verdict, **_describe_mean(verdict))


def looks_of(record: xarray.Dataset | None) -> stats.Looks | None:
    """The plan by which a record's seeds came; None if all came at once."""
    attributes = getattr(record, "attrs", {})
    if "seed_batch" not in attributes:
        return None
    try:
        return stats.Looks(int(attributes["seed_batch"]), int(attributes["seed_cap"]))
    except (KeyError, TypeError, ValueError):
        raise _Unusable("the record's attributes seed_batch and seed_cap are no plan") from None


def _first_decided(
    claim: Claim, record: xarray.Dataset, verdict: Verdict, plan: stats.Looks
) -> Verdict:
    """The verdict of the first look that decides; else of the last for which there are seeds."""
    seeds = record.sizes.get("seed", 0)
    unjudged = verdict = replace(verdict, looks=0, of_looks=len(plan.counts))
    if seeds < plan.batch:
        reason = f"the first look is at {plan.batch} seeds, the record has {seeds}"
        return replace(verdict, seeds=seeds, n=0, reason=reason)
    p, p_against = [], []
    for look, count in enumerate(plan.counts, 1):
        if count > seeds:
            break
        first = record.isel(seed=slice(count))
        verdict = _judge_once(claim, first, replace(unjudged, looks=look))
        if verdict.p is None:
            continue
        p.append(verdict.p)
        p_against.append(verdict.p_against)
        verdict = replace(verdict, p=min(p), p_against=min(p_against))
        if verdict.verdict != "inconclusive":
            break
    return verdict


def _unjudged(claim: Claim, level: float) -> Verdict:
    copied = ("id", "sentence", "kind", "unit", "direction", "section", "trap", "oracle", "figure",
              "reading")  # fmt: skip
    name, words, code = wording.describe_statistic(claim.statistic)
    return Verdict(
        **{field: getattr(claim, field) for field in copied},
        verdict="inconclusive",
        reason="",
        arm=claim.condition,
        threshold=float(claim.threshold),
        threshold_reason=claim.reason,
        statistic=name,
        measures=words,
        code=code,
        level=level,
    )


def _judge_once(claim: Claim, record: xarray.Dataset | None, verdict: Verdict) -> Verdict:
    """Fill in what all seeds of the record say."""
    try:
        if record is None:
            raise _Unusable("no record")
        labels, diverged = _divergence(record, claim.arms)
        verdict = replace(verdict, seeds=labels.size, diverged=_ints(labels[diverged]))
        values = _measure(claim, record)
        if values.size != labels.size:  # an exact claim about no seed in particular
            labels, diverged = np.arange(values.size), np.zeros(values.size, bool)
        kept = np.ones_like(diverged) if claim.keep_diverged else ~diverged
        missing = kept & np.isnan(values)
        verdict = replace(verdict, missing=_ints(labels[missing]))
        values, labels = values[kept & ~missing], labels[kept & ~missing]
        _check_values(claim, values, labels)
        verdict = replace(verdict, values=tuple(values.tolist()), labels=_ints(labels))
    except Exception as error:
        known = isinstance(error, _Unusable)
        reason = str(error) if known else f"the statistic failed: {wording.one_line(error)}"
        return replace(verdict, n=0, reason=reason + wording.left_out(claim, verdict))
    return _decide(claim, verdict, values)


def _ints(labels: np.ndarray) -> tuple[int, ...]:
    return tuple(int(label) for label in labels)


def _divergence(record: xarray.Dataset, arms: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the record's seeds, int[S], and which of them diverged in these arms, bool[S]."""
    size = record.sizes.get("seed", 0)
    labels = np.asarray(record["seed"]) if size and "seed" in record.coords else np.arange(size)
    if "diverged_step" not in record or not size:
        return labels, np.zeros(size, bool)
    steps = record["diverged_step"]
    if arms and "arm" in steps.dims:
        unknown = sorted(set(arms) - set(steps["arm"].values.tolist()))
        if unknown:
            raise _Unusable(f"the record has no arm {', '.join(unknown)}")
        steps = steps.sel(arm=list(arms))
    diverged = (steps >= 0).any([dim for dim in steps.dims if dim != "seed"])
    return labels, np.asarray(diverged)


def _measure(claim: Claim, record: xarray.Dataset) -> np.ndarray:
    """The statistic as float[S], in the precision it came in (see `stats.sign_counts`)."""
    with warnings.catch_warnings():
        # A mean of nothing, as where all seeds diverged, is nan, and nan is judged below.
        warnings.simplefilter("ignore", RuntimeWarning)
        raw = claim.statistic(record)
    if isinstance(raw, np.ma.MaskedArray):
        raw = raw.astype(np.float64).filled(np.nan)
    values = np.asarray(raw)
    if values.dtype.kind not in "biuf":
        raise _Unusable(f"the statistic returned {values.dtype}, not real numbers")
    if values.dtype.kind != "f":
        values = values.astype(np.float64)
    if claim.kind == "exact" and (values.ndim == 0 or "seed" not in record.sizes):
        return values.reshape(-1)
    expected = (record.sizes.get("seed", 0),)
    dims = getattr(raw, "dims", ("seed",))  # an epoch axis can have as many entries as seeds
    if values.shape != expected or dims != ("seed",):
        found = values.shape if values.shape != expected else dims
        raise _Unusable(f"the statistic has shape {found}; one number per seed is {expected}")
    return values


def _check_values(claim: Claim, values: np.ndarray, labels: np.ndarray) -> None:
    if values.size == 0:
        raise _Unusable("no seed has a value")
    infinite = np.isinf(values)
    if infinite.any():
        raise _Unusable(f"the statistic is infinite at {wording.seed_names(labels[infinite])}")
    neither = (values != 0) & (values != 1)
    if claim.kind == "proportion" and neither.any():
        raise _Unusable(f"neither 0 nor 1 at {wording.seed_names(labels[neither])}")


def _decide(claim: Claim, verdict: Verdict, values: np.ndarray) -> Verdict:
    """Fill in what follows from values[n], all finite."""

    def rule(counts, threshold=claim.threshold):
        return _rule(claim, counts, float(threshold), verdict.look_level)

    missing = len(verdict.missing)
    counts = _count(claim, values, claim.threshold, missing)
    result = rule(counts)
    left_out = missing + (0 if claim.keep_diverged else len(verdict.diverged))
    half, double = _half_and_double(claim)
    describe = _describe_exact if claim.kind == "exact" else _describe_sample
    looks = verdict.of_looks or 1
    verdict = replace(
        verdict,
        verdict=result,
        n=values.size,
        beyond=counts.beyond,
        at_half=rule(_count(claim, values, half, missing), half),
        at_double=rule(_count(claim, values, double, missing), double),
        at_worst=rule(_adverse(counts, left_out, result)),
        **describe(claim, values, counts, verdict.look_level, looks),
    )
    return replace(verdict, reason=wording.reason(claim, verdict, counts.against))


def _count(claim: Claim, values: np.ndarray, threshold: float, missing: int) -> _Counts:
    """Count values[n] for and against; only an exact claim, on *every* seed, counts the missing."""
    threshold = float(threshold)
    if claim.kind == "paired":
        beyond, against = stats.sign_counts(values, threshold, claim.direction)
        return _Counts(int(beyond), int(against), values.size)
    if claim.kind == "proportion":
        beyond = int((values == (1 if claim.direction == "above" else 0)).sum())
        return _Counts(beyond, values.size - beyond, values.size)
    if claim.direction == "within":
        inside = np.abs(values) <= threshold
    else:
        inside = values >= threshold if claim.direction == "above" else values <= threshold
    return _Counts(int(inside.sum()), int((~inside).sum()), values.size + missing)


def _rule(claim: Claim, counts: _Counts, threshold: float, level: float | Fraction) -> str:
    beyond, against, n = counts
    if claim.kind == "paired":
        return stats.sign_verdict(beyond, against, n, claim.direction, level)
    if claim.kind == "proportion":
        return stats.share_verdict(beyond, n, _share(claim, threshold), level)
    if against:
        return "refuted"
    return "supported" if beyond == n else "inconclusive"


def _share(claim: Claim, threshold: float) -> float:
    """The share of seeds speaking for the claim that must be exceeded."""
    return threshold if claim.direction == "above" else 1 - threshold


def _adverse(counts: _Counts, left_out: int, verdict: str) -> _Counts:
    """The counts if every seed left out spoke against the verdict reached without it."""
    beyond, against, n = counts
    if verdict == "supported":
        return _Counts(beyond, against + left_out, n + left_out)
    if verdict == "refuted":
        return _Counts(beyond + left_out, against, n + left_out)
    return counts


def _half_and_double(claim: Claim) -> tuple[float, float]:
    threshold = float(claim.threshold)
    if claim.kind == "proportion":  # half and double the odds threshold / (1 - threshold)
        return threshold / (2 - threshold), 2 * threshold / (1 + threshold)
    return threshold / 2, threshold * 2


def _describe_sample(
    claim: Claim, values: np.ndarray, counts: _Counts, level: float | Fraction, looks: int
) -> dict:
    """Effect, interval, needed count and p-values."""
    beyond, against, n = counts
    if claim.kind == "paired":
        with np.errstate(all="ignore"):
            effect = float(np.median(values.astype(np.float64)))
        interval = stats.median_interval(values, level)
        needed = stats.needed_count(n, level)
        p = stats.sign_p(beyond, n, tries=looks)
        ends = 2 if claim.direction == "within" else 1  # a margin can be left at either end
        p_against = stats.sign_p(against, n, tries=ends * looks)
    else:
        ones = beyond if claim.direction == "above" else against
        effect, interval = ones / n, stats.share_interval(ones, n, level)
        share = _share(claim, float(claim.threshold))
        needed = stats.share_needed(n, share, level)
        p = stats.share_p(beyond, n, share, tries=looks)
        p_against = stats.share_p(against, n, 1 - share, tries=looks)
    return {
        "effect": effect,
        "low": interval.low,
        "high": interval.high,
        "needed": needed,
        "p": p,
        "p_against": p_against,
    }


def _describe_mean(verdict: Verdict) -> dict:
    """The mean and its intervals; once for a verdict, the bootstrap takes its time."""
    if verdict.kind == "exact" or not verdict.n:
        return {}
    values = np.array(verdict.values)
    with np.errstate(all="ignore"):
        mean = float(np.mean(values))
    level = verdict.look_level
    t, bca = stats.t_interval(values, level), stats.bca_interval(values, level)
    return {
        "mean": mean,
        "mean_low": t.low,
        "mean_high": t.high,
        "bca_low": bca.low,
        "bca_high": bca.high,
    }


def _describe_exact(claim: Claim, values: np.ndarray, counts: _Counts, *_) -> dict:
    """The value that comes nearest to failing, or fails worst; all n must hold."""
    values = values.astype(np.float64)
    if claim.direction == "within":
        effect = values[np.argmax(np.abs(values))]
    else:
        effect = values.min() if claim.direction == "above" else values.max()
    return {"effect": float(effect), "needed": counts.n}
