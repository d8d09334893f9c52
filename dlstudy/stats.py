"""Exact statistics over seeds: what a handful of runs can say about a median or a share.

Runs of one experiment differ only in their seed, so they are independent draws from one
distribution of which nothing else is known: it may be skewed, tied, or a constant. Decisions
therefore rest on counting alone.

* A *median* is judged by the sign test. If the median sits on the threshold, a seed lies strictly
  beyond it with probability at most 1/2, so the count beyond it is at most Binomial(n, 1/2). A
  side wins with at least c seeds strictly beyond the threshold, c the smallest count whose binomial
  tail is at most 1 - level. Ties help neither side. Each side errs with probability at most
  1 - level, whatever the distribution.
* A *share* is judged by its Clopper-Pearson interval.

Where seeds are added until something is decided, every look is another try for chance: `Looks`
fixes the looks beforehand and shares the error out among them.

The interval of the median is two-sided and leaves (1 - level) / 2 on each side, half of what the
sign test spends. On the edge (16 of 20 seeds) the test can decide while the interval still
reaches the threshold; the test is the rule and the interval describes.

The t and BCa intervals of the mean are description only: at 16 seeds the t interval, meant to err
in 1% of cases, calls 3-8% of skewed nulls (lognormal, sigma 0.5 to 1) an effect.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb, inf, isfinite, nan, sqrt
from typing import NamedTuple

import numpy as np

LEVEL = 0.99


class Interval(NamedTuple):
    """A closed interval; an end nothing is known about is infinite."""

    low: float
    high: float


def _tail(level: float | Fraction) -> Fraction:
    """1 - level without rounding: 1/100 for 0.99, where floats give 0.010000000000000009."""
    tail = 1 - (level if isinstance(level, Fraction) else Fraction(str(level)))
    if not 0 < tail < 1:
        raise ValueError(f"level is {level}; it must lie strictly between 0 and 1")
    return tail


def _two_sided(level: float | Fraction) -> Fraction:
    """The level that leaves half of 1 - level, for use on each of two sides."""
    return 1 - _tail(level) / 2


def _sample(x) -> np.ndarray:
    """x as float64[n], n >= 1 and every value finite."""
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 1 or x.size == 0 or not np.isfinite(x).all():
        raise ValueError(f"expected one or more finite numbers in one dimension, got {x}")
    return x


# --- looks -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Looks:
    """A plan of when to look at seeds that are added in batches, fixed before the run.

    Of K looks each may spend 1/K of the error that a decision is allowed: everything at a look
    (tests, intervals) has the level 1 - (1 - level) / K. A verdict is that of the first look that
    decides it, else of the last. However the looks depend on each other, and wherever a run stops,
    each side then errs with probability at most 1 - level over all looks together, an interval
    holds at all looks at once with probability `level`, and K times the smallest p-value so far
    is a p-value (Bonferroni).

    Attributes:
        batch: seeds added before each look, >= 1.
        cap: seeds at the last look, which may add fewer; >= batch.
    """

    batch: int
    cap: int

    def __post_init__(self):
        if not 1 <= self.batch <= self.cap:
            raise ValueError(f"batches of {self.batch} up to {self.cap} seeds are no plan")

    @property
    def counts(self) -> tuple[int, ...]:
        """Seeds at each look: 10, 20, ... up to the cap."""
        return (*range(self.batch, self.cap, self.batch), self.cap)

    def level(self, level: float | Fraction = LEVEL) -> Fraction:
        """Confidence at each look, for `level` over all of them."""
        return split_level(level, len(self.counts))


def split_level(level: float | Fraction, looks: int) -> Fraction:
    """The level at each of so many looks that gives `level` over all of them."""
    return 1 - _tail(level) / looks


# --- the sign test ---------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _binomial_tail(count: int, n: int) -> Fraction:
    """P(Binomial(n, 1/2) >= count), exactly."""
    return Fraction(sum(comb(n, k) for k in range(max(count, 0), n + 1)), 2**n)


@lru_cache(maxsize=1024)
def needed_count(n: int, level: float | Fraction = LEVEL) -> int | None:
    """Smallest c with P(Binomial(n, 1/2) >= c) <= 1 - level, in exact arithmetic.

    At 99%: 16 of 20, 24 of 32, 7 of 7.

    Args:
        n: number of seeds, >= 0.
        level: confidence of a one-sided decision, in (0, 1).

    Returns:
        c, or None where even all n seeds on one side are too few (n < 7 at 99%).

    Raises:
        ValueError: n is negative or the level is not in (0, 1).
    """
    if n < 0:
        raise ValueError(f"the number of seeds is {n}; it must not be negative")
    ways = _tail(level) * 2**n
    total = 0
    for count in range(n, -1, -1):
        total += comb(n, count)
        if total > ways:
            return count + 1 if count < n else None
    raise AssertionError("all 2**n outcomes together are more than any tail")


def fewest_seeds(level: float | Fraction = LEVEL) -> int:
    """Fewest seeds that can decide a sign test at all: 7 at 99%."""
    n = 0
    while needed_count(n, level) is None:
        n += 1
    return n


def sign_counts(x, threshold: float, direction: str) -> tuple[np.ndarray, np.ndarray]:
    """Count the seeds that speak for and against a claim about the median.

    "above" and "below": strictly beyond the threshold on that side, and on the other; a tie is
    in neither count. "within" (equivalence): two sign tests, median < threshold and
    median > -threshold, must both succeed, so what speaks for the claim is the smaller of their
    two counts, and what speaks against it the larger count strictly outside one end. Both tests
    must pass, so each may spend the whole 1 - level (Berger 1982), and the claim holds where the
    median's one-sided bounds lie inside the margin. Counting seeds inside the margin instead
    would ask that single runs agree: noise between seeds would refute arms equal in the median.

    x keeps its dtype, so that a float32 value printed 0.1 ties with the threshold 0.1.

    Args:
        x: numbers[..., n], finite; leading axes are separate samples.
        threshold: in the unit of x; for "within" the margin, > 0.
        direction: "above", "below" or "within".

    Returns:
        (beyond, against), integers of x's leading shape.
    """
    x = np.asarray(x)
    threshold = float(threshold)  # a Python float does not promote float32 on comparison
    above, below = (x > threshold).sum(-1), (x < threshold).sum(-1)
    if direction == "above":
        return above, below
    if direction == "below":
        return below, above
    if direction != "within":
        raise ValueError(f"direction is {direction!r}; it must be above, below or within")
    return (
        np.minimum(below, (x > -threshold).sum(-1)),
        np.maximum(above, (x < -threshold).sum(-1)),
    )


def needed_against(n: int, direction: str, level: float | Fraction = LEVEL) -> int | None:
    """Seeds that must lie on the other side for a refutation: `needed_count`, or for "within"
    its stricter two-sided form, because leaving the margin at either end gives chance two tries.
    """
    return needed_count(n, _two_sided(level) if direction == "within" else level)


def sign_verdict(
    beyond: int, against: int, n: int, direction: str, level: float | Fraction = LEVEL
) -> str:
    """Verdict of `sign_counts` on n seeds: "supported", "refuted" or "inconclusive"."""
    needed, to_refute = needed_count(n, level), needed_against(n, direction, level)
    if needed is not None and beyond >= needed:
        return "supported"
    if to_refute is not None and against >= to_refute:
        return "refuted"
    return "inconclusive"


def sign_p(count: int, n: int, *, tries: int = 1) -> float:
    """Exact p-value of a sign test in which `count` of n seeds lie strictly beyond.

    One-sided: P(Binomial(n, 1/2) >= count), times the tries that chance had, at most 1. Two-sided
    are two tries; pass the larger of the two sides' counts.
    """
    return float(min(Fraction(1), tries * _binomial_tail(int(count), int(n))))


def median_interval(x, level: float | Fraction = LEVEL) -> Interval:
    """Interval of the median from order statistics; its coverage is at least `level`.

    [x_(k), x_(n+1-k)] misses the median with probability at most 2 P(Binomial(n, 1/2) >= n+1-k),
    for any distribution, ties included (David & Nagaraja 2003, Order Statistics, section 7.1);
    k is the largest rank that keeps this at most 1 - level. At 99% and 20 seeds: 4th and 17th.

    Args:
        x: numbers[n], finite.
        level: confidence, two-sided.

    Returns:
        The interval; (-inf, inf) for fewer than 8 seeds at 99%, which cannot bound a median.
    """
    x = np.sort(_sample(x))
    rank = needed_count(x.size, _two_sided(level))
    if rank is None:
        return Interval(-inf, inf)
    return Interval(float(x[x.size - rank]), float(x[rank - 1]))


# --- shares ----------------------------------------------------------------------------------


def share_interval(ones: int, n: int, level: float | Fraction = LEVEL) -> Interval:
    """Clopper-Pearson interval of a probability after `ones` of n; (0, 1) for n = 0."""
    from scipy.stats import binomtest

    if n == 0:
        return Interval(0.0, 1.0)
    ci = binomtest(int(ones), int(n)).proportion_ci(float(level), method="exact")
    return Interval(float(ci.low), float(ci.high))


def share_verdict(ones: int, n: int, threshold: float, level: float | Fraction = LEVEL) -> str:
    """Verdict on "the probability is above the threshold" from its Clopper-Pearson interval."""
    low, high = share_interval(ones, n, level)
    if low > threshold:
        return "supported"
    return "refuted" if high < threshold else "inconclusive"


def share_needed(n: int, threshold: float, level: float | Fraction = LEVEL) -> int | None:
    """Smallest number of ones among n whose interval lies above the threshold; None if none."""
    from scipy.stats import binom

    tails = binom.sf(np.arange(n + 1) - 1, n, threshold)  # P(Binomial(n, threshold) >= k)
    enough = np.flatnonzero(tails < float(_tail(level)) / 2)
    return int(enough[0]) if enough.size else None


def share_p(ones: int, n: int, threshold: float, *, tries: int = 1) -> float:
    """Exact one-sided p-value: P(Binomial(n, threshold) >= ones), times the tries of chance."""
    from scipy.stats import binom

    return float(min(1.0, tries * binom.sf(ones - 1, n, threshold)))


# --- description of the mean -----------------------------------------------------------------


def t_interval(x, level: float | Fraction = LEVEL) -> Interval:
    """Student's t interval of the mean of x[n], as description only.

    A point for constant x, unbounded for n = 1, (nan, nan) where the numbers overflow.
    """
    from scipy.special import stdtrit

    x = _sample(x)
    if x.size < 2:
        return Interval(-inf, inf)
    with np.errstate(all="ignore"):
        mean = float(np.mean(x))
        if np.all(x == x[0]):  # rounding in the mean would leave a spurious spread
            return Interval(mean, mean)
        half = float(stdtrit(x.size - 1, float(1 + level) / 2) * np.std(x, ddof=1) / sqrt(x.size))
    return _finite_or_nan(mean - half, mean + half)


def bca_interval(
    x, level: float | Fraction = LEVEL, *, resamples: int = 9999, seed: int = 0
) -> Interval:
    """Bias-corrected and accelerated bootstrap interval of the mean (Efron 1987).

    Description only. Repeatable: the resampling is seeded.

    Args:
        x: numbers[n], finite.
        level: nominal confidence.
        resamples: bootstrap samples.
        seed: of the resampling.

    Returns:
        The interval; a point for constant x, unbounded for n = 1, and (nan, nan) where the
        numbers are too large or too close together for floating point to tell samples apart.
    """
    from scipy.stats import bootstrap

    x = _sample(x)
    if x.size < 2 or np.all(x == x[0]):
        return t_interval(x, level)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # SciPy warns where it returns nan: nan says it already
        ci = bootstrap(
            (x,),
            np.mean,
            n_resamples=resamples,
            confidence_level=float(level),
            batch=max(1, 1_000_000 // x.size),  # at most 8 MB at a time
            method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return _finite_or_nan(float(ci.low), float(ci.high))


def _finite_or_nan(low: float, high: float) -> Interval:
    return Interval(low, high) if isfinite(low) and isfinite(high) else Interval(nan, nan)


# --- many claims at once ---------------------------------------------------------------------


def rank_correlation(x, y) -> np.ndarray:
    """Spearman's, over the first axis of [n, ...]; NaN where a side does not vary, or has a NaN."""
    from scipy.stats import rankdata

    x, y = (rankdata(a, axis=0, nan_policy="propagate") for a in (x, y))
    x, y = x - x.mean(0), y - y.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(0) / np.sqrt((x * x).sum(0) * (y * y).sum(0))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values, in the order given (Holm 1979).

    Rejecting where the adjusted value is at most a keeps the probability of any false rejection
    at most a, however the tests depend on each other.
    """
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"p-values must be numbers between 0 and 1 in one dimension, got {p}")
    order = np.argsort(p, kind="stable")
    steps = p[order] * np.arange(p.size, 0, -1)  # smallest p times m, next times m - 1, ...
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted.tolist()
