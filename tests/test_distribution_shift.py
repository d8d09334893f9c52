"""`distribution_shift` at toy size: its tests by hand, statistics, claims, figures, settings."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from running import run_main

from dlstudy import corruptions, models, normalization
from dlstudy.claims import judge
from dlstudy.host import Layout, NullHost
from experiments import distribution_shift, flagging
from experiments import distribution_shift_claims as claims
from experiments import distribution_shift_record as records
from experiments import distribution_shift_runs as runs

pytestmark = pytest.mark.usefixtures("quick_compilation")
TOY = (
    "--compilation_cache_dir=", "--devices=1", "--num_seeds=2", "--data=digits", "--widths=6",
    "--train_size=80", "--batch_size=20", "--epochs=2", "--rates=0.1,0.5", "--test_batch=40",
    "--recalibration=100", "--corruptions=contrast,noise",
)  # fmt: skip


def main(*argv):
    return run_main(distribution_shift, *TOY, *argv)


def toy_config():
    (config,), _ = flagging.parse(TOY[2:], distribution_shift.Config)
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distribution_shift") / "run"
    status, out, err = main(f"--run_dir={folder}")
    assert status == 0, out + err
    return folder, xarray.load_dataset(folder / "record.nc"), out


@pytest.fixture(scope="module")
def record(finished):
    return finished[1]


def test_the_record_has_every_variable_with_unit_and_long_name(record):
    assert record.arm.values.tolist() == [*records.MODES, "none"]
    assert record["error"].dims == ("arm", "pick", "corruption", "severity", "seed")
    assert record["error"].sizes["severity"] == 6
    assert record["diverged_step"].dims == ("arm", "seed")
    assert (record["diverged_step"] == -1).all()
    for name in record.data_vars:
        assert record[name].attrs["units"], name
        assert record[name].attrs["long_name"], name
    # Without corruption its kind does not matter.
    clean = record["error"].sel(severity=0)
    np.testing.assert_array_equal(clean.isel(corruption=0), clean.isel(corruption=1))
    assert (record["shift"].isel(severity=5) > record["shift"].isel(severity=0)).any()
    tuned = record["tune_error"].transpose("seed", "network", "rate", "epoch").values
    for seed, network in np.ndindex(2, 2):
        chosen = int(record["chosen"].isel(seed=seed, network=network, pick=0))
        assert tuned[seed, network].ravel()[chosen] == tuned[seed, network].min()


def test_all_figures_are_drawn_and_every_claim_is_judged(finished):
    folder, record, out = finished
    drawn = {path.stem for path in (folder / "figures").glob("*.png")}
    assert drawn == {"error_by_severity", "degradation", "gains", "mean_shift"}
    found = judge(distribution_shift.CLAIMS, record)
    for verdict in found:
        assert verdict.kind == "compound" or (verdict.n == 2 and verdict.figure in drawn), verdict
        assert verdict.id in out


def test_a_seed_alone_is_the_same_seed_among_others(record):
    config = toy_config()
    data = distribution_shift.load(config)
    alone = distribution_shift.run(config, data, NullHost(Layout(), range(1, 2)))
    xarray.testing.assert_equal(alone.drop_attrs(), record.sel(seed=[1]).drop_attrs())


def test_errors_by_each_kind_of_statistics_by_hand():
    config = toy_config()
    data = distribution_shift.load(config)
    study = runs.Study(config, data, NullHost(Layout(), range(1)))
    rng = np.random.default_rng(0)
    x, more = rng.uniform(0, 1, (80, 64)).astype("f4"), rng.uniform(0, 0.5, (50, 64)).astype("f4")
    labels = rng.integers(0, 10, 80)
    model = study.models["bn"]

    @jax.jit
    def found(x, labels, more):
        params = models.initialise(model, jax.random.key(0), x[0])
        running = {"bn_0": normalization.Statistics(jnp.full(6, 0.1), jnp.full(6, 2.0))}
        return params, study.with_normalisation((params, running), x, labels, more)

    params, found = jax.device_get(found(x, labels, more))
    kernel, head = params["hidden_0"]["kernel"], params["head"]["kernel"]

    def error(rows, mean, variance):
        y = (x[rows] @ kernel - mean) / np.sqrt(variance + model.epsilon)
        return ((np.maximum(y, 0) @ head).argmax(1) != labels[rows]).mean()

    everything = np.arange(80)
    z, other = x @ kernel, more @ kernel
    assert found["error_running"] == pytest.approx(error(everything, 0.1, 2.0))
    assert found["error_recalibrated"] == pytest.approx(
        error(everything, other.mean(0), other.var(0))
    )
    for name, order in (("batch", everything), ("ordered", np.argsort(labels, kind="stable"))):
        parts = [error(r, z[r].mean(0), z[r].var(0)) for r in order.reshape(2, 40)]
        assert found[f"error_{name}"] == pytest.approx(np.mean(parts))
    distance = (other.mean(0) - 0.1) / np.sqrt(2 + model.epsilon)
    assert found["shift"] == pytest.approx(np.sqrt((distance**2).mean()), rel=1e-4)
    assert found["spread"] == pytest.approx(other.var(0).sum() / 12, rel=1e-4)


@pytest.mark.parametrize(
    ("bn", "none", "expected"),
    [
        ([0.3, 0.08, 0.12], [0.4, 0.11, np.nan], (2, 1)),  # the worse one is at its best
        ([0.3, 0.2, 0.25], [0.19, 0.1, 0.15], (1, 0)),
        ([np.nan, 0.2, 0.3], [0.2, 0.2, 0.4], (1, 0)),
    ],
)
def test_networks_are_matched_at_the_best_error_that_both_reach(bn, none, expected):
    found = runs.matched({"bn": jnp.float32(bn), "none": jnp.float32(none)})
    assert (int(found["bn"]), int(found["none"])) == expected


# --- claims on a record whose numbers are known


def example(seeds=20):
    """Two kinds of corruption, two severities; see the numbers in EXPECTED."""
    error = np.zeros((5, 2, 2, 3, seeds))
    for arm, clean, first, second in (
        ("running", 0.04, 0.2, 0.4), ("batch", 0.05, 0.1, 0.46), ("recalibrated", 0.04, 0.09, 0.4),
        ("ordered", 0.8, 0.85, 0.85), ("none", 0.06, 0.1, 0.3),
    ):  # fmt: skip
        at = [*records.MODES, "none"].index(arm)
        error[at, ..., 0, :] = clean
        error[at, :, 0, 1:], error[at, :, 1, 1:] = first, second
    error[:4, 1] += 0.02  # matched: every error a little higher
    shift = np.zeros((2, 2, 3, seeds))
    shift[..., 0, :], shift[..., 1:, :] = 0.1, 0.5
    dims = ("pick", "corruption", "severity", "seed")
    coords = {
        "arm": [*records.MODES, "none"], "pick": list(records.PICKS), "severity": [0, 1, 2],
        "corruption": ["blur", "rotation"], "seed": np.arange(seeds),
    }  # fmt: skip
    return xarray.Dataset({"error": (("arm", *dims), error), "shift": (dims, shift)}, coords)


EXPECTED = {
    claims.degrades: 0.26,  # 0.3 on average, less 0.04
    claims.degrades_more: 0.26 - 0.14,
    claims.degrades_more_at_best: 0.26 - 0.14,
    claims.mean_shift: 0.4,
    claims.batch_gain: 0.3 - 0.28,
    claims.ordered_gain: 0.3 - 0.85,
    claims.least_gain: 0.4 - 0.46,
    claims.batch_loss: 0.01,
    claims.ordered_loss: 0.76,
    claims.recalibrated_gain: 0.3 - 0.245,
    claims.recalibrated_cost: 0.245 - 0.28,
    claims.batch_robust: 0.14 - (0.30 - 0.06),
}


@pytest.mark.parametrize("statistic", EXPECTED, ids=lambda s: s.__name__)
def test_a_statistic_is_the_number_read_off(statistic):
    found = np.asarray(statistic(example()), float)
    assert found.shape == (20,)
    np.testing.assert_allclose(found, EXPECTED[statistic], rtol=1e-9, atol=1e-12)


def test_verdicts_follow_the_record():
    found = {v.id: v.verdict for v in judge(distribution_shift.CLAIMS, example())}
    assert found["3.4b"] == found["3.4g"] == found["3.4h"] == "supported"
    assert found["3.4e"] == found["3.4i"] == "refuted"
    assert found["3.4f1"] == "supported"
    assert found["3.4f2"] == "conditional"


# --- settings


def test_the_kinds_of_corruption_are_those_of_the_library():
    assert distribution_shift.KINDS == corruptions.NAMES


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--corruptions=fog"], "must be one of blur, contrast, brightness, noise, rotation"),
        (["--corruptions="], "--corruptions=: must name at least one"),
        (["--corruptions=blur,blur"], "--corruptions=blur,blur: must name at least one, and none"),
        (["--batch_size=1"], "--batch_size=1: must be at least 2: one image has no batch"),
        (["--test_batch=1"], "--test_batch=1: must be at least 2: one image has no batch"),
        (["--batch_size=81"], "--batch_size=81: must be at most 80"),
        (["--test_batch=860"], "--test_batch=860: must be at most 858"),
        (["--recalibration=0"], "--recalibration=0: must be at least 2: an empty set"),
        (["--recalibration=860"], "--recalibration=860: must be at most 859"),
        (["--rates="], "--rates=: must hold at least one number"),
        (["--rates=0.1,0.1"], "--rates=0.1,0.1: must be in rising order"),
        (["--rates=-1"], "rates=-1: each must be greater than 0"),
        (["--average=1"], "average=1: must be at least 0 and less than 1"),
        (["--widths="], "at least one hidden layer"),
        (["--train_size=1438"], "--train_size=1438: must be from 1 to 1437"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(argv, words, tmp_path):
    folder = Path(tmp_path) / "run"
    status, _, err = main(f"--run_dir={folder}", *argv)
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not folder.exists()
