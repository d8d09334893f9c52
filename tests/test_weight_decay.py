"""`weight_decay`: the algebra of decay and of stopped descent, and the experiment at toy size."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray
from hypothesis import given
from hypothesis import strategies as st
from oracles.precision import in_float64
from running import run_main

from dlstudy import optimizers
from dlstudy.claims import judge
from dlstudy.host import Layout, NullHost
from experiments import adaptive_reference, cli, flagging, weight_decay
from experiments import weight_decay_claims as claims
from experiments import weight_decay_linear as linear
from experiments import weight_decay_record as records
from experiments.weight_decay_runs import Study, noisy_labels

pytestmark = pytest.mark.usefixtures("quick_compilation")
FLAGS = Path(cli.__file__).parent / "flags"
SEEDS, STEPS, EPOCHS = 2, 12, 4
TOY = (
    "--compilation_cache_dir=", "--devices=1", f"--num_seeds={SEEDS}", f"--steps={STEPS}",
    "--matches=3", "--descent_rate=0.5", "--samples=12", "--features=4", "--linear_steps=60",
    "--train_size=40", "--batch_size=20", "--widths=4", f"--epochs={EPOCHS}", "--rates=0.1,0.5",
    "--penalties=0.01,0.1", "--block=2",
)  # fmt: skip


def main(*argv):
    return run_main(weight_decay, *TOY, *argv)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weight_decay") / "run"
    status, out, err = main(f"--run_dir={folder}")
    assert status == 0, out + err
    return folder, xarray.load_dataset(folder / "record.nc"), out


@pytest.fixture(scope="module")
def record(finished):
    return finished[1]


# --- 1.1a: coupled and decoupled decay


RATE, DECAY, BETA = 0.05, 0.3, 0.8
MATRIX = np.array([[2.0, 0.3, 0.0], [0.3, 0.5, 0.1], [0.0, 0.1, 1.0]])
TARGET = np.array([1.0, -2.0, 0.5])
START = np.array([0.3, 1.0, -1.5])


def descend(optimizer, steps=100):
    """Weights [T + 1, 3] on a quadratic."""

    @jax.jit
    def run(start):
        def step(run, _):
            w, state = run
            updates, state = optimizer.update(MATRIX @ (w - TARGET), state, w)
            return (w + updates, state), w + updates

        return jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[1]

    return np.concatenate([START[None], run(jnp.asarray(START))])


def adam_steps(gradients):
    """The book's changes [T, n] for gradients[T, n]."""
    rates = np.full(len(gradients), RATE)
    return adaptive_reference.adam(lambda t, theta: gradients[t], np.zeros(3), rates)


def both(name, penalty, decay):
    plain = optimizers.make(name, RATE, momentum=BETA)
    return (
        descend(optimizers.coupled_decay(plain, penalty)),
        descend(optimizers.decoupled_decay(plain, RATE * decay)),
    )


@pytest.mark.parametrize(("form", "factor"), [(1.0, 1 - RATE * DECAY), (2.0, 1 - 2 * RATE * DECAY)])
@in_float64
def test_a_penalty_under_descent_multiplies_by_its_own_factor(form, factor):
    # form: lambda / 2 |w|^2 (the book) has the factor 1 - rate lambda, lambda |w|^2 (the source)
    # 1 - 2 rate lambda.
    w, expected = START, [START]
    for _ in range(100):
        w = factor * w - RATE * MATRIX @ (w - TARGET)
        expected.append(w)
    coupled, decoupled = both("sgd", form * DECAY, form * DECAY)
    np.testing.assert_allclose(coupled, expected, rtol=1e-12)
    np.testing.assert_allclose(decoupled, expected, rtol=1e-12)


@in_float64
def test_the_sources_penalty_does_not_decay_by_the_sources_factor():
    coupled, decoupled = both("sgd", 2 * DECAY, DECAY)
    assert np.abs(coupled - decoupled).max() > 0.01


@in_float64
def test_momentum_as_written_out():
    coupled, decoupled = both("momentum", DECAY, DECAY)
    for found, through in ((coupled, True), (decoupled, False)):
        w, v, expected = START, 0.0, [START]
        for _ in range(100):
            v = BETA * v - RATE * (MATRIX @ (w - TARGET) + through * DECAY * w)
            w = w + v - (not through) * RATE * DECAY * w
            expected.append(w)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    assert np.abs(coupled - decoupled).max() > 0.01


@in_float64
def test_momentum_shares_its_fixed_point_with_the_penalty_times_one_minus_beta():
    plain = optimizers.make("momentum", RATE, momentum=BETA)
    decoupled = descend(optimizers.decoupled_decay(plain, RATE * DECAY), 2000)[-1]
    coupled = descend(optimizers.coupled_decay(plain, DECAY * (1 - BETA)), 2000)[-1]
    ridge = np.linalg.solve(MATRIX + DECAY * (1 - BETA) * np.eye(3), MATRIX @ TARGET)
    np.testing.assert_allclose(decoupled, ridge, rtol=1e-12)
    np.testing.assert_allclose(coupled, ridge, rtol=1e-12)
    assert np.abs(descend(optimizers.coupled_decay(plain, DECAY), 2000)[-1] - ridge).max() > 0.01


@in_float64
def test_decoupled_adam_is_adamw_whose_decay_is_multiplied_by_the_rate():
    found = descend(optimizers.decoupled_decay(optimizers.make("adam", RATE), RATE * DECAY))
    library = optimizers.standard_promotion(optax.adamw(RATE, weight_decay=DECAY))
    np.testing.assert_allclose(found, descend(library), rtol=1e-12)
    # By hand: the book's Adam on the loss alone, and 1 - rate x decay.
    gradients = np.array([MATRIX @ (w - TARGET) for w in found[:-1]])
    expected = (1 - RATE * DECAY) * found[:-1] + adam_steps(gradients)
    np.testing.assert_allclose(found[1:], expected, rtol=1e-12)


@in_float64
def test_a_penalty_under_adam_goes_through_its_moments():
    found = descend(optimizers.coupled_decay(optimizers.make("adam", RATE), DECAY))
    gradients = np.array([MATRIX @ (w - TARGET) + DECAY * w for w in found[:-1]])
    np.testing.assert_allclose(np.diff(found, axis=0), adam_steps(gradients), rtol=1e-10)


@pytest.mark.parametrize("name", optimizers.NAMES)
@in_float64
def test_penalties_are_an_axis_of_one_program(name):
    traces = []

    def last(penalty):
        traces.append(penalty)
        optimizer = optimizers.coupled_decay(optimizers.make(name, RATE), penalty)
        w = jnp.asarray(START)
        return optimizer.update(MATRIX @ w, optimizer.init(w), w)[0]

    found = jax.jit(jax.vmap(last))(jnp.array([0.0, DECAY]))
    assert len(traces) == 1
    plain = optimizers.make(name, RATE)
    alone, _ = plain.update(MATRIX @ START, plain.init(jnp.asarray(START)))
    np.testing.assert_allclose(found[0], alone, rtol=1e-12)


# --- 1.1b: stopped descent against ridge


@pytest.mark.parametrize(
    ("step", "gap", "risk"),
    [(0.01, 0.205, 1.69), (0.1, 0.214, 1.75), (0.5, 0.275, 2.25), (1.0, 0.5, 4.0)],
)
def test_the_suprema_of_descent_with_steps(step, gap, risk):
    found = linear.suprema(step)
    assert found[0] == pytest.approx(gap, abs=6e-4)
    assert found[1] == pytest.approx(risk, abs=6e-3)
    # By brute force at this step alone, in plain powers.
    t = np.arange(1, 4000)
    s, r = 1 - (1 - step) ** t, step * t / (1 + step * t)
    assert np.abs(s - r).max() <= found[0] * (1 + 1e-12)
    assert np.square(s / r).max() <= found[1] * (1 + 1e-12)


def test_the_bounds_of_small_steps():
    x = np.geomspace(1e-3, 1e3, 400_001)
    gap = np.abs(1 / (1 + x) - np.exp(-x))
    assert gap.max() == pytest.approx(linear.GAP, abs=5e-5)
    assert x[gap.argmax()] == pytest.approx(linear.GAP_AT, abs=1e-3)
    assert np.square(-np.expm1(-x) * (1 + x) / x).max() == pytest.approx(linear.RISK, abs=5e-5)
    small = linear.suprema(1e-3)
    np.testing.assert_allclose(small, (linear.GAP, linear.RISK), rtol=1e-3)


def test_the_claims_thresholds_are_those_suprema():
    parts = {part.id: part for claim in weight_decay.CLAIMS for part in claim.parts}
    for id, supremum in zip(("1.1b1", "1.1b2"), linear.suprema(0.01), strict=True):
        assert supremum <= parts[id].threshold < supremum * (1 + 1e-3)


@given(st.floats(1e-6, 1.0), st.integers(1, 10**6))
def test_stopped_descent_is_near_ridge_and_less_biased(step, steps):
    descent, ridge = linear.descent_shrinkage(step, steps), linear.ridge_shrinkage(step * steps)
    assert abs(descent - ridge) <= 0.5 + 1e-12
    assert (descent / ridge) ** 2 <= 4 * (1 + 1e-12)
    assert descent >= ridge - 1e-12
    np.testing.assert_allclose(descent, 1 - (1 - step) ** steps, rtol=1e-9, atol=1e-15)


SETTINGS = {"samples": 15, "features": 4, "spectrum": 1.0, "noise": 2.0}


@pytest.fixture(scope="module")
def compared():
    with jax.enable_x64(True):
        key = jax.random.key(1)
        run = jax.jit(lambda key: linear.compare(key, beta=0.9, steps=300, **SETTINGS))
        found = jax.device_get(run(key))
        problem = jax.device_get(linear.draw(jax.random.fold_in(key, 0), **SETTINGS))
        start = np.asarray(jax.random.normal(jax.random.fold_in(key, 1), (4,)))
    return {name: np.asarray(value) for name, value in found.items()}, problem, start


def test_descent_by_steps_is_the_closed_form(compared):
    found, problem, start = compared
    times = linear.times(300)
    top = problem.eigenvalues[-1]
    into = problem.vectors.T
    solution = np.linalg.solve(problem.hessian, problem.slope)
    for i, case in enumerate(linear.CASES):
        if case.momentum:
            continue
        step = case.slope * case.step * problem.eigenvalues / top
        shrunk = linear.descent_shrinkage(np.minimum(step, 1), times[:, None])
        if case.slope * case.step <= 1:
            first = case.start * into @ start
            expected = shrunk + (1 - shrunk) * first / (into @ solution)
            np.testing.assert_allclose(found["descent_shrinkage"][i], expected, rtol=1e-9)


def test_ridge_is_the_solution_of_its_equations(compared):
    found, problem, _ = compared
    top, times = problem.eigenvalues[-1], linear.times(300)
    solution = np.linalg.solve(problem.hessian, problem.slope)
    for i, case in enumerate(linear.CASES):
        for t in (0, len(times) // 2, len(times) - 1):
            penalty = top / (case.step * times[t]) / (SETTINGS["samples"] if case.summed else 1)
            weights = np.linalg.solve(problem.hessian + penalty * np.eye(4), problem.slope)
            expected = problem.vectors.T @ weights / (problem.vectors.T @ solution)
            np.testing.assert_allclose(found["ridge_shrinkage"][i, t], expected, rtol=1e-9)


def test_the_expected_risk_is_the_mean_over_draws_of_the_noise(compared):
    found, problem, start = compared
    rng = np.random.default_rng(0)
    top, times = problem.eigenvalues[-1], linear.times(300)
    n, sigma = SETTINGS["samples"], SETTINGS["noise"]
    values, vectors = problem.eigenvalues, problem.vectors
    truth, t = vectors.T @ problem.truth, len(times) // 2
    draws = rng.normal(size=(200_000, 4)) * sigma * np.sqrt(values / n)  # of X'noise / n
    solutions = truth + draws / values
    for i, case in enumerate(linear.CASES):
        if case.momentum or case.step == 1:
            continue
        shrunk = linear.descent_shrinkage(case.slope * case.step * values / top, times[t])
        first = case.start * vectors.T @ start
        weights = solutions * shrunk + first * (1 - shrunk)
        loss = ((weights - truth) ** 2 * values).sum(1)
        assert found["descent_risk"][i, t] == pytest.approx(loss.mean(), rel=0.02)


def test_the_bounds_hold_on_the_measured_descent(compared):
    found = compared[0]
    for i, case in enumerate(linear.CASES[:4]):
        gap, risk = linear.suprema(case.step)
        assert np.abs(found["descent_shrinkage"] - found["ridge_shrinkage"])[i].max() <= gap + 1e-9
        assert (found["descent_risk"] / found["ridge_risk"])[i].max() <= risk + 1e-9


# --- the record


def test_the_record_has_every_variable_with_unit_and_long_name(record):
    for name, (dims, _, _) in records.VARIABLES.items():
        assert record[name].dims == ("seed", *dims), name
    for name in record:
        assert record[name].attrs["units"], name
        assert record[name].attrs["long_name"], name
    assert record.sizes["epoch"] == EPOCHS + 1
    assert record.sizes["step"] == STEPS
    arms = {arm for claim in weight_decay.CLAIMS for part in claim.parts for arm in part.arms}
    assert arms <= set(record.arm.values)
    assert np.all(record["diverged_step"] == -1)
    for name in ("tune_loss", "test_error", "distance", "norm", "plane_end"):
        assert np.isfinite(record[name]).all(), name


def test_trajectories_are_those_of_the_algebra(record):
    assert np.all(claims.distance_of_descent(record) < 1e-12)
    np.testing.assert_allclose(claims.source_excess(record), 1, rtol=1e-9)
    np.testing.assert_allclose(claims.book_excess(record), 0, atol=1e-12)
    for name in ("momentum", "adam"):
        assert np.all(claims.largest_distance(record, name) > 1e-3)
    assert np.all(claims.end_distance(record) < 1e-12)
    assert np.all(claims.end_distance_unmatched(record) > 1e-3)
    end = record["plane_end"].sel(optimizer="momentum", path="decoupled")
    np.testing.assert_allclose(end.values, record["plane_ridge"].values, rtol=1e-9)
    end = record["plane_end"].sel(optimizer="sgd", path="none")
    np.testing.assert_allclose(end.values, record["plane_minimum"].values, rtol=1e-9)


def test_two_penalties_of_one_strength_are_one_run():
    """The penalty lambda |w|^2 is lambda' / 2 |w|^2 with lambda' = 2 lambda."""
    source = weight_decay.Config(penalties=(0.5, 1.0))
    book = weight_decay.Config(penalties=(1.0, 2.0), reading="book")
    assert source.strengths == book.strengths == (1.0, 2.0)


def test_a_lone_seed_repeats_the_numbers_and_every_program_is_traced_once(record, monkeypatch):
    made, over_seeds = [], Study.over_seeds

    def counted(self, *arguments, **named):
        made.append(over_seeds(self, *arguments, **named))
        return made[-1]

    monkeypatch.setattr(Study, "over_seeds", counted)
    (config, _), _ = flagging.parse(TOY, weight_decay.Config, cli.Options)
    data = weight_decay.load(config)
    alone = weight_decay.run(config, data, NullHost(Layout(), only=range(1, 2)))
    assert len(made) == 3 + 1 + 1 + 3
    assert all(program.traces == 1 for program in made)
    whole = record.sel(seed=[1])
    for name in alone.data_vars:
        assert alone[name].values.tobytes() == whole[name].values.tobytes(), name


def test_wrong_labels_are_so_many_and_wrong():
    labels = jnp.arange(50, dtype=jnp.int32) % 10
    draw = jax.jit(jax.vmap(lambda key: noisy_labels(key, labels, 0.3, 10)))
    noisy = np.asarray(draw(jax.random.split(jax.random.key(0), 20)))
    assert np.all((noisy != np.asarray(labels)).sum(1) == 15)
    assert noisy.min() == 0
    assert noisy.max() == 9
    assert len({row.tobytes() for row in noisy}) == 20


# --- claims on a record whose numbers are known


def example(seeds=20):
    """Two rates, two penalties, four epochs; see EXPECTED."""
    rng = np.random.default_rng(0)
    shape = (seeds, 2, 3, 5)
    tune = 2 + rng.random(shape)
    tune[:, 1, 0, 3] = 0.5  # stopped: rate 1, epoch 3
    tune[:, 0, 2, 4] = 1.0  # penalised: rate 0, penalty 2
    tune[:, 1, 1, 4] = 1.5  # decayed, at rate 1: penalty 1
    tune[:, 0, 0, 4] = 1.2  # neither: rate 0
    tune[:, 1, 1, 2] = 0.1  # the penalised runs are not stopped
    tune[:, 1, 2, 4] = np.nan
    error = np.full(shape, 0.9)
    error[:, 1, 0, 3], error[:, 0, 2, 4], error[:, 0, 0, 4] = 0.15, 0.14, 0.3
    norm = np.full(shape, 5.0)
    norm[:, 1, 0] = [1, 2, 3, 4, 5]
    norm[:, 1, 1] = [1, 2, 2, 2, 2]
    four = ("seed", "rate", "penalty", "epoch")
    ones = np.ones((seeds, 2, 3, 4))
    return xarray.Dataset(
        {
            "tune_loss": (four, tune), "test_error": (four, error), "norm": (four, norm),
            "descent_shrinkage": (("seed", "case", "time", "direction"), 0.5 * ones[:, :, :, :2]),
            "ridge_shrinkage": (("seed", "case", "time", "direction"), 0.3 * ones[:, :, :, :2]),
            "diverged_step": (("arm", "seed"), np.full((6, seeds), -1)),
        },
        {"seed": np.arange(seeds), "penalty": [0.0, 0.1, 0.2], "case": ["gd", "no_half"],
         "arm": ["sgd", "momentum", "adam", "linear", "stopping", "penalty"]},
    )  # fmt: skip


EXPECTED = {
    claims.error_difference: 0.01,
    claims.error_difference_neither: 0.16,
    claims.share_below: 0.75,
    claims.norm_at_stop: 0,
    claims.shrinkage_gap: 0.2,
}


@pytest.mark.parametrize("statistic", EXPECTED, ids=lambda s: s.__name__)
def test_a_statistic_is_the_number_read_off(statistic):
    found = np.asarray(statistic(example()), float)
    np.testing.assert_allclose(found, np.full(20, EXPECTED[statistic]), atol=1e-12)


def test_verdicts_follow_the_record():
    found = {v.id: v for v in judge(weight_decay.CLAIMS, example())}
    assert found["1.1b4"].verdict == "conditional"
    assert found["1.1d1"].verdict == "refuted"
    assert found["1.1d2"].verdict == "supported"
    assert found["1.1a4"].verdict == "inconclusive"


def test_source_and_book_are_judged_beside_each_other(record):
    found = {v.id: v for v in judge(weight_decay.CLAIMS, record)}
    factor = found["1.1a2"]
    assert (factor.reading, factor.verdict) == ("source", "refuted")
    assert factor.effect == pytest.approx(1)
    assert (factor.other_reading.reading, factor.other_reading.verdict) == ("book", "supported")
    for id in ("1.1a1", "1.1a3"):
        assert found[id].verdict == "conditional"


# --- figures, folder, settings


def test_the_folder_holds_every_figure(finished):
    folder, _, out = finished
    shown = {part.figure for claim in weight_decay.CLAIMS for part in claim.parts}
    names = {"plane", "trajectories", "distances", "shrinkage", "risk", "acting_penalty", "paths",
             "norms"}  # fmt: skip
    assert shown <= names
    for name in names:
        assert (folder / "figures" / f"{name}.svg").stat().st_size > 1000
        assert (folder / "figures" / f"{name}.png").stat().st_size > 1000
    assert "1.1b4" in out


def test_a_run_that_explodes_is_named_and_drawn(record):
    broken = record.copy(deep=True)
    for name in ("tune_loss", "test_error", "norm", "distance", "match_distance", "descent_risk",
                 "descent_shrinkage", "nearest"):  # fmt: skip
        broken[name] = broken[name] * np.nan
    assert [name for name, _ in weight_decay.figures(broken)]
    verdicts = {v.id: v.verdict for v in judge(weight_decay.CLAIMS, broken)}
    assert verdicts["1.1d1"] == verdicts["1.1a4"] == verdicts["1.1b4"] == "inconclusive"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--penalties=0.1,-0.1"], "penalties"),
        (["--penalties=0"], "penalties"),
        (["--penalties="], "--penalties=: must name at least one"),
        (["--penalties=0.1,0.1"], "must not repeat"),
        (["--rates="], "--rates=: must name at least one"),
        (["--rates=0"], "rates"),
        (["--rates=-1"], "rates"),
        (["--decay=-0.1"], "decay"),
        (["--descent_rate=0"], "descent_rate"),
        (["--adam_rate=0"], "adam_rate"),
        (["--matches=1"], "matches"),
        (["--momentum=1"], "momentum"),
        (["--features=13"], "features=13: must be at most 12"),
        (["--batch_size=41"], "batch_size=41: must be at most 40"),
        (["--widths="], "--widths=: must name at least one"),
        (["--reading=both"], "reading"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(argv, words, tmp_path):
    folder = tmp_path / "run"
    status, _, err = main(f"--run_dir={folder}", *argv)
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not folder.exists()
