"""The whole experiment on a toy size, through the command line."""

import contextlib
import dataclasses
import io
import json
import re
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from running import run_main

from dlstudy import data, losses, models, records, sweep, tfds_sets
from dlstudy.claims import judge
from experiments import (
    cli,
    console,
    flagging,
    mnist_gradnorm,
    mnist_gradnorm_plan,
    mnist_gradnorm_runs,
)

FLAGS = Path(cli.__file__).parent / "flags"
SEEDS, EPOCHS, STEPS, BATCH, IMAGES = 3, 2, 8, 16, 128
TOY = (
    "--compilation_cache_dir=", "--devices=1", "--measure_cost=false",
    "--data=digits", f"--train_size={IMAGES}", f"--batch_size={BATCH}", f"--epochs={EPOCHS}",
    f"--num_seeds={SEEDS}", "--widths=4", "--curvature_size=32", "--curvature_products=25",
    "--rates=0.1,1", "--rate_epochs=2", "--control_gradient_every=2",
    "--head_at=0,1", "--head_epochs=1",
)  # fmt: skip
ARMS = ["main", "label_noise", "sgd_0.1", "sgd_1", "capped"]


pytestmark = pytest.mark.usefixtures("quick_compilation")


def main(*argv):
    """Runs the command; returns its exit status and what it printed."""
    return run_main(mnist_gradnorm, *TOY, *argv)


def run_in(folder, *argv):
    """A run to its end: its record and what it printed."""
    status, out, err = main(f"--run_dir={folder}", *argv)
    assert status == 0, out + err
    return xarray.load_dataset(folder / "record.nc"), out


PROGRAMS = []  # that the run below made


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run with every arm, its record and what it printed."""
    folder = tmp_path_factory.mktemp("mnist_gradnorm") / "run"
    over_seeds = sweep.over_seeds

    def noted(*arguments, **settings):
        PROGRAMS.append(over_seeds(*arguments, **settings))
        return PROGRAMS[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "over_seeds", noted)
        return folder, *run_in(folder)


@pytest.fixture(scope="module")
def record(finished):
    return finished[1]


# --- the record

IN_STEPS, IN_EPOCHS, IN_HEADS = ("arm", "seed", "step"), ("arm", "seed", "epoch"), ("seed",)
DIMS = (
    dict.fromkeys(
        ("loss", "grad_norm", "update_norm", "first_order", "second_order", "realised"), IN_STEPS
    )
    | dict.fromkeys(
        [f"{split}_{what}" for split in ("train", "tune", "test") for what in ("loss", "error")]
        + ["churn", "displacement", "distance", "full_grad_norm", "gradient_trace"]
        + ["gradient_curvature"]
        + [
            f"{matrix}sharpness{what}"
            for matrix in ("", "preconditioned_")
            for what in ("", "_residual", "_products")
        ],
        IN_EPOCHS,
    )
    | {
        "layer_grad_norm": (*IN_STEPS, "layer"),
        "full_layer_grad_norm": (*IN_EPOCHS, "layer"),
        "head_test_error": ("seed", "frozen_at"),
        "feature_similarity": ("seed", "frozen_at"),
        "diverged_step": ("seed", "arm"),
    }
)


def test_the_record_has_the_documented_variables_with_dimensions_and_units(record):
    assert {name: record[name].dims for name in record} == DIMS
    for name in record:
        assert record[name].attrs["units"], name
        assert record[name].attrs["long_name"], name
    assert record["loss"].attrs["units"] == "nat"
    coords = {name: record[name].values.tolist() for name in record.coords}
    assert coords == {
        "arm": ARMS,
        "seed": [0, 1, 2],
        "epoch": [0, 1, 2],
        "step": list(range(1, 17)),
        "layer": ["conv_0", "head"],
        "frozen_at": [0, 1, 2],
    }
    expected = {"data": "digits", "train_images": 128, "batch_size": 16, "steps_per_epoch": 8}
    assert {name: record.attrs[name] for name in expected} == expected
    config = json.loads(record.attrs["config"])
    assert (config["rates"], config["widths"]) == ([0.1, 1.0], [4])
    assert set(json.loads(record.attrs["arms"])) == set(ARMS)


@pytest.mark.usefixtures("finished")
def test_programs_are_traced_once():
    """Epochs share them; arms share all but the start and the training, whose optimizers differ."""
    traces = [program.traces for program in PROGRAMS if program.traces]
    # Parameters, distance, evaluation (of the training set too), gradient, curvature, heads; arms.
    assert traces == [1] * (7 + 2 * 4)


def test_what_is_measured_where(record):
    """Values are finite exactly where the settings ask for them."""
    epochs = {  # of each arm, by the instrument
        "train_loss": dict.fromkeys(ARMS, (0, 1, 2)),
        "test_error": dict.fromkeys(ARMS, (0, 1, 2)),
        "churn": dict.fromkeys(ARMS, (1, 2)),
        "displacement": dict.fromkeys(ARMS, (1, 2)),
        "full_grad_norm": {"main": (0, 1, 2), "label_noise": (0, 2)},
        "sharpness": {"main": (0, 1, 2)},
        "preconditioned_sharpness": {"main": (1, 2)},  # Adam has none before its first step
    }
    for name, arms in epochs.items():
        for arm in ARMS:
            seen = np.isfinite(record[name].sel(arm=arm)).all("seed").values
            assert tuple(np.flatnonzero(seen)) == arms.get(arm, ()), (name, arm)
    in_every_arm = {"loss", "grad_norm", "layer_grad_norm", "update_norm"}
    of_the_budget = {"first_order", "second_order"}
    for name in in_every_arm | of_the_budget | {"realised"}:
        for arm in ARMS:
            values = np.isfinite(record[name].sel(arm=arm)).values
            expected = name in in_every_arm or arm == "main"
            expected = expected or (name == "realised" and arm != "label_noise")
            assert np.all(values == expected), (name, arm)
    assert np.all(record["diverged_step"] == -1)


def test_numbers_agree_with_each_other(record):
    main_arm = record.sel(arm="main")
    close = lambda a, b, **how: np.testing.assert_allclose(a, b, **{"rtol": 1e-5} | how)  # noqa: E731
    close(np.square(record["layer_grad_norm"]).sum("layer", skipna=False),
          np.square(record["grad_norm"]))  # fmt: skip
    close(np.square(main_arm["full_layer_grad_norm"]).sum("layer"),
          np.square(main_arm["full_grad_norm"]))  # fmt: skip
    budget = main_arm["first_order"] + main_arm["second_order"]
    close(budget, main_arm["realised"], rtol=0.2, atol=2e-5)
    for arm, rate in (("sgd_0.1", 0.1), ("sgd_1", 1.0)):
        own = record.sel(arm=arm)
        close(own["update_norm"], rate * own["grad_norm"], rtol=1e-4)
    capped = record.sel(arm="capped")
    assert np.all(capped["update_norm"] <= 1.0001 * capped["grad_norm"])
    # All arms start from the same parameters, so the first batches' losses agree too.
    for name in ("test_loss", "tune_error"):
        start = record[name].sel(epoch=0)
        close(start, start.sel(arm=["main"]).values.repeat(len(ARMS), 0), rtol=1e-6)
    first = record["loss"].sel(step=1)
    close(first.sel(arm=["sgd_0.1", "capped"]), first.sel(arm=["main", "main"]).values, rtol=1e-6)
    assert np.any(first.sel(arm="label_noise") != first.sel(arm="main"))
    # One epoch moves as far from the start as from the epoch before.
    close(record["distance"].sel(epoch=1), record["displacement"].sel(epoch=1))
    assert np.all(main_arm["feature_similarity"].sel(frozen_at=2) > 0.9999)
    assert len(np.unique(main_arm["loss"].sel(step=1))) == SEEDS


def test_a_seed_starts_from_its_own_key(record):
    """Initial losses of run 1, from nothing but the law of keys."""
    config = mnist_gradnorm.Config(data="digits", train_size=IMAGES)
    sets = mnist_gradnorm.load(dataclasses.replace(config, curvature_size=0, batch_size=BATCH))
    model = models.CNN((4,), 10)

    @jax.jit
    def start(key):
        params = models.initialise(model, key, jnp.zeros((8, 8, 1)))
        logits, _ = model.apply({"params": params}, sets.test.x)
        trained_on, _ = model.apply({"params": params}, sets.train.x)
        return (
            losses.cross_entropy(logits, sets.test.y),
            losses.error_rate(logits, sets.test.y),
            losses.cross_entropy(trained_on, sets.train.y),
        )

    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 1), 0)
    at_first = record.sel(arm="main", seed=1, epoch=0)
    found = [at_first[name] for name in ("test_loss", "test_error", "train_loss")]
    np.testing.assert_allclose(found, start(key), rtol=1e-5)


def test_the_noisy_arm_moves_other_labels_than_the_flag():
    config = mnist_gradnorm.Config(data="digits", train_size=100, label_noise=0.5)
    clean = data.load("digits", train_size=100).train.y
    flagged = data.load("digits", train_size=100, label_noise=0.5)
    noisy = mnist_gradnorm_runs.noisier(config, flagged).y
    assert np.sum(noisy != flagged.train.y) == 10
    by_flag, by_control = flagged.train.y != clean, noisy != flagged.train.y
    assert np.any(by_control & ~by_flag)
    assert np.any(by_control & by_flag)


# --- the run folder


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_folder_holds_figures_and_verdicts(finished):
    folder, record, out = finished
    figures = {path.stem for path in (folder / "figures").glob("*.svg")}
    assert figures == {path.stem for path in (folder / "figures").glob("*.png")}
    assert len(figures) == 10
    verdicts = json.loads((folder / "claims.json").read_text())
    ids = {claim.id for claim in mnist_gradnorm.CLAIMS}
    assert ids <= set(json.dumps(verdicts).replace('"', " ").split())
    assert all(claim_id in out for claim_id in ids)
    assert str(folder) in out.splitlines()[-1]
    # Three seeds are too few to decide anything.
    judged = judge(mnist_gradnorm.CLAIMS, record)
    assert {v.verdict for v in judged} == {"inconclusive"}
    assert not [v.reason for v in judged if "failed" in v.reason and "residual" not in v.reason]


def test_redraw_makes_the_same_figures_and_verdicts_without_training(finished):
    folder, _, _ = finished
    before = contents(folder)
    shutil.rmtree(folder / "figures")
    (folder / "claims.json").unlink()
    status, out, err = main(f"--run_dir={folder}", "--redraw")
    assert status == 0, err
    after = contents(folder)
    changed = {Path("manifest.json"), Path("log.txt")}
    assert after.keys() == before.keys()
    assert {path for path in before if before[path] != after[path]} <= changed
    assert "main" not in "\n".join(line for line in out.splitlines() if "left" in line)


@pytest.mark.usefixtures("without_figures")
def test_one_seed_alone_repeats_its_numbers_to_the_bit(finished, tmp_path):
    alone, _ = run_in(tmp_path / "one", "--only_seed=1")
    together = finished[1]
    assert alone["seed"].values.tolist() == [1]
    assert set(alone) == set(together)
    for name in together:
        expected = together[name].sel(seed=[1])
        xarray.testing.assert_identical(alone[name].variable, expected.variable)


@pytest.mark.usefixtures("without_figures")
def test_interrupted_and_resumed_it_ends_with_the_same_record(finished, tmp_path, monkeypatch):
    """The main arm alone, stopped by a signal after its first epoch."""
    reports = []
    report = console.PlainConsole.report

    def interrupting(self, row):
        report(self, row)
        reports.append(row)
        if len(reports) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(console.PlainConsole, "report", interrupting)
    folder = tmp_path / "stopped"
    status, out, err = main(f"--run_dir={folder}", "--controls=")
    assert status == 130, out + err
    assert not (folder / "record.nc").exists()
    found, _ = run_in(folder, "--controls=")
    assert len(reports) == EPOCHS + 1
    for name in found:
        variable = found[name].sel(arm=["main"]).variable
        expected = finished[1][name].sel(arm=["main"]).variable
        xarray.testing.assert_identical(variable, expected)
    missing = set(finished[1]) - set(found)
    assert missing == {"head_test_error", "feature_similarity"}


def test_instruments_can_be_off(tmp_path):
    off = [f"--{name}_every=0" for name in ("taylor", "evaluate", "gradient", "curvature")]
    record, _ = run_in(tmp_path / "off", *off, "--controls=", "--epochs=1", "--num_seeds=2")
    measured = {name for name in record if np.isfinite(record[name]).any()}
    assert measured == {
        *("loss", "grad_norm", "layer_grad_norm", "update_norm", "displacement", "distance"),
        "diverged_step",
    }
    assert record.sizes["arm"] == 1
    assert "frozen_at" not in record.dims


# --- figures and verdicts of records with gaps

STEP_ARRAYS = [name for name, dims in DIMS.items() if "step" in dims]
EPOCH_ARRAYS = [name for name, dims in DIMS.items() if "epoch" in dims]


def diverged_at(record, step, seeds, arms=("main",)):
    """As if the parameters of these seeds had been NaN in these arms from `step` on.

    The classes of NaN logits are still compared: errors and churn are finite, and worthless.
    """
    epoch = (step - 1) // STEPS + 1
    lost = record.seed.isin(seeds) & record.arm.isin(arms)
    found = {n: record[n].where(~(lost & (record.step >= step))) for n in STEP_ARRAYS}
    worthless = {"churn": 0.0, "train_error": 0.9, "tune_error": 0.9, "test_error": 0.9}
    for name in EPOCH_ARRAYS:
        gone = ~(lost & (record.epoch >= epoch))
        found[name] = record[name].where(gone, worthless.get(name, np.nan))
    diverged = record["diverged_step"].where(~lost, step).transpose("seed", "arm")
    return record.assign(found | {"diverged_step": diverged})


def without(*names):
    return lambda record: record.drop_vars([n for n in record if n.startswith(names)])


def sparse(record):
    """A Taylor budget only at the first step of every second epoch, curvature at both ends."""
    rare = {
        name: record[name].where((record.step - 1) % (2 * STEPS) == 0)
        for name in ("first_order", "second_order", "realised")
    }
    ends = {
        name: record[name].where(record.epoch != 1)
        for name in EPOCH_ARRAYS
        if "sharpness" in name or name in ("churn", "gradient_curvature", "full_grad_norm")
    }
    return record.assign(rare | ends)


GAPS = {
    "a seed diverged": lambda r: diverged_at(r, 3, [1]),
    "all seeds diverged at once": lambda r: diverged_at(r, 2, [0, 1, 2], ARMS),
    "all seeds diverged later": lambda r: diverged_at(r, 12, [0, 1, 2]),
    "the fixed rates diverged": lambda r: diverged_at(r, 2, [0, 1, 2], ARMS[2:]),
    "one seed": lambda r: r.isel(seed=[1]),
    "one epoch": lambda r: r.isel(epoch=slice(2), step=slice(STEPS)),
    "no controls": lambda r: r.isel(arm=[0]).drop_vars(["head_test_error", "feature_similarity"]),
    "no evaluation": without("tune_", "test_", "churn"),
    "no evaluation, no gradient": without(
        "tune_", "test_", "train_", "churn", "full_", "gradient_t"
    ),
    "no curvature": without("sharpness", "preconditioned", "gradient_curvature"),
    "no preconditioner": without("preconditioned"),
    "no Taylor budget": lambda r: r.assign(
        {n: r[n].where(False) for n in ("first_order", "second_order", "realised")}
    ),
    "rare measurements": sparse,
    "no norms": lambda r: r.drop_vars(["grad_norm", "layer_grad_norm", "update_norm"]),
    "rare norms": lambda r: r.assign(
        {n: r[n].where((r.step - 1) % 3 == 0) for n in STEP_ARRAYS if n.endswith("_norm")}
    ),
}


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # means of nothing are nan, as they should be
def test_figures_and_verdicts_of_a_record_with_gaps(gap, record):
    found = GAPS[gap](record)
    assert len(judge(mnist_gradnorm.CLAIMS, found)) == 32
    names = [name for name, _ in mnist_gradnorm.figures(found)]
    assert ("gradient_norms" in names) == (gap != "no norms")
    assert "error" in names or "evaluation" in gap


def test_a_diverged_run_is_in_no_figure_and_named(record):
    found = diverged_at(record, 3, [1])
    masked = records.without_diverged(found)
    assert masked.attrs["left_out"] == "1 of main"
    for name, values in masked.items():
        if "seed" in values.dims and name != "diverged_step":
            own = values.sel(arm="main", seed=1) if "arm" in values.dims else values.sel(seed=1)
            assert np.isnan(own).all(), name
            assert values.dims == record[name].dims
    np.testing.assert_array_equal(
        masked["test_error"].sel(seed=[0, 2]), record["test_error"].sel(seed=[0, 2])
    )
    error = dict(mnist_gradnorm.figures(found))["error"]
    assert "left out, as diverged: seed 1 of main" in error.get_supxlabel()
    clean = dict(mnist_gradnorm.figures(record))["error"]
    assert "diverged" not in clean.get_supxlabel()


def test_the_headline_counts_diverged_runs_and_leaves_them_out():
    row = {
        "test_error": np.array([0.1, 0.3, 0.9]),
        "train_loss": np.array([1.0, 3.0, np.nan]),
        "diverged": np.array([False, False, True]),
    }
    shown = mnist_gradnorm_runs.headline(row)
    assert shown == {"loss": 2.0, "error": 0.2, "diverged": 1}
    row["diverged"][:] = True
    assert mnist_gradnorm_runs.headline(row) == {"diverged": 3}


def test_heads_are_drawn_without_an_early_one(record):
    found = record.sel(frozen_at=[2])
    assert "heads" in dict(mnist_gradnorm.figures(found))
    verdicts = {v.id: v for v in judge(mnist_gradnorm.CLAIMS, found)}
    assert verdicts["5.3d"].verdict == "inconclusive"


# --- settings


def settings_of(path):
    (config,), _ = flagging.parse([f"--flagfile={path}"], mnist_gradnorm.Config)
    config.check()
    return config


@pytest.mark.parametrize("name", ["mnist_gradnorm", "mnist_gradnorm_quick", "mnist_gradnorm_full"])
def test_presets_train_every_arm(name):
    config = settings_of(FLAGS / f"{name}.txt")
    stages = mnist_gradnorm.stages(config)
    assert list(stages) == ["main", "label_noise", "rates", "capped", "heads"]
    assert stages["main"] == range(config.epochs + 1)


def planned(argv, cores, monkeypatch):
    """Minutes that a dry run predicts on so many cores, and the first line."""
    monkeypatch.setattr(cli, "available_cpus", lambda: cores)
    monkeypatch.setattr(mnist_gradnorm_plan, "available_cpus", lambda: cores)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main(mnist_gradnorm, ["--dry_run", "--epochs=500", *argv]) == 0
    minutes = re.search(r"main .* ([\d.]+) (min|h)\n", out.getvalue())
    return float(minutes[1]) * (60 if minutes[2] == "h" else 1), out.getvalue().splitlines()[0]


def test_a_plan_counts_the_seeds_that_are_really_computed(monkeypatch):
    full, first = planned(["--devices=10"], 64, monkeypatch)
    assert first.endswith("20 seeds on 10 cores")
    assert planned([], 64, monkeypatch) == (full, first)
    one, first = planned(["--only_seed=3"], 64, monkeypatch)
    assert first.endswith("1 seed on 10 cores")
    assert one == full  # a device computes two seeds, even if they are the same
    assert planned(["--only_seed=3"], 2, monkeypatch)[0] == pytest.approx(full, rel=0.05)
    assert planned([], 2, monkeypatch)[0] == pytest.approx(5 * full, rel=0.05)


def test_the_sizes_known_beforehand_are_those_of_the_sets():
    for name in ("mnist_5k", "digits"):
        found, known = data.load(name), mnist_gradnorm_plan.sizes(name)
        splits = (found.train, found.tune, found.test)
        assert tuple(len(split.y) for split in splits) == known[:3]
        assert found.train.x.shape[1:3] == (known.side, known.side)
        assert found.classes == known.classes
    known = mnist_gradnorm_plan.sizes("kmnist")
    whole = tfds_sets._SIZES["train"], tfds_sets._SIZES["test"]
    assert (known.train + known.tune, known.test) == whole


def test_the_default_curvature_subset_is_no_larger_than_the_training_set(monkeypatch):
    config = mnist_gradnorm.Config(data="digits", train_size=100)
    config.check()
    used = []
    monkeypatch.setattr(mnist_gradnorm_runs, "run", lambda config, data, host: used.append(config))
    mnist_gradnorm.run(config, mnist_gradnorm.load(config), None)
    assert [c.curvature_size for c in used] == [100]
    assert config.curvature_images(4000) == 512
    assert dataclasses.replace(config, curvature_size=0).curvature_images(4000) == 4000


def test_stages_follow_the_controls():
    config = mnist_gradnorm.Config(epochs=4, rate_epochs=6, head_at=(0, 3, 4, 9))
    assert config.frozen_at == (0, 3, 4)
    expected = dict.fromkeys(["main", "label_noise", "rates", "capped"], range(5)) | {"heads": 3}
    assert mnist_gradnorm.stages(config) == expected
    bare = dataclasses.replace(config, controls=())
    assert mnist_gradnorm.stages(bare) == {"main": range(5)}
    assert mnist_gradnorm.Config(network="two_conv").channels == (16, 32)
    assert mnist_gradnorm.Config().channels == (32,)
    assert mnist_gradnorm.Config(widths=(7,)).channels == (7,)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batch_size=129"], "--batch_size=129: must be at most 128"),
        (["--curvature_size=129"], "--curvature_size=129: must be at most 128"),
        (["--train_size=2000"], "--train_size=2000: must be at most 1437"),
        (["--train_size=10"], "--batch_size=16: must be at most 10"),
        (["--data=mnist", "--train_size=50001"], "--train_size=50001: must be at most 50000"),
        (["--widths=4,5"], "--widths=4,5: must be 1 number(s) for one_conv"),
        (["--network=two_conv"], "--widths=4: must be 2 number(s) for two_conv"),
        (["--widths=0"], "widths=0: each must be at least 1"),
        (["--rates=0.1,0.1"], "--rates=0.1,0.1: must not repeat"),
        (["--rates=0.1,0.10000001"], "--rates=0.1,0.10000001: must not repeat"),
        (["--rates="], "--rates=: must name at least one rate"),
        (["--rates=0.1,0"], "rates=0.1,0: each must be greater than 0"),
        (["--head_at=1,1"], "--head_at=1,1: must not repeat"),
        (["--controls=rates,rates"], "--controls=rates,rates: must not repeat"),
        (["--controls=dropout"], "controls=dropout: each must be one of label_noise"),
        (["--data=cifar10"], "data=cifar10: must be one of mnist_5k"),
        (["--optimizer=capped"], "optimizer=capped: must be one of adam, sgd, momentum"),
        (["--learning_rate=0"], "learning_rate=0: must be greater than 0"),
        (["--label_noise=1"], "label_noise=1: must be at least 0 and less than 1"),
        (["--epochs=0"], "epochs=0: must be at least 1"),
        (["--num_seeds=-1"], "num_seeds=-1: must be at least 1"),
        (["--only_seed=3"], "--only_seed=3: must be 0 to 2"),
        (["--data=mnist", "--tfds_manual_dir={tmp}/none"], "--tfds_manual_dir="),
    ],
)
def test_bad_input_is_one_line_that_names_the_flag(argv, message, tmp_path):
    argv = [f"--run_dir={tmp_path / 'run'}", *(a.format(tmp=tmp_path) for a in argv)]
    # What needs no data is refused by a dry run too.
    for more in [[], ["--dry_run"]] if "--tfds_manual_dir" not in message else [[]]:
        status, _, err = main(*argv, *more)
        assert status == 2
        (line,) = err.splitlines()
        assert line.startswith("error: ")
        assert message in line
        assert not list(tmp_path.iterdir())
