"""`momentum`: its quadratics against theory and brute force, its claims, figures and settings."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from running import run_main
from scipy.optimize import minimize

from dlstudy import optimizers
from dlstudy.claims import judge
from dlstudy.host import Layout, NullHost
from experiments import flagging, momentum
from experiments import momentum_claims as claims
from experiments import momentum_quadratics as quadratics
from experiments import momentum_record as records
from experiments import momentum_runs as runs

pytestmark = pytest.mark.usefixtures("quick_compilation")
TOY = (
    "--compilation_cache_dir=", "--devices=1", "--num_seeds=2", "--dimensions=4", "--kappas=4,10",
    "--target=0.01", "--most_steps=120", "--noise_steps=60", "--noise_alphas=0.5,0.8",
    "--noises=0,1", "--noise_kappa=5", "--noise_target=0.05", "--form_kappa=4", "--form_steps=900",
    "--form_rate=0.05", "--widths=5", "--batch_size=700", "--rates=0.5,2", "--loss_target=2.2",
    "--whole_steps=6", "--batch_steps=6", "--every=2",
)  # fmt: skip


def main(*argv):
    return run_main(momentum, *TOY, *argv)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("momentum") / "run"
    status, out, err = main(f"--run_dir={folder}")
    assert status == 0, out + err
    return folder, xarray.load_dataset(folder / "record.nc"), out


@pytest.fixture(scope="module")
def record(finished):
    return finished[1]


def toy_config():
    (config,), _ = flagging.parse(TOY[2:], momentum.Config)
    return config


# --- theory


@hypothesis.given(st.floats(1.5, 1e5))
@hypothesis.settings(deadline=None, max_examples=60)
def test_spectral_radii_at_the_best_constants_are_those_of_theory(kappa):
    between = kappa ** -np.linspace(0, 1, 9)
    for name, theory in quadratics.THEORY.items():
        method = quadratics.methods(kappa, 0.9)[name]
        radius = quadratics.spectral_radius(method, between)
        # Double eigenvalues move by the root of rounding.
        assert radius == pytest.approx(theory(kappa), abs=1e-12 if name == "gd" else 1e-6)


@pytest.mark.parametrize("kappa", [5.0, 60.0])
@pytest.mark.parametrize(("name", "ahead"), [("gd", 0), ("heavy_ball", 0), ("nesterov", 1)])
def test_no_other_constants_contract_faster(name, ahead, kappa):
    ends = np.array([1.0, 1 / kappa])
    best = quadratics.methods(kappa, 0.9)[name]

    def radius(constants):
        alpha = 0.0 if name == "gd" else np.clip(constants[-1], 0, 0.999)
        return quadratics.spectral_radius(quadratics.Method(constants[0], alpha, ahead), ends)

    start = np.array([best.rate, best.alpha][: 1 if name == "gd" else 2]) * 0.9
    found = minimize(radius, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-11})
    assert found.fun >= quadratics.THEORY[name](kappa) - 1e-6
    assert found.fun == pytest.approx(quadratics.THEORY[name](kappa), abs=1e-3)


def test_the_mean_contraction_is_slow_to_reach_the_spectral_radius():
    """kappa = 10: 0.556 over 63 steps, 0.519 in the limit."""
    method = quadratics.methods(10.0, 0.9)["heavy_ball"]
    with jax.enable_x64(True):
        one = jax.tree.map(jnp.float64, method)
        ends, start = jnp.array([1.0, 0.1]), jnp.full(2, 0.5**0.5)
        found = quadratics.descend(ends, start, one, 0.0, 63)
    assert float(found.distance) ** (1 / 63) == pytest.approx(0.556, abs=0.012)
    assert quadratics.spectral_radius(method, [1.0, 0.1]) == pytest.approx(0.519, abs=1e-3)


@pytest.mark.parametrize("name", ["heavy_ball", "nesterov"])
def test_a_path_is_that_of_the_optimizer_and_of_the_companion_matrix(name):
    with jax.enable_x64(True):
        problem = quadratics.draw(jax.random.key(3), 5)
        hessian, start = quadratics.turned(problem, 30.0)
        method = quadratics.methods(30.0, 0.9)[name]
        path = quadratics.path(hessian, start, jax.tree.map(jnp.float64, method), 25)
        optimizer = (optimizers.nesterov if method.ahead else optimizers.momentum)(
            jnp.float64(method.rate), method.alpha
        )
        at, state, ways = start, optimizer.init(start), [np.asarray(start)]
        for _ in range(25):
            updates, state = optimizer.update(hessian @ at, state, at)
            at = at + updates
            point = optimizers.nesterov_point(at, state, method.alpha) if method.ahead else at
            ways.append(np.asarray(point))
    np.testing.assert_allclose(path, ways, rtol=0, atol=1e-12)
    eigenvalues = 30.0 ** -np.asarray(problem.place)
    powers = [
        np.linalg.matrix_power(m, 25)[0, 0] for m in quadratics.companion(method, eigenvalues)
    ]
    along = np.asarray(problem.axes).T @ np.asarray(path)[-1]
    np.testing.assert_allclose(along, powers * np.asarray(problem.start), atol=1e-12)


def test_a_run_in_the_eigenbasis_is_the_turned_run():
    """All that a run keeps: steps, distance, turns and length, from the points themselves."""
    with jax.enable_x64(True):
        problem = quadratics.draw(jax.random.key(5), 6)
        method = jax.tree.map(jnp.float64, quadratics.methods(20.0, 0.9)["momentum_at_best"])
        found = quadratics.descend(20.0**-problem.place, problem.start, method, 0.1, 500)
        path = np.asarray(
            quadratics.path(*quadratics.turned(problem, 20.0), method, int(found.steps))
        )
    away, moves = np.linalg.norm(path, axis=1), np.diff(path, axis=0)
    assert (away[:-1] > 0.1).all()
    assert away[-1] <= 0.1
    assert float(found.distance) == pytest.approx(away[-1], rel=1e-9)
    assert int(found.turns) == ((moves[1:] * moves[:-1]).sum(1) < 0).sum() > 0
    assert float(found.path) == pytest.approx(np.linalg.norm(moves, axis=1).sum(), rel=1e-9)


@hypothesis.given(st.floats(0.01, 1.0), st.floats(0.1, 0.97), st.integers(0, 2**31))
@hypothesis.settings(deadline=None, max_examples=25)
def test_the_average_is_the_sum_at_the_matched_rate_only(rate, alpha, seed):
    rng = np.random.default_rng(seed)
    eigenvalues, start = rng.uniform(0.1, 1, 4), rng.normal(size=4)

    def ends(factor):
        slope = lambda at: eigenvalues * at  # noqa: E731
        book = average = (start, np.zeros(4))
        for _ in range(30):
            book = quadratics.step(quadratics.Method(rate, alpha, 0), *book, slope)
            average = quadratics.averaged_step(factor * rate / (1 - alpha), alpha, *average, slope)
        return np.abs(book[0] - average[0]).max() / np.abs(start).max()

    assert ends(1.0) < 1e-13
    assert ends(1.001) > 1e-8


# --- noise


def test_moments_are_those_of_the_matrix_recursion():
    """Mean and covariance of (theta, v) by products of matrices, for Nesterov too."""
    eigenvalue, rate, alpha, ahead = 0.3, 0.7, 0.8, 1.0
    own = quadratics.Method(rate, alpha, ahead)
    matrix = quadratics.companion(own, eigenvalue)
    mean, covariance = np.array([2.0, 0.0]), np.zeros((2, 2))
    now = quadratics.Moments(2.0, 0.0, 0.0, 0.0, 0.0)
    for _ in range(12):
        mean = matrix @ mean
        covariance = matrix @ covariance @ matrix.T + rate**2 * eigenvalue * np.ones((2, 2))
        now = quadratics.moments_step(eigenvalue, own, now)
    expected = [*mean, covariance[0, 0], covariance[0, 1], covariance[1, 1]]
    np.testing.assert_allclose(now, expected, rtol=1e-12)


def test_the_floor_is_where_the_moments_end():
    eigenvalues, own = np.array([1.0, 0.2]), quadratics.Method(0.5, 0.0, 0.0)
    now = quadratics.Moments(*(np.zeros(2) for _ in range(5)))
    for _ in range(400):
        now = quadratics.moments_step(eigenvalues, own, now)
    cost = 0.5 * (eigenvalues * now.theta_theta).sum()
    assert cost == pytest.approx(quadratics.floor(eigenvalues, 0.5), rel=1e-12)


def test_constants_that_are_not_stable_never_reach_the_target(record):
    """At rates of 4 the variance overflows, to minus infinity too."""
    assert np.isnan(record["noisy_steps"].sel(noise_rate=4.0, noise_alpha=[0.0, 0.5])).all()
    steps = record["noisy_steps"].transpose("noise", ...)
    both = np.isfinite(steps).all("noise")
    assert (steps[0] <= steps[1]).where(both, True).all()  # noise never helps
    assert both.any()


# --- the run


def test_a_network_is_trained_by_the_optimizer(record):
    """The whole set: momentum's losses from the library's loop in Python."""
    config = toy_config()
    study = runs.Study(config, momentum.load(config), NullHost(Layout()), [1])
    key = jax.random.fold_in(study.keys[0], 2)
    params = runs.models.initialise(study.model, key, study.train[0][0])
    optimizer = optimizers.momentum(jnp.float32(0.5), jnp.float32(0.9))
    loss_and_slope = jax.jit(jax.value_and_grad(study.loss))
    state, seen = optimizer.init(params), []
    for _ in range(5):
        value, slope = loss_and_slope(params, study.train)
        seen.append(float(value))
        updates, state = optimizer.update(slope, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    found = record["whole_train_loss"].sel(optimizer="momentum", rate=0.5, seed=1)
    np.testing.assert_allclose(found, seen[::2], rtol=1e-5)


def test_the_record_has_every_variable_with_unit_and_long_name(record):
    assert set(record.data_vars) == {*records.VARIABLES, "diverged_step"}
    assert record["diverged_step"].dims == ("arm", "seed")
    assert list(record["arm"].values) == list(records.ARMS)
    for name in record.data_vars:
        assert record[name].attrs["units"], name
        assert record[name].attrs["long_name"], name


def test_arms_of_claims_are_arms_of_the_record():
    def leaves(all_claims):
        for claim in all_claims:
            yield claim
            beside = [*claim.parts, claim.control, claim.other_reading]
            yield from leaves(part for part in beside if part)

    assert {arm for claim in leaves(momentum.CLAIMS) for arm in claim.arms} <= set(records.ARMS)


def test_exact_claims_hold_at_toy_size_too(record):
    found = {v.id: v.verdict for v in judge(momentum.CLAIMS, record)}
    for name in ("2.2a1", "2.2a2", "2.2a3", "2.2a4", "2.2c1", "2.2c2"):
        assert found[name] == "supported", name


def test_a_seed_alone_is_the_seed_among_others(record, tmp_path, monkeypatch):
    monkeypatch.setattr(momentum, "figures", lambda record: ())
    status, out, err = main(f"--run_dir={tmp_path / 'one'}", "--only_seed=1")
    assert status == 0, out + err
    alone = xarray.load_dataset(tmp_path / "one" / "record.nc")
    for name in record.data_vars:
        expected = record[name].sel(seed=[1]) if "seed" in record[name].dims else record[name]
        np.testing.assert_array_equal(alone[name], expected, err_msg=name)


def test_the_folder_holds_figures_and_verdicts(finished):
    folder, _, out = finished
    for name in ("paths", "rates", "zigzag", "noise", "forms", "network"):
        assert (folder / "figures" / f"{name}.svg").stat().st_size > 1000
    for claim in ("2.2a", "2.2c", "2.2d", "2.2e", "2.2f"):
        assert claim in out


def test_figures_are_drawn_when_nothing_is_known(record):
    lost = record.copy(deep=True)
    for name in lost.data_vars:
        if lost[name].dtype.kind == "f" and name != "plane_hessian":
            lost[name] = lost[name] * np.nan
    for name, figure in momentum.figures(lost):
        figure.canvas.draw()
        assert figure.axes[0].get_title(loc="left"), name
    assert {v.verdict for v in judge(momentum.CLAIMS, lost)} == {"inconclusive"}


# --- statistics on numbers that are known


def example(seeds=8):
    steps = np.ones((len(records.METHODS), 3, seeds))
    at = records.METHODS.index
    steps[at("gd")] = np.array([100, 1000, 10_000])[:, None]
    steps[at("heavy_ball")] = np.array([10, 31.6227766, 100])[:, None]
    steps[at("nesterov")] = 250
    steps[at("gd_tenth")] = 10_000
    steps[at("momentum_tenth")] = 1000
    zigzag = np.zeros(steps.shape)
    zigzag[at("gd")], zigzag[at("heavy_ball")], zigzag[at("momentum_at_best")] = 1, 0.75, 0.5
    noisy = np.full((3, 3, 2, seeds), np.nan)  # momentum, rate, noise, seed
    noisy[0, 1, 0], noisy[1, 1, 0], noisy[:2, 1, 1] = 40, 10, 80
    net = np.zeros((2, 2, 2, seeds))
    net[:, 0] = np.array([80, 40])[None, :, None]
    net[0, 1], net[1, 1] = np.array([10, 99])[:, None], np.array([99, 20])[:, None]
    tune = net.copy()
    tune[0, 1, 1] = np.nan
    variables = {
        "steps": (("way", "kappa", "seed"), steps), "zigzag": (("way", "kappa", "seed"), zigzag),
        "noisy_steps": (("noise_alpha", "noise_rate", "noise", "seed"), noisy),
        "net_steps": (("batch", "optimizer", "rate", "seed"), net),
        "net_tune_steps": (("batch", "optimizer", "rate", "seed"), tune),
        "form_steps": (("form", "seed"),
                       np.array([50, 400, 50, 500.0])[:, None] * np.ones((1, seeds))),
    }  # fmt: skip
    coords = {
        "way": list(records.METHODS), "kappa": [100.0, 1000.0, 10_000.0], "noise": [0.0, 1.0],
        "noise_alpha": [0.0, 0.9, 0.99], "form": list(records.FORMS), "seed": np.arange(seeds),
        "batch": list(records.BATCHES), "optimizer": list(records.OPTIMIZERS),
        "rate": [0.1, 1.0],
    }  # fmt: skip
    return xarray.Dataset(variables, coords, {"alpha": 0.9})


EXPECTED = {
    claims.exact_gain: 2,
    claims.noisy_gain: 0,
    claims.nesterov_gain: 2,
    claims.gain_slope: 0,
    claims.zigzag_at_best: 0.25,
    claims.zigzag_at_same_rate: 0.5,
    claims.zigzag_of_less: 1,
    claims.averaged_gain: np.log2(0.8),
    claims.book_gain: 3,
    claims.unmatched_slower: 0,
    claims.gain_on_tenth: np.log2(10),
    claims.gain_on_best: 0,
    claims.whole_gain: 2,
    claims.batches_gain: 1,
}


@pytest.mark.parametrize("statistic", EXPECTED, ids=lambda s: s.__name__)
def test_a_statistic_is_the_number_read_off(statistic):
    found = np.asarray(statistic(example()), float)
    assert found.shape == (8,)
    np.testing.assert_allclose(found, EXPECTED[statistic], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("at", [(0, 0), (0, 2), (1, 0), (2, 1)])
def test_constants_on_an_edge_of_the_grid_are_not_the_best(at):
    made = example()
    made["noisy_steps"][(*at, 0)] = 2.0
    assert np.isnan(claims.exact_gain(made)).all()
    assert np.all(claims.noisy_gain(made) == 0)


def test_a_target_that_is_never_reached_is_no_number():
    assert np.isnan(records.first_below([[3.0, 2, 1], [3, np.nan, 3]], 2, 5)[1])
    assert records.first_below([[3.0, 2, 1]], 2, 5) == [5]
    broken = example()
    broken["net_tune_steps"] = broken["net_tune_steps"] * np.nan
    assert np.isnan(claims.whole_gain(broken)).all()


# --- settings


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--alpha=1"], "alpha=1: must be greater than 0 and less than 1"),
        (["--alpha=0"], "alpha=0: must be greater than 0"),
        (["--noise_alphas=0.5,1"], "each must be greater than 0 and less than 1"),
        (["--kappas=10"], "--kappas=10: must hold at least two numbers"),
        (["--kappas="], "--kappas=: must hold at least one number"),
        (["--kappas=1,10"], "each must be greater than 1"),
        (["--kappas=10,4"], "--kappas=10,4: must be in rising order"),
        (["--rates=1,1"], "--rates=1,1: must be in rising order, without a value twice"),
        (["--rates=0,1"], "each must be greater than 0"),
        (["--noises=1,2"], "--noises=1,2: must begin with 0"),
        (["--noises=-1,0"], "each must be at least 0"),
        (["--form_rate=2"], "--form_rate=2: must be less than 2"),
        (["--target=0"], "target=0: must be greater than 0"),
        (["--widths="], "at least one hidden layer"),
        (["--batch_size=1438"], "--batch_size=1438: must be at most 1437"),
        (["--whole_steps=1"], "--whole_steps=1: must be at least 2"),
        (["--data=digit"], "must be one of digits, mnist_5k"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(argv, words, tmp_path):
    folder = tmp_path / "run"
    status, _, err = main(f"--run_dir={folder}", *argv)
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not folder.exists()
