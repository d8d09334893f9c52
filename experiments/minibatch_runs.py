"""Trains the arms of `minibatch`: settings and arrays in, record out."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from dlstudy import curvature, losses, models, noise, sampling, sharpness, sweep
from dlstudy.data import Data
from dlstudy.host import Host
from dlstudy.stages import run_stage
from experiments import minibatch_record as records
from experiments.devices import without_compilation_cache

WIDTHS = (16, 256, 512)  # rows of a program; a batch of any size up to these is a mask over them
RESCALING = 4.0  # a power of two: the copy's outputs are the same to the bit
DIRECTIONS = 8
_START, _ORDER, _NOISE, _DRAWS, _AWAY = range(5)  # streams of a seed


class Task(NamedTuple):
    """What one call of `Programs.descend` does; one number each, of every seed its own."""

    size: jax.Array  # int32[], examples of a batch
    gaussian: jax.Array  # bool[], the whole set with noise as large as that of such a batch
    every: jax.Array  # int32[], steps between two looks at the full loss
    looks: jax.Array  # int32[], after so many it ends
    target: jax.Array  # float32[], it ends once any rate has brought the full loss below
    first: jax.Array  # int32[], steps taken before: where in its epoch it goes on


class Descent(NamedTuple):
    """The full loss around the last step before each look, and where it ended."""

    before: jax.Array  # float32[looks, R]
    after: jax.Array  # float32[looks, R]; NaN where there was no such look
    params: object  # tree of [R, ...]


def width_of(size: int, examples: int) -> int:
    """Rows of the program for batches of `size`."""
    fitting = [width for width in WIDTHS if size <= width <= examples // 2]
    return fitting[0] if fitting else examples


def run(config, data: Data, host: Host):
    """Runs all stages and returns the record, an `xarray.Dataset`; see `minibatch_record`."""
    seeds = list(host.seeds(config.num_seeds))
    study = Study(config, data, host, seeds)
    with sweep.compiler() as pool:
        study.compile(pool)
        study.start()
        rows = {name: getattr(study, f"run_{name}")() for name in study.stages}
    return records.assemble(config, seeds, rows)


class Programs(NamedTuple):
    """Functions of one seed."""

    config: object
    model: models.MLP
    splits: dict  # name: (images [N, D], labels [N])

    @property
    def train(self) -> tuple:
        return self.splits["train"]

    @property
    def examples(self) -> int:
        return len(self.train[1])

    def loss(self, params, batch):
        return losses.cross_entropy(self.model.apply({"params": params}, batch[0])[0], batch[1])

    def weighted_loss(self, params, batch, weights):
        logits = models.examples_last(params, batch[0].T)
        return losses.cross_entropies(logits, batch[1], axis=0) @ weights

    def start(self, key):
        return models.initialise(self.model, jax.random.fold_in(key, _START), self.train[0][0])

    def begin(self, key):
        """Parameters before training, and the full loss there."""
        params = self.start(key)
        return params, self.loss(params, self.train)

    def shuffled(self, key, epoch, width):
        """The order of an epoch, with room for a last program's width beyond its end."""
        key = jax.random.fold_in(jax.random.fold_in(key, _ORDER), epoch)
        order = jax.random.permutation(key, self.examples)
        return jnp.concatenate([order, order[:width]])

    def gaussian_weights(self, key, step, size):
        """Weights of all examples that give the gradient Gaussian noise of covariance Sigma / B.

        For w_i = (1 + sqrt(N / B) (x_i - mean x)) / N with x standard normal, sum w_i g_i has the
        mean g and the covariance Sigma / B, that of a batch of B drawn with replacement: noise of
        the very same covariance in every direction, from the whole set.
        """
        key = jax.random.fold_in(jax.random.fold_in(key, _NOISE), step)
        drawn = jax.random.normal(key, (self.examples,))
        scale = jnp.sqrt(self.examples / size.astype(drawn.dtype))
        return (1 + scale * (drawn - drawn.mean())) / self.examples

    def descend(self, width: int, key, params, rates, task: Task) -> Descent:
        """Descends at all rates side by side, each on the same batches (algorithm 8.1).

        Every epoch is shuffled; a last partial batch is dropped.

        Args:
          width: rows of a batch, of which the first `task.size` count.
          key: of the seed.
          params: where all rates start.
          rates: float32[R].
          task: what to do.
        """
        lanes = jax.tree.map(lambda a: jnp.broadcast_to(a, (len(rates), *a.shape)), params)
        per_epoch = self.examples // task.size

        def batch(step, order):
            rows = jax.lax.dynamic_slice(order, [step % per_epoch * task.size], [width])
            part = jnp.arange(width, dtype=jnp.int32) < task.size
            weights = jnp.where(part, 1 / task.size.astype(jnp.float32), 0)
            if width == self.examples:
                noisy = self.gaussian_weights(key, step, task.size)
                rows = jnp.where(task.gaussian, jnp.arange(width, dtype=rows.dtype), rows)
                weights = jnp.where(task.gaussian, noisy, weights)
            return jax.tree.map(lambda a: a[rows], self.train), weights

        def step(number, carry):
            lanes, _, order = carry
            order = jax.lax.cond(
                number % per_epoch == 0,
                lambda: self.shuffled(key, number // per_epoch, width), lambda: order,
            )  # fmt: skip
            drawn, weights = batch(number, order)

            def down(own, rate):
                gradient = jax.grad(self.weighted_loss)(own, drawn, weights)
                return jax.tree.map(lambda p, g: p - rate * g, own, gradient)

            return jax.vmap(down)(lanes, rates), lanes, order

        def look(carry):
            state, found, before, after = carry
            begin = task.first + found * task.every
            state = jax.lax.fori_loop(begin, begin + task.every, step, state)
            both = jax.tree.map(lambda *a: jnp.concatenate(a), *state[:2])
            now, then = jax.vmap(lambda own: self.loss(own, self.train))(both).reshape(2, -1)
            return state, found + 1, before.at[found].set(then), after.at[found].set(now)

        def goes_on(carry):
            _, found, _, after = carry
            now = after[found - 1]
            there = (found > 0) & ((now < task.target).any() | jnp.isnan(now).all())
            return (found < task.looks) & ~there

        unknown = jnp.full((self.config.looks, len(rates)), jnp.nan)
        order = self.shuffled(key, task.first // per_epoch, width)
        carry = ((lanes, lanes, order), jnp.int32(0), unknown, unknown)
        (lanes, _, _), _, before, after = jax.lax.while_loop(goes_on, look, carry)
        return Descent(before, after, lanes)

    def measure_noise(self, key, params, checkpoint):
        """Spread of minibatch gradients by batch size, drawn both ways, and the noise scale.

        All per-example gradients are held at once: they are few.
        """
        config = self.config
        own = noise.per_example_gradients(self.loss, params, self.train)
        own = jax.vmap(lambda g: ravel_pytree(g)[0])(own)
        whole = own.mean(0, keepdims=True)
        key = jax.random.fold_in(jax.random.fold_in(key, _DRAWS), checkpoint)

        def weights(key, size):
            """Of one batch drawn with and one without replacement."""
            first = jnp.arange(self.examples, dtype=jnp.int32) < size
            part = jnp.where(first, 1 / size.astype(jnp.float32), 0)
            with_key, without_key = jax.random.split(key)
            drawn = jax.random.randint(with_key, (self.examples,), 0, self.examples)
            taken = sampling.without_replacement(without_key, (self.examples,), size)
            with_it = jnp.zeros(self.examples).at[drawn].add(part)
            return jnp.stack([with_it, jnp.where(taken, part[0], 0)])

        def of_size(number, size):
            keys = jax.random.split(jax.random.fold_in(key, number), config.draws)
            return jax.vmap(lambda k: weights(k, size))(keys)

        sizes = jnp.array(config.batch_sizes, jnp.int32)
        each = jax.vmap(of_size)(jnp.arange(len(sizes)), sizes)  # [sizes, D, 2, N]
        means = each.reshape(-1, self.examples) @ own
        fold = lambda squares: squares.sum(1).reshape(each.shape[:3])  # noqa: E731
        away = fold(jnp.square(means - whole)).mean(1)  # [sizes, 2]
        squares = fold(jnp.square(means))[:, :, 0]  # [sizes, D]
        small, large = config.small_batch, config.large_batch
        pair = [squares[config.batch_sizes.index(size)] for size in (small, large)]
        scale = noise.noise_scale(*pair, small, large)
        singly = jax.vmap(
            lambda a, b: noise.noise_scale(a[None], b[None], small, large).scale
        )  # of each draw by itself
        return {
            "sd": jnp.sqrt(away).T,
            "trace": jnp.square(own - whole).sum(1).mean(),
            "square": jnp.square(whole).sum(),
            "scale": scale.scale,
            "scale_error": scale.scale_error,
            "mean_of_ratios": singly(*pair).mean(),
            "loss": self.loss(params, self.train),
        }

    def examine(self, key, lanes, rates):
        """The rate with the lowest tuning loss, and what its network is like."""
        splits = self.splits

        def at(params, name):
            images, labels = splits[name]
            logits, _ = self.model.apply({"params": params}, images)
            return losses.cross_entropy(logits, labels), losses.error_rate(logits, labels)

        tuned = jax.vmap(lambda own: at(own, "tune")[0])(lanes)
        best = jnp.where(jnp.isnan(tuned), jnp.inf, tuned).argmin()
        params = jax.tree.map(lambda a: a[best], lanes)
        row = {"rate": rates[best], "best": best.astype(jnp.int32)}
        for name in splits:
            row[f"{name}_loss"], row[f"{name}_error"] = at(params, name)
        copy = sharpness.rescaled(params, RESCALING)
        images = splits["train"][0]
        outputs = [self.model.apply({"params": p}, images)[0] for p in (params, copy)]
        row["rescaled_difference"] = jnp.abs(outputs[0] - outputs[1]).max()
        key = jax.random.fold_in(key, _AWAY)
        own_loss = lambda p: self.loss(p, self.train)  # noqa: E731
        for prefix, own in (("", params), ("rescaled_", copy)):
            top = self.largest_eigenvalue(own, key)
            rise = sharpness.filter_sharpness(own_loss, own, key, self.config.radius, DIRECTIONS)
            row |= {
                f"{prefix}lambda_max": top.value,
                f"{prefix}lambda_residual": top.residual,
                f"{prefix}filter_sharpness": rise,
            }
        return row

    def largest_eigenvalue(self, params, key):
        flat, unravel = ravel_pytree(params)
        loss = lambda v: self.loss(unravel(v), self.train)  # noqa: E731
        start = jax.random.normal(key, flat.shape)
        return curvature.largest_eigenpair(
            lambda v: curvature.hessian_product(loss, flat, v), start, tolerance=5e-3,
            max_products=60,
        )  # fmt: skip


class Study:
    """The data, and the stages: loops of the host."""

    def __init__(self, config, data: Data, host: Host, seeds):
        self.config, self.host = config, host
        self.keys = sweep.seed_keys(config.seed, seeds)
        flat = lambda split: (split.x.reshape(len(split.y), -1), split.y)  # noqa: E731
        self.splits = jax.device_put(
            {name: flat(getattr(data, name)) for name in ("train", "tune", "test")}
        )
        self.model = models.MLP(config.widths, data.classes)
        self.examples = len(data.train.y)
        self.stages = config.stage_units()
        self.begin = self.over_seeds(Programs.begin)
        self.measure = self.over_seeds(Programs.measure_noise)
        self.examine = self.over_seeds(Programs.examine)
        self.descents = {}  # by width

    def over_seeds(self, function):
        """A program of (per-seed arguments ..., splits)."""

        def one(*arguments):
            return function(Programs(self.config, self.model, arguments[-1]), *arguments[:-1])

        return sweep.over_seeds(one, self.host.layout, shared=1)

    def descent(self, size: int, gaussian: bool = False):
        """The program for batches of this size."""
        width = self.examples if gaussian else width_of(size, self.examples)
        if width not in self.descents:
            self.descents[width] = self.over_seeds(
                lambda programs, *rest: programs.descend(width, *rest)
            )
        return self.descents[width]

    def compile(self, pool):
        """Has all programs compiled while others are traced and run."""
        config, seeds = self.config, len(self.keys)
        splits = self.splits
        params, _ = self.begin.compile(self.keys, splits, pool=pool)
        self.measure.compile(self.keys, params, np.zeros(seeds, np.int32), splits, pool=pool)
        task, rates = self.task(1, 1, 1), self.rates_of(config.rates)
        sizes = {width_of(b, self.examples): b for b in config.batch_sizes}.values()
        reference = self.descent(config.reference_batch)
        for program in [reference, *map(self.descent, sizes)]:
            program.compile(self.keys, params, rates[:, :1], task, splits, pool=pool)
        for size in sizes:
            end = self.descent(size).compile(self.keys, params, rates, task, splits, pool=pool)
        self.examine.compile(self.keys, end.params, rates, splits, pool=pool)

    def start(self):
        """Draws the parameters before training, the same for all arms of a seed."""
        self.params, loss = self.begin(self.keys, self.splits)
        self.start_loss = np.asarray(loss)

    def rates_of(self, rates) -> np.ndarray:
        """The same rates for every seed, [S, R]."""
        return np.tile(np.array(rates, np.float32), (len(self.keys), 1))

    def task(self, size, every, looks, target=-1.0, gaussian=False, first=0) -> Task:
        values = (np.int32(size), np.bool_(gaussian), np.int32(every), np.int32(looks),
                  np.float32(target), np.int32(first))  # fmt: skip
        return Task(*(np.full(len(self.keys), value) for value in values))

    def descend(self, rates, size, every, looks, target=-1.0, gaussian=False, params=None, first=0):
        """(losses before and after, float32[S, looks, R]; parameters at the end)."""
        program = self.descent(size, gaussian)
        task = self.task(size, every, looks, target, gaussian, first)
        start = self.params if params is None else params
        found = program(self.keys, start, self.rates_of(rates), task, self.splits)
        return np.asarray(found.before), np.asarray(found.after), found.params

    def stage(self, name, advance, start=lambda: (), headline=lambda row: {}):
        return run_stage(self.host, name, self.stages[name], start, advance, headline)

    # -- the stages

    def run_noise(self):
        """Gradient noise at checkpoints of one run."""
        config = self.config
        legs = np.diff(config.checkpoints, append=config.checkpoints[-1])

        def advance(unit, params):
            number = np.full(len(self.keys), unit, np.int32)
            row = self.measure(self.keys, params, number, self.splits)
            if legs[unit]:
                _, _, lanes = self.descend(
                    [config.shared_rate], config.reference_batch, legs[unit], 1, params=params,
                    first=config.checkpoints[unit],
                )  # fmt: skip
                params = jax.tree.map(lambda a: a[:, 0], lanes)
            return params, row

        return self.stage(
            "noise", advance, lambda: self.params, lambda row: medians(row, "loss", "scale")
        )

    def race(self, rates, size, limit):
        """To the target loss at all rates, in at most so many steps."""
        every = -(-limit // self.config.looks)
        looks = -(-limit // every)
        before, after, _ = self.descend(rates, size, every, looks, self.config.target)
        return records.of_race(before, after, every, rates, self.config.target)

    def run_race(self):
        """Every batch size, at all rates, until the first of them gets there."""
        config = self.config

        def advance(unit, state):
            size = config.batch_sizes[unit]
            return state, self.race(config.rates, size, config.limit(size))

        return self.stage("race", advance, headline=lambda row: medians(row, "steps", "rate"))

    def run_shared(self):
        """The same with one rate for all."""
        config = self.config

        def advance(unit, state):
            size = config.batch_sizes[unit]
            limit = config.patience * config.limit(size)
            return state, self.race([config.shared_rate], size, limit)

        return self.stage("shared", advance, headline=lambda row: medians(row, "steps"))

    def run_stable(self):
        """So many steps at every rate: batches of every size, then the full set with noise.

        The rates beyond the grid are for the rule that asks only not to diverge.
        """
        config = self.config
        arms = [
            *((b, False, config.rates) for b in config.batch_sizes),
            *((b, False, config.rates_beyond) for b in config.batch_sizes),
            *((b, True, config.rates) for b in config.levels),
        ]
        # Rounded up, so that there are no more looks than there is room for.
        every = -(-config.stable_steps // min(config.looks, 5))

        def advance(unit, state):
            size, gaussian, rates = arms[unit]
            looks = -(-config.stable_steps // every)
            _, after, _ = self.descend(rates, size, every, looks, gaussian=gaussian)
            worst = np.where(np.isnan(after[:, :looks]), np.inf, after[:, :looks]).max(1)
            row = {"end": after[:, looks - 1], "worst": worst, "start": self.start_loss}
            return state, row

        return self.stage("stable", advance)

    def run_ends(self):
        """A small batch, and a large one for as many epochs and as many steps."""
        config, examples = self.config, self.examples
        small, large = config.small_batch, config.large_batch
        arms = [
            (small, config.epochs * (examples // small)),
            (large, config.epochs * (examples // large)),
            (large, config.epochs * (examples // small)),
        ]

        def advance(unit, state):
            size, steps = arms[unit]
            _, _, lanes = self.descend(config.rates, size, steps, 1)
            row = self.examine(self.keys, lanes, self.rates_of(config.rates), self.splits)
            return state, dict(row) | {"steps": np.full(len(self.keys), steps)}

        return self.stage(
            "ends", advance, headline=lambda row: medians(row, "test_error", "lambda_max")
        )

    def run_cost(self):
        """Memory and speed of a step, compiled for each batch size on one device.

        Every turn of the clock takes all sizes one after another, so that what else the machine
        does meanwhile falls on all of them.
        """
        config, seeds = self.config, len(self.keys)
        params = jax.tree.map(lambda a: np.asarray(a[0]), self.params)
        programs = Programs(config, self.model, self.splits)
        timed = [Timed(programs, params, size) for size in config.cost_sizes]

        def turn():
            """Examples a second of each size: of steps in one program, and of calls."""
            if not config.measure_cost:
                return np.full((2, len(timed)), np.nan)
            return np.array([[one.chained(), one.called()] for one in timed]).T

        def advance(unit, state):
            turns = np.stack([turn() for _ in range(seeds)])
            memory, first = (
                np.tile([getattr(one, name) for one in timed], (seeds, 1))
                for name in ("memory", "first_speed")
            )
            return state, {
                "memory": memory,
                "first_speed": first if config.measure_cost else first * np.nan,
                "speed": turns[:, 0],
                "called_speed": turns[:, 1],
            }

        return self.stage("cost", advance, headline=lambda row: medians(row, "speed"))


class Timed:
    """One batch size's step on one device: what it takes in memory, and what the clock says.

    Attributes:
      memory: MiB of a step's arguments, results and scratch.
      first_speed: examples a second of a first call, which compiles.
    """

    def __init__(self, programs: Programs, params, size: int):
        config = programs.config
        rate = np.float32(config.shared_rate)
        self.size = size
        self.steps = max(5, min(config.cost_calls, config.cost_examples // size))
        batch = jax.tree.map(lambda a: np.asarray(a[:size]), programs.train)

        def step(params, batch):
            gradient = jax.grad(programs.loss)(params, batch)
            return jax.tree.map(lambda p, g: p - rate * g, params, gradient)

        def steps(params, batch):
            return jax.lax.fori_loop(0, self.steps, lambda _, own: step(own, batch), params)

        self.arguments = jax.device_put((params, batch))
        with without_compilation_cache():  # which would read a program that is there already
            begin = time.perf_counter()
            self.step = jax.jit(step).lower(params, batch).compile()
            jax.block_until_ready(self.step(*self.arguments))
            self.first_speed = size / (time.perf_counter() - begin)
        self.many = jax.jit(steps).lower(params, batch).compile()
        jax.block_until_ready(self.many(*self.arguments))
        memory = self.step.memory_analysis()
        parts = ("temp", "output", "argument")
        self.memory = sum(getattr(memory, f"{part}_size_in_bytes") for part in parts) / 2**20

    def chained(self) -> float:
        """Examples a second of steps in one program, each from where the last one ended."""
        begin = time.perf_counter()
        jax.block_until_ready(self.many(*self.arguments))
        return self.steps * self.size / (time.perf_counter() - begin)

    def called(self) -> float:
        """Examples a second where each step is a call from Python."""
        params, batch = self.arguments
        begin = time.perf_counter()
        for _ in range(self.steps):
            params = self.step(params, batch)
        jax.block_until_ready(params)
        return self.steps * self.size / (time.perf_counter() - begin)


def medians(row, *names) -> dict[str, float]:
    """Medians over seeds, for the live numbers."""
    values = {name: np.asarray(row[name], float) for name in names}
    return {
        name.replace("_", " "): float(np.nanmedian(v)) if np.isfinite(v).any() else np.nan
        for name, v in values.items()
    }
