"""Claim: a sentence, a number per seed, and a threshold fixed before the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import xarray

Kind = Literal["paired", "proportion", "exact", "compound"]
Direction = Literal["above", "below", "within"]


@dataclass(frozen=True)
class Claim:
    """One sentence that can be true or false, and how a record answers it.

    Attributes:
        id: number in the list of claims, "5.2"; parts of a compound sentence add a letter.
        sentence: the claim in words.
        kind: "paired", judged on the median over seeds by the sign test; "proportion", on the
            share of seeds that read 1 by its Clopper-Pearson interval; "exact", on every value
            (algebra: no sampling, no interval). `combine` makes "compound".
        statistic: record -> number[seed]. nan: this seed has no value; raising: no seed has. The
            first line of its docstring says what is measured and is shown beside the verdict.
        direction: the side of the threshold that supports the claim. "paired": strictly "above"
            or "below", or "within" for equivalence, where the threshold is a margin and the
            median must be shown to lie strictly between -threshold and threshold. "proportion":
            "above" or "below". "exact": x >= threshold, x <= threshold, or |x| <= threshold.
        threshold: smallest effect worth having, or tolerance, in `unit`.
        reason: why this threshold.
        unit: of statistic and threshold; "" for pure numbers.
        section: where the sentence stands in its source.
        trap: artefact that could make the claim appear or vanish wrongly.
        oracle: what a correct instrument reads where the answer is known.
        control: the same claim about another arm. The verdict is `conditional` if one of the two
            is supported and the other refuted.
        condition: what sets this claim's arm apart, "with clean labels"; needed beside a control.
        arms: arms whose divergence takes a seed out of this claim; () means any arm.
        keep_diverged: leave diverged seeds in, for claims about divergence itself.
        parts: the lettered parts of a compound sentence.
        figure: name of the experiment's figure that shows what the statistic measures.
        reading: whose words this claim follows, where source and book disagree.
        other_reading: the same sentence as the other one has it, judged and shown beside this
            claim; it does not change this claim's verdict.
    """

    id: str
    sentence: str
    kind: Kind
    statistic: Callable[[xarray.Dataset], np.ndarray] | None
    direction: Direction
    threshold: float
    reason: str
    unit: str
    section: str
    trap: str = ""
    oracle: str = ""
    control: Claim | None = None
    condition: str = ""
    arms: tuple[str, ...] = ()
    keep_diverged: bool = False
    parts: tuple[Claim, ...] = ()
    figure: str = ""
    reading: Literal["", "source", "book"] = ""
    other_reading: Claim | None = None

    def __post_init__(self):
        problem = _problem(self)
        if problem:
            raise ValueError(f"claim {self.id}: {problem}")


def _problem(claim: Claim) -> str:
    """What is wrong with a claim as declared, or ""."""
    if claim.kind == "compound":
        lettered = all(part.id.startswith(claim.id) and part.id != claim.id for part in claim.parts)
        if len(claim.parts) < 2 or not lettered:
            return f"needs two or more parts, with ids like {claim.id}a"
        if claim.control or claim.other_reading:
            return "a compound claim has no control and no other reading of its own"
        return ""
    directions = {
        "paired": ("above", "below", "within"),
        "proportion": ("above", "below"),
        "exact": ("above", "below", "within"),
    }
    if claim.kind not in directions:
        return f"kind is {claim.kind!r}; it must be one of {', '.join(directions)}"
    if claim.direction not in directions[claim.kind]:
        allowed = " or ".join(directions[claim.kind])
        return f"direction of a {claim.kind} claim is {claim.direction!r}; it must be {allowed}"
    if claim.parts:
        return "only a compound claim has parts; make it with combine()"
    if not callable(claim.statistic):
        return "statistic must be a function of the record"
    if not math.isfinite(claim.threshold):
        return f"threshold is {claim.threshold}; it must be finite"
    if claim.kind == "proportion" and not 0 < claim.threshold < 1:
        return f"threshold of a share is {claim.threshold}; it must lie strictly between 0 and 1"
    if claim.direction == "within" and (
        claim.threshold < 0 or (claim.threshold == 0 and claim.kind == "paired")
    ):
        return f"a margin of {claim.threshold} leaves nothing inside it"
    if not claim.reason.strip():
        return "the threshold needs its reason"
    if claim.control and not (claim.condition and claim.control.condition):
        return "a claim with a control needs a condition for each of the two"
    control = claim.control
    if control and (control.control or control.other_reading or control.kind == "compound"):
        return "a control is a single claim without a control or another reading of its own"
    return _problem_of_reading(claim)


def _problem_of_reading(claim: Claim) -> str:
    other = claim.other_reading
    if other is None:
        return ""
    if {claim.reading, other.reading} != {"source", "book"}:
        return "a claim with another reading is the source's, and that the book's, or vice versa"
    if other.other_reading or other.kind == "compound":
        return "another reading is a single claim without another reading of its own"
    return ""


def combine(id: str, sentence: str, parts: Sequence[Claim], section: str = "") -> Claim:
    """A compound sentence: supported if all its parts are, refuted if any part is.

    Its verdict needs no correction for the number of parts to be called supported (all must pass
    their own test), but each part is another chance to be wrongly refuted: read the adjusted
    p-values of the parts.
    """
    return Claim(
        id=id,
        sentence=sentence,
        kind="compound",
        statistic=None,
        direction="above",
        threshold=0.0,
        reason="",
        unit="",
        section=section or parts[0].section,
        parts=tuple(parts),
    )
