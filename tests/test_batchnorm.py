"""`batchnorm` at toy size: theory, instruments by hand, a run of `main`, statistics, settings."""

import functools
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from oracles.precision import in_float64
from running import run_main

from dlstudy import losses, models, normalization
from dlstudy.claims import judge
from dlstudy.host import Layout, NullHost
from dlstudy.normalization import Statistics
from experiments import batchnorm, cli, flagging
from experiments import batchnorm_claims as claims
from experiments import batchnorm_networks as networks
from experiments import batchnorm_record as records
from experiments import batchnorm_runs as runs
from experiments import batchnorm_theory as theory

pytestmark = pytest.mark.usefixtures("quick_compilation")
FLAGS = Path(cli.__file__).parent / "flags"
TOY = (
    "--compilation_cache_dir=", "--devices=1", "--num_seeds=2", "--train_size=400", "--widths=6",
    "--batch_size=100", "--epochs=3", "--rates=0.2,50", "--every=2", "--short_epochs=3",
    "--recalibration_batches=2", "--recalibration_size=100", "--test_sizes=2,200",
    "--batch_sizes=20,100", "--size_epochs=2", "--size_rates=0.1,0.4", "--floor_images=40",
    "--floor_widths=4", "--floor_rates=0.01,0.1", "--floor_steps=5", "--ghost_batch=100",
    "--ghost_images=50", "--growth_width=16",
    "--growth_depth=3", "--growth_batches=8,16",
)  # fmt: skip


def main(*argv):
    return run_main(batchnorm, *TOY, *argv)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batchnorm") / "run"
    status, out, err = main(f"--run_dir={folder}")
    assert status == 0, out + err
    return folder, xarray.load_dataset(folder / "record.nc"), out


@pytest.fixture(scope="module")
def record(finished):
    return finished[1]


# --- before training


def test_growth_tends_to_pi_over_pi_minus_one_and_is_more_in_small_batches():
    assert abs(theory.LIMIT - 1.46694) < 1e-5
    assert theory.growth(10**7) == pytest.approx(theory.LIMIT, rel=1e-6)
    sizes = [4, 8, 16, 64, 256, 4096]
    grown = [theory.growth(size) for size in sizes]
    assert grown == sorted(grown, reverse=True)
    assert theory.growth(64) == pytest.approx(1.4931, abs=1e-4)


@pytest.mark.parametrize(("batch", "tolerance"), [(256, 0.02), (16, 0.05)])
def test_wide_networks_grow_as_theory_says(batch, tolerance):
    def one(key):
        keys = jax.random.split(key)
        return theory.measured_growth(keys[1], theory.draw_weights(keys[0], 256, 6), batch)

    found = jax.lax.map(one, jax.random.split(jax.random.key(0), 3))
    assert float(found.mean()) == pytest.approx(theory.growth(batch), rel=tolerance)
    if batch == 256:
        assert float(found.mean()) == pytest.approx(theory.LIMIT, rel=tolerance)


def test_growth_in_batches_of_64_is_measured_to_half_a_percent():
    """Closely enough to tell 1.493, of the formula, from 1.467 and 1.485."""

    def one(key):
        keys = jax.random.split(key)
        return theory.measured_growth(keys[1], theory.draw_weights(keys[0], 512, 10), 64)

    found = jax.lax.map(one, jax.random.split(jax.random.key(0), 8))
    assert float(found.mean()) == pytest.approx(theory.growth(64), rel=0.005)


@in_float64
def test_measured_growth_is_the_gradient_by_differentiation():
    weights = jnp.asarray(theory.draw_weights(jax.random.key(0), 5, 4), jnp.float64)
    key = jax.random.key(1)
    below, above = (jax.random.normal(k, (7, 5)) for k in jax.random.split(key))
    plain = lambda z: jax.nn.relu((z - z.mean(0, keepdims=True)) / z.std(0, keepdims=True))  # noqa: E731

    def from_layer(i, x):
        for weight in weights[i:]:
            x = plain(x @ weight)
        return (x * above).sum()

    inputs = [below]
    for weight in weights:
        inputs.append(plain(inputs[-1] @ weight))
    squares = [jnp.square(jax.grad(from_layer, 1)(i, inputs[i])).mean() for i in (1, 3)]
    expected = float((squares[0] / squares[1]) ** 0.5)
    assert float(theory.measured_growth(key, weights, 7)) == pytest.approx(expected, rel=1e-6)


@in_float64
def test_scaling_is_scaling_epsilon_with_batch_statistics_alone():
    of_batch, fixed = jax.vmap(theory.scale_identity)(jax.random.split(jax.random.key(0), 5))
    assert (of_batch < 1e-12).all()
    assert (fixed > 0.01).all()


# --- batches


LABELS = np.arange(40) % 4


def test_an_order_by_class_is_by_class_and_one_without_is_random():
    key = jax.random.key(0)
    rows = np.asarray(networks.by_class(LABELS, 4, 1.0, key))
    assert sorted(rows) == list(range(40))
    assert [len(list(run)) for _, run in itertools.groupby(LABELS[rows])] == [10] * 4
    mixed = np.asarray(networks.by_class(LABELS, 4, 0.0, key))
    assert sorted(mixed) == list(range(40))
    assert len(list(itertools.groupby(LABELS[mixed]))) > 15
    few = LABELS[np.asarray(networks.by_class(LABELS, 4, 0.5, key))].reshape(8, 5)
    assert all(len(set(batch)) <= 3 for batch in few)


def test_an_epoch_by_class_sees_each_example_once_in_batches_of_one_class():
    rows = np.asarray(networks.batch_order(LABELS, 4, 5, 1.0, jax.random.key(1), 40))
    assert sorted(rows) == list(range(40))
    batches = LABELS[rows].reshape(8, 5)
    assert (batches == batches[:, :1]).all()
    neighbours = (batches[1:, 0] == batches[:-1, 0]).sum()
    assert neighbours < 4  # sorted, they would be 4: the batches are shuffled
    assert len(networks.batch_order(LABELS, 4, 12, 0.0, jax.random.key(1), 40)) == 36


def test_the_spread_of_batch_means_over_all_partitions_is_that_of_drawing_without_replacement():
    z = np.random.default_rng(0).normal(size=(6, 1))
    squares = []
    for order in itertools.permutations(range(6)):
        if order[0] < order[1] and order[2] < order[3] and order[4] < order[5]:
            batches = z[list(order)].reshape(3, 2, 1)
            statistics = Statistics(jnp.asarray(batches.mean(1)), jnp.asarray(batches.var(1)))
            squares.append(networks.spread({"bn_0": statistics})[0][0] ** 2)
    assert np.mean(squares) == pytest.approx((6 - 2) / (2 * (6 - 1)), rel=1e-5)


# --- one step


def small(batch_norm=True, n=12):
    network = networks.Network(models.MLP((6, 5), 3, batch_norm=batch_norm))
    x = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    batch = jnp.asarray(x), jnp.arange(n) % 3
    return network, network.start(jax.random.key(0), batch[0][0]), batch


def test_weights_start_as_he_et_al_have_them():
    network, params, _ = small()
    plain = models.initialise(network.model, jax.random.key(0), jnp.zeros(4))
    ratio = params["hidden_0"]["kernel"] / plain["hidden_0"]["kernel"]
    np.testing.assert_allclose(ratio, 6**0.5, rtol=1e-6)
    np.testing.assert_array_equal(params["head"]["kernel"], plain["head"]["kernel"])


def test_gamma_and_beta_stay_where_they_shall():
    network, params, batch = small()
    slope = jax.jit(jax.grad(lambda p, learn: network.loss(networks.frozen(p, learn), batch)))
    for affine in (True, False):
        gradient = slope(params, affine)
        moves = [bool(jnp.abs(leaf).max() > 0) for leaf in jax.tree.leaves(gradient["bn_1"])]
        assert moves == [affine, affine]
        assert jnp.abs(gradient["hidden_0"]["kernel"]).max() > 0


def test_noise_scales_and_shifts_what_was_normalised():
    network, params, batch = small()
    none = networks.noisy(params, 0.0, jax.random.key(1))
    for name in params:
        for leaf, other in zip(*map(jax.tree.leaves, (params[name], none[name])), strict=True):
            np.testing.assert_array_equal(leaf, other)
    loud = networks.noisy(params, 1.0, jax.random.key(1))
    factor, shift = loud["bn_0"]["scale"], loud["bn_0"]["bias"]
    assert ((factor >= 1) & (factor <= 1.25)).all()
    assert (np.abs(shift) <= 0.5).all()
    assert np.abs(shift).max() > 0
    _, plain = network.forward(params, batch[0])
    _, moved = network.forward(loud, batch[0])
    expected = np.asarray(plain["pre_0"]) * np.asarray(factor) + np.asarray(shift)
    np.testing.assert_allclose(moved["pre_0"], expected, rtol=1e-5, atol=1e-6)
    other = networks.noisy(params, 1.0, jax.random.key(2))["bn_0"]["bias"]
    assert np.abs(other - shift).max() > 0.1


def test_a_step_is_inspected_as_by_hand():
    network, params, batch = small()
    rate, noise, key = 0.5, 1.0, jax.random.key(4)
    now, then = jax.random.split(key)
    own = networks.condition(jnp.float32(rate), jnp.array(True), jnp.float32(noise))
    found = jax.jit(lambda p: networks.inspect(network, p, own, batch, key))(params)

    @jax.jit
    def with_noise(p, draw):
        return network.loss(networks.noisy(p, noise, draw), batch)

    gradient = jax.jit(jax.grad(with_noise))(params, now)
    ahead = lambda m: jax.tree.map(lambda p, g: p - m * rate * g, params, gradient)  # noqa: E731
    before = networks.noisy(params, noise, now)
    after = networks.noisy(ahead(1.0), noise, then)
    slope = jax.jit(jax.grad(network.loss))
    groups = {"hidden_1": ("hidden_0", "bn_0"), "head": ("hidden_0", "bn_0", "hidden_1", "bn_1")}
    old = slope(before, batch)
    for i, (name, below) in enumerate(groups.items()):
        new = slope(before | {k: after[k] for k in below}, batch)[name]["kernel"]
        apart = float(jnp.linalg.norm(new - old[name]["kernel"]))
        assert float(found["shift"][i]) == pytest.approx(apart, rel=1e-3)
        pair = new.ravel(), old[name]["kernel"].ravel()
        angle = float(jnp.dot(*pair) / jnp.linalg.norm(pair[0]) / jnp.linalg.norm(pair[1]))
        assert float(found["shift_cosine"][i]) == pytest.approx(angle, rel=1e-3)
    along = [float(with_noise(ahead(m), now)) for m in (0, *networks.ALONG)]
    assert float(found["step_loss"]) == pytest.approx(along[0], rel=1e-5)
    assert float(found["loss_range"]) == pytest.approx(max(along) - min(along), rel=1e-3)
    kernels = ("hidden_0", "hidden_1", "head")
    flat = lambda g: np.concatenate([np.ravel(g[k]["kernel"]) for k in kernels])  # noqa: E731
    moved = [
        flat(slope(networks.noisy(ahead(m), noise, now), batch)) - flat(old) for m in networks.ALONG
    ]
    change = max(np.linalg.norm(m) for m in moved) / np.linalg.norm(flat(old))
    assert float(found["gradient_change"]) == pytest.approx(change, rel=1e-3)


def test_a_ghost_batch_enters_the_statistics_and_not_the_loss():
    network, params, batch = small()
    own = networks.condition(jnp.float32(0.1), jnp.array(True), jnp.float32(0), jnp.int32(0), 0.0)
    starts = jax.tree.map(lambda a: a[None], params)
    trainer = networks.trainer(network, own, starts, batch, 3, 4, (0.5,), ghost=8)
    key, few = jax.random.key(3), jax.tree.map(lambda a: a[:4], batch)
    state, loss = jax.jit(trainer.step)(trainer.init(key), key, few)
    step_key = jax.random.fold_in(jax.random.fold_in(key, 0), 1)
    rows = jax.random.randint(jax.random.split(step_key)[1], (8,), 0, 12)
    logits, used = network.used(params, jnp.concatenate([few[0], batch[0][rows]]))
    expected = losses.cross_entropy(logits[:4], few[1])
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    running = normalization.moved(network.initial_statistics(few[0][0]), used, 0.5)
    np.testing.assert_allclose(
        state.statistics[0]["bn_0"].mean, running["bn_0"].mean, rtol=1e-4, atol=1e-6
    )


def test_recalibrated_statistics_of_the_first_layer_are_those_of_the_images():
    network, params, batch = small()
    pooled = jax.jit(lambda p: networks.recalibrated(network, p, batch, 3, 4))(params)
    z = np.asarray(batch[0]) @ np.asarray(params["hidden_0"]["kernel"])
    np.testing.assert_allclose(pooled["bn_0"].mean, z.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pooled["bn_0"].variance, z.var(0), rtol=1e-4)


def test_without_batch_normalisation_all_statistics_are_one():
    network, params, batch = small(batch_norm=False)
    row = networks.evaluate(network, params, {}, {}, {"test": batch})
    assert row["test_loss"].shape == (3,)
    np.testing.assert_array_equal(row["test_loss"], row["test_loss"][0])


# --- the run


def test_the_record_has_every_variable_with_unit_and_long_name(record):
    assert list(record.arm.values) == list(records.ARMS)
    assert record["diverged_step"].dims == ("arm", "seed")
    assert record["shift"].dims == ("run", "rate", "seed", "look", "layer")
    assert record.sizes["look"] == 2
    for name in (*records.VARIABLES, "diverged_step"):
        assert record[name].attrs["units"], name
        assert record[name].attrs["long_name"], name
    for name in ("loss", "shift", "epoch_error", "floor", "growth", "mean_spread", "size_loss"):
        good = record[name].sel(rate=0.2) if "rate" in record[name].dims else record[name]
        assert np.isfinite(good).all(), name


def test_arms_differ_in_what_their_names_say(record):
    start = record["start_loss"].sel(rate=0.2)
    np.testing.assert_array_equal(start.sel(run="bn"), start.sel(run="bn_fixed"))
    np.testing.assert_array_equal(start.sel(run="bn"), start.sel(run="bn_noisy"))
    assert (start.sel(run="none") != start.sel(run="none_again")).all()
    end = record["curve"].sel(rate=0.2).isel(epoch=-1)
    assert len({float(v) for v in end.isel(seed=0)}) == 5
    by_mode = record["error"].sel(run="none", rate=0.2)
    np.testing.assert_array_equal(by_mode.sel(mode="batch"), by_mode.sel(mode="recalibrated"))
    last = record["test_batch_error"].isel(test_size=-1, test_order=0).sel(bn_run="bn", rate=0.2)
    alone = record["error"].sel(run="bn", rate=0.2, split="test", mode="batch")
    np.testing.assert_allclose(last, alone, atol=2e-3)  # another order of the same sums


def test_a_seed_alone_is_the_seed_among_others(record):
    """Of the stage at every batch size, to the bit; statistics of batches included."""
    (config,), _ = flagging.parse(TOY[2:], batchnorm.Config)
    study = runs.Study(config, batchnorm.load(config), NullHost(Layout()), [1])
    (row,) = study.stage(
        "sizes_bn", [study.program(functools.partial(study.of_size, study.bn, 100))]
    )
    dims = {"order": len(records.ORDERS), "rate": len(config.size_rates)}
    found = record.sel(size=100, seed=1)
    for name in ("own_train_loss", "own_tune_loss", "own_test_error", "mean_spread", "last_sd"):
        np.testing.assert_array_equal(records.fold(row[name], dims)[:, :, 0], found[name])
    loss = records.fold(row["test_loss"], dims)[:, :, 0]
    np.testing.assert_array_equal(loss, found["size_loss"].sel(split="test"))
    other = record.sel(size=100, seed=0)
    assert (found["mean_spread"] != other["mean_spread"]).all()


def test_the_folder_holds_figures_and_verdicts(finished):
    folder, record, out = finished
    names = [name for name, _ in batchnorm.figures(record)]
    assert len(names) == 11
    shown = set()
    for claim in batchnorm.CLAIMS:
        assert claim.id in out
        shown |= {part.figure for part in claim.parts}
        for part in claim.parts:
            assert set(part.arms) <= set(records.ARMS), part.id
    assert shown <= set(names)
    for name in names:
        assert (folder / "figures" / f"{name}.svg").stat().st_size > 1000


def test_figures_are_drawn_when_everything_diverged(record):
    lost = record.copy(deep=True)
    for name in lost.data_vars:
        if lost[name].dtype.kind == "f" and name != "growth_theory":
            lost[name] = lost[name] * np.nan
    for name, figure in batchnorm.figures(lost):
        figure.canvas.draw()
        assert figure.axes[0].get_title(loc="left"), name
    with np.errstate(all="ignore"):
        verdicts = {v.verdict for v in judge(batchnorm.CLAIMS, lost)}
    assert verdicts <= {"inconclusive", "refuted"}


# --- statistics on a record whose numbers are known


def test_the_rate_is_chosen_by_the_tuning_loss_and_never_one_that_diverged(record):
    made = record.copy(deep=True)
    made["start_loss"][:] = 2.0
    made["worst_loss"][:] = 3.0
    made["curve"][:] = 0.5
    tune = {"split": "tune", "mode": "running"}
    made["loss"].loc[tune] = np.array([0.4, 0.3])[None, :, None]  # of the two rates
    assert claims.chosen(made, "bn").tolist() == [1, 1]
    made["worst_loss"].loc[{"run": "bn", "rate": 50}] = 21.0  # above ten times the start's
    assert claims.chosen(made, "bn").tolist() == [0, 0]
    np.testing.assert_array_equal(claims.largest_stable(made, "bn"), np.log2(0.2))
    np.testing.assert_allclose(claims.rate_gain(made), np.log2(0.2) - np.log2(50))
    made["worst_loss"].loc[{"run": "bn"}] = np.inf
    assert claims.chosen(made, "bn").tolist() == [-1, -1]
    assert np.isnan(claims.range_ratio(made)).all()


def test_accuracy_lost_and_its_correlation_with_the_spread(record):
    made = record.copy(deep=True)
    spread = np.array([[0.5, 0.1], [0.6, 0.3], [0.9, 0.8]]).T  # sizes, orders
    expand = spread[:, :, None, None] * np.ones((1, 1, 2, 2))
    made["mean_spread"][:] = expand[..., None]
    made["size_error"][:] = 0.1
    made["size_error"].loc[{"split": "test", "mode": "running"}] = 0.1 + expand / 2
    made["own_test_error"][:] = 0.1
    np.testing.assert_allclose(claims.lost(made, "class")[:, 0], [0.45, 0.4], rtol=1e-6)
    np.testing.assert_allclose(claims.degradation_correlation(made), 1)
    np.testing.assert_allclose(claims.lost_by_class(made), 0.15, rtol=1e-6)
    np.testing.assert_allclose(claims.lost_iid(made), 0.05, rtol=1e-5)
    np.testing.assert_allclose(claims.recalibration_gain(made), 0.15, rtol=1e-6)
    made["size_error"].loc[{"split": "test", "mode": "running"}] = 0.1 - expand / 20
    np.testing.assert_allclose(claims.degradation_correlation(made), -1)


def test_what_is_lost_is_judged_at_rates_chosen_with_batch_statistics(record):
    made = record.copy(deep=True)
    made["own_tune_loss"][:] = np.array([0.2, 0.3])[:, None]  # of the two rates
    made["size_loss"].loc[{"split": "tune", "mode": "running"}] = np.array([0.5, 0.4])[:, None]
    made["own_test_error"][:] = 0.1
    made["size_error"].loc[{"split": "test", "mode": "running"}] = np.array([0.5, 0.1])[:, None]
    np.testing.assert_allclose(claims.lost_by_class(made), 0.4)
    np.testing.assert_allclose(claims.lost_by_running(made), 0, atol=1e-9)
    made["own_train_loss"][:] = np.array([1.0, 2.0])[:, None]
    made["size_loss"].loc[{"split": "train", "mode": "running"}] = np.array([1.5, 2.1])[:, None]
    np.testing.assert_allclose(claims.gaps(made, "few"), 0.5)
    np.testing.assert_allclose(claims.gaps(made, "few", "running"), 0.1, rtol=1e-5)


def test_tuning_losses_in_batches_are_finite_and_not_those_of_running_statistics(record):
    own = record["own_tune_loss"].sel(order="iid").values
    running = record["size_loss"].sel(order="iid", split="tune", mode="running").values
    assert np.isfinite(own).all()
    assert (own != running).all()


def test_fluctuation_with_and_without_is_compared_in_batches_of_one_size(record):
    assert record["plain_size"].values.tolist() == [20, 100]
    made = record.copy(deep=True)
    put = lambda *values: np.array(values)[:, None, None, None]  # noqa: E731
    made["last_sd"][:], made["last_mean"][:] = put(0.8, 0.3), put(2.0, 1.0)
    made["plain_last_sd"][:], made["plain_last_mean"][:] = put(0.2, 0.1), put(1.0, 7.0)
    np.testing.assert_allclose(claims.small_fluctuation(made), np.log10(4), rtol=1e-6)
    np.testing.assert_allclose(claims.large_fluctuation(made), np.log10(3), rtol=1e-6)
    np.testing.assert_allclose(claims.relative_fluctuation(made), np.log10(2), rtol=1e-6)
    # The rate is each size's own, by the tuning loss.
    made["plain_last_sd"].loc[{"plain_size": 100, "size_rate": 0.4}] = 0.6
    made["plain_size_loss"].loc[{"split": "tune"}] = np.array([[1.0, 2.0], [2.0, 1.0]])[
        :, None, :, None
    ]
    np.testing.assert_allclose(claims.large_fluctuation(made), np.log10(0.5), rtol=1e-6)
    np.testing.assert_allclose(claims.small_fluctuation(made), np.log10(4), rtol=1e-6)


def test_one_size_alone_is_both_ends():
    assert records.ends((4, 8, 64)) == [4, 64]
    assert records.ends((4,)) == [4]


def test_gaps_slopes_and_ghosts_are_read_off(record):
    made = record.copy(deep=True)
    sizes = made["size"].values.astype(float)
    made["mean_spread"][:] = (sizes**-0.5)[:, None, None, None, None]
    np.testing.assert_allclose(claims.spread_slope(made), -0.5)
    made["size_loss"].loc[{"split": "train", "mode": "running"}] = 1.0
    made["own_train_loss"][:] = np.array([1.4, 0.9])[:, None, None, None]
    np.testing.assert_allclose(claims.gaps(made, "iid")[:, 0], [0.4, 0.1], rtol=1e-6)
    np.testing.assert_allclose(claims.small_gap(made), 0.3, rtol=1e-6)
    both = {"mode": "recalibrated"}
    for split, of in (("train", [0.2, 0.1]), ("test", [0.3, 0.4]), ("tune", [0.3, 0.3])):
        for name, value in zip(("size_loss", "ghost_loss"), of, strict=True):
            made[name].loc[both | {"split": split}] = value
    np.testing.assert_allclose(claims.ghost_gap(made), 0.2, rtol=1e-6)
    made["floor"][:] = np.array([1.0, 0.5, 2.0])[:, None, None]
    np.testing.assert_allclose(claims.floor_fixed(made), np.log10(2))
    np.testing.assert_allclose(claims.floor_affine(made), -np.log10(2))
    np.testing.assert_allclose(claims.floor_regained(made), np.log10(4))
    made["half_floor"][:] = np.array([1.5, 0.5, 2.5])[:, None, None]
    np.testing.assert_allclose(claims.floor_falls(made), np.log10(1.5))


# --- settings


def test_presets_are_read_and_the_first_is_the_defaults():
    for name in ("batchnorm", "batchnorm_quick", "batchnorm_full"):
        (config,), _ = flagging.parse([f"--flagfile={FLAGS / name}.txt"], batchnorm.Config)
        config.check()
        if name == "batchnorm":
            assert config == batchnorm.Config()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--batch_sizes=1,2"], "--batch_sizes=1,2: each must be at least 2"),
        (["--batch_size=1"], "--batch_size=1: must be at least 2"),
        (["--ghost_batch=1"], "--ghost_batch=1: must be at least 2"),
        (["--test_sizes=1,2"], "each must be at least 2"),
        (["--recalibration_size=1"], "--recalibration_size=1: must be at least 2"),
        (["--recalibration_batches=0"], "--recalibration_batches=0: must be at least 1"),
        (["--recalibration_batches=9"], "hold more images than 400, the --train_size"),
        (["--batch_size=401"], "--batch_size=401: must be at most 400, the --train_size"),
        (["--batch_sizes=2,401"], "--batch_sizes=2,401: each must be at most 400"),
        (["--ghost_batch=50"], "--ghost_batch=50: must be one of 20, 100, the --batch_sizes"),
        (["--floor_images=500"], "must be at most 400"),
        (["--train_size=2000"], "--train_size=2000: must be at most 1437"),
        (["--batch_sizes=4,2"], "must be in rising order"),
        (["--rates=0.1"], "must hold at least two numbers"),
        (["--rates=0,1"], "each must be greater than 0"),
        (["--momentum=1"], "--momentum=1: must be"),
        (["--momentum=0.99"], "--momentum=0.99: must be below 0.99, the --slow_momentum"),
        (["--short_epochs=4"], "--short_epochs=4: must be at most 3"),
        (["--short_epochs=2"], "--short_epochs=2: must be 1 more than a multiple of 2"),
        (["--widths="], "at least one hidden layer"),
        (["--growth_batches=3,8"], "each must be at least 4"),
        (["--growth_depth=2"], "--growth_depth=2: must be at least 3"),
        (["--data=mnist"], "digits"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(argv, words, tmp_path):
    folder = tmp_path / "run"
    status, _, err = main(f"--run_dir={folder}", *argv)
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not folder.exists()
