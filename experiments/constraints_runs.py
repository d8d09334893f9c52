"""Trains the arms of `constraints`: settings and arrays in, record out."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlstudy import losses, models, projections, sweep
from dlstudy.data import Data
from dlstudy.host import Host
from dlstudy.stages import run_stage
from experiments import constraints_record as records

DEAD_BELOW = 1e-3  # a unit with |w_in| |w_out| below this has no weight left


class Condition(NamedTuple):
    """What is done in one run besides descent; scalars, or arrays with one entry a run."""

    rate: jax.Array
    penalty: jax.Array  # lambda of (lambda / 2) |w|^2
    column: jax.Array  # largest norm of a column; infinite for none
    row: jax.Array  # the same sum of squares, by rows
    frobenius: jax.Array  # the same sum of squares, of all a kernel together


class State(NamedTuple):
    """All runs of one seed, [C, ...]."""

    params: object
    start_loss: jax.Array  # float32[C], of the training set before training


def condition(rate, penalty=0.0, column=np.inf, row=np.inf, frobenius=np.inf) -> Condition:
    return Condition(*map(float, (rate, penalty, column, row, frobenius)))


def stack(conditions) -> Condition:
    return Condition(*(np.array(values, np.float32) for values in zip(*conditions, strict=True)))


def arms(config) -> dict[str, Condition]:
    """The arms that train at every rate (left at 1 here), by name."""
    found = {"none": condition(1)}
    found |= {f"column_{c:g}": condition(1, column=c) for c in config.radii}
    found |= {f"penalty_{p:g}": condition(1, penalty=p) for p in config.penalties}
    middle = config.middle_radius
    found[f"row_{middle:g}"] = condition(1, row=middle)
    found[f"frobenius_{middle:g}"] = condition(1, frobenius=middle)
    return found


def run(config, data: Data, host: Host):
    """Runs all stages and returns the record, an `xarray.Dataset`; see `constraints_record`."""
    seeds = list(host.seeds(config.num_seeds))
    study = Study(config, data, host, seeds)
    named = arms(config)
    others = [name for name in named if name.startswith(("row_", "frobenius_"))]

    def at_rates(names):
        return stack(
            named[name]._replace(rate=config.rate * multiplier)
            for name in names for multiplier in config.multipliers
        )  # fmt: skip

    rate = config.path_rate
    on_paths = stack([
        condition(rate), *(condition(rate, penalty=p) for p in config.path_penalties),
        condition(rate), *(condition(rate, column=c) for c in config.path_radii),
    ])  # fmt: skip
    lifted = on_paths._replace(
        penalty=np.zeros_like(on_paths.penalty), column=np.full_like(on_paths.column, np.inf)
    )
    most = study.run_stage(
        "rates", config.epochs, [at_rates(name for name in named if name not in others)]
    )
    rest = study.run_stage("other_balls", config.epochs, [at_rates(others)])
    paths = study.run_stage("paths", config.path_epochs, [on_paths, lifted])
    rates = {name: np.concatenate([most[0][name], rest[0][name]], 1) for name in most[0]}
    return records.assemble(config, seeds, named, rates, *paths)


class Study:
    """The data, and the stages: loops of the host over blocks of epochs."""

    def __init__(self, config, data: Data, host: Host, seeds):
        self.config, self.host = config, host
        self.keys = sweep.seed_keys(config.seed, seeds)
        flat = lambda split: (split.x.reshape(len(split.y), -1), split.y)  # noqa: E731
        self.splits = jax.device_put(
            {name: flat(getattr(data, name)) for name in ("train", "tune", "test")}
        )
        self.classes = data.classes

    def programs(self, name: str) -> "Programs":
        """The functions of a stage."""
        widths = self.config.path_widths if name == "paths" else self.config.widths
        return Programs(
            models.MLP(widths, self.classes), self.splits, self.config.batch_size,
            other_balls if name == "other_balls" else columns,
        )  # fmt: skip

    def run_stage(self, name: str, epochs: int, phases: list[Condition]) -> list[dict]:
        """Trains for so many epochs in each phase: one record of rows, values [S, C, ...], each."""
        config, layout = self.config, self.host.layout
        stage, units = self.programs(name), config.units(epochs)
        begin = sweep.over_seeds(stage.begin, layout, shared=1)
        compiled = {}

        def advance(unit, state):
            phase, block = divmod(unit, units)
            count = min(config.block, epochs - block * config.block)
            if count not in compiled:
                compiled[count] = sweep.over_seeds(
                    lambda *a: stage.epochs(count, *a), layout, shared=3, donate=(0,)
                )
            first = jnp.int32(phase * epochs + block * config.block)
            state, row = compiled[count](state, self.keys, first, phases[phase], self.splits)
            row = jax.device_get(row)
            steps = row["loss"].shape[2] // count * config.block
            for long in records.BY_STEP:  # rows have one shape
                room = [(0, 0), (0, 0), (0, steps - row[long].shape[2])]
                row[long] = np.pad(row[long], room, constant_values=np.nan)
            return state, row

        rows = run_stage(
            self.host, name, len(phases) * units, lambda: begin(self.keys, phases[0]), advance,
            headline,
        )  # fmt: skip
        count = epochs * (len(self.splits["train"][1]) // config.batch_size)
        return [
            records.joined(rows[phase * units : (phase + 1) * units], count)
            for phase in range(len(phases))
        ]


def columns(own: Condition):
    """Projection of the columns after the update."""
    return projections.after_update(own.column, projections.COLUMN)


def other_balls(own: Condition):
    """The same by rows and as a whole, with the sum of squares that the columns may have."""
    by_row = lambda shape: own.row * np.float32((shape[1] / shape[0]) ** 0.5)  # noqa: E731
    whole = lambda shape: own.frobenius * np.float32(shape[1] ** 0.5)  # noqa: E731
    return optax.chain(
        projections.after_update(by_row, projections.ROW),
        projections.after_update(whole, projections.FROBENIUS),
    )


def descent(own: Condition):
    """Descent on loss plus penalty; biases are left out of the penalty.

    The penalty enters as its gradient, lambda w, so that the loss can be reported without it.
    """
    kernels = lambda params: jax.tree.map(lambda a: a.ndim > 1, params)  # noqa: E731
    return optax.chain(
        optax.add_decayed_weights(own.penalty, kernels), optax.scale_by_learning_rate(own.rate)
    )


class Programs(NamedTuple):
    """Functions of one run, and of one seed with all its runs side by side."""

    model: models.MLP
    splits: dict  # name: (images [N, D], labels)
    batch_size: int
    bounds: Callable  # Condition -> projection

    def loss(self, params, batch):
        return losses.cross_entropy(self.model.apply({"params": params}, batch[0])[0], batch[1])

    def start(self, key, own: Condition) -> State:
        """A network inside the bounds, the same in every run of a seed but for these."""
        train, bounds = self.splits["train"], self.bounds(own)
        params = models.initialise(self.model, jax.random.fold_in(key, 0), train[0][0])
        still = jax.tree.map(jnp.zeros_like, params)
        params = optax.apply_updates(params, bounds.update(still, bounds.init(params), params)[0])
        return State(params, self.loss(params, train))

    def step(self, params, own: Condition, batch):
        """(parameters, (loss before, largest column norm after, and before projecting))."""
        loss, gradient = jax.value_and_grad(self.loss)(params, batch)
        down, bounds = descent(own), self.bounds(own)
        updates, _ = down.update(gradient, down.init(params), params)
        free = optax.apply_updates(params, updates)
        updates, _ = bounds.update(updates, bounds.init(params), params)
        params = optax.apply_updates(params, updates)
        return params, (loss, largest_column(params), largest_column(free))

    def examine(self, params, splits):
        """Losses and errors of all splits, and which units are dead or inactive, bool[U]."""
        row = {}
        for name, split in splits.items():
            logits, taps = self.model.apply({"params": params}, split[0])
            row[f"{name}_loss"] = losses.cross_entropy(logits, split[1])
            row[f"{name}_error"] = losses.error_rate(logits, split[1])
            if name == "train":
                row["inactive"] = inactive(taps)
        return row | {"dead": products(params) < DEAD_BELOW}

    def begin(self, key, conditions) -> State:
        return jax.vmap(lambda own: self.start(key, own))(conditions)

    def epochs(self, count: int, state: State, key, first, conditions, splits):
        """`count` epochs from epoch number `first`: (state, row), values [C, ...].

        All runs of a seed see the same batches, so these are drawn once.
        """
        train, batch = splits["train"], self.batch_size
        steps = len(train[1]) // batch

        def epoch(params, number):
            order = jax.random.permutation(
                jax.random.fold_in(jax.random.fold_in(key, 1), number), len(train[1])
            )
            return jax.lax.scan(
                lambda p, rows: jax.vmap(self.step, (0, 0, None))(
                    p, conditions, jax.tree.map(lambda a: a[rows], train)
                ),
                params, order[: steps * batch].reshape(steps, batch),
            )  # fmt: skip

        params, measured = jax.lax.scan(epoch, state.params, first + jnp.arange(count))
        row = {
            name: values.reshape(count * steps, -1).T
            for name, values in zip(records.BY_STEP, measured, strict=True)
        }
        row |= jax.vmap(self.examine, (0, None))(params, splits)
        return State(params, state.start_loss), row | {"start_loss": state.start_loss}


def kernels_of(params) -> list[jax.Array]:
    """Kernels [inputs, outputs] from the first hidden layer to the head."""
    return [params[f"hidden_{i}"]["kernel"] for i in range(len(params) - 1)] + [
        params["head"]["kernel"]
    ]


def largest_column(params) -> jax.Array:
    """Largest norm of any unit's incoming weights."""
    return jnp.stack([projections.norms(k).max() for k in kernels_of(params)]).max()


def products(params) -> jax.Array:
    """|w_in| |w_out| of every hidden unit, [U], layers from below."""
    kernels = kernels_of(params)
    return jnp.concatenate([
        projections.norms(into, projections.COLUMN)[0]
        * projections.norms(out, projections.ROW)[:, 0]
        for into, out in itertools.pairwise(kernels)
    ])  # fmt: skip


def inactive(taps) -> jax.Array:
    """Whether each hidden unit is off at every input, bool[U], layers from below."""
    return jnp.concatenate([~(taps[f"pre_{i}"] > 0).any(0) for i in range(len(taps))])


def headline(row) -> dict[str, float]:
    """Medians over seeds and runs, after the block."""
    loss = row["train_loss"]
    return {
        "training loss": float(np.nanmedian(loss)) if np.isfinite(loss).any() else np.nan,
        "units without weight": float(np.mean(row["dead"])),
    }
