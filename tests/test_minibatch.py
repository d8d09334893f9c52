"""`minibatch` at toy size: its descent against NumPy, noise, statistics, claims, figures, flags."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from running import run_main

from dlstudy import models
from dlstudy.claims import judge
from experiments import flagging, minibatch
from experiments import minibatch_claims as claims
from experiments import minibatch_record as records
from experiments import minibatch_runs as runs

pytestmark = pytest.mark.usefixtures("quick_compilation")
TOY = (
    "--compilation_cache_dir=", "--devices=1", "--num_seeds=2", "--widths=5",
    "--batch_sizes=2,8,1437", "--small_batch=2", "--large_batch=8", "--rates=0.5",
    "--checkpoints=0,3", "--reference_batch=8", "--draws=4", "--target=2.2", "--step_limit=24",
    "--example_limit=64", "--looks=8", "--stable_steps=9", "--levels=2", "--epochs=1",
    "--cost_sizes=1,8", "--cost_calls=2",
)  # fmt: skip


def main(*argv):
    return run_main(minibatch, *TOY, *argv)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("minibatch") / "run"
    status, out, err = main(f"--run_dir={folder}")
    assert status == 0, out + err
    return folder, xarray.load_dataset(folder / "record.nc"), out


@pytest.fixture(scope="module")
def record(finished):
    return finished[1]


# --- functions of one seed, on ten examples

EXAMPLES = 10


@functools.cache
def programs(**settings):
    rng = np.random.default_rng(0)
    train = (
        jnp.asarray(rng.normal(size=(EXAMPLES, 3)), jnp.float32),
        jnp.arange(EXAMPLES, dtype=jnp.int32) % 2,
    )
    config = flagging.parse(
        ["--batch_sizes=1,4,10", "--small_batch=1", "--large_batch=4", "--draws=2000",
         "--looks=6"], minibatch.Config
    )[0][0]  # fmt: skip
    return runs.Programs(config, models.MLP((4,), 2), {"train": train})


def task(size, every, looks, target=-1.0, gaussian=False, first=0):
    return runs.Task(
        jnp.int32(size), jnp.bool_(gaussian), jnp.int32(every), jnp.int32(looks),
        jnp.float32(target), jnp.int32(first),
    )  # fmt: skip


@pytest.fixture(scope="module")
def started():
    key = jax.random.key(3)
    return key, programs().start(key)


@functools.cache
def descend(width):
    return jax.jit(functools.partial(programs().descend, width))


def loss_by_hand(params, x, y):
    """(Mean loss, gradient) of the network of one hidden layer, in float64."""
    (w, b), (v, c) = ((p["kernel"], p["bias"]) for p in (params["hidden_0"], params["head"]))
    pre = x @ w + b
    z = np.maximum(pre, 0) @ v + c
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    rows = np.arange(len(y))
    back = p.copy()
    back[rows, y] -= 1
    back /= len(y)
    below = (back @ v.T) * (pre > 0)
    gradient = {
        "hidden_0": {"kernel": x.T @ below, "bias": below.sum(0)},
        "head": {"kernel": np.maximum(pre, 0).T @ back, "bias": back.sum(0)},
    }
    return -np.log(p[rows, y]).mean(), gradient


@pytest.mark.parametrize(("width", "size"), [(4, 4), (4, 1), (10, 4), (10, 10)])
def test_descent_is_algorithm_8_1_by_hand(started, width, size):
    """Over more than an epoch; batches are masks over the rows of a program."""
    key, params = started
    rates, every, looks = [0.1, 0.7], 2, 6
    found = descend(width)(key, params, jnp.array(rates), task(size, every, looks))
    x, y = (np.asarray(a) for a in programs().train)
    x = x.astype(float)
    for lane, rate in enumerate(rates):
        own = jax.tree.map(lambda a: np.asarray(a, float), params)
        for step in range(every * looks):
            epoch, number = divmod(step, EXAMPLES // size)
            order = np.asarray(programs().shuffled(key, epoch, width))
            rows = order[number * size : (number + 1) * size]
            assert len(set(rows)) == size
            before = loss_by_hand(own, x, y)[0]
            gradient = loss_by_hand(own, x[rows], y[rows])[1]
            own = jax.tree.map(lambda p, g, rate=rate: p - rate * g, own, gradient)
            if step % every == every - 1:
                look = step // every
                np.testing.assert_allclose(found.before[look, lane], before, rtol=1e-4)
                np.testing.assert_allclose(
                    found.after[look, lane], loss_by_hand(own, x, y)[0], rtol=1e-4
                )
        ended = jax.tree.map(lambda a, lane=lane: a[lane], found.params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), ended, own
        )


@pytest.mark.parametrize(("width", "size"), [(4, 4), (4, 1), (10, 4)])
def test_legs_of_a_descent_are_one_descent(started, width, size):
    """Those of 2, 3 and 6 steps are the 11: each goes on in the epoch where the last one ended."""
    key, params = started
    rates = jnp.array([0.3])
    whole = descend(width)(key, params, rates, task(size, 11, 1)).params
    own, first = params, 0
    for steps in (2, 3, 6):
        leg = descend(width)(key, own, rates, task(size, steps, 1, first=first))
        own, first = jax.tree.map(lambda a: a[0], leg.params), first + steps
    chex.assert_trees_all_equal(jax.tree.map(lambda a: a[0], whole), own)


def test_descent_ends_at_the_target_or_when_all_is_lost(started):
    key, params = started
    rates = jnp.array([0.1, 0.7])
    whole = descend(10)(key, params, rates, task(10, 1, 6))
    assert np.isfinite(whole.after).all()
    target = float(whole.after[2].min()) + 1e-6
    found = descend(10)(key, params, rates, task(10, 1, 6, target))
    np.testing.assert_array_equal(found.after[:3], whole.after[:3])
    assert np.isnan(found.after[3:]).all()
    lost = descend(10)(key, params, rates * jnp.nan, task(10, 1, 6))
    assert np.isnan(lost.after).all()
    assert np.isnan(lost.before[1:]).all()


def test_artificial_noise_has_the_covariance_of_a_batch():
    keys = jax.random.split(jax.random.key(0), 20_000)
    size = 3
    weights = jax.jit(jax.vmap(lambda k: programs().gaussian_weights(k, 0, jnp.int32(size))))(keys)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(weights.mean(0), 1 / EXAMPLES, atol=0.01)
    # Of counts / B drawn with replacement: (diag(1/N) - 1/N^2) / B.
    law = (np.eye(EXAMPLES) / EXAMPLES - 1 / EXAMPLES**2) / size
    np.testing.assert_allclose(np.cov(weights.T), law, atol=0.03 * law.max())


def test_noise_follows_the_laws_of_drawing(started):
    key, params = started
    found = jax.jit(programs().measure_noise)(key, params, jnp.int32(0))
    size = np.array([1, 4, 10])
    trace = float(found["trace"])
    expected = np.sqrt(trace / size)
    np.testing.assert_allclose(found["sd"][0], expected, rtol=0.05)
    factor = np.sqrt((EXAMPLES - size) / (EXAMPLES - 1))
    np.testing.assert_allclose(found["sd"][1], expected * factor, rtol=0.05, atol=1e-6)
    np.testing.assert_allclose(found["scale"], trace / found["square"], rtol=0.15)


# --- the run


def test_the_record_is_complete(record):
    assert record["noise_sd"].dims == ("checkpoint", "sampling", "batch", "seed")
    assert record["race_lane_steps"].dims == ("batch", "rate", "seed")
    assert record["race_curve"].dims == ("batch", "part", "seed")
    assert record["beyond_end"].dims == ("batch", "rate_beyond", "seed")
    assert list(record.rate_beyond.values) == [1]
    assert record["noisy_end"].dims == ("level", "rate", "seed")
    assert record["diverged_step"].dims == ("arm", "seed")
    assert list(record["end_steps"].values) == [718, 179, 718]
    for name in record.data_vars:
        assert record[name].attrs["units"], name
        assert record[name].attrs["long_name"], name
    # The full set drawn without replacement is the full set.
    whole = record["noise_sd"].sel(sampling="without", batch=1437)
    assert np.all(whole < 1e-4 * record["noise_sd"].sel(sampling="without", batch=2))
    assert np.isfinite(record["race_steps"]).any()
    assert np.all(claims.copy_differs(record) == 0)
    assert np.all(claims.copy_rises_alike(record) < 1e-6)


@pytest.mark.usefixtures("without_figures")
def test_a_seed_alone_is_the_seed_among_others(record, tmp_path):
    folder = tmp_path / "one"
    status, out, err = main(f"--run_dir={folder}", "--only_seed=1", "--measure_cost=false")
    assert status == 0, out + err
    alone = xarray.load_dataset(folder / "record.nc")
    for name in record.data_vars:
        if name in ("speed", "called_speed", "first_speed"):  # what the clock says
            assert np.isnan(alone[name]).all()
            continue
        expected = record[name].sel(seed=[1]) if "seed" in record[name].dims else record[name]
        np.testing.assert_array_equal(alone[name], expected, err_msg=name)


def test_the_folder_holds_figures_and_verdicts(finished):
    folder, _, out = finished
    for name in ("noise", "hyperbola", "stable_rate", "roughness", "minima", "cost"):
        assert (folder / "figures" / f"{name}.svg").stat().st_size > 1000
    for claim in ("2.1a", "2.1b", "2.1c", "2.1d", "2.1f", "2.1g", "2.1h"):
        assert claim in out


def test_figures_are_drawn_when_everything_diverged(record):
    lost = record.copy(deep=True)
    for name in lost.data_vars:
        if lost[name].dtype.kind == "f":
            lost[name] = lost[name] * np.nan
    for name, figure in minibatch.figures(lost):
        figure.canvas.draw()
        assert figure.axes[0].get_title(loc="left"), name
    assert {v.verdict for v in judge(minibatch.CLAIMS, lost)} <= {"inconclusive", "refuted"}


# --- reading a race


def test_a_race_is_read_off_by_hand():
    after = np.full((1, 5, 3), np.nan)
    before = after.copy()
    after[0, :3] = [[2, 1.9, 9], [1.4, 1.7, np.nan], [0.8, 0.9, np.nan]]
    before[0, :3] = [[2.2, 1.8, 3], [1.5, 1.6, np.nan], [1.3, 1, np.nan]]
    row = records.of_race(before, after, 4, [0.1, 0.2, 0.4], 1.0)
    np.testing.assert_array_equal(row["lane_steps"], [[12, 12, np.nan]])
    assert row["steps"] == 12
    assert row["rate"] == 0.1  # the lower loss decides a tie
    assert row["rise_share"] == 0
    row = records.of_race(before, after, 4, [0.1, 0.2, 0.4], 0.85)
    np.testing.assert_array_equal(row["lane_steps"], [[12, np.nan, np.nan]])
    second = records.of_race(before[..., 1:], after[..., 1:], 4, [0.2, 0.4], 1.0)
    assert second["rise_share"] == pytest.approx(2 / 3)
    assert second["roughness"] == 0
    rising = np.array([2, 1, 1.5, 0.5]).reshape(1, 4, 1)
    row = records.of_race(rising, rising, 1, [1.0], 0.6)
    assert row["roughness"] == pytest.approx(0.5 / 1.5)
    assert row["curve"][0, [0, -1]].tolist() == [2, 0.5]
    nobody = records.of_race(before, after, 4, [0.1, 0.2, 0.4], 0.1)
    assert np.isnan(nobody["steps"]).all()
    assert np.isnan(nobody["curve"]).all()


# --- claims on a record whose numbers are known


def example(seeds=20):
    """Batches of 1, 4, 16 of 16; rates 1, 2 and 4, 8."""
    size = np.array([1.0, 4, 16])
    put = lambda rows: np.repeat(np.array(rows, float)[..., None], seeds, -1)  # noqa: E731
    factor = np.sqrt((16 - size) / 15)
    steps = 10 * (1 + 6 / size)
    variables = {
        "noise_sd": (("checkpoint", "sampling", "batch"),
                     [[3 * size**-0.5, 3 * size**-0.5 * factor]] * 2),
        "noise_trace": (("checkpoint",), [9, 9]), "noise_square": (("checkpoint",), [1, 0.25]),
        "noise_scale": (("checkpoint",), [9.9, 36]),
        "noise_mean_of_ratios": (("checkpoint",), [-9, 0]),
        "noise_loss": (("checkpoint",), [2.3, 0.3]),
        "race_steps": (("batch",), steps), "shared_steps": (("batch",), [70, 70, 70]),
        "race_rise_share": (("batch",), [0.4, 0.3, 0.2]),
        "shared_rise_share": (("batch",), [0.5, 0.1, 0]),
        "race_roughness": (("batch",), [0.3, 0.2, 0.4]),
        "shared_roughness": (("batch",), [0.3, 0.2, 0]),
        "start_loss": ((), 2), "stable_end": (("batch", "rate"), [[1, 2.1], [1, 1], [1, 1]]),
        "stable_worst": (("batch", "rate"), [[2, 3]] * 3),
        "beyond_end": (("batch", "rate_beyond"), [[2, 2], [2, np.nan], [2.2, np.nan]]),
        "beyond_worst": (("batch", "rate_beyond"), [[3, 3], [3, np.inf], [3, np.inf]]),
        "noisy_end": (("level", "rate"), [[1, 3], [1, 1]]),
        "noisy_worst": (("level", "rate"), [[2, 3], [2, 2]]),
        "end_lambda_max": (("arm",), [1, 4, 0.5]), "end_lambda_residual": (("arm",), [0, 0.01, 0]),
        "end_rescaled_lambda_max": (("arm",), [8, 9, 9]),
        "end_rescaled_lambda_residual": (("arm",), [0.01, 0, 0]),
        "end_filter_sharpness": (("arm",), [0.1, 0.2, 0.4]),
        "end_rescaled_filter_sharpness": (("arm",), [0.1, 0.2, 0.4]),
        "end_test_error": (("arm",), [0.02, 0.05, 0.03]),
        "end_train_error": (("arm",), [0, 0.04, 0]),
        "end_rescaled_difference": (("arm",), [0, 0, 0]),
        "speed": (("cost_batch",), [100, 800, 1600]),
        "called_speed": (("cost_batch",), [50, 800, 1600]),
    }  # fmt: skip
    variables = {name: ((*dims, "seed"), put(values)) for name, (dims, values) in variables.items()}
    variables["memory"] = ("cost_batch",), np.array([1.0, 2, 16])
    variables["first_speed"] = ("cost_batch",), np.array([1.0, 4, 16])
    coords = {
        "batch": [1, 4, 16], "rate": [1.0, 2], "rate_beyond": [4.0, 8], "level": [1, 4],
        "sampling": list(records.SAMPLING), "checkpoint": [0, 10], "arm": list(records.ENDS),
        "cost_batch": [1, 4, 16], "seed": np.arange(seeds),
    }  # fmt: skip
    attributes = {"examples": 16, "small_batch": 1, "large_batch": 16, "target": 0.3}
    return xarray.Dataset(variables, coords, attributes)


EXPECTED = {
    claims.distance_with: 0,
    claims.distance_without: -np.log2(np.sqrt(12 / 15)),
    claims.distance_corrected: 0,
    claims.noise_slope: 0,
    claims.scale_error: 0.05,
    claims.mean_ratio_error: 1.5,
    claims.example_gain: np.log2(16 * 13.75 / 70),
    claims.step_gain: np.log2(70 / 13.75),
    claims.step_gain_shared: 0,
    claims.hyperbola_residual: 0,
    claims.critical_against_noise: np.log2(6 / ((9 + 36) / 2)),
    claims.rate_gain: 1,
    claims.rate_gain_plain: -1,
    claims.rate_gain_by_noise: 1,
    claims.noise_for_size: 0,
    claims.more_rises: 0.2,
    claims.more_rises_shared: 0.5,
    claims.rougher: -0.1,
    claims.rougher_shared: 0.3,
    claims.sharper: 2,
    claims.sharper_by_steps: -1,
    claims.rises_faster: 1,
    claims.rises_faster_by_steps: 2,
    claims.generalises_worse: 0.03,
    claims.generalises_worse_by_steps: 0.01,
    claims.wider_gap: -0.01,
    claims.wider_gap_by_steps: 0.01,
    claims.copy_differs: 0,
    claims.copy_is_sharper: 3,
    claims.copy_rises_alike: 0,
    claims.memory_growth: 4,
    claims.speed_growth: 4,
    claims.speed_growth_called: 5,
    claims.last_slope: 0.5,
    claims.last_slope_first_call: 1,
}


@pytest.mark.parametrize("statistic", EXPECTED, ids=lambda s: s.__name__)
def test_a_statistic_is_the_number_read_off(statistic):
    found = np.asarray(statistic(example()), float)
    assert found.shape == (20,)
    np.testing.assert_allclose(found, EXPECTED[statistic], rtol=1e-6, atol=1e-7)


def test_what_is_not_known_is_no_number():
    broken = example()
    broken["end_lambda_residual"][1, 0] = 0.2  # one in twenty
    assert np.isnan(claims.sharper(broken)).tolist() == [True] + 19 * [False]
    broken["end_lambda_residual"] = broken["end_lambda_residual"] + 0.2
    with pytest.raises(ValueError, match="100% of the eigenvalue values"):
        claims.sharper(broken)
    broken["stable_end"] = broken["stable_end"] + 2
    assert np.isnan(claims.rate_gain(broken)).all()
    broken["race_steps"] = broken["race_steps"] * np.nan
    assert np.isnan(claims.hyperbola_residual(broken)).all()
    for factor in (0, 10):  # below the target from the start, and never
        broken["noise_loss"] = example()["noise_loss"] * factor
        assert np.isnan(claims.scale_on_the_way(broken)).all()


def test_a_mean_on_the_way_weighs_steps():
    """By hand: 1 to 3 over 10 steps, then to 5 over half of the 30 that follow."""
    step, values = np.array([0.0, 10, 40, 160]), np.array([1.0, 3, 7, 99])
    found = claims.mean_until(step, values, np.array([2, 1.3, 0.5, 0]), 0.9)
    assert found == pytest.approx((10 * 2 + 15 * 4) / 25)


# --- settings


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--batch_sizes=1,8,2000"], "--batch_sizes=1,8,2000: must be at most 1437"),
        (["--batch_sizes=8,1,16"], "--batch_sizes=8,1,16: must be in rising order"),
        (["--batch_sizes=1,8"], "--batch_sizes=1,8: must hold at least 3 numbers"),
        (["--batch_sizes=0,8,16"], "each must be at least 1"),
        (["--cost_sizes=1,1438"], "--cost_sizes=1,1438: must be at most 1437"),
        (["--rates="], "--rates=: must hold at least 1 number"),
        (["--rates=0,1"], "each must be greater than 0"),
        (["--shared_rate=0"], "shared_rate=0: must be greater than 0"),
        (["--small_batch=3"], "--small_batch=3: must be of the batch sizes, 2,8,1437"),
        (["--small_batch=8"], "--small_batch=8: must be below 8"),
        (["--levels=2,16"], "--levels=2,16: must be of the batch sizes, 2,8,1437"),
        (["--checkpoints=3,3"], "--checkpoints=3,3: must be in rising order"),
        (["--target=-1"], "target=-1: must be greater than 0"),
        (["--draws=1"], "draws=1: must be at least 2"),
        (["--widths="], "at least one hidden layer"),
        (["--data=cifar"], "digits, mnist_5k"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(argv, words, tmp_path):
    folder = tmp_path / "run"
    status, _, err = main(f"--run_dir={folder}", *argv)
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not folder.exists()
