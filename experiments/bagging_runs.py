"""Trains the arms of `bagging`: settings and arrays in, record out."""

import functools
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlstudy import ensembles, losses, models, optimizers, sweep, training
from dlstudy.data import Data
from dlstudy.host import Host
from dlstudy.stages import run_stage
from experiments import bagging_record as records
from experiments.dropout_runs import narrowed

# Streams of a seed's key.
SPLIT, ROWS, INIT, ORDER, MASKS, PIXELS, REGRESSION = range(7)


class Seed(NamedTuple):
    """The images of one seed, (x [N, D], y [N]) each."""

    train: tuple
    tune: tuple
    test: tuple


class Share(NamedTuple):
    """One condition of dropout; arrays with an entry a condition."""

    rate: jax.Array  # Adam's
    hidden: jax.Array  # probability that a hidden unit is dropped


def run(config, data: Data, host: Host):
    """Runs all stages and returns the record, an `xarray.Dataset` (see `bagging_record`)."""
    seeds = list(host.seeds(config.num_seeds))
    study = Study(config, data, host, seeds)
    with sweep.compiler() as pool:
        study.compile(pool)
        return assembled(study, seeds)


def assembled(study, seeds):
    """Runs all stages of a study of these seeds and puts their rows together."""
    rows = {
        "regression": study.run_regression(),
        "members": study.run_members(),
        "dropout": study.run_dropout(),
    }
    rows |= {f"wide_{count}": study.run_wide(count) for count in study.config.counts}
    return records.assemble(study.config, seeds, rows, study.sizes(rows))


class Study:
    """The data on the device, and the programs over seeds."""

    def __init__(self, config, data: Data, host: Host, seeds):
        self.config, self.host, self.classes = config, host, data.classes
        self.keys = sweep.seed_keys(config.seed, seeds)
        every = [data.train, data.tune, data.test]
        images = (
            np.concatenate([split.x.reshape(len(split.y), -1) for split in every]),
            np.concatenate([split.y for split in every]),
        )
        self.splits = self.program(self.cut, 1)(self.keys, images)
        self.regressions = self.program(self.regression)
        self.separate = self.program(self.members)
        self.begun = self.program(functools.partial(self.begin, self.model(config.width)))
        self.dropout = self.program(
            functools.partial(self.passes, self.model(config.width)), donate=(0,)
        )
        self.monte_carlo = self.program(self.masks)
        self.wide = {
            n: self.program(functools.partial(self.begun_passes, self.model(n * config.width)))
            for n in config.counts
        }

    def program(self, function, shared=0, donate=()):
        return sweep.over_seeds(function, self.host.layout, shared=shared, donate=donate)

    def model(self, width: int) -> models.MLP:
        return models.MLP((width,), self.classes)

    def compile(self, pool):
        """Has the programs compiled while others run."""
        splits = self.splits
        self.separate.compile(self.keys, *self.arm("bagging"), splits, pool=pool)
        state = self.begun.compile(self.keys, splits, pool=pool)
        self.dropout.compile(state, self.keys, splits, pool=pool)
        self.monte_carlo.compile(state.params, self.keys, *self.choices(), splits, pool=pool)
        for count in self.config.counts:
            self.wide[count].compile(self.keys, splits, pool=pool)

    def cut(self, key, images) -> Seed:
        """One seed's images: each cuts all of them into splits of its own."""
        config = self.config
        order = jax.random.permutation(jax.random.fold_in(key, SPLIT), len(images[1]))
        sizes = np.cumsum([0, config.train_size, config.tune_size, config.test_size])
        part = lambda a, i: a[order[sizes[i] : sizes[i + 1]]]  # noqa: E731
        return Seed(*(tuple(part(a, i) for a in images) for i in range(3)))

    # -- softmax regression, float64

    def regression(self, key, splits: Seed) -> dict:
        """One seed: predictors of one softmax regression, their scores and distances."""
        config = self.config
        x, y = splits.train[0].astype(jnp.float64), splits.train[1]
        # Pixels at the rim are always 0: those that vary more are drawn more often.
        pixels = jax.random.choice(jax.random.fold_in(key, PIXELS), x.shape[1],
                                   (config.exact_units,), replace=False, p=x.var(0))  # fmt: skip
        x, key = x[:, pixels], jax.random.fold_in(key, REGRESSION)
        optimizer = optimizers.make("adam", 0.05)

        def logits(params, x):
            return x @ params[0] + params[1][None]

        def loss(params, key):
            return losses.cross_entropy(logits(params, models.drop(key, x, config.exact_drop)), y)

        def step(run, number):
            params, state = run
            slope = jax.grad(loss)(params, jax.random.fold_in(key, number))
            updates, state = optimizer.update(slope, state, params)
            return (jax.tree.map(jnp.add, params, updates), state), None

        params = jnp.zeros((config.exact_units, self.classes)), jnp.zeros(self.classes)
        (params, _), _ = jax.lax.scan(
            step, (params, optimizer.init(params)), jnp.arange(config.exact_steps)
        )
        x, y = splits.test[0][:, pixels].astype(jnp.float64), splits.test[1]
        found = of_regression(functools.partial(logits, params), x, config.exact_drop)
        stacked = jnp.stack([found[name] for name in records.REGRESSION])
        scores = jax.vmap(lambda log_p: ensembles.scores(log_p, y))(stacked)._asdict()
        return {f"regression_{name}": values for name, values in scores.items()} | {
            "regression_gap": jnp.abs(stacked - stacked[:1]).max((1, 2)),
            "regression_log_p": jnp.take_along_axis(stacked, y[None, :, None], 2)[..., 0],
        }

    def run_regression(self) -> dict:
        with jax.enable_x64(True):
            return self.once("regression", lambda: self.regressions(self.keys, self.splits))

    def once(self, name: str, work) -> dict:
        """A stage of one unit."""
        return run_stage(self.host, name, 1, lambda: (), lambda unit, state: ((), work()))[0]

    # -- models trained separately

    def members(self, key, sources, width, splits: Seed):
        """One seed: all models at each rate, trained side by side.

        Args:
          key: of the seed.
          sources: bool[3], what members do not share: rows of the training set (bootstrap samples
            instead of the whole), start, order of the examples.
          width: units that each model has of the hidden layer.
          splits: its images.

        Returns:
          (row, parameters of the members at the middle rate [K, ...]).
        """
        model, count = self.model(self.config.width), self.config.models
        config = self.config
        (x, y), size, number = splits.train, config.train_size, jnp.arange(count)
        rows, start, order = (
            jax.vmap(lambda i, own=own, stream=stream: jax.random.fold_in(
                jax.random.fold_in(key, stream), jnp.where(own, i, 0)
            ))(number)
            for own, stream in zip(sources, (ROWS, INIT, ORDER), strict=True)
        )  # fmt: skip
        rows = jax.vmap(lambda key: ensembles.bootstrap_rows(key, size))(rows)
        rows = jnp.where(sources[0], rows, jnp.arange(size)[None])

        def loss(params, statistics, batch, key):
            logits, _ = model.apply({"params": params}, x[batch])
            return losses.cross_entropy(logits, y[batch]), statistics

        def initial(key):
            return narrowed(models.initialise(model, key, x[0]), width)

        def train(rate, rows, start, order):
            trainer = training.make_noisy_trainer(
                initial, loss, optimizers.make("adam", rate), config.batch_size
            )
            state, values = jax.lax.scan(
                lambda state, _: trainer.epoch(state, order, rows), trainer.init(start),
                length=config.epochs,
            )  # fmt: skip
            return state.params, values.reshape(-1)

        together = jax.vmap(train, (None, 0, 0, 0))
        params, values = jax.vmap(together, (0, None, None, None))(
            jnp.array(config.rates, jnp.float32), rows, start, order
        )

        def tested(params):
            many = ensembles.bagged_members(lambda p, x: model.apply({"params": p}, x)[0], params)
            images = {"tune": splits.tune, "test": splits.test}
            log_p = {name: ensembles.predictions(many, x) for name, (x, _) in images.items()}
            return examined(log_p, {name: y for name, (_, y) in images.items()})

        row = jax.lax.map(tested, params)
        middle = jax.tree.map(lambda a: a[len(config.rates) // 2], params)
        return row | {"loss": values.mean(1)}, middle

    def arm(self, name: str):
        """Sources and width of an arm, for every seed."""
        own = records.separate(self.config)[name]
        return tuple(np.stack([np.array(value)] * len(self.keys)) for value in own)

    def run_members(self) -> dict[str, dict]:
        """A row for each arm of separately trained models."""
        names = list(records.separate(self.config))

        def advance(unit, state):
            row, params = jax.device_get(
                self.separate(self.keys, *self.arm(names[unit]), self.splits)
            )
            return (), row | {"zlib_ratio": zlib_ratio(params), "bytes": bytes_of(params)}

        rows = run_stage(
            self.host, "members", len(names), lambda: (), advance,
            lambda row: {"test error of all": float(np.nanmin(np.median(row["test_error"], 0)))},
        )  # fmt: skip
        return dict(zip(names, rows, strict=True))

    # -- one network with dropout

    def shares(self) -> Share:
        """All conditions."""
        return Share(*jnp.asarray(records.conditions(self.config), jnp.float32))

    def trainer(self, model, splits: Seed, share: Share) -> training.Trainer:
        def loss(params, statistics, batch, key):
            dropout = models.Dropout(key, share.hidden, self.config.input_drop)
            logits, _ = model.apply({"params": params}, batch[0], dropout=dropout)
            return losses.cross_entropy(logits, batch[1]), statistics

        return training.make_noisy_trainer(
            lambda key: models.initialise(model, key, splits.train[0][0]), loss,
            optimizers.make("adam", share.rate), self.config.batch_size,
        )  # fmt: skip

    def begin(self, model, key, splits: Seed) -> training.NoisyState:
        """One seed: all conditions from one start."""
        own = jax.random.fold_in(jax.random.fold_in(key, INIT), 0)
        return jax.vmap(lambda share: self.trainer(model, splits, share).init(own))(self.shares())

    def passes(self, model, state, key, splits: Seed):
        """One seed: as many passes as a model of the ensembles gets; (state, row)."""
        own = jax.random.fold_in(key, MASKS)

        def one(share, state):
            trainer = self.trainer(model, splits, share)
            state, values = jax.lax.scan(
                lambda state, _: trainer.epoch(state, own, splits.train), state,
                length=self.config.epochs,
            )  # fmt: skip
            row = {"loss": values.reshape(-1)}
            for name, kept in (("tune", records.TUNING), ("test", records.SCORES)):
                x, y = getattr(splits, name)
                scaled = ensembles.predictor(lambda x: model.apply({"params": state.params}, x)[0])
                values = ensembles.scores(scaled(x), y)._asdict()
                row |= {f"{name}_{score}": values[score] for score in kept}
            return state, row

        return jax.vmap(one)(self.shares(), state)

    def begun_passes(self, model, key, splits: Seed) -> dict:
        """The same from the start on; the row alone."""
        return self.passes(model, self.begin(model, key, splits), key, splits)[1]

    def run_dropout(self) -> list[dict]:
        """A row after every so many passes; masks are drawn after the last ones."""
        last = self.config.models - 1

        def advance(unit, state):
            shapes = self.monte_carlo.compile(state.params, self.keys, *self.choices(), self.splits)
            state, row = self.dropout(state, self.keys, self.splits)
            row = jax.device_get(row)
            if unit == last:
                chosen = records.best(row), records.best_of_shares(self.config, row)
                chosen = (index.astype(np.int32) for index in chosen)
                more = self.monte_carlo(state.params, self.keys, *chosen, self.splits)
            else:  # rows have one shape
                more = jax.tree.map(lambda s: np.full(s.shape, np.nan, s.dtype), shapes)
            # `state` has the networks of all conditions.
            first = jax.tree.map(lambda a: a[:, :1], state.params)
            return state, row | jax.device_get(more) | {"bytes": bytes_of(first)}

        return run_stage(
            self.host, "dropout", self.config.models,
            lambda: self.begun(self.keys, self.splits), advance,
            lambda row: {"test error": float(np.nanmin(np.median(row["test_error"], 0)))},
        )  # fmt: skip

    def choices(self):
        """Shapes of what `masks` is told to look at."""
        seeds, shares = len(self.keys), len(self.config.drops)
        return tuple(jax.ShapeDtypeStruct(shape, np.int32) for shape in ((seeds,), (seeds, shares)))

    def run_wide(self, count: int) -> dict:
        return self.once(f"wide_{count}", lambda: self.wide[count](self.keys, self.splits))

    def masks(self, params, key, chosen, of_shares, splits: Seed) -> dict:
        """One seed: random masks of trained networks as members, and against weight scaling.

        Args:
          params: of all conditions [Q, ...].
          key: of the seed.
          chosen: the condition to compare with weight scaling.
          of_shares: conditions int[shares] whose masks are compared with separate models.
          splits: its images.
        """
        config, model = self.config, self.model(self.config.width)
        x, y = splits.test
        key, own, share = jax.random.fold_in(key, MASKS), params, self.shares()

        def log_p_of(which, count):
            """Predictions of random masks of a condition's network."""
            params, hidden = jax.tree.map(lambda a: a[which], (own, share.hidden))

            def passed(x, key):
                dropout = models.Dropout(key, hidden, config.input_drop)
                return model.apply({"params": params}, x, dropout=dropout)[0]

            return ensembles.predictions(ensembles.random_masks(passed, key, count), x)

        members = jax.lax.map(
            lambda which: examined({"test": log_p_of(which, config.models)}, {"test": y}), of_shares
        )
        params, hidden = jax.tree.map(lambda a: a[chosen], (own, share.hidden))
        keep = {"hidden_0": 1 - config.input_drop, "head": 1 - hidden}
        twice = {name: {"kernel": keep[name] * p["kernel"], "bias": p["bias"]}
                 for name, p in params.items()}  # fmt: skip
        log_p = log_p_of(chosen, config.masks)
        estimate, inside = ensembles.estimate(log_p), jnp.ones(config.masks)
        found = {
            name: ensembles.predictor(lambda x, p=p: model.apply({"params": p}, x)[0])(x)
            for name, p in (("weight scaling", params), ("scaled twice", twice))
        } | {"geometric mean": ensembles.combine(log_p, ensembles.of_subsets(inside), "geometric")}
        found = jnp.stack([found[name] for name in records.PREDICTORS])
        counts = jnp.array(records.mask_counts(config))[:, None]
        means = means_of(log_p, (jnp.arange(config.masks)[None] < counts).astype(jnp.float32))
        noise = jnp.square(estimate.standard_error).sum(1).mean()

        def scored(log_p):
            away = lambda centre: jnp.square(jnp.exp(log_p) - centre[None]).sum(2).mean(1)  # noqa: E731
            row = jax.vmap(lambda log_p: ensembles.scores(log_p, y))(log_p)._asdict()
            centre = found[records.PREDICTORS.index("geometric mean")]
            return row | {
                "distance": away(estimate.mean),
                "geometric_distance": away(jnp.exp(centre)),
            }

        return (
            {f"predictor_{name}": values for name, values in scored(found).items()}
            | {f"mask_{name}": values for name, values in scored(means).items()}
            | {f"masks_{name}": values for name, values in members.items()}
            | {"mask_noise": noise, "mask_variance": noise * config.masks}
        )

    # -- what has to be stored

    def sizes(self, rows: dict) -> dict[str, np.ndarray]:
        """Bytes of the parameter arrays by number of models, for each arm, int[K]; 0: not run.

        Counted in the trained arrays; for networks of another width in arrays of their shapes.
        """
        config, numbers = self.config, range(1, self.config.models + 1)

        def of(width, members=1):
            example = self.splits.train[0][0, 0]
            one = lambda key: models.initialise(self.model(width), key, example)  # noqa: E731
            keys = jax.random.split(jax.random.key(0), members)
            return ensembles.parameter_bytes(jax.eval_shape(jax.vmap(one), keys))

        found = {name: rows["members"][name]["bytes"] for name in records.MEMBERS}
        found["dropout"] = [row["bytes"][0] for row in rows["dropout"]]
        at = lambda k, size: size() if k == 1 or k in config.counts else 0  # noqa: E731
        found["wide"] = [at(k, lambda k=k: of(k * config.width)) for k in numbers]
        found["small"] = [at(k, lambda k=k: of(config.width // k, k)) for k in numbers]
        one = 8 * (config.exact_units + 1) * self.classes  # float64
        found["regression"] = [one] * config.models
        return {name: np.array(values) for name, values in found.items()}


def of_regression(logits, x, rate) -> dict:
    """Log-probabilities by each predictor of a softmax regression trained with dropped inputs.

    Args:
      logits: x [N, D] -> [N, C], without dropout.
      x: the inputs.
      rate: probability that an input is dropped.
    """
    every = ensembles.every_mask(lambda x, scale: logits(x * scale[None]), x.shape[1], rate)
    return {
        "weight scaling": ensembles.predictor(logits)(x),
        "geometric mean": ensembles.average(every, "geometric")(x),
        "arithmetic mean": ensembles.average(every, "arithmetic")(x),
        # Masks are inverted: scaling the weights once more is a mistake.
        "scaled twice": ensembles.predictor(lambda x: logits((1 - rate) * x))(x),
    }


def examined(log_p: dict, labels: dict) -> dict:
    """Scores of ensembles of 1, 2, ... K members, and how diverse the members are.

    Args:
      log_p: log-probabilities of the members by split, [K, N, C]; "test", and "tune" if choices
        are to be made.
      labels: of the splits, int[N].
    """
    y = labels["test"]
    products = ensembles.error_products(jnp.exp(log_p["test"]), y)
    windows = jnp.asarray(ensembles.rings(len(products)))

    def of_count(inside):
        """Means over the windows of one size, inside [K, K]."""
        found = {}
        for name, kept in (("tune", records.TUNING), ("test", records.SCORES)):
            if name in log_p:
                means = means_of(log_p[name], inside)
                values = jax.vmap(ensembles.scores, (0, None))(means, labels[name])._asdict()
                found |= {f"{name}_{score}": values[score].mean(0) for score in kept}
        variance, covariance = jax.vmap(ensembles.moments, (None, 0))(products, inside)
        return found | {"variance": variance.mean(), "covariance": covariance.mean()}

    votes = ensembles.scores(ensembles.majority(log_p["test"]), y)._asdict()
    return jax.lax.map(of_count, windows) | {f"vote_{k}": v for k, v in votes.items()} | {
        "disagreement": ensembles.over_pairs(ensembles.disagreement(log_p["test"])),
        "correlation": ensembles.over_pairs(ensembles.error_correlation(log_p["test"], y)),
    }  # fmt: skip


def means_of(log_p, inside) -> jax.Array:
    """Log of the mean probabilities over each subset: [K, N, C], inside [W, K] -> [W, N, C]."""
    return jax.vmap(ensembles.combine, (None, 0))(log_p, ensembles.of_subsets(inside))


def bytes_of(params) -> np.ndarray:
    """Bytes of the first 1, 2, ... K members of one seed: [S, K, ...] -> int[K]."""
    own = jax.tree.map(lambda a: a[0], params)
    numbers = range(1, len(jax.tree.leaves(own)[0]) + 1)
    return np.array(
        [ensembles.parameter_bytes(jax.tree.map(lambda a: a[:k], own)) for k in numbers]  # noqa: B023
    )


def zlib_ratio(params) -> np.ndarray:
    """Bytes of all members' arrays over those of the first, by zlib: [S, K, ...] -> [S]."""

    def size(tree) -> int:
        return len(zlib.compress(b"".join(a.tobytes() for a in jax.tree.leaves(tree)), 1))

    seeds = range(len(jax.tree.leaves(params)[0]))
    own = [jax.tree.map(lambda a: a[s], params) for s in seeds]  # noqa: B023
    return np.array([size(tree) / size(jax.tree.map(lambda a: a[:1], tree)) for tree in own])
