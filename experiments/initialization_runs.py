"""Runs `initialization`: settings and arrays in, record out.

Weights are float32, as in training; second moments are taken in float64, where 50 layers neither
overflow nor underflow.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from threadpoolctl import threadpool_limits

from dlstudy import initializers, losses, optimizers, sweep
from dlstudy.data import Data
from dlstudy.host import Host
from dlstudy.stages import run_stage
from experiments import initialization_network as network
from experiments import initialization_record as records
from experiments.initialization_record import DIVERGED, OPTIMIZERS

WEIGHTS, ORDER, DIRECTION = range(3)  # what a key of a seed is for


class Condition(NamedTuple):
    """What sets a training run apart; scalars, or arrays with one entry a run."""

    kernel: jax.Array  # index of the initialiser
    factor: jax.Array  # of its weights
    bias: jax.Array  # of every hidden unit
    rate: jax.Array


def kernels(config, names) -> list:
    """Initialisers by name, with the constants that are settings."""
    return [initializers.make(name, **constants_of(config, name)) for name in names]


def constants_of(config, name: str) -> dict:
    """The constants of an initialiser that are settings."""
    return {
        "sparse": {"count": config.sparse_weights}, "orthogonal": {"gain": config.orthogonal_gain}
    }.get(name, {})  # fmt: skip


def arms(config) -> dict[str, tuple[str, float, float]]:
    """What is trained at the common rates, by name: (initialiser, factor, bias)."""
    found = {name: (name, 1.0, 0.0) for name in config.initializers}
    found |= {f"he*{c:g}": ("he", c, 0.0) for c in config.scales}
    return found | {
        f"{name}{bias:+g}": (name, 1.0, bias) for name in ("he", "lecun") for bias in config.biases
    }


def run(config, data: Data, host: Host):
    """Runs all stages and returns the record, an `xarray.Dataset`; see `initialization_record`."""
    # Orthogonal matrices are drawn by LAPACK: for small ones more threads only wait for each other.
    with threadpool_limits(1, "blas"):
        return run_stages(config, data, host)


def run_stages(config, data: Data, host: Host):
    """The same, in as many threads as LAPACK likes."""
    seeds = list(host.seeds(config.num_seeds))
    study = Study(config, data, host, seeds)
    named, others = arms(config), [arm for arm in arms(config) if arm not in config.retuned]

    def conditions(optimizer, names, rates):
        return [
            Condition(study.drawn.index(kernel), factor, bias, rate)
            for kernel, factor, bias in (named[name] for name in names) for rate in rates
        ]  # fmt: skip

    work = {}  # (optimizer, depth): chunks of conditions
    for name in OPTIMIZERS:
        rates, common = (getattr(config, f"{name}_{what}") for what in ("rates", "rate"))
        runs = conditions(name, config.retuned, rates) + conditions(name, others, [common])
        work[name, config.depth] = in_chunks(runs, len(rates))
    # With a program for each depth, under the optimizer that trains the deep ones best.
    for depth in config.depths:
        if depth != config.depth:
            work["adam", depth] = [conditions("adam", config.initializers, [config.adam_rate])]
    with sweep.compiler() as pool:
        study.compile(pool, work)
        moments = study.run_moments()
        done = {key: study.train(*key, chunks) for key, chunks in work.items()}
    measured = study.squares(), study.pixels, moments
    return records.assemble(config, seeds, named, *measured, done)


def in_chunks(conditions: list, size: int) -> list[list]:
    """Cut into lists of one length; the last is filled up with its last entry."""
    filled = conditions + conditions[-1:] * (-len(conditions) % size)
    return [filled[i : i + size] for i in range(0, len(filled), size)]


class Study:
    """The data on the device, and the stages over seeds."""

    def __init__(self, config, data: Data, host: Host, seeds):
        self.config, self.host, self.classes = config, host, data.classes
        self.keys = sweep.seed_keys(config.seed, seeds)
        self.train_set = jax.device_put((data.train.x.reshape(len(data.train.y), -1), data.train.y))
        self.pixels = self.train_set[0].shape[1]

    @property
    def images(self):
        """Inputs of the second moments, [N, pixels]: the first of the training set."""
        return self.train_set[0][: self.config.images]

    def squares(self) -> np.ndarray:
        """Mean square of the pixels of each such input, float64[N]."""
        return np.square(np.asarray(self.images, float)).mean(1)

    def draws(self, names, depth: int, width: int):
        """(key, index of the initialiser) -> `network.Params`."""
        made = [
            lambda key, init=init: network.draw(
                key, init, depth, width, self.pixels, self.classes
            )
            for init in kernels(self.config, names)
        ]  # fmt: skip
        return lambda key, index: jax.lax.switch(index, made, key)

    # -- second moments

    @functools.cached_property
    def moments(self):
        """The program: (keys, initialiser, images) -> `network.Moments` [S, biases, draws, L]."""
        config = self.config
        draw = self.draws(records.measured(config), config.moment_depth, config.moment_width)

        def one(key, index, images):
            """Of one seed and initialiser, for all biases and draws."""

            def measure(number):
                own = jax.random.fold_in(jax.random.fold_in(key, number), index)
                params = draw(jax.random.fold_in(own, WEIGHTS), index)
                params = jax.tree.map(lambda a: a.astype(jnp.float64), params)
                direction = jax.random.normal(
                    jax.random.fold_in(own, DIRECTION), (self.classes,), jnp.float64
                )
                return jax.vmap(
                    lambda bias: network.moments(
                        network.adapted(params, config.moment_depth, bias), images,
                        direction / jnp.linalg.norm(direction),
                    )
                )(jnp.array(records.biases(config), jnp.float64))  # fmt: skip

            found = jax.lax.map(measure, jnp.arange(config.draws, dtype=jnp.uint32))
            return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), found)

        return sweep.over_seeds(one, self.host.layout, shared=2)

    def run_moments(self) -> list[dict]:
        """One row per initialiser, trained or not: `network.Moments` by name."""
        with jax.enable_x64(True):

            def advance(unit, state):
                own = jnp.int32(unit), np.asarray(self.images, np.float64)
                return state, self.moments(self.keys, *own)._asdict()

            units = len(records.measured(self.config))
            return run_stage(self.host, "moments", units, lambda: jnp.zeros(()), advance)

    # -- training

    @property
    def drawn(self) -> list[str]:
        """Initialisers of the networks that learn."""
        return list(dict.fromkeys(kernel for kernel, *_ in arms(self.config).values()))

    @functools.cached_property
    def begin(self):
        """The program: keys -> (`network.Params` [S, initialisers, ...], batches int[S, T, B]).

        Weights are drawn once and as deep as any network needs: this takes longer to compile than
        training does.
        """
        config = self.config
        draw = self.draws(self.drawn, max(config.depths), config.width)
        count = len(self.train_set[1])
        steps = count // config.batch_size

        def order(key, epoch):
            rows = jax.random.permutation(jax.random.fold_in(key, epoch), count)
            return rows[: steps * config.batch_size].reshape(steps, config.batch_size)

        def one(key):
            weights, ordered = (jax.random.fold_in(key, use) for use in (WEIGHTS, ORDER))
            params = jax.lax.map(lambda i: draw(weights, i), jnp.arange(len(self.drawn)))
            rows = jax.vmap(lambda epoch: order(ordered, epoch))(jnp.arange(config.epochs))
            return params, rows.reshape(-1, config.batch_size)

        return sweep.over_seeds(one, self.host.layout)

    @functools.cached_property
    def begun(self):
        return self.begin(self.keys)

    def compile(self, pool, work: dict):
        """All programs, in the order in which they run."""
        with jax.enable_x64(True):
            images = jax.ShapeDtypeStruct(self.images.shape, jnp.float64)
            self.moments.compile(self.keys, jnp.int32(0), images, pool=pool)
        begun = self.begin.compile(self.keys, pool=pool)
        for (optimizer, depth), chunks in work.items():
            own = stacked(chunks[0])
            self.trainer(optimizer, depth).compile(*begun, own, self.train_set, pool=pool)

    @functools.cache  # noqa: B019 - there is one study in a process's run
    def trainer(self, optimizer: str, depth: int):
        """The program of one depth: one seed's runs on the same batches, one after another."""

        def one(starts, batches, conditions, data):
            def learn(own: Condition):
                start = jax.tree.map(lambda a: a[own.kernel], starts)
                start = network.adapted(start, depth, own.bias, own.factor)
                return train(optimizers.make(optimizer, own.rate), start, batches, data)

            found = jax.lax.map(learn, conditions)
            shape = len(found["loss"]), self.config.epochs, -1
            return found | {"loss": found["loss"].reshape(shape).mean(2)}

        return sweep.over_seeds(one, self.host.layout, shared=2)

    def train(self, optimizer: str, depth: int, chunks) -> list[dict]:
        """Trains chunks of conditions: one row each, values [S, C, ...]."""

        def advance(unit, state):
            own = stacked(chunks[unit])
            return state, self.trainer(optimizer, depth)(*self.begun, own, self.train_set)

        return run_stage(
            self.host, f"{optimizer}_{depth}", len(chunks), lambda: jnp.zeros(()), advance, headline
        )


def stacked(conditions: list[Condition]) -> Condition:
    """Their numbers as arrays."""
    index, *rest = (np.array(values) for values in zip(*conditions, strict=True))
    return Condition(index.astype(np.int32), *(values.astype(np.float32) for values in rest))


def train(optimizer, params: network.Params, batches, data) -> dict:
    """Trains on the batches, rows of `data` int[T, B], as long as the loss is not lost.

    Returns:
      `loss` float[T], of each batch before its step (nan from when it is lost); `train_loss` and
      `train_error` of the whole set at the end; `diverged_at`, the first step with a loss not
      finite or above `DIVERGED` times the first, -1 if there is none; `moved`, the largest change
      of any weight of the square layers.
    """
    x, labels = data
    count = len(batches)

    def loss(params, batch):
        return losses.cross_entropy(network.logits(params, batch[0]), batch[1])

    def step(run):
        t, params, state, values, _ = run
        rows = batches[t]
        value, gradient = jax.value_and_grad(loss)(params, (x[rows], labels[rows]))
        updates, state = optimizer.update(gradient, state, params)
        values = values.at[t].set(value)
        return t + 1, optax.apply_updates(params, updates), state, values, (
            ~(value <= DIVERGED * values[0])
        )  # fmt: skip

    # A loop that ends: on a CPU, where runs take turns, what is lost costs nothing more.
    done, after, _, values, lost = jax.lax.while_loop(
        lambda run: (run[0] < count) & ~run[-1],
        step,
        (0, params, optimizer.init(params), jnp.full(count, jnp.nan), jnp.bool(False)),
    )
    logits = network.logits(after, x)
    change = jnp.abs(after.square.kernel - params.square.kernel)
    return {
        "loss": values,
        "train_loss": losses.cross_entropy(logits, labels),
        "train_error": losses.error_rate(logits, labels),
        "diverged_at": jnp.where(lost, done - 1, -1).astype(jnp.int32),
        "moved": change.max(),
    }


def headline(row) -> dict[str, float]:
    """The median over seeds and runs, and the share that was lost."""
    loss = row["train_loss"]
    return {
        "training loss": float(np.nanmedian(loss)) if np.isfinite(loss).any() else np.nan,
        "diverged": float((row["diverged_at"] >= 0).mean()),
    }
