"""Networks on digits for adaptive rates: functions of one seed, hyperparameters as an axis."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dlstudy import losses, models
from dlstudy.data import Data, Split
from dlstudy.optimizers import make

# Streams of a seed's key.
INIT, ORDER, TRIALS = range(10, 13)

BLOWN = 10.0  # times the first loss: a batch's loss above has diverged


class Splits(NamedTuple):
    """Images [N, pixels] with labels [N] of each use."""

    train: Split
    tune: Split  # to choose hyperparameters by
    test: Split  # untouched by any choice


def splits_of(data: Data) -> Splits:
    """Its splits, images as rows of pixels."""
    flat = lambda split: Split(split.x.reshape(len(split.y), -1), split.y)  # noqa: E731
    return Splits(*map(flat, (data.train, data.tune, data.test)))


class Start(NamedTuple):
    """What an optimizer has no part in."""

    params: object  # tree of float32 arrays
    rows: jax.Array  # int[T, B], of each batch


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

    def begin(self, key, splits: Splits) -> Start:
        """Weights, and the rows of each batch: passes in a new order each, a last part left out."""
        examples = splits.train.y.shape[0]
        steps = examples // self.batch_size
        order = jax.vmap(lambda k: jax.random.permutation(k, examples))(
            jax.random.split(jax.random.fold_in(key, ORDER), self.epochs)
        )
        rows = order[:, : steps * self.batch_size].reshape(-1, self.batch_size)
        return Start(self.init(key, splits.train.x[0]), rows)

    def begin_repeats(self, key, splits: Splits, repeats: int) -> Start:
        """Starts of runs from other weights in another order, [repeats, ...]."""
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(repeats, dtype=jnp.uint32))
        return jax.vmap(lambda k: self.begin(k, splits))(keys)

    def train(self, optimizer, start: Start, splits: Splits) -> dict:
        """One run: errors and losses at its end, its first losses, and where it diverged."""

        def step(state, rows):
            params, memory = state
            batch = Split(splits.train.x[rows], splits.train.y[rows])
            loss, gradient = jax.value_and_grad(self.loss)(params, batch)
            updates, memory = optimizer.update(gradient, memory, params)
            return (optax.apply_updates(params, updates), memory), loss

        first = start.params, optimizer.init(start.params)
        (params, _), seen = jax.lax.scan(step, first, start.rows)
        bad = ~(seen <= BLOWN * seen[0])
        row = {
            "early_loss": seen[: self.early],
            "diverged_at": jnp.where(bad.any(), bad.argmax(), -1).astype(jnp.int32),
        }
        for name in ("tune", "test"):
            split = getattr(splits, name)
            logits = self.model.apply({"params": params}, split.x)[0]
            row[f"{name}_loss"] = losses.cross_entropy(logits, split.y)
            row[f"{name}_error"] = losses.error_rate(logits, split.y)
        return row

    def repeated(self, optimizer, starts: Start, splits: Splits) -> dict:
        """Means over the runs of `begin_repeats`; the first losses are the first run's.

        "early_peak" is the largest of the first losses over the very first, a geometric mean over
        runs; "diverged_at" the first step at which any run diverged.
        """
        rows = jax.lax.map(lambda start: self.train(optimizer, start, splits), starts)
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
