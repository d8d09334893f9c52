"""`relu_regions` at toy size: its record against brute force, its claims, figures and settings."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from running import run_main

from dlstudy import data, models, patterns, plots, regions
from dlstudy.claims import judge
from dlstudy.host import Layout, NullHost
from experiments import cli, relu_regions
from experiments import relu_regions_claims as claims
from experiments import relu_regions_record as records
from experiments.relu_regions_runs import Arm, Convergence, Study

pytestmark = pytest.mark.usefixtures("quick_compilation")
FLAGS = Path(cli.__file__).parent / "flags"
SEEDS, EPOCHS, SAMPLES, WIDTHS = 2, 12, 40, (5, 4)
TOY = (
    "--compilation_cache_dir=", "--devices=1", f"--num_seeds={SEEDS}", f"--epochs={EPOCHS}",
    f"--samples={SAMPLES}", "--grid=101", "--widths=5,4", "--block=5", "--patience=6",
    "--sizes=2,3", "--size_epochs=3", "--learning_rate=0.03",
)  # fmt: skip


def main(*argv):
    return run_main(relu_regions, *TOY, *argv)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("relu_regions") / "run"
    status, out, err = main(f"--run_dir={folder}")
    assert status == 0, out + err
    return folder, xarray.load_dataset(folder / "record.nc"), out


@pytest.fixture(scope="module")
def record(finished):
    return finished[1]


def shown(record, arm):
    """Parameters of the first seed by epoch: (number of epochs + 1, tree with that axis)."""
    end = int(record["epochs_trained"].sel(arm=arm)[0])
    flat = record["shown_params"].sel(arm=arm).values[: end + 1]
    return end, records.unflatten(WIDTHS, flat)


def forward(params, x):
    """Network of one input by hand, float64: (outputs [N], pattern bool[N, U])."""
    kernels, biases = records.layers_of(params)
    h, on = x[:, None].astype(float), []
    for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        h = h @ kernel + bias
        if i < len(kernels) - 1:
            on.append(h > 0)
            h = np.maximum(h, 0)
    return h[:, 0], np.concatenate(on, 1)


def test_the_record_has_every_variable_with_unit_and_long_name(record):
    epochs = ("arm", "seed", "epoch")
    for name in records.VARIABLES:
        assert record[name].dims == epochs
    assert list(record.arm.values) == ["main", "decay", "zero_bias"]
    assert record["size_regions"].dims == ("width", "seed", "moment")
    for name in record:
        assert record[name].attrs["units"], name
        assert record[name].attrs["long_name"], name
    assert record.sizes["epoch"] == EPOCHS + 1


@pytest.mark.parametrize("arm", ["main", "decay", "zero_bias"])
def test_errors_patterns_and_regions_are_those_of_the_parameters(record, arm):
    end, params = shown(record, arm)
    own = record.sel(arm=arm, seed=0)
    x, grid, fine = (np.linspace(-2, 2, n) for n in (SAMPLES, 101, 40_000))
    was = was_fine = None
    for epoch in range(end + 1):
        one = jax.tree.map(lambda a, e=epoch: a[e], params)
        now = own.isel(epoch=epoch)
        for points, where in ((x, ""), (grid, "grid_")):
            error = np.abs(forward(one, points)[0] - np.sin(np.pi * points / 4))
            np.testing.assert_allclose(now[f"{where}mean_error"], error.mean(), rtol=1e-4)
            np.testing.assert_allclose(now[f"{where}max_error"], error.max(), rtol=1e-4)
        pattern, fine_pattern = forward(one, x)[1], forward(one, fine)[1]
        runs = 1 + (pattern[1:] != pattern[:-1]).any(1).sum()
        assert now["sample_regions"] == runs
        kernels, biases = records.layers_of(one)
        network = regions.mlp([k.T for k in kernels], biases)
        assert now["regions"] == regions.regions_on_line(network, [(-2.0, 2.0)]).n_regions
        assert now["regions"] >= 1 + (fine_pattern[1:] != fine_pattern[:-1]).any(1).sum()
        if epoch:
            assert now["hamming"] == (pattern != was).sum()
            differing = (fine_pattern != was_fine).sum(1).mean()
            np.testing.assert_allclose(now["domain_hamming"], differing, atol=2e-3)
        was, was_fine = pattern, fine_pattern
    np.testing.assert_array_equal(own["layer_hamming"].sum("layer"), own["hamming"].fillna(0))


def test_biases_at_zero_give_two_regions_at_the_start(record):
    assert np.all(record["regions"].sel(arm="zero_bias", epoch=0) == 2)
    assert np.all(record["regions"].sel(arm="main", epoch=0) > 2)


def test_ends_are_certified(record):
    assert np.all(record["map_error"] < 1e-9)
    assert np.all(record["misplaced"] == 0)
    ends = record["distinct_patterns"].sel(moment="end", arm="main")
    np.testing.assert_array_equal(ends, claims.at_end(record, "regions"))
    start = record["distinct_patterns"].sel(moment="start", arm="main")
    np.testing.assert_array_equal(start, record["regions"].sel(arm="main", epoch=0))
    assert np.all(record["linear_pieces"] <= record["distinct_patterns"])
    flat = record["end_params"].sel(arm="main").values[0]
    np.testing.assert_array_equal(
        flat, record["shown_params"].sel(arm="main").values[shown(record, "main")[0]]
    )


def study(**settings):
    config = relu_regions.Config(num_seeds=1, **settings)
    return Study(config, relu_regions.load(config), NullHost(Layout()), [0])


def test_what_is_compiled_ahead_is_all_that_a_run_needs():
    code = """
import numba.core.event as event
from experiments import relu_regions_record as records
import numpy as np
records.compile_regions()
with event.install_recorder("numba:compile") as found:
    flat = np.random.default_rng(1).normal(size=(3, 48)).astype(np.float32)
    records.exact_regions(records.unflatten((5, 5), flat[:, :46]))
    records.examine((5, 5), flat[:, :46])
assert not found.buffer, found.buffer
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_run_stops_after_its_patience():
    rule = jax.jit(study(patience=3, gain=0.1).converge)
    found = Convergence(jnp.float32(1.0), jnp.int32(0), jnp.bool_(False))
    done = []
    for error in (0.95, 0.8, 0.79, 0.75, 0.73):  # only 0.8 is a tenth better than the best before
        found = rule(found, jnp.float32(error))
        done.append(bool(found.done))
    assert done == [False, False, False, False, True]
    assert found.best == jnp.float32(0.8)
    assert rule(found, jnp.float32(jnp.nan)).done


def test_a_stopped_run_stays_and_is_nan(record):
    for arm in record.arm.values:
        for seed in record.seed.values:
            own = record.sel(arm=arm, seed=seed)
            end = int(own["epochs_trained"])
            for name in records.VARIABLES:
                values = own[name].values
                assert np.isnan(values[end + 1 :]).all(), name
                first = 0 if np.isfinite(values[0]) else 1
                assert np.isfinite(values[first : end + 1]).all(), name
            assert own["converged"] == (end < EPOCHS) or end == EPOCHS


def test_a_minibatch_run_makes_several_steps_an_epoch():
    small = study(samples=10, batch_size=5, widths=(3,), patience=50)
    state = small.start(Arm(), small.keys[0])
    state, row = jax.jit(lambda s, k: small.epochs(Arm(), 2, s, k))(state, small.keys[0])
    assert state.train.step == 4
    assert row["loss"].shape == (2,)


def test_the_decaying_rate_ends_at_zero():
    small = study(samples=10, widths=(3,), epochs=5, patience=50)
    arm = Arm(decay=True)
    state = small.start(arm, small.keys[0])
    _, row = jax.jit(lambda s, k: small.epochs(arm, 5, s, k))(state, small.keys[0])
    moved = np.asarray(row["displacement"])
    assert moved[4] < 0.2 * moved[0]


@pytest.mark.usefixtures("without_figures")
def test_resumed_and_lone_seeds_repeat_the_numbers(record, tmp_path, monkeypatch):
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
    status, out, err = main(f"--run_dir={folder}", "--learning_rate=1e30", "--epochs=3")
    assert status == 0, out + err
    record = xarray.load_dataset(folder / "record.nc")
    assert np.all(record["diverged_step"].sel(arm=["main", "decay"]) >= 1)
    assert np.isnan(record["size_regions"].sel(moment="end")).all()
    assert np.all(record["size_regions"].sel(moment="start") >= 1)


# --- claims on a record whose numbers are known


def example(seeds=20, epochs=20):
    """Every seed runs `epochs`; see the numbers in EXPECTED."""
    when = np.arange(epochs + 1)
    put = lambda values: np.tile(np.asarray(values, np.float32), (3, seeds, 1))  # noqa: E731
    first = np.where(when == 0, np.nan, 1.0)
    one = (("arm", "seed", "epoch"),)
    rows = {
        "mean_error": 2.0**-when,
        "grid_max_error": np.where(when == epochs, 0.1, 2.0),
        "regions": np.where(when == 0, 8, np.where(when == 10, 64, 32)),
        "hamming": first * np.where(when <= 2, 80, np.where(when <= 18, 10, 4)),
        "displacement": first * np.where(when <= 15, 1, 2),
    }
    variables = {name: (*one, put(values)) for name, values in rows.items()}
    variables["regions"][1][2, :, 0] = 2
    variables["hamming"][1][1, :, -2:] = 0
    ends = np.ones((3, 2, seeds))
    for name, value in (("map_error", 0), ("distinct_patterns", 32), ("misplaced", 0)):
        variables[name] = (("arm", "moment", "seed"), value * ends)
    variables["epochs_trained"] = (("arm", "seed"), np.full((3, seeds), epochs))
    variables["converged"] = (("arm", "seed"), np.ones((3, seeds)))
    variables["diverged_step"] = (("arm", "seed"), np.full((3, seeds), -1))
    coords = {"arm": ["main", "decay", "zero_bias"], "moment": ["start", "end"]}
    coords |= {"seed": np.arange(seeds), "epoch": when}
    return xarray.Dataset(variables, coords, {"neurons": 16, "samples": 25})


EXPECTED = {
    claims.mean_error_kept: 2.0**-20,
    claims.max_error_kept: 0.05,
    claims.converged: 1,
    claims.map_error: 0,
    claims.repeated_patterns: 0,
    claims.misplaced: 0,
    claims.start_count: -1,
    claims.start_count_zero_bias: -3,
    claims.end_count: 1,
    claims.bound_used: 6 / 16,
    claims.hamming_kept: 4 / 80,
    claims.hamming_kept_decay: 0,
    claims.last_is_zero: 0,
    claims.last_share: 1.0,
    # 160 + 160 + 8 of 328 by epoch 18; half, 164, by epoch 3; nine tenths, 295.2, by epoch 16.
    claims.half_lead: (3 - 13) / 20,
    claims.most_lead: (16 - 19) / 20,
}


@pytest.mark.parametrize("statistic", EXPECTED, ids=lambda s: s.__name__)
def test_a_statistic_is_the_number_read_off(statistic):
    found = np.asarray(statistic(example()), float)
    assert found.shape == (20,)
    np.testing.assert_allclose(found, EXPECTED[statistic], rtol=1e-6, atol=1e-12)


def test_verdicts_follow_the_record():
    found = {v.id: v.verdict for v in judge(relu_regions.CLAIMS, example())}
    assert found["4.1"] == "supported"
    assert found["4.2a"] == "supported"
    assert found["4.3a"] == "supported"
    assert found["4.3b1"] == "refuted"
    assert found["4.3c1"] == "supported"
    broken = example()
    broken["hamming"] = broken["hamming"] * 0 + 5 + broken.epoch
    broken["map_error"] = broken["map_error"] + 1e-6
    broken["misplaced"] = broken["misplaced"] + 1 / 2000
    broken["mean_error"] = 1 / broken["mean_error"]
    found = {v.id: v.verdict for v in judge(relu_regions.CLAIMS, broken)}
    assert found["4.3a"] == "refuted"
    assert found["4.2a"] == "refuted"
    assert found["4.2b"] == "refuted"
    assert found["4.1c"] == "refuted"  # what rises has not converged


# --- figures, folder, settings


def test_the_folder_holds_pictures_and_a_moving_one(finished):
    folder, _, out = finished
    from PIL import Image

    names = ("errors", "function", "patterns", "motion", "hamming", "counts", "settling")
    for name in names:
        assert (folder / "figures" / f"{name}.svg").stat().st_size > 1000
        assert (folder / "figures" / f"{name}.png").stat().st_size > 1000
    with Image.open(folder / "figures" / "regions.gif") as moving:
        assert moving.n_frames > 5
    assert "4.2c" in out
    verdicts = json.loads((folder / "claims.json").read_text())
    assert verdicts


def test_neighbours_that_differ_in_a_unit_differ_in_lightness():
    rng = np.random.default_rng(0)
    pattern = rng.integers(0, 2**63, (200, 2), dtype=np.uint64)
    flipped = pattern ^ np.array([1, 0], np.uint64) << rng.integers(0, 64, (200, 1)).astype("u8")
    light = [plots.pattern_colours(p) @ [0.2126, 0.7152, 0.0722] for p in (pattern, flipped)]
    assert np.abs(light[0] - light[1]).min() > 0.1
    np.testing.assert_array_equal(
        plots.pattern_colours(pattern[5:7]), plots.pattern_colours(pattern)[5:7]
    )


def test_sine_is_the_function_on_the_domain():
    found = data.sine(5, 9)
    np.testing.assert_allclose(found.train.x[:, 0], [-2, -1, 0, 1, 2])
    np.testing.assert_allclose(found.train.y[:, 0], np.sin(np.pi * found.train.x[:, 0] / 4), 1e-6)
    assert found.train.x.dtype == found.train.y.dtype == np.float32
    assert found.test.x.shape == (9, 1)
    assert found.classes == 0


def test_an_mlp_starts_as_it_says():
    model = models.MLP((50, 40), 2)
    params = models.initialise(model, jax.random.key(0), jnp.zeros(3))
    for name, fan_in in (("hidden_0", 3), ("hidden_1", 50), ("head", 40)):
        for leaf in params[name].values():
            assert np.abs(leaf).max() <= fan_in**-0.5
            assert np.abs(leaf).max() > 0.5 * fan_in**-0.5
    zero = models.initialise(models.MLP((5,), 1, zero_bias=True), jax.random.key(0), jnp.zeros(1))
    assert not np.any(zero["hidden_0"]["bias"])
    out, taps = model.apply({"params": params}, jnp.ones((4, 3)))
    assert out.shape == (4, 2)
    assert patterns.layer_sizes(taps) == (50, 40)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--batch_size=41"], "batch_size=41: must be at most 40"),
        (["--widths=0"], "widths"),
        (["--widths="], "at least one hidden layer"),
        (["--sizes=3,3"], "must not repeat"),
        (["--controls=dropout"], "must be one of decay"),
        (["--gain=1"], "gain"),
        (["--patience=0"], "patience"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(argv, words, tmp_path):
    folder = tmp_path / "run"
    status, _, err = main(f"--run_dir={folder}", *argv)
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not folder.exists()
