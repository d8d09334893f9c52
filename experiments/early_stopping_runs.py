"""Trains the arms of `early_stopping`: settings and arrays in, record out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from dlstudy import early_stopping, losses, models, optimizers, sweep, training
from dlstudy.data import Data
from dlstudy.host import Host
from dlstudy.stages import run_stage
from experiments import early_stopping_record as records

# Streams of a seed's key.
INIT, DRAW, FRESH = range(3)


class Labelled(NamedTuple):
    """Images and their labels."""

    x: jax.Array  # float32[N, D]
    y: jax.Array  # int32[N]


class Draw(NamedTuple):
    """What one seed draws beside its weights: places among all images, labels, orders."""

    mine: jax.Array  # int32[train_size], the training set, those to validate on last
    others: jax.Array  # int32[T], the test images
    whole_y: jax.Array  # int32[train_size], labels partly wrong
    tune_y: jax.Array  # int32[180], likewise
    noisy_y: jax.Array  # int32[T], likewise
    sub_order: jax.Array  # int32[passes, N], of the sub-training set in 7.1
    fresh_order: jax.Array  # int32[passes, train_size], of the training set in 7.2
    further_order: jax.Array  # int32[passes, train_size], of the training set in 7.3


class Task(NamedTuple):
    """What one seed learns. Labels are partly wrong, but for those of `test` and `peek`."""

    sub: Labelled  # the sub-training set
    valid: Labelled
    whole: Labelled  # both together, the training set
    tune: Labelled
    test: Labelled
    noisy: Labelled  # the test images with labels as wrong as in training
    peek: Labelled  # as many of the test images as are in `valid`
    fresh: Labelled  # the other test images


def run(config, data: Data, host: Host):
    """Runs all stages and returns the record, an `xarray.Dataset` (see `records`)."""
    seeds = list(host.seeds(config.num_seeds))
    study = Study(config, data, host, seeds)
    curves = study.run_grid()
    chosen = records.choose(config, curves)
    stop = study.run_stop(chosen["stopped"].rate)
    retrained = study.run_retrain(chosen["stopped"].rate, stop)
    continued = study.run_continue(chosen["stopped"].rate, stop)
    return records.assemble(config, seeds, curves, chosen, stop, retrained, continued)


def batches(order, first, count: int, size: int):
    """Which examples each of `count` steps takes, int32[count, size], from step `first` on.

    Args:
      order: int32[passes, N], the examples in the order of each pass.
      first: int32[].
      count: steps.
      size: examples of a step; the last partial batch of a pass is dropped.
    """
    per_pass = order.shape[1] // size
    step = first + jnp.arange(count)
    columns = (step % per_pass)[:, None] * size + jnp.arange(size)[None]
    return order[(step // per_pass)[:, None], columns]


class Study:
    """The data, and the programs over seeds."""

    def __init__(self, config, data: Data, host: Host, seeds):
        self.config, self.host, self.classes = config, host, data.classes
        self.keys = sweep.seed_keys(config.seed, seeds)
        self.model = models.MLP(config.widths, data.classes)
        train, tune, test = (
            Labelled(split.x.reshape(len(split.y), -1), split.y)
            for split in (data.train, data.tune, data.test)
        )
        self.in_training = len(train.y)
        images = Labelled(*(np.concatenate(both) for both in zip(train, test, strict=True)))
        pool = jax.device_put((images, tune))
        self.example = pool[0].x[0]
        draws = sweep.over_seeds(self.draw, host.layout, shared=1)(self.keys, pool)
        self.places = jnp.arange(len(seeds))
        self.shared = pool, draws
        start = self.init_params(jax.random.key(0))
        self.unravel = ravel_pytree(start)[1]

    # -- functions of one seed

    def init_params(self, key):
        return models.initialise(self.model, key, self.example)

    def wrong(self, key, y):
        """Labels with the configured share of them moved to another class, uniformly."""
        which, shift = jax.random.split(key)
        chosen = jax.random.permutation(which, len(y)) < round(self.config.label_noise * len(y))
        moved = (y + jax.random.randint(shift, y.shape, 1, self.classes)) % self.classes
        return jnp.where(chosen, moved, y)

    def draw(self, key, pool) -> Draw:
        """A program of its own: sorting, which permutations need, takes long to compile."""
        config, (images, tune) = self.config, pool
        cut, mix, *more = jax.random.split(jax.random.fold_in(key, DRAW), 8)
        places = jax.random.permutation(cut, self.in_training)
        mine = places[: config.train_size]
        others = jnp.append(
            places[config.train_size :], jnp.arange(self.in_training, len(images.y))
        )
        others = jax.random.permutation(mix, others)
        every, batch = config.every, config.batch_size
        few, many = config.sub_size, config.train_size
        longest = early_stopping.same_epochs(config.cap * every, few, many, batch)

        def order(key, steps, examples):
            keys = jax.random.split(key, -(-steps // (examples // batch)))
            return jax.lax.map(lambda k: jax.random.permutation(k, examples), keys)

        return Draw(
            mine, others,
            self.wrong(more[0], images.y[mine]),
            self.wrong(more[1], tune.y),
            self.wrong(more[2], images.y[others]),
            order(more[3], config.cap * every, few),
            order(more[4], longest, many),
            order(more[5], config.continue_cap * every, many),
        )  # fmt: skip

    def task(self, draw: Draw, pool) -> Task:
        images, tune = pool
        left, seen = self.config.sub_size, self.config.validation_size
        whole = Labelled(images.x[draw.mine], draw.whole_y)
        test = Labelled(images.x[draw.others], images.y[draw.others])
        return Task(
            sub=Labelled(whole.x[:left], whole.y[:left]),
            valid=Labelled(whole.x[left:], whole.y[left:]),
            whole=whole,
            tune=Labelled(tune.x, draw.tune_y),
            test=test,
            noisy=Labelled(test.x, draw.noisy_y),
            peek=Labelled(test.x[:seen], test.y[:seen]),
            fresh=Labelled(test.x[seen:], test.y[seen:]),
        )

    def own(self, i, shared) -> tuple[Draw, Task]:
        """Draw and task of the seed at place `i`; `shared`: all images, and the draws of all."""
        pool, draws = shared
        draw = jax.tree.map(lambda a: a[i], draws)
        return draw, self.task(draw, pool)

    def objective(self, params, data: Labelled):
        return losses.cross_entropy(self.model.apply({"params": params}, data.x)[0], data.y)

    def evaluate(self, params, task: Task, train: Labelled) -> dict:
        """Every loss, error and norm of one network (`records.MEASURED`), float32 []."""
        logits = lambda x: self.model.apply({"params": params}, x)[0]  # noqa: E731
        of_test = logits(task.test.x)
        seen = len(task.peek.y)
        row = {"norm": optax.tree.norm(params)}
        for name, z, y in (
            ("train", logits(train.x), train.y),
            ("valid", logits(task.valid.x), task.valid.y),
            ("tune", logits(task.tune.x), task.tune.y),
            ("test", of_test, task.test.y),
            ("noisy_test", of_test, task.noisy.y),
            ("peek", of_test[:seen], task.peek.y),
            ("fresh", of_test[seen:], task.fresh.y),
        ):
            row[f"{name}_loss"] = losses.cross_entropy(z, y)
            row[f"{name}_error"] = losses.error_rate(z, y)
        return {name: row[name] for name in records.MEASURED}

    def trainer(self, rate, decay=None) -> training.Trainer:
        """`init` takes parameters; `decay` penalises weights, not biases."""

        def loss(params, batch):
            value = self.objective(params, batch)
            if decay is None:
                return value
            squares = sum(jnp.square(layer["kernel"]).sum() for layer in params.values())
            return value + decay / 2 * squares

        return training.make_trainer(
            lambda params: params, loss, optimizers.make(self.config.optimizer, rate),
            self.config.batch_size, instruments=training.Instruments(0, 0, 0),
            chunk=self.config.batch_size,
        )  # fmt: skip

    def advance(self, trainer, state, order, data: Labelled, count: int):
        """`count` more steps on `data`, in passes of the given orders."""
        rows = batches(order, state.step, count, self.config.batch_size)

        def step(state, rows):
            return trainer.step(state, Labelled(data.x[rows], data.y[rows]))[0], None

        return jax.lax.scan(step, state, rows)[0]

    def start(self, key, rate):
        return self.trainer(rate).init(self.init_params(jax.random.fold_in(key, INIT)))

    def begin(self, state, i, shared):
        """The measurements before training, [1] each."""
        _, task = self.own(i, shared)
        row = self.evaluate(state.params, task, task.sub)
        return jax.tree.map(lambda a: a[None], row)

    def grid(self, count: int, state, i, rate, decay, shared):
        """Training on the sub-training set over `count` evaluations: (state, rows [count])."""
        (draw, task), trainer = self.own(i, shared), self.trainer(rate, decay)

        def turn(state, _):
            state = self.advance(trainer, state, draw.sub_order, task.sub, self.config.every)
            return state, self.evaluate(state.params, task, task.sub)

        return jax.lax.scan(turn, state, None, length=count)

    def stop(self, i, key, rate, shared) -> dict:
        """Algorithm 7.1 for every patience, and the same with test images to validate on."""
        config, trainer = self.config, self.trainer(rate)
        draw, task = self.own(i, shared)

        def validate(state):
            row = self.evaluate(state.params, task, task.sub)
            return row[f"valid_{config.criterion}"], row

        patience = jnp.asarray(config.waits, jnp.int32)
        watched = early_stopping.stop_early(
            lambda state: self.advance(trainer, state, draw.sub_order, task.sub, config.every),
            validate, self.start(key, rate), steps=config.every, patience=patience,
            cap=config.cap, keep=lambda state: state.params, has_aux=True, whole=True,
        )  # fmt: skip
        stopped = watched.stopped
        measured = jax.lax.map(lambda p: self.evaluate(p, task, task.sub), stopped.best)
        peeked = early_stopping.replay(
            watched.aux[f"peek_{config.criterion}"], config.every, patience
        )
        flat = jax.vmap(lambda params: ravel_pytree(params)[0])
        return {
            "best_step": stopped.best_step, "evaluations": stopped.evaluations,
            "by_patience": stopped.done, "watched": watched.errors,
            "best": flat(stopped.best), "last": flat(stopped.last),
            "peeked_step": peeked.best_step,
            **{f"curve_{name}": rows for name, rows in watched.aux.items()},
            **measured,
        }  # fmt: skip

    def retrain(self, i, key, rate, steps, shared) -> dict:
        """The second half of algorithm 7.2, measured."""
        (draw, task), trainer = self.own(i, shared), self.trainer(rate)
        state = trainer.init(self.init_params(jax.random.fold_in(key, FRESH)))
        state = early_stopping.retrain(
            lambda state: self.advance(trainer, state, draw.fresh_order, task.whole, 1),
            state, steps,
        )  # fmt: skip
        return self.evaluate(state.params, task, task.whole)

    def go_on(self, i, key, rate, flat, shared) -> dict:
        """The second half of algorithm 7.3, from parameters [P], measured; nothing is drawn."""
        del key
        config, trainer = self.config, self.trainer(rate)
        draw, task = self.own(i, shared)
        order = draw.further_order
        state = trainer.init(self.unravel(flat))
        threshold = self.objective(state.params, task.sub)
        found = early_stopping.continue_until(
            lambda state: self.advance(trainer, state, order, task.whole, config.every),
            lambda state: self.objective(state.params, task.valid), state, threshold,
            steps=config.every, cap=config.continue_cap,
        )  # fmt: skip
        return {
            "threshold": threshold, "objectives": found.objectives, "further_steps": found.steps,
            "reached": found.reached, "capped": found.capped,
            **self.evaluate(found.state.params, task, task.whole),
        }  # fmt: skip

    # -- stages: loops of the host

    def over_seeds(self, function, donate=()):
        return sweep.over_seeds(function, self.host.layout, shared=1, donate=donate)

    def run_grid(self) -> dict[str, np.ndarray]:
        """Curves [rates, penalties, S, cap + 1] of every measurement, before training too."""
        config = self.config
        shape = len(config.rates), len(config.penalties), len(self.keys)
        grids = np.meshgrid(config.rates, config.penalties, self.places, indexing="ij")
        rate, decay = (jnp.asarray(a.ravel(), jnp.float32) for a in grids[:2])
        places = grids[2].ravel()
        keys = self.keys[places]
        start = sweep.over_seeds(self.start, self.host.layout)
        begin, programs = self.over_seeds(self.begin), {}

        def advance(unit, state):
            count = records.evaluations_of(config, unit)
            if unit == 0:
                row = begin(state, places, self.shared)
            else:
                if count not in programs:
                    programs[count] = self.over_seeds(lambda *given: self.grid(count, *given), (0,))
                state, row = programs[count](state, places, rate, decay, self.shared)
            # All rows of a stage have one shape.
            widths = ((0, 0), (0, config.block - count))
            return state, {
                name: np.pad(np.asarray(values), widths, constant_values=np.nan)
                for name, values in row.items()
            }

        rows = run_stage(
            self.host, "grid", config.blocks, lambda: start(keys, rate), advance,
            lambda row: headline(row, "test_error", "tune_error"),
        )  # fmt: skip
        return {
            name: np.concatenate(
                [row[name][:, : records.evaluations_of(config, i)] for i, row in enumerate(rows)],
                1,
            ).reshape(*shape, -1)
            for name in rows[0]
        }

    def once(self, name: str, program, arguments, *shown) -> dict[str, np.ndarray]:
        """A stage of a single program over seeds and conditions."""

        def advance(unit, state):
            return state, program(*arguments, self.shared)

        (row,) = run_stage(
            self.host, name, 1, lambda: (), advance, lambda row: headline(row, *shown)
        )
        return row

    def run_stop(self, rate) -> dict[str, np.ndarray]:
        """Rows [S, ...], see `stop`; rate: float32[S]."""
        program = self.over_seeds(self.stop)
        arguments = self.places, self.keys, jnp.asarray(rate)
        return self.once("stop", program, arguments, "best_step", "test_error")

    def run_retrain(self, rate, stop) -> dict[str, np.ndarray]:
        """Rows [2, S, patiences]: in steps and in passes."""
        config = self.config
        in_steps = jnp.asarray(stop["best_step"])
        in_passes = early_stopping.same_epochs(
            in_steps, config.sub_size, config.train_size, config.batch_size
        )
        steps = jnp.stack([in_steps, in_passes])
        row = self.conditions("retrain", self.retrain, rate, steps, "test_error")
        return row | {"further_steps": np.asarray(steps)}

    def run_continue(self, rate, stop) -> dict[str, np.ndarray]:
        """Rows [2, S, patiences, ...]: from the last and from the best parameters."""
        flat = jnp.stack([jnp.asarray(stop[name]) for name in ("last", "best")])
        return self.conditions("continue", self.go_on, rate, flat, "test_error", "capped")

    def conditions(self, name, function, rate, given, *shown) -> dict[str, np.ndarray]:
        """A stage over conditions [2, S, patiences] of each seed, as one axis of a program."""
        shape = given.shape[:3]
        spread = lambda a: jnp.broadcast_to(a[None, :, None], shape).reshape(-1)  # noqa: E731
        arguments = (
            *(spread(jnp.asarray(a)) for a in (self.places, self.keys, rate)),
            given.reshape(-1, *given.shape[3:]),
        )
        row = self.once(name, self.over_seeds(function), arguments, *shown)
        return {key: values.reshape(*shape, *values.shape[1:]) for key, values in row.items()}


def headline(row, *names) -> dict[str, float]:
    """Medians of what is finite, at the last evaluation of a block."""
    found = {}
    for name in names:
        values = np.asarray(row[name], float)
        seen = values[np.isfinite(values)]
        found[name.replace("_", " ")] = float(np.median(seen)) if seen.size else float("nan")
    return found
