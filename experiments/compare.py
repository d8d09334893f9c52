"""What differs between two ledgers, or two runs: verdicts, effects, and how they were made."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dlstudy import records
from dlstudy.checkpoints import DamagedError
from dlstudy.claims.wording import number
from dlstudy.errors import UserError
from experiments import inputs


class Side(NamedTuple):
    """One of the two: its claims by (experiment, id, arm), its manifests by experiment."""

    path: Path
    claims: dict[tuple[str, str, str], dict[str, Any]]
    manifests: dict[str, dict[str, Any]]


class Change(NamedTuple):
    """A claim that reads differently; effects and intervals are None where there are none."""

    key: tuple[str, str, str]
    before: dict[str, Any]
    after: dict[str, Any]

    @property
    def verdict(self) -> bool:
        return self.before["verdict"] != self.after["verdict"]

    @property
    def apart(self) -> bool:
        """Whether the intervals have no point in common."""
        ends = [side[name] for side in (self.before, self.after) for name in ("low", "high")]
        if self.before["effect"] is None or self.after["effect"] is None:
            return False
        # An end that is not a number was infinite.
        low_a, low_b = (-float("inf") if e is None else e for e in ends[::2])
        high_a, high_b = (float("inf") if e is None else e for e in ends[1::2])
        return high_a < low_b or high_b < low_a


def run(a: Path, b: Path) -> int:
    """Prints the comparison and returns the exit status.

    Raises:
        UserError: there is no ledger in a place.
        DamagedError: it cannot be read.
    """
    from rich.console import Console

    before, after = read(a), read(b)
    console = Console(soft_wrap=False)
    for line in how_made(before, after):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for name, here, there in (("RUN_A", before, after), ("RUN_B", after, before)):
        alone = sorted({key[:2] for key in here.claims} - {key[:2] for key in there.claims})
        if alone:
            ids = ", ".join(f"{experiment} {id}" for experiment, id in alone)
            console.print(f"only in {name}: {ids}", markup=False, highlight=False, soft_wrap=True)
    common = len(before.claims.keys() & after.claims.keys())
    found = changes(before, after)
    verdicts = sum(change.verdict for change in found)
    if found:
        console.print(table(found))
    print(f"of {common} verdicts {verdicts} differ, of the effects {len(found)}"
          if found else f"all {common} verdicts and effects agree")  # fmt: skip
    return 0


def read(place: Path) -> Side:
    """A ledger, from its file, a folder that holds it, or a run folder.

    Raises:
        UserError: there is none.
        DamagedError: it cannot be read.
    """
    for path in (place, place / "ledger.json", place / "report" / "ledger.json"):
        if path.is_file():
            content = _json(path)
            try:
                manifests = {e["name"]: _manifest(e["manifest"]) for e in content["experiments"]}
                return Side(path, _by_key(content["claims"]), manifests)
            except (KeyError, TypeError, AttributeError):
                raise DamagedError(f"{path}: damaged: not a ledger") from None
    if (place / "claims.json").is_file() and (place / "manifest.json").is_file():
        manifest = _json(place / "manifest.json")
        try:
            name = manifest["experiment"]
            rows = [{"experiment": name, **row} for row in _json(place / "claims.json")]
            return Side(place, _by_key(rows), {name: _manifest(manifest)})
        except (KeyError, TypeError, AttributeError):
            raise DamagedError(f"{place}: damaged: not a run folder") from None
    raise UserError(
        f"--compare: {place}: must be a ledger.json, a folder with one, or a finished run folder"
    )


def _manifest(found: Any) -> dict[str, Any]:
    """A manifest, or what a ledger keeps of it, if its entries are what they must be."""
    whole = {"experiment": "", "flags": [], "layout": {}, "status": ""} | found
    if not records.is_manifest(whole):
        raise TypeError
    return found


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        raise DamagedError(f"{path}: damaged: cannot be read") from None


def _by_key(rows: list[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Claims, their controls and other readings, each once."""
    found = {}

    def add(row: dict[str, Any], experiment: str, id: str, arm: str) -> None:
        found[experiment, id, arm] = row
        for beside in ("control", "other_reading"):
            if row.get(beside):
                words = f"{arm}, {beside}" if arm else beside
                add(row[beside], experiment, id, words.replace("_", " "))

    for row in rows:
        add(row, row["experiment"], row["id"], "")
    for row in found.values():
        numbers = [row[name] for name in ("effect", "low", "high")]
        words = [row[name] for name in ("verdict", "sentence")]
        if not all(x is None or isinstance(x, (int, float)) for x in numbers):
            raise TypeError
        if not all(isinstance(x, str) for x in words):
            raise TypeError
    return found


def changes(before: Side, after: Side) -> list[Change]:
    """Claims of both sides whose verdict or effect differs, in order; changed verdicts first."""
    found = [
        Change(key, row, after.claims[key])
        for key, row in before.claims.items()
        if key in after.claims
    ]
    differing = [c for c in found if c.verdict or c.before["effect"] != c.after["effect"]]
    return sorted(differing, key=lambda change: not change.verdict)


def how_made(before: Side, after: Side) -> Iterator[str]:
    """Lines that say what differs in flags, code, data, versions and device."""
    yield f"RUN_A: {before.path}"
    yield f"RUN_B: {after.path}"
    for name in sorted(before.manifests.keys() & after.manifests.keys()):
        a, b = before.manifests[name], after.manifests[name]
        found = [change for change in inputs.changes(a, b) if change != inputs.CONCLUSION]
        flags = set(a.get("flags", ())) ^ set(b.get("flags", ()))
        for flag in sorted({flag.partition("=")[0] for flag in flags}):
            found.append(f"{flag} {_flag(a, flag)} -> {_flag(b, flag)}")
        for field in ("platform", "device", "devices", "strategy"):
            old, new = (side.get("layout", {}).get(field) for side in (a, b))
            if old != new:
                found.append(f"{field} {old} -> {new}")
        yield f"{name}: {'; '.join(found) or 'made alike'}"


def _flag(manifest: dict[str, Any], flag: str) -> str:
    values = [line.partition("=")[2] for line in manifest.get("flags", ())
              if line.partition("=")[0] == flag]  # fmt: skip
    return values[-1] if values else "(not given)"


def table(found: list[Change]):
    """The changes as a rich table."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    rows = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("claim", "RUN_A", "RUN_B", "what differs"):
        rows.add_column(column, overflow="fold")
    for change in found:
        _, id, arm = change.key
        title = Text.assemble((id, "bold"), f" {change.before['sentence']}")
        title.append(f" ({arm})" if arm else "")
        what = ["verdict"] * change.verdict
        if change.before["effect"] != change.after["effect"]:
            what.append("effect, intervals apart" if change.apart else "effect")
        cells = [Text(_reading(side)) for side in (change.before, change.after)]
        rows.add_row(title, *cells, ", ".join(what))
    return rows


def _reading(row: dict[str, Any]) -> str:
    if row["effect"] is None:
        return row["verdict"]
    text = f"{row['verdict']}\n{number(row['effect'])} {row.get('unit') or ''}".rstrip()
    if row.get("kind") == "exact":
        return text
    low = "-∞" if row["low"] is None else number(row["low"])
    high = "∞" if row["high"] is None else number(row["high"])
    return f"{text} [{low}, {high}]"
