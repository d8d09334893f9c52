"""`adaptive` at toy size: its problems against closed forms, statistics, figures, settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from oracles.precision import in_float64
from running import run_main

from dlstudy.claims import judge
from dlstudy.host import Layout, NullHost
from dlstudy.optimizers import make
from experiments import adaptive, flagging
from experiments import adaptive_claims as claims
from experiments import adaptive_networks as networks
from experiments import adaptive_problem_statistics as on
from experiments import adaptive_problems as problems
from experiments import adaptive_record as records
from experiments import adaptive_runs as runs
from experiments import adaptive_statistics as of

pytestmark = pytest.mark.usefixtures("quick_compilation")
TOY = (
    "--compilation_cache_dir=", "--devices=1", "--num_seeds=2", "--repeats=2", "--widths=5",
    "--optimizers=sgd,momentum,adam,adam_uncorrected", "--train_size=60", "--batch_size=20",
    "--epochs=2", "--early_steps=5", "--rates=0.01,10", "--rates_per_decade=1", "--trials=5",
    "--scale_size=20", "--scale_steps=4", "--loss_scales=0.001,1,1000", "--feature_scales=0.5,1,2",
    "--steps=200", "--reddi_steps=2000", "--wilson_samples=12", "--wilson_steps=1500",
    "--track_steps=200", "--track_size=2", "--quadratic_size=3", "--quadratic_steps=120",
    "--condition=10",
)  # fmt: skip
CONFIG = adaptive.Config()


def main(*argv):
    return run_main(adaptive, *TOY, *argv)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adaptive") / "run"
    status, out, err = main(f"--run_dir={folder}")
    assert status == 0, out + err
    return folder, xarray.load_dataset(folder / "record.nc"), out


@pytest.fixture(scope="module")
def record(finished):
    return finished[1]


# --- the run


def test_the_record_has_every_variable_with_unit_and_long_name(record):
    assert set(record) == {*records.VARIABLES, "diverged_step"}
    for name in record:
        assert record[name].attrs["units"], name
        assert record[name].attrs["long_name"], name
    for name, (dims, *_) in records.VARIABLES.items():
        assert record[name].dims == dims
    named = {arm for c in adaptive.CLAIMS for part in c.parts for arm in part.arms}
    assert named <= set(record["arm"].values.tolist())


def test_a_seed_alone_is_the_seed_among_others(record):
    """One stage of each kind: the others are made in the same way."""
    (config,), _ = flagging.parse([*TOY[2:], "--optimizers=momentum"], adaptive.Config)
    study = runs.Study(config, adaptive.load(config), NullHost(Layout()), [1])
    found = study.solve("steps", problems.unit_steps) | study.run_conformance()
    (momentum,), search = study.compile(None)
    found |= study.run_rates([momentum])[0]
    (found["search_test_error"],) = (row["test_error"] for row in study.run_search(search[:1]))
    for name, alone in found.items():
        if name in records.VARIABLES:
            among = record[name].sel(seed=[1]).transpose("seed", ...)
            if name.startswith("search"):
                among = among.sel(space=["sgd", "momentum"])
            if "optimizer" in among.dims:
                among = among.sel(optimizer="momentum")
            np.testing.assert_array_equal(alone, among, err_msg=name)


def test_figures_and_verdicts_are_there(finished):
    folder, _, out = finished
    shown = {c.figure for claim in adaptive.CLAIMS for c in claim.parts}
    for name in shown:
        assert (folder / "figures" / f"{name}.svg").stat().st_size > 1000
    assert len(shown) == 11
    for claim in ("2.3a", "2.3b", "2.3c", "2.3d", "2.4b", "2.4c", "2.5"):
        assert f" {claim} " in out


def test_the_exact_claims_hold_at_toy_size(record):
    found = {v.id: v for v in judge(adaptive.CLAIMS, record)}
    exact = [v for v in found.values() if v.kind == "exact"]
    assert len(exact) == 6 + 4 + 4 + 3 + 10
    wrong = {v.id for v in exact if v.verdict not in ("supported", "conditional")}
    assert not wrong
    assert {v.id for v in exact if v.verdict == "conditional"} == {"2.3d1", "2.3d4", "2.4b1"}
    # The source's equations 5 and 6: the first step is 3.162 rates long.
    assert found["2.3b1"].other_reading.verdict == "refuted"
    np.testing.assert_allclose(found["2.3b1"].other_reading.values, 0.1 / 0.001**0.5 - 1)


def test_optaxs_defaults_differ_where_the_table_says(record):
    gap = record["optax_gap"].max("seed")
    constant = gap.sel(schedule="constant")
    same = constant["algorithm"].values[constant.values < 1e-12].tolist()
    assert same == ["sgd", "momentum", "nesterov", "adam"]
    assert np.all(gap.sel(schedule="falling") > 1e-4)  # its linear schedule starts a step earlier


def test_figures_are_drawn_when_everything_diverged(record):
    lost = record.copy(deep=True)
    for name in lost.data_vars:
        if lost[name].dtype.kind == "f":
            lost[name] = lost[name] * np.nan
    lost["diverged_step"] = lost["diverged_step"] * 0
    for name in ("search_tune_error", "search_test_error"):  # those of chance, never missing
        chance = np.linspace(0.89, 0.91, lost[name].size).reshape(lost[name].shape)
        lost[name] = lost[name].copy(data=chance)
    for name, figure in adaptive.figures(lost):
        figure.draw_without_rendering()
        assert figure.axes[0].get_title(loc="left"), name
    assert {v.verdict for v in judge(adaptive.CLAIMS, lost)} == {"inconclusive"}


# --- problems


def test_the_excess_of_uncorrected_adam_is_its_closed_form(record):
    t = record["step"].values
    exact = (1 - 0.9**t) / np.sqrt(1 - 0.999**t)
    np.testing.assert_allclose(of.excess(record), [exact, exact], rtol=1e-9)
    assert exact.argmax() == 11
    np.testing.assert_allclose(exact[[0, 11]], [3.16228, 6.5685], rtol=1e-4)


def test_constant_magnitude_steps_are_their_closed_forms(record):
    t = record["step"].values
    sizes = {arm: of.values(record, "step_size", step_arm=arm)[0] for arm in problems.STEP_ARMS}
    np.testing.assert_allclose(sizes["adagrad"], t**-0.5, rtol=1e-12)
    np.testing.assert_allclose(sizes["rmsprop"], (1 - 0.9**t) ** -0.5, rtol=1e-12)
    g = record.attrs["small_gradient"]
    np.testing.assert_allclose(sizes["adagrad_optax"], g / np.sqrt(0.1 + t * g**2), rtol=1e-5)


def test_optaxs_adagrad_has_a_slope_of_a_hundredth_over_ten_thousand_steps():
    t = np.arange(1, 10_001)
    slope = np.polyfit(np.log(t), np.log(1e-3 / np.sqrt(0.1 + t * 1e-6)), 1)[0]
    assert slope == pytest.approx(-0.01, abs=0.003)


@in_float64
def test_reddis_adam_is_the_recursion_by_hand():
    config = adaptive.Config(reddi_steps=300)
    found = problems.reddi(config, jax.random.key(3))
    for arm, rho, worst in (("adam", 0.1, False), ("amsgrad", 0.1, True)):
        i = problems.REDDI_ARMS.index(arm)
        start = jax.random.uniform(
            jax.random.fold_in(jax.random.key(3), problems.REDDI), (), jnp.float64, -1, 1
        )
        x, r, highest, path = float(start), 0.0, 0.0, []
        for t in range(1, 301):
            g = 3.0 if t % 3 == 1 else -1.0
            r = rho * r + (1 - rho) * g * g
            highest = max(highest, r)
            below = highest if worst else r / (1 - rho**t)
            x = np.clip(x - 0.5 / t**0.5 * g / (below**0.5 + 1e-8), -1, 1)
            path.append(x)
        kept = np.array(path)[problems.moments(300) - 1]
        np.testing.assert_allclose(found["reddi_x"][i], kept, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@in_float64
def test_on_wilsons_data_the_signs_solve_the_problem_and_see_only_positives(seed):
    y = problems.wilson_labels(jax.random.key(seed), 40, 0.7)
    x = np.asarray(problems.wilson_features(y))
    y = np.asarray(y)
    assert 20 < (y > 0).sum() < 40
    assert x.shape == (40, 203)
    np.testing.assert_array_equal(x[:, 3:].sum(1), np.where(y > 0, 1, 5))
    signs = np.sign(x.T @ y)
    np.testing.assert_array_equal(x @ signs, 4 * y)  # lemma 3.1 of Wilson et al.
    new = np.array([1.0, -1.0])
    unseen = np.asarray(problems.wilson_features(jnp.asarray(new), unseen=True))[:, :3]
    np.testing.assert_array_equal(unseen @ signs[:3], [3, 1])
    shortest = np.linalg.pinv(x) @ y
    np.testing.assert_array_equal(np.sign(unseen @ shortest[:3]), new)


@in_float64
def test_descent_on_a_quadratic_is_its_closed_form_in_any_rotation():
    curvature, start, rate, steps = np.array([1.0, 4.0, 10.0]), np.array([2.0, -1.0, 0.5]), 0.15, 60
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    factors = 1 - rate * curvature  # 0.85, 0.4, -0.5
    u = start * factors ** np.arange(steps + 1)[:, None]
    distance = np.linalg.norm(u, axis=1)
    time = np.flatnonzero(distance > 0.03 * distance[0])[-1] + 1
    moves = np.diff(u, axis=0)[:time]
    reversed_share = np.mean((moves[1:] * moves[:-1]).sum(1) < 0)
    for turned in (np.eye(3), rotation):
        found = problems.swing(
            make("sgd", rate), jnp.asarray(turned), jnp.asarray(np.tile(curvature, (steps, 1))),
            jnp.asarray(start), 0.03,
        )  # fmt: skip
        assert float(found["time"]) == time
        assert float(found["reversals"]) == pytest.approx(reversed_share)
        np.testing.assert_allclose([found["amplitude"], found["largest"]], 0.5, rtol=1e-9)


@in_float64
def test_a_run_that_diverges_or_does_not_arrive_says_so():
    still = jnp.tile(jnp.array([1.0, 10.0]), (50, 1))
    found = problems.swing(make("sgd", 0.5), jnp.eye(2), still, jnp.ones(2), 0.03)
    assert np.isnan(found["time"])
    assert float(found["largest"]) == problems.FAR
    slow = problems.swing(make("sgd", 1e-3), jnp.eye(2), still, jnp.ones(2), 0.03)
    assert np.isnan(slow["time"])
    assert float(slow["largest"]) == 0


@in_float64
def test_tracking_is_the_recursion_by_hand():
    config = adaptive.Config(track_steps=80, track_size=2)
    minima, noise, scales = problems.worlds(config, jax.random.key(1))
    assert np.asarray(scales)[:, [0, 39, 40, 79]].tolist() == [[1] * 4, [1, 1, 0.01, 0.01]]
    rates = jnp.array([0.1, 0.2])
    found = problems.track(config, "sgd", (minima, noise, scales[1]), rates)
    x, away = np.zeros(2), []
    for minimum, xi, scale in zip(*map(np.asarray, (minima, noise, scales[1])), strict=True):
        away.append(np.mean((x - minimum) ** 2))
        g = scale * (x - minimum + xi)
        x = x - 0.2 * g
    exact = np.reshape(away, (problems.BINS, -1)).mean(1)
    np.testing.assert_allclose(found["error"][1], exact, rtol=1e-9)
    np.testing.assert_allclose(found["gain"], [[0.1] * 40, [0.2] * 40], rtol=1e-9)


# --- networks


def small_net():
    splits = networks.splits_of(adaptive.load(adaptive.Config(train_size=30)))
    return networks.Net(networks.models.MLP((4,), 10), 10, 2, 3), jax.device_put(splits)


def test_a_run_is_the_loop_by_hand_and_repeats_are_means():
    net, splits = small_net()
    assert [len(split.y) for split in splits] == [30, 884, 883]
    starts = jax.jit(lambda: net.begin_repeats(jax.random.key(0), splits, 2))()
    found = jax.jit(lambda: net.repeated(make("sgd", 0.3), starts, splits))()
    gradient = jax.jit(jax.value_and_grad(net.loss))
    tune, peaks = [], []
    for i in range(2):
        params, rows = jax.tree.map(lambda a, i=i: a[i], starts)
        seen, rows = [], np.asarray(rows)
        assert np.all(np.sort(rows.reshape(2, 30), 1) == np.arange(30))
        for row in rows:
            loss, slope = gradient(params, networks.Split(*(a[row] for a in splits.train)))
            params = jax.tree.map(lambda p, g: p - 0.3 * g, params, slope)
            seen.append(float(loss))
        tune.append(float(net.loss(params, splits.tune)))
        peaks.append(max(seen[:3]) / seen[0])
    assert float(found["tune_loss"]) == pytest.approx(np.mean(tune), rel=1e-4)
    assert float(found["early_peak"]) == pytest.approx(np.prod(peaks) ** 0.5, rel=1e-4)
    assert int(found["diverged_at"]) == -1


def test_spaces_hold_each_other():
    """SGD is momentum without memory, and Adam with a large delta the averaged momentum."""
    trial = networks.Trial(*map(jnp.float32, (0.5, 0.2, 0.01, 1e4)))
    gradients = jnp.asarray(np.random.default_rng(0).normal(size=(30, 3)), jnp.float32)

    def steps(space, own):
        return np.asarray(problems.follow(networks.searcher(space, own, 0.01), gradients))

    np.testing.assert_allclose(steps("sgd", trial), -0.5 * gradients, rtol=1e-6)
    alone = trial._replace(slow=jnp.float32(1))
    np.testing.assert_allclose(steps("momentum", alone), steps("sgd", alone), rtol=1e-6)
    # At full speed both make steps of rate x gradient; Adam is there at once, by its correction.
    late = steps("adam", trial)[20:] / steps("momentum", trial)[20:]
    np.testing.assert_allclose(late, 1, rtol=0.02)
    fixed = problems.follow(networks.searcher("adam_fixed", trial, 0.01), gradients)
    np.testing.assert_allclose(np.abs(fixed[0]), 0.5 * 0.01, rtol=1e-4)


def test_trials_are_uniform_over_the_logarithm():
    trials = networks.draw_trials(adaptive.Config(trials=4000), jax.random.key(0))
    for values, (low, high) in zip(trials, records._limits(CONFIG).T, strict=True):
        place = np.log(np.asarray(values) / low) / np.log(high / low)
        np.testing.assert_allclose(np.quantile(place, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75],
                                   atol=0.03)  # fmt: skip


# --- statistics on numbers that are known


def grid(errors, **more):
    """A record of one seed's tuning errors by optimizer, at rates a decade apart."""
    rows = np.array(list(errors.values()), float)[:, None]
    dims = ("optimizer", "seed", "rate")
    variables = {"tune_error": (dims, rows)} | {
        name: (dims, np.array(v)) for name, v in more.items()
    }
    rates = 10.0 ** np.arange(rows.shape[2])
    return xarray.Dataset(variables, {"optimizer": list(errors), "rate": rates, "seed": [0]})


def test_the_width_is_interpolated_and_nan_at_the_edge():
    # 0.11 is 1.1 times the best: two decades inside, and on each side part of one.
    found = grid({"adam": [0.9, 0.11 * 1.1, 0.11 / 1.1, 0.1, 0.11, 0.9], "sgd": [0.1, 0.2] * 3})
    np.testing.assert_allclose(of.width(found, "adam"), 2 + 0.5, rtol=1e-9)
    assert np.isnan(of.width(found, "sgd")).all()  # the best is at the lowest rate
    np.testing.assert_allclose(of.width(found, "adam", np.array([0.05])), 0)


def test_peaks_are_read_at_the_highest_usable_rate():
    errors = {"adam": [0.9, 0.1, 0.1, 0.9], "adam_uncorrected": [0.9, 0.1, 0.9, 0.9]}
    peaks = [[[1, 1, 2, 9]], [[1, 4, 20, np.inf]]]
    found = grid(errors, early_peak=peaks)
    np.testing.assert_allclose(of.peak_excess(found), 1)  # 20 over 2
    np.testing.assert_allclose(of.peak_excess_own(found), np.log10(2))  # 4 over 2
    np.testing.assert_allclose(of.usable_rate_gain(found), 1)
    np.testing.assert_allclose(of.peak_at(found, "adam_uncorrected", np.array([3])), 6)


def test_an_optimum_at_the_edge_of_a_range_is_no_number(record):
    place = record["place"].copy(deep=True)
    inside = record.assign(place=place * 0 + 0.5)
    assert np.isfinite(of.few_trials(inside)).all()
    place[:] = 0.5
    place.loc[{"name": "rate", "space": "momentum", "seed": 1}] = 0.999
    found = record.assign(place=place)
    assert np.isnan(of.few_trials(found)).tolist() == [False, True]
    assert np.isfinite(of.found_by_search(found, "adam")).all()


def swings_record():
    """Six rates; descent is at the target after 9, 5 steps, RMSProp after 20, 5, 3."""
    nan = np.nan
    time = [[nan, 9, 5, nan, nan, nan], [20, nan, 5, 3, nan, nan]]
    reversals = [[0, 0.1, 0.5, 1, 1, 1], [0, 0, 0.2, 0.9, 1, 1]]
    put = lambda rows: (("problem", "swinger", "seed", "swing_rate"), np.array(rows)[None, :, None])  # noqa: E731
    variables = {f"swing_{n}": put(v) for n, v in (("time", time), ("reversals", reversals))}
    variables["swing_amplitude"] = put([[0, 0, 0.8, 1, 1, 1], [0, 0, 0.2, 1.6, 2, 2]])
    coords = {"problem": ["axis"], "swinger": ["sgd", "rmsprop"], "seed": [0]}
    return xarray.Dataset(variables, coords)


def test_swings_are_compared_at_equal_progress_and_at_the_fastest():
    found = swings_record()
    np.testing.assert_allclose(on.reversals_axis(found), 0.5 - 0.2)  # RMSProp after 5 steps too
    np.testing.assert_allclose(on.reversals_axis_best(found), 0.5 - 0.9)
    np.testing.assert_allclose(on.swings_axis(found), np.log10(0.2 / 0.8))
    np.testing.assert_allclose(on.swings_axis_best(found), np.log10(1.6 / 0.8))
    slow = found.copy(deep=True)  # the slower one waits: RMSProp needs 9 steps, as does descent
    slow["swing_time"][:, 1] = [[20, 12, 9, 10, 11, 12]]
    np.testing.assert_allclose(on.reversals_axis(slow), 0.1 - 0.2)
    np.testing.assert_allclose(on.reversals_axis_best(slow), 0.5 - 0.2)
    late = found.copy(deep=True)
    late["swing_time"][:, 0] = [[3, 9, 5, 6, 7, 8]]
    assert np.isnan(on.reversals_axis(late)).all()  # the fastest rate is the lowest
    late["swing_time"][:, 0] = [[9, 9, 5, 6, 7, 8]]
    late["swing_time"][:, 1] = [[20, 12, 9, 10, 11, 12]]
    assert np.isnan(on.reversals_axis(late)).all()  # a lower rate might be as fast


def test_a_tracker_is_read_at_the_rate_of_the_tuning_walk():
    tune = np.ones((1, 1, 1, 4, 40))
    tune[..., 1, :] = 0.5
    tune[..., 2, :10] = 0.1
    tune[..., 2, 10:] = 9
    error = np.broadcast_to(np.arange(4.0)[:, None], tune.shape)
    dims = ("world", "tracker", "seed", "track_rate", "part")
    found = xarray.Dataset(
        {"tune_track_error": (dims, tune), "track_error": (dims, error)},
        {"world": ["drift"], "tracker": ["adagrad"], "seed": [0]},
    )
    read = lambda parts: on.tracked(found, "drift", "adagrad", "track_error", parts)  # noqa: E731
    assert np.all(read(on.FIRST_QUARTER) == 2)
    assert np.all(read(on.WHOLE) == 1)
    found["tune_track_error"][..., 0, :] = 0
    assert np.isnan(read(on.WHOLE)).all()


def test_claims_name_the_algorithms():
    assert [c.id for c in claims.CLAIMS] == ["2.3a", "2.3b", "2.3c", "2.3d", "2.4b", "2.4c", "2.5"]
    assert [c.statistic.__name__ for c in claims.CLAIMS[-1].parts][6] == "conformance_adam"


# --- settings


def test_grids_are_as_asked():
    np.testing.assert_allclose(CONFIG.rate_grid, np.logspace(-5, 1, 25))
    assert len(CONFIG.descent_rates) == len(CONFIG.rmsprop_rates)
    np.testing.assert_allclose(CONFIG.descent_rates[28], 2 / CONFIG.condition)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--optimizers=adam,lion"], "sgd, momentum, nesterov"),
        (["--optimizers=sgd,adam"], "must hold momentum, adam_uncorrected too"),
        (["--optimizers=sgd,sgd,momentum,adam,adam_uncorrected"], "must not repeat a name"),
        (["--momentum=1"], "--momentum=1"),
        (["--momentum=-0.1"], "--momentum=-0.1"),
        (["--rates=0,1"], "each must be greater than 0"),
        (["--rates=1,0.1"], "--rates=1.0,0.1: must be two numbers, the lower one first"),
        (["--rates=1,2,3"], "must be two numbers"),
        (["--rates=1,1.1"], "must span three rates"),
        (["--search_slow=0.1,2"], "must be at most 1"),
        (["--search_delta=1"], "must be two numbers"),
        (["--loss_scales=10,1"], "must rise, and hold 1 and another number"),
        (["--feature_scales=2,4"], "must rise, and hold 1"),
        (["--batch_size=61"], "--batch_size=61: must be at most 60, the --train_size"),
        (["--scale_size=100"], "must be at most 60"),
        (["--train_size=1437"], "--train_size=1437"),
        (["--early_steps=7"], "--early_steps=7: must be at most 6, all steps"),
        (["--widths="], "at least one hidden layer"),
        (["--trials=1"], "--trials=1"),
        (["--reddi_c=2"], "reddi_c=2"),
        (["--wilson_share=0.5"], "wilson_share"),
        (["--rho=1"], "--rho=1"),
        (["--condition=1"], "--condition=1"),
        (["--target=1"], "--target=1"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(argv, words, tmp_path):
    folder = tmp_path / "run"
    status, _, err = main(f"--run_dir={folder}", *argv)
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not folder.exists()
