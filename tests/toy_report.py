"""A ledger of two made-up experiments, for the tests of the report; a second's work.

The records are drawn at random, but hold what the charts of the real experiments need.
"""

import dataclasses
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import xarray
from PIL import Image, ImageDraw

from dlstudy import claims, records
from dlstudy.claims import Claim, combine
from experiments import ledger, mnist_gradnorm_charts, relu_regions_charts

SEEDS, EPOCHS, STEPS, WIDTHS = 20, 30, 40, (5, 4)
PARAMETERS = 39  # of a network of one input, these widths and one output


def high(record):
    """a value around 2, with a seed that diverged and one without"""
    return record["high"]


def low(record):
    """a value around 0.1"""
    return record["low"]


def low_in_control(record):
    """a value around 0.1, in the control arm"""
    return record["low_in_control"]


def few(record):
    """a value that only five seeds have"""
    return record["low"].where(record.seed < 5)


def identity(record):
    """an exact zero"""
    return np.zeros(3)


def is_one(record):
    """1 where it is"""
    return (record["low"] < 0.11).astype(float)


def failing(record):
    """what no record has"""
    return record["nothing"]


def claim(id, sentence, statistic, direction="above", threshold=1.0, **more):
    more = {"kind": "paired", "reason": "made up", "unit": "", "section": "0"} | more
    return Claim(id=id, sentence=sentence, statistic=statistic, direction=direction,
                 threshold=threshold, **more)  # fmt: skip


CLAIMS = (
    combine("0.1", "All of it holds", (
        claim("0.1a", "It is high", high, figure="curve", oracle="`2`", trap="none"),
        claim("0.1b", "It is low", low, "below", condition="here", arms=("main",), control=claim(
            "0.1b", "It is low", low_in_control, "above", condition="there", arms=("main",))),
    )),
    claim("0.2", "It is high, says the source", low, reading="source", other_reading=claim(
        "0.2", "It is low, says the book", low, "below", 0.5, reading="book")),
    claim("0.3", "Five seeds can tell", few, "below"),
    claim("0.4", "Nothing is nothing", identity, "within", 0.0, kind="exact"),
    claim("0.5", "Most are", is_one, "above", 0.3, kind="proportion"),
    claim("0.6", "It is there", failing),
    claim("0.7", "It lies within", low, "within", 0.0001, unit="units"),
)  # fmt: skip


def experiment(name: str, its_claims, charts=None) -> ModuleType:
    module = ModuleType(f"experiments.{name}", f"Does {name} work?\n\nText.\n\n    a command\n")
    module.NAME, module.CLAIMS = name, its_claims
    if charts:
        module.charts = charts
    return module


def record() -> xarray.Dataset:
    """What the statistics above, and both experiments' charts, are made from."""
    draw = np.random.default_rng(0)
    arms = ["main", "control"]
    values = {
        "high": 2 + 0.1 * draw.standard_normal(SEEDS),
        "low": 0.1 + 0.01 * draw.standard_normal(SEEDS),
        "low_in_control": 0.1 + 0.01 * draw.standard_normal(SEEDS),
    }
    values["high"][4] = np.nan
    variables = {name: ("seed", found) for name, found in values.items()}
    diverged = np.full((SEEDS, 2), -1)
    diverged[3, 1] = 7
    variables["diverged_step"] = (("seed", "arm"), diverged)
    walk = draw.standard_normal((EPOCHS + 1, PARAMETERS)) * 0.1
    walk[0] = draw.standard_normal(PARAMETERS)
    shown = np.stack([np.cumsum(walk, 0)] * 2)
    variables["shown_params"] = (("arm", "epoch", "parameter"), shown)
    variables["epochs_trained"] = (("arm", "seed"), np.full((2, SEEDS), EPOCHS))
    first = -np.exp(draw.standard_normal((2, SEEDS, STEPS)) - np.arange(STEPS) / 10)
    parts = {"first_order": first, "second_order": -0.1 * first, "realised": 0.89 * first}
    variables |= {name: (("arm", "seed", "step"), of) for name, of in parts.items()}
    coords = {"arm": arms, "seed": np.arange(SEEDS), "step": np.arange(1, STEPS + 1)}
    attrs = {"widths": list(WIDTHS), "neurons": sum(WIDTHS), "steps_per_epoch": 8}
    return xarray.Dataset(variables, coords, attrs)


MANIFEST = {
    "experiment": "toy", "flags": ["--num_seeds=20", "--seed=0"], "status": "finished",
    "layout": {"devices": 1, "strategy": "map", "platform": "cpu", "device": "cpu"},
    "data": {"name": "made_up", "checksum": "abc"}, "started": "2026-11-23T16:29:59Z",
    "finished": "2026-11-23T16:50:10Z", "seconds": 121.0, "peak_memory_mib": 100,
    "environment": {"python": "3.11.7", "packages": {"numpy": "2.4.6"}, "commit": "f0e59c3",
                    "platform": "Linux", "cpu": "AMD EPYC", "cpu_count": 2},
}  # fmt: skip


def picture(path: Path, size=(1500, 500)) -> None:
    """A line and the picture's name."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    draw.line([(0, 0), size], fill="#0072B2", width=5)
    draw.text((20, 200), path.stem, fill="black")
    image.save(path)


def run_folder(folder: Path, figures=("curve",), manifest=MANIFEST) -> Path:
    (folder / "figures").mkdir(parents=True)
    records.save_record(folder / "record.nc", record())
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for name in figures:
        picture(folder / "figures" / f"{name}.png")
    titles = {name: {"title": f"The {name} falls", "files": []} for name in figures}
    (folder / "figures" / "figures.json").write_text(json.dumps(titles))
    return folder


def entry(module: ModuleType, folder: Path, **more) -> ledger.Entry:
    """A finished one, unless `more` says otherwise."""
    manifest = json.loads((folder / "manifest.json").read_text())
    found = records.load_record(folder / "record.nc")
    made = ledger.Entry(module.NAME, module, ("--flagfile=toy.txt",), "finished", folder=folder,
                        manifest=manifest, record=found)  # fmt: skip
    made = dataclasses.replace(made, **more)
    return dataclasses.replace(made, verdicts=claims.judge(module.CLAIMS, made.record))


def make(runs: Path) -> ledger.Ledger:
    """One experiment with every kind of claim, one with a claim and the other chart."""
    regions = experiment("toy_regions", CLAIMS, relu_regions_charts.charts)
    other = experiment(
        "toy_steps", (claim("1.1", "It is low there", low, "below", figure="second"),),
        mnist_gradnorm_charts.charts,
    )  # fmt: skip
    entries = (
        entry(regions, run_folder(runs / "toy_regions" / "one")),
        entry(other, run_folder(runs / "toy_steps" / "one", ("second", "third")), stale=("code",)),
    )
    return of(runs, *entries)


def of(runs: Path, *entries: ledger.Entry) -> ledger.Ledger:
    adjusted = iter(claims.adjust(v for e in entries for v in e.verdicts))
    entries = tuple(
        dataclasses.replace(e, verdicts=[next(adjusted) for _ in e.verdicts]) for e in entries
    )
    return ledger.Ledger("quick", "2026-11-23T19:00:00Z", runs, entries)
