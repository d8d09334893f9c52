"""The ledger: every claim's verdict, and the run behind it.

`collect` reads run folders; nothing here trains. Verdicts are made again from the records, with
p-values adjusted over all experiments together. A run that is missing or damaged leaves its
claims inconclusive, with the reason; it never stops the others.
"""

import dataclasses
import hashlib
import importlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from dlstudy import claims, records
from dlstudy.claims.wording import number
from dlstudy.errors import UserError
from experiments import cli, flagging, inputs

if TYPE_CHECKING:
    import xarray

# In the order of the problems they are about.
EXPERIMENTS = (
    "weight_decay",
    "sparsity",
    "early_stopping",
    "constraints",
    "ill_posed",
    "minibatch",
    "momentum",
    "saddles",
    "adaptive",
    "initialization",
    "dropout",
    "bagging",
    "batchnorm",
    "distribution_shift",
    "dropout_batchnorm",
    "relu_regions",
    "mnist_gradnorm",
)
PRESETS = ("quick", "default", "full")
OUTCOMES = ("supported", "refuted", "conditional", "inconclusive")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One experiment of a ledger.

    Attributes:
        name: of the experiment.
        module: it.
        flags: of its preset, as a command line has them.
        status: "finished"; "no record", "unfinished" or "damaged": there are no numbers; "failed"
            just now: there are none, or those of an earlier run; "not run": nobody asked for it,
            and the ledger is without its claims.
        problem: what is wrong, one line; "" if nothing is.
        folder: of its run.
        manifest: of that folder; {} where it cannot be read.
        record: its numbers, if there are any.
        verdicts: of its claims in order, parts after their sentence.
        stale: what has changed since the run, see `inputs.changes`.
    """

    name: str
    module: ModuleType
    flags: tuple[str, ...]
    status: str
    problem: str = ""
    folder: Path | None = None
    manifest: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    record: "xarray.Dataset | None" = None
    verdicts: Sequence[claims.Verdict] = ()
    stale: Sequence[str] = ()

    @property
    def question(self) -> str:
        return question(self.module)

    @property
    def command(self) -> str:
        """How a shell repeats the run from the project's folder."""
        return " ".join(["python -m", self.module.__name__, *self.flags])


@dataclasses.dataclass(frozen=True)
class Ledger:
    """All experiments of a preset."""

    preset: str
    created: str  # UTC
    runs_dir: Path
    entries: Sequence[Entry]

    @property
    def complete(self) -> bool:
        """Whether every experiment that was asked for has its numbers."""
        return all(entry.status in ("finished", "not run") for entry in self.entries)


def load_module(name: str) -> ModuleType:
    return importlib.import_module(f"experiments.{name}")


def question(module: ModuleType) -> str:
    """The first line of an experiment's docstring."""
    return (module.__doc__ or module.NAME).strip().splitlines()[0]


def preset_flags(module: ModuleType, preset: str) -> tuple[str, ...]:
    """The command line of a preset: its flagfile, named from the project's folder."""
    ending = "" if preset == "default" else f"_{preset}"
    return (f"--flagfile=experiments/flags/{module.NAME}{ending}.txt",)


def settings(module: ModuleType, flags: Iterable[str]) -> tuple[Any, dict[str, Any]]:
    """The configuration that flags give, and what else of them a result depends on."""
    (config, options), _ = flagging.parse(list(flags), module.Config, cli.Options)
    of_a_run = [f.name for f in flagging.flags_of(cli.Options) if not f.about["local"]]
    return config, {name: getattr(options, name) for name in of_a_run}


# ---------------------------------------------------------------------------- finding runs


@dataclasses.dataclass(frozen=True)
class Found:
    """A run folder of the settings asked for. `problem`: why its manifest cannot be read."""

    folder: Path
    manifest: dict[str, Any]
    problem: str = ""


def find_run(module: ModuleType, flags: Iterable[str], runs_dir: Path) -> Found | None:
    """The newest run with these settings: a finished one if there is any.

    Without any, a folder whose manifest cannot be read, since it may have been one.
    """
    wanted = _without_local(module, *settings(module, flags))
    finished, unfinished, damaged = [], [], []
    home = runs_dir / module.NAME
    try:
        folders = sorted(home.iterdir() if home.is_dir() else (), reverse=True)
    except OSError as error:
        return Found(home, {}, _one_line(error))
    for folder in folders:
        try:
            if records.state_of(folder) != "run":
                continue
            str(folder).encode()  # a name that is no text cannot stand on a page
            manifest = records.read_manifest(folder)
            there = _without_local(module, *settings(module, manifest["flags"]))
        except UserError:
            continue  # made by another version: no run with these settings
        except (records.DamagedError, OSError) as error:
            damaged.append(Found(folder, {}, _one_line(error)))
            continue
        except UnicodeError:
            continue
        if there == wanted and manifest["experiment"] == module.NAME:
            of = finished if manifest["status"] == "finished" else unfinished
            of.append(Found(folder, manifest))
    return next(iter([*finished, *unfinished, *damaged]), None)


def _without_local(module: ModuleType, config: Any, of_a_run: dict[str, Any]) -> dict[str, Any]:
    local = {flag.name for flag in flagging.flags_of(module.Config) if flag.about["local"]}
    values = dataclasses.asdict(config)
    return {name: value for name, value in values.items() if name not in local} | of_a_run


def inputs_now(module: ModuleType, flags: Iterable[str]) -> dict[str, Any]:
    """Code, data and versions that a run would have now, as a manifest has them.

    Raises:
        Exception: whatever loading the data raises.
    """
    config, _ = settings(module, flags)
    return {
        "code": inputs.code(module),
        "data": cli.facts_of_data(module.load(config)),
        "environment": records.environment(),
    }


def changes(module: ModuleType, flags: Iterable[str], found: Found) -> list[str]:
    """What has changed since a run, see `inputs.changes`."""
    try:
        now = inputs_now(module, flags)
    except Exception as error:  # whatever loading the data raises: a run will say it again
        return [f"data (they cannot be loaded now: {_one_line(error)})"]
    return inputs.changes(found.manifest, now)


# ---------------------------------------------------------------------------- the ledger


def collect(
    preset: str,
    runs_dir: Path,
    modules: Sequence[ModuleType],
    skipped: Sequence[ModuleType] = (),
    problems: Mapping[str, str] = {},
) -> Ledger:
    """Reads and judges the runs of a preset.

    Args:
        preset: one of `PRESETS`.
        runs_dir: holds <experiment>/<UTC time> of each run.
        modules: experiments whose runs must be there.
        skipped: experiments that are taken along if their run is there.
        problems: what went wrong just now, by experiment.
    """
    entries = []
    for module in (*modules, *skipped):
        entry = _entry(module, preset, runs_dir, problems.get(module.NAME, ""))
        if module in skipped and entry.status == "no record":
            entry = dataclasses.replace(entry, status="not run", problem="", verdicts=())
        entries.append(entry)
    order = {name: i for i, name in enumerate(EXPERIMENTS)}
    entries.sort(key=lambda entry: order.get(entry.name, len(order)))
    adjusted = iter(claims.adjust(v for entry in entries for v in entry.verdicts))
    entries = [
        dataclasses.replace(entry, verdicts=[next(adjusted) for _ in entry.verdicts])
        for entry in entries
    ]
    return Ledger(preset, records.utc_now(), runs_dir, tuple(entries))


def _entry(module: ModuleType, preset: str, runs_dir: Path, problem: str) -> Entry:
    flags = preset_flags(module, preset)
    entry = Entry(module.NAME, module, flags, "finished")
    found = find_run(module, flags, runs_dir)
    record = None
    if found is None:
        where = runs_dir / module.NAME
        status, why = "no record", f"there is no run of the preset {preset} in {where}"
    elif found.problem:
        status, why = "damaged", found.problem
    elif found.manifest["status"] != "finished":
        status, why = "unfinished", f"{found.folder}: the run is {found.manifest['status']}"
    else:
        try:
            record = records.load_record(
                found.folder / "record.nc", found.manifest.get("record_sha256", "")
            )
            status, why = "finished", ""
        except (records.DamagedError, OSError) as error:
            status, why = "damaged", _one_line(error)
    if problem:  # numbers of an earlier run stay, and are marked as what they are
        status, why = "failed", problem
    stale = changes(module, flags, found) if record is not None else ()
    verdicts = claims.judge(module.CLAIMS, record)
    if record is None:
        verdicts = [_without_record(verdict, why) for verdict in verdicts]
    return dataclasses.replace(
        entry, status=status, problem=why, record=record, verdicts=verdicts, stale=stale,
        folder=found.folder if found else None, manifest=found.manifest if found else {},
    )  # fmt: skip


def _without_record(verdict: claims.Verdict, why: str) -> claims.Verdict:
    return dataclasses.replace(verdict, reason=f"no record: {why}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def sentences(verdicts: Iterable[claims.Verdict]) -> list[claims.Verdict]:
    """The verdicts on whole sentences, without those on their lettered parts."""
    verdicts = list(verdicts)
    whole = [v.id for v in verdicts if v.kind == "compound"]
    return [v for v in verdicts if not any(is_part(v.id, other) for other in whole)]


def is_part(id: str, whole: str) -> bool:
    """Whether 5.2a (of 5.2) or 5.3a1 (of 5.3a) is meant; 5.20 is no part of 5.2."""
    rest = id.removeprefix(whole)
    return bool(rest) and rest != id and rest[0].isdigit() != whole[-1].isdigit()


def counts(ledger: Ledger) -> dict[str, int]:
    """How many sentences have each verdict."""
    found = Counter(v.verdict for entry in ledger.entries for v in sentences(entry.verdicts))
    return {outcome: found[outcome] for outcome in OUTCOMES}


# ---------------------------------------------------------------------------- files


def to_dict(ledger: Ledger) -> dict[str, Any]:
    """The ledger for machines; what is infinite or undefined is None."""
    report = ledger.runs_dir / "report"
    return {
        "schema": 1,
        "preset": ledger.preset,
        "created": ledger.created,
        "complete": ledger.complete,
        "counts": counts(ledger),
        "experiments": [_entry_dict(entry, report) for entry in ledger.entries],
        "claims": [
            {"experiment": entry.name, **row}
            for entry in ledger.entries
            for row in json.loads(claims.to_json(entry.verdicts))
        ],
    }


def _entry_dict(entry: Entry, report: Path) -> dict[str, Any]:
    kept = ("flags", "layout", "data", "code", "environment", "record_sha256", "started",
            "finished", "seconds", "peak_memory_mib")  # fmt: skip
    seeds = entry.record.sizes.get("seed") if entry.record is not None else None
    return {
        "name": entry.name,
        "question": entry.question,
        "status": entry.status,
        "problem": entry.problem,
        "stale": list(entry.stale),
        "command": entry.command,
        "run_dir": os.path.relpath(entry.folder, report) if entry.folder else None,
        "figures": digest_of_figures(entry.folder),
        "seeds": seeds,
        "manifest": {name: entry.manifest[name] for name in kept if name in entry.manifest},
    }


def digest_of_figures(folder: Path | None) -> str:
    """SHA-256 of the pictures in a run folder; "" where they cannot be read."""
    total = hashlib.sha256()
    try:
        for path in sorted((folder / "figures").iterdir()) if folder else ():
            total.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    except (OSError, UnicodeError):
        return ""
    return total.hexdigest()


def is_drawn(folder: Path) -> bool:
    """Whether the verdicts and all figures of a run folder are there and can be read."""
    from PIL import Image

    try:
        json.loads((folder / "claims.json").read_text("utf-8"))
        names = json.loads((folder / "figures" / "figures.json").read_text("utf-8"))
        for about in names.values():
            for file in about["files"]:
                path = folder / "figures" / file
                if path.suffix == ".svg":
                    ElementTree.parse(path)
                else:
                    with Image.open(path) as picture:
                        picture.verify()
    except Exception:  # whatever a damaged file makes its reader raise
        return False
    return True


def to_markdown(ledger: Ledger) -> str:
    """The ledger for people without a browser."""
    numbers = ", ".join(f"{count} {outcome}" for outcome, count in counts(ledger).items() if count)
    lines = [
        "# Ledger of dlstudy",
        "",
        f"Preset {ledger.preset}, {ledger.created}. Sentences: {numbers or 'none'}.",
    ]
    for entry in ledger.entries:
        lines += ["", f"## {_cell(entry.name)}: {_cell(entry.question)}", ""]
        if entry.problem or entry.status != "finished":
            lines += [f"{entry.status}: {_cell(entry.problem)}".removesuffix(": "), ""]
        if entry.stale:
            lines += [f"changed since the run: {_cell('; '.join(entry.stale))}", ""]
        lines += [f"`{entry.command}`", ""]
        if entry.verdicts:
            lines += [
                "| claim | claimed | effect [interval] | seeds | p (Holm) | verdict |",
                "|---|---|---|---|---|---|",
                *map(_row, entry.verdicts),
            ]
    return "\n".join(lines) + "\n"


def _row(verdict: claims.Verdict) -> str:
    mark = "**" if verdict.kind == "compound" else ""
    cells = [f"{mark}{verdict.id} {_cell(verdict.sentence)}{mark}", "", "", "", ""]
    if verdict.kind != "compound":
        cells[1] = _cell(claimed(verdict))
    if verdict.effect is not None:
        cells[2] = f"{number(verdict.effect)} {_cell(verdict.unit)}".rstrip()
        if verdict.low is not None:
            cells[2] += f" [{number(verdict.low)}, {number(verdict.high)}]"
    if verdict.n:
        cells[3] = f"{verdict.beyond} of {verdict.n}"
    _, p = verdict.p_decided
    cells[4] = "" if p is None else f"{p:.2g}"
    why = f": {_cell(verdict.condition or verdict.reason)}"
    outcome = verdict.verdict + why * (verdict.verdict in ("inconclusive", "conditional"))
    return f"| {' | '.join([*cells, outcome])} |"


def claimed(verdict: claims.Verdict) -> str:
    """What the claim asks of its statistic: "< 0.1", "within ± 1 octaves"."""
    signs = {"above": ">", "below": "<", "within": "within ±"}
    if verdict.kind == "exact":
        signs |= {"above": "≥", "below": "≤"}
    return f"{signs[verdict.direction]} {number(verdict.threshold)} {verdict.unit}".rstrip()


def _cell(text: str) -> str:
    """Text that cannot break a Markdown table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
