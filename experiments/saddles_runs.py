"""Runs `saddles`: settings and arrays in, record out.

The landscapes and the symmetric network are float64, the network with small weights float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from dlstudy import losses, models, optimizers, sweep
from dlstudy.data import Data
from dlstudy.host import Host
from dlstudy.stages import run_stage
from experiments import saddles_landscapes as landscapes
from experiments import saddles_record as records


def run(config, data: Data, host: Host):
    """Runs all stages and returns the record, an `xarray.Dataset` (see `saddles_record`)."""
    seeds = list(host.seeds(config.num_seeds))
    study = Study(config, data, host, seeds)
    with jax.enable_x64(True):
        rows = {"saddle": study.once("saddle", study.saddle), "well": study.run_well(),
                "valley": study.once("valley", study.valley),
                "symmetric": study.once("symmetric", study.symmetric)}  # fmt: skip
    return records.assemble(config, seeds, rows | {"small": study.once("small", study.small)})


class Study:
    """The data on the device, and the programs over seeds."""

    def __init__(self, config, data: Data, host: Host, seeds):
        self.config, self.host, self.classes = config, host, data.classes
        self.keys = sweep.seed_keys(config.seed, seeds)
        images = data.train.x[: config.images]
        self.images = images.reshape(len(images), -1)
        self.labels = data.train.y[: config.images]

    def once(self, name, function):
        """A stage of one unit: a program over seeds."""
        program = sweep.over_seeds(function, self.host.layout)
        (row,) = run_stage(
            self.host, name, 1, lambda: (), lambda unit, state: (state, program(self.keys))
        )
        return row

    # -- landscapes

    def saddle(self, key):
        """Steps to leave of one seed: with noise [sigmas, walkers], from the ridge without [2]."""
        config = self.config
        saddle = landscapes.draw_saddle(jax.random.fold_in(key, 0))
        walks = landscapes.saddle_escape(
            saddle, jax.random.fold_in(key, 1), config.saddle_rate,
            jnp.array([0.0, *config.sigmas]), config.walkers, config.saddle_steps,
        )  # fmt: skip
        ridge = landscapes.ridge_escape(saddle, config.saddle_rate, config.saddle_steps)
        return {"saddle_left": walks, "ridge_left": ridge, "falling": saddle.falling}

    def height(self, key):
        """Of the barrier of one seed, even over the logarithm."""
        span = np.log2(records.HEIGHTS)
        draw = jax.random.uniform(jax.random.fold_in(key, 2), (), jnp.float64, *span.tolist())
        return 2.0**draw

    def well(self, key):
        config = self.config
        height = self.height(key)
        left = landscapes.well_escape(
            height, jax.random.fold_in(key, 3), config.well_rate, jnp.array(config.barriers),
            config.walkers, config.well_steps,
        )  # fmt: skip
        return {"well_left": left, "height": height}

    def run_well(self) -> dict:
        """Walks, and what the integral equation says of them, [S, barriers]."""
        config = self.config
        row = self.once("well", self.well)
        exact = [
            [
                landscapes.mean_steps(
                    height, config.well_rate,
                    landscapes.noise_of(height, config.well_rate, barrier),
                )
                for barrier in config.barriers
            ]
            for height in row["height"].tolist()
        ]  # fmt: skip
        return row | {"well_exact": np.array(exact)}

    def valley(self, key):
        """Steps across the flat valleys [valleys, arms], and speeds on a constant slope [2, T]."""
        config = self.config
        keys = jax.random.split(jax.random.fold_in(key, 4), 3)
        steepness = 10.0 ** jax.random.uniform(keys[0], (), jnp.float64, -3.0, -2.0)
        depth = jax.random.uniform(keys[1], (), jnp.float64, 5.0, 8.0)
        across = jax.random.normal(keys[2], (), jnp.float64)
        slopes = landscapes.valley_slopes(steepness)
        methods, averaged, walls = zip(
            *landscapes.valley_methods(config.valley_rate, config.alpha).values(), strict=True
        )
        methods = jax.tree.map(lambda *values: jnp.array(values), *methods)
        steps = []
        for name, begin, end in (("constant", 0.0, 1.0), ("sigmoid", -depth, 0.0)):
            start = jnp.stack([jnp.float64(begin), across])

            def one(method, averaged, walls, name=name, start=start, end=end):
                return landscapes.cross(
                    slopes[name], start, end, method, averaged, walls, config.valley_steps
                )

            steps.append(jax.vmap(one)(methods, jnp.array(averaged), jnp.array(walls)))
        return {"valley_steps": jnp.stack(steps), "steepness": steepness, "depth": depth,
                "speed": self.speeds(steepness)}  # fmt: skip

    def speeds(self, steepness):
        """Step sizes over gradient descent's, float64[book and source, T], on a constant slope."""
        config, slope = self.config, -steepness

        def sizes(optimizer):
            def once(state, _):
                update, state = optimizer.update(slope, state)
                return state, update

            return jax.lax.scan(once, optimizer.init(slope), length=records.SPEED_STEPS)[1]

        rate = jnp.float64(config.valley_rate)
        plain = sizes(optimizers.sgd(rate))
        return jnp.stack([
            sizes(optimizers.momentum(rate, config.alpha)) / plain,
            sizes(optimizers.averaged_momentum(rate, config.alpha)) / plain,
        ])  # fmt: skip

    # -- networks

    def descend(self, model, starts, noises, size: int, rate, steps: int, key):
        """Descent on the images with noise on every weight's gradient.

        Args:
          model: the network.
          starts: parameters, each with a leading axis [C].
          noises: standard deviation of the noise, [C].
          size: images of a batch, drawn with replacement; as many as there are: the whole set.
          rate: learning rate.
          steps: how many.
          key: of the seed; all C runs see the same batches and draws.

        Returns:
          Every so many steps, [C, measurements]: loss of all images, and how far the units of the
          first layer are from the first one, relative.
        """
        config, count = self.config, len(self.labels)
        # One vector for all weights: one draw of noise for all of them.
        flat = jax.vmap(lambda params: ravel_pytree(params)[0])(starts)
        unravel = ravel_pytree(jax.tree.map(lambda a: a[0], starts))[1]
        x, y = jnp.asarray(self.images, flat.dtype), jnp.asarray(self.labels)

        def loss(weights, batch):
            logits, _ = model.apply({"params": unravel(weights)}, batch[0])
            return losses.cross_entropy(logits, batch[1])

        def step(runs, number):
            own = jax.random.split(jax.random.fold_in(key, number))
            rows = jax.random.randint(own[0], (size,), 0, count)
            batch = (x, y) if size == count else (x[rows], y[rows])
            draws = jax.random.normal(own[1], runs.shape[1:], runs.dtype)

            def one(weights, noise):
                return weights - rate * (jax.grad(loss)(weights, batch) + noise * draws)

            return jax.vmap(one)(runs, noises), None

        def block(runs, first):
            row = jax.vmap(lambda w: jnp.stack([loss(w, (x, y)), spread(unravel(w))]))(runs)
            return jax.lax.scan(step, runs, first + jnp.arange(config.every))[0], row

        firsts = config.every * jnp.arange(steps // config.every)
        rows = jnp.moveaxis(jax.lax.scan(block, flat, firsts)[1], 0, 2)
        return rows[:, 0], rows[:, 1]

    def both_sizes(self, name: str, *arguments):
        """Rows of `descend` with the whole set and with minibatches, [2, C, measurements]."""
        *before, rate, steps, key = arguments
        found = [self.descend(*before, size, rate, steps, key)
                 for size in (len(self.labels), self.config.batch_size)]  # fmt: skip
        loss, apart = (jnp.stack(of) for of in zip(*found, strict=True))
        return {f"{name}_loss": loss, f"{name}_spread": apart}

    def symmetric(self, key):
        """One hidden layer whose units all start equal, [sizes, noises, measurements]."""
        config = self.config
        model = models.MLP((config.units,), self.classes)
        params = models.initialise(model, jax.random.fold_in(key, 5), self.images[0])
        start = jax.tree.map(lambda a: a.astype(jnp.float64), equal_units(params))
        noises = jnp.array([0.0, *config.weight_noises])
        starts = jax.tree.map(lambda a: jnp.broadcast_to(a, (len(noises), *a.shape)), start)
        return self.both_sizes("symmetric", model, starts, noises, config.symmetric_rate,
                               config.symmetric_steps, jax.random.fold_in(key, 6))  # fmt: skip

    def small(self, key):
        """Small and zero weights without and with noise on them, [sizes, 2 x 2, measurements]."""
        config = self.config
        model = models.MLP(config.widths, self.classes, zero_bias=True)
        params = models.initialise(model, jax.random.fold_in(key, 7), self.images[0])
        scales = jnp.array([config.scale, config.scale, 0, 0], jnp.float32)
        noises = config.weight_noises[-1] * jnp.array([0, 1, 0, 1], jnp.float32)
        starts = jax.tree.map(lambda a: jax.vmap(lambda s: s * a)(scales), params)
        return self.both_sizes("small", model, starts, noises, config.small_rate,
                               config.small_steps, jax.random.fold_in(key, 8))  # fmt: skip


def equal_units(params):
    """A network of one hidden layer with all its hidden units as the first one."""
    hidden = jax.tree.map(
        lambda a: jnp.broadcast_to(a[..., :1], a.shape), params["hidden_0"]
    )  # fmt: skip
    out = params["head"]["kernel"]
    head = {"kernel": jnp.broadcast_to(out[:1], out.shape), "bias": params["head"]["bias"]}
    return {"hidden_0": hidden, "head": head}


def spread(params):
    """How far the first layer's weights are from those of its first unit, over their norm.

    Exactly 0 if and only if all units have the same weights.
    """
    kernel = params["hidden_0"]["kernel"]
    size = jnp.linalg.norm(kernel)
    return jnp.linalg.norm(kernel - kernel[:, :1]) / jnp.where(size > 0, size, 1)
