"""`early_stopping` at toy size: its record against the book's loops, claims, figures, settings."""

import contextlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from running import run_main

from dlstudy.claims import judge
from dlstudy.host import Layout, NullHost
from experiments import cli, early_stopping
from experiments import early_stopping_claims as claims
from experiments import early_stopping_record as records
from experiments.early_stopping_runs import Study, batches

pytestmark = pytest.mark.usefixtures("quick_compilation")
FLAGS = Path(cli.__file__).parent / "flags"
SEEDS, CAP, EVERY = 3, 9, 3
TOY = (
    "--compilation_cache_dir=", "--devices=1", f"--num_seeds={SEEDS}", f"--cap={CAP}",
    f"--every={EVERY}", "--train_size=50", "--widths=6", "--batch_size=8", "--rates=0.05,0.2",
    "--decays=0.01,0.1", "--patiences=3,1,2", "--patience=2", "--continue_cap=4", "--block=4",
)  # fmt: skip
NAMES = ("curves", "algorithms", "arms", "cost", "patience", "peeking", "tuning")


def main(*argv):
    return run_main(early_stopping, *TOY, *argv)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("early_stopping") / "run"
    status, out, err = main(f"--run_dir={folder}")
    assert status == 0, out + err
    return folder, xarray.load_dataset(folder / "record.nc"), out


@pytest.fixture(scope="module")
def record(finished):
    return finished[1]


def test_the_record_has_every_variable_with_unit_and_long_name(record):
    for name in record:
        assert record[name].attrs["units"], name
        assert record[name].attrs["long_name"], name
    assert record["test_error"].dims == ("arm", "seed", "patience")
    assert record["curve_valid_loss"].dims == ("trajectory", "seed", "step")
    assert list(record.arm.values) == list(records.ARMS)
    assert list(record.patience.values) == [1, 2, 3]
    assert record.sizes["step"] == CAP + 1
    for name in records.MEASURED:
        assert np.isfinite(record[name]).all(), name


def test_every_stop_is_that_of_the_books_loop(record):
    assert np.all(claims.misplaced_stops(record) == 0)
    stopped = record["by_patience"] == 1
    assert np.all((record["evaluations"] == CAP) | stopped)
    waited = record["evaluations"] - record["best_step"] // EVERY
    assert np.all(waited.where(stopped, record.patience) == record.patience)


def test_the_best_parameters_are_measured_and_not_the_last(record):
    path = record.sel(trajectory="stopped")
    np.testing.assert_allclose(
        record["watched"], path["curve_valid_loss"].isel(step=slice(1, None)), rtol=1e-6
    )
    for name in records.MEASURED:
        at = record["best_step"].values // EVERY
        expected = np.take_along_axis(path[f"curve_{name}"].values, at, 1)
        found = record[name].sel(arm="stopped").transpose("seed", "patience").values
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_steps_of_the_algorithms(record):
    best = record["best_step"]
    own = record["evaluations"] * EVERY
    further = {arm: record["further_steps"].sel(arm=arm, drop=True) for arm in record.arm.values}
    assert np.all(further["stopped"] == 0)
    assert np.all(further["retrain_steps"] == best)
    # 40 images to train on, 5 batches of 8 a pass; 50 in all, 6 batches a pass.
    exact = best * 6 / 5
    assert np.all(np.abs(further["retrain_epochs"] - exact) <= 0.5)
    for arm in records.ARMS[:1] + records.ARMS[3:]:
        assert np.all(record["steps"].sel(arm=arm) == own + further[arm])
    assert np.all(record["steps"].sel(arm=["decayed", "neither"]) == CAP * EVERY)


def test_continuing_ends_at_its_threshold_or_its_cap(record):
    for start, arm in (("last", "continue_last"), ("best", "continue_best")):
        own = record.sel(start=start, patience=2)
        spent = record["further_steps"].sel(arm=arm, patience=2) // EVERY
        assert np.all(own["reached"] + own["capped"] == 1)
        assert np.all((spent == 4) | (own["reached"] == 1))
        seen = np.isfinite(own["objectives"]).sum("further_step") - 1
        assert np.all(seen == spent)
        last = np.take_along_axis(own["objectives"].values, seen.values[:, None], 1)[:, 0]
        np.testing.assert_array_equal(own["reached"], last <= own["threshold"])
        # The measurement at the end is of the same parameters.
        at_end = record["valid_loss"].sel(arm=arm, patience=2)
        np.testing.assert_allclose(last, at_end, rtol=2e-5)
    # At the best parameters J is that of the sub-training set.
    expected = record["train_loss"].sel(arm="stopped", drop=True)
    np.testing.assert_allclose(
        record["threshold"].sel(start="best").transpose("seed", "patience"),
        expected.transpose("seed", "patience"), rtol=2e-5,
    )  # fmt: skip


# --- a seed's data


@pytest.fixture(scope="module")
def study():
    config = early_stopping.Config(num_seeds=2, train_size=60, batch_size=8, label_noise=0.25)
    return Study(config, early_stopping.load(config), NullHost(Layout()), [0, 5])


def test_the_sets_of_a_seed_are_apart_and_as_wrong_as_asked(study):
    images, tune = study.shared[0]
    for place in range(2):
        draw, task = study.own(place, study.shared)
        places = np.concatenate([draw.mine, draw.others])
        np.testing.assert_array_equal(np.sort(places), np.arange(len(images.y)))  # each once
        assert len(draw.mine) == 60
        assert np.all(np.asarray(draw.mine) < 1437)
        assert (len(task.sub.y), len(task.valid.y), len(task.peek.y)) == (48, 12, 12)
        assert len(task.test.y) == len(task.peek.y) + len(task.fresh.y) == 1437 + 180 - 60
        np.testing.assert_array_equal(task.whole.y, np.concatenate([task.sub.y, task.valid.y]))
        assert (task.whole.y != images.y[draw.mine]).sum() == 15
        assert (task.tune.y != tune.y).sum() == 45
        assert (task.noisy.y != task.test.y).sum() == round(0.25 * 1557)
        np.testing.assert_array_equal(task.test.y, images.y[draw.others])
        assert np.all((task.whole.y >= 0) & (task.whole.y < 10))
    first, second = (study.own(i, study.shared)[0] for i in range(2))
    assert np.any(first.mine != second.mine)


def test_passes_go_through_every_example_once():
    order = jnp.stack([jax.random.permutation(jax.random.key(i), 10) for i in range(4)])
    rows = np.concatenate([batches(order, jnp.int32(i), 4, 3) for i in (0, 4, 8)])
    assert rows.shape == (12, 3)  # 3 batches of 3 a pass, the tenth example is dropped
    for i in range(4):
        np.testing.assert_array_equal(rows[3 * i : 3 * i + 3].ravel(), order[i, :9])


def test_the_tuning_split_chooses_for_each_seed():
    config = early_stopping.Config(rates=(0.1, 0.2), decays=(1.0, 2.0), cap=3, patience=1,
                                   patiences=(1,), num_seeds=2)  # fmt: skip
    curves = {name: np.zeros((2, 3, 2, 4), np.float32) for name in records.MEASURED}
    curves["valid_loss"][:] = [9, 2, 1, 3]
    curves["valid_loss"][1, 0, 1] = [9, 2, 3, 1]
    curves["tune_error"][:] = 0.5
    curves["tune_error"][1, 0, 0, 2] = 0.1  # where 7.1 stops, not at the end
    curves["tune_error"][0, 2, 0, 3] = 0.2
    curves["tune_error"][0, 0, 1, 3] = np.nan
    curves["tune_loss"][:] = 1
    curves["tune_loss"][1, 1, 1, 3] = 0.5  # decides among equal errors
    np.testing.assert_array_equal(records.stops(curves["valid_loss"], config)[1, 0], [2, 1])
    chosen = records.choose(config, curves)
    np.testing.assert_allclose(chosen["stopped"].rate, [0.2, 0.1])
    np.testing.assert_allclose(chosen["neither"].rate, [0.1, 0.2])
    np.testing.assert_allclose(chosen["decayed"].rate, [0.1, 0.2])
    np.testing.assert_allclose(chosen["decayed"].penalty, [2, 1])
    assert np.all(chosen["stopped"].penalty == 0)


# --- the same numbers again


@pytest.mark.usefixtures("without_figures")
def test_a_lone_seed_repeats_its_numbers(record, tmp_path):
    status, out, err = main(f"--run_dir={tmp_path / 'one'}", "--only_seed=2")
    assert status == 0, out + err
    alone = xarray.load_dataset(tmp_path / "one" / "record.nc")
    among = record.sel(seed=[2])
    for name in record.variables:
        assert alone[name].values.tobytes() == among[name].values.tobytes(), name


@pytest.mark.usefixtures("without_figures")
def test_a_resumed_run_repeats_its_numbers(record, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    report = cli.consoles.PlainConsole.report
    calls = []

    def interrupt(self, row):
        calls.append(1)
        report(self, row)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cli.consoles.PlainConsole, "report", interrupt)
        with contextlib.suppress(KeyboardInterrupt):
            main(f"--run_dir={folder}")
    assert not (folder / "record.nc").exists()
    status, out, err = main(f"--run_dir={folder}")
    assert status == 0, out + err
    again = xarray.load_dataset(folder / "record.nc")
    for name in record.variables:
        assert again[name].values.tobytes() == record[name].values.tobytes(), name


@pytest.mark.usefixtures("without_figures")
def test_a_run_that_explodes_is_named_and_ends(tmp_path):
    folder = tmp_path / "run"
    status, out, err = main(f"--run_dir={folder}", "--rates=1e30,2e30")
    assert status == 0, out + err
    found = xarray.load_dataset(folder / "record.nc")
    gone = found["diverged_step"].sel(arm=[*records.TRAJECTORIES, "continue_last"])
    assert np.all(gone >= 0)
    # Nothing improved on the start: there is nothing to retrain for.
    assert np.all(found["diverged_step"].sel(arm=["retrain_steps", "retrain_epochs"]) == -1)
    assert np.all(found["further_steps"].sel(arm="retrain_steps") == 0)
    outcome = json.loads((folder / "claims.json").read_text())
    assert "diverged" in json.dumps(outcome)
    assert np.all(found["best_step"].sel(patience=1) == 0)


# --- claims on a record whose numbers are known


def example(seeds=20):
    """Two patiences, the main one 4; see the numbers in EXPECTED."""
    put = lambda values: np.broadcast_to(  # noqa: E731
        np.asarray(values, np.float32)[:, None, :], (7, seeds, 2)
    ).copy()
    # By arm: patience 1, patience 4.
    rows = {
        "norm": [[3, 5], [4, 4], [10, 10], [5, 5], [5, 5], [5, 5], [5, 5]],
        "train_error": [[0.3, 0.25], [0.25, 0.25], [0, 0], *[[0.2, 0.2]] * 4],
        "noisy_test_error": [[0.4, 0.3], [0.3, 0.3], [0.4, 0.4], *[[0.3, 0.3]] * 4],
        "test_error": [[0.2, 0.1], [0.08, 0.08], [0.18, 0.18], [0.09, 0.09], [0.11, 0.11],
                       [0.15, 0.15], [0.07, 0.07]],
        "further_steps": [[0, 0], [0, 0], [0, 0], [20, 20], [25, 25], [10, 10], [30, 30]],
    }  # fmt: skip
    variables = {name: (("arm", "seed", "patience"), put(values)) for name, values in rows.items()}
    variables["diverged_step"] = (("arm", "seed"), np.full((7, seeds), -1))
    curves = {
        "test_error": [0.9, 0.2, 0.095, 0.1, 0.16], "peek_error": [0.9, 0.2, 0.1, 0.05, 0.15],
        "fresh_error": [0.9, 0.2, 0.1, 0.08, 0.16],
    }  # fmt: skip
    for name, values in curves.items():
        values = np.tile(np.asarray(values, np.float32), (3, seeds, 1))
        variables[f"curve_{name}"] = (("trajectory", "seed", "step"), values)
    watched = np.tile(np.array([3, 4, 2, 5], np.float32), (seeds, 1))
    variables["watched"] = (("seed", "evaluation"), watched)
    each = ("seed", "patience")
    variables["best_step"] = (each, np.tile([10, 30], (seeds, 1)))
    variables["peeked_step"] = (each, np.tile([20, 30], (seeds, 1)))
    capped = np.zeros((2, seeds, 2), int)
    capped[0, :, 1] = 1
    variables["capped"] = (("start", *each), capped)
    coords = {
        "arm": list(records.ARMS), "trajectory": list(records.TRAJECTORIES), "patience": [1, 4],
        "seed": np.arange(seeds), "start": ["last", "best"], "step": 10 * np.arange(5),
    }  # fmt: skip
    return xarray.Dataset(variables, coords, {"main_patience": 4, "every": 10})


EXPECTED = {
    claims.norm_stopped: 0.5,
    claims.norm_decayed: 0.4,
    claims.gap_stopped: 0.4 - 0.05,
    claims.gap_decayed: 0.4 - 0.05,
    claims.gain_stopped: 0.08,
    claims.gain_decayed: 0.1,
    claims.gain_peeked: 0.1,
    claims.regret: 0.005,
    claims.regret_least: 0.105,
    claims.saved: 0.06,
    claims.saved_least: -0.04,
    claims.misplaced_stops: 0,
    claims.retraining_gain: 0.01,
    claims.retraining_gain_epochs: -0.01,
    claims.cost: 0.5,
    claims.cost_from_best: 1.5,
    claims.capped: 1,
    claims.capped_from_best: 0,
    claims.harm: 0.06,
    claims.harm_from_best: -0.02,
}


@pytest.mark.parametrize("statistic", EXPECTED, ids=lambda s: s.__name__)
def test_a_statistic_is_the_number_read_off(statistic):
    found = np.asarray(statistic(example()), float)
    assert found.shape == (20,)
    np.testing.assert_allclose(found, EXPECTED[statistic], rtol=1e-5, atol=1e-7)


def test_verdicts_follow_the_record():
    found = {v.id: v for v in judge(early_stopping.CLAIMS, example())}
    assert found["1.1c"].verdict == "supported"
    assert found["1.3e1"].verdict == "conditional"
    assert found["1.3e3"].verdict == "supported"
    assert found["1.3f"].verdict == "conditional"
    assert "in steps" in found["1.3f"].condition
    assert found["1.3g1"].verdict == "conditional"
    broken = example()
    broken["best_step"] = broken["best_step"] + 10
    found = {v.id: v.verdict for v in judge(early_stopping.CLAIMS, broken)}
    assert found["1.3e3"] == found["1.3e"] == "refuted"


# --- figures, folder, settings


def test_the_folder_holds_pictures(finished):
    folder, _, out = finished
    for name in NAMES:
        assert (folder / "figures" / f"{name}.svg").stat().st_size > 1000
        assert (folder / "figures" / f"{name}.png").stat().st_size > 1000
    assert "1.3g3" in out
    assert json.loads((folder / "claims.json").read_text())


def test_every_claim_names_a_figure_of_its_own():
    singles = [part for claim in early_stopping.CLAIMS for part in claim.parts or (claim,)]
    for claim in singles:
        for one in (claim, claim.control):
            assert one is None or one.figure in NAMES


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--patiences=0,2"], "--patiences=0"),
        (["--patience=0"], "--patience=0"),
        (["--patience=4"], "--patience=4: must be one of --patiences, 3, 1, 2"),
        (["--patiences=2,2"], "must not repeat"),
        (["--patiences="], "must name at least one"),
        (["--validation_share=0"], "--validation_share=0"),
        (["--validation_share=1"], "--validation_share=1"),
        (["--validation_share=0.001"], "must leave a validation set that is not empty"),
        (["--validation_share=0.999"], "must leave images to train on"),
        (["--cap=0"], "--cap=0"),
        (["--continue_cap=0"], "--continue_cap=0"),
        (["--every=0"], "--every=0"),
        (["--decays=-0.1,0.1"], "--decays=-0.1"),
        (["--decays=0"], "--decays=0"),
        (["--decays="], "must name at least one"),
        (["--rates=-1"], "--rates=-1"),
        (["--train_size=1438"], "--train_size=1438: must be at most 1437"),
        (["--batch_size=41"], "--batch_size=41: must be at most 40"),
        (["--label_noise=1"], "--label_noise=1"),
        (["--criterion=accuracy"], "must be one of loss"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(argv, words, tmp_path):
    folder = tmp_path / "run"
    status, _, err = main(f"--run_dir={folder}", *argv)
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not folder.exists()
