"""`constraints` at toy size: its steps against NumPy, its statistics, claims, figures, settings."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from running import run_main

from dlstudy.claims import judge
from dlstudy.host import Layout, NullHost
from experiments import cli, constraints, flagging
from experiments import constraints_claims as claims
from experiments import constraints_record as records
from experiments import constraints_runs as runs

pytestmark = pytest.mark.usefixtures("quick_compilation")
FLAGS = Path(cli.__file__).parent / "flags"
TOY = (
    "--compilation_cache_dir=", "--devices=1", "--num_seeds=2", "--widths=6,5", "--epochs=3",
    "--block=2", "--batch_size=400", "--rate=0.5", "--multipliers=1,200", "--radii=0.5,0.7,9",
    "--penalties=0.001,0.1", "--path_widths=6", "--path_epochs=2", "--path_penalties=0.01,0.5",
    "--path_radii=0.9,0.2", "--path_rate=0.5",
)  # fmt: skip
ARMS = ["none", "column_0.5", "column_0.7", "column_9", "penalty_0.001", "penalty_0.1", "row_0.7",
        "frobenius_0.7"]  # fmt: skip


def main(*argv):
    return run_main(constraints, *TOY, *argv)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("constraints") / "run"
    status, out, err = main(f"--run_dir={folder}")
    assert status == 0, out + err
    return folder, xarray.load_dataset(folder / "record.nc"), out


@pytest.fixture(scope="module")
def record(finished):
    return finished[1]


def toy_config():
    (config,), _ = flagging.parse(TOY[2:], constraints.Config)
    return config


def by_hand(config, seed, own):
    """One run of the first stages in NumPy, float64: (losses, largest columns, parameters)."""
    data = constraints.load(config)
    x, y = data.train.x.reshape(len(data.train.y), -1).astype(float), data.train.y
    study = runs.Study(config, data, NullHost(Layout()), [seed])
    stage = study.programs(
        "other_balls" if np.isfinite([own.row, own.frobenius]).any() else "rates"
    )
    params = stage.start(study.keys[0], runs.Condition(*map(jnp.float32, own))).params
    kernels = [np.array(k, float) for k in runs.kernels_of(params)]
    biases = [np.array(params[n]["bias"], float) for n in ("hidden_0", "hidden_1", "head")]
    steps, seen, norms = len(y) // config.batch_size, [], []
    for number in range(config.epochs):
        key = jax.random.fold_in(jax.random.fold_in(study.keys[0], 1), number)
        order = np.array(jax.random.permutation(key, len(y)))
        for rows in order[: steps * config.batch_size].reshape(steps, -1):
            acts, label = [x[rows]], np.eye(10)[y[rows]]
            for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
                z = acts[-1] @ kernel + bias
                acts.append(np.maximum(z, 0) if i < 2 else z)
            log = acts[-1] - acts[-1].max(1, keepdims=True)
            log = log - np.log(np.exp(log).sum(1, keepdims=True))
            seen.append(-(log * label).sum(1).mean())
            back = (np.exp(log) - label) / len(rows)
            for i in (2, 1, 0):
                weight, bias = acts[i].T @ back, back.sum(0)
                back = (back @ kernels[i].T) * (acts[i] > 0)
                free = kernels[i] - own.rate * (weight + own.penalty * kernels[i])
                biases[i] = biases[i] - own.rate * bias
                kernels[i] = ball(free, own)
            norms.append(max(np.linalg.norm(k, axis=0).max() for k in kernels))
    return np.array(seen), np.array(norms), kernels


def ball(kernel, own):
    rows, columns = kernel.shape
    for radius, axis in (
        (own.column, 0), (own.row * (columns / rows) ** 0.5, 1),
        (own.frobenius * columns**0.5, None),
    ):  # fmt: skip
        if np.isfinite(radius):
            size = np.linalg.norm(kernel, axis=axis, keepdims=True)
            kernel = kernel * np.minimum(1, radius / size)
    return kernel


@pytest.mark.parametrize("arm", ["none", "column_0.5", "penalty_0.1", "row_0.7", "frobenius_0.7"])
def test_a_run_is_descent_and_projection_by_hand(record, arm):
    config = toy_config()
    own = runs.arms(config)[arm]._replace(rate=config.rate)
    loss, norms, _ = by_hand(config, 1, own)
    found = record.sel(arm=arm, multiplier=1, seed=1)
    np.testing.assert_allclose(found["column_norm"], norms, rtol=2e-4)
    by_epoch = loss.reshape(config.epochs, -1).mean(1)
    np.testing.assert_allclose(found["minibatch_loss"], by_epoch, rtol=2e-4)


def test_the_record_has_every_variable_with_unit_and_long_name(record):
    assert list(record.arm.values) == ARMS
    assert record["column_norm"].dims == ("arm", "multiplier", "seed", "step")
    assert record.sizes["step"] == 3 * (1437 // 400)
    assert record["penalty_dead"].dims == ("penalty", "seed")
    assert record["projection_still_dead"].dims == ("radius", "seed")
    assert record["diverged_step"].dims == ("arm", "seed")
    for name in record.data_vars:
        assert record[name].attrs["units"], name
        assert record[name].attrs["long_name"], name
    np.testing.assert_array_equal(record["penalty_dead"][0], record["projection_dead"][0])
    np.testing.assert_array_equal(record["penalty_tune_loss"][0], record["projection_tune_loss"][0])


def test_columns_are_bounded_and_only_columns(record):
    assert np.all(claims.overshoot(record) <= 6e-7)
    assert np.all(claims.overshoot_before(record) > 0.1)
    top = record["column_norm"].max(("multiplier", "step"))
    assert np.all(top.sel(arm=["none", "row_0.7"]) > 0.71)


def test_an_arm_that_never_binds_is_the_plain_one(record):
    """The radius of 9 at the low rate; the same program, other numbers."""
    pair = record.sel(multiplier=1, arm=["none", "column_9"])
    for name in ("minibatch_loss", "test_loss", "column_norm"):
        values = pair[name].transpose("arm", ...).values
        np.testing.assert_array_equal(values[0], values[1])


@pytest.mark.usefixtures("without_figures")
def test_a_seed_alone_is_the_seed_among_others(record, tmp_path):
    folder = tmp_path / "one"
    status, out, err = main(f"--run_dir={folder}", "--only_seed=1")
    assert status == 0, out + err
    alone = xarray.load_dataset(folder / "record.nc")
    for name in record.data_vars:
        expected = record[name].sel(seed=[1]) if "seed" in record[name].dims else record[name]
        np.testing.assert_array_equal(alone[name], expected, err_msg=name)


def test_the_folder_holds_figures_and_verdicts(finished):
    folder, _, out = finished
    for name in ("diverged", "stable_rate", "training", "column_norms", "dead", "lifted"):
        assert (folder / "figures" / f"{name}.svg").stat().st_size > 1000
    for claim in ("1.3a", "1.3b", "1.3h", "1.3i"):
        assert claim in out


def test_figures_are_drawn_when_everything_diverged(record):
    lost = record.copy(deep=True)
    for name in lost.data_vars:
        if lost[name].dtype.kind == "f" and name != "column_bound":
            lost[name] = lost[name] * np.nan
    lost["diverged_at"] = lost["diverged_at"] * 0
    for name, figure in constraints.figures(lost):
        figure.canvas.draw()
        assert figure.axes[0].get_title(loc="left"), name
    assert {v.verdict for v in judge(constraints.CLAIMS, lost)} <= {"inconclusive", "refuted"}


# --- measures of one network


def test_dead_and_inactive_units_by_hand():
    kernels = [np.array([[3.0, 0, 3e-4], [4, 0, 4e-4]]), np.array([[1.0, 1], [5, 5], [1, 1]])]
    params = {
        "hidden_0": {"kernel": jnp.asarray(kernels[0], jnp.float32)},
        "head": {"kernel": jnp.asarray(kernels[1], jnp.float32)},
    }
    np.testing.assert_allclose(runs.products(params), [5 * 2**0.5, 0, 5e-4 * 2**0.5], rtol=1e-6)
    assert (np.asarray(runs.products(params)) < runs.DEAD_BELOW).tolist() == [False, True, True]
    assert float(runs.largest_column(params)) == pytest.approx(27**0.5)
    taps = {"pre_0": jnp.array([[1.0, -1, 0], [-1, -2, 0]]), "pre_1": jnp.array([[2.0], [-1.0]])}
    assert runs.inactive(taps).tolist() == [False, True, True, False]  # 0 counts as off


def test_divergence_is_the_first_bad_step():
    loss = np.array([[[1, 9.9, 10], [1, 10.1, 1], [1, 1, np.nan], [np.inf, 1, 1]]])
    np.testing.assert_array_equal(records.diverged_at(loss, np.ones((1, 4))), [[-1, 1, 2, 0]])


# --- claims on a record whose numbers are known


def example(seeds=20):
    """Rates 1, 2, 4; see the numbers in EXPECTED."""
    arms = ["none", "column_1", "column_2", "column_4", "penalty_0.1", "row_2", "frobenius_2"]
    shape = len(arms), 3, seeds
    per_run = ("arm", "multiplier", "seed")
    put = lambda rows: np.repeat(np.array(rows, float)[..., None], seeds, -1)  # noqa: E731
    loss = put([[0.4, 0.2, 1.9], [0.4] * 3, [0.9, 0.5, 0.4], [0.4] * 3, [0.4, 0.4, 2.3],
                [0.4] * 3, [0.4] * 3])  # fmt: skip
    diverged_at = np.full(shape, -1)
    diverged_at[0, 2] = 7
    bound = np.array([np.inf, 1, 2, 4, np.inf, np.inf, np.inf])
    norm = np.where(np.isfinite(bound), bound, 5)[:, None, None, None] * np.ones((*shape, 2))
    free = norm * 1.5
    errors = put([0.02, 0.06, 0.14, 0.9])
    variables = {
        "train_loss": (per_run, loss), "tune_loss": (per_run, loss),
        "start_loss": (per_run, np.full(shape, 2.0)), "diverged_at": (per_run, diverged_at),
        "column_norm": ((*per_run, "step"), norm), "free_column_norm": ((*per_run, "step"), free),
        "column_bound": (("arm",), bound),
        "penalty_train_error": (("penalty", "seed"), errors),
        "projection_train_error": (("radius", "seed"), errors[::1]),
        "penalty_dead": (("penalty", "seed"), put([0, 0.1, 0.3, 1])),
        "penalty_still_dead": (("penalty", "seed"), put([0, 0.1, 0.2, 1])),
        "penalty_inactive": (("penalty", "seed"), put([0.1, 0.2, 0.2, 1])),
        "projection_dead": (("radius", "seed"), put([0, 0, 0.1, 1])),
        "projection_inactive": (("radius", "seed"), put([0.1, 0.2, 0.2, 1])),
    }  # fmt: skip
    coords = {"arm": arms, "multiplier": [1.0, 2.0, 4.0], "seed": np.arange(seeds)}
    attributes = {"match_error": 0.1, "match_margin": 0.1, "middle_radius": 2.0, "rate": 1.0}
    return xarray.Dataset(variables, coords, attributes)


EXPECTED = {
    claims.overshoot: 0,
    claims.overshoot_before: 0.5,
    claims.fewer_diverge: 1,
    claims.rate_gain: 1,  # 4 against 2
    claims.rate_gain_weak: 1,
    claims.rate_gain_on_penalty: 1,
    claims.optimisation_cost: np.log10(0.4 / 0.2),
    claims.one_large_unit: 2.5,
    claims.dead_by_penalty: 0.2,
    claims.dead_spared: 0.15,
    claims.inactive_spared: 0,
    claims.still_dead: 0.75,
}


@pytest.mark.parametrize("statistic", EXPECTED, ids=lambda s: s.__name__)
def test_a_statistic_is_the_number_read_off(statistic):
    found = np.asarray(statistic(example()), float)
    assert found.shape == (20,)
    np.testing.assert_allclose(found, EXPECTED[statistic], rtol=1e-9, atol=1e-12)


def test_no_match_and_no_stable_rate_are_no_number():
    broken = example()
    broken["penalty_train_error"] = broken["penalty_train_error"] * [[1], [0.5], [2], [1]]
    assert np.isnan(claims.dead_spared(broken)).all()  # 0.03, then 0.28: too far apart
    broken["train_loss"] = broken["train_loss"] + 2
    assert np.isnan(claims.rate_gain(broken)).all()
    broken["diverged_at"] = broken["diverged_at"] * 0 + 3
    assert np.isnan(claims.optimisation_cost(broken)).all()
    assert (records.at_best_rate(broken)[1] == 3).all()


def test_verdicts_follow_the_record():
    found = {v.id: v.verdict for v in judge(constraints.CLAIMS, example())}
    assert found["1.3a1"] == "conditional"
    assert found["1.3a2"] == found["1.3a3"] == found["1.3a4"] == "supported"
    assert found["1.3b1"] == found["1.3b2"] == found["1.3h"] == found["1.3i"] == "supported"
    assert found["1.3b3"] == found["1.3b"] == "refuted"
    broken = example()
    broken["column_norm"] = broken["column_norm"] * (1 + 1e-6)
    assert {v.id: v.verdict for v in judge(constraints.CLAIMS, broken)}["1.3a1"] == "refuted"


# --- settings


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--radii=0,1"], "radii=0,1: each must be greater than 0"),
        (["--radii=-1"], "each must be greater than 0"),
        (["--path_radii=1,0"], "each must be greater than 0"),
        (["--penalties=-0.1"], "each must be greater than 0"),
        (["--path_penalties=-0.1,1"], "each must be greater than 0"),
        (["--radii="], "--radii=: must hold at least one number"),
        (["--penalties="], "--penalties=: must hold at least one number"),
        (["--path_penalties="], "--path_penalties=: must hold at least one number"),
        (["--path_radii="], "--path_radii=: must hold at least one number"),
        (["--multipliers="], "--multipliers=: must hold at least one number"),
        (["--widths="], "at least one hidden layer"),
        (["--path_widths="], "at least one hidden layer"),
        (["--rate=0"], "rate=0: must be greater than 0"),
        (["--path_rate=-1"], "path_rate=-1: must be greater than 0"),
        (["--multipliers=2,1"], "--multipliers=2,1: must be in rising order"),
        (["--path_radii=1,2"], "--path_radii=1,2: must be in falling order"),
        (["--radii=1,1"], "--radii=1,1: must not repeat a value"),
        (["--batch_size=1438"], "--batch_size=1438: must be at most 1437"),
        (["--match_error=0"], "match_error=0: must be greater than 0"),
        (["--radii=nan"], "finite"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(argv, words, tmp_path):
    folder = tmp_path / "run"
    status, _, err = main(f"--run_dir={folder}", *argv)
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not folder.exists()
