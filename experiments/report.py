"""The report: a ledger as one page that opens from the disk, without a network.

`render` makes a view of the ledger, plain values with every word computed, and hands it to the
template, which only arranges them. Text from records and manifests is untrusted: the template
escapes it, data for scripts go through `data_block`, and the page's own policy lets only its own
scripts run and nothing be loaded.
"""

import base64
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

from dlstudy.claims import Verdict
from dlstudy.claims.wording import number, seed_names
from experiments import ledger as ledgers
from experiments import report_charts, report_listing, report_pictures

TEMPLATES = Path(__file__).parent / "templates"
SYMBOLS = {"supported": "✓", "refuted": "✗", "conditional": "◐", "inconclusive": "?"}
MOST_ROWS = 200  # of a table of values


@dataclasses.dataclass
class ClaimView:
    """A verdict as the page shows it.

    Attributes:
        arms: (title, verdict) of the claim itself, its control and its other reading.
        figure: the place of its figure.
        statistics: (dotted name, file and line, place of the line on this page or "").
        chart: the place of its strip.
    """

    verdict: Verdict
    anchor: str
    claimed: str = ""
    ratio: float | None = None
    arms: list[tuple[str, Verdict]] = dataclasses.field(default_factory=list)
    figure: str = ""
    figure_title: str = ""
    statistics: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    chart: str = ""
    parts: list["ClaimView"] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class ExperimentView:
    """An experiment as the page shows it."""

    name: str
    anchor: str
    question: str
    about: list[tuple[str, str]]
    entry: ledgers.Entry
    seeds: int | None
    record: str
    folder: str
    claims: list[ClaimView]
    pictures: list[tuple[str, report_pictures.Picture]]
    charts: list[tuple[str, report_charts.Chart]]
    notes: list[str]
    forest: str
    off_axis: list[ClaimView]
    facts: list[tuple[str, str]]
    packages: str
    machine: str


def render(ledger: ledgers.Ledger) -> str:
    """The whole page.

    Args:
        ledger: of the experiments; the page lies in the folder `report` of its `runs_dir`.
    """
    specs: dict[str, Any] = {"strip": report_charts.to_spec(report_charts.strip())}
    names = Anchors()
    home = ledger.runs_dir / "report"
    files = {e.name: report_pictures.files(e.folder) for e in ledger.entries}
    most = report_pictures.limit(sum(map(len, files.values())))
    experiments = [
        _experiment(entry, home, files[entry.name], most, names, specs) for entry in ledger.entries
    ]
    _forests(experiments, specs)
    claims = [claim for view in experiments for claim in _flat(view.claims)]
    listings = report_listing.listings(arm for claim in claims for _, arm in claim.arms)
    for claim in claims:
        claim.statistics = _statistics(claim, {listing.path for listing in listings})
    scripts = [report_charts.javascript(), _read("report.js")]
    page = environment().get_template("report.html.j2").render(
        ledger=ledger,
        experiments=experiments,
        counts=ledgers.counts(ledger),
        summary=summary(ledger),
        listings=[(code_anchor(listing.path), listing) for listing in listings],
        style=Markup(_read("report.css") + report_listing.styles()),
        scripts=[Markup(script) for script in scripts],
        policy=policy(scripts),
        specs=data_block({"config": report_charts.CONFIG, "charts": specs}),
    )  # fmt: skip
    return page.strip() + "\n"


def environment() -> jinja2.Environment:
    """Templates that escape what they are given and stop at a name they do not know."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "number": number, "seeds": seed_names, "p": p_value, "code": with_code, "date": day,
        "code_anchor": code_anchor, "claimed": ledgers.claimed, "interval": interval,
        "sentence": sentence,
    }  # fmt: skip
    made.globals |= {"symbols": SYMBOLS, "most_rows": MOST_ROWS, "detail_rows": detail_rows}
    return made


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text("utf-8")


# ---------------------------------------------------------------------------- safe embedding


def data_block(value: Any) -> Markup:
    """JSON for a script element: nothing in it can end the element or a line of a script."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def policy(scripts: Iterable[str]) -> str:
    """Content security policy: these scripts, inline styles and pictures, and nothing else."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


class Anchors:
    """Names of places of the page, every one once. Those that do not change are in the template."""

    def __init__(self):
        self.used = set(re.findall(r'id="([\w-]+)"', _read("report.html.j2")))

    def __call__(self, *parts: str) -> str:
        plain = re.sub(r"[^A-Za-z0-9_.]+", "-", "-".join(parts)).strip("-") or "place"
        found, count = plain, 1
        while found in self.used:
            count += 1
            found = f"{plain}-{count}"
        self.used.add(found)
        return found


def code_anchor(place: str) -> str:
    """Name of the place of "folder/module.py:52", or of the listing if there is no line."""
    return "code-" + re.sub(r"[^A-Za-z0-9_.]+", "-", place)


def with_code(text: str) -> Markup:
    """`Names` in backticks as code."""
    parts = str(text).split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    marked = (Markup("<code>{}</code>").format(part) if i % 2 else escape(part)
              for i, part in enumerate(parts))  # fmt: skip
    return Markup("").join(marked)


# ---------------------------------------------------------------------------- words


def p_value(p: float | None) -> str:
    """A p-value as one reads it; "" where there is none."""
    if p is None:
        return ""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def interval(verdict: Verdict) -> str:
    """The interval of the effect; "" where there is none."""
    if verdict.low is None or verdict.high is None:
        return ""
    return f"[{number(verdict.low)}, {number(verdict.high)}]"


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    text = str(text).strip()
    return text[:1].upper() + text[1:] + "." * (not text.endswith("."))


def day(stamp: Any) -> str:
    """ "23 November 2026" of an ISO time; the text itself if it is not one."""
    try:
        when = datetime.fromisoformat(str(stamp).replace("Z", "+00:00"))
    except ValueError:
        return str(stamp)
    return f"{when.day} {when:%B %Y}"


def dig(found: Any, *keys: str) -> Any:
    """A value deep in a manifest, which may be damaged; "" where there is none."""
    for key in keys:
        found = found.get(key, "") if isinstance(found, Mapping) else ""
    return found


def _listed(items: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def _span(values: Iterable[Any], show=str) -> str:
    """ "20", or "20 to 32"."""
    ends = sorted(values)
    return _listed([]) if not ends else " to ".join(dict.fromkeys((show(ends[0]), show(ends[-1]))))


def summary(ledger: ledgers.Ledger) -> list[str]:
    """The paragraph at the top, as sentences."""
    counts = {name: count for name, count in ledgers.counts(ledger).items() if count}
    total = sum(counts.values())
    found = _listed([f"{count} {name}" for name, count in counts.items()])
    claims = sum(v.kind != "compound" for e in ledger.entries for v in e.verdicts)
    lines = [
        f"{total} sentence{'s' * (total != 1)} put to the test in {claims} measured "
        f"claim{'s' * (claims != 1)}: {found or 'none has a verdict'}."
    ]
    asked = [entry for entry in ledger.entries if entry.status != "not run"]
    lacking = [f"{e.name} ({e.status})" for e in asked if e.status != "finished"]
    done = len(asked) - len(lacking)
    text = f"{done} of {len(asked)} experiment{'s' * (len(asked) != 1)} finished"
    text += f"; without numbers: {_listed(lacking)}" if lacking else ""
    left = [entry.name for entry in ledger.entries if entry.status == "not run"]
    lines.append(text + (f"; not asked for: {_listed(left)}." if left else "."))
    with_record = [entry for entry in ledger.entries if entry.record is not None]
    if with_record:
        seeds = _span(_seeds(e) for e in with_record if _seeds(e) is not None)
        days = [str(dig(e.manifest, "finished") or dig(e.manifest, "started")) for e in with_record]
        machines = list(dict.fromkeys(filter(None, (machine(e.manifest) for e in with_record))))
        text = f"Preset {ledger.preset}" + (f", {seeds} seeds" if seeds else "")
        when = _span(filter(None, days), day)
        text += f", run {when}" if when else ""
        lines.append(text + (f", on {_listed(machines)}." if machines else "."))
    return lines


def machine(manifest: Mapping[str, Any]) -> str:
    """ "AMD EPYC, 2 cores"; with the accelerator if that is what it ran on."""
    cpu, cores = dig(manifest, "environment", "cpu"), dig(manifest, "environment", "cpu_count")
    device = dig(manifest, "layout", "device")
    words = [str(cpu), f"{cores} cores" if cores else ""]
    if device and dig(manifest, "layout", "platform") != "cpu":
        words.insert(0, f"{dig(manifest, 'layout', 'devices')} x {device}")
    return ", ".join(filter(None, words))


def _seeds(entry: ledgers.Entry) -> int | None:
    return entry.record.sizes.get("seed") if entry.record is not None else None


def paragraphs(text: str) -> list[tuple[str, str]]:
    """A docstring without its first line, as ("text" or "code", paragraph)."""
    blocks = re.split(r"\n\s*\n", "\n".join(text.strip().splitlines()[1:]).strip("\n"))
    return [
        ("code", "\n".join(line[4:] for line in block.splitlines()))
        if block.startswith("    ") else ("text", " ".join(block.split()))
        for block in blocks if block.strip()
    ]  # fmt: skip


# ---------------------------------------------------------------------------- one claim


def _nested(verdicts: Sequence[Verdict]) -> list[tuple[Verdict, list[Verdict]]]:
    """Sentences, each with the verdicts on its parts."""
    top = {id(v) for v in ledgers.sentences(verdicts)}
    found = []
    for verdict in verdicts:
        if id(verdict) in top:
            found.append((verdict, []))
        else:
            found[-1][1].append(verdict)
    return found


def _flat(claims: Iterable[ClaimView]) -> list[ClaimView]:
    return [one for claim in claims for one in (claim, *_flat(claim.parts))]


def arms_of(verdict: Verdict) -> list[tuple[str, Verdict]]:
    """The columns of a claim's numbers: itself, its control and its other reading."""
    words = {"source": "as the source has it", "book": "as the book has it"}
    found = [(verdict.arm or words.get(verdict.reading, "this claim"), verdict)]
    if verdict.control:
        found.append((verdict.control.arm or "control", verdict.control))
    if verdict.other_reading:
        found += arms_of(verdict.other_reading)
    return found


def _statistics(claim: ClaimView, listed: set[str]) -> list[tuple[str, str, str]]:
    """The functions that measure a claim's arms; `listed`: files that the page holds."""
    found = {}
    for _, verdict in claim.arms:
        there = verdict.code.rpartition(":")[0] in listed
        place = code_anchor(verdict.code) if there else ""
        found[verdict.statistic, verdict.code] = verdict.statistic, verdict.code, place
    return list(found.values())


def detail_rows(claim: ClaimView) -> list[tuple[str, list[str]]]:
    """The table of a claim's numbers: (what, the value in each arm); empty rows are left out."""
    rows = {
        "verdict": lambda v: f"{SYMBOLS[v.verdict]} {v.verdict}",
        "effect": lambda v: f"{number(v.effect)} {v.unit}".rstrip() if number(v.effect) else "",
        "interval": lambda v: f"{interval(v)} at {100 * v.level:g}%" if interval(v) else "",
        "claimed": ledgers.claimed,
        "seeds for the claim": lambda v: f"{v.beyond} of {v.n}" if v.n else "",
        "needed": lambda v: number(v.needed),
        "looks at batches of seeds": lambda v: f"{v.looks} of {v.of_looks}" if v.looks else "",
        "p for it": lambda v: _with_holm(v.p, v.p_holm),
        "p against it": lambda v: _with_holm(v.p_against, v.p_against_holm),
        "at half the threshold": lambda v: v.at_half,
        "at double the threshold": lambda v: v.at_double,
        "if those left out spoke against it": lambda v: v.at_worst,
        "diverged": lambda v: seed_names(v.diverged) if v.diverged else "none",
        "without a value": lambda v: seed_names(v.missing) if v.missing else "none",
        "mean (description only)": lambda v: number(v.mean),
        "its t interval": lambda v: _pair(v.mean_low, v.mean_high),
        "its BCa interval": lambda v: _pair(v.bca_low, v.bca_high),
    }
    found = [(name, [show(v) for _, v in claim.arms]) for name, show in rows.items()]
    return [(name, values) for name, values in found if any(values)]


def _with_holm(p: float | None, adjusted: float | None) -> str:
    return f"{p_value(p)} (Holm: {p_value(adjusted)})" if p is not None else ""


def _pair(low: float | None, high: float | None) -> str:
    return f"[{number(low)}, {number(high)}]" if number(low) or number(high) else ""


def _claim(
    verdict: Verdict, parts: Sequence[Verdict], name: str, shown: dict, names: Anchors, specs: dict
) -> ClaimView:
    """The view of one verdict and its parts. `shown`: (anchor, title) of each figure by name."""
    view = ClaimView(verdict, names(name, verdict.id))
    view.parts = [_claim(part, (), name, shown, names, specs) for part in parts]
    if verdict.kind == "compound":
        return view
    view.arms = arms_of(verdict)
    view.claimed = ledgers.claimed(verdict)
    view.figure, view.figure_title = shown.get(verdict.figure, ("", ""))
    if verdict.effect is not None and verdict.threshold:
        view.ratio = verdict.effect / verdict.threshold
    rows = report_charts.strip_rows(view.arms)
    if any("seed" in row for row in rows):
        view.chart = names("strip", view.anchor)
        height = report_charts.STRIP * len({row["arm"] for row in rows})
        ends = dict(zip(("low_end", "high_end"), report_charts.strip_ends(rows), strict=True))
        specs[view.chart] = {"data_of": "strip", "rows": rows, "height": height, "params": ends}
    return view


# ---------------------------------------------------------------------------- one experiment


def _experiment(
    entry: ledgers.Entry,
    home: Path,
    files: dict[str, Path],
    most: int,
    names: Anchors,
    specs: dict,
) -> ExperimentView:
    charts, notes = _charts(entry)
    # A chart takes the place of the moving picture of its name.
    files = {n: f for n, f in files.items() if f.suffix != ".gif" or n not in charts}
    anchor = names(entry.name)
    words = report_pictures.titles(entry.folder)
    made = list(report_pictures.pictures(files, words, most))
    unread = sorted(files.keys() - {picture.name for picture in made})
    notes += [f"The figure {name} cannot be read." for name in unread]
    pictures = [(names(anchor, "figure", picture.name), picture) for picture in made]
    shown = {picture.name: (place, picture.title) for place, picture in pictures}
    placed = []
    for chart in charts.values():
        placed.append((names(anchor, "chart", chart.name), chart))
        specs[placed[-1][0]] = report_charts.to_spec(chart.chart)
    record = entry.folder / "record.nc" if entry.folder else None
    return ExperimentView(
        name=entry.name,
        anchor=anchor,
        question=entry.question,
        about=paragraphs(entry.module.__doc__ or ""),
        entry=entry,
        seeds=_seeds(entry),
        record=link(record, home) if record and record.is_file() else "",
        folder=link(entry.folder, home) if entry.folder else "",
        claims=[
            _claim(v, parts, anchor, shown, names, specs) for v, parts in _nested(entry.verdicts)
        ],
        pictures=pictures,
        charts=placed,
        notes=notes,
        forest=names("forest", anchor),
        off_axis=[],
        facts=facts(entry),
        packages=_packages(entry.manifest),
        machine=machine(entry.manifest),
    )  # fmt: skip


def link(path: Path, home: Path) -> str:
    """Address of a file or folder from the page in the folder `home`."""
    return quote(os.path.relpath(path, home).replace(os.sep, "/"))


def _charts(entry: ledgers.Entry) -> tuple[dict[str, report_charts.Chart], list[str]]:
    """An experiment's own charts by name, and why some are missing."""
    make = getattr(entry.module, "charts", None)
    if make is None or entry.record is None:
        return {}, []
    found = {}
    try:
        for chart in make(entry.record):
            report_charts.to_spec(chart.chart)  # here it fails if it does
            found[chart.name] = chart
    except Exception as error:  # a picture less, whatever the reason
        return found, [f"A chart could not be drawn: {type(error).__name__}: {error}"]
    return found, []


def facts(entry: ledgers.Entry) -> list[tuple[str, str]]:
    """What the manifest says of a run, in words."""
    of = entry.manifest
    seconds, memory = dig(of, "seconds"), dig(of, "peak_memory_mib")
    layout, data = dig(of, "layout"), dig(of, "data")
    found = {
        "status": dig(of, "status"),
        "started": dig(of, "started"),
        "finished": dig(of, "finished"),
        "took": _duration(seconds) if isinstance(seconds, (int, float)) else "",
        "peak memory": f"{memory} MiB" if memory else "",
        "machine": machine(of),
        "system": dig(of, "environment", "platform"),
        "Python": dig(of, "environment", "python"),
        "commit": dig(of, "environment", "commit"),
        "layout": _pairs(layout),
        "data": _pairs(data),
        "SHA-256 of the record": dig(of, "record_sha256"),
    }
    return [(name, str(value)) for name, value in found.items() if value not in ("", None)]


def _pairs(found: Any) -> str:
    if not isinstance(found, Mapping):
        return str(found)
    return ", ".join(f"{name} {value}" for name, value in found.items())


def _packages(manifest: Mapping[str, Any]) -> str:
    return _pairs(dig(manifest, "environment", "packages"))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# ---------------------------------------------------------------------------- all claims


def _forests(experiments: Sequence[ExperimentView], specs: dict[str, Any]) -> None:
    """Gives every experiment its part of the overview, all on one axis."""
    rows = {}
    for view in experiments:
        found = [(claim, _forest_row(claim)) for claim in _flat(view.claims) if claim.arms]
        rows[view.name] = [row for _, row in found if row]
        view.off_axis = [claim for claim, row in found if not row]
    domain = report_charts.forest_domain(row for of in rows.values() for row in of)
    drawn = [view for view in experiments if rows[view.name]]
    for view in experiments:
        if view not in drawn:
            view.forest = ""
            continue
        chart = report_charts.forest(rows[view.name], domain, legend=view is drawn[0])
        specs[view.forest] = report_charts.to_spec(chart)


def _forest_row(claim: ClaimView) -> dict[str, Any] | None:
    notes = report_charts.notes(claim.verdict, claim.claimed)
    return report_charts.forest_row(claim.verdict, f"#{claim.anchor}", notes)
