"""Trains the arms of `dropout`: settings and arrays in, record out."""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlstudy import losses, models, optimizers, sweep
from dlstudy.data import Data
from dlstudy.host import Host
from dlstudy.stages import run_stage
from experiments import dropout_measures as measures
from experiments import dropout_record as records
from experiments.dropout_parts import Condition, Part, capacity, parts

# Streams of a seed's key.
INIT, SPLIT, LABELS, EPOCHS, ORDER, MASKS, NOISE, ABLATION = range(8)


class Seed(NamedTuple):
    """The images of one seed, (x [N, D], y [N]) each."""

    train: tuple
    tune: tuple
    test: tuple


def run(config, data: Data, host: Host):
    """Runs all stages and returns the record, an `xarray.Dataset` (see `dropout_record`)."""
    seeds = list(host.seeds(config.num_seeds))
    study = Study(config, data, host, seeds)
    every = [*parts(config), capacity(config)]
    with sweep.compiler() as pool:
        for part in every:
            study.prepare(part, pool)
        rows = {part.name: study.run_part(part) for part in every[:-1]}
        rows["capacity"], rows["lifted"] = study.run_capacity(every[-1])
    return records.assemble(config, seeds, rows)


def stacked(conditions, seeds: int) -> Condition:
    """The same conditions for every seed: arrays [S, C]."""
    columns = (np.array(values, np.float32) for values in zip(*conditions, strict=True))
    return Condition(*(np.tile(values, (seeds, 1)) for values in columns))


def narrowed(params, width):
    """Parameters of a network as if it had `width` units in each hidden layer, at its start.

    A unit whose weights are 0 on both sides stays so for ever: its output is 0, and so is the
    derivative of ReLU at 0. What is left starts as a network of that width does, uniform on
    +-1 / sqrt(fan-in).
    """
    params = dict(params)
    names = measures.layers(params)
    for below, above in itertools.pairwise(names):
        whole = params[below]["bias"].shape[0]
        kept = (jnp.arange(whole, dtype=jnp.float32) < width).astype(jnp.float32)
        grown = jnp.sqrt(whole / width)
        params[below] = {"kernel": params[below]["kernel"] * kept[None],
                         "bias": params[below]["bias"] * kept}  # fmt: skip
        params[above] = {"kernel": params[above]["kernel"] * kept[:, None] * grown,
                         "bias": params[above]["bias"] * grown}  # fmt: skip
    return params


def masked_loss(model, params, batch, key, drop):
    """Cross-entropy of a batch with one draw of masks."""
    logits, _ = model.apply({"params": params}, batch[0], dropout=models.Dropout(key, drop))
    return losses.cross_entropy(logits, batch[1])


class Programs(NamedTuple):
    """The compiled functions of a part, and what its runs start from."""

    conditions: Condition  # [S, C]
    start: Callable
    advance: Callable
    examine: Callable
    noise: Callable


class Study:
    """The data on the device, and the programs over seeds."""

    def __init__(self, config, data: Data, host: Host, seeds):
        self.config, self.host, self.classes = config, host, data.classes
        self.keys = sweep.seed_keys(config.seed, seeds)
        # Each seed cuts all images into splits of its own: see `Seed`.
        every = [data.train, data.tune, data.test]
        self.images = jax.device_put((
            np.concatenate([split.x.reshape(len(split.y), -1) for split in every]),
            np.concatenate([split.y for split in every]),
        ))  # fmt: skip

        self.orders = self.program(self.order, 0)(self.keys)
        self.first = {}  # parameters before training, by widths
        self.programs = {}  # by name of the part

    def program(self, function, shared=1):
        donate = (0,) if shared == 2 else ()
        return sweep.over_seeds(function, self.host.layout, shared=shared, donate=donate)

    def order(self, key):
        """The order in which a seed takes the images."""
        return jax.random.permutation(jax.random.fold_in(key, SPLIT), len(self.images[1]))

    def splits(self, key, order, part: Part, images) -> Seed:
        """One seed's images; a smaller training set is the beginning of a larger one."""
        config = self.config
        x, y = images
        held = config.tune_size + config.test_size
        if part.random_labels:
            y = jax.random.randint(
                jax.random.fold_in(key, LABELS), y.shape, 0, self.classes, y.dtype
            )
        take = lambda rows: (x[rows], y[rows])  # noqa: E731
        return Seed(
            take(order[held : held + part.size]),
            take(order[: config.tune_size]),
            take(order[config.tune_size : held]),
        )

    # -- training

    def optimizer(self, own: Condition):
        descent = optimizers.make("momentum", own.rate, momentum=self.config.momentum)
        return optimizers.coupled_decay(descent, own.penalty)

    def model(self, part: Part):
        return models.MLP(part.widths, self.classes)

    def initial(self, part: Part):
        """Parameters of the seeds before training, [S, ...]."""
        if part.widths not in self.first:
            example, model = self.images[0][0], self.model(part)
            draw = self.program(
                lambda key: models.initialise(model, jax.random.fold_in(key, INIT), example), 0
            )
            self.first[part.widths] = draw(self.keys)
        return self.first[part.widths]

    def start(self, params, conditions):
        """(parameters, optimizer's state) of all runs [S, C, ...]; those of a seed start alike."""

        def one(params, own):
            mine = narrowed(params, own.width)
            return mine, self.optimizer(own).init(mine)

        return jax.vmap(jax.vmap(one, (None, 0)))(params, conditions)

    def passes(self, part: Part, state, key, order, conditions, first, images):
        """One block of epochs from number `first`: (state, row [C, block], or [C] after it).

        All runs of a seed see the same batches and compare the same uniform numbers with their
        own share to keep, so these are drawn once.
        """
        model, splits = self.model(part), self.splits(key, order, part, images)
        batch = min(self.config.batch_size, part.size)
        steps = part.size // batch

        def loss(params, drop, examples, keys):
            each = jax.vmap(lambda k: masked_loss(model, params, examples, k, drop))(keys)
            return each.mean()

        def step(run, own, examples, keys):
            params, inner = run
            value, slope = jax.value_and_grad(loss)(params, own.drop, examples, keys)
            updates, inner = self.optimizer(own).update(slope, inner, params)
            return (jax.tree.map(jnp.add, params, updates), inner), value

        def examine(params):
            """Losses of the curves, masks off."""
            found = {}
            for name in part.curves:
                x, y = getattr(splits, name)
                found[f"{name}_loss"] = losses.cross_entropy(model.apply({"params": params}, x)[0],
                                                             y)  # fmt: skip
            return found

        def epoch(runs, number):
            own = jax.random.fold_in(jax.random.fold_in(key, EPOCHS), number)
            order = jax.random.permutation(jax.random.fold_in(own, ORDER), part.size)
            keys = jax.random.split(jax.random.fold_in(own, MASKS), (steps, part.masks))

            def one(runs, now):
                rows, drawn = now
                examples = jax.tree.map(lambda a: a[rows], splits.train)
                return jax.vmap(step, (0, 0, None, None))(runs, conditions, examples, drawn)

            runs, values = jax.lax.scan(
                one, runs, (order[: steps * batch].reshape(steps, batch), keys)
            )
            return runs, jax.vmap(examine)(runs[0]) | {"masked_loss": values.mean(0)}

        state, rows = jax.lax.scan(epoch, state, first + jnp.arange(part.block))
        row = {name: values.T for name, values in rows.items()}
        if part.ends:
            row |= jax.lax.map(functools.partial(ends, model, splits), state[0])
        return state, row

    # -- measuring

    def examine(self, part: Part, state, key, order, chosen, images):
        """Ablation and correlations of the chosen runs [A], values [A, ...]."""
        config, model = self.config, self.model(part)
        test = self.splits(key, order, part, images).test
        key = jax.random.fold_in(key, ABLATION)

        def one(params):
            _, taps = model.apply({"params": params}, test[0])
            return {
                "norm": measures.norm(params),
                "correlation": measures.correlations(taps),
                "ablated_error": measures.ablated_error(
                    model, params, test, key, config.fractions, config.ablations
                ),
            }  # fmt: skip

        return jax.lax.map(one, jax.tree.map(lambda a: a[chosen], state[0]))

    def noise(self, part: Part, state, key, order, images):
        """Gradient noise of the runs with dropout at the lower middle rate, [1 + drops]."""
        config, model = self.config, self.model(part)
        x, y = self.splits(key, order, part, images).train
        count, rates = config.noise_examples, len(config.rates)
        chosen = slice((rates - 1) // 2, (1 + len(config.drops)) * rates, rates)
        params = jax.tree.map(lambda a: a[chosen], state[0])
        drops = jnp.array([0.0, *config.drops], jnp.float32)
        key = jax.random.fold_in(key, NOISE)

        def one(run):
            mine, drop = run
            loss = functools.partial(masked_loss, model)
            return measures.gradient_noise(
                loss, mine, (x[:count], y[:count]), key, drop, config.noise_masks
            )._asdict()

        return jax.lax.map(one, (params, drops))

    # -- stages

    def prepare(self, part: Part, pool=None):
        """Makes the programs of a part and has them compiled in the pool."""
        seeds, params = len(self.keys), self.initial(part)
        conditions = stacked(part.conditions, seeds)
        made = self.programs[part.name] = Programs(
            conditions,
            lambda: self.start(params, conditions),
            self.program(functools.partial(self.passes, part), 2),
            self.program(functools.partial(self.examine, part)),
            self.program(functools.partial(self.noise, part)),
        )
        like, drawn = jax.eval_shape(made.start), (self.keys, self.orders)
        if part.noise:
            made.noise.compile(like, *drawn, self.images, pool=pool)
        made.advance.compile(like, *drawn, conditions, jnp.int32(0), self.images, pool=pool)
        if part.examined:
            chosen = jax.ShapeDtypeStruct((seeds, len(part.examined)), np.int32)
            made.examine.compile(like, *drawn, chosen, self.images, pool=pool)

    def run_part(self, part: Part) -> list[dict]:
        """One stage: rows of its blocks, with gradient noise before and the rest after each."""
        made, drawn = self.programs[part.name], (self.keys, self.orders)

        def advance(unit, state):
            found = made.noise(state, *drawn, self.images) if part.noise else {}
            first = jnp.int32(unit * part.block)
            state, row = made.advance(state, *drawn, made.conditions, first, self.images)
            row = jax.device_get(row) | found
            if part.examined:
                # After every block, though the last one counts: the rows of a stage are alike.
                chosen = records.best_of(row["end_tune_error"], row["end_tune_loss"], part.examined)
                row |= made.examine(state, *drawn, chosen.astype(np.int32), self.images)
            return state, row

        units = part.epochs // part.block
        return run_stage(self.host, part.name, units, made.start, advance, headline)

    def run_capacity(self, part: Part) -> tuple[list[dict], list[dict]]:
        """Random labels: rows with dropout, then of one more block without it."""
        made, drawn = self.programs[part.name], (self.keys, self.orders)
        lifted = made.conditions._replace(drop=np.zeros_like(made.conditions.drop))
        units = part.epochs // part.block + 1

        def advance(unit, state):
            own = lifted if unit == units - 1 else made.conditions
            first = jnp.int32(unit * part.block)
            return made.advance(state, *drawn, own, first, self.images)

        rows = run_stage(self.host, part.name, units, made.start, advance, headline)
        return rows[:-1], rows[-1:]


def ends(model, splits: Seed, params) -> dict:
    """Losses and errors of one network on all splits, masks off."""
    sizes = np.cumsum([len(y) for _, y in splits])[:-1].tolist()
    logits, _ = model.apply({"params": params}, jnp.concatenate([x for x, _ in splits]))
    row = {}
    for name, z, (_, y) in zip(Seed._fields, jnp.split(logits, sizes), splits, strict=True):
        row[f"end_{name}_loss"] = losses.cross_entropy(z, y)
        row[f"end_{name}_error"] = losses.error_rate(z, y)
    return row


def headline(row) -> dict[str, float]:
    """Medians over seeds and runs after the block."""
    values = row["masked_loss"][..., -1]
    finite = values[np.isfinite(values)]
    return {"loss with masks": float(np.median(finite)) if finite.size else np.nan}
