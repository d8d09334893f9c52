"""Verdict: what a record says about a claim, and how the verdicts of several arms or parts join."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from dlstudy import stats
from dlstudy.claims.claim import Claim, Direction, Kind


@dataclass(frozen=True)
class Verdict:
    """What a record says about a claim. Numbers that do not exist are None.

    Attributes:
        verdict: "supported", "refuted", "inconclusive" or "conditional".
        reason: the counts or the failure behind the verdict, and what a reader should know of it.
        condition: of a conditional verdict, in which arm the claim holds and in which it fails.
        arm: `Claim.condition`, what sets this arm apart.
        statistic: dotted name of the function that measures.
        measures: what it measures, in words.
        threshold_reason: `Claim.reason`.
        effect: median of the seeds; the share of ones; for "exact" the value nearest to failing.
        low, high: two-sided interval of the effect at `level`, infinite where seeds are too few.
        level: confidence of the interval, and of a paired verdict on each side.
        looks: where seeds came in batches (`stats.Looks`), the look that decided, or the last one
            taken; all numbers here are those of its seeds. The level is that of all looks
            together, p the smallest so far times `of_looks`. None: judged once, on all seeds.
        of_looks: looks of the plan.
        seeds: seeds in the record, or at the look.
        n: seeds the verdict rests on: neither diverged nor missing.
        beyond: of these, how many speak for the claim (ties do not).
        needed: the smallest `beyond` that supports it; None if even n would not do.
        p: exact one-sided p-value for the claim: the probability of at least `beyond` such seeds
            if the median, or share, sat on the threshold.
        p_holm: the same, adjusted over all claims judged together (`adjust`).
        p_against, p_against_holm: the same for its refutation.
        diverged: seeds whose training diverged; left out unless the claim keeps them.
        missing: other seeds without a value, left out.
        at_half, at_double: the verdict at half and at double the threshold. A threshold of 0 is
            its own half and double, so there both equal the verdict. A share cannot double
            beyond 1: there it is the odds that are halved and doubled (0.9 gives 0.82 and 0.95).
        at_worst: the verdict if every seed left out spoke against the one reached; the same
            verdict if none was left out.
        mean, mean_low, mean_high: mean and Student's t interval, description only.
        bca_low, bca_high: BCa bootstrap interval of the mean, description only.
        control: the verdict in the control arm.
        figure, reading: as in the claim.
        other_reading: the verdict on the sentence as the other one, source or book, has it.
        code: file and line of the statistic, "experiments/relu_regions_claims.py:52".
        values: the statistic of the `n` seeds.
        labels: their seeds; the positions of the values for an exact claim about no seeds.
    """

    id: str
    sentence: str
    kind: Kind
    verdict: str
    reason: str
    condition: str = ""
    arm: str = ""
    unit: str = ""
    direction: Direction = "above"
    threshold: float | None = None
    threshold_reason: str = ""
    section: str = ""
    trap: str = ""
    oracle: str = ""
    statistic: str = ""
    measures: str = ""
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    level: float = stats.LEVEL
    seeds: int | None = None
    n: int | None = None
    beyond: int | None = None
    needed: int | None = None
    p: float | None = None
    p_holm: float | None = None
    p_against: float | None = None
    p_against_holm: float | None = None
    diverged: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()
    at_half: str = "inconclusive"
    at_double: str = "inconclusive"
    at_worst: str = "inconclusive"
    mean: float | None = None
    mean_low: float | None = None
    mean_high: float | None = None
    bca_low: float | None = None
    bca_high: float | None = None
    control: Verdict | None = None
    figure: str = ""
    reading: str = ""
    other_reading: Verdict | None = None
    code: str = ""
    values: tuple[float, ...] = ()
    labels: tuple[int, ...] = ()

    @property
    def own(self) -> str:
        """The verdict of this arm by itself, where its control made it conditional."""
        if self.verdict != "conditional" or self.control is None:
            return self.verdict
        return "refuted" if self.control.verdict == "supported" else "supported"

    @property
    def p_decided(self) -> tuple[float | None, float | None]:
        """p of the side that this arm was decided for, and the same adjusted."""
        if self.own == "refuted":
            return self.p_against, self.p_against_holm
        return self.p, self.p_holm

    looks: int | None = None
    of_looks: int | None = None

    @property
    def look_level(self) -> float | Fraction:
        """The level at one look."""
        return stats.split_level(self.level, self.of_looks) if self.of_looks else self.level


_AT = ("at_half", "at_double", "at_worst")


def conditional(verdict: str, control: str) -> str:
    """Verdict of a claim beside the same claim in a control arm.

    `conditional` takes two decisions, one each way. Supported here and merely inconclusive there
    is no evidence of a condition: the difference between a decided and an undecided arm need not
    be a difference (Gelman & Stern 2006).
    """
    return "conditional" if {verdict, control} == {"supported", "refuted"} else verdict


def with_control(main: Verdict, control: Verdict) -> Verdict:
    """The main arm's verdict in the light of its control's."""
    result = conditional(main.verdict, control.verdict)
    condition, reason = "", f"{main.reason}; {control.arm}: {control.verdict}"
    if result == "conditional":
        holds, fails = (main, control) if main.verdict == "supported" else (control, main)
        condition = f"holds {holds.arm}, fails {fails.arm}"
        reason = f"{main.arm}: {main.reason}; {control.arm}: {control.reason}"
    at = {name: conditional(getattr(main, name), getattr(control, name)) for name in _AT}
    return replace(main, verdict=result, condition=condition, reason=reason, control=control, **at)


def conjunction(verdicts: Sequence[str]) -> str:
    """Verdict of a sentence all of whose parts must hold: its weakest part decides."""
    return min(verdicts, key=("refuted", "inconclusive", "conditional", "supported").index)


def compound(claim: Claim, parts: Sequence[Verdict], level: float) -> Verdict:
    """The verdict on a whole sentence from those on its parts."""
    result = conjunction([part.verdict for part in parts])
    deciding = ", ".join(part.id for part in parts if part.verdict == result)
    return Verdict(
        id=claim.id,
        sentence=claim.sentence,
        kind="compound",
        verdict=result,
        reason="all parts are supported" if result == "supported" else f"decided by {deciding}",
        condition="; ".join(f"{p.id} {p.condition}" for p in parts if p.condition),
        section=claim.section,
        level=level,
        diverged=tuple(sorted({seed for part in parts for seed in part.diverged})),
        missing=tuple(sorted({seed for part in parts for seed in part.missing})),
        **{name: conjunction([getattr(part, name) for part in parts]) for name in _AT},
    )
