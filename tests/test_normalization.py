"""Batch normalisation and dropout: formulas, statistics as plain values, seeds side by side."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.precision import in_float64

from dlstudy import losses, models, normalization, optimizers, sweep, training
from dlstudy.host import Layout
from dlstudy.normalization import Statistics

pytestmark = pytest.mark.usefixtures("quick_compilation")


class FlaxMLP(nn.Module):
    """The same network of Flax's layers."""

    order: str
    train: bool

    @nn.compact
    def __call__(self, x):
        for i, width in enumerate((7, 5)):
            first = self.order == "bn_relu_dropout"
            x = nn.Dense(width, not first, name=f"hidden_{i}")(x)
            norm = nn.BatchNorm(
                not self.train, momentum=0.9, epsilon=1e-5, use_fast_variance=False,
                force_float32_reductions=False, param_dtype=jnp.float64, name=f"bn_{i}",
            )  # fmt: skip
            x = nn.relu(norm(x)) if first else norm(nn.relu(x))
        return nn.Dense(3, name="head")(x)


EXAMPLE = np.zeros(4, np.float32)


def inputs(n=12, d=4):
    return np.random.default_rng(0).normal(3, 2, (n, d))


def randomised(params):
    """The same tree in float64."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda p: rng.normal(1, 0.5, p.shape), params)


@pytest.mark.parametrize("order", models.ORDERS)
@in_float64
def test_batch_and_running_statistics_are_those_of_flax(order):
    x = jnp.asarray(inputs())
    model = models.MLP((7, 5), 3, batch_norm=True, order=order)
    params = randomised(models.initialise(model, jax.random.key(0), EXAMPLE))
    apply = jax.jit(lambda p, s: model.apply({"params": p}, x, statistics=s))
    out, taps = apply(params, None)
    running = normalization.initial(taps["statistics"])
    flax = FlaxMLP(order, True)
    theirs = {
        "params": params,
        "batch_stats": {n: {"mean": s.mean, "var": s.variance} for n, s in running.items()},
    }
    expected, moved = flax.apply(theirs, x, mutable=["batch_stats"])
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-13)
    running = normalization.moved(running, taps["statistics"], 0.9)
    for name, own in running.items():
        np.testing.assert_allclose(own.mean, moved["batch_stats"][name]["mean"], rtol=1e-12)
        np.testing.assert_allclose(own.variance, moved["batch_stats"][name]["var"], rtol=1e-12)
    expected = FlaxMLP(order, False).apply({"params": params} | moved, x)
    out, taps = apply(params, running)
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-13)
    chex.assert_trees_all_equal(taps["statistics"], running)


@pytest.mark.parametrize("epsilon", [1e-5, 0.1])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 700.0])
@in_float64
def test_scaling_the_inputs_scales_epsilon(epsilon, scale):
    # BN_epsilon(c z) = BN_(epsilon / c^2)(z).
    z = jnp.asarray(inputs())
    found = [
        normalization.normalise(x, normalization.of_batch(x, 1), 1, e)
        for x, e in ((scale * z, epsilon), (z, epsilon / scale**2))
    ]
    np.testing.assert_allclose(*found, rtol=1e-12)


@given(st.integers(0, 10**6), st.floats(-1e4, 1e4))
def test_normalised_units_have_mean_zero_and_the_variance_epsilon_leaves(seed, shift):
    with jax.enable_x64(True):
        z = np.random.default_rng(seed).normal(shift, 1, (3, 20))
        y = np.asarray(normalization.normalise(z, normalization.of_batch(z, 0), 0, 1e-3))
    np.testing.assert_allclose(y.mean(1), 0, atol=1e-10)
    np.testing.assert_allclose(y.var(1), z.var(1) / (z.var(1) + 1e-3), rtol=1e-9)


def test_the_variance_keeps_its_digits_far_from_zero():
    z = np.float32(1e4) + np.float32([[0.5, -0.5, 0.25, -0.25]])
    assert normalization.of_batch(z, 0).variance[0] == pytest.approx(0.15625, rel=1e-6)


@in_float64
def test_batches_pooled_are_all_their_examples():
    x = inputs(30)
    several = jax.vmap(lambda b: normalization.of_batch(b, 1))(x.reshape(5, 6, 4))
    chex.assert_trees_all_close(
        normalization.pooled({"bn_0": several})["bn_0"], Statistics(x.mean(0), x.var(0)), rtol=1e-12
    )


def test_what_has_no_statistics_is_refused():
    model = models.MLP((3,), 2, batch_norm=True)
    params = models.initialise(model, jax.random.key(0), jnp.zeros(4))
    with pytest.raises(ValueError, match="at least two values"):
        model.apply({"params": params}, jnp.zeros((1, 4)))
    with pytest.raises(ValueError, match="empty set"):
        normalization.pooled({"bn_0": Statistics(jnp.zeros((0, 3)), jnp.zeros((0, 3)))})
    statistics_of = lambda x: model.apply({"params": params}, x)[1]["statistics"]  # noqa: E731
    with pytest.raises(ValueError, match="empty set"):
        normalization.recalibrated(statistics_of, jnp.zeros((0, 5, 4)))
    with pytest.raises(ValueError, match="at least two values"):
        normalization.recalibrated(statistics_of, jnp.zeros((1, 0, 4)))
    with pytest.raises(ValueError, match="order is 'relu'; it must be one of bn_relu_dropout"):
        models.initialise(models.MLP((3,), 2, order="relu"), jax.random.key(0), jnp.zeros(4))
    cnn = models.CNN((2,), 3, batch_norm=True)
    images = jnp.zeros((2, 4, 4, 1))
    params = models.initialise(cnn, jax.random.key(0), images[0])
    with pytest.raises(ValueError, match="probes"):
        cnn.apply({"params": params}, images, jnp.zeros((2, 2)))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("order", models.ORDERS)
@in_float64
def test_a_cnn_normalises_its_channels(order, affine):
    # Twice: with the batch's own statistics, and with others.
    images = np.random.default_rng(2).normal(size=(5, 6, 4, 2))
    model = models.CNN((3,), 2, pool=True, batch_norm=True, order=order, affine=affine)
    params = randomised(models.initialise(model, jax.random.key(0), images[0]))
    assert ("bias" in params["conv_0"]) == (order == "relu_dropout_bn")
    assert ("bn_0" in params) == affine
    given = Statistics(np.array([0.3, -1.0, 2.0]), np.array([0.5, 2.0, 7.0]))
    params = jax.tree.map(np.asarray, params)
    plain = models.CNN((3,), 2)
    zeros = {"head": {"kernel": np.zeros((2, 72)), "bias": np.zeros(2)}}
    conv = {"conv_0": {"bias": np.zeros(3)} | params["conv_0"]}
    z = np.asarray(plain.apply({"params": zeros | conv}, images)[1]["pre_0"])
    pool = lambda a: np.asarray(nn.max_pool(a, (2, 2), (2, 2)))  # noqa: E731
    if order == "relu_dropout_bn":
        z = pool(np.maximum(z, 0))
    scale, bias = (params["bn_0"][n] if affine else v for n, v in (("scale", 1.0), ("bias", 0.0)))
    for statistics in (None, {"bn_0": given}):
        logits, taps = model.apply({"params": params}, images, statistics=statistics)
        mean, variance = given if statistics else (z.mean((0, 1, 2)), z.var((0, 1, 2)))
        y = (z - mean) / np.sqrt(variance + 1e-5) * scale + bias
        if order == "bn_relu_dropout":
            np.testing.assert_allclose(taps["pre_0"], y, rtol=1e-10, atol=1e-12)
            y = pool(np.maximum(y, 0))
        features = y.transpose(0, 3, 1, 2).reshape(5, -1)
        np.testing.assert_allclose(taps["features"], features, rtol=1e-10, atol=1e-12)
        expected = features @ params["head"]["kernel"].T + params["head"]["bias"]
        np.testing.assert_allclose(logits, expected, rtol=1e-10, atol=1e-12)


@in_float64
def test_gamma_and_beta_at_their_start_are_no_affine_map():
    x = jnp.asarray(inputs())
    with_map, without = (models.MLP((7, 5), 3, batch_norm=True, affine=a) for a in (True, False))
    params = jax.tree.map(np.float64, models.initialise(with_map, jax.random.key(0), EXAMPLE))
    fewer = {name: own for name, own in params.items() if not name.startswith("bn")}
    found, expected = (
        model.apply({"params": own}, x)[0] for model, own in ((without, fewer), (with_map, params))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("size", [30, 6])
@in_float64
def test_recalibrated_statistics_are_those_of_the_data(size):
    # Exact in the first layer; one batch of everything gives what batch statistics give.
    x = jnp.asarray(inputs(30))
    model = models.MLP((7, 5), 3, batch_norm=True)
    params = randomised(models.initialise(model, jax.random.key(0), EXAMPLE))
    apply = lambda x, **more: model.apply({"params": params}, x, **more)  # noqa: E731
    found = normalization.recalibrated(
        lambda x: apply(x)[1]["statistics"], x.reshape(-1, size, x.shape[1])
    )
    logits, taps = apply(x)
    chex.assert_trees_all_close(found["bn_0"], taps["statistics"]["bn_0"], rtol=1e-12)
    if size == len(x):
        np.testing.assert_allclose(apply(x, statistics=found)[0], logits, rtol=1e-12)


# --- dropout


def test_dropout_keeps_the_mean_and_scales_what_it_keeps():
    x = jnp.full((400, 300), 2.0)
    found = np.asarray(models.drop(jax.random.key(0), x, 0.3))
    assert set(np.unique(found)) == {0, np.float32(2 / np.float32(0.7))}
    assert (found == 0).mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / found.size))


def test_a_rate_of_zero_changes_nothing_and_rates_are_an_axis():
    x = jnp.asarray(inputs(), jnp.float32)
    model = models.MLP((7, 5), 3)
    params = models.initialise(model, jax.random.key(0), x[0])
    traces = []

    @jax.jit
    @jax.vmap
    def logits(rate):
        traces.append(rate)
        dropout = models.Dropout(jax.random.key(1), rate, rate / 2)
        return model.apply({"params": params}, x, dropout=dropout)[0]

    found = logits(jnp.float32([0, 0.5]))
    assert len(traces) == 1
    plain, _ = model.apply({"params": params}, x)
    np.testing.assert_allclose(found[0], plain, rtol=1e-5, atol=1e-6)
    assert np.abs(found[1] - plain).max() > 0.01


@in_float64
def test_dropout_of_a_linear_network_is_right_on_average():
    # Weight scaling is the expectation exactly where the network is linear in its hidden units.
    x = jnp.asarray(inputs(3))
    model = models.MLP((6,), 2)
    params = randomised(models.initialise(model, jax.random.key(0), EXAMPLE))
    draws = jax.jit(jax.vmap(
        lambda key: model.apply({"params": params}, x, dropout=models.Dropout(key, 0.5))[0]
    ))(jax.random.split(jax.random.key(1), 4000))  # fmt: skip
    error = draws.std(0) / np.sqrt(4000)
    assert (np.abs(draws.mean(0) - model.apply({"params": params}, x)[0]) < 5 * error).all()


@pytest.mark.parametrize("order", [None, *models.ORDERS])
@in_float64
def test_a_cnn_drops_what_its_head_gets(order):
    # Where dropout comes last, the features are those of a pass without, or 0; before batch
    # normalisation they are normalised again.
    images = np.random.default_rng(2).normal(size=(5, 6, 4, 2))
    more = {} if order is None else {"batch_norm": True, "order": order}
    model = models.CNN((3,), 2, pool=True, **more)
    params = randomised(models.initialise(model, jax.random.key(0), images[0]))
    dropout = models.Dropout(jax.random.key(1), 0.25)
    plain, found = (
        np.asarray(model.apply({"params": params}, images, dropout=own)[1]["features"])
        for own in (None, dropout)
    )
    if order == "relu_dropout_bn":
        channels = found.reshape(5, 3, -1)
        y = (channels - params["bn_0"]["bias"][:, None]) / params["bn_0"]["scale"][:, None]
        np.testing.assert_allclose(y.mean((0, 2)), 0, atol=1e-12)
        assert np.abs(found - plain).max() > 0.1
        return
    kept = found != 0
    np.testing.assert_allclose(found[kept], plain[kept] / 0.75, rtol=1e-12)
    assert 0.6 < kept[plain != 0].mean() < 0.9


# --- training


def noisy_trainer(x, y, *, order=jax.random.permutation, rate=0.3, batch_norm=True):
    model = models.MLP((6,), 3, batch_norm=batch_norm)

    def loss(params, running, batch, key):
        dropout = models.Dropout(key, rate)
        logits, taps = model.apply({"params": params}, batch[0], dropout=dropout)
        if batch_norm:
            running = normalization.moved(running, taps["statistics"], 0.8)
        return losses.cross_entropy(logits, batch[1]), running

    init = lambda key: models.initialise(model, key, x[0])  # noqa: E731
    used = jax.eval_shape(
        lambda key: model.apply({"params": init(key)}, x)[1].get("statistics", ()),
        jax.random.key(0),
    )
    return model, loss, training.make_noisy_trainer(
        init, loss, optimizers.make("momentum", 0.1), 4, order=order,
        statistics=normalization.initial(used),
    )  # fmt: skip


def labelled():
    return jnp.asarray(inputs(10), jnp.float32), jnp.arange(10) % 3


def test_an_epoch_is_its_steps_one_by_one():
    data = labelled()
    _, loss, trainer = noisy_trainer(*data, order=lambda key, count: jnp.arange(count))
    key = jax.random.key(3)
    state = trainer.init(jax.random.key(2))
    after, values = jax.jit(trainer.epoch)(state, key, data)
    assert values.shape == (2,)  # the last two examples are dropped
    params, running, opt_state = state.params, state.statistics, state.opt_state
    optimizer = optimizers.make("momentum", 0.1)
    for t in range(2):
        own = jax.random.fold_in(jax.random.fold_in(key, t), 1)
        batch = jax.tree.map(lambda a: a[4 * t : 4 * t + 4], data)  # noqa: B023
        (value, running), gradient = jax.value_and_grad(loss, has_aux=True)(
            params, running, batch, own
        )
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = jax.tree.map(jnp.add, params, updates)
        assert values[t] == pytest.approx(float(value), rel=1e-5)
    chex.assert_trees_all_close(after.params, params, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(after.statistics, running, rtol=1e-5)
    assert after.step == 2


@pytest.mark.parametrize("strategy", ["map", "vmap"])
def test_a_seed_trained_alone_is_the_seed_among_others(strategy):
    data = labelled()
    _, _, trainer = noisy_trainer(*data)

    def train(key):
        state = trainer.init(key)
        return jax.lax.scan(lambda s, _: trainer.epoch(s, key, data), state, length=3)

    keys = sweep.seed_keys(0, range(4))
    layout = Layout(devices=1, strategy=strategy, seeds_per_program=0)
    together = sweep.over_seeds(train, layout)(keys)
    alone = sweep.over_seeds(train, layout)(keys[2:3])
    same = jax.tree.map(lambda a: a[2:3], together)
    if strategy == "map":
        chex.assert_trees_all_equal(alone, same)
    else:  # another width is another program: equal to rounding
        chex.assert_trees_all_close(alone, same, rtol=2e-4, atol=1e-5)
    means = np.asarray(together[0].statistics["bn_0"].mean)
    assert (np.abs(means[:, None] - means)[~np.eye(4, dtype=bool)].max(-1) > 1e-3).all()


def test_dropout_alone_needs_no_statistics():
    data = labelled()
    _, _, trainer = noisy_trainer(*data, batch_norm=False)
    state = trainer.init(jax.random.key(0))
    assert state.statistics == ()
    state, values = jax.jit(trainer.epoch)(state, jax.random.key(1), data)
    assert np.isfinite(values).all()
    assert state.statistics == ()
