"""`ill_posed`: its algebra and its flow against closed forms, its claims, figures and settings."""

import contextlib
import json
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import xarray
from running import run_main
from scipy.special import expit, wrightomega

from dlstudy import sweep
from dlstudy.claims import judge
from dlstudy.host import Layout, NullHost
from experiments import cli, ill_posed
from experiments import ill_posed_claims as claims
from experiments import ill_posed_flow as flow
from experiments import ill_posed_problems as problems
from experiments import ill_posed_record as records
from experiments import ill_posed_runs as runs

pytestmark = pytest.mark.usefixtures("quick_compilation")
FLAGS = Path(cli.__file__).parent / "flags"
SEEDS = 2
TOY = (
    "--compilation_cache_dir=", "--devices=1", f"--num_seeds={SEEDS}", "--points=8",
    "--penalties=0.01,0.1", "--log_time=20", "--steps_per_unit=5", "--descent_steps=30",
    "--rows=4", "--columns=9", "--steps=600", "--adam_rate=0.1", "--new_samples=30",
    "--ridges_per_decade=1",
)  # fmt: skip


def main(*argv):
    return run_main(ill_posed, *TOY, *argv)


@pytest.fixture(scope="module")
def programs():
    """Every program over seeds of `finished`, in the order in which they were made."""
    return []


@pytest.fixture(scope="module")
def finished(tmp_path_factory, programs):
    folder = tmp_path_factory.mktemp("ill_posed") / "run"
    over_seeds = sweep.over_seeds

    def noted(*arguments, **options):
        programs.append(over_seeds(*arguments, **options))
        return programs[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "over_seeds", noted)
        status, out, err = main(f"--run_dir={folder}")
    assert status == 0, out + err
    return folder, xarray.load_dataset(folder / "record.nc"), out


@pytest.fixture(scope="module")
def record(finished):
    return finished[1]


@pytest.fixture(scope="module")
def drawn():
    """The problems of three seeds of the default size."""
    with jax.enable_x64(True):
        return runs.Study(ill_posed.Config(), NullHost(Layout()), range(3)).arrays


# --- the hard margin


def test_the_margin_of_two_points_is_half_their_distance():
    w, margin = problems.hard_margin(np.array([[1.0, 1.0], [1.0, -1.0], [3.0, 0.5]]))
    np.testing.assert_allclose(w, [1, 0], atol=1e-14)
    np.testing.assert_allclose(margin, 1, rtol=1e-14)


def test_points_that_nothing_separates_have_no_margin():
    w, margin = problems.hard_margin(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]))
    assert np.isnan(margin)
    assert np.isnan(w).all()


def test_the_margin_is_that_of_a_quadratic_program(drawn):
    for signed in drawn.signed:
        w, margin = problems.hard_margin(signed)
        found = scipy.optimize.minimize(
            lambda v: v @ v / 2, np.zeros(signed.shape[1]), jac=lambda v: v, method="SLSQP",
            constraints={"type": "ineq", "fun": lambda v, a=signed: a @ v - 1,
                         "jac": lambda v, a=signed: a},
            options={"ftol": 1e-15, "maxiter": 500},
        )  # fmt: skip
        np.testing.assert_allclose(w, found.x, rtol=1e-6)
        np.testing.assert_allclose((signed @ w).min(), 1, rtol=1e-12)  # feasible, and touches
        np.testing.assert_allclose(margin, (signed @ w).min() / np.linalg.norm(w), rtol=1e-12)


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 4))
def test_no_direction_has_a_larger_margin(seed, points, size):
    rng = np.random.default_rng(seed)
    signed = rng.normal(size=(points, size)) + 1.5
    _, margin = problems.hard_margin(signed)
    directions = rng.normal(size=(500, size)) + 1
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    best = (directions @ signed.T).min(1).max()
    assert best <= (0 if np.isnan(margin) else margin) + 1e-9


# --- the stabilised inverse


def test_the_pseudoinverse_obeys_the_four_conditions(drawn):
    for x, inverse in zip(drawn.x, problems.pseudoinverse(drawn.x), strict=True):
        np.testing.assert_allclose(inverse, np.linalg.pinv(x), rtol=1e-11, atol=1e-14)
        np.testing.assert_allclose(x @ inverse @ x, x, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(inverse @ x @ inverse, inverse, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(x @ inverse, (x @ inverse).T, atol=1e-13)
        np.testing.assert_allclose(inverse @ x, (inverse @ x).T, atol=1e-13)


def test_both_forms_are_the_inverse_by_singular_values(drawn):
    u, sizes, vt = np.linalg.svd(drawn.x, full_matrices=False)
    expected = np.swapaxes(vt, 1, 2) * (sizes / (sizes**2 + 3.0))[:, None] @ np.swapaxes(u, 1, 2)
    for form in problems.FORMS:
        found = problems.stabilised_inverse(drawn.x, np.full(3, 3.0), form)
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-14)
        # However ill-posed the problem, its norm is at most 1 / (2 sqrt(ridge)).
        assert np.linalg.norm(found, 2, axis=(1, 2)).max() <= 0.5 / np.sqrt(3.0)


def test_the_error_is_the_closed_form_with_the_constant_one_over_the_cube(drawn):
    ridges = np.array([1e-3, 1.0, 50.0])
    found = problems.inverse_errors(drawn.x, ridges)
    s = np.linalg.svd(drawn.x, compute_uv=False)[:, -1:]
    np.testing.assert_allclose(found["smallest"][:, None], s, rtol=1e-13)
    expected = ridges / (s * (s**2 + ridges))
    np.testing.assert_allclose(found["dual"], expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found["primal"][:, 1:], expected[:, 1:], rtol=1e-12, atol=1e-14)
    # For small ridges: proportional to the ridge, by 1 / s^3, up to ridge / s^2. The error is a
    # difference, whose rounding (1e-15, as above) counts for more the smaller it is.
    theory = 1e-3 / s[:, 0] ** 3
    excess = found["dual"][:, 0] - theory / (1 + 1e-3 / s[:, 0] ** 2)
    assert np.all(np.abs(excess) <= 1e-12 * theory + 1e-15)


def test_the_primal_form_loses_its_digits_and_the_dual_does_not(drawn):
    found = problems.inverse_errors(drawn.x, np.array([1e-5, 1e-10]))
    s = found["smallest"][:, None]
    theory = np.array([1e-5, 1e-10]) / s**3
    np.testing.assert_allclose(found["dual"], theory, rtol=1e-3)
    np.testing.assert_allclose(found["primal"][:, 0], theory[:, 0], rtol=1e-2)
    assert np.all(found["primal"][:, 1] > 100 * theory[:, 1])


def test_a_matrix_without_an_inverse_is_nan_and_leaves_the_others_alone():
    matrices = np.stack([np.zeros((2, 2)), 2 * np.eye(2)])
    found = problems.solve(matrices, np.ones((2, 2, 1)))
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1], 0.5)


# --- whitening


def test_whitening_gives_unit_variance_where_the_rank_is_full():
    train = np.random.default_rng(0).normal(size=(1, 40, 5)) * [1, 2, 3, 4, 5]
    found = problems.whitening(train, train, [0.0, 2.0])
    values = np.linalg.eigvalsh(np.cov(train[0].T, bias=True))
    np.testing.assert_allclose(found["train_variance"][0, 0], 1, rtol=1e-12)
    np.testing.assert_allclose(found["new_variance"][0, 0], 1, rtol=1e-12)
    np.testing.assert_allclose(found["train_variance"][0, 1], values[-1] / (values[-1] + 2))
    expected = np.sqrt((values[-1] + 2) / (values[0] + 2))
    np.testing.assert_allclose(found["condition"][0, 1], expected, rtol=1e-12)
    assert not found["without_root"].any()


@hypothesis.given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e3))
def test_stabilised_whitening_is_bounded(seed, stabiliser):
    rng = np.random.default_rng(seed)
    train, new = rng.normal(size=(1, 4, 7)), rng.normal(size=(1, 9, 7)) * rng.uniform(0, 9, 7)
    found = problems.whitening(train, new, [stabiliser])
    assert found["train_variance"] <= 1 + 1e-9
    assert found["new_variance"] <= found["largest_new"] / stabiliser * (1 + 1e-8)
    # Three directions have variance: the others' gain is 1 / sqrt(stabiliser), no more.
    assert not found["without_root"].any()


# --- the flow


def integrate(signed, penalty, end, per_unit):
    """Points [steps, P] of the flow at the ends of its steps, and their ln t."""
    steps = round((end - flow.FIRST) * per_unit)
    ends = np.linspace(flow.FIRST, end, steps + 1)[1:]
    width = (end - flow.FIRST) / steps
    with jax.enable_x64(True):

        def step(state, at):
            state, row = flow.advance(jnp.asarray(signed), penalty, state, at - width, width)
            return state, (state.w, row["newton"])

        start = flow.begin(jnp.asarray(signed))
        found, newton = jax.jit(lambda s, e: jax.lax.scan(step, s, e)[1])(start, ends)
    assert np.asarray(newton).max() < 1e-9
    return np.asarray(found), ends


def test_the_flow_of_one_point_is_its_closed_form_up_to_e_to_the_hundredth():
    # With one point the margin m obeys dm/dt = c^2 / (1 + e^m), so m + e^m = 1 + c^2 t.
    c = 0.7
    errors = []
    for per_unit in (10, 20):
        found, log_time = integrate([[c]], 0.0, 100.0, per_unit)
        exact = np.log(np.real(wrightomega(1 + c**2 * np.exp(log_time))))  # e^m = omega
        errors.append(np.abs(c * found[:, 0] - exact).max())
    assert errors[0] < 2e-3
    assert errors[0] > 3 * errors[1]  # of second order


@pytest.mark.parametrize("penalty", [0.0, 1e-2])
def test_the_flow_is_that_of_an_independent_integrator(drawn, penalty):
    signed = drawn.signed[0]

    def right(s, w):
        t = np.exp(s)
        return t * (expit(-signed @ w) @ signed / len(signed) - penalty * w)

    found, log_time = integrate(signed, penalty, 8.0, 40)
    start = np.exp(-20.0) * signed.mean(0) / 2
    exact = scipy.integrate.solve_ivp(
        right, (-20, 8), start, "Radau", log_time, rtol=1e-10, atol=1e-12
    ).y.T
    np.testing.assert_allclose(found, exact, atol=2e-3 * np.abs(exact).max())
    np.testing.assert_allclose(found[-1], exact[-1], rtol=1e-3)


def test_gradient_descent_follows_the_flow(drawn):
    signed = drawn.signed[1]
    with jax.enable_x64(True):
        norms = runs.descend(jnp.asarray(signed), 0.01, 5000)
    found, log_time = integrate(signed, 0.0, np.log(50.0), 40)
    steps = runs.moments(5000)[1:]
    at = np.log(0.01 * steps)
    late = at > -1
    expected = np.interp(at[late], log_time, np.linalg.norm(found, axis=1))
    np.testing.assert_allclose(norms[1:][late], expected, rtol=1e-2)
    np.testing.assert_allclose(norms[-1], np.linalg.norm(found[-1]), rtol=1e-3)


def test_with_a_penalty_the_flow_ends_at_the_one_minimum(drawn):
    signed, penalty = drawn.signed[2], 1e-4

    def gradient(w):
        return penalty * w - expit(-signed @ w) @ signed / len(signed)

    found, _ = integrate(signed, penalty, 40.0, 10)
    exact = scipy.optimize.root(gradient, found[-1] * 0.9, tol=1e-14).x
    np.testing.assert_allclose(found[-1], exact, rtol=1e-9)
    assert np.linalg.norm(found, axis=1).max() <= np.sqrt(2 * np.log(2) / penalty)


def test_the_slope_is_one_over_the_margin_and_the_ratio_is_not(drawn):
    for signed in drawn.signed:
        found, log_time = integrate(signed, 0.0, 100.0, 10)
        norm = np.linalg.norm(found, axis=1)
        _, margin = problems.hard_margin(signed)
        slope = (norm[-1] - norm[-100]) / (log_time[-1] - log_time[-100])
        np.testing.assert_allclose(slope * margin, 1, rtol=5e-3)
        assert abs(norm[-1] / log_time[-1] * margin - 1) > 5 * abs(slope * margin - 1)


# --- solutions by steps


def test_the_ends_of_gradient_descent_are_known(drawn):
    config = ill_posed.Config(steps=3000)
    x, y, other = drawn.x[0], drawn.y[0], drawn.other[0]
    inverse = problems.pseudoinverse(x)
    with jax.enable_x64(True):
        found = runs.solve_by_steps(config, *(jnp.asarray(a) for a in (x, y, other, inverse @ y)))
    ends = dict(zip(runs.SOLVERS, np.asarray(found["ends"]), strict=True))
    unseen = other - inverse @ (x @ other)
    exact = dict(rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(ends["gradient_descent"], inverse @ y, **exact)
    np.testing.assert_allclose(ends["other_start"], inverse @ y + unseen, **exact)
    ridge = np.linalg.solve(x.T @ x + config.ridge * np.eye(len(x.T)), x.T @ y)
    np.testing.assert_allclose(ends["weight_decay"], ridge, **exact)
    np.testing.assert_allclose(ends["weight_decay_other"], ridge, rtol=1e-9, atol=1e-9)
    assert found["distance"].shape == (5, len(runs.moments(3000)))
    np.testing.assert_allclose(found["distance"][[0, 2, 4], 0], 1, rtol=1e-12)
    np.testing.assert_allclose(x @ ends["adam"], y, rtol=1e-6, atol=1e-6)
    outside = ends["adam"] - inverse @ (x @ ends["adam"])
    assert np.linalg.norm(outside) > 0.01 * np.linalg.norm(inverse @ y)


def test_a_way_is_the_recursion_by_hand(drawn):
    config = ill_posed.Config(steps=10, ridge=2.0)
    x, y, other = drawn.x[1], drawn.y[1], drawn.other[1]
    shortest = problems.pseudoinverse(x) @ y
    with jax.enable_x64(True):
        found = runs.solve_by_steps(config, *(jnp.asarray(a) for a in (x, y, other, shortest)))
    rate = 1 / np.linalg.eigvalsh(x.T @ x)[-1]
    for solver, w, ridge in ((1, other, 0.0), (2, 0 * other, 2.0)):
        for step in range(11):
            kept = np.flatnonzero(runs.moments(10) == step)
            away = np.linalg.norm(w - shortest) / np.linalg.norm(shortest)
            np.testing.assert_allclose(found["distance"][solver, kept], away, rtol=1e-12)
            w = w - rate * (x.T @ (x @ w - y)) - rate * ridge * w


# --- the run


def test_the_record_has_every_variable_with_unit_and_long_name(record):
    assert set(record) == {*records.VARIABLES, "diverged_step"}
    for name in record:
        assert record[name].attrs["units"], name
        assert record[name].attrs["long_name"], name
        assert name == "inverse_error" or np.isfinite(record[name]).all(), name
    for name, (dims, _) in records.VARIABLES.items():
        assert record[name].dims == dims
        assert record[name].dtype == np.float64
    assert list(record.arm.values) == list(records.ARMS)
    named = {arm for c in ill_posed.CLAIMS for part in c.parts for arm in part.arms}
    assert named <= set(records.ARMS)
    assert np.all(record["diverged_step"] == -1)
    assert record["penalty"].values.tolist() == [0, 0.01, 0.1]
    np.testing.assert_allclose(record["log_time"][[-1]], 20)


def test_each_program_is_traced_once(record, programs):
    # Drawing, start and blocks of the flow, gradient descent, solvers: grids are axes of each.
    assert [program.traces for program in programs] == [1, 1, 1, 1, 1]


def test_the_stabilised_solution_of_the_record_is_weight_decays(record):
    assert np.all(record["from_ridge"].sel(solver=["weight_decay"]) < 1e-9)
    assert np.all(record["unseen"].sel(solver="gradient_descent") < 1e-12)


def test_figures_and_verdicts_are_there(finished):
    folder, _, out = finished
    for name in ("growth", "solutions", "inverse", "whitening"):
        for ending in ("svg", "png"):
            assert (folder / "figures" / f"{name}.{ending}").stat().st_size > 1000
    shown = {c.figure for claim in ill_posed.CLAIMS for c in claim.parts}
    assert shown == {"growth", "solutions", "inverse", "whitening"}
    verdicts = json.loads((folder / "claims.json").read_text())
    assert verdicts
    assert "1.3d" in out


@pytest.mark.usefixtures("without_figures")
def test_a_seed_alone_interrupted_and_resumed_repeats_its_numbers(record, tmp_path, monkeypatch):
    arguments = f"--run_dir={tmp_path / 'run'}", "--only_seed=1"
    report = cli.consoles.PlainConsole.report
    calls = []

    def interrupt(self, row):
        calls.append(1)
        report(self, row)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cli.consoles.PlainConsole, "report", interrupt)
        with contextlib.suppress(KeyboardInterrupt):
            main(*arguments)
    assert not (tmp_path / "run" / "record.nc").exists()
    status, out, err = main(*arguments)
    assert status == 0, out + err
    alone = xarray.load_dataset(tmp_path / "run" / "record.nc")
    for name in record:
        own = record[name].sel(seed=[1])
        assert alone[name].values.tobytes() == own.values.tobytes(), name


@pytest.mark.parametrize("failed", [[1], [0, 1]])
def test_arms_that_fail_are_left_out_of_figures_and_claims(record, failed):
    broken = record.copy(deep=True)
    broken["diverged_step"].loc[{"seed": failed}] = 0
    broken["distance"].loc[{"seed": failed}] = np.nan
    for name, figure in ill_posed.figures(broken):
        figure.draw_without_rendering()
        assert "left out" in figure.get_supxlabel(), name
    for verdict in judge(ill_posed.CLAIMS, broken):
        assert verdict.kind == "compound" or set(verdict.diverged) == set(failed)


def test_what_is_not_finite_has_failed(record):
    found = {name: record[name].values.copy() for name in records.VARIABLES}
    arms = list(records.ARMS)
    assert np.all(records.diverged(found) == -1)
    found["norm"][2, 0, 5] = np.inf
    found["newton"][0, 1] = 1e-3
    found["distance"][4, 1, -1] = np.nan
    found["inverse_error"][1, 0] = np.nan
    found["inverse_error"][0, 0, 0] = np.nan  # one ridge of many
    failed = np.argwhere(records.diverged(found) == 0).tolist()
    assert sorted((arms[arm], seed) for arm, seed in failed) == [
        ("adam", 1), ("flow", 1), ("flow_decay", 0), ("primal", 0),
    ]  # fmt: skip


# --- claims on a record whose numbers are known


def example(seeds=20):
    """Late slope 4, margin 1/4, and so on; see the tests below."""
    log_time = np.linspace(-8, 100, 217)
    rising, flat = 4 * np.maximum(log_time, 0) - 7, np.minimum(np.maximum(log_time, 0), 3)
    ridge = np.logspace(-16, 2, 19)
    smallest = 2.0
    theory = ridge / (smallest * (smallest**2 + ridge))
    put = lambda values: np.tile(np.asarray(values, float), (seeds, 1))  # noqa: E731
    ways = np.ones((5, seeds, 2))
    ways[0, :, -1] = 1e-14
    variables = {
        "norm": (("penalty", "seed", "log_time"), np.stack([put(rising), put(flat)])),
        "margin": ("seed", np.full(seeds, 0.25)),
        "between_starts": (("decayed", "seed"), np.stack([np.ones(seeds), np.full(seeds, 1e-9)])),
        "from_ridge": (("solver", "seed"), np.full((5, seeds), 1e-13)),
        "unseen": (("solver", "seed"), np.full((5, seeds), 0.3)),
        "distance": (("solver", "seed", "step"), ways),
        "residual": (("solver", "seed", "step"), np.full((5, seeds, 2), 1e-9)),
        "inverse_error": (("form", "seed", "ridge"),
                          np.stack([put(theory), put(theory + 1e-14 / ridge)])),
        "smallest": ("seed", np.full(seeds, smallest)),
        "new_variance": (("seed", "stabiliser"), put([1e16, 10])),
        "diverged_step": (("arm", "seed"), np.full((len(records.ARMS), seeds), -1)),
    }  # fmt: skip
    coords = {
        "arm": list(records.ARMS), "seed": np.arange(seeds), "penalty": [0, 0.1],
        "log_time": log_time, "decayed": [0, 1], "solver": list(runs.SOLVERS), "step": [0, 9],
        "form": list(problems.FORMS), "ridge": ridge, "stabiliser": [0, 0.1],
    }  # fmt: skip
    return xarray.Dataset(variables, coords, {"main_stabiliser": 0.1})


EXPECTED = {
    claims.growth: 0,
    claims.growth_left: 0,
    claims.bound_used: 3 / np.sqrt(20 * np.log(2)),
    claims.apart_without: 1,
    claims.apart_with: 1e-9,
    claims.beyond_decay: 1e-13,
    claims.variance_without: 16,
    claims.variance_with: 1,
    claims.constant_dual: 1 / (1 + 0.01 / 4) - 1,  # at the largest ridge below 0.04
    claims.from_zero: 1e-14,
    claims.from_another_start: 1,
    claims.adam_unseen: 0.3,
}


@pytest.mark.parametrize("statistic", EXPECTED, ids=lambda s: s.__name__)
def test_a_statistic_is_the_number_read_off(statistic):
    found = np.asarray(statistic(example()), float)
    assert found.shape == (20,)
    np.testing.assert_allclose(found, EXPECTED[statistic], rtol=1e-9, atol=1e-12)


def test_slopes_are_those_of_the_two_forms():
    np.testing.assert_allclose(claims.slope_dual(example()), 0, atol=1e-3)
    assert np.all(claims.slope_primal(example()) < -0.5)


def test_verdicts_follow_the_record():
    found = {v.id: v for v in judge(ill_posed.CLAIMS, example())}
    assert found["1.3c"].verdict == "supported"
    assert found["1.3c5"].other_reading.verdict == "refuted"
    assert found["1.3d"].verdict == "conditional"
    assert found["1.3d1"].verdict == found["1.3d3"].verdict == "conditional"
    assert found["1.3d4"].verdict == "supported"
    broken = example()
    broken["margin"] = 1.1 * broken["margin"]
    broken["inverse_error"] = np.sqrt(broken["inverse_error"])
    broken["residual"] = broken["residual"] + 1
    found = {v.id: v.verdict for v in judge(ill_posed.CLAIMS, broken)}
    assert found["1.3c1"] == found["1.3c"] == "refuted"
    assert found["1.3d1"] == "refuted"
    assert found["1.3d4"] == "inconclusive"


# --- settings


def test_the_ridges_and_log_times_are_as_asked():
    config = ill_posed.Config(lowest_ridge=1e-3, highest_ridge=10.0, ridges_per_decade=1)
    np.testing.assert_allclose(config.ridges, [1e-3, 1e-2, 0.1, 1, 10])
    times = config.log_times.ravel()
    np.testing.assert_allclose(np.diff(times), times[1] - times[0])
    assert 0 < times[0] - flow.FIRST <= 1 / config.steps_per_unit
    assert times[-1] == config.log_time


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--ridge=0"], "--ridge=0: must be greater than 0"),
        (["--ridge=-1"], "--ridge=-1: must be greater than 0"),
        (["--stabiliser=0"], "stabiliser"),
        (["--lowest_ridge=0"], "lowest_ridge"),
        (["--lowest_ridge=99"], "--highest_ridge=100.0: must be at least ten times 99.0"),
        (["--penalties=0.1,0"], "penalties"),
        (["--penalties=-0.1"], "penalties"),
        (["--penalties="], "must name at least one"),
        (["--penalties=0.1,0.1"], "must not repeat"),
        (["--penalties=1e-9"], "--log_time=20.0: must be at least 29"),
        (["--rows=9"], "--rows=9: must be less than 9"),
        (["--rows=50"], "would not be singular"),
        (["--gap=0"], "gap"),
        (["--log_time=1000"], "log_time"),
        (["--adam_rate=0"], "adam_rate"),
        (["--steps=0"], "steps"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(argv, words, tmp_path):
    folder = tmp_path / "run"
    status, _, err = main(f"--run_dir={folder}", *argv)
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not folder.exists()
