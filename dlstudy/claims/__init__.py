"""Claims and their verdicts.

    claims = (Claim(id="5.2", sentence="Gradient norms stay large", kind="paired", ...), ...)
    verdicts = judge(claims, record)

A claim is `supported`, `refuted`, `inconclusive`, or `conditional`: supported in one arm of the
experiment and refuted in another. `dlstudy.stats` holds the rules and says why they are exact.
A statistic that fails never stops a run: its claim is inconclusive, with the reason.
"""

from dlstudy.claims.claim import Claim, combine
from dlstudy.claims.judging import adjust, decidable, judge, looks_of, undecided
from dlstudy.claims.output import table, to_json
from dlstudy.claims.verdict import Verdict, conditional, conjunction

__all__ = [
    "Claim",
    "Verdict",
    "adjust",
    "combine",
    "conditional",
    "conjunction",
    "decidable",
    "judge",
    "looks_of",
    "table",
    "to_json",
    "undecided",
]
