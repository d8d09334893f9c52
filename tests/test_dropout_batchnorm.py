"""`dropout_batchnorm` at toy size: variance ratios in closed form, statistics, claims, settings."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from hypothesis import given
from hypothesis import strategies as st
from oracles.precision import in_float64
from running import run_main
from scipy import integrate, stats

from dlstudy import models, normalization
from dlstudy.claims import judge
from dlstudy.host import Layout, NullHost
from experiments import dropout_batchnorm, flagging
from experiments import dropout_batchnorm_claims as claims
from experiments import dropout_batchnorm_record as records
from experiments import dropout_batchnorm_runs as runs

pytestmark = pytest.mark.usefixtures("quick_compilation")
TOY = (
    "--compilation_cache_dir=", "--devices=1", "--num_seeds=2", "--widths=12,10", "--epochs=2",
    "--block=1", "--train_size=60", "--batch_size=20", "--rates=0.05,0.2", "--drops=0,0.2,0.5",
    "--start_depth=2", "--start_width=16", "--start_inputs=400",
)  # fmt: skip
ARMS = ["after", "after_recalibrated", "before", "before_recalibrated", "none"]


def main(*argv):
    return run_main(dropout_batchnorm, *TOY, *argv)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dropout_batchnorm") / "run"
    status, out, err = main(f"--run_dir={folder}")
    assert status == 0, out + err
    return folder, xarray.load_dataset(folder / "record.nc"), out


@pytest.fixture(scope="module")
def record(finished):
    return finished[1]


# --- the variance of a value with and without dropout


@pytest.mark.parametrize(
    ("rectify", "expected"), [(lambda z: max(z, 0.0), 0.405), (abs, 0.267)], ids=["max", "abs"]
)
def test_the_ratio_of_rectified_normal_values_at_keep_one_half(rectify, expected):
    moments = [
        integrate.quad(lambda z, k=k: rectify(z) ** k * stats.norm.pdf(z), -9, 9, points=[0])[0]
        for k in (1, 2)
    ]
    mean, variance = moments[0], moments[1] - moments[0] ** 2
    ratio = runs.variance_ratio(mean, variance, 0.5)
    assert ratio == pytest.approx(expected, abs=5e-4)
    exact = {0.405: claims.RECTIFIED, 0.267: (1 - 2 / math.pi) / (2 - 2 / math.pi)}[expected]
    assert ratio == pytest.approx(exact, rel=1e-9)


@given(
    st.lists(st.floats(-3, 3), min_size=2, max_size=6, unique=True),
    st.floats(0.05, 1.0),
)
def test_the_ratio_is_that_of_all_masks(values, keep):
    # Every value is equally likely, dropped with probability 1 - keep: all cases at once.
    x = np.array(values)
    if x.var() < 1e-6:
        return
    dropped = np.concatenate([np.zeros(len(x)), x / keep])
    weights = np.repeat([1 - keep, keep], len(x)) / len(x)
    mean = weights @ dropped
    variance = weights @ (dropped - mean) ** 2
    found = runs.variance_ratio(x.mean(), x.var(), keep)
    assert found == pytest.approx(x.var() / variance, rel=1e-7)
    assert found <= 1 + 1e-12


@pytest.mark.parametrize("keep", [0.5, 0.8])
@in_float64
def test_dropout_of_large_draws_has_that_ratio(keep):
    z = jax.random.normal(jax.random.key(0), (400_000,), jnp.float64)
    for x, at_half in ((jnp.maximum(z, 0), 0.405), (jnp.abs(z), 0.267)):
        measured = x.var() / models.drop(jax.random.key(1), x, 1 - keep).var()
        expected = runs.variance_ratio(x.mean(), x.var(), keep)
        assert measured == pytest.approx(float(expected), rel=0.01)
        if keep == 0.5:
            assert measured == pytest.approx(at_half, abs=0.003)


def test_what_normalisation_gets_is_what_it_reports(record):
    x = jax.random.normal(jax.random.key(0), (30, 4))
    for name in records.ORDERS:
        model = runs.network(name, (6, 5), 3)

        @jax.jit
        def both(x, model=model):
            params = models.initialise(model, jax.random.key(1), x[0])
            _, taps = model.apply({"params": params}, x)
            return taps, runs.normalised(model, params, x, taps)

        taps, found = both(x)
        for i, values in enumerate(found):
            expected = normalization.of_batch(values, 1)
            used = taps["statistics"][f"bn_{i}"]
            np.testing.assert_allclose(used.mean, expected.mean, atol=1e-6)
            np.testing.assert_allclose(used.variance, expected.variance, rtol=1e-4)
    zero = (np.maximum(np.asarray(taps["pre_0"]), 0) == 0).mean()
    assert runs.zeros(model, taps, 0, 0.0) == pytest.approx(zero)
    assert runs.zeros(model, taps, 0, 0.5) == pytest.approx((1 + zero) / 2)
    assert (record["zeros"].sel(order="after") == 0).all()


def test_before_training_the_ratios_are_known(record):
    half = record.sel(start_p=0.5)
    np.testing.assert_allclose(half["start_met"][0], claims.RECTIFIED, atol=0.06)
    np.testing.assert_allclose(
        record["start_alone"], record["start_predicted"], rtol=0.12
    )  # 400 draws
    np.testing.assert_allclose(half["start_predicted"], half["start_mistaken"], rtol=1e-5)
    mistaken = record["start_mistaken"] / record["start_alone"] - 1  # p in the place of keep
    assert (np.abs(mistaken.sel(start_p=0.2)) > 0.2).all()
    np.testing.assert_allclose(half["start_met"][1], claims.RECTIFIED**2, atol=0.06)


# --- the record


def test_the_record_has_every_variable_with_unit_and_long_name(record):
    assert record.arm.values.tolist() == ARMS
    assert record["test_error"].dims == ("arm", "p", "rate", "seed")
    assert record["ratio"].dims == ("order", "p", "rate", "seed", "layer")
    assert record["diverged_step"].dims == ("arm", "seed")
    for name in record.data_vars:
        assert record[name].attrs["units"], name
        assert record[name].attrs["long_name"], name
    # No dropout stands before the first normalisation of "after": only the images differ.
    first = record["ratio"].sel(order="after", layer=1)
    assert (np.abs(np.log(first)) < 0.4).all()
    assert (record["ratio"].sel(order="before", layer=1, p=0.5) < 0.7).all()
    assert record.sizes["epoch"] == 2


def test_all_figures_are_drawn_and_every_claim_is_judged(finished):
    folder, record, out = finished
    drawn = {path.stem for path in (folder / "figures").glob("*.png")}
    assert drawn == {"variance_ratio", "order", "drop_rates", "best_rate", "stability", "training"}
    found = judge(dropout_batchnorm.CLAIMS, record)
    assert {"3.5a", "3.5a1", "3.5b", "3.5b1", "3.5b2"} <= {v.id for v in found}
    for verdict in found:
        assert verdict.kind == "compound" or (verdict.n == 2 and verdict.figure in drawn), verdict
        assert verdict.id in out


def test_a_seed_alone_is_the_same_seed_among_others(record):
    (config,), _ = flagging.parse(TOY[2:], dropout_batchnorm.Config)
    data = dropout_batchnorm.load(config)
    alone = dropout_batchnorm.run(config, data, NullHost(Layout(), range(1, 2)))
    xarray.testing.assert_equal(alone.drop_attrs(), record.sel(seed=[1]).drop_attrs())


def test_roughness_and_divergence():
    loss = np.array([[4.0, 2, 4, 2], [1, 1, 1, 1], [1, np.nan, 1, 1]])
    changes = [-1, 1, -1]
    np.testing.assert_allclose(records.roughness(loss)[:2], [np.std(changes), 0])
    assert np.isnan(records.roughness(loss)[2])
    assert records.first_bad(loss).tolist() == [-1, -1, 1]


# --- claims on a record whose numbers are known


def example(seeds=20):
    """Rates 1 and 2, of which the second has the lower tuning error but in "before"."""
    p = [0.0, 0.2, 0.5]
    put = lambda rows: np.repeat(np.array(rows, float)[..., None], seeds, -1)  # noqa: E731
    test = put([
        [[0.5, 0.03], [0.5, 0.03], [0.5, 0.05]],  # after
        [[0.5, 0.03], [0.5, 0.04], [0.5, 0.05]],  # after_recalibrated
        [[0.04, 0.5], [0.03, 0.5], [0.08, 0.5]],  # before
        [[0.04, 0.5], [0.03, 0.5], [0.06, 0.5]],  # before_recalibrated
        [[0.5, 0.10], [0.5, 0.07], [0.5, 0.06]],  # none
    ])  # fmt: skip
    run = ("p", "rate", "seed")
    by_layer = ("order", *run, "layer")
    ratio = np.ones((2, 3, 2, seeds, 2))
    ratio[0, 2, ..., 1], ratio[1, 2] = 0.5, 0.25
    zeros = np.stack([np.zeros_like(ratio[0]), np.full_like(ratio[1], 0.75)])
    spread = np.stack([np.ones_like(ratio[0]), np.full_like(ratio[1], 2.0)])
    rough = np.ones((3, 3, 2, seeds))
    rough[1, 2] = 4.0
    start = ("start_p", "start_layer", "seed")
    met = put([[0.8, 0.64], [claims.RECTIFIED, claims.RECTIFIED**2]])
    variables = {
        "test_error": (("arm", *run), test), "tune_error": (("arm", *run), test),
        "tune_loss": (("arm", *run), test), "train_error": (("network", *run), test[[0, 2, 4]] / 2),
        "ratio": (by_layer, ratio), "zeros": (by_layer, zeros), "spread": (by_layer, spread),
        "roughness": (("network", *run), rough), "start_met": (start, met),
        "start_alone": (start, np.ones_like(met)), "start_predicted": (start, met / met * 1.01),
    }  # fmt: skip
    coords = {"arm": ARMS, "network": ["after", "before", "none"], "order": ["after", "before"],
              "p": p, "rate": [1.0, 2.0], "seed": np.arange(seeds), "layer": [1, 2],
              "start_p": [0.2, 0.5], "start_layer": [1, 2]}  # fmt: skip
    return xarray.Dataset(variables, coords, {"judged_drop": 0.5})


EXPECTED = {
    claims.order_cost: 0.03,
    claims.order_cost_at_best: 0.0,
    claims.start_ratio: 0,
    claims.start_deeper: 0,
    claims.formula_error: 0.01,
    claims.shift_spared: 1.5,  # octaves: mean of 0 and -1, less -2
    claims.shift_left: 1,
    claims.shift_without: 0,
    claims.recalibration_gain: 0.02,
    claims.cost_left: 0.01,
    claims.order_cost_of_dropout: 0.02,
    claims.cost_left_of_dropout: 0,
    claims.fails_with_sparsity: 13.5 / math.sqrt(13.5 * 15.5),  # ranks 2 2 2 5 5 5 and 2 2 2 5 6 4
    claims.fails_with_sparsity_before: np.nan,  # as many zeros at every rate of dropping
    claims.fails_more: (0.5 - 0.06) - 0,
    claims.fails_more_without: (0.5 - 0.04) - 0,
    claims.rougher: 2,
    claims.noisier: 1,
    claims.lower_best: 0.5,  # of two equal ones the lower counts
    claims.interaction: 0.04,
    claims.regularises: 0.07,
    claims.fits_less: 0.05 - 0.015,
}


@pytest.mark.parametrize("statistic", EXPECTED, ids=lambda s: s.__name__)
def test_a_statistic_is_the_number_read_off(statistic):
    found = np.asarray(statistic(example()), float)
    assert found.shape == (20,)
    np.testing.assert_allclose(found, EXPECTED[statistic], rtol=1e-9, atol=1e-12)


def test_what_the_last_epochs_take_off_the_loss_is_read_at_the_tuned_rate():
    made = example()
    loss = np.full((3, 3, 2, 20, 8), 9.0)
    loss[0, 1, 1] = [8, 7, 6, 5, 4, 4, 3, 1]  # after, p = 0.2, the second rate
    made["minibatch_loss"] = ("network", "p", "rate", "seed", "epoch"), loss
    np.testing.assert_allclose(claims.last_fall(made, "after", 0.2), np.log10(4))
    np.testing.assert_allclose(claims.last_fall(made, "after", 0.5), 0)


def test_verdicts_follow_the_record():
    found = {v.id: v.verdict for v in judge(dropout_batchnorm.CLAIMS, example())}
    assert found["3.5a1"] == found["3.5f"] == "conditional"
    assert found["3.5a6"] == found["3.5d"] == "supported"
    assert found["3.5a2"] == found["3.5c"] == found["3.5b"] == found["3.5g"] == "supported"


def test_a_run_that_is_lost_is_never_the_best():
    broken = example()
    for name in ("tune_error", "tune_loss"):
        broken[name].loc[{"rate": 1.0}] = np.nan
    assert (claims.at_drop(broken, "before") == 0.5).all()


# --- settings


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--drops=0,0.5,1"], "drops=0,0.5,1: each must be at least 0 and less than 1"),
        (["--drops=-0.1,0,0.5"], "drops=-0.1,0,0.5: each must be"),
        (["--drops=0.2,0.5"], "--drops=0.2,0.5: must hold 0"),
        (["--drops=0,0.2"], "--drops=0,0.2: must hold 0.5"),
        (["--drops=0.5,0"], "--drops=0.5,0: must be in rising order"),
        (["--drops="], "--drops=: must hold at least one number"),
        (["--judged_drop=1"], "judged_drop=1"),
        (["--judged_drop=0.3"], "--judged_drop=0.3: must be one of --drops"),
        (["--rates=0"], "rates=0: each must be greater than 0"),
        (["--rates=0.2,0.2"], "--rates=0.2,0.2: must be in rising order"),
        (["--momentum=1"], "momentum=1"),
        (["--average=1"], "average=1"),
        (["--widths="], "at least one hidden layer"),
        (["--batch_size=1"], "--batch_size=1: must be at least 2: one image has no batch"),
        (["--batch_size=61"], "--batch_size=61: must be at most 60"),
        (["--train_size=1438"], "--train_size=1438: must be from 1 to 1437"),
        (["--data=fog"], "data=fog: must be one of digits, mnist_5k"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(argv, words, tmp_path):
    folder = Path(tmp_path) / "run"
    status, _, err = main(f"--run_dir={folder}", *argv)
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not folder.exists()
