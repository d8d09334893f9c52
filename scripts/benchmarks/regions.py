"""Measures the time and memory of exact activation regions.

    bash scripts/benchmark regions [--repeats=5] [--cases=FOLDER]

Without the folder of shared cases it takes random networks of the same shapes. The cases take
turns, one repeat each; the first call of each, which compiles, is reported apart. Results go to
runs/benchmark/<UTC time>/regions.{md,json}.
"""

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from dlstudy import records, regions

BATCH = 64  # networks of the line batch
# Of a case: what it is, seconds to meet, the same of the best peer (its authors' machine or ours
# is said in the README), how it is solved.
CASES = {
    "1d_256x3_torch_s0": ("line, 256x3, batch of 64, a network", 0.001, "batch"),
    "2d_64x3_torch_s0": ("plane, 64x3", 0.02, "plane"),
    "2d_64x3_he_s0": ("plane, 64x3, He", 0.1, "plane"),
    "2d_256x3_torch_s0": ("plane, 256x3", 2.0, "plane"),
    "slice_784_100x2_torch_s0": ("slice of a 784-100-100-10 MLP", 0.035, "plane"),
    "slice_cnn_c2_c4": ("slice of a CNN, tracing included", 0.1, "cnn"),
}
MEMORY_TARGET = 0.6  # GB, of the 256x3 plane
WIDTHS = (16, 32, 64, 128, 192)  # of the fit of the exponent


def random_case(name: str) -> dict:
    """A network of the case's shape: U(+-1 / sqrt(fan-in)), He with "he"; slices get a plane."""
    rng = np.random.default_rng(0)
    if name == "slice_cnn_c2_c4":
        draw = lambda *shape: rng.uniform(-1, 1, shape) / np.sqrt(np.prod(shape[1:]))  # noqa: E731
        case = {"c1w": draw(2, 1, 3, 3), "c1b": draw(2), "c2w": draw(4, 2, 3, 3), "c2b": draw(4)}
        case |= {"W2": draw(10, 196), "b2": draw(10), "n_hidden": 2}
    else:
        inputs = 1 if name.startswith("1d") else 784 if "slice" in name else 2
        hidden = [100] * 2 if "slice" in name else [int(name.split("_")[1].split("x")[0])] * 3
        sizes = [inputs, *hidden, 10 if "slice" in name else 1]
        case = {"n_hidden": len(hidden)}
        for i, (a, b) in enumerate(pairwise(sizes)):
            he = "_he_" in name
            case[f"W{i}"] = rng.normal(size=(b, a)) * (2 / a) ** 0.5 if he else (
                rng.uniform(-1, 1, (b, a)) / a**0.5)  # fmt: skip
            case[f"b{i}"] = rng.uniform(-1, 1, b) / a**0.5
    case["lo"], case["hi"] = (np.full(1 if name.startswith("1d") else 2, v) for v in (-1.0, 1.0))
    if "slice" in name:
        case["origin"] = rng.uniform(0, 1, 784)
        case["basis"] = np.linalg.qr(rng.normal(size=(784, 2)))[0] * 5
    return case


def load(name: str, folder: Path | None) -> dict:
    if folder is None:
        return random_case(name)
    with np.load(folder / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def convolutional(p, x):
    """The case's CNN, on an image as a vector."""
    import jax

    x = x.reshape(1, 1, 28, 28)
    for i in "12":
        x = jax.lax.conv_general_dilated(
            x, p[f"c{i}w"], (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NCHW", "OIHW", "NCHW")
        )
        x = jax.nn.relu(x + p[f"c{i}b"][None, :, None, None])
    return x.reshape(1, -1) @ p["W2"].T + p["b2"][None]


def problem(name: str, folder: Path | None):
    """(function without arguments that returns the number of regions, how many networks it does)"""
    case = load(name, folder)
    bounds = np.stack([case["lo"], case["hi"]], 1)
    kind = CASES[name][2]
    if kind == "cnn":
        params = {key: case[key] for key in ("c1w", "c1b", "c2w", "c2b", "W2", "b2")}
        origin, basis = case["origin"], case["basis"]
        return lambda: regions.plane(convolutional, params, origin, basis, bounds).n_regions, 1
    layers = range(int(case["n_hidden"]) + 1)
    weights, biases = [case[f"W{i}"] for i in layers], [case[f"b{i}"] for i in layers]
    if kind == "batch":
        # As Flax keeps them.
        kernels = [np.ascontiguousarray(np.stack([w.T] * BATCH)) for w in weights]
        offsets = [np.stack([b] * BATCH) for b in biases]

        def batch():
            return len(regions.regions_on_lines(kernels, offsets, bounds[0])[0].knots) - 1

        return batch, BATCH
    network = regions.mlp(weights, biases)
    if "basis" in case:
        network = regions.on_subspace(network, case["origin"], case["basis"])
    return lambda: regions.regions_of(network, bounds).n_regions, 1


def seconds_of(call) -> tuple[float, int]:
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def measure(names, folder, repeats: int) -> list[dict]:
    """One row a case: seconds a network (median), of the first call, and regions."""
    problems = {name: problem(name, folder) for name in names}
    rows = {}
    for name, (call, _) in problems.items():
        first, count = seconds_of(call)
        rows[name] = {"name": CASES[name][0], "regions": count, "first": first, "all": []}
    for _ in range(repeats):
        for name, (call, networks) in problems.items():
            rows[name]["all"].append(seconds_of(call)[0] / networks)
    for name, row in rows.items():
        row["seconds"], row["target"] = float(np.median(row["all"])), CASES[name][1]
    return list(rows.values())


def exponent() -> tuple[float, list]:
    """Slope of log seconds on log (regions x units), over widths of a three-layer network."""
    found = []
    for width in WIDTHS:
        rng = np.random.default_rng(0)
        sizes = [2, width, width, width, 1]
        weights = [rng.uniform(-1, 1, (b, a)) / a**0.5 for a, b in pairwise(sizes)]
        biases = [rng.uniform(-1, 1, len(w)) / w.shape[1] ** 0.5 for w in weights]
        network = regions.mlp(weights, biases)
        call = lambda network=network: regions.regions_of(network, [[-1, 1]] * 2).n_regions  # noqa: E731
        times = [seconds_of(call) for _ in range(5)]
        found.append((width, times[0][1], min(t for t, _ in times)))
    work = np.log([count * 3 * width for width, count, _ in found])
    slope = np.polyfit(work[1:], np.log([t for *_, t in found])[1:], 1)[0]
    return float(slope), found


def peak(name: str, folder: Path | None) -> tuple[float, float]:
    """GB of memory at the peak of one case in a process of its own, and before the case."""
    code = (
        "import sys; from scripts.benchmarks import regions as r; from pathlib import Path; "
        "import jax; f = Path(sys.argv[2]) if sys.argv[2] else None\n"
        "r.problem('2d_64x3_torch_s0', f)[0]()\n"  # loads what is compiled
        "call = r.problem(sys.argv[1], f)[0]; before = r.high_water(); call()\n"
        "print(r.high_water(), before)"
    )
    argv = [sys.executable, "-c", code, name, str(folder or "")]
    out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    after, before = (float(word) / 1e9 for word in out.split())
    return after, before


def high_water() -> float:
    """Bytes of memory at this process's peak. (A child's ru_maxrss counts its parent's too.)"""
    with contextlib.suppress(OSError):
        text = Path("/proc/self/status").read_text()
        return 1024 * int(text.partition("VmHWM:")[2].split()[0])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def mark(value: float, target: float) -> str:
    return "met" if value <= target else "MISSED"


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark regions", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=5)
    default = Path("../shared/cases/regions")
    parser.add_argument("--cases", type=Path, default=default if default.is_dir() else None)
    parser.add_argument("--runs_dir", default="runs")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats={options.repeats}: must be at least 1")
    console = Console(width=None if sys.stdout.isatty() else 120)
    rows = measure(CASES, options.cases, options.repeats)
    table = Table("case", "regions", "seconds", "target", "", "first call")
    lines = ["| case | regions | seconds | target | | first call |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = (row["name"], f"{row['regions']:,}", f"{row['seconds']:.4f}", f"{row['target']:g}",
                 mark(row["seconds"], row["target"]), f"{row['first']:.2f}")  # fmt: skip
        table.add_row(*cells)
        lines.append(f"| {' | '.join(cells)} |")
    console.print(table)
    slope, sizes = exponent()
    after, before = peak("2d_256x3_torch_s0", options.cases)
    notes = [
        f"Seconds grow as (regions x units)^{slope:.2f} over widths {WIDTHS[1]} to {WIDTHS[-1]} "
        f"(1 or less: {mark(slope, 1.05)}).",
        f"Peak memory of the 256x3 plane: {after:.2f} GB, of which {before:.2f} GB were there "
        f"before it (target {MEMORY_TARGET} GB: {mark(after, MEMORY_TARGET)}).",
        f"{'Shared cases' if options.cases else 'Random networks of the same shapes'}; median of "
        f"{options.repeats}, one thread (lines: one a core), {records.cpu_model()}; seconds "
        "are those of one network.",
    ]
    for note in notes:
        console.print(note, highlight=False)
    folder = records.new_path(Path(options.runs_dir) / "benchmark")
    (folder / "regions.md").write_text("\n".join([*lines, "", *notes]) + "\n")
    found = {"cases": rows, "exponent": slope, "sizes": sizes, "peak_gb": [after, before],
             "commit": records.commit()}  # fmt: skip
    (folder / "regions.json").write_text(json.dumps(found, indent=1) + "\n")
    console.print(f"results: {folder}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
