"""--num_seeds=auto: seeds in batches until every verdict is decided, through the command line."""

import dataclasses
import json
import math
import re

import jax
import numpy as np
import pytest
import toy_experiment as toy
import xarray

from dlstudy.claims import Claim, judge
from dlstudy.host import Layout, NullHost
from dlstudy.stats import Looks
from experiments import batches, cli, console, relu_regions

AUTO = ("--num_seeds=auto", "--seed_batch=5", "--max_seeds=20", "--epochs=2")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*argv):
    return cli.main(toy, ["--compilation_cache_dir=", *argv])


def record_in(folder):
    return xarray.load_dataset(folder / "record.nc")


def assert_same_numbers(one, other):
    assert list(one.variables) == list(other.variables)
    for name in one.variables:
        assert one[name].dims == other[name].dims
        assert one[name].dtype == other[name].dtype
        assert one[name].attrs == other[name].attrs
        assert one[name].values.tobytes() == other[name].values.tobytes(), name


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run, not to be changed: 10 of 10 seeds decide, 5 of 5 cannot."""
    folder = tmp_path_factory.mktemp("auto") / "run"
    assert run(f"--run_dir={folder}", *AUTO) == 0
    return folder


def undecidable(record):
    """1 and -1 in turn."""
    return np.where(record.seed.values % 2, 1.0, -1.0)


NEVER = Claim("0.2", "It is above", "paired", undecidable, "above", 0.0, "none", "", "0")


# ---------------------------------------------------------------------------- one run


def test_it_stops_when_every_verdict_is_decided(finished):
    log = (finished / "log.txt").read_text()
    assert "5 seeds: 0 of 1 verdicts decided; 1 open: 0.1\n" in log
    assert "10 seeds: 1 of 1 verdicts decided\n" in log
    record = record_in(finished)
    assert record.seed.values.tolist() == list(range(10))
    assert (record.attrs["seed_batch"], record.attrs["seed_cap"]) == (5, 20)
    assert json.loads(record.attrs["config"])["num_seeds"] == 10
    (verdict,) = json.loads((finished / "claims.json").read_text())
    assert (verdict["verdict"], verdict["looks"], verdict["of_looks"]) == ("supported", 2, 4)
    assert verdict["p"] == 4 / 2**10
    assert verdict["p"] <= 0.01
    folders = {path.name for path in (finished / "checkpoints").iterdir()}
    assert folders == {"seeds_0-4", "seeds_5-9"}


def test_its_seeds_are_those_of_a_run_of_as_many(finished, tmp_path):
    assert run("--run_dir=plain", "--num_seeds=10", "--epochs=2") == 0
    plain = record_in(tmp_path / "plain")
    assert_same_numbers(record_in(finished), plain)
    assert "seed_batch" not in plain.attrs


def test_a_batch_alone_has_the_same_numbers(finished):
    config = toy.Config(num_seeds=10, epochs=2)
    layout = json.loads((finished / "manifest.json").read_text())["layout"]
    layout = Layout(layout["devices"], layout["strategy"], layout["seeds_per_program"])
    alone = toy.run(config, toy.load(config), NullHost(layout, only=range(5, 10)))
    there = record_in(finished).isel(seed=slice(5, 10))
    for name in alone.variables:
        assert alone[name].values.tobytes() == there[name].values.tobytes(), name


def test_one_seed_of_it_has_the_same_numbers(finished, tmp_path):
    assert run("--run_dir=one", *AUTO, "--only_seed=7") == 0
    one = record_in(tmp_path / "one")
    assert_same_numbers(one, record_in(finished).sel(seed=[7]))
    assert "seed_batch" not in one.attrs  # it is no look
    assert run("--run_dir=last", *AUTO, "--only_seed=19") == 0


def test_the_cap_is_kept_to(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(toy, "CLAIMS", (*toy.CLAIMS, NEVER))
    assert run("--run_dir=capped", "--num_seeds=auto", "--seed_batch=3", "--max_seeds=10") == 0
    out = capsys.readouterr().out
    assert "6 seeds: 0 of 2 verdicts decided; 2 open: 0.1, 0.2\n" in out
    assert "10 seeds: 1 of 2 verdicts decided; 1 open: 0.2; these are --max_seeds\n" in out
    assert record_in(tmp_path / "capped").sizes["seed"] == 10  # the last batch has one
    folders = {path.name for path in (tmp_path / "capped" / "checkpoints").iterdir()}
    assert folders == {"seeds_0-2", "seeds_3-5", "seeds_6-8", "seeds_9-9"}


def test_what_seeds_cannot_decide_keeps_nothing_going(tmp_path, monkeypatch, capsys):
    broken = dataclasses.replace(NEVER, statistic=lambda record: record["absent"])
    monkeypatch.setattr(toy, "CLAIMS", (broken,))
    assert run("--run_dir=broken", *AUTO) == 0
    assert "5 seeds: there is no verdict that seeds could decide\n" in capsys.readouterr().out
    assert record_in(tmp_path / "broken").sizes["seed"] == 5


def test_the_experiment_is_told_how_many_seeds_there_are(monkeypatch):
    told, original = [], toy.run

    def noted(config, data, host):
        told.append((config.num_seeds, list(host.seeds(config.num_seeds))))
        return original(config, data, host)

    monkeypatch.setattr(toy, "run", noted)
    assert run("--run_dir=a", *AUTO) == run("--run_dir=b", *AUTO, "--only_seed=3") == 0
    assert told == [(5, [0, 1, 2, 3, 4]), (10, [5, 6, 7, 8, 9]), (20, [3])]


def test_the_layout_is_that_of_a_batch(monkeypatch, capsys):
    monkeypatch.setattr(cli, "available_cpus", lambda: 64)
    assert run("--dry_run", "--num_seeds=auto", "--seed_batch=12") == 0
    assert "plain: 12 seeds x 4 epochs on 6 devices\n" in capsys.readouterr().out
    asked = []

    def noted(*arguments):
        asked.append(arguments[3])
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "start_jax", noted)
    assert run(*AUTO) == run(*AUTO, "--only_seed=12") == 130
    assert asked == [5, 5]


def test_a_dry_run_says_the_least_and_the_most(tmp_path, monkeypatch, capsys):
    def plan(config, seeds, devices):
        return cli.Plan([f"{seeds} seeds"], 100.0 * seeds)

    monkeypatch.setattr(toy, "plan", plan)
    assert run("--dry_run", "--num_seeds=auto") == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("between 10 and 80 seeds, in batches of 10,")
    assert rest[:2] == [
        "10 seeds",
        "all 80 seeds together: about 2 h 13 min, as rough a prediction",
    ]
    assert run("--dry_run", "--num_seeds=auto", "--only_seed=70") == 0
    assert capsys.readouterr().out.startswith("1 seeds\nrun folder")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------- again


def test_flags_txt_repeats_the_run(finished, tmp_path, capsys):
    lines = (finished / "flags.txt").read_text().splitlines()
    assert {"--num_seeds=auto", "--seed_batch=5", "--max_seeds=20"} <= set(lines)
    assert run(f"--flagfile={finished}/flags.txt") == 0
    (path,) = (tmp_path / "runs" / "toy").iterdir()
    xarray.testing.assert_identical(record_in(path), record_in(finished))
    assert (path / "claims.json").read_bytes() == (finished / "claims.json").read_bytes()
    assert run(f"--run_dir={path}", f"--flagfile={finished}/flags.txt") == 0
    capsys.readouterr()
    assert run(f"--run_dir={path}", "--num_seeds=10", "--max_seeds=30") == 2
    message = "--num_seeds=auto there, 10 here; --max_seeds=20 there, 30 here"
    assert message in capsys.readouterr().err
    assert run("--num_seeds=3") == 0
    other = next(p for p in (tmp_path / "runs" / "toy").iterdir() if p != path)
    assert "max_seeds" not in (other / "flags.txt").read_text()


def test_redrawing_repeats_the_verdicts(finished, tmp_path, capsys):
    assert run(f"--flagfile={finished}/flags.txt", "--run_dir=here") == 0
    before = (tmp_path / "here" / "claims.json").read_bytes()
    (tmp_path / "here" / "claims.json").unlink()
    assert run("--run_dir=here", "--redraw") == 0
    assert (tmp_path / "here" / "claims.json").read_bytes() == before
    assert judge(toy.CLAIMS, record_in(tmp_path / "here"))[0].looks == 2


@pytest.mark.parametrize("at", [1, 2])
def test_interrupted_in_any_batch_it_goes_on_to_the_same_record(
    finished, tmp_path, monkeypatch, capsys, at
):
    calls, original = [], toy.run

    def interrupted(config, data, host):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return original(config, data, host)

    monkeypatch.setattr(toy, "run", interrupted)
    assert run("--run_dir=stopped", *AUTO) == 130
    capsys.readouterr()
    assert run("--run_dir=stopped") == 0
    trained = re.findall(r"(?m)^\w+ \d/2", capsys.readouterr().out)
    assert len(trained) == 4 * (3 - at)  # stages of finished batches come from their checkpoints
    stopped = tmp_path / "stopped"
    xarray.testing.assert_identical(record_in(stopped), record_in(finished))
    assert (stopped / "claims.json").read_bytes() == (finished / "claims.json").read_bytes()


def test_a_wish_to_stop_is_heard_between_batches(monkeypatch):
    asked = []

    class Host:
        console = console.PlainConsole({})
        log = staticmethod(asked.append)

        def batch(self, seeds):
            return NullHost(only=seeds)

        def should_stop(self):
            return len(asked) == 2

    config = toy.Config(epochs=1)
    with pytest.raises(batches.Interrupted):
        batches.run(toy, config, toy.load(config), Host(), Looks(2, 8))
    assert asked == ["seeds 0 to 1", "2 seeds: 0 of 1 verdicts decided; 1 open: 0.1"]


# ---------------------------------------------------------------------------- parts


def part(seeds, epochs, **attrs):
    """A record with an axis whose length is the batch's own affair."""
    loss = np.add.outer(10.0 * np.asarray(seeds), np.arange(epochs)).astype(np.float32)
    return xarray.Dataset(
        {
            "loss": (("arm", "seed", "epoch"), loss[None], {"units": "nat"}),
            "steps": (("seed",), np.asarray(seeds, np.int32)),
            "shown": (("epoch",), loss[0]),
        },
        coords={"arm": ["main"], "seed": list(seeds), "epoch": np.arange(epochs)},
        attrs=attrs,
    )


def test_records_join_along_their_seeds():
    found = batches.join([part([0, 1], 3, cost="1 s"), part([2], 3, cost="2 s")], Looks(2, 4))
    assert found.attrs == {"cost": "1 s", "seed_batch": 2, "seed_cap": 4}
    assert found["loss"].dims == ("arm", "seed", "epoch")
    assert found["loss"].attrs == {"units": "nat"}
    assert found["loss"].dtype == np.float32
    assert found["loss"].sel(seed=2).values.tolist() == [[20, 21, 22]]
    assert found["steps"].values.tolist() == [0, 1, 2]
    assert found["steps"].dtype == np.int32
    assert found["shown"].values.tolist() == [0, 1, 2]  # the first batch's: it is of its first seed


def test_shorter_axes_are_filled_up():
    found = batches.join([part([0], 2), part([1], 4)], Looks(1, 2))
    expected = [[0, 1, np.nan, np.nan], [10, 11, 12, 13]]
    np.testing.assert_array_equal(found["loss"].values[0], expected)
    np.testing.assert_array_equal(found["shown"], [0, 1, np.nan, np.nan])
    found = batches.join([part([0], 4), part([1], 2)], Looks(1, 2))
    np.testing.assert_array_equal(found["loss"].values[0, 1], [10, 11, np.nan, np.nan])


def test_controls_are_named_when_they_are_open():
    control = dataclasses.replace(NEVER, condition="with decay")
    falls = dataclasses.replace(toy.CLAIMS[0], statistic=lambda record: record["x"])
    here = dataclasses.replace(falls, control=control, condition="without")
    record = xarray.Dataset({"x": ("seed", np.ones(20))}, coords={"seed": range(20)})
    goes_on, line = batches.after_batch(judge([here], record), 20, 80)
    assert goes_on
    assert line == "20 seeds: 1 of 2 verdicts decided; 1 open: 0.2 with decay"


def test_time_left_is_of_the_batch_and_at_most_of_all(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    for make in (console.PlainConsole, console.JsonConsole):
        told = make({"main": 2, "heads": 1})
        for later in (2, 0):
            told.batch(later)
            for name, units in (("main", 2), ("heads", 1)):
                told.stage(name, units)
                for _ in range(units):
                    now += 10
                    told.report({})
                    if told.done == {"main": 1}:
                        assert told.left() == 20
                        assert told.most() == 20 + later * 30
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "main 1/2    20 s left of this batch, at most 1 min 20 s in all"
    assert out[2] == "heads 1/1"
    assert out[3] == "main 1/2    20 s left"
    rows = [json.loads(line) for line in out[6:]]
    assert [row.get("most") for row in rows] == [80, 70, 60, None, None, None]
    assert [row["left"] for row in rows] == [20, 10, 0] * 2
    assert [row["done"] for row in rows] == [1, 2, 3] * 2


def test_nothing_is_said_of_time_before_a_unit_is_done():
    told = console.PlainConsole({"main": 2})
    told.batch(3)
    told.stage("main", 2)
    told.restored(1)
    assert math.isnan(told.most())
    assert told.left_text() == ""


# ---------------------------------------------------------------------------- a real experiment


@pytest.mark.usefixtures("quick_compilation", "without_figures")
def test_regions_of_batches_are_those_of_all_seeds(tmp_path):
    flags = (
        "--compilation_cache_dir=" + jax.config.jax_compilation_cache_dir, "--devices=1",
        "--epochs=6", "--samples=30", "--grid=51", "--widths=4,3", "--block=4",
        "--controls=sizes", "--sizes=2", "--size_epochs=2",
    )  # fmt: skip
    auto = ("--num_seeds=auto", "--seed_batch=2", "--max_seeds=5")
    assert cli.main(relu_regions, [*flags, *auto, "--run_dir=auto"]) == 0
    assert cli.main(relu_regions, [*flags, "--num_seeds=5", "--run_dir=plain"]) == 0
    here, there = record_in(tmp_path / "auto"), record_in(tmp_path / "plain")
    assert_same_numbers(here, there)  # shown_params, of the first seed, among them
