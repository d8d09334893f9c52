"""`initialization` at toy size: its network and moments, theory, statistics, figures, settings."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray
from running import run_main

from dlstudy import initializers, losses, models
from dlstudy.claims import judge
from experiments import cli, initialization
from experiments import initialization_claims as claims
from experiments import initialization_network as network
from experiments import initialization_runs as runs
from experiments import initialization_theory as theory

pytestmark = pytest.mark.usefixtures("quick_compilation")
FLAGS = Path(cli.__file__).parent / "flags"
TOY = (
    "--compilation_cache_dir=", "--devices=1", "--num_seeds=2", "--initializers=zeros,lecun,he",
    "--moment_width=8", "--moment_depth=4", "--draws=2", "--images=5", "--width=6", "--depth=3",
    "--depths=2,3", "--batch_size=400", "--epochs=2", "--momentum_rates=0.003,1e6",
    "--adam_rates=0.001,0.1", "--scales=0.5,2",
)  # fmt: skip


def main(*argv):
    return run_main(initialization, *TOY, *argv)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("initialization") / "run"
    status, out, err = main(f"--run_dir={folder}")
    assert status == 0, out + err
    return folder, xarray.load_dataset(folder / "record.nc"), out


@pytest.fixture(scope="module")
def record(finished):
    return finished[1]


# --- the network


def some_network(depth=5, width=7, pixels=6, seed=0):
    """Params float64 as NumPy draws them, with biases."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / shape[-2] ** 0.5)  # noqa: E731
    bias = lambda *shape: jnp.asarray(rng.normal(size=shape) / 9)  # noqa: E731
    return network.Params(
        network.Layer(draw(pixels, width), bias(width)),
        network.Layer(draw(depth - 1, width, width), bias(depth - 1, width)),
        network.Layer(draw(width, 3), bias(3)),
    )


def as_mlp(params):
    """The same for `models.MLP`."""
    layers = [params.first, *(network.Layer(*pair) for pair in zip(*params.square, strict=True))]
    found = {f"hidden_{i}": layer._asdict() for i, layer in enumerate(layers)}
    return found | {"head": params.head._asdict()}


def test_the_network_is_the_mlp_and_its_moments_are_those_of_autodiff():
    """Forward, gradients with respect to activations and to kernels, in float64."""
    with jax.enable_x64(True):
        params, depth = some_network(), 5
        x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 6)))
        direction = jnp.asarray([0.6, 0.0, -0.8])
        model = models.MLP((7,) * depth, 3)
        out, taps = model.apply({"params": as_mlp(params)}, x)
        np.testing.assert_allclose(network.logits(params, x), out, rtol=1e-12)

        def nudged(nudges, one):
            """Of one input, with something added to each layer's activations."""
            value = one
            mlp = as_mlp(params)
            for i in range(depth):
                layer = mlp[f"hidden_{i}"]
                value = jax.nn.relu(value @ layer["kernel"] + layer["bias"]) + nudges[i]
            return (value @ params.head.kernel + params.head.bias) @ direction

        slopes = jax.vmap(jax.grad(nudged), (None, 0))(jnp.zeros((depth, 7)), x)
        kernels = jax.vmap(
            lambda one: jax.grad(
                lambda kernel: (
                    direction
                    @ network.logits(
                        params._replace(square=params.square._replace(kernel=kernel)), one[None]
                    )[0]
                )
            )(params.square.kernel)
        )(x)
        found = network.moments(params, x, direction)
        values = np.stack([np.maximum(taps[f"pre_{i}"], 0) for i in range(depth)])
    np.testing.assert_allclose(found.forward, np.square(values).mean((1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.backward, np.square(slopes).mean((0, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.kernel, np.square(kernels).mean((0, 2, 3)), rtol=1e-12)
    spread = values.var(1).mean(1) / np.square(values).mean((1, 2))
    np.testing.assert_allclose(found.spread, spread, rtol=1e-12)
    np.testing.assert_allclose(found.one_forward, np.square(values[:, 0]).mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.one_backward, np.square(slopes[0]).mean(1), rtol=1e-12)


def test_a_shallow_network_is_the_lowest_layers_of_a_deep_one():
    deep = some_network()
    shallow = network.adapted(deep, 3, 0.1, 2.0)
    np.testing.assert_array_equal(shallow.square.kernel, 2 * deep.square.kernel[:2])
    np.testing.assert_array_equal(shallow.square.bias, np.full((2, 7), np.float32(0.1)))
    np.testing.assert_array_equal(shallow.first.bias, np.float32(0.1))
    np.testing.assert_array_equal(shallow.head.kernel, 2 * deep.head.kernel)
    np.testing.assert_array_equal(shallow.head.bias, deep.head.bias)


# --- theory


def test_without_bias_theory_is_a_power_of_the_gain():
    squares, depth, width, pixels = np.array([0.2, 0.5]), 6, 10, 4
    for name in ("uniform", "glorot", "he", "sparse"):
        gain = initializers.relu_gain(name, width, width)
        first = initializers.relu_gain(name, pixels, width) * pixels / width
        found = theory.profile(name, 0.0, squares, pixels, width, depth)
        powers = gain ** np.arange(depth)
        np.testing.assert_allclose(found.forward, first * squares.mean() * powers, rtol=1e-12)
        np.testing.assert_allclose(found.backward, powers[::-1], rtol=1e-12)


@pytest.mark.parametrize("bias", [0.3, -0.3])
def test_with_a_bias_theory_is_the_integral_over_a_normal(bias):
    x = np.linspace(-9, 9, 200_001)
    weight = np.exp(-(x**2) / 2)
    weight = weight / weight.sum()
    below, slopes = 0.7, []
    for fan_in in (5, 8, 8):
        inputs = bias + np.sqrt(fan_in * initializers.second_moment("he", fan_in, 8) * below) * x
        below = weight @ np.maximum(inputs, 0) ** 2
        slopes.append(2 * weight @ (inputs > 0))
    found = theory.profile("he", bias, np.array([0.7]), 5, 8, 3)
    assert found.forward[-1] == pytest.approx(below, rel=1e-4)
    np.testing.assert_allclose(found.backward, [slopes[1] * slopes[2], slopes[2], 1], rtol=1e-4)


def test_theory_where_nothing_is_left():
    zeros = theory.profile("zeros", 0.1, np.array([0.5]), 4, 6, 3)
    np.testing.assert_allclose(zeros.forward, 0.01)
    np.testing.assert_array_equal(zeros.backward, [0, 0, 1])
    dead = theory.profile("lecun", -0.5, np.array([0.1]), 4, 6, 40)
    assert (dead.forward >= 0).all()
    assert dead.forward[-1] == dead.backward[0] == 0


def test_expected_moments_over_many_networks():
    """Forward and backward, zero bias, five standard errors: exact in expectation."""
    depth, width, pixels, count = 5, 12, 6, 3000
    x = jnp.asarray(np.random.default_rng(2).uniform(size=(3, pixels)), jnp.float32)
    init = initializers.make("uniform")

    def one(key):
        params = network.draw(key, init, depth, width, pixels, 3)
        return network.moments(params, x, jnp.array([1.0, 0, 0]))

    keys = jax.random.split(jax.random.key(5), count)
    found = jax.jit(lambda keys: jax.lax.map(one, keys))(keys)
    found = network.Moments(*(np.asarray(a, float) for a in found))
    squares = np.square(np.asarray(x, float)).mean(1)
    expected = theory.profile("uniform", 0.0, squares, pixels, width, depth)
    top = initializers.second_moment("uniform", width, 3)
    for values, wanted in (
        (found.forward, expected.forward), (found.backward, expected.backward * top)
    ):  # fmt: skip
        error = 5 * values.std(0) / count**0.5
        assert (np.abs(values.mean(0) - wanted) < error).all()
    # What a layer takes from activations it adds to gradients: kernels have gradients of one size.
    spread = found.kernel.std(0) / count**0.5
    assert np.ptp(found.kernel.mean(0)) < 8 * spread.max()


# --- training


def test_training_is_momentum_by_hand_and_stops_where_it_is_lost():
    rng = np.random.default_rng(0)
    data = jnp.asarray(rng.normal(size=(20, 6)), jnp.float32), jnp.asarray(rng.integers(0, 3, 20))
    data = data[0], data[1].astype(jnp.int32)
    params = jax.tree.map(lambda a: a.astype(jnp.float32), some_network(3))
    batches = jnp.arange(20).reshape(4, 5)
    train = jax.jit(lambda rate: runs.train(optax.sgd(rate, 0.9), params, batches, data))
    found = train(0.1)

    def loss(p, rows):
        return losses.cross_entropy(network.logits(p, data[0][rows]), data[1][rows])

    learn = jax.jit(jax.value_and_grad(loss))
    own, speed, seen = params, jax.tree.map(np.zeros_like, params), []
    for rows in batches:
        value, slope = learn(own, rows)
        seen.append(value)
        speed = jax.tree.map(lambda v, g: np.float32(0.9) * v + np.asarray(g), speed, slope)
        own = jax.tree.map(lambda p, v: np.asarray(p) - np.float32(0.1) * v, own, speed)
    np.testing.assert_allclose(found["loss"], seen, rtol=1e-5)
    np.testing.assert_allclose(found["train_loss"], loss(own, np.arange(20)), rtol=1e-5)
    moved = np.abs(own.square.kernel - params.square.kernel).max()
    np.testing.assert_allclose(found["moved"], moved, rtol=1e-4)
    assert int(found["diverged_at"]) == -1
    lost = train(1e6)
    assert int(lost["diverged_at"]) == 1
    assert np.isfinite(np.asarray(lost["loss"])).tolist()[2:] == [False, False]


def test_equal_units_stay_equal():
    """The symmetry that zero weights leave: with a bias they learn, as if of width one."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, labels = jnp.asarray(rng.normal(size=(20, 6))), jnp.asarray(rng.integers(0, 3, 20))
        zeros = jax.tree.map(np.zeros_like, some_network(3))
        value = lambda p: losses.cross_entropy(network.logits(p, x), labels)  # noqa: E731
        slope = jax.jit(jax.grad(value))
        params = network.adapted(zeros, 3, 0.1)
        for _ in range(5):
            params = jax.tree.map(lambda p, g: np.asarray(p) - np.asarray(g), params, slope(params))
        kernels = np.concatenate([params.first.kernel, *params.square.kernel])
        assert np.abs(params.head.kernel).max() > 1e-3
        np.testing.assert_allclose(kernels, kernels[:, :1] * np.ones((1, 7)), atol=1e-15)


# --- the record


def test_the_record_has_every_variable_with_unit_and_long_name(record):
    assert record["forward_moment"].dims == ("measured", "bias", "draw", "layer", "seed")
    assert record["train_loss"].dims == ("optimizer", "retuned", "place", "seed")
    assert record["depth_train_loss"].dims == ("depth", "initializer", "seed")
    assert list(record["retuned"].values) == ["lecun", "he"]
    assert list(record["variant"].values) == [
        "zeros", "lecun", "he", "he*0.5", "he*2", "he+0.1", "he-0.1", "lecun+0.1", "lecun-0.1"
    ]  # fmt: skip
    assert record["diverged_step"].dims == ("arm", "seed")
    assert "adam/he*2" in record["arm"].values
    for name in record.data_vars:
        assert record[name].attrs["units"], name
        assert record[name].attrs["long_name"], name


def test_runs_stand_where_they_belong(record):
    """Losses before training tell initialisers, scales and biases apart; rates what is lost."""
    common = record["common_train_loss"].sel(optimizer="momentum")
    at_rate = record["train_loss"].sel(optimizer="momentum", place=0)
    for name in ("lecun", "he"):
        np.testing.assert_array_equal(common.sel(variant=name), at_rate.sel(retuned=name))
    deep = record["depth_train_loss"].sel(depth=3, initializer="he")
    np.testing.assert_array_equal(
        deep, record["common_train_loss"].sel(optimizer="adam", variant="he")
    )
    assert (record["diverged_at"].sel(optimizer="momentum", place=1) >= 0).all()
    assert (record["common_diverged_at"] == -1).all()
    moved = record["common_moved"]
    assert (moved.sel(variant="zeros") == 0).all()
    assert (moved.sel(variant="he") > 0).all()
    losses_of = [common.sel(variant=v).values for v in ("he", "he*0.5", "he*2", "he+0.1")]
    assert len({values.tobytes() for values in losses_of}) == 4


def test_zero_weights_have_no_activations(record):
    own = record.sel(measured="zeros", bias=0.0)
    assert (own["forward_moment"] == 0).all()
    assert (own["forward_theory"] == 0).all()


def test_the_folder_holds_figures_and_verdicts(finished):
    folder, _, out = finished
    for name in ("moments", "gains", "draws", "rates", "rescued", "depths", "scales", "biases"):
        assert (folder / "figures" / f"{name}.svg").stat().st_size > 1000
    for claim in ("2.4a", "2.4d", "2.4e", "2.4f", "2.4g", "2.4h", "2.4i", "2.4j", "2.4k"):
        assert claim in out


def test_a_seed_alone_is_the_seed_among_others(record, tmp_path):
    folder = tmp_path / "one"
    status, out, err = main(f"--run_dir={folder}", "--only_seed=1")
    assert status == 0, out + err
    alone = xarray.load_dataset(folder / "record.nc")
    for name in record.data_vars:
        expected = record[name].sel(seed=[1]) if "seed" in record[name].dims else record[name]
        np.testing.assert_array_equal(alone[name], expected, err_msg=name)


def test_figures_are_drawn_when_everything_was_lost(record):
    lost = record.copy(deep=True)
    for name in lost.data_vars:
        if lost[name].dtype.kind == "f" and name not in ("rate", "gain", "log_gain"):
            lost[name] = lost[name] * np.nan
    for name, figure in initialization.figures(lost):
        figure.canvas.draw()
        assert figure.axes[0].get_title(loc="left"), name


# --- claims on a record whose numbers are known


def example(seeds=20):
    """Gains as expected for typical draws; only He and orthogonal learn with momentum."""
    names = [*claims.POOR, *claims.GOOD, "zeros", "lecun_uncorrected"]
    gain = {"he": 1, "orthogonal": 1, "sparse": 8, "lecun": 0.5, "lecun_uncorrected": 0.4}
    values = np.array([gain.get(name, 0.25) for name in names])
    layers = np.arange(1, 5)
    one = np.ones((len(names), 3, 2, len(layers), seeds))
    forward = one * (values[:, None] ** layers)[:, None, None, :, None]
    spread = one.copy()
    spread[:, 1, :, -1] = 1e-3
    backward = forward[:, :, :, ::-1].copy()
    backward[names.index("he"), 2, :, 0] = 0
    backward[names.index("lecun"), 1] = 1
    variants = [*names[:-1], "he*0.5", "he*2", "lecun+0.1"]
    common = np.full((2, len(variants), seeds), 2.3)
    common[:, [variants.index(n) for n in claims.GOOD]] = 1.0
    common[1, variants.index("lecun+0.1")] = 1.0
    tuned = names[:-2]
    grid = np.full((2, len(tuned), 2, seeds), 2.3)
    grid[:, [tuned.index(n) for n in claims.GOOD]] = 1.0
    grid[1, tuned.index("lecun"), 1] = 1.5
    by_layer = ("measured", "bias", "draw", "layer", "seed")
    variables = {
        "forward_moment": (by_layer, forward), "backward_moment": (by_layer, backward),
        "one_forward_moment": (by_layer, forward), "one_backward_moment": (by_layer, backward),
        "spread": (by_layer, spread), "gain": (("measured",), values),
        "log_gain": (("measured",), np.log(values) - 0.01),
        "common_train_loss": (("optimizer", "variant", "seed"), common),
        "common_moved": (("optimizer", "variant", "seed"), 0 * common),
        "train_loss": (("optimizer", "retuned", "place", "seed"), grid),
    }  # fmt: skip
    coords = {
        "measured": names, "bias": [0.0, 0.1, -0.1], "layer": layers, "variant": variants,
        "optimizer": ["momentum", "adam"], "retuned": tuned, "seed": np.arange(seeds),
    }  # fmt: skip
    return xarray.Dataset(variables, coords, {"target": 2.0, "moment_width": 100})


EXPECTED = {
    claims.gain_up: 0,
    claims.log_gain_down: 0.01,
    claims.shortfall: 0,
    claims.shortfall_off: 2.5,
    claims.vanishing: 3 * np.log10(0.5),
    claims.exploding: 3 * np.log10(8),
    claims.keeping: 0,
    claims.truncated: 0,
    claims.truncated_naively: 0.2,
    claims.poor_with_momentum: -1,
    claims.retuning_momentum: 0,
    claims.retuning_adam: 0.2,
    claims.far_scales_adam: -1,
    claims.negative_bias: -100,
    claims.no_bias: 0,
    claims.positive_bias: -3 * np.log10(0.5),
    claims.told_apart: -3,
    claims.bias_helps_momentum: 0,
    claims.bias_helps_adam: 1,
    claims.zeros_moved: 0,
    claims.zeros_learn: 0,
}


@pytest.mark.parametrize("statistic", EXPECTED, ids=lambda s: s.__name__)
def test_a_statistic_is_the_number_read_off(statistic):
    found = np.asarray(statistic(example()), float)
    assert found.shape == (20,)
    np.testing.assert_allclose(found, EXPECTED[statistic], rtol=1e-9, atol=1e-12)


def test_verdicts_follow_the_record():
    found = {v.id: v.verdict for v in judge(initialization.CLAIMS, example())}
    assert found["2.4a1"] == found["2.4a2"] == found["2.4a4"] == found["2.4a6"] == "supported"
    assert found["2.4a3"] == "refuted"  # 0.9 decades over three layers
    assert found["2.4d1"] == found["2.4d6"] == found["2.4f"] == found["2.4k"] == "conditional"
    assert found["2.4d2"] == found["2.4d5"] == "refuted"
    assert found["2.4i1"] == found["2.4i"] == "supported"


# --- settings


def test_the_names_are_those_of_the_library():
    assert initialization.INITIALIZERS == initializers.NAMES


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--initializers=he,xavier"], "must be one of zeros, normal, uniform, lecun, glorot, he"),
        (["--initializers="], "--initializers=: must name at least one"),
        (["--initializers=he,he"], "--initializers: must not repeat a value"),
        (["--biases=0.1,0"], "--biases=0.1,0: must not hold 0"),
        (["--depths=2"], "--depths=2: must hold 3, the --depth"),
        (["--depth=1"], "depth=1: must be at least 2"),
        (["--adam_rates=0.001"], "--adam_rates=0.001: must be 2 rates, as many as"),
        (["--adam_rates=0.1,0.001"], "--adam_rates=0.1,0.001: must be in rising order"),
        (["--momentum_rates=0,0.003"], "each must be greater than 0"),
        (["--momentum_rate=0.5"], "--momentum_rate=0.5: must be one of --momentum_rates"),
        (["--scales=-1"], "each must be greater than 0"),
        (["--batch_size=1438"], "--batch_size=1438: must be at most 1437"),
        (["--images=1500"], "--images=1500: must be at most 1437"),
        (["--orthogonal_gain=0"], "must be greater than 0"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(argv, words, tmp_path):
    folder = tmp_path / "run"
    status, _, err = main(f"--run_dir={folder}", *argv)
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not folder.exists()
