"""Verdicts for machines (`to_json`) and for the terminal (`table`)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from dlstudy.claims.verdict import Verdict
from dlstudy.claims.wording import number, seed_names

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def to_json(verdicts: Iterable[Verdict]) -> str:
    """Verdicts as a strict JSON array of objects; infinite and undefined numbers become null."""

    def strict(value):
        if isinstance(value, dict):
            return {key: strict(v) for key, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [strict(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    rows = [strict(asdict(verdict)) for verdict in verdicts]
    return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


_LOOKS = {  # symbol and word tell verdicts apart; colour only helps
    "supported": ("✓", "bold green"),
    "refuted": ("✗", "bold red"),
    "conditional": ("◐", "bold cyan"),
    "inconclusive": ("?", "bold yellow"),
}


def table(verdicts: Iterable[Verdict]) -> Table:
    """Verdicts as a table for a terminal of 80 or more columns; controls and other readings
    follow their claim."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    verdicts = list(verdicts)
    level = f"{100 * verdicts[0].level:g}%" if verdicts else ""
    rows = Table(box=SIMPLE_HEAD, leading=1, padding=(0, 1, 0, 0), pad_edge=False)
    rows.add_column("claim", ratio=1, min_width=20)
    rows.add_column(f"effect\n[{level} interval]" if level else "effect", overflow="fold")
    rows.add_column("claimed", overflow="fold")
    rows.add_column("seeds", no_wrap=True, min_width=8)
    rows.add_column("verdict", no_wrap=True, min_width=14)
    for verdict in verdicts:
        title = Text.assemble((verdict.id, "bold"), f" {verdict.sentence}")
        rows.add_row(*_row(verdict, title, [verdict.measures]))
        if verdict.control:
            arm = Text(f"  control: {verdict.control.arm}", style="italic")
            rows.add_row(*_row(verdict.control, arm, []))
        if verdict.other_reading:
            words = Text(f"  as the {verdict.other_reading.reading} has it", style="italic")
            rows.add_row(*_row(verdict.other_reading, words, [verdict.other_reading.measures]))
    rows.caption = (
        "effect: median over seeds, share of seeds, or the worst value. seeds: on the claimed side "
        "of those judged, and how many support it. p: one-sided, of the verdict's side; Holm: "
        "adjusted for all rows. Each verdict is its own row's test, unadjusted."
    )
    if any(verdict.looks for verdict in verdicts):
        rows.caption += (
            " look: the first that decided, or the last one taken; the row's numbers are those "
            "of its seeds, and interval and p allow for all looks."
        )
    rows.caption_justify, rows.caption_style = "left", "dim"
    return rows


def _row(verdict: Verdict, title: Text, notes: list[str]) -> tuple[Text, ...]:
    """The cells of one verdict; Text, so that brackets in a sentence stay brackets."""
    from rich.text import Text

    for note in filter(None, [*notes, *_notes(verdict)]):
        title.append(f"\n{note}", style="not italic dim")
    effect, claimed, seeds = Text(), Text(), Text()
    if verdict.effect is not None:
        effect.append(f"{number(verdict.effect)} {verdict.unit}".rstrip())
    if verdict.low is not None:
        effect.append(f"\n[{number(verdict.low)}, {number(verdict.high)}]", style="dim")
    if verdict.kind != "compound":
        signs = {"above": "≥ ", "below": "≤ "} if verdict.kind == "exact" else {}
        signs = {"above": "> ", "below": "< ", "within": "in ±"} | signs
        claimed.append(f"{signs[verdict.direction]}{number(verdict.threshold)}")
    if verdict.n:
        seeds.append(f"{verdict.beyond} of {verdict.n}")
        if verdict.own != "refuted":  # what support takes is no matter then
            needs = f"needs {verdict.needed}" if verdict.needed else "too few"
            seeds.append(f"\n{needs}", style="dim")
        if verdict.looks:
            seeds.append(f"\nlook {verdict.looks}/{verdict.of_looks}", style="dim")
    symbol, style = _LOOKS[verdict.verdict]
    outcome = Text.assemble((f"{symbol} {verdict.verdict}", style))
    for name, value in zip(("p", "Holm"), verdict.p_decided, strict=True):
        if value is not None:
            size = "< 0.0001" if value < 1e-4 else f"= {value:.2g}"
            outcome.append(f"\n{name} {size}", style="dim")
    return title, effect, claimed, seeds, outcome


def _notes(verdict: Verdict) -> list[str]:
    """What a reader must know beyond the numbers."""
    if verdict.verdict in ("inconclusive", "conditional"):
        return [verdict.condition or verdict.reason]
    notes = []
    if verdict.diverged and verdict.kind != "compound":
        notes.append(f"diverged: {seed_names(verdict.diverged)}")
    if verdict.missing and verdict.kind != "compound":
        notes.append(f"without a value: {seed_names(verdict.missing)}")
    if verdict.at_worst != verdict.verdict:
        notes.append(f"{verdict.at_worst} if the seeds left out spoke against it")
    return notes
