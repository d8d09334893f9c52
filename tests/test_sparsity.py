"""`sparsity` at toy size: its record against the closed form, its claims, figures and settings."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from running import run_main

from dlstudy.claims import judge
from dlstudy.host import Layout, NullHost
from experiments import cli, sparsity
from experiments import sparsity_claims as claims
from experiments import sparsity_record as records
from experiments import sparsity_runs as runs

pytestmark = pytest.mark.usefixtures("quick_compilation")
FLAGS = Path(cli.__file__).parent / "flags"
SEEDS = 2
TOY = (
    "--compilation_cache_dir=", "--devices=1", f"--num_seeds={SEEDS}", "--weights=20",
    "--alphas=0.05,0.2,0.5", "--quadratic_steps=2500", "--widths=6", "--l1_strengths=0.001,0.03",
    "--l2_strengths=0.0,0.01", "--group_strengths=0.001,0.02", "--rates=0.5", "--epochs=7",
    "--batch_size=240", "--last_steps=3", "--margin=0.5", "--pruning_levels=4", "--features=12",
    "--informative=3", "--samples=30", "--tuning=20", "--correlations=0.0,0.9", "--path=5",
    "--linear_steps=300",
)  # fmt: skip


def main(*argv):
    return run_main(sparsity, *TOY, *argv)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sparsity") / "run"
    status, out, err = main(f"--run_dir={folder}")
    assert status == 0, out + err
    return folder, xarray.load_dataset(folder / "record.nc"), out


@pytest.fixture(scope="module")
def record(finished):
    return finished[1]


def test_the_record_is_complete_and_labelled(record):
    for name in record:
        assert record[name].attrs["units"], name
        assert record[name].attrs["long_name"], name
    assert list(record.arm.values) == [*records.UPDATES, *records.LINEAR, *records.NETWORK]
    assert np.all(record["diverged_step"] == -1)
    assert record.sizes["condition"] == 8
    for name in record:
        if not name.startswith("pruned"):
            assert np.isfinite(record[name]).all(), name


def test_quadratics_end_at_the_closed_form(record):
    h, target = record["curvatures"].values, record["targets"].values
    alpha = float(record.alpha[1])
    soft = np.sign(target) * np.maximum(np.abs(target) - alpha / h, 0)
    expected = {
        "proximal": soft,
        "elastic_net": soft * h / (h + alpha),
        "l2": target * h / (h + alpha),
    }
    for update, best in expected.items():
        end = record["end_weights"].sel(update=update).values
        np.testing.assert_allclose(end, best, rtol=1e-12, atol=1e-13)
        np.testing.assert_array_equal(end == 0, best == 0)
        assert record["closed_error"].sel(update=update).max() < 1e-12
    for update in ("source", "falling", "l2"):
        assert np.all(record["zeros"].sel(update=update) == 0)
    for update in ("proximal", "source"):
        count = record["closed_zeros"].sel(update=update, alpha=alpha)
        np.testing.assert_array_equal(count, (soft == 0).sum(1))
    crossings = record["crossings"].isel(alpha=1)
    assert np.all(crossings.sel(update="source") > 100)
    assert np.all(crossings.sel(update="proximal") <= 1)


def test_trajectories_follow_the_formulas(record):
    count = record.sizes["weight_shown"]
    h, target = record["curvatures"].values[:, :count], record["targets"].values[:, :count]
    alpha, rate = float(record.alpha[1]), 0.2
    w = record["trajectories"].sel(update="source").values
    for step in range(5):
        now = w[..., step]
        after = now - rate * h * (now - target) - rate * alpha * np.sign(now)
        np.testing.assert_allclose(w[..., step + 1], after, rtol=1e-12, atol=1e-14)


def test_linear_models_select_as_their_weights_say(record):
    truth = record["linear_truth"].values != 0
    assert np.all(truth.sum(-1) == 3)
    for arm in records.LINEAR:
        own = record.sel(linear_arm=arm)
        used = own["linear_weights"].values != 0
        hits = (used & truth).sum(-1)
        np.testing.assert_allclose(own["precision"], hits / np.maximum(used.sum(-1), 1))
        np.testing.assert_allclose(own["recall"], hits / 3)
        np.testing.assert_allclose(own["f1"], 2 * hits / (used.sum(-1) + 3))
        size = np.abs(own["linear_weights"].values)
        top = size >= np.sort(size, -1)[..., -3:-2]
        some = used.sum(-1) >= 3  # else the places beyond are ties at 0
        np.testing.assert_allclose(own["top_f1"].values[some], ((top & truth).sum(-1) / 3)[some])
    assert np.all(record["selected"].sel(linear_arm="linear_l2") == 12)
    assert record["residual"].isel(correlation=0).max() < 1e-6


def test_neighbours_have_their_covariance_and_factor():
    with jax.enable_x64(True):
        for rho in (0.0, 0.5, 0.95):
            covariance, factor = runs.neighbours(7, jnp.asarray(rho))
            np.testing.assert_allclose(factor @ factor.T, covariance, rtol=1e-12, atol=1e-15)
            np.testing.assert_allclose(covariance[0], rho ** np.arange(7.0))


def test_networks_have_zeros_where_the_penalty_makes_them(record):
    arms = record["penalty"].values
    zeros = record["zero_share"].values
    assert np.all(zeros[:, (arms == "network_l2") | (arms == "network_source")] == 0)
    strong = record["strength"].values == 0.03
    assert np.all(zeros[:, (arms == "network_l1") & strong] > 0.3)
    assert np.all(record["units_removed"].values[:, (arms == "network_group")].max(1) > 0)
    assert np.all(record["pixels_read"].values[:, arms == "network_l2"] == 1)
    pruned = record["pruned_zero_share"].values
    np.testing.assert_allclose(
        pruned, np.broadcast_to([0, 0.25, 0.5, 0.75], pruned.shape), atol=3e-3
    )
    unpruned = record["tune_error"].values[:, arms == "network_l2"]
    np.testing.assert_allclose(record["pruned_tune_error"].values[..., 0], unpruned, atol=1e-6)


def test_a_network_is_counted_by_hand():
    kernel = jnp.array([[0.0, 1.0, 0.0], [0.0, 2.0, 3.0], [0.0, 0.0, 0.0]])  # 3 inputs, 3 units
    head = jnp.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    params = {"hidden_0": {"kernel": kernel, "bias": jnp.ones(3)},
              "head": {"kernel": head, "bias": jnp.zeros(2)}}  # fmt: skip
    assert runs.zero_share(params) == jnp.float32(9 / 15)
    assert runs.units_removed(params) == jnp.float32(2 / 3)  # nothing enters 0, nothing leaves 2
    assert runs.pixels_read(params) == jnp.float32(2 / 3)


def test_the_rule_of_one_standard_error():
    squares = np.tile([[4.0], [1.2], [1.0], [1.1]], (1, 4)) + np.array([0.5, -0.5, 0.5, -0.5])
    assert runs.choose(jnp.asarray(squares)) == 1  # 1.2 <= 1 + 0.5 / 2
    assert runs.choose(jnp.asarray(np.tile([[4.0], [1.2], [1.0]], (1, 4)))) == 2


def study(**settings):
    config = sparsity.Config(num_seeds=2, widths=(4,), l1_strengths=(0.01,), l2_strengths=(0.01,),
                             group_strengths=(0.01,), rates=(0.5,), batch_size=479,
                             **settings)  # fmt: skip
    return runs.Study(config, sparsity.load(config), NullHost(Layout()), [0, 1])


def test_all_networks_and_blocks_are_one_trace():
    small = study(epochs=2, last_steps=1, pruning_levels=2)
    data = (small.train, small.tune, small.test)
    block = small.over_seeds(small.block, shared=4)
    params = small.over_seeds(small.start)(small.keys)
    for begin, last in ((0, False), (1, True)):
        params, row = block(
            params, small.keys, np.int32(begin), np.int32(begin + 1), np.bool_(last), data
        )
        assert np.isfinite(row["pruned_tune_error"]).all() == last
    assert block.traces == 1


def test_a_step_is_the_proximal_step_by_hand():
    small = study()
    params = jax.tree.map(lambda w: w[0], small.start(small.keys[0]))
    batch = (small.train[0][:50], small.train[1][:50])
    gradient = jax.jit(jax.grad(small.loss))(params, batch)
    descend = jax.jit(lambda condition: small.descend(params, batch, jnp.float32(0.4), condition))
    soft = lambda w, t: np.sign(w) * np.maximum(np.abs(w) - t, 0)  # noqa: E731
    for i, (arm, _, _) in enumerate(small.labels):
        one = jax.tree.map(lambda a, i=i: a[i], small.conditions)
        found = descend(one)
        for name in params:
            w, g = np.asarray(params[name]["kernel"]), np.asarray(gradient[name]["kernel"])
            v, t = w - 0.2 * g, 0.2 * 0.01
            axis = 1 if name == "head" else 0
            norm = np.linalg.norm(v, axis=axis, keepdims=True)
            expected = {
                "network_l1": soft(v, t),
                "network_l2": v / (1 + t),
                "network_group": v * np.maximum(1 - t * w.shape[axis] ** 0.5 / norm, 0),
                "network_source": v - t * np.sign(w),
            }[arm]
            np.testing.assert_allclose(found[name]["kernel"], expected, rtol=1e-5, atol=1e-6)
            plain = np.asarray(params[name]["bias"]) - 0.2 * np.asarray(gradient[name]["bias"])
            np.testing.assert_allclose(found[name]["bias"], plain, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("without_figures")
def test_a_lone_seed_repeats_its_numbers(record, tmp_path):
    folder = tmp_path / "run"
    status, out, err = main(f"--run_dir={folder}", "--only_seed=1")
    assert status == 0, out + err
    lone = xarray.load_dataset(folder / "record.nc")
    for name in record:
        if "seed" in record[name].dims:
            both = (r[name].sel(seed=1).values.tobytes() for r in (lone, record))
            assert next(both) == next(both), name


# --- claims on a record whose numbers are known


def example(seeds=20):
    """Of each update 10 weights, 4 of them 0 at the minimum; of each arm of networks two."""
    path = ("update", "seed", "alpha")
    size = (len(records.UPDATES), seeds, 2)
    closed = np.full(size, 4)
    hit = closed.copy()
    hit[[1, 2]] = 0
    closed[3], hit[3] = 0, 0
    error = np.full(size, 1e-15)
    error[1] = 0.1
    tune = np.tile([0.03, 0.2, 0.02, 0.03, 0.025, 0.3, 0.03, 0.03], (seeds, 1))
    zero = np.tile([0.6, 0.9, 0.0, 0.0, 0.5, 0.9, 0.0, 0.0], (seeds, 1))
    units = np.tile([0.2, 0.5, 0.0, 0.0, 0.4, 0.9, 0.0, 0.0], (seeds, 1))
    network = ("seed", "condition")
    linear = ("linear_arm", "seed", "correlation")
    f1 = np.zeros((2, seeds, 3))
    f1[0], f1[1] = (0.9, 0.7, 0.5), 0.25
    pruned = ("seed", "l2_condition", "level")
    # The second L2 model, which is not the one chosen, would stand more cutting.
    levels = np.broadcast_to([[0.0, 0.55, 0.9], [0.0, 0.59, 0.9]], (seeds, 2, 3))
    variables = {
        "zeros": (path, hit), "zeros_hit": (path, hit), "closed_zeros": (path, closed),
        "closed_error": (path, error), "cut_zeros": (path, np.full(size, 2)),
        "tune_error": (network, tune), "zero_share": (network, zero),
        "units_removed": (network, units), "pixels_read": (network, 1 - zero / 2),
        "test_error": (network, tune + 0.01),
        "pruned_zero_share": (pruned, levels), "pruned_pixels_read": (pruned, 1 - levels / 2),
        "pruned_tune_error": (pruned, np.broadcast_to([0.02, 0.03, 0.2], (seeds, 2, 3))),
        "f1": (linear, f1), "top_f1": (linear, np.full(f1.shape, 0.9)),
        "diverged_step": (("arm", "seed"), np.full((11, seeds), -1)),
    }  # fmt: skip
    coords = {
        "arm": [*records.UPDATES, *records.LINEAR, *records.NETWORK],
        "update": list(records.UPDATES), "linear_arm": list(records.LINEAR),
        "correlation": [0.0, 0.6, 0.9], "seed": np.arange(seeds), "alpha": [0.1, 0.2],
        "penalty": ("condition", np.repeat(records.NETWORK, 2)),
        "strength": ("condition", [0.1, 1.0] * 4),
    }  # fmt: skip
    return xarray.Dataset(variables, coords, {"margin": 0.01, "weights": 10})


EXPECTED = {
    claims.source_zeros: 0,
    claims.proximal_zeros: 1,
    claims.false_zeros: 0,
    claims.l2_zeros: 0,
    claims.source_error: 0.1,
    claims.proximal_error: 1e-15,
    claims.elastic_zeros: 1,
    claims.elastic_error: 1e-15,
    claims.cut_zeros: 4,
    claims.l1_more_zeros: 0.6,  # the other L1 model has more, at an error that does not match
    claims.source_more_zeros: 0,
    claims.l1_more_than_pruned: 0.05,
    claims.l1_more_units: 0.2,
    claims.matched: 0.01,
    claims.group_more_units: 0.2,
    claims.fewer_pixels: 0.3,
    claims.fewer_pixels_than_pruned: 0.025,
    claims.f1_gain: 0.65,
    claims.top_gain: 0,
    claims.quality: 0.9,
    claims.quality_correlated: 0.5,
}


@pytest.mark.parametrize("statistic", EXPECTED, ids=lambda s: s.__name__)
def test_a_statistic_is_the_number_read_off(statistic):
    found = np.asarray(statistic(example()), float)
    assert found.shape == (20,)
    np.testing.assert_allclose(found, EXPECTED[statistic], rtol=1e-6, atol=1e-12)


def test_verdicts_follow_the_record():
    found = {v.id: v for v in judge(sparsity.CLAIMS, example())}
    assert found["1.2a1"].verdict == "refuted"
    assert found["1.2a1"].effect == 0
    assert found["1.2a1"].other_reading.verdict == "supported"
    assert found["1.2a2"].other_reading.verdict == "supported"
    assert found["1.2a4"].verdict == "supported"
    assert found["1.2b1"].verdict == "conditional"
    assert found["1.2b1"].other_reading.verdict == "refuted"
    assert found["1.2b3"].verdict == "supported"
    assert found["1.2c"].verdict == "conditional"
    assert found["1.2d"].verdict == found["1.2e"].verdict == found["1.2f"].verdict == "supported"
    broken = example()
    broken["zeros"] = broken["zeros"] + 1
    assert {v.id: v for v in judge(sparsity.CLAIMS, broken)}["1.2a4"].verdict == "refuted"


def test_models_that_do_not_match_are_never_compared():
    broken = example()
    broken["tune_error"][:3, :2] = 0.5
    broken["tune_error"][3, 0] = np.nan
    values = claims.l1_more_zeros(broken)
    assert np.isnan(values[:4]).all()
    np.testing.assert_allclose(values[4:], 0.6)
    assert np.isnan(claims.fewer_pixels(broken)[:4]).all()


# --- figures, folder, settings


def test_the_folder_holds_every_figure(finished):
    folder, _, out = finished
    listing = json.loads((folder / "figures" / "figures.json").read_text())
    named = {
        c.figure
        for top in sparsity.CLAIMS
        for c in (top, *top.parts, top.control)
        if c and c.figure
    }
    assert named <= set(listing)
    assert len(listing) == 7
    for name in listing:
        assert (folder / "figures" / f"{name}.png").stat().st_size > 1000
    assert "1.2c3" in out


def test_figures_bear_networks_that_diverged_or_do_not_match(record):
    broken = record.copy(deep=True)
    for name in ("train_loss", "tune_error", "test_error"):
        broken[name] = broken[name] * np.nan
    assert len(list(sparsity.figures(broken))) == 7


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--alphas=-0.1,0.2"], "alphas=-0.1,0.2: each must be at least 0"),
        (["--l1_strengths=-1"], "must be at least 0"),
        (["--l2_strengths=-1"], "must be at least 0"),
        (["--group_strengths=-1"], "must be at least 0"),
        (["--alphas="], "--alphas=: must name at least one"),
        (["--l1_strengths="], "--l1_strengths=: must name at least one"),
        (["--l1_strengths=0.1,0.01"], "must rise"),
        (["--rates=0"], "rates"),
        (["--correlations=0.5,0.9"], "must begin with 0"),
        (["--informative=12"], "must be below 12"),
        (["--batch_size=1438"], "must be at most 1437"),
        (["--tuning=0"], "tuning=0: must be at least 2"),
        (["--quadratic_rate=2"], "must be greater than 0 and less than 2"),
        (["--margin=-0.1"], "margin"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(argv, words, tmp_path):
    folder = tmp_path / "run"
    status, _, err = main(f"--run_dir={folder}", *argv)
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not folder.exists()
