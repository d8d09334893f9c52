"""Trains the arms of `mnist_gradnorm` and measures them: settings and arrays in, record out."""

import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from dlstudy import (
    chunks,
    curvature,
    losses,
    models,
    noise,
    optimizers,
    representations,
    sweep,
    training,
)
from dlstudy.data import Data, Split, noisy_labels, stratified_subset
from dlstudy.host import Host
from dlstudy.stages import run_stage
from experiments import mnist_gradnorm_record as records

CKA_IMAGES = 256  # of the test split: Gram matrices of this size, whatever the set


class Arm(NamedTuple):
    """One way to train; arms that differ in numbers only share a compiled program."""

    name: str
    optimizer: str
    epochs: int
    instruments: training.Instruments
    gradient_every: int = 0  # epochs
    curvature_every: int = 0  # epochs


class Measured(NamedTuple):
    """What the instruments carry from epoch to epoch, beside the training state."""

    predictions: jax.Array  # int32[N], classes of the test images an epoch ago; -1 at first
    top: jax.Array  # float32[P], eigenvector of the Hessian when last measured; 0 at first
    preconditioned_top: jax.Array  # float32[P], the same of the preconditioned Hessian


class State(NamedTuple):
    """One seed of one arm."""

    train: training.TrainState
    measured: Measured


class Prepared(NamedTuple):
    """An arm with its data and its programs, which are being compiled."""

    arm: Arm
    data: tuple  # images and labels, on the device
    keys: jax.Array  # [rates x S]
    rate: jax.Array  # float32[rates x S]
    start: Callable  # (parameters, rate) -> State
    train: Callable  # (train state, key, rate, data) -> (train state, metrics, displacement)
    blank: dict[str, np.ndarray]  # NaN for everything that is measured: all rows look alike


@dataclasses.dataclass
class Stopwatch:
    """Seconds that each program took in an epoch, its first call (compilation) aside."""

    seconds: dict[str, list[float]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(list)
    )

    @contextlib.contextmanager
    def __call__(self, name):
        start = time.perf_counter()
        yield
        self.seconds[name].append(time.perf_counter() - start)

    def lines(self, arm: str):
        """Cost of each program relative to training, as text."""
        typical = {k: float(np.median(v[1:])) for k, v in self.seconds.items() if len(v) > 1}
        base = typical.pop("train", None)
        if not base:
            return
        yield f"{arm}: training with its per-step instruments {base:.2f} s an epoch"
        for name, seconds in typical.items():
            yield f"{arm}: {name} {seconds:.2f} s a time, {seconds / base:.2f} of such an epoch"


def run(config, data: Data, host: Host):
    """Runs all arms and returns the record, an `xarray.Dataset` (see `mnist_gradnorm_record`)."""
    seeds = list(host.seeds(config.num_seeds))
    study = Study(config, data, host, seeds)
    arms = [(study.main, data.train, (config.learning_rate,))]
    if "label_noise" in config.controls:
        arms.append((study.noisy, noisier(config, data), (config.learning_rate,)))
    if "rates" in config.controls:
        arms.append((study.fixed, data.train, config.rates))
        arms.append((study.capped, data.train, (max(config.rates),)))
    with sweep.compiler() as pool:
        prepared = [study.prepare(*arm, pool) for arm in arms]
        if "heads" in config.controls:
            study.prepare_heads(data.train, pool)
        rows = {one.arm.name: study.run_arm(one) for one in prepared}
        if "heads" in config.controls:
            rows["heads"] = study.run_heads(rows["main"], data.train)
    return records.assemble(config, data, seeds, rows)


def noisier(config, data: Data) -> Split:
    """The training split with the control's share of wrong labels."""
    # The next seed's draw: --label_noise has used this one's, and would move the same images.
    seed = config.seed + 1
    labels = noisy_labels(data.train.y, config.control_label_noise, data.classes, seed)
    return Split(data.train.x, labels)


def distance(a, b) -> jax.Array:
    """l2 distance of two trees."""
    return optax.tree.norm(jax.tree.map(jnp.subtract, a, b))


def convolutions_of(params) -> jax.Array:
    """All parameters but the head's as one vector a seed: tree with axis [S] -> [S, P]."""
    rest = {name: layer for name, layer in params.items() if name != "head"}
    return jax.vmap(lambda tree: ravel_pytree(tree)[0])(rest)


def headline(row) -> dict[str, float]:
    """Medians over the runs that did not diverge, for the progress display."""
    shown = {"train_loss": "loss", "test_error": "error", "full_grad_norm": "gradient norm"}
    good = ~row["diverged"]
    found = {
        label: float(np.nanmedian(row[name][good]))
        for name, label in shown.items()
        if name in row and not np.isnan(row[name][good]).all()
    }
    return found | {"diverged": int(row["diverged"].sum())}


class Study:
    """The model, the data on the device and the programs over seeds that the arms share."""

    def __init__(self, config, data: Data, host: Host, seeds):
        self.config, self.host, self.classes = config, host, data.classes
        self.keys = sweep.seed_keys(config.seed, seeds)
        self.model = models.CNN(config.channels, data.classes, config.network == "two_conv")
        self.test, self.tune = jax.device_put((tuple(data.test), tuple(data.tune)))
        self.splits = {"tune": self.tune, "test": self.test}
        rows = stratified_subset(data.train.y, config.curvature_size or len(data.train.y))
        self.subset = jax.device_put((data.train.x[rows], data.train.y[rows]))
        norms = config.norms_every
        self.main = Arm(
            "main", config.optimizer, config.epochs,
            training.Instruments(config.taylor_every, 0, norms),
            config.gradient_every, config.curvature_every,
        )  # fmt: skip
        self.noisy = self.main._replace(
            name="label_noise", instruments=training.Instruments(0, 0, norms),
            gradient_every=config.control_gradient_every, curvature_every=0,
        )  # fmt: skip
        self.fixed = Arm("rates", "sgd", config.epochs_at_rates, training.Instruments(0, 1, norms))
        self.capped = self.fixed._replace(name="capped", optimizer="capped")
        # Programs that all arms share.
        self.initial = self.over_seeds(self.init_params)
        self.distance = self.over_seeds(distance)
        self.evaluation = self.over_seeds(self.evaluate, 1)
        self.evaluation_of_training = self.over_seeds(self.evaluate_training, 1)
        self.gradient = self.over_seeds(self.full_gradient, 1)
        self.curvature = self.over_seeds(self.curvatures, 1)
        self.head = self.over_seeds(self.train_head, 2)

    # -- functions of one seed

    def loss(self, params, batch):
        images, labels = batch
        return losses.cross_entropy(self.model.apply({"params": params}, images)[0], labels)

    def init_params(self, key):
        return models.initialise(self.model, jax.random.fold_in(key, 0), self.test[0][0])

    def optimizer(self, arm: Arm, rate):
        return optimizers.make(arm.optimizer, rate, momentum=self.config.momentum)

    def trainer(self, arm: Arm, rate):
        return training.make_trainer(
            self.init_params,
            self.loss,
            self.optimizer(arm, rate),
            self.config.batch_size,
            instruments=arm.instruments,
            needs_curvature=arm.optimizer == "capped",
        )

    def start(self, arm: Arm, params, rate) -> State:
        train = training.TrainState(params, self.optimizer(arm, rate).init(params), jnp.int32(0))
        flat, _ = ravel_pytree(train.params)
        size = flat.shape[0] if arm.curvature_every else 0
        unseen = jnp.full(self.test[1].shape, -1, jnp.int32)
        return State(train, Measured(unseen, jnp.zeros(size), jnp.zeros(size)))

    def train_epoch(self, arm: Arm, train, key, rate, data):
        """One epoch, and how far it moved the parameters: (state, metrics, displacement)."""
        before = train.params
        train, metrics = self.trainer(arm, rate).epoch(train, jax.random.fold_in(key, 2), data)
        return train, metrics, distance(train.params, before)

    def outputs(self, params, images):
        logits = lambda x: self.model.apply({"params": params}, x)[0]  # noqa: E731
        return chunks.map_over_chunks(logits, images)

    def evaluate(self, params, predictions, splits):
        """Losses and errors of `splits` by name, and churn of the test predictions."""
        # One loop over all of them: a loop for each would be compiled for each.
        logits = self.outputs(params, jnp.concatenate([split[0] for split in splits.values()]))
        ends = np.cumsum([len(split[1]) for split in splits.values()])
        logits = dict(zip(splits, jnp.split(logits, ends[:-1]), strict=True))
        row = {}
        for name, split in splits.items():
            row[f"{name}_loss"] = losses.cross_entropy(logits[name], split[1])
            row[f"{name}_error"] = losses.error_rate(logits[name], split[1])
        classes = logits["test"].argmax(1).astype(jnp.int32)
        churn = (classes != predictions).mean(dtype=jnp.float32)
        row["churn"] = jnp.where(predictions[0] < 0, jnp.nan, churn)
        return classes, row

    def evaluate_training(self, params, data):
        """Loss and error of the training split, where no full-batch gradient gives them."""
        logits = self.outputs(params, data[0])
        return {
            "train_loss": losses.cross_entropy(logits, data[1]),
            "train_error": losses.error_rate(logits, data[1]),
        }

    def full_gradient(self, params, data):
        found = noise.gradient_and_noise(
            lambda z, y: (losses.cross_entropy(z, y), losses.error_rate(z, y)),
            self.model.apply, params, data, len(self.model.widths) + 1,
        )  # fmt: skip
        layers = [optax.tree.norm(found.gradient[k]) for k in training.layer_names(params)]
        return {
            "train_loss": found.loss,
            "train_error": found.error,
            "full_grad_norm": optax.tree.norm(found.gradient),
            "full_layer_grad_norm": jnp.stack(layers),
            "gradient_trace": found.trace,
        }

    def curvatures(self, train, measured, subset):
        """g'Hg / g'g, the largest eigenvalue and the preconditioned one, on the subset."""
        with jax.default_matmul_precision("highest"):  # a GPU's default, TF32, is too coarse
            return self._curvatures(train, measured, subset)

    def _curvatures(self, train, measured, subset):
        params = train.params
        mean = lambda f, chunk=None: chunks.mean_over_chunks(f, subset, chunk)  # noqa: E731
        gradient = mean(lambda b: jax.grad(self.loss)(params, b))
        along = mean(lambda b: curvature.directional(lambda p: self.loss(p, b), params, gradient))
        flat, unravel = ravel_pytree(gradient)

        def product(v):
            batch = lambda b: curvature.hessian_product(  # noqa: E731
                lambda p: self.loss(p, b), params, unravel(v)
            )
            return ravel_pytree(mean(batch, chunks.chunk_of_products()))[0]

        def largest(product, start):
            return curvature.largest_eigenpair(
                product, start, tolerance=self.config.curvature_tolerance,
                max_products=self.config.curvature_products,
            )  # fmt: skip

        top = largest(product, curvature.warm_start(measured.top, flat))
        row = {"gradient_curvature": along.curvature / optax.tree.norm(gradient, squared=True)}
        pairs, vectors = {"sharpness": top}, {"top": top.vector}
        if optax.tree.get(train.opt_state, "nu") is not None:
            root, _ = ravel_pytree(
                jax.tree.map(jax.lax.rsqrt, optimizers.adam_preconditioner(train.opt_state))
            )
            # Before the first step there is no preconditioner: nothing is said, and the search is
            # over at once, as it starts from the plain eigenvector.
            last = measured.preconditioned_top
            start = curvature.warm_start(jnp.where(last.any(), last, top.vector), root * flat)
            pair = largest(lambda u: root * product(root * u), start)
            unknown = jnp.where(train.step > 0, 0, jnp.nan)
            pairs["preconditioned_sharpness"] = pair._replace(value=pair.value + unknown)
            vectors["preconditioned_top"] = pair.vector
        for name, pair in pairs.items():
            row[name] = pair.value
            row[f"{name}_residual"] = pair.residual / jnp.abs(pair.value)
            row[f"{name}_products"] = pair.products
        return measured._replace(**vectors), row

    # -- stages: loops of the host over epochs

    def over_seeds(self, function, shared=0, donate=()):
        return sweep.over_seeds(function, self.host.layout, shared=shared, donate=donate)

    def prepare(self, arm: Arm, train_split, rates, pool) -> Prepared:
        """Traces an arm's programs, at each of `rates`, and has them compiled in the pool."""
        data = jax.device_put(tuple(train_split))
        # By NumPy, for which nothing need be compiled.
        rate = np.repeat(np.asarray(rates, np.float32), len(self.keys))
        words = np.tile(jax.random.key_data(self.keys), (len(rates), 1))
        keys = jax.random.wrap_key_data(words)
        start = self.over_seeds(lambda params, r: self.start(arm, params, r))
        train = self.over_seeds(
            lambda state, key, r, data: self.train_epoch(arm, state, key, r, data), 1, (0,)
        )

        def compiled(program, *arguments):
            return program.compile(*arguments, pool=pool)

        def shapes(tree, count):
            return jax.tree.map(
                lambda a: jax.ShapeDtypeStruct((count, *a.shape[1:]), a.dtype), tree
            )

        params = compiled(self.initial, self.keys)
        state = compiled(start, shapes(params, len(rate)), rate)
        measured, row = shapes(state.measured, len(self.keys)), {}
        if self.config.evaluate_every:
            row |= compiled(self.evaluation, params, measured.predictions, self.splits)[1]
            if arm.gradient_every != 1:
                row |= compiled(self.evaluation_of_training, params, data)
        if arm.gradient_every:
            row |= compiled(self.gradient, params, data)
        if arm.curvature_every:
            row |= compiled(self.curvature, state.train, measured, self.subset)[1]
        _, metrics, moved = compiled(train, state.train, keys, rate, data)
        distances = compiled(self.distance, params, params)
        row |= metrics._asdict() | {"displacement": moved, "distance": distances}
        blank = {
            name: np.full((len(rate), *found.shape[1:]), np.nan, np.float32)
            for name, found in row.items()
        } | {"diverged": np.zeros(len(rate), bool)}
        return Prepared(arm, data, keys, rate, start, train, blank)

    def run_arm(self, prepared: Prepared) -> list[dict]:
        """Trains one arm; rows by epoch.

        Row values have a leading axis of seeds, or of rates x seeds when there are several.
        """
        arm, data, keys, rate, start, train, blank = prepared
        clock = Stopwatch()
        repeats = len(rate) // len(self.keys)
        origin = jax.tree.map(
            lambda a: np.tile(a, (repeats, *[1] * (a.ndim - 1))), self.initial(self.keys)
        )

        def advance(epoch, state: State):
            due = lambda every: every and (epoch % every == 0 or epoch == arm.epochs)  # noqa: E731
            fitted, measured = state
            row = dict(blank)  # NaN: not measured in this epoch
            if epoch:
                with clock("train"):
                    fitted, metrics, moved = jax.block_until_ready(train(fitted, keys, rate, data))
                row |= metrics._asdict() | {"displacement": moved}
                row["distance"] = self.by_rate(self.distance, (fitted.params, origin))
                # Also where only the last step spoilt the parameters.
                row["diverged"] = ~np.isfinite(moved) | ~np.isfinite(metrics.loss).all(1)
            elif arm is self.main and self.config.measure_cost:
                for line in self._cost_of_steps(arm, data):
                    self.host.log(line)
            if due(arm.gradient_every):
                with clock("full-batch gradient and its noise"):
                    row |= jax.block_until_ready(self.gradient(fitted.params, data))
            if due(self.config.evaluate_every):
                with clock("evaluation"):
                    classes, found = jax.block_until_ready(
                        self.by_rate(
                            self.evaluation, (fitted.params, measured.predictions), self.splits
                        )
                    )
                    if not due(arm.gradient_every):
                        found |= jax.block_until_ready(
                            self.by_rate(self.evaluation_of_training, (fitted.params,), data)
                        )
                measured = measured._replace(predictions=classes)
                row |= found
            if due(arm.curvature_every):
                with clock("curvature"):
                    measured, found = jax.block_until_ready(
                        self.curvature(fitted, measured, self.subset)
                    )
                row |= found
            if arm is self.main:
                row["convolutions"] = convolutions_of(fitted.params)
            return State(fitted, measured), row

        rows = run_stage(
            self.host, arm.name, arm.epochs + 1, lambda: start(origin, rate), advance, headline
        )
        for line in clock.lines(arm.name):
            self.host.log(line)
        return rows

    def by_rate(self, program, per_seed, *shared):
        """A program of all seeds, once for each rate: the arms then share it."""
        seeds = len(self.keys)
        parts = [
            program(*jax.tree.map(lambda a, i=i: a[i : i + seeds], per_seed), *shared)
            for i in range(0, len(jax.tree.leaves(per_seed)[0]), seeds)
        ]
        return parts[0] if len(parts) == 1 else jax.tree.map(lambda *a: jnp.concatenate(a), *parts)

    def _cost_of_steps(self, arm: Arm, data):
        """What each instrument adds to a bare step: all in turn, a few steps of a few seeds."""
        few = jax.tree.map(lambda a: a[: 16 * self.config.batch_size], data)
        keys = jnp.resize(self.keys, 2 * self.host.layout.devices)
        rate = jnp.full(keys.shape, self.config.learning_rate, jnp.float32)
        params = self.over_seeds(self.init_params)(keys)
        state = self.over_seeds(lambda p, r: self.start(arm, p, r).train)(params, rate)

        def timed(instruments):
            trial = arm._replace(instruments=instruments)
            train = self.over_seeds(
                lambda s, key, r, d: self.train_epoch(trial, s, key, r, d)[1], 1
            )

            def seconds():
                begin = time.perf_counter()
                jax.block_until_ready(train(state, keys, rate, few))
                return time.perf_counter() - begin

            seconds()  # compiles
            return seconds

        asked = arm.instruments
        bare = timed(training.Instruments(0, 0, 0))
        trials = {
            words: timed(training.Instruments(0, 0, 0)._replace(**{name: getattr(asked, name)}))
            for name, words in (("norms_every", "norms"), ("taylor_every", "Taylor budget"))
            if getattr(asked, name)
        }
        ratios = {words: [] for words in trials}
        for _ in range(5):
            for words, seconds in trials.items():
                ratios[words].append(seconds() / bare())
        for words, found in ratios.items():
            yield f"{arm.name}: a step with its {words} takes {np.median(found):.2f} of a bare step"

    def train_head(self, frozen, last, head, key, data, test):
        """A new head, trained on a frozen convolution, and how the features differ from the last.

        Args:
          frozen: float32[C], the convolution's parameters; last: those at the end.
          head: parameters of the head to start from.
          key: of the seed; data: training split; test: test split.
        """
        shapes = jax.eval_shape(self.init_params, key)
        shapes.pop("head")
        _, unravel = ravel_pytree(jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes))
        join = lambda convolutions, h: {**unravel(convolutions), **h}  # noqa: E731
        trainer = training.make_trainer(
            lambda key: head,
            lambda h, batch: self.loss(join(frozen, h), batch),
            optimizers.make("adam", 1e-3),
            self.config.batch_size,
            instruments=training.Instruments(0, 0, 0),
        )
        state, _ = jax.lax.scan(
            lambda s, _: (trainer.epoch(s, jax.random.fold_in(key, 3), data)[0], None),
            trainer.init(key), None, length=self.config.head_epochs,
        )  # fmt: skip
        _, row = self.evaluate(
            join(frozen, state.params), jnp.full(test[1].shape, -1, jnp.int32), {"test": test}
        )
        images = test[0][:CKA_IMAGES]
        features = [
            self.model.apply({"params": join(c, head)}, images)[1]["features"]
            for c in (frozen, last)
        ]
        return {
            "head_test_error": row["test_error"],
            "feature_similarity": representations.linear_cka(*features),
        }

    def prepare_heads(self, train_split, pool):
        params = self.initial.compile(self.keys, pool=pool)
        flat = jax.eval_shape(convolutions_of, params)
        head = {"head": params["head"]}
        data = tuple(train_split)
        self.head.compile(flat, flat, head, self.keys, data, self.test, pool=pool)

    def run_heads(self, main_rows, train_split) -> list[dict]:
        """A new head, trained for the same time, on the convolution as it was after each epoch.

        One row for each of `config.frozen_at`: test error of the head, and the similarity (CKA)
        of the features to the final ones.
        """
        frozen_at = self.config.frozen_at
        data = jax.device_put(tuple(train_split))
        final = jnp.asarray(main_rows[-1]["convolutions"])
        # Another head than the one the convolution grew up with.
        others = jax.vmap(lambda key: jax.random.fold_in(key, 1))(self.keys)
        head = {"head": self.initial(others)["head"]}

        def advance(unit, state):
            frozen = jnp.asarray(main_rows[frozen_at[unit]]["convolutions"])
            return state, self.head(frozen, final, head, self.keys, data, self.test)

        return run_stage(
            self.host, "heads", len(frozen_at), lambda: (), advance,
            lambda row: {"test_error": float(np.median(row["head_test_error"]))},
        )  # fmt: skip
