"""Networks on digits for adaptive rates: functions of one seed, hyperparameters as an axis."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dlstudy import losses, models
from dlstudy.data import Data, Split
from dlstudy.optimizers import make

# Streams of a seed's key.
INIT, ORDER, TRIALS, PIXEL = range(10, 14)

BLOWN = 10.0  # times the first loss: a batch's loss above has diverged


class Splits(NamedTuple):
    """Images [N, pixels] with labels [N] of each use."""

    train: Split
    tune: Split  # to choose hyperparameters by
    test: Split  # untouched by any choice


def cut(data: Data, train_size: int) -> Splits:
    """The first training images to train on, the rest to tune on, what is left to test on.

    The tuning set must be large: a tenth of a small error on few images is less than one image.
    """
    import numpy as np

    flat = lambda x, y: Split(x.reshape(len(y), -1), y)  # noqa: E731
    x, y = data.train
    rest = (np.concatenate(pair) for pair in zip(data.tune, data.test, strict=True))
    return Splits(flat(x[:train_size], y[:train_size]), flat(x[train_size:], y[train_size:]),
                  flat(*rest))  # fmt: skip


class Net(NamedTuple):
    """A network and how it is trained."""

    model: models.MLP
    batch_size: int
    epochs: int
    early: int  # first steps whose loss is kept

    def init(self, key, example):
        return models.initialise(self.model, jax.random.fold_in(key, INIT), example)

    def loss(self, params, split):
        return losses.cross_entropy(self.model.apply({"params": params}, split[0])[0], split[1])

    def batches(self, key, examples: int):
        """Rows of each batch, int[T, B]: passes in a new order each; a last partial one is left."""
        key = jax.random.fold_in(key, ORDER)
        steps = examples // self.batch_size
        order = jax.vmap(lambda k: jax.random.permutation(k, examples))(
            jax.random.split(key, self.epochs)
        )
        return order[:, : steps * self.batch_size].reshape(-1, self.batch_size)

    def train(self, optimizer, key, splits: Splits) -> dict:
        """One run: errors and losses at its end, its first losses, and where it diverged."""
        params = self.init(key, splits.train.x[0])

        def step(state, rows):
            params, memory = state
            batch = Split(splits.train.x[rows], splits.train.y[rows])
            loss, gradient = jax.value_and_grad(self.loss)(params, batch)
            updates, memory = optimizer.update(gradient, memory, params)
            return (optax.apply_updates(params, updates), memory), loss

        rows = self.batches(key, splits.train.y.shape[0])
        (params, _), seen = jax.lax.scan(step, (params, optimizer.init(params)), rows)
        bad = ~(seen <= BLOWN * seen[0])
        row = {
            "early_loss": seen[: self.early],
            "diverged_at": jnp.where(bad.any(), bad.argmax(), -1).astype(jnp.int32),
            "train_loss": self.loss(params, splits.train),
            "tune_loss": self.loss(params, splits.tune),
        }
        for name in ("tune", "test"):
            split = getattr(splits, name)
            logits = self.model.apply({"params": params}, split.x)[0]
            row[f"{name}_error"] = losses.error_rate(logits, split.y)
        return row

    def repeated(self, optimizer, key, splits: Splits, repeats: int) -> dict:
        """Means over runs from other weights in another order; first losses are the first run's.

        "early_peak" is the largest of the first losses over the very first, a geometric mean over
        runs; "diverged_at" the first step at which any run diverged.
        """
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(repeats, dtype=jnp.uint32))
        rows = jax.lax.map(lambda k: self.train(optimizer, k, splits), keys)
        early, at = rows.pop("early_loss"), rows.pop("diverged_at")
        peak = jnp.log(early.max(1) / early[:, 0])  # NaN where a loss is
        last = jnp.int32(2**30)
        first = jnp.where(at < 0, last, at).min()
        return {name: values.mean(0) for name, values in rows.items()} | {
            "early_loss": early[0],
            "early_peak": jnp.exp(peak.mean()),
            "diverged_at": jnp.where(first == last, -1, first),
        }


# -- random search


class Trial(NamedTuple):
    """Hyperparameters of one trial. `rate` is that at full speed, the sum over all past steps.

    Momentum alpha on a constant gradient ends at 1 / (1 - alpha) times its rate, so a rate and an
    alpha drawn on their own would be two names for one thing: momentum's rate is (1 - alpha) times
    this. With Adam it is this times max(delta, `delta_scale`): for large delta Adam is averaged
    momentum of that rate, for small delta the root in its denominator is of the order of the scale.
    """

    rate: jax.Array
    slow: jax.Array  # 1 - alpha, or 1 - rho1
    slower: jax.Array  # 1 - rho2
    delta: jax.Array


SPACES = ("sgd", "momentum", "adam", "adam_fixed")
DELTA = 1e-8  # of "adam_fixed"


def draw_trials(config, key) -> Trial:
    """Trials [N], each number uniform over the logarithm of its range."""
    keys = jax.random.split(jax.random.fold_in(key, TRIALS), 4)
    ranges = (config.search_rate, config.search_slow, config.search_slower, config.search_delta)

    def draw(key, limits):
        low, high = (jnp.log(jnp.float32(limit)) for limit in limits)
        return jnp.exp(jax.random.uniform(key, (config.trials,), minval=low, maxval=high))

    return Trial(*map(draw, keys, ranges))


def searcher(space: str, trial: Trial, scale: float):
    """The optimizer of a trial in a space; the spaces share their trials' numbers."""
    if space in ("sgd", "momentum"):
        slow = trial.slow if space == "momentum" else jnp.ones_like(trial.slow)
        return make("momentum", trial.rate * slow, momentum=1 - slow)
    delta = trial.delta if space == "adam" else jnp.full_like(trial.delta, DELTA)
    rate = trial.rate * jnp.maximum(delta, scale)
    return make("adam", rate, rho1=1 - trial.slow, rho2=1 - trial.slower, delta=delta)


# -- scaling the loss and one feature, in float64


def rescaled(net: Net, config, key, splits: Splits) -> dict:
    """Full-batch descent with the loss, or one input feature, scaled by c.

    Returns:
      "loss_change" [ways, scales]: largest relative change of the loss curve over its steps;
      "feature_change" [2, scales, 2]: size of the change of the feature's weights as they act on
      the unscaled feature, after the first and after the last step, under Adam and SGD;
      "feature_gap" [2, scales]: largest relative distance between the loss curves of the scaled
      feature and of the unscaled one whose rate is c (Adam) or c^2 (SGD) times as high;
      "curves" [2, scales, T]: losses over c of Adam with its default delta and of SGD.
    """
    x, y = splits.train.x[: config.scale_size].astype(jnp.float64), splits.train.y
    y = y[: config.scale_size]
    start = jax.tree.map(lambda a: a.astype(jnp.float64), net.init(key, splits.train.x[0]))
    lit = (x > 0).mean(0) > 0.2
    pixel = jax.random.categorical(jax.random.fold_in(key, PIXEL), jnp.where(lit, 0.0, -jnp.inf))
    row = jnp.arange(x.shape[1]) == pixel
    sgd, adam, still = config.scale_sgd_rate, config.scale_adam_rate, config.no_delta

    def first_kernel(params, change):
        layer = params["hidden_0"]
        return params | {"hidden_0": layer | {"kernel": change(layer["kernel"])}}

    def run(optimizer, scale=1.0, feature=1.0, boost=1.0):
        """(losses over `scale` [T + 1], the pixel's weights times `feature` [T + 1, U])."""
        inputs = jnp.where(row[None], feature, 1.0) * x
        params = first_kernel(start, lambda k: k / jnp.where(row, feature, 1.0)[:, None])
        loss = lambda p: self_loss(p) * scale  # noqa: E731
        self_loss = lambda p: net.loss(p, Split(inputs, y))  # noqa: E731
        seen = lambda p: p["hidden_0"]["kernel"][pixel] * feature  # noqa: E731

        def step(state, _):
            params, memory = state
            value, gradient = jax.value_and_grad(loss)(params)
            updates, memory = optimizer.update(gradient, memory, params)
            updates = first_kernel(updates, lambda k: k * jnp.where(row, boost, 1.0)[:, None])
            return (optax.apply_updates(params, updates), memory), (value / scale, seen(params))

        (params, _), (values, weights) = jax.lax.scan(
            step, (params, optimizer.init(params)), length=config.scale_steps
        )
        return jnp.append(values, self_loss(params)), jnp.append(weights, seen(params)[None], 0)

    apart = lambda a, b: (jnp.abs(a - b) / jnp.abs(b)).max()  # noqa: E731
    scales = jnp.asarray(config.loss_scales)
    ways = {
        "adam": lambda c: make("adam", adam),
        "adam_no_delta": lambda c: make("adam", adam, delta=still),
        "adam_scaled_delta": lambda c: make("adam", adam, delta=1e-8 * c),
        "sgd": lambda c: make("sgd", sgd),
        "sgd_matched": lambda c: make("sgd", sgd / c),
    }
    curves = {
        name: jax.lax.map(lambda c, way=way: run(way(c), scale=c)[0], scales)
        for name, way in ways.items()
    }
    plain = {name: run(way(1.0))[0] for name, way in ways.items()}
    change = [jax.vmap(lambda a, n=n: apart(a, plain[n]))(curves[n]) for n in ways]
    features = jnp.asarray(config.feature_scales)
    changes, gaps = [], []
    for optimizer, power in ((make("adam", adam, delta=still), 1), (make("sgd", sgd), 2)):

        def both(c, optimizer=optimizer, power=power):
            found, weights = run(optimizer, feature=c)
            moved = jnp.linalg.norm(weights[jnp.array([1, -1])] - weights[:1], axis=1)
            return moved, apart(found, run(optimizer, boost=c**power)[0])

        moved, gap = jax.lax.map(both, features)
        changes.append(moved)
        gaps.append(gap)
    return {
        "loss_change": jnp.stack(change),
        "curves": jnp.stack([curves["adam"], curves["sgd"]]),
        "feature_change": jnp.stack(changes),
        "feature_gap": jnp.stack(gaps),
    }


SCALING_ARMS = ("adam", "adam_no_delta", "adam_scaled_delta", "sgd", "sgd_matched")
FEATURE_ARMS = ("adam", "sgd")
