"""Runs `batchnorm`: settings and arrays in, record out.

Conditions that differ in numbers are axes of one program; with and without batch normalisation,
and batches of another size, are programs of their own, compiled side by side.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dlstudy import models, optimizers, sweep
from dlstudy.data import Data
from dlstudy.host import Host
from dlstudy.stages import run_stage
from experiments import batchnorm_networks as networks
from experiments import batchnorm_record as records
from experiments import batchnorm_theory as theory
from experiments.batchnorm_networks import Network, condition, stack

PROBED = 16  # batches, at most, whose statistics one set of images is seen with
COMPARED = 100  # images of such a set, and of those whose features are kept


def run(config, data: Data, host: Host):
    """Runs all stages and returns the record, an `xarray.Dataset` (see `batchnorm_record`)."""
    seeds = list(host.seeds(config.num_seeds))
    study = Study(config, data, host, seeds)
    at_rates, of_size = study.at_rates, study.of_size
    with sweep.compiler() as pool:
        # Long programs first: they compile while the others are traced.
        stages = {
            "rates_bn": [functools.partial(at_rates, study.bn, conditions(config, True))],
            "sizes_bn": [functools.partial(of_size, study.bn, b) for b in config.batch_sizes],
            "rates_none": [functools.partial(at_rates, study.none, conditions(config))],
            "sizes_none": [
                functools.partial(of_size, study.none, b) for b in records.ends(config.batch_sizes)
            ],
            "ghost": [study.ghost],
            "floor_bn": [functools.partial(study.floor, "narrow_bn")],
            "floor_none": [functools.partial(study.floor, "narrow_none")],
            "start": [study.start],
        }  # fmt: skip
        programs = {
            name: [study.prepare(name, f, pool) for f in functions]
            for name, functions in stages.items()
        }
        rows = {name: study.stage(name, of) for name, of in programs.items()}
    with jax.enable_x64(True):
        scale = sweep.over_seeds(study.scale, host.layout)
        rows["scale"] = run_stage(
            host, "scale", 1, lambda: (), lambda unit, state: (state, scale(study.keys))
        )
    return records.assemble(config, seeds, rows, len(data.test.y))


def conditions(config, batch_norm: bool = False) -> networks.Condition:
    """The runs of the stages at every rate: arms before rates."""
    arms = records.BN_ARMS if batch_norm else records.PLAIN_ARMS
    return stack(
        condition(rate, affine=arm != "bn_fixed", noise=float(arm == "bn_noisy"),
                  start=int(arm == "none_again"))
        for arm in arms for rate in config.rates
    )  # fmt: skip


def size_conditions(config) -> networks.Condition:
    """The runs of the stages at every batch size: orders before rates."""
    return stack(
        condition(rate, ordered=ordered)
        for ordered in records.ORDERS.values() for rate in config.size_rates
    )  # fmt: skip


def test_sizes(config, count: int) -> list[int]:
    """Sizes of test batches: those given, and all test images together."""
    return [*(size for size in config.test_sizes if size < count), count]


def batches_of(rows, size: int):
    """Orders [D, N] of examples cut into batches [M, size]; what is left of each is dropped."""
    return rows[:, : rows.shape[1] // size * size].reshape(-1, size)


class Study:
    """The data on the device, and the programs over seeds."""

    def __init__(self, config, data: Data, host: Host, seeds):
        self.config, self.host, self.classes = config, host, data.classes
        self.keys = sweep.seed_keys(config.seed, seeds)
        flat = lambda split: (split.x.reshape(len(split.y), -1), split.y)  # noqa: E731
        self.splits = jax.device_put(
            {name: flat(getattr(data, name)) for name in ("train", "tune", "test")}
        )
        self.none, self.bn = (
            Network(models.MLP(config.widths, data.classes, batch_norm=b)) for b in (False, True)
        )
        self.narrow = {
            f"narrow_{name}": Network(
                models.MLP(config.floor_widths, data.classes, batch_norm=name == "bn")
            )
            for name in ("none", "bn")
        }
        self.example = self.splits["train"][0][0]
        self.begin = sweep.over_seeds(self.starts, host.layout)(self.keys)
        self.examined = sweep.over_seeds(
            jax.vmap(functools.partial(self.examine, self.bn), (0, 0, None)), host.layout, shared=1
        )

    def starts(self, key) -> dict:
        """Initial parameters by network; drawn here, once, as each draw takes long to compile."""
        of_start = lambda network, i: network.start(jax.random.fold_in(key, i), self.example)  # noqa: E731
        both = jax.tree.map(lambda *a: jnp.stack(a), of_start(self.none, 0), of_start(self.none, 1))
        narrow = {name: of_start(network, 2) for name, network in self.narrow.items()}
        of_bn = jax.tree.map(lambda a: a[None], of_start(self.bn, 0))
        return {"none": both, "bn": of_bn, **narrow}

    def program(self, function):
        """A function of a key, the initial parameters and the splits, over seeds."""
        return sweep.over_seeds(function, self.host.layout, shared=1)

    def prepare(self, name: str, function, pool):
        """A program of a stage, being compiled, and so what examines its networks."""
        program = self.program(function)
        end = program.compile(self.keys, self.begin, self.splits, pool=pool)
        if "kept" in end:
            some = jax.tree.map(
                lambda a: jax.ShapeDtypeStruct(
                    (a.shape[0], self.rates(name), *a.shape[2:]), a.dtype
                ),
                end["kept"],
            )
            self.examined.compile(*some, self.splits, pool=pool)
        return program

    def rates(self, name: str) -> int:
        """How many rates each arm of a stage has."""
        return len(self.config.rates if name == "rates_bn" else self.config.size_rates)

    def stage(self, name: str, programs) -> list[dict]:
        """A stage of one unit for each program: their rows."""

        def examined(kept):
            """One arm after another, so that one program serves all stages with as many rates."""
            rates = self.rates(name)
            arms = jax.tree.leaves(kept)[0].shape[1] // rates
            part = lambda i: jax.tree.map(lambda a: a[:, i * rates : (i + 1) * rates], kept)  # noqa: E731
            found = [jax.device_get(self.examined(*part(i), self.splits)) for i in range(arms)]
            return {key: np.concatenate([row[key] for row in found], 1) for key in found[0]}

        def advance(unit, state):
            row = programs[unit](self.keys, self.begin, self.splits)
            if "kept" in row:
                row |= examined(jax.device_get(row.pop("kept")))
            return state, row

        return run_stage(self.host, name, len(programs), lambda: (), advance, headline)

    def examine(self, network: Network, params, running, splits) -> dict:
        """Losses and errors of all splits with the statistics of `networks.MODES`."""
        config = self.config
        pooled = networks.recalibrated(
            network, params, splits["train"], config.recalibration_batches,
            config.recalibration_size,
        )  # fmt: skip
        return networks.evaluate(network, params, running, pooled, splits)

    def of(self, network: Network, starts: dict):
        """A network's initial parameters, with a leading axis."""
        return starts["bn" if network.model.batch_norm else "none"]

    def ended(self, network: Network, state, splits) -> dict:
        """What is known of a run at its end, or what `examined` needs to find out."""
        if network.model.batch_norm:
            return {"kept": (state.params, state.statistics[0])}
        return self.examine(network, state.params, {}, splits)

    # -- every rate

    def at_rates(self, network: Network, runs, key, starts, splits):
        """All arms of a network at every rate; values [arms * rates, ...]."""
        return jax.vmap(lambda own: self.at_rate(network, own, key, starts, splits))(runs)

    def at_rate(self, network: Network, own, key, starts, splits) -> dict:
        config, train = self.config, splits["train"]
        momenta = config.momentum, config.slow_momentum
        trainer = networks.trainer(
            network, own, self.of(network, starts), train, self.classes, config.batch_size, momenta
        )

        def look(before, after, number):
            """At the step that comes, and at the test error of the network after the epoch."""
            keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 1), number))
            # A stretch of the training images, which are in random order.
            first = jax.random.randint(keys[0], (), 0, len(train[1]) - config.batch_size + 1)
            batch = jax.tree.map(
                lambda a: jax.lax.dynamic_slice_in_dim(a, first, config.batch_size), train
            )
            row = networks.inspect(network, before.params, own, batch, keys[1])
            test, params = splits["test"], after.params
            _, given = networks.with_statistics(network, params, list(after.statistics), test)
            _, alone, _ = networks.in_batches(network, params, test, jnp.arange(len(test[1]))[None])
            return row | {"errors": jnp.concatenate([alone, given])}

        def epoch(state, number):
            after, seen = trainer.epoch(state, jax.random.fold_in(key, 2), train)
            nothing = jax.tree.map(
                lambda a: jnp.full(a.shape, jnp.nan, a.dtype), jax.eval_shape(look, state, after, 0)
            )
            row = jax.lax.cond(
                number % config.every == 0, look, lambda *_: nothing, state, after, number
            )
            row |= {"step_losses": seen, "curve": network.loss(after.params, train)}
            return after, row

        begin = trainer.init(key)
        state, row = jax.lax.scan(epoch, begin, jnp.arange(config.epochs))
        row["start_loss"] = network.loss(begin.params, train)
        images = splits["test"][0][:COMPARED]
        _, taps = network.forward(state.params, images, state.statistics[0])
        row["features"] = jax.nn.relu(taps[f"pre_{len(network.model.widths) - 1}"])
        row |= self.ended(network, state, splits)
        if network.model.batch_norm:
            row["test_batch_error"] = self.at_test_sizes(network, state.params, splits, key)
        return row

    def cut(self, split, ordered, key, draws: int):
        """The examples in some orders, int[draws, N]."""
        return jax.vmap(lambda own: networks.by_class(split[1], self.classes, ordered, own))(
            jax.random.split(key, draws)
        )

    def errors_in_batches(self, network, params, split, rows, size: int):
        """Errors with the statistics of batches of a size, for orders [D, N] of the examples."""
        _, error, _ = networks.in_batches(network, params, split, batches_of(rows, size))
        return error.reshape(len(rows), -1).mean(1)

    def at_test_sizes(self, network, params, splits, key):
        """Test error with batch statistics, [orders, sizes]; batches by class last."""
        test, draws = splits["test"], self.config.test_draws
        rows = jnp.concatenate([
            self.cut(test, ordered, jax.random.fold_in(key, 4), draws) for ordered in (0.0, 1.0)
        ])  # fmt: skip
        found = [
            self.errors_in_batches(network, params, test, rows, size)
            for size in test_sizes(self.config, len(test[1]))
        ]
        return jnp.stack(found, 1).reshape(2, draws, -1).mean(1)

    # -- every batch size

    def of_size(self, network: Network, size: int, key, starts, splits):
        """All orders at every rate with batches of a size; values [orders * rates, ...]."""
        runs = size_conditions(self.config)
        return jax.vmap(lambda own: self.one_of_size(network, size, own, key, starts, splits))(runs)

    def one_of_size(self, network: Network, size: int, own, key, starts, splits) -> dict:
        config, train = self.config, splits["train"]
        trainer = networks.trainer(
            network, own, self.of(network, starts), train, self.classes, size, (config.momentum,)
        )
        state, seen = self.train(trainer, key, train)
        row = self.ended(network, state, splits) | {"last_sd": seen[-1].std()}
        row["last_mean"] = seen[-1].mean()
        if network.model.batch_norm:
            row |= self.as_trained(network, state.params, size, own.ordered, key, splits)
        return row

    def train(self, trainer, key, train):
        """(state, losses [epochs, steps]) after all epochs of the stages at batch sizes."""
        return jax.lax.scan(
            lambda state, _: trainer.epoch(state, jax.random.fold_in(key, 5), train),
            trainer.init(key), length=self.config.size_epochs,
        )  # fmt: skip

    def as_trained(self, network, params, size: int, ordered, key, splits) -> dict:
        """What happens in batches like those of training, of training and of test images."""
        of_train, of_test = jax.random.split(jax.random.fold_in(key, 6))
        of_tune = jax.random.fold_in(key, 7)
        rows = self.cut(splits["train"], ordered, of_train, 1)[0]
        rows = batches_of(rows[None], size)
        loss, _, statistics = networks.in_batches(network, params, splits["train"], rows)
        of_mean, of_variance = networks.spread(statistics)
        few = jax.tree.map(lambda a: a[:: -(-len(rows) // PROBED)], statistics)
        probe = jax.tree.map(lambda a: a[:COMPARED], splits["tune"])
        seen = jax.vmap(lambda own: network.loss(params, probe, own))(few)
        cut = self.cut(splits["test"], ordered, of_test, self.config.test_draws)
        tune = batches_of(self.cut(splits["tune"], ordered, of_tune, 1), size)
        return {
            "own_tune_loss": networks.in_batches(network, params, splits["tune"], tune)[0].mean(),
            "own_train_loss": loss.mean(),
            "mean_spread": of_mean,
            "variance_spread": of_variance,
            "probe_sd": seen.std(),
            "own_test_error": self.errors_in_batches(
                network, params, splits["test"], cut, size
            ).mean(),
        }

    # -- the floor of the training loss

    def floor(self, name: str, key, starts, splits):
        """Lowest loss of a narrow network on random labels, of all and of half
        the steps, [arms, rates].

        All images are one batch: no noise keeps the loss up.
        """
        config = self.config
        network, start = self.narrow[name], starts[name]
        x, y = jax.tree.map(lambda a: a[: config.floor_images], splits["train"])
        labels = jax.random.randint(jax.random.fold_in(key, 7), y.shape, 0, self.classes, y.dtype)

        def one(affine, rate):
            optimizer = optimizers.make("adam", rate)

            def loss(params):
                return network.loss(networks.frozen(params, affine), (x, labels))

            def step(carry, _):
                params, state = carry
                value, gradient = jax.value_and_grad(loss)(params)
                updates, state = optimizer.update(gradient, state, params)
                return (jax.tree.map(jnp.add, params, updates), state), value

            begin = start, optimizer.init(start)
            _, values = jax.lax.scan(step, begin, length=config.floor_steps)
            values = jnp.where(jnp.isfinite(values), values, jnp.inf)
            return {"floor": values.min(), "half_floor": values[: -(-len(values) // 2)].min()}

        affine = jnp.array([True, False] if network.model.batch_norm else [True])
        rates = jnp.float32(config.floor_rates)
        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(affine, rates)

    # -- batch noise off

    def ghost(self, key, starts, splits):
        """As `of_size` in i.i.d. batches, with further images in the statistics, [rates, ...]."""
        config, train = self.config, splits["train"]

        def one(own):
            trainer = networks.trainer(
                self.bn, own, starts["bn"], train, self.classes, config.ghost_batch,
                (config.momentum,), config.ghost_images,
            )  # fmt: skip
            state, _ = self.train(trainer, key, train)
            return self.ended(self.bn, state, splits)

        return jax.vmap(one)(stack(condition(rate) for rate in config.size_rates))

    # -- before training

    def start(self, key, starts, splits):
        """Growth of the squared gradient a layer, of each batch size, and without normalising."""
        config = self.config
        keys = jax.random.split(jax.random.fold_in(key, 10))
        weights = theory.draw_weights(keys[0], config.growth_width, config.growth_depth)
        grown = [theory.measured_growth(keys[1], weights, b) for b in config.growth_batches]
        plain = theory.measured_growth(keys[1], weights, config.growth_batches[-1], False)
        return {"growth": jnp.stack(grown), "plain_growth": plain}

    def scale(self, key):
        """How exactly scaling the inputs is scaling epsilon, with batch and fixed statistics."""
        of_batch, fixed = theory.scale_identity(jax.random.fold_in(key, 11))
        return {"scale_batch": of_batch, "scale_fixed": fixed}


def headline(row) -> dict[str, float]:
    """The live number of a stage."""
    for name, words in (
        ("train_loss", "training loss"), ("floor", "training loss"), ("growth", "growth a layer")
    ):  # fmt: skip
        if name in row:
            values = np.asarray(row[name], float)
            good = values[np.isfinite(values)]
            return {words: float(np.median(good)) if good.size else np.nan}
    return {}
