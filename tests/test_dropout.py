"""`dropout` at toy size: noise, ablation and correlation by hand, statistics, claims, settings."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from running import run_main

from dlstudy import losses, models, noise
from dlstudy.claims import judge
from dlstudy.host import Layout, NullHost
from experiments import dropout, dropout_parts, flagging
from experiments import dropout_claims as claims
from experiments import dropout_measures as measures
from experiments import dropout_record as records
from experiments import dropout_runs as runs

pytestmark = pytest.mark.usefixtures("quick_compilation")
TOY = (
    "--compilation_cache_dir=", "--devices=1", "--num_seeds=2", "--widths=6", "--epochs=2",
    "--block=1", "--batch_size=100", "--rates=0.1,0.3", "--drops=0.3,0.5", "--penalties=0.01",
    "--fractions=0.25,0.5", "--ablations=2", "--noise_examples=10", "--noise_masks=2",
    "--masks=2", "--averaged_epochs=1", "--small_size=40", "--small_epochs=1",
    "--capacity_size=20", "--capacity_widths=4,8", "--capacity_drops=0.5", "--judged_width=8",
    "--capacity_rates=0.1", "--capacity_epochs=4", "--tune_size=100", "--test_size=1397",
)  # fmt: skip


def main(*argv):
    return run_main(dropout, *TOY, *argv)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dropout") / "run"
    status, out, err = main(f"--run_dir={folder}")
    assert status == 0, out + err
    return folder, xarray.load_dataset(folder / "record.nc"), out


@pytest.fixture(scope="module")
def record(finished):
    return finished[1]


def toy_config():
    (config,), _ = flagging.parse(TOY[2:], dropout.Config)
    return config


def test_the_record_has_every_variable_with_unit_and_long_name(record):
    assert record["train_loss_by_epoch"].dims == ("p", "rate", "seed", "epoch")
    assert record["ablated_error"].dims == ("examined", "seed", "scaling", "fraction")
    assert record["capacity_loss"].dims == (
        "width", "capacity_p", "capacity_rate", "seed", "milestone"
    )  # fmt: skip
    assert record["diverged_step"].dims == ("arm", "seed")
    assert list(record.examined.values) == ["plain", "dropout_0.3", "dropout_0.5", "l2", "wide"]
    for name in record.data_vars:
        assert record[name].attrs["units"], name
        assert record[name].attrs["long_name"], name
        assert np.isfinite(record[name]).all(), name
    used = {arm for claim in leaves(dropout.CLAIMS) for arm in claim.arms}
    assert used <= set(record.arm.values.tolist())
    np.testing.assert_allclose(
        record["noise_total"], record["noise_examples"] + record["noise_masks"], rtol=1e-5
    )
    assert np.all(record["noise_masks"].sel(p=0) == 0)
    np.testing.assert_allclose(
        record["noise_total"].sel(p=0), record["noise_off"].sel(p=0), rtol=1e-4
    )


def leaves(every):
    for claim in every:
        if claim.parts:
            yield from leaves(claim.parts)
        else:
            yield from (c for c in (claim, claim.control, claim.other_reading) if c)


def test_a_seed_alone_is_the_seed_among_others(record, tmp_path, monkeypatch):
    folder = tmp_path / "one"
    monkeypatch.setattr(dropout, "figures", lambda record: ())  # drawn already
    status, out, err = main(f"--run_dir={folder}", "--only_seed=1")
    assert status == 0, out + err
    alone = xarray.load_dataset(folder / "record.nc")
    for name in record.data_vars:
        np.testing.assert_array_equal(alone[name], record[name].sel(seed=[1]), err_msg=name)


def test_the_folder_holds_figures_and_verdicts(finished):
    folder, _, out = finished
    for name in ("ablation", "correlation", "noise", "convergence", "optimum", "capacity",
                 "capacity_time", "test_error"):  # fmt: skip
        assert (folder / "figures" / f"{name}.svg").stat().st_size > 1000
    for claim in ("3.1a1", "3.1b4", "3.1c2", "3.1d2", "3.1e"):
        assert claim in out


def test_figures_are_drawn_when_everything_diverged(record):
    lost = record.copy(deep=True)
    for name in lost.data_vars:
        if lost[name].dtype.kind == "f":
            lost[name] = lost[name] * np.nan
    for name, figure in dropout.figures(lost):
        figure.canvas.draw()
        assert figure.axes[0].get_title(loc="left"), name
    assert {v.verdict for v in judge(dropout.CLAIMS, lost)} == {"inconclusive"}


def test_a_run_is_descent_with_momentum_by_hand(record):
    """The last run of the first stage, at the highest rate and with the L2 penalty."""
    config = toy_config()
    study = runs.Study(config, dropout.load(config), NullHost(Layout()), [1])
    part, key = dropout_parts.parts(config)[0], study.keys[0]
    own, model = part.conditions[-1], study.model(part)
    splits = study.splits(key, study.orders[0], part, study.images)
    params = jax.tree.map(lambda a: a[0], jax.device_get(study.initial(part)))
    speed = jax.tree.map(np.zeros_like, params)
    loss = jax.jit(jax.value_and_grad(
        lambda p, x, y: losses.cross_entropy(model.apply({"params": p}, x)[0], y)
    ))  # fmt: skip
    steps, (x, y) = part.size // config.batch_size, jax.device_get(splits.train)
    for number in range(part.epochs):
        drawn = jax.random.fold_in(jax.random.fold_in(key, runs.EPOCHS), number)
        drawn = jax.random.fold_in(drawn, runs.ORDER)
        order = np.asarray(jax.random.permutation(drawn, part.size))
        for rows in order[: steps * config.batch_size].reshape(steps, -1):
            slope = jax.device_get(loss(params, x[rows], y[rows])[1])
            for name, values in params.items():
                for leaf, value in values.items():
                    down = slope[name][leaf] + own.penalty * value
                    speed[name][leaf] = config.momentum * speed[name][leaf] - own.rate * down
            params = jax.tree.map(lambda p, v: (p + v).astype("f"), params, speed)
    for name in ("train", "tune", "test"):
        found = record[f"l2_{name}_loss"].isel(penalty=-1, rate=-1).sel(seed=1)
        expected, _ = loss(params, *getattr(splits, name))
        assert float(found) == pytest.approx(float(expected), rel=1e-4), name


# --- measures of one network


def small_network(dtype=np.float64):
    """A network of five hidden units, inputs and labels."""
    model = models.MLP((3, 2), 3)
    keys = jax.random.split(jax.random.key(0), 3)
    params = models.initialise(model, keys[0], jnp.zeros(4, jnp.float32))
    params = jax.tree.map(lambda a: 2 * a.astype(dtype), params)
    x = jax.random.normal(keys[1], (6, 4), dtype)
    return model, params, (x, jnp.array([0, 1, 2, 0, 1, 2]))


def test_the_split_of_the_noise_is_that_of_all_masks_enumerated():
    """Law of total variance over the 2^5 masks; the estimate from drawn ones is unbiased."""
    keep = 0.6
    with jax.enable_x64(True):
        model, params, data = small_network()
        every = np.array(list(itertools.product((0.0, 1.0), repeat=5)))
        chance = np.prod(np.where(every == 1, keep, 1 - keep), 1)

        def loss(params, batch, masks):
            return losses.cross_entropy(
                model.apply({"params": measures.ablated(params, (masks[:3] / keep,
                                                                 masks[3:] / keep))}, batch[0])[0],
                batch[1],
            )  # fmt: skip

        def flat(x, y, masks):
            tree = jax.grad(loss)(params, (x[None], y[None]), masks)
            return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])

        each = jax.vmap(jax.vmap(flat, (None, None, 0)), (0, 0, None))(*data, jnp.asarray(every))
        each = np.asarray(each)  # [examples, masks, parameters]
        means = np.einsum("m,emp->ep", chance, each)
        within = np.einsum("m,emp->", chance, (each - means[:, None]) ** 2) / len(each)
        between = np.square(means - means.mean(0)).sum() / len(each)
        whole = np.einsum("m,emp->", chance, (each - means.mean(0)) ** 2) / len(each)
        assert whole == pytest.approx(within + between, rel=1e-12)

        def by_key(params, batch, key, drop):
            drawn = jax.random.bernoulli(key, 1 - drop, (5,)).astype(jnp.float64)
            return loss(params, batch, drawn * keep / (1 - drop))

        drop = jnp.float64(1 - keep)
        draw = jax.jit(jax.vmap(
            lambda key: measures.gradient_noise(by_key, params, data, key, drop, 3)
        ))  # fmt: skip
        found = draw(jax.random.split(jax.random.key(1), 1500))
    for name, expected in (
        ("noise_masks", within), ("noise_examples", between), ("noise_total", whole)
    ):  # fmt: skip
        values = np.asarray(getattr(found, name))
        error = values.std() / len(values) ** 0.5
        assert abs(values.mean() - expected) < 4 * error, name
        assert error < 0.03 * expected, name
    plain = np.asarray(jax.device_get(found.noise_off))
    assert np.ptp(plain) < 1e-12  # no mask has a part in it


def test_without_masks_there_is_no_noise_of_masks():
    with jax.enable_x64(True):
        model, params, data = small_network()
        loss = functools.partial(runs.masked_loss, model)
        key, none = jax.random.key(0), jnp.float64(0)
        both = jax.jit(lambda params: (
            measures.gradient_noise(loss, params, data, key, none, 2),
            noise.gradient_spread(lambda p, b: loss(p, b, key, none), params, data),
        ))  # fmt: skip
        found, expected = both(params)
    assert float(found.noise_off) == pytest.approx(float(expected.trace), rel=1e-12)
    assert float(found.noise_masks) == 0
    assert float(found.noise_examples) == pytest.approx(float(found.noise_off), rel=1e-12)
    assert float(found.square_on) == pytest.approx(float(found.square_off), rel=1e-12)


def test_ablating_units_is_a_network_without_them():
    with jax.enable_x64(True):
        model, params, (x, _) = small_network()
        kept = (jnp.array([1.0, 0, 1]), jnp.array([0.0, 1]))
        found = model.apply({"params": measures.ablated(params, kept)}, x)[0]
        names = measures.layers(params)
        rows = [np.arange(4), np.array([0, 2]), np.array([1])]
        values = np.asarray(x)
        for i, name in enumerate(names):
            columns = rows[i + 1] if i < 2 else slice(None)
            own = {k: np.asarray(v) for k, v in params[name].items()}
            values = values @ own["kernel"][rows[i]][:, columns] + own["bias"][columns]
            values = np.maximum(values, 0) if i < 2 else values
    np.testing.assert_allclose(found, values, rtol=1e-12, atol=1e-14)


def test_nothing_ablated_is_the_whole_network_and_all_ablated_a_constant():
    model, params, (x, y) = small_network(np.float32)
    every = jax.jit(lambda params: measures.ablated_error(
        model, params, (x, y), jax.random.key(0), (0.0, 1.0), 2
    ))  # fmt: skip
    found = every(params)
    whole = losses.error_rate(model.apply({"params": params}, x)[0], y)
    np.testing.assert_allclose(found[:, 0], whole)
    np.testing.assert_allclose(found[:, 1], 2 / 3, rtol=1e-6)  # always the same of three classes


def test_correlation_is_numpys_of_the_units_that_change():
    values = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    values[:, 1] = values[:, 0] * 0.5 + values[:, 1]
    values[:, 3] = 2.0
    expected = np.abs(np.corrcoef(values[:, [0, 1, 2, 4]].T)[np.triu_indices(4, 1)]).mean()
    assert float(jax.jit(measures.mean_correlation)(values)) == pytest.approx(expected, rel=1e-4)
    assert np.isnan(measures.mean_correlation(jnp.ones((4, 3))))


def test_a_narrowed_network_is_a_narrower_one_and_stays_so():
    model = models.MLP((8,), 3)
    whole = models.initialise(model, jax.random.key(0), jnp.zeros(4))
    narrow = jax.jit(runs.narrowed)
    params = narrow(whole, jnp.float32(5))
    x, y = jax.random.normal(jax.random.key(1), (7, 4)), jnp.arange(7) % 3
    slope = jax.jit(jax.grad(
        lambda p: losses.cross_entropy(model.apply({"params": p}, x)[0], y)
    ))(params)  # fmt: skip
    params, whole, slope = jax.device_get((params, whole, slope))
    for name, axis in (("hidden_0", 1), ("head", 0)):
        for tree in (params, slope):
            assert np.all(np.moveaxis(tree[name]["kernel"], axis, 0)[5:] == 0)
    assert np.all(slope["hidden_0"]["bias"][5:] == 0)
    assert np.abs(params["head"]["kernel"]).max() <= 5**-0.5
    np.testing.assert_allclose(
        params["head"]["kernel"][:5], whole["head"]["kernel"][:5] * (8 / 5) ** 0.5, rtol=1e-6
    )
    same = narrow(whole, jnp.float32(8))
    jax.tree.map(np.testing.assert_array_equal, same, whole)


# --- statistics


def test_the_best_run_has_the_lowest_error_then_the_lowest_loss():
    error = np.array([[0.1, 0.05, 0.05, 0.0], [0.2, 0.2, 0.2, 0.1]])
    loss = np.array([[0.1, 9.0, 0.3, np.nan], [np.inf, np.nan, np.nan, 3.0]])
    found = records.best_of(error, loss, [slice(0, 2), slice(None)])
    np.testing.assert_array_equal(found, [[1, 2], [0, 3]])


def test_epochs_to_a_target_are_interpolated_in_the_logarithm():
    loss = np.array([[[1.0, 0.1, 0.5], [2.0, 1.0, 0.9], [0.01, 1, 1], [np.nan, np.nan, 0.01]]])
    found = claims.epochs_to(loss, 0.1**0.5)
    first = (np.log(np.log(10)) - np.log(0.1**0.5)) / (np.log(np.log(10)) - np.log(0.01))
    np.testing.assert_allclose(found[0, :3], [1.5, np.nan, first])
    assert 2 <= found[0, 3] <= 3 or np.isnan(found[0, 3])
    np.testing.assert_allclose(claims.fastest(found[:, :2], 3), 1.5)
    assert claims.fastest(found[:, 1:2], 3) == 3


def test_the_lowest_loss_so_far_skips_what_is_lost():
    loss = np.array([np.nan, 3.0, 4.0, 1.0, np.inf, 2.0, 0.5, 0.7])
    assert records.milestones(8) == [1, 2, 4, 8]
    np.testing.assert_allclose(records.lowest_so_far(loss[None])[0], [np.nan, 3, 1, 0.5])


def example(seeds=20):
    """A record whose statistics are known: see EXPECTED."""
    put = lambda *rows: np.repeat(np.array(rows, float)[..., None], seeds, -1)  # noqa: E731
    run, arms = ("p", "rate", "seed"), ["plain", "dropout_0.5", "l2", "wide"]
    curve = np.moveaxis(put([[1.0, 0.1, 0.01]], [[1.0, 0.4, 0.1]]), -1, -2)
    masked = np.moveaxis(put([[1.0, 0.1, 0.01]], [[1.0, 0.4, 0.4]]), -1, -2)
    tune = np.moveaxis(put([[0.5, 0.2, 0.3]], [[0.4, 0.3, 0.1]]), -1, -2)
    by_epoch = (*run, "epoch")
    ablated = np.array([[0.22, 0.07, 0.12, 0.1], [0.12, 0.07, 0.12, 0.1]]).T  # [arm, scaling]
    capacity = np.array([[[0.5, 0.2]], [[0.1, 0.01]]])  # [width, rate, milestone], no dropout
    held = np.stack([capacity, np.array([[[1.0, 0.9]], [[0.8, 0.4]]])], 1)
    held = np.repeat(held[:, :, :, None], seeds, 3)
    point = ("p", "seed", "checkpoint")
    noises = lambda plain, dropped: np.broadcast_to(  # noqa: E731
        np.array([plain, dropped], float)[:, None, None], (2, seeds, 3)
    )
    held_dims = ("width", "capacity_p", "capacity_rate", "seed", "milestone")
    variables = {
        "train_loss_by_epoch": (by_epoch, curve), "masked_loss_by_epoch": (by_epoch, masked),
        "tune_loss_by_epoch": (by_epoch, tune),
        "averaged_train_loss": (("rate", "seed", "averaged_epoch"),
                                np.broadcast_to([1.0, 0.1, 0.05], (1, seeds, 3))),
        "tune_error": (run, put([0.1], [0.1])), "tune_loss": (run, put([0.3], [0.3])),
        "test_error": (run, put([0.04], [0.03])), "small_tune_error": (run, put([0.1], [0.1])),
        "small_tune_loss": (run, put([0.3], [0.3])), "small_test_error": (run, put([0.2], [0.1])),
        "ablated_error": (("examined", "seed", "scaling", "fraction"),
                          np.repeat(ablated[:, None], seeds, 1)[..., None]),
        "whole_error": (("examined", "seed"), put(0.02, 0.04, 0.03, 0.02)),
        "correlation": (("examined", "layer", "seed"), put([0.2, 0.4], [0.1, 0.3], [0, 0], [0, 0])),
        "noise_total": (point, noises(1, 8)), "noise_off": (point, noises(1, 2)),
        "square_on": (point, noises(1, 2)), "square_off": (point, noises(1, 1)),
        "capacity_loss": (held_dims, held), "capacity_masked": (held_dims, held * 0 + 1),
        "lifted_loss": (held_dims[:-1], held[..., -1] / 10),
    }  # fmt: skip
    coords = {
        "p": [0.0, 0.5], "rate": [0.1], "examined": arms, "scaling": list(records.SCALINGS),
        "fraction": [0.25], "width": [4, 8], "capacity_p": [0.0, 0.5], "seed": np.arange(seeds),
    }  # fmt: skip
    attributes = {"judged_drop": 0.5, "judged_fraction": 0.25, "judged_width": 8, "target": 0.1}
    return xarray.Dataset(variables, coords, attributes)


EXPECTED = {
    claims.spared_of_plain: 0.2 - 0.03,
    claims.spared_of_wide: 0.08 - 0.03,
    claims.spared_of_l2: 0.09 - 0.03,
    claims.spared_rescaled: 0.1 - 0.03,
    claims.less_correlated: 0.1,
    claims.more_noise: 2,
    claims.more_relative_noise: 1,
    claims.more_epochs: np.log2(3 / 2),
    claims.more_epochs_masked: np.log2(3 / 2),  # never, so at least all three epochs
    claims.slowdown_left: 0,
    claims.capacity_cost: np.log10(40),
    claims.capacity_cost_of_kept: np.log10(2),
    claims.still_falling: np.log10(2),
    claims.still_falling_masked: 0,
    claims.comes_back: 1,
    claims.gain: 0.01,
    claims.small_gain: 0.1,
    claims.weaker_when_small: np.log2(4 / 3) - 1,
}


@pytest.mark.parametrize("statistic", EXPECTED, ids=lambda s: s.__name__)
def test_a_statistic_is_the_number_read_off(statistic):
    found = np.asarray(statistic(example()), float)
    assert found.shape == (20,)
    np.testing.assert_allclose(found, EXPECTED[statistic], rtol=1e-9, atol=1e-12)


def test_the_best_is_near_the_lowest_tuning_loss_of_the_arm():
    parts = [np.log(0.5 / 0.22) / np.log(0.5 / 0.2), np.log(0.3 / 0.11) / np.log(3)]
    expected = np.log2((2 + parts[1]) / (1 + parts[0]))
    np.testing.assert_allclose(claims.later_best(example()), expected)


def test_verdicts_follow_the_record():
    found = {v.id: v for v in judge(dropout.CLAIMS, example())}
    assert found["3.1a"].verdict == found["3.1b"].verdict == "supported"
    assert found["3.1c1"].verdict == "supported"
    assert found["3.1c2"].verdict == "conditional"  # with masks on it seems to have settled
    assert found["3.1d2"].verdict == "supported"
    assert found["3.1d2"].other_reading.verdict == "refuted"


# --- settings


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--drops=0,0.5"], "drops=0,0.5: each must be greater than 0"),
        (["--drops=0.5,1"], "each must be"),
        (["--drops=-0.5,0.5"], "each must be greater than 0"),
        (["--capacity_drops=1"], "each must be"),
        (["--drops="], "--drops=: must hold at least one number"),
        (["--drops=0.5,0.3"], "--drops=0.5,0.3: must rise"),
        (["--rates=0.1,0.1"], "--rates=0.1,0.1: must rise"),
        (["--rates=0"], "each must be greater than 0"),
        (["--momentum=1"], "momentum=1"),
        (["--judged_drop=0.4"], "--judged_drop=0.4: must be one of --drops, 0.3, 0.5"),
        (["--judged_drop=0.3"], "must be one of --capacity_drops"),
        (["--judged_fraction=0.3"], "must be one of --fractions"),
        (["--judged_width=5"], "must be one of --capacity_widths"),
        (["--judged_width=4"], "must leave one of --capacity_widths"),
        (["--widths=6,5"], "--widths=6,5: must name at least one hidden layer, and one width"),
        (["--widths="], "at least one hidden layer"),
        (["--block=3"], "--block=3: must divide --epochs=2"),
        (["--capacity_epochs=6"], "--capacity_epochs=6: must be a multiple of 4"),
        (["--test_size=1697"], "--test_size=1697: must leave some of 1797 images"),
        (["--batch_size=301"], "--batch_size=301: must be at most 300"),
        (["--small_size=301"], "--small_size=301: must be at most 300"),
        (["--capacity_size=301"], "at most 300"),
        (["--noise_masks=1"], "noise_masks=1: must be at least 2"),
        (["--target=0"], "target=0: must be greater than 0"),
        (["--data=cifar"], "data=cifar"),
        (["--fractions=1"], "each must be"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(argv, words, tmp_path):
    folder = tmp_path / "run"
    status, _, err = main(f"--run_dir={folder}", *argv)
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not folder.exists()
