"""What was measured, as figures with their targets: rows of tables, JSON and Markdown."""

import dataclasses
import statistics

from scripts.benchmarks.counting import training_flops
from scripts.benchmarks.workers import EXAMPLES, PEERS

NETWORKS = {
    "one_conv": ("convolution 3x3x32, dense", (32,), False),
    "two_conv": ("convolution 16, pool, convolution 32, pool, dense", (16, 32), True),
}
NAMES = {
    "ours": "dlstudy",
    "pytorch": "PyTorch eager",
    "plain_flax": "flax nn.Conv under vmap",
    "matmul": "matrix product",
    "bare": "training, bare",
    "norms": "training, norms",
    "taylor": "training, norms, Taylor budget",
    "evaluation": "evaluation of tune and test",
    "evaluation_all": "evaluation of train, tune and test",
    "gradient": "full-batch gradient and tr Sigma",
    "curvature": "g'Hg, largest eigenvalues",
    "mean_gradient": "mean gradient of a batch",
    "own_factored": "per-example gradients, dense ones as factors",
    "own_written": "per-example gradients, written out",
    "own_flax": "vmap(grad) of flax nn.Conv",
    "own_pytorch": "torch.func vmap(grad)",
}


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number with a target, one value per repeat.

    Attributes:
      values: of each repeat.
      target: what it should be; None for no target.
      most: the target is an upper bound; else a lower one.
    """

    section: str
    network: str
    name: str
    values: tuple[float, ...]
    target: float | None = None
    most: bool = True
    unit: str = "x"

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """Whether the median meets the target: nothing is asserted, a miss is only said."""
        if self.target is None:
            return ""
        met = self.median <= self.target if self.most else self.median >= self.target
        return "met" if met else "MISSED"

    def cells(self) -> tuple[str, ...]:
        """The row of a table: name, median, range, target, verdict."""
        bound = "" if self.target is None else f"{'<=' if self.most else '>='} {self.target:.3g}"
        spread = f"{min(self.values):.3f} - {max(self.values):.3f}"
        return self.name, f"{self.median:.3f} {self.unit}", spread, bound, self.verdict


FIGURE_HEADS = ("figure", "median", "range", "target", "")
PART_HEADS = ("part", "s per seed and epoch", "range", "peak memory")


def figures_of(network: str, workers: dict) -> list[Figure]:
    """Figures of one network from its workers by part; those lacking a part are left out.

    Ratios are taken repeat by repeat, between neighbours in time.
    """
    seconds = {part: worker.values("seconds") for part, worker in workers.items()}
    if not seconds or not min(map(len, seconds.values())):
        return []
    found = []

    def add(section, name, values, *target, **more):
        found.append(Figure(section, network, name, tuple(values), *target, **more))

    def ratio(a, b):
        return [x / y for x, y in zip(seconds[a], seconds[b], strict=True)]

    if {"ours", "pytorch"} <= seconds.keys():
        add("peers", "time against PyTorch eager", ratio("ours", "pytorch"), 0.6)
    if {"ours", "plain_flax"} <= seconds.keys():
        add("peers", "time against flax nn.Conv under vmap", ratio("ours", "plain_flax"), 0.08)
    if {"ours", "matmul"} <= seconds.keys():
        _, widths, pool = NETWORKS[network]
        task = workers["ours"].task
        steps = task.images // task.batch
        work = training_flops((28, 28, 1), widths, 10, pool) * steps * task.batch
        rates = workers["matmul"].values("flops_per_second")
        shares = [work / s / rate for s, rate in zip(seconds["ours"], rates, strict=True)]
        add("rate", "share of the matrix-product rate", shares, 1 / 3, most=False)
        add("rate", "matrix-product rate", [r / 1e9 for r in rates], unit="GFLOP/s")
        add("rate", "training", [work / s / 1e9 for s in seconds["ours"]], unit="GFLOP/s")
    if "mean_gradient" in seconds:
        for part in ("own_factored", "own_written"):
            if part in seconds:
                times = ratio(part, "mean_gradient")
                add("examples", f"{NAMES[part]}: of the mean's time", times, 1.5)
        for part in ("own_flax", "own_pytorch"):
            if {part, "own_written"} <= seconds.keys():
                times = ratio("own_written", part)
                add("examples", f"written out, of the time of {NAMES[part]}", times)
    if "bare" in seconds:
        costs = {
            "norms": ("norms of every step: training", 1.05),
            "taylor": ("Taylor budget of every step: training", 2.0),
            "evaluation": ("evaluation of tune and test: adds", 0.25),
            "evaluation_all": ("evaluation of train, tune and test: adds", None),
            "gradient": ("full-batch gradient and tr Sigma: adds", 1.0),
            "curvature": ("curvature on a subset: adds", 1.2),
        }
        for part, (name, target) in costs.items():
            if part in seconds:
                add("instruments", name, ratio(part, "bare"), target)
        whole = ("taylor", "evaluation", "gradient", "curvature")
        if seconds.keys() >= set(whole):
            epochs = [sum(times) for times in zip(*(seconds[p] for p in whole), strict=True)]
            all_on = [t / b for t, b in zip(epochs, seconds["bare"], strict=True)]
            add("instruments", "everything on", all_on)
            minutes = [t * 20 * 25 / 60 for t in epochs]
            name = "main arm, 20 seeds, 25 epochs"
            target = 8.0 if network == "one_conv" else None
            add("instruments", name, minutes, target, unit="min")
    return found


def part_rows(workers: dict) -> list[tuple[str, ...]]:
    """A row of PART_HEADS for each worker that has run."""
    rows = []
    for part, worker in workers.items():
        if not worker.replies:
            continue
        seconds = worker.values("seconds")
        memory = f"{worker.replies[-1]['peak_mib']} MiB"
        if worker.replies[-1]["device_peak_mib"]:
            memory += f", device {worker.replies[-1]['device_peak_mib']} MiB"
        label = NAMES[part]
        if "products" in worker.replies[-1]:
            label += f" ({statistics.median(worker.values('products')):.1f} products)"
        if part in ("matmul", *EXAMPLES):
            label += " (seconds of one)"
        spread = f"{min(seconds):.4f} - {max(seconds):.4f}"
        rows.append((label, f"{statistics.median(seconds):.4f}", spread, memory))
    return rows


def as_json(machine: dict, options: dict, notes: list[str], groups: list) -> dict:
    """Everything measured; `groups` are (network, workers, figures)."""
    return {
        "machine": machine,
        "options": options,
        "notes": notes,
        "parts": [
            {
                **dataclasses.asdict(worker.task),
                **worker.about,
                "repeats": worker.replies,
            }
            for _, workers, _ in groups
            for worker in workers.values()
        ],
        "figures": [
            dataclasses.asdict(figure) | {"median": figure.median, "verdict": figure.verdict}
            for _, _, figures in groups
            for figure in figures
        ],
    }


def as_markdown(machine: dict, notes: list[str], groups: list) -> str:
    """The tables as text, for a README."""
    lines = ["# Benchmark", "", *machine_lines(machine), "", *notes, ""]
    for network, workers, figures in groups:
        lines += [f"## {title(network, workers)}", ""]
        if figures:
            lines += [*_table(FIGURE_HEADS, [figure.cells() for figure in figures]), ""]
        lines += [*_table(PART_HEADS, part_rows(workers)), ""]
    return "\n".join(lines)


def title(network: str, workers: dict) -> str:
    task = next(iter(workers.values())).task
    what = "training" if task.part in PEERS else "instruments"
    if task.part in EXAMPLES:
        return f"{network} ({NETWORKS[network][0]}): gradients of a batch of {task.batch}"
    return f"{network} ({NETWORKS[network][0]}): {what}, {task.images} images, {task.seeds} seeds"


def machine_lines(machine: dict) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return [
        f"{machine['cpu']}, {machine['cores']} of {machine['cpu_count']} cores; "
        f"{machine['devices']} {machine['platform']} device(s) ({machine['device']})",
        versions,
        f"commit {machine['commit'] or 'unknown'}, {machine['started']}",
    ]


def _table(heads, rows) -> list[str]:
    cells = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(row) + " |" for row in cells]
