"""Runs every experiment and writes one report with all verdicts.

    python -m experiments.reproduce --preset=quick

Each experiment runs in a process of its own; what is finished and has the code, flags, data and
versions of now is not run again, and what was cut short goes on where it was. The report is
RUNS_DIR/report/index.html, with ledger.json and ledger.md beside it.

Exit status: 0 everything finished, whatever the verdicts; 2 bad input, nothing written; 3
something is missing, damaged or failed; 130 interrupted.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from dlstudy import records
from dlstudy.checkpoints import write_atomic
from dlstudy.errors import UserError
from dlstudy.host import available_cpus
from experiments import cli, compare, flagging, inputs, ledger
from experiments.console import format_seconds
from experiments.devices import default_devices
from experiments.flagging import ROOT, setting

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
USE = """Use: python -m experiments.reproduce [--preset=quick|default|full] [--NAME=VALUE ...]
     python -m experiments.reproduce --list
     python -m experiments.reproduce --compare RUN_A RUN_B"""


@dataclasses.dataclass(frozen=True)
class Options:
    """What to reproduce."""

    preset: str = setting("default", "which flagfile of every experiment", choices=ledger.PRESETS)
    only: tuple[str, ...] = setting((), "run these experiments alone", choices=ledger.EXPERIMENTS)
    skip: tuple[str, ...] = setting((), "leave these out", choices=ledger.EXPERIMENTS)
    runs_dir: str = setting("runs", "holds <experiment>/<UTC time> and the report")
    jobs: int = setting(
        0,
        "experiments at a time; 0: one, or two with --preset=quick, where compiling, which keeps "
        "one core busy, takes most of the time",
        low=0,
    )
    report_only: bool = setting(False, "write the report from the runs that are there")
    list: bool = setting(False, "name the experiments, their questions and times, and stop")
    compare: bool = setting(
        False, "say which verdicts and effects differ between RUN_A and RUN_B: a ledger.json, a "
        "folder with one, or a run folder"
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line asks for and returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    before = {number: signal.signal(number, _interrupt) for number in STOPPING}
    try:
        if any(argument in flagging.HELP for argument in arguments):
            print("\n\n".join([__doc__.strip(), USE, flagging.describe("Settings", Options)]))
            return 0
        options, places = read_command(arguments)
        if options.list:
            return show_list(options)
        if options.compare:
            return compare.run(*map(Path, places))
        return reproduce(options)
    except UserError as error:
        return _fail(error, 2)
    except (records.DamagedError, OSError) as error:
        return _fail(error, 3)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number, frame):
    raise KeyboardInterrupt


def _fail(error: object, status: int) -> int:
    print("error:", " ".join(str(error).split()), file=sys.stderr, flush=True)
    return status


def read_command(arguments: Sequence[str]) -> tuple[Options, list[str]]:
    """The options, and the two places that --compare names.

    Raises:
        UserError: what is asked for cannot be done.
    """
    arguments = list(arguments)
    places: list[str] = []
    if any(argument.partition("=")[0] == "--compare" for argument in arguments):
        places = [a for a in arguments if not a.startswith("-")]
        arguments = [a for a in arguments if a.startswith("-")]
        if len(places) != 2:
            raise UserError("--compare: needs two places, RUN_A RUN_B; a place is a ledger.json, "
                            "a folder with one, or a run folder")  # fmt: skip
    (options,), given = flagging.parse(arguments, Options)
    for name in ("only", "skip"):
        if given.get(name) == ():
            raise UserError(f"--{name}=: must name an experiment, or be left out")
    if options.only and options.skip:
        raise UserError("--only and --skip: give one of the two")
    if not options.runs_dir:
        raise UserError("--runs_dir=: must name a folder, or be left out")
    if not chosen(options):
        raise UserError("--skip: leaves no experiment")
    return options, places


def chosen(options: Options) -> list[str]:
    """Names of the experiments to run."""
    named = options.only or ledger.EXPERIMENTS
    return [name for name in ledger.EXPERIMENTS if name in named and name not in options.skip]


def jobs_of(options: Options) -> int:
    """How many experiments run at a time."""
    return options.jobs or (min(2, available_cpus()) if options.preset == "quick" else 1)


def predicted(module: ModuleType, flags: Sequence[str]) -> float:
    """Seconds that a preset of an experiment takes on this machine, by its own plan."""
    config, _ = ledger.settings(module, flags)
    seeds = config.num_seeds
    return module.plan(config, seeds, default_devices(available_cpus(), seeds)).seconds


def show_list(options: Options) -> int:
    for name in chosen(options):
        module = ledger.load_module(name)
        print(f"{name}\n  {ledger.question(module)}")
        for preset in ledger.PRESETS:
            seconds = predicted(module, ledger.preset_flags(module, preset))
            print(f"  {preset}: about {_roughly(seconds)}")
    return 0


def _roughly(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{max(2, round(seconds / 60))} min"


# ---------------------------------------------------------------------------- what there is to do


class Task(NamedTuple):
    """One experiment of this call.

    Attributes:
        action: "nothing", "redraw", "go on" or "run".
        why: what has changed since an earlier run; "" if there is none.
        folder: of the run to redraw or go on with.
        seconds: predicted.
    """

    module: ModuleType
    flags: tuple[str, ...]
    action: str
    why: str = ""
    folder: Path | None = None
    seconds: float = 0.0


REDRAWING = 15.0  # seconds


def task_of(module: ModuleType, preset: str, runs_dir: Path) -> Task:
    """What has to be done for an experiment to be up to date."""
    flags = ledger.preset_flags(module, preset)
    whole = predicted(module, flags)
    found = ledger.find_run(module, flags, runs_dir)
    if found is None:
        return Task(module, flags, "run", "", None, whole)
    if found.problem:
        return Task(module, flags, "run", found.problem, None, whole)
    changed = ledger.changes(module, flags, found)
    if [change for change in changed if change != inputs.CONCLUSION]:
        why = f"changed since {found.folder}: {', '.join(changed)}"
        return Task(module, flags, "run", why, None, whole)
    if found.manifest["status"] != "finished":
        left = max(0.0, whole - found.manifest.get("seconds", 0.0))
        return Task(module, flags, "go on", "", found.folder, left)
    try:
        records.load_record(found.folder / "record.nc", found.manifest.get("record_sha256", ""))
    except records.DamagedError as error:  # its checkpoints still hold the numbers
        return Task(module, flags, "go on", str(error), found.folder, REDRAWING)
    if changed or not ledger.is_drawn(found.folder):
        why = f"changed: {inputs.CONCLUSION}" if changed else "verdicts or figures are damaged"
        return Task(module, flags, "redraw", why, found.folder, REDRAWING)
    return Task(module, flags, "nothing", "", found.folder)


def command(task: Task, runs_dir: Path) -> list[str]:
    """The process that carries out a task."""
    where = f"--run_dir={task.folder}" if task.folder else f"--runs_dir={runs_dir}"
    more = ["--redraw"] if task.action == "redraw" else list(task.flags)
    program = [sys.executable, "-P", "-u", "-m", task.module.__spec__.name]
    return [*program, *more, where, "--progress=json"]


# ---------------------------------------------------------------------------- doing it


def reproduce(options: Options) -> int:
    runs_dir = Path(options.runs_dir).expanduser()
    cli.check_writable(runs_dir, "runs_dir")
    if (runs_dir / "report").exists() and not (runs_dir / "report").is_dir():
        raise UserError(f"--runs_dir={runs_dir}: its report must be a folder, and is a file")
    with locked(runs_dir):
        return _reproduce(options, runs_dir)


@contextlib.contextmanager
def locked(runs_dir: Path) -> Iterator[None]:
    """Makes the folder and keeps other calls out of it, as long as this process lives.

    Raises:
        UserError: it cannot be made, or another call is at work there.
    """
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        file = open(runs_dir / ".reproduce.lock", "a")  # noqa: SIM115 - held open below
    except OSError as error:
        raise UserError(f"--runs_dir={runs_dir}: cannot be written: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--runs_dir={runs_dir}: another call of reproduce is at work there; wait for it, "
                "or name another folder"
            ) from None
        yield


def _reproduce(options: Options, runs_dir: Path) -> int:
    names = chosen(options)
    modules = [ledger.load_module(name) for name in names]
    skipped = [ledger.load_module(name) for name in ledger.EXPERIMENTS if name not in names]
    problems: dict[str, str] = {}
    if not options.report_only:
        tasks = [task_of(module, options.preset, runs_dir) for module in modules]
        problems, interrupted = carry_out(tasks, runs_dir, jobs_of(options))
        if interrupted:
            print("interrupted; the same command goes on", file=sys.stderr)
            return 130
    found = ledger.collect(options.preset, runs_dir, modules, skipped, problems)
    place = write_report(found)
    for entry in found.entries:
        if entry.status not in ("finished", "not run"):
            print(f"{entry.name}: {entry.status}: {entry.problem}", file=sys.stderr)
    numbers = [f"{count} {outcome}" for outcome, count in ledger.counts(found).items() if count]
    print(f"claims: {', '.join(numbers) or 'none'}")
    print(f"report: {place}", flush=True)
    return 0 if found.complete else 3


def carry_out(tasks: Sequence[Task], runs_dir: Path, jobs: int) -> tuple[dict[str, str], bool]:
    """Runs what has to be run, so many experiments at a time, in order.

    Returns:
        What went wrong by experiment, and whether the user interrupted.
    """
    waiting = [task for task in tasks if task.action != "nothing"]
    for task in tasks:
        what = {"nothing": "up to date", "run": f"runs, about {_roughly(task.seconds)}",
                "go on": f"goes on in {task.folder}", "redraw": "is drawn again"}  # fmt: skip
        print(f"{task.module.NAME}: {what[task.action]}{f' ({task.why})' if task.why else ''}")
    if not waiting:
        print("nothing has changed: no experiment is run", flush=True)
        return {}, False
    names = {
        task.module.NAME: f"[{i}/{len(waiting)}] {task.module.NAME}"
        for i, task in enumerate(waiting, 1)
    }
    left = {task.module.NAME: task.seconds for task in waiting}
    began: dict[str, float] = {}
    problems: dict[str, str] = {}
    show = console()

    def hear(name: str, row: dict[str, Any]) -> None:
        if "log" not in row:
            if row.get("left") is not None:
                left[name] = row["left"]
            show.row(names[name], row, left[name], max(left[name], sum(left.values()) / jobs))

    def ended(name: str, status: int, last: str) -> None:
        del left[name]
        taken = format_seconds(time.monotonic() - began[name])
        if status:
            problems[name] = last or f"the process ended with status {status}"
            show.say(f"{names[name]}: failed after {taken}: {problems[name]}")
        else:
            show.say(f"{names[name]}: done in {taken}")

    def commands() -> Iterator[tuple[str, list[str]]]:
        for task in waiting:
            began[task.module.NAME] = time.monotonic()
            yield task.module.NAME, command(task, runs_dir)

    try:
        interrupted = run_processes(commands(), jobs, hear, ended)
    finally:
        show.close()
    return problems, interrupted


def run_processes(
    commands: Iterator[tuple[str, list[str]]],
    jobs: int,
    hear: Callable[[str, dict[str, Any]], None],
    ended: Callable[[str, int, str], None],
) -> bool:
    """Runs experiments to their ends, so many at a time.

    A wish to stop (Ctrl-C, SIGTERM, a closed terminal) is passed on to all, and they are waited
    for: they save their states.

    Args:
        commands: name and command of each, taken when there is room for it.
        jobs: how many run at a time, >= 1.
        hear: gets a name and each of its lines, as `console.JsonConsole` writes them.
        ended: gets a name, its exit status and the last other line it wrote; not after a wish to
            stop.

    Returns:
        Whether there was a wish to stop.
    """
    lines: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()  # None: the end
    running: dict[str, subprocess.Popen] = {}
    last: dict[str, str] = {}
    wishes: list[int] = []

    def pass_on(number, frame):
        wishes.append(number)
        for process in list(running.values()):
            process.send_signal(number)

    def start(name: str, command: Sequence[str]) -> None:
        running[name], last[name] = open_process(command), ""
        threading.Thread(target=read, args=(name, running[name].stdout), daemon=True).start()

    def read(name: str, stream: Iterable[str]) -> None:
        for line in stream:
            lines.put((name, line))
        lines.put((name, None))

    before = {number: signal.signal(number, pass_on) for number in STOPPING}
    try:
        while True:
            while len(running) < jobs and not wishes and (following := next(commands, None)):
                start(*following)
                for number in wishes:  # heard before there was anyone to pass it on to
                    running[following[0]].send_signal(number)
            if not running:
                return bool(wishes)
            name, line = lines.get()
            if line is None:
                process = running.pop(name)
                process.stdout.close()
                status = process.wait()
                if not wishes:
                    ended(name, status, last[name].removeprefix("error: "))
            elif (row := _row(line)) is not None:
                hear(name, row)
            else:
                last[name] = line.strip() or last[name]
    finally:
        for process in running.values():  # something failed here: nothing may go on unseen
            process.terminate()
            process.wait()
            process.stdout.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def open_process(command: Sequence[str]) -> subprocess.Popen:
    """Starts an experiment in a session of its own, so that only we pass signals on to it."""
    # An empty entry would be the working directory.
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment, start_new_session=True, text=True, encoding="utf-8", errors="replace",
    )  # fmt: skip


def _row(line: str) -> dict[str, Any] | None:
    """A line of `console.JsonConsole`; None for any other."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


class Lines:
    """Progress as plain lines."""

    def say(self, line: str) -> None:
        print(line, flush=True)

    def row(self, name: str, row: dict[str, Any], left: float, every: float) -> None:
        rest = f"{format_seconds(left)} left"
        if every > left:
            rest += f", {format_seconds(every)} in all"
        self.say(f"{name} {row['stage']}  {row['text']}  {rest}")

    def close(self) -> None:
        pass


class Bar(Lines):
    """Progress as a bar on a terminal."""

    def __init__(self):
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        text = TextColumn(
            "{task.fields[text]}", markup=False, table_column=Column(no_wrap=True, ratio=1)
        )
        self.bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), text,
            TextColumn("{task.fields[left]}"),
            refresh_per_second=2, expand=True,
        )  # fmt: skip
        self.task = self.bar.add_task("starting", total=None, text="", left="")
        self.bar.start()

    def say(self, line: str) -> None:
        self.bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def row(self, name: str, row: dict[str, Any], left: float, every: float) -> None:
        self.bar.update(
            self.task, description=f"{name} {row['stage']}", completed=row["done"],
            total=row["units"], text=row["text"], left=f"{format_seconds(every)} left in all",
        )  # fmt: skip

    def close(self) -> None:
        self.bar.stop()


def console() -> Lines:
    return Bar() if sys.stdout.isatty() else Lines()


# ---------------------------------------------------------------------------- the report


def write_report(found: ledger.Ledger) -> Path:
    """Writes the report and the ledger, unless they are there and would say the same."""
    from experiments import report

    folder = found.runs_dir / "report"
    page = folder / "index.html"
    content = ledger.to_dict(found) | {"report": report_code()}
    # A round trip, as the content is written: tuples become lists.
    content = json.loads(json.dumps(content, allow_nan=False))
    old = _read(folder / "ledger.json")
    if old == {**content, "created": old.get("created"), "files": _digests(folder)}:
        print("nothing has changed: the report is up to date")
        return page
    html, text = report.render(found), ledger.to_markdown(found)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(page, html)
    write_atomic(folder / "ledger.md", text)
    # The ledger comes last: it is what says that the others are whole.
    content["files"] = _digests(folder)
    write_atomic(folder / "ledger.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    return page


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the other files of a report, as far as they are there."""
    found = {}
    for name in ("index.html", "ledger.md"):
        with contextlib.suppress(OSError):
            found[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def report_code() -> str:
    """Says when the report must be written again although no run has changed."""
    from experiments import report

    files = list(_files_of_report(Path(report.__file__)))
    return inputs.digest(p for p in files if p.suffix == ".py") + inputs.digest_of_bytes(
        p for p in files if p.suffix != ".py"
    )


def _files_of_report(home: Path) -> Iterator[Path]:
    yield from inputs.closure(sys.modules["experiments.report"]).values()
    yield from (home.parent / "templates").glob("*")


if __name__ == "__main__":
    raise SystemExit(main())
