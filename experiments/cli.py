"""The command line that every experiment shares.

An experiment module ends with

    if __name__ == "__main__":
        raise SystemExit(cli.main(sys.modules[__name__]))

and has NAME, Config, CLAIMS, load(config), run(config, data, host), figures(record) and
plan(config, seeds, devices), as README.md says. It may have stages(config), the units of each
stage by name (see `console.PlainConsole`), so that the time left is right from the start.

Exit status: 0 finished, whatever the verdicts; 2 bad input, nothing written; 3 something is
missing or damaged, or the disk is full; 130 interrupted.
"""

import contextlib
import dataclasses
import errno
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from dlstudy import records
from dlstudy.errors import UserError
from dlstudy.host import Interrupted, Layout
from dlstudy.stats import Looks
from experiments import batches, flagging, inputs
from experiments import console as consoles
from experiments.batches import seeds_setting
from experiments.conclusion import conclude, prepare
from experiments.devices import (
    available_cpus,
    cache_folder,
    default_devices,
    start_jax,
    use_compilation_cache,
)
from experiments.flagging import setting

__all__ = ["Plan", "main", "seeds_setting", "setting"]


class Plan(NamedTuple):
    """What an experiment would do: its `plan(config, seeds, devices)` returns one."""

    lines: list[str]  # for --dry_run: arms, steps, time and memory
    seconds: float  # predicted for the whole run on this machine, compilation included


@dataclass(frozen=True)
class Options:
    """The flags that every experiment has."""

    run_dir: str = setting(
        "",
        "folder of this run; an unfinished run in it goes on from its last epoch. Default: a "
        "new folder in --runs_dir",
        local=True,
    )
    runs_dir: str = setting(
        "runs", "where new runs get a folder, <experiment>/<UTC time>", local=True
    )
    only_seed: int = setting(-1, "run this one seed, exactly as among the others; -1: all")
    seed_batch: int = setting(
        10, "with --num_seeds=auto, the seeds after which verdicts are looked at again", low=1
    )
    max_seeds: int = setting(80, "with --num_seeds=auto, the most seeds", low=1)
    dry_run: bool = setting(False, "say what would run and how long, and write nothing", local=True)
    redraw: bool = setting(
        False, "figures and verdicts again, from the record in --run_dir; no training", local=True
    )
    devices: int = setting(
        0,
        "devices that share the seeds, on a CPU its cores; 0: as few as are as fast as all",
        low=0,
    )
    strategy: str = setting(
        "auto",
        "seeds of one device one after another (map) or as one batch (vmap); auto: map on "
        "a CPU, vmap elsewhere",
        choices=("auto", "map", "vmap"),
    )
    seeds_per_program: int = setting(0, "with --strategy=vmap, seeds in one batch; 0: all", low=0)
    progress: str = setting(
        "auto",
        "what a run says: a bar, lines, json (one object a line, for programs); auto: a bar on a "
        "terminal",
        choices=("auto", "bar", "lines", "json"),
        local=True,
    )
    allow_layout_change: bool = setting(
        False, "go on with another layout or device than the run was begun with", local=True
    )
    compilation_cache_dir: str = setting(
        cache_folder(), "where compiled programs are kept; empty: nowhere", local=True
    )


LAYOUT = ("devices", "strategy", "seeds_per_program")
SEEDS = ("only_seed", "seed_batch", "max_seeds")


@dataclass(frozen=True)
class Job:
    """What the command line asks for.

    Attributes:
        path: the run folder; None for a new one.
        found: what is at `path`, see `records.state_of`.
        lines: the settings as lines of a flagfile.
        layout: what was given of `LAYOUT`.
        looks: the plan of --num_seeds=auto; None: as many seeds as said.
    """

    module: ModuleType
    config: Any
    options: Options
    path: Path | None
    found: str
    lines: tuple[str, ...]
    layout: dict[str, Any]
    looks: Looks | None

    @property
    def only_seed(self) -> int | None:
        return None if self.options.only_seed < 0 else self.options.only_seed

    @property
    def most_seeds(self) -> int | None:
        """Of the whole run; None: the experiment does not say."""
        return self.looks.cap if self.looks else getattr(self.config, "num_seeds", None)

    @property
    def seeds_together(self) -> int | None:
        """Seeds that run beside each other, also when one is run alone: they set the layout."""
        return self.looks.batch if self.looks else self.most_seeds


def main(module: ModuleType, argv: Sequence[str] | None = None) -> int:
    """Runs an experiment from the command line.

    Args:
        module: the experiment.
        argv: flags without the program's name; default: those of this process.

    Returns:
        The exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if any(argument in flagging.HELP for argument in arguments):
            print(help_text(module))
            return 0
        job = read_command(module, arguments)
        if job.options.redraw:
            return redraw(job)
        return dry_run(job) if job.options.dry_run else train(job)
    except UserError as error:
        return _fail(error, 2)
    except BrokenPipeError:  # nobody reads our output any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 3
    except (records.DamagedError, OSError) as error:
        return _fail(error, 3)
    except KeyboardInterrupt:  # before there was anything to save
        print("interrupted", file=sys.stderr)
        return 130


def _fail(error: object, status: int) -> int:
    print("error:", " ".join(str(error).split()), file=sys.stderr, flush=True)
    return status


def command(module: ModuleType, *arguments: str) -> str:
    """How to start this experiment from a shell."""
    spec = getattr(module, "__spec__", None)
    program = ["-m", spec.name] if spec else [sys.argv[0]]
    return shlex.join([_python(), *program, *arguments])


def _python() -> str:
    """How a shell calls this interpreter: by its path, unless `python` is the same one.

    The folder must be the same too: the Python of a virtual environment is a link to another.
    """
    found = shutil.which("python")
    if not sys.executable or (
        found
        and os.path.realpath(os.path.dirname(found))
        == os.path.realpath(os.path.dirname(sys.executable))
        and os.path.realpath(found) == os.path.realpath(sys.executable)
    ):
        return "python"
    return sys.executable


def help_text(module: ModuleType) -> str:
    folder = Path(__file__).parent / "flags"
    presets = sorted(f"experiments/flags/{p.name}" for p in folder.glob(f"{module.NAME}*.txt"))
    parts = [
        (module.__doc__ or module.NAME).strip(),
        f"Use: {command(module)} [--flagfile=FILE] [--NAME=VALUE ...]",
        "Presets:\n  " + "\n  ".join(presets) if presets else "",
        flagging.describe("Settings of this experiment", module.Config),
        flagging.describe("Settings of every experiment", Options),
    ]
    return "\n\n".join(part for part in parts if part)


# ---------------------------------------------------------------------------- before the run


def read_command(module: ModuleType, arguments: Sequence[str]) -> Job:
    """Makes sense of the command line and of the run folder it names; writes nothing.

    Settings that are not given are those of the run in the folder, or the defaults; settings
    that are given must be those of the run.

    Raises:
        UserError: what is asked for cannot be done.
        records.DamagedError: the folder's manifest cannot be read.
    """
    (config, options), given = flagging.parse(arguments, module.Config, Options)
    for name in ("run_dir", "runs_dir"):
        if given.get(name) == "":
            raise UserError(f"--{name}=: must name a folder, or be left out")
    path = Path(options.run_dir).expanduser() if options.run_dir else None
    found = records.state_of(path) if path else "absent"
    if found == "other":
        raise UserError(f"--run_dir={path}: exists and is not a run folder; name another one")
    if options.redraw and not path:
        raise UserError("--redraw: --run_dir is missing; name the folder of a finished run")
    if options.redraw and found != "run":
        raise UserError(f"--redraw: needs --run_dir=FOLDER of a finished run, not {path}")
    if found == "run":
        config, options = _settings_of_run(module, path, config, options, given)
    looks = batches.looks_of(config, options.seed_batch, options.max_seeds)
    seeds = looks.cap if looks else getattr(config, "num_seeds", None)
    if options.only_seed < -1 or (seeds is not None and options.only_seed >= seeds):
        last = "up" if seeds is None else f"to {seeds - 1}"
        raise UserError(f"--only_seed={options.only_seed}: must be 0 {last}, or -1 for all")
    if hasattr(config, "check"):
        config.check()
    check_writable(path or Path(options.runs_dir), "run_dir" if path else "runs_dir")
    lines = flagging.to_lines(config)
    lines += [f"--{n}={flagging.to_text(given[n])}" for n in LAYOUT if n in given]
    lines += [f"--{name}={getattr(options, name)}" for name in SEEDS[1:] if looks]
    lines += [f"--only_seed={options.only_seed}"] if options.only_seed >= 0 else []
    layout = {n: given[n] for n in LAYOUT if n in given and (n, given[n]) != ("devices", 0)}
    if layout.get("strategy") == "auto":
        del layout["strategy"]
    return Job(module, config, options, path, found, tuple(lines), layout, looks)


def _settings_of_run(module, path, config, options, given):
    """The settings of the run at `path`, after comparing them with those given."""
    manifest = records.read_manifest(path)
    if manifest["experiment"] != module.NAME:
        raise UserError(f"--run_dir={path}: holds a run of {manifest['experiment']}")
    try:
        (old, old_options), _ = flagging.parse(manifest["flags"], module.Config, Options)
    except UserError as error:
        raise records.DamagedError(f"{path}: made by another version: {error}") from None
    about = {f.name: f for cls in (module.Config, Options) for f in flagging.flags_of(cls)}
    of_seeds = {name: getattr(old_options, name) for name in SEEDS}
    there = dataclasses.asdict(old) | of_seeds
    text = lambda name, value: flagging.to_text(value, about[name])  # noqa: E731
    differing = [
        f"--{n}={text(n, there[n])} there, {text(n, value)} here"
        for n, value in given.items()
        if n in there and there[n] != value and not about[n].about["local"]
    ]
    if differing:
        listed = "; ".join(differing)
        raise UserError(f"--run_dir={path}: holds a run with other settings: {listed}")
    local = {
        f.name: getattr(config, f.name)
        for f in flagging.flags_of(module.Config)
        if f.about["local"] and f.name in given
    }
    return dataclasses.replace(old, **local), dataclasses.replace(options, **of_seeds)


def check_writable(path: Path, flag: str) -> None:
    """Raises UserError where a folder cannot be made or written."""
    place = path
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        why = "is not writable" if place.is_dir() else "is not a folder"
        raise UserError(f"--{flag}={path}: {place.absolute()} {why}")


def dry_run(job: Job) -> int:
    # As `start_jax` settles it for a CPU; jax itself is not started for a forecast.
    stored = records.read_manifest(job.path)["layout"] if job.found == "run" else {}
    devices = job.layout.get("devices") or stored.get("devices")
    devices = devices or default_devices(available_cpus(), job.seeds_together)
    if job.looks and job.only_seed is None:
        lines = batches.plan_lines(job.module, job.config, job.looks, devices)
    else:
        seeds = job.most_seeds if job.only_seed is None else 1
        lines = job.module.plan(job.config, seeds, devices).lines
    for line in lines:
        print(line)
    where = job.path or Path(job.options.runs_dir) / job.module.NAME / "<UTC time>"
    print(f"run folder: {where}; nothing was written")
    return 0


# ---------------------------------------------------------------------------- the run


def train(job: Job) -> int:
    """Runs, or goes on with a run, to its end."""
    stop = consoles.StopSignal()
    with stop.caught(), contextlib.ExitStack() as stack:
        folder = stack.enter_context(records.open_folder(job.path)) if job.found == "run" else None
        if folder and folder.manifest["status"] == "finished" and folder.has_record():
            again = command(job.module, f"--run_dir={job.path}", "--redraw")
            print(f"{job.path}: this run is finished; to judge and draw it again: {again}")
            return 0
        layout = _start_jax(job, folder.manifest["layout"] if folder else {})
        data = job.module.load(job.config)
        facts = _facts(job, layout, data)
        folder = folder or stack.enter_context(_new_folder(job))
        notes = _begin(folder, facts)
        stages = job.module.stages(job.config) if hasattr(job.module, "stages") else {}
        console = consoles.make(job.options.progress, stages)
        stack.callback(console.close)
        only = None if job.only_seed is None else range(job.only_seed, job.only_seed + 1)
        host = records.FileHost(folder, console, _layout(layout), only, lambda: stop.requested)
        for note in notes:
            host.log(note)
        return _carry_out(job, data, host, stop)


def _carry_out(job: Job, data: Any, host: records.FileHost, stop: consoles.StopSignal) -> int:
    folder, console = host.folder, host.console
    stop.advice = f"to go on: {command(job.module, f'--run_dir={folder.path}')}"
    before, began = folder.manifest["seconds"], time.monotonic()

    def leave(**changes: Any) -> None:
        seconds = round(before + time.monotonic() - began, 1)
        folder.update(**changes, seconds=seconds, peak_memory_mib=_peak_memory())

    try:
        if not folder.has_record():
            stop.console = console
            prepare()
            record = _run(job, data, host)
            stop.console = None
            folder.save_record(_described(job, record))
        table = conclude(job.module, folder, host)
        leave(status="finished", finished=records.utc_now(), code=_concluded(job, folder))
    except (Interrupted, KeyboardInterrupt):
        stop.console = None
        leave(status="interrupted")
        host.log(f"interrupted; {stop.advice}")
        return 130
    except OSError as error:
        folder.log_error()
        raise records.DamagedError(f"{error}; {stop.advice}") from error
    except BaseException:
        folder.log_error()
        raise
    console.close()
    console.show(table)
    console.log(f"run folder: {folder.path}")
    return 0


def _run(job: Job, data: Any, host: records.FileHost) -> Any:
    """The record. The experiment's own `run` never sees a number of seeds that is left open."""
    if job.looks and job.only_seed is None:
        return batches.run(job.module, job.config, data, host, job.looks)
    config = job.config
    if job.looks:
        config = dataclasses.replace(config, num_seeds=job.looks.cap)
    return job.module.run(config, data, host)


@contextlib.contextmanager
def _new_folder(job: Job) -> Iterator[records.RunFolder]:
    """The folder of a new run, locked and still empty."""
    flag = f"--run_dir={job.path}" if job.path else f"--runs_dir={job.options.runs_dir}"
    with contextlib.ExitStack() as stack:
        try:
            path = job.path or records.new_path(Path(job.options.runs_dir) / job.module.NAME)
            folder = stack.enter_context(records.open_folder(path))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise UserError(f"{flag}: cannot be written: {error.strerror}") from None
        if folder.manifest:
            raise UserError(f"{flag}: another process has just made a run there")
        yield folder


def _start_jax(job: Job, stored: dict[str, Any]) -> dict[str, Any]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    layout = start_jax(job.layout, stored, job.options.allow_layout_change, job.seeds_together)
    use_compilation_cache(job.options.compilation_cache_dir)
    return layout


def _layout(layout: dict[str, Any]) -> Layout:
    return Layout(**{name: layout[name] for name in LAYOUT})


def _facts(job: Job, layout: dict[str, Any], data: Any) -> dict[str, Any]:
    """What the manifest says of a run before it begins."""
    return {
        "experiment": job.module.NAME,
        "flags": list(job.lines),
        "layout": layout,
        "data": facts_of_data(data),
        "code": inputs.code(job.module),
        "environment": records.environment(),
    }


def facts_of_data(data: Any) -> dict[str, Any]:
    """What a manifest says of the data."""
    return {name: getattr(data, name) for name in ("name", "checksum") if hasattr(data, name)}


def _begin(folder: records.RunFolder, facts: dict[str, Any]) -> list[str]:
    """Makes a new run's manifest and flags, or takes up an old one's; returns what to say."""
    old = folder.manifest
    notes = []
    if not old:
        folder.update(**facts, started=records.utc_now(), status="running", seconds=0.0)
        notes.append(f"new run in {folder.path}")
    else:
        if old["data"] != facts["data"]:
            raise UserError(
                f"--run_dir={folder.path}: its data were {old['data']}, now {facts['data']}"
            )
        changes = records.changed_environment(old["environment"], facts["environment"])
        folder.update(status="running", layout=facts["layout"])
        notes.append(f"going on with the run in {folder.path}")
        if changes:
            notes.append(f"changed since it was begun, last bits may differ: {', '.join(changes)}")
        if old["layout"] != facts["layout"]:
            notes.append(f"the layout was {old['layout']}")
    if not (folder.path / "flags.txt").exists():
        folder.write("flags.txt", "".join(f"{line}\n" for line in folder.manifest["flags"]))
    layout = facts["layout"]
    notes.append(
        f"{layout['devices']} device{'s' * (layout['devices'] > 1)} ({layout['device']}), "
        f"strategy {layout['strategy']}, seeds at a time {layout['seeds_per_program'] or 'all'}"
    )
    return notes


def _described(job: Job, record: Any) -> Any:
    """The record with its experiment and configuration in the attributes."""
    local = {flag.name for flag in flagging.flags_of(job.module.Config) if flag.about["local"]}
    config = {k: v for k, v in dataclasses.asdict(job.config).items() if k not in local}
    if job.looks:
        config["num_seeds"] = record.sizes["seed"]
    return record.assign_attrs(
        experiment=job.module.NAME,
        config=json.dumps(config),
        only_seed=job.options.only_seed,
    )


def _concluded(job: Job, folder: records.RunFolder) -> dict[str, str]:
    """The manifest's "code" once verdicts and figures are made: those by the code of now."""
    return {**folder.manifest.get("code", {}), "conclusion": inputs.code(job.module)["conclusion"]}


def _peak_memory() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


def redraw(job: Job) -> int:
    """Verdicts and figures again, from the record."""
    with records.open_folder(job.path) as folder:
        console = consoles.PlainConsole({})
        host = records.FileHost(folder, console, _layout(folder.manifest["layout"]))
        try:
            verdicts = conclude(job.module, folder, host)
        except records.DamagedError as error:
            again = command(job.module, f"--run_dir={job.path}")
            raise records.DamagedError(f"{error}; to make it: {again}") from error
        host.log("verdicts and figures were made again")
        if folder.manifest["status"] != "finished":
            folder.update(status="finished", finished=records.utc_now())
        folder.update(code=_concluded(job, folder))
        console.show(verdicts)
        console.log(f"run folder: {folder.path}")
        return 0
