"""Trains the networks of `dropout_batchnorm`: settings and arrays in, record out."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlstudy import losses, models, normalization, optimizers, sweep, training
from dlstudy.data import Data
from dlstudy.host import Host
from dlstudy.normalization import Statistics
from dlstudy.stages import run_stage
from experiments import dropout_batchnorm_record as records

ORDER_OF = {"after": "bn_relu_dropout", "before": "relu_dropout_bn"}
NETWORKS = ("after", "before", "none")  # dropout after, before and without batch normalisation


# Axes of the states of runs side by side: the step count is one number for all.
RUNS = training.NoisyState(0, 0, 0, None)


class Conditions(NamedTuple):
    """Rates of learning and of dropping of runs that train side by side, [C] each."""

    rate: jax.Array
    drop: jax.Array


def run(config, data: Data, host: Host):
    """Runs all stages and returns the record; see `dropout_batchnorm_record`."""
    study = Study(config, data, host)
    with sweep.compiler() as pool:  # later networks are compiled while earlier ones train
        programs = {name: study.compiled(name, pool) for name in NETWORKS}
        start = study.run_start()
        trained = {name: study.run_network(name, *programs[name]) for name in NETWORKS}
    return records.assemble(config, study.seeds, start, trained)


def variance_ratio(mean, variance, keep):
    """Variance of a value without dropout over that with it, kept values divided by `keep`.

    The dropped value has second moment (mean^2 + variance) / keep and the same mean.
    """
    return variance / ((mean**2 + variance) / keep - mean**2)


def network(name: str, widths, classes: int) -> models.MLP:
    """By name, one of `NETWORKS`; biases start at 0."""
    if name == "none":
        return models.MLP(widths, classes, zero_bias=True)
    return models.MLP(widths, classes, zero_bias=True, batch_norm=True, order=ORDER_OF[name])


def make_trainer(model, example, rate, drop, config):
    """A trainer of one run by momentum; `rate` and `drop` may be traced.

    Args:
      model: with batch normalisation or without.
      example: an input [D].
      rate: of learning.
      drop: probability that a hidden unit is dropped; None: no dropout.
      config: has `momentum`, `average` (of the running statistics) and `batch_size`.
    """

    def init(key):
        return models.initialise(model, jax.random.fold_in(key, 0), example)

    def loss(params, running, batch, key):
        dropout = None if drop is None else models.Dropout(key, drop)
        logits, taps = model.apply({"params": params}, batch[0], dropout=dropout)
        if model.batch_norm:
            running = normalization.moved(running, taps["statistics"], config.average)
        return losses.cross_entropy(logits, batch[1]), running

    statistics = ()
    if model.batch_norm:
        statistics = {
            f"bn_{i}": normalization.initial(Statistics(*2 * [jnp.zeros(width)]))
            for i, width in enumerate(model.widths)
        }
    return training.make_noisy_trainer(
        init, loss, optimizers.make("momentum", rate, momentum=config.momentum), config.batch_size,
        statistics=statistics,
    )  # fmt: skip


def normalised(model, params, x, taps) -> list[jax.Array]:
    """What each batch normalisation got in a pass without dropout, [B, width] a layer."""
    after_relu = [jax.nn.relu(taps[f"pre_{i}"]) for i in range(len(model.widths))]
    if model.order == ORDER_OF["before"]:
        return after_relu
    inputs = [x, *after_relu]
    return [inputs[i] @ params[f"hidden_{i}"]["kernel"] for i in range(len(model.widths))]


def means(values) -> jax.Array:
    """Mean of each layer's units, [L]."""
    return jnp.stack([v.mean() for v in values])


class Study:
    """The data on the device, and the programs over seeds."""

    def __init__(self, config, data: Data, host: Host):
        self.config, self.host, self.classes = config, host, data.classes
        self.seeds = list(host.seeds(config.num_seeds))
        self.keys = sweep.seed_keys(config.seed, self.seeds)
        flat = lambda split: (split.x.reshape(len(split.y), -1), split.y)  # noqa: E731
        self.splits = jax.device_put(
            {name: flat(getattr(data, name)) for name in ("train", "tune", "test")}
        )

    # -- untrained networks of normal inputs, where the ratio is known

    def run_start(self) -> dict:
        program = sweep.over_seeds(self.start, self.host.layout)
        (row,) = run_stage(
            self.host, "start", 1, lambda: (), lambda unit, state: (state, program(self.keys)),
            lambda row: {"variance ratio": float(np.median(row["met"][:, -1, 0]))},
        )  # fmt: skip
        return row

    def start(self, key):
        """Variance ratios of one seed's network before training, [P, L]; see the record.

        Its inputs are normal, and with batch normalisation behind it every layer's are nearly so:
        each unit's value before dropout is a rectified normal one.
        """
        config, keys = self.config, jax.random.split(jax.random.fold_in(key, 4), 3)
        model = network("before", (config.start_width,) * config.start_depth, self.classes)
        x = jax.random.normal(keys[0], (config.start_inputs, config.start_width))
        params = models.initialise(model, keys[1], x[0])
        layers = [f"bn_{i}" for i in range(config.start_depth)]

        def inputs(statistics):
            taps = model.apply({"params": params}, x, statistics=statistics)[1]
            return taps["statistics"], normalised(model, params, x, taps)

        own, _ = inputs(None)

        def ratios(drop):
            dropout = models.Dropout(keys[2], drop)
            taps = model.apply({"params": params}, x, dropout=dropout)[1]
            trained = taps["statistics"]
            _, met = inputs(trained)
            # The last variance is what the layer would have if those below were set right.
            return {
                "met": means([v.var(0) / trained[n].variance
                              for v, n in zip(met, layers, strict=True)]),
                "alone": means([own[n].variance / trained[n].variance for n in layers]),
                "predicted": means([variance_ratio(*own[n], 1 - drop) for n in layers]),
                "mistaken": means([variance_ratio(*own[n], drop) for n in layers]),
            }  # fmt: skip

        return jax.lax.map(ratios, jnp.float32([p for p in config.drops if p > 0]))

    # -- training

    def conditions(self) -> Conditions:
        """All rates of dropping, and for each all learning rates."""
        rate, drop = np.meshgrid(np.float32(self.config.rates), np.float32(self.config.drops))
        return Conditions(rate.ravel(), drop.ravel())

    def trainer(self, name, rate, drop):
        return make_trainer(
            network(name, self.config.widths, self.classes), self.splits["train"][0][0], rate, drop,
            self.config,
        )  # fmt: skip

    def start_of(self, name: str, key):
        """The first states of all runs, with the same weights; their step count is one number."""
        conditions = self.conditions()
        return jax.vmap(
            lambda own: self.trainer(name, *own).init(key), out_axes=RUNS,
            axis_size=len(conditions.rate),
        )(conditions)  # fmt: skip

    def epochs(self, name: str, count: int, state, key, own, splits):
        """`count` epochs of all runs, on the same batches with the same draws: (state, row)."""

        def epoch(state, own):
            trainer = self.trainer(name, *own)
            return trainer.epoch(state, jax.random.fold_in(key, 1), splits["train"])

        every = jax.vmap(epoch, (RUNS, 0), (RUNS, 0))
        state, loss = jax.lax.scan(lambda s, _: every(s, own), state, length=count)
        row = jax.vmap(lambda s, c: self.measure(name, s, key, c.drop, splits), (RUNS, 0))(
            state, own
        )
        return state, row | {"loss": jnp.moveaxis(loss, 0, 1).reshape(len(own.rate), -1)}

    def compiled(self, name: str, pool):
        """(program of the first states, programs of blocks by their number of epochs)."""
        config, layout = self.config, self.host.layout
        begin = sweep.over_seeds(lambda key: self.start_of(name, key), layout)
        state = begin.compile(self.keys, pool=pool)
        blocks = {}
        for unit in range(config.blocks):
            count = records.epochs_of(config, unit)
            if count not in blocks:
                blocks[count] = sweep.over_seeds(
                    functools.partial(self.epochs, name, count), layout, shared=2, donate=(0,)
                )
                blocks[count].compile(state, self.keys, self.conditions(), self.splits, pool=pool)
        return begin, blocks

    def run_network(self, name: str, begin, blocks) -> list[dict]:
        """Rows of blocks of epochs, values [S, C, ...]."""
        config = self.config

        def advance(unit, state):
            program = blocks[records.epochs_of(config, unit)]
            state, row = program(state, self.keys, self.conditions(), self.splits)
            row = jax.device_get(row)
            missing = config.block * records.steps_of(config) - row["loss"].shape[2]
            pad = [(0, 0), (0, 0), (0, missing)]
            return state, row | {"loss": np.pad(row["loss"], pad, constant_values=np.nan)}

        return run_stage(
            self.host, name, config.blocks, lambda: begin(self.keys), advance, headline
        )

    def measure(self, name: str, state, key, drop, splits) -> dict:
        """Of one run: losses and errors without dropout, and what its statistics are worth."""
        model = network(name, self.config.widths, self.classes)
        x, labels = splits["train"]
        apply = lambda x, **more: model.apply({"params": state.params}, x, **more)  # noqa: E731
        row = {}

        def score(mode, statistics, names):
            """One pass over several splits; returns what it got in the last, test images."""
            parts = [splits[split] for split in names]
            logits, taps = apply(jnp.concatenate([x for x, _ in parts]), statistics=statistics)
            ends = np.cumsum([len(y) for _, y in parts])[:-1].tolist()
            for split, own, (_, y) in zip(names, jnp.split(logits, ends), parts, strict=True):
                row[f"{split}_error_{mode}"] = losses.error_rate(own, y)
                row[f"{split}_loss_{mode}"] = losses.cross_entropy(own, y)
            return {f"pre_{i}": taps[f"pre_{i}"][ends[-1] :] for i in range(len(model.widths))}

        if name == "none":
            score("running", None, ("train", "tune", "test"))
            return row
        met = score("running", state.statistics, ("train", "tune", "test"))
        score("recalibrated", apply(x)[1]["statistics"], ("tune", "test"))
        found = normalised(model, state.params, splits["test"][0], met)
        dropout = models.Dropout(jax.random.fold_in(key, 2), drop)
        training_taps = apply(x, dropout=dropout)[1]
        used = training_taps["statistics"]
        layers = range(len(model.widths))
        row["ratio"] = jnp.stack([
            found[i].var(0).sum() / used[f"bn_{i}"].variance.sum() for i in layers
        ])  # fmt: skip
        row["zeros"] = jnp.stack([zeros(model, training_taps, i, drop) for i in layers])
        batch = self.config.batch_size
        count = len(labels) // batch

        def variances(number):
            rows = jax.lax.dynamic_slice_in_dim(x, number * batch, batch)
            own = models.Dropout(jax.random.fold_in(dropout.key, number), drop)
            taps = apply(rows, dropout=own)[1]["statistics"]
            return [taps[f"bn_{i}"].variance for i in layers]

        spread = jax.vmap(variances)(jnp.arange(count))
        row["spread"] = jnp.stack([
            jnp.sqrt(v.var(0).sum() / jnp.square(v.mean(0)).sum()) for v in spread
        ])  # fmt: skip
        return row


def zeros(model, taps, layer: int, drop):
    """Share of zeros in what the layer's batch normalisation gets while training."""
    if model.order == ORDER_OF["after"]:  # an affine map of what comes before
        return jnp.zeros(())
    return 1 - (1 - drop) * (taps[f"pre_{layer}"] > 0).mean(dtype=jnp.float32)


def headline(row) -> dict[str, float]:
    """Medians over seeds and runs, after the block."""
    error = row["test_error_running"]
    return {"best test error": float(np.median(error.min(1)))}
