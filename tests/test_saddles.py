"""`saddles`: its landscapes against closed forms and brute force, claims, figures and settings."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from running import run_main

from dlstudy import losses, models
from dlstudy.claims import judge
from experiments import saddles
from experiments import saddles_claims as claims
from experiments import saddles_landscapes as landscapes
from experiments import saddles_record as records
from experiments import saddles_runs as runs

pytestmark = pytest.mark.usefixtures("quick_compilation")
TOY = (
    "--compilation_cache_dir=", "--devices=1", "--num_seeds=2", "--walkers=8",
    "--sigmas=1e-6,1e-2", "--saddle_steps=450", "--barriers=1,2", "--well_steps=400",
    "--well_given=200", "--valley_steps=3000", "--images=40", "--batch_size=20", "--units=3",
    "--weight_noises=1e-9,1e-1", "--widths=4,4", "--symmetric_steps=12", "--small_steps=12",
)  # fmt: skip


def main(*argv):
    return run_main(saddles, *TOY, *argv)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saddles") / "run"
    status, out, err = main(f"--run_dir={folder}")
    assert status == 0, out + err
    return folder, xarray.load_dataset(folder / "record.nc"), out


@pytest.fixture(scope="module")
def record(finished):
    return finished[1]


# --- the saddle


def test_expected_steps_to_leave_a_saddle_are_those_of_a_simulation():
    """4,000 walkers in NumPy along the falling direction; the error of their mean is 0.2 steps."""
    rng, rate, falling = np.random.default_rng(0), 0.1, 1.3
    for sigma in (1e-2, 1e-8):
        x, left = np.zeros(4000), np.zeros(4000)
        for number in range(1, 1000):
            x = x * (1 + rate * falling) - rate * sigma * rng.normal(size=4000)
            left = np.where((left == 0) & (np.abs(x) > 1), number, left)
        assert (left > 0).all()
        assert left.mean() == pytest.approx(landscapes.saddle_steps(rate, falling, sigma), abs=0.7)


@hypothesis.given(st.floats(0.01, 0.3), st.floats(0.5, 2.0))
def test_steps_grow_by_the_logarithm_of_the_noise(rate, falling):
    sigma = np.array([1e-9, 1e-3])
    steps = landscapes.saddle_steps(rate, falling, sigma)
    slope = (steps[0] - steps[1]) / np.log(sigma[1] / sigma[0])
    assert slope == pytest.approx(1 / np.log1p(rate * falling), rel=1e-12)


def test_walkers_leave_as_theory_says_and_never_without_noise(record):
    steps = record["saddle_left"].transpose("sigma", "walker", "seed").values
    assert np.isnan(steps[0]).all()
    theory = record["saddle_theory"].transpose("sigma", "seed").values
    # Eight walkers: the mean of a log normal draw has a standard error of 0.4 of 1 / ln growth.
    growth = np.log1p(0.1 * record["falling"].values)
    off = (np.nanmean(steps[1:], 1) - theory[1:]) * growth
    assert np.abs(off).max() < 1.5
    np.testing.assert_array_equal(claims.ridge_along(record), [0, 0])


# --- the well


@pytest.mark.parametrize("barrier", [1.0, 3.0])
def test_mean_steps_are_those_of_a_chain_of_small_cells(barrier):
    """The transition matrix between 800 cells, and its powers' sum by a linear system."""
    height, rate = 1.1, 0.05
    sigma = landscapes.noise_of(height, rate, barrier)
    edges = np.linspace(-2.5, 1.0, 801)
    middle, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    target = middle - rate * 4 * height * middle * (middle**2 - 1)
    away = (middle[None] - target[:, None]) / (rate * sigma)
    chain = np.exp(-0.5 * away**2) * width / (rate * sigma * np.sqrt(2 * np.pi))
    steps = np.linalg.solve(np.eye(800) - chain, np.ones(800))
    expected = np.interp(-1.0, middle, steps)
    assert landscapes.mean_steps(height, rate, sigma) == pytest.approx(expected, rel=5e-4)


def test_mean_steps_do_not_depend_on_the_nodes_and_tend_to_kramers():
    rate, barriers = 0.01, np.array([4.0, 8.0])
    found = []
    for barrier in barriers:
        sigma = landscapes.noise_of(1.0, rate, barrier)
        steps = landscapes.mean_steps(1.0, rate, sigma, 220)
        assert landscapes.mean_steps(1.0, rate, sigma, 260) == pytest.approx(steps, rel=1e-6)
        found.append(steps / landscapes.kramers(1.0, rate, barrier))
    assert 1 < found[1] < found[0] < 1.2


def test_walkers_in_the_well_take_the_exact_time():
    with jax.enable_x64(True):
        left = landscapes.well_escape(1.0, jax.random.key(2), 0.05, jnp.array([1.5, 2.5]), 300, 800)
    assert (np.asarray(left[0]) == -1).all()  # without noise
    found = landscapes.mean_of_exponential(np.asarray(left), 800)
    assert np.isnan(found[0])
    for mean, barrier in zip(found[1:], (1.5, 2.5), strict=True):
        sigma = landscapes.noise_of(1.0, 0.05, barrier)
        assert mean == pytest.approx(landscapes.mean_steps(1.0, 0.05, sigma), rel=0.2)


def test_the_mean_counts_the_steps_of_those_that_stay():
    left = np.array([[3, 5, -1], [-1, -1, -1]])
    np.testing.assert_array_equal(landscapes.mean_of_exponential(left, 10), [9, np.nan])


# --- the valley


@hypothesis.given(st.floats(0.05, 0.95), st.integers(1, 60))
def test_speed_on_a_constant_slope(alpha, steps):
    """By the recursion itself."""
    v = 0.0
    for _ in range(steps):
        v = alpha * v - 0.3 * -0.7
    assert v / (0.3 * 0.7) == pytest.approx(landscapes.speed_ratio(alpha, steps), rel=1e-12)


def test_steps_across_the_valley_by_hand(record):
    """Every arm on both valleys, in Python."""
    for seed in (0, 1):
        own = record.sel(seed=seed)
        begins = {"constant": (0.0, 1.0), "sigmoid": (-float(own["depth"]), 0.0)}
        for name, (begin, end) in begins.items():
            for arm, (method, averaged, _) in landscapes.valley_methods(1.0, 0.9).items():
                x, v, steps = begin, 0.0, 0
                while x < end:
                    s = 1 / (1 + np.exp(-x))
                    slope = -float(own["steepness"]) if name == "constant" else -s * (1 - s)
                    if averaged:
                        v = 0.9 * v + 0.1 * slope
                        x -= method.rate * v
                    else:
                        v = method.alpha * v - method.rate * slope
                        x += v
                    steps += 1
                assert float(own["valley_steps"].sel(valley=name, way=arm)) == steps, (name, arm)


@hypothesis.given(st.floats(1e-3, 1e-2), st.floats(0.1, 0.95))
@hypothesis.settings(deadline=None, max_examples=30)
def test_steps_gain_less_than_speed(steepness, alpha):
    plain = int(np.ceil(1 / steepness))
    way = steepness * np.cumsum(landscapes.speed_ratio(alpha, np.arange(1, plain + 1)))
    # The last step of descent may be more than is needed.
    assert (plain - 1) / (1 + np.argmax(way >= 1)) <= 1 / (1 - alpha)


# --- networks


@pytest.fixture(scope="module")
def network():
    """(parameters, their gradient on a batch of 5)."""
    model = models.MLP((4,), 3)
    x = jax.random.normal(jax.random.key(9), (5, 5))
    slope = jax.grad(
        lambda p: losses.cross_entropy(model.apply({"params": p}, x)[0], jnp.arange(5) % 3)
    )
    return jax.jit(lambda k: models.initialise(model, k, x[0]))(jax.random.key(0)), jax.jit(slope)


def test_equal_units_have_equal_gradients_on_any_batch(network):
    params, slope_of = network
    start = runs.equal_units(params)
    assert float(runs.spread(start)) == 0
    assert float(runs.spread(params)) > 0.1
    slope = slope_of(start)
    hidden, out = slope["hidden_0"]["kernel"], slope["head"]["kernel"]
    np.testing.assert_allclose(hidden, np.repeat(hidden[:, :1], 4, 1), rtol=1e-6)
    np.testing.assert_allclose(out, np.repeat(out[:1], 4, 0), rtol=1e-6)
    assert np.abs(hidden).max() > 0


def test_at_weights_of_zero_only_the_last_bias_moves(network):
    params, slope_of = network
    slope = slope_of(jax.tree.map(jnp.zeros_like, params))
    assert np.abs(slope["head"].pop("bias")).max() > 0
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(slope))


def test_batches_keep_equal_units_equal_and_noise_parts_them(record):
    spread = record["symmetric_spread"]
    assert (spread.sel(noise=0.0) < 1e-12).all()
    assert (spread.sel(noise=0.1).isel(symmetric_step=-1) > 0.01).all()
    loss = record["symmetric_loss"].isel(symmetric_step=0)
    np.testing.assert_array_equal(loss, np.broadcast_to(loss[:1, :1], loss.shape))
    zero = record["small_loss"].sel(start="zero").isel(small_step=0)
    np.testing.assert_allclose(zero, np.log(10), rtol=1e-6)


# --- the run


def test_the_record_has_every_variable_with_unit_and_long_name(record):
    assert set(record.data_vars) == {*records.VARIABLES, "diverged_step"}
    assert record["diverged_step"].dims == ("arm", "seed")
    assert (record["diverged_step"] == -1).all()
    for name in record.data_vars:
        assert record[name].attrs["units"], name
        assert record[name].attrs["long_name"], name


def test_arms_of_claims_are_arms_of_the_record():
    def leaves(all_claims):
        for claim in all_claims:
            yield claim
            beside = [*claim.parts, claim.control, claim.other_reading]
            yield from leaves(part for part in beside if part)

    assert {arm for claim in leaves(saddles.CLAIMS) for arm in claim.arms} <= set(records.ARMS)


def test_exact_claims_hold_at_toy_size_too(record):
    found = {v.id: v.verdict for v in judge(saddles.CLAIMS, record)}
    for name in ("2.1e4", "2.2b1", "2.2b2", "2.2b5"):
        assert found[name] == "supported", name


def test_a_seed_alone_is_the_seed_among_others(record, tmp_path, monkeypatch):
    monkeypatch.setattr(saddles, "figures", lambda record: ())
    status, out, err = main(f"--run_dir={tmp_path / 'one'}", "--only_seed=1")
    assert status == 0, out + err
    alone = xarray.load_dataset(tmp_path / "one" / "record.nc")
    for name in record.data_vars:
        expected = record[name].sel(seed=[1]) if "seed" in record[name].dims else record[name]
        np.testing.assert_array_equal(alone[name], expected, err_msg=name)


def test_the_folder_holds_figures_and_verdicts(finished):
    folder, _, out = finished
    for name in ("saddle", "well", "plateau", "symmetric", "small"):
        assert (folder / "figures" / f"{name}.svg").stat().st_size > 1000
    for claim in ("2.1e", "2.2b"):
        assert claim in out


def test_figures_are_drawn_when_nothing_is_known(record):
    lost = record.copy(deep=True)
    for name in lost.data_vars:
        if lost[name].dtype.kind == "f":
            lost[name] = lost[name] * np.nan
    for name, figure in saddles.figures(lost):
        figure.canvas.draw()
        assert figure.axes[0].get_title(loc="left"), name
    judge(saddles.CLAIMS, lost)


# --- statistics on numbers that are known


def example(seeds=8):
    each = np.ones(seeds)
    sigma, walkers = np.array([0.0, 1e-8, 1e-4]), 3
    left = np.full((3, walkers, seeds), np.nan)
    rate, falling = 0.1, 1.0
    left[1:] = (10 + np.log(1e8 / np.array([1, 1e4])) / np.log1p(rate * falling))[:, None, None]
    barrier = np.array([2.0, 4.0])
    exact = np.exp(barrier)[:, None] * each
    spread = np.zeros((2, 2, seeds, 3))
    spread[0, 1] = [0, 0.05, 0.5]
    small = np.full((2, 2, 2, seeds, 3), np.log(10))
    small[0, 0, 0, :, 2] = small[1, 0, 0, :, 1:] = small[0, :, 1, :, 1:] = 1.0
    cross = np.zeros((2, len(records.METHODS), seeds))
    cross[0] = np.array([100, 20, 200, 50, 10])[:, None]
    cross[1] = np.array([800, 100, 800, 400, 100])[:, None]
    speed = np.stack([landscapes.speed_ratio(0.5, [1, 2]), 1 - 0.5 ** np.array([1, 2])])
    variables = {
        "saddle_left": (("sigma", "walker", "seed"), left), "falling": (("seed",), falling * each),
        "ridge_left": (("axes", "seed"), np.stack([np.nan * each, 300 * each])),
        "well_mean": (("barrier", "seed"), exact * 1.05),
        "well_exact": (("barrier", "seed"), exact),
        "well_share": (("well_noise", "seed"), np.stack([0 * each, 0.7 * each, 0.1 * each])),
        "well_ever": (("well_noise", "seed"), np.stack([0 * each, each, each])),
        "symmetric_spread": (("size", "noise", "seed", "symmetric_step"), spread),
        "small_loss": (("size", "start", "noisy", "seed", "small_step"), small),
        "valley_steps": (("valley", "way", "seed"), cross),
        "speed": (("form", "seed", "speed_step"), np.repeat(speed[:, None], seeds, 1)),
    }  # fmt: skip
    coords = {
        "sigma": sigma, "axes": list(records.AXES), "barrier": barrier, "size": list(records.SIZES),
        "well_noise": [0, 0.5, 0.25], "noise": [0.0, 1e-2], "start": list(records.STARTS),
        "noisy": [0, 1], "valley": list(records.VALLEYS), "way": list(records.METHODS),
        "form": ["book", "source"], "speed_step": [1, 2], "small_step": [0, 4, 8],
        "symmetric_step": [0, 4, 8], "seed": np.arange(seeds),
    }  # fmt: skip
    return xarray.Dataset(variables, coords, {"alpha": 0.5, "saddle_rate": rate})


EXPECTED = {
    claims.ridge_along: 0,
    claims.ridge_turned: 1,
    claims.saddle_share: 1,
    claims.saddle_slope: 0,
    claims.well_without: 0,
    claims.well_with: 0.7,
    claims.well_with_little: 0.1,
    claims.well_off: np.log(1.05),
    claims.kramers_slope: 0,
    claims.units_by_batches: 0,
    claims.units_by_noise: 0.5,
    claims.batches_sooner: 1,
    claims.noise_sooner: 1,
    claims.zero_by_batches: 0,
    claims.zero_by_noise: 1,
    claims.book_speed: 0,
    claims.source_speed: 0,
    claims.averaged_gain: 0,
    claims.momentum_gain: 3,
    claims.gain_with_walls: 2,
    claims.gain_without_walls: 0,
    claims.part_of_speed: 99 / 40,
}


@pytest.mark.parametrize("statistic", EXPECTED, ids=lambda s: s.__name__)
def test_a_statistic_is_the_number_read_off(statistic):
    found = np.asarray(statistic(example()), float)
    assert found.shape == (8,)
    np.testing.assert_allclose(found, EXPECTED[statistic], rtol=1e-9, atol=1e-9)


def test_verdicts_follow_the_record():
    found = {v.id: v.verdict for v in judge(saddles.CLAIMS, example())}
    assert found["2.1e1"] == found["2.1e8"] == found["2.1e10"] == "conditional"
    assert found["2.1e3"] == found["2.1e9"] == "supported"
    assert found["2.2b3"] == found["2.2b5"] == "refuted"
    assert found["2.2b4"] == "conditional"


# --- settings


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--alpha=1"], "alpha=1: must be greater than 0 and less than 1"),
        (["--sigmas=0,1e-3"], "each must be greater than 0"),
        (["--sigmas=1e-3"], "--sigmas=0.001: must hold at least two numbers"),
        (["--sigmas=1e-3,1e-6"], "must be in rising order"),
        (["--barriers=2,2"], "--barriers=2,2: must be in rising order, without a value twice"),
        (["--weight_noises="], "--weight_noises=: must hold at least two numbers"),
        (["--saddle_rate=0"], "saddle_rate=0: must be greater than 0"),
        (["--well_rate=0.2"], "well_rate=0.2: must be"),
        (["--well_given=401"], "--well_given=401: must be at most 400"),
        (["--images=1438"], "--images=1438: must be at most 1437"),
        (["--batch_size=40"], "--batch_size=40: must be less than 40"),
        (["--units=1"], "units=1: must be at least 2"),
        (["--widths="], "at least one hidden layer"),
        (["--small_steps=3"], "--small_steps=3: must be at least 4"),
        (["--data=x"], "must be one of digits, mnist_5k"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(argv, words, tmp_path):
    folder = tmp_path / "run"
    status, _, err = main(f"--run_dir={folder}", *argv)
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not folder.exists()
