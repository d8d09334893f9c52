"""Measures speed and memory: dlstudy against its peers, and its instruments against training.

    bash scripts/benchmark                      all of it, about 6 minutes on two cores
    bash scripts/benchmark --quick              a try, whose numbers say little
    bash scripts/benchmark --only=instruments --networks=one_conv

Each part runs in a process of its own; they take turns, one repeat each, on the same cores, and
ratios are taken between neighbours in time. Every figure stands beside its target; a missed target
is said and changes nothing else. The numbers go to runs/benchmark/<UTC time>/.

Exit status: 0 finished, whatever the figures; 2 bad input; 3 a part failed; 130 interrupted.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from dlstudy import records
from dlstudy.host import available_cpus
from scripts.benchmarks import results
from scripts.benchmarks.workers import EXAMPLES, Task, Worker

SECTIONS = {
    "peers": ("ours", "pytorch", "plain_flax"),
    "rate": ("ours", "matmul"),
    "instruments": (
        "bare", "norms", "taylor", "evaluation", "evaluation_all", "gradient", "curvature",
    ),
    "examples": EXAMPLES,
}  # fmt: skip
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")


def names_from(known):
    """A type for argparse: names out of `known`, separated by commas."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                allowed = ", ".join(known)
                raise argparse.ArgumentTypeError(f"{name!r}: must be one of {allowed}")
        return [name for name in known if name in names]

    return parse


def positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number of at least 1")
    return int(text)


def read_options(arguments) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--only", type=names_from(SECTIONS), default=list(SECTIONS), metavar="SECTION,...",
        help=f"of {', '.join(SECTIONS)}; memory is always measured",
    )  # fmt: skip
    parser.add_argument(
        "--networks", type=names_from(results.NETWORKS), default=list(results.NETWORKS),
        metavar="NETWORK,...", help=f"of {', '.join(results.NETWORKS)}",
    )  # fmt: skip
    parser.add_argument("--repeats", type=positive, help="runs of each part (default: 5)")
    parser.add_argument(
        "--cores", type=positive, default=2,
        help="CPU cores to run on (default: 2, which the targets are for)",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="few images, seeds and repeats")
    parser.add_argument("--no_torch", action="store_true", help="leave PyTorch out")
    parser.add_argument("--runs_dir", default="runs", help="where the results go (default: runs)")
    options = parser.parse_args(arguments)
    if options.cores > available_cpus():
        parser.error(f"--cores={options.cores}: must be at most {available_cpus()}, those here")
    return options


def tasks_of(options, network: str) -> list[list[Task]]:
    """Tasks of each group: parts that take turns."""
    groups = []
    peers = dict.fromkeys(
        part for name in ("peers", "rate") if name in options.only for part in SECTIONS[name]
    )
    if options.no_torch:
        peers.pop("pytorch", None)
    if peers:
        size, seeds = (512, 4) if options.quick else (2048, 8)
        groups.append([Task(part, network, size, seeds) for part in peers])
    if "instruments" in options.only:
        # All 4,000 images: the curvature's 512 are measured against an epoch of the default run.
        size, seeds = (1024, 4) if options.quick else (4000, 4)
        groups.append([Task(part, network, size, seeds) for part in SECTIONS["instruments"]])
    if "examples" in options.only:
        parts = [p for p in EXAMPLES if p != "own_pytorch" or not options.no_torch]
        groups.append([Task(part, network, 64, 1) for part in parts])
    return groups


def keep_to_cores(count: int) -> None:
    """Lets this process and its children use the first `count` of the cores it may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def measure(console, network, tasks, repeats, cores):
    """Runs one group, showing figures as they come.

    Returns:
      (network, workers by part, figures), and notes on the parts that cannot run here.
    """
    workers, notes = {}, []
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(Live(console=console))
        live.update(f"{network}: starting and compiling {len(tasks)} parts")
        started = [stack.enter_context(Worker(task, cores)) for task in tasks]
        for worker in started:
            worker.wait_until_ready()
            if worker.skipped:
                notes.append(f"{results.NAMES[worker.task.part]} left out: {worker.skipped}.")
            else:
                workers[worker.task.part] = worker
        for _ in range(repeats):
            for worker in workers.values():
                time.sleep(0.05)  # threads of the part before may still be going to sleep
                worker.run()
            figures = results.figures_of(network, workers)
            live.update(tables(network, workers, figures))
    console.print()
    return (network, workers, figures), notes


def tables(network, workers, figures):
    """Rich tables of the figures and of the parts they come from."""
    shown = [results.title(network, workers)]
    for heads, rows in (
        (results.FIGURE_HEADS, [figure.cells() for figure in figures]),
        (results.PART_HEADS, results.part_rows(workers)),
    ):
        table = Table()
        for i, head in enumerate(heads):
            table.add_column(head, justify="right" if i else "left", no_wrap=True)
        for row in rows:
            table.add_row(*row, style="bold" if "MISSED" in row else None)
        shown += [table] if rows else []
    return Group(*shown)


def machine(cores: int) -> dict:
    """Where this ran; platform and device are added once a part has started jax."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "cpu": records.cpu_model(),
        "cpu_count": os.cpu_count(),
        "cores": cores,
        "load_before": round(os.getloadavg()[0], 2),
        "versions": versions,
        "commit": records.commit(),
        "started": records.utc_now(),
    }


def save(folder: Path, about: dict, options: dict, notes: list[str], groups: list) -> None:
    """Writes benchmark.json, benchmark.md and the chart, over what is there."""
    found = results.as_json(about, options, notes, groups)
    (folder / "benchmark.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "benchmark.md").write_text(results.as_markdown(about, notes, groups))
    from scripts.benchmarks.charts import chart

    made = chart(groups)
    for kind in ("svg", "png") if made else ():
        made.savefig(folder / f"benchmark.{kind}", dpi=150)


def main(arguments=None) -> int:
    options = read_options(arguments)
    keep_to_cores(options.cores)
    about, notes, groups = machine(options.cores), [], []
    if about["load_before"] > 0.5:
        notes.append(f"The machine was busy: load {about['load_before']} before the start.")
    if options.quick:
        notes.append("A quick try: the figures say little.")
    if options.no_torch:
        notes.append("PyTorch left out: --no_torch.")
    console = Console(width=None if sys.stdout.isatty() else 120)
    for note in notes:
        console.print(note)
    try:
        folder = records.new_path(Path(options.runs_dir) / "benchmark")
        for network in options.networks:
            for tasks in tasks_of(options, network):
                repeats = options.repeats or (2 if options.quick else 5)
                group, more = measure(console, network, tasks, repeats, options.cores)
                groups.append(group)
                notes += [note for note in more if note not in notes]
                for worker in group[1].values():
                    about |= {k: v for k, v in worker.about.items() if k != "startup_seconds"}
                save(folder, about, vars(options), notes, groups)
    except OSError as error:
        print(f"error: --runs_dir={options.runs_dir}: {error}", file=sys.stderr)
        return 3
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    for line in (*results.machine_lines(about), *notes, f"results: {folder}"):
        console.print(line, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
