"""Trains the arms of `dropout`: settings and arrays in, record out."""

import functools
import itertools
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
INIT, SPLIT, LABELS, ORDER, MASKS, NOISE, ABLATION = range(7)


class Seed(NamedTuple):
    """The images of one seed, (x [N, D], y [N]) each."""

    train: tuple
    tune: tuple
    test: tuple


def run(config, data: Data, host: Host):
    """Runs all stages and returns the record, an `xarray.Dataset` (see `dropout_record`)."""
    seeds = list(host.seeds(config.num_seeds))
    study = Study(config, data, host, seeds)
    rows = {part.name: study.run_part(part) for part in parts(config)}
    rows["capacity"], rows["lifted"] = study.run_capacity(capacity(config))
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


def chosen_loss(model, params, batch, key, drop):
    """Cross-entropy of a batch with one draw of masks; with key None without."""
    dropout = None if key is None else models.Dropout(key, drop)
    return losses.cross_entropy(
        model.apply({"params": params}, batch[0], dropout=dropout)[0], batch[1]
    )


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

    def program(self, function, shared=1):
        donate = (0,) if shared == 2 else ()
        return sweep.over_seeds(function, self.host.layout, shared=shared, donate=donate)

    def splits(self, key, part: Part, images) -> Seed:
        """One seed's images; a smaller training set is the beginning of a larger one."""
        config = self.config
        x, y = images
        order = jax.random.permutation(jax.random.fold_in(key, SPLIT), len(y))
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

    def start(self, part: Part, key, conditions):
        """(parameters, optimizer's state) of all runs of a seed, which start alike."""
        first = self.images[0][0]
        params = models.initialise(self.model(part), jax.random.fold_in(key, INIT), first)

        def one(own):
            mine = narrowed(params, own.width)
            return mine, self.optimizer(own).init(mine)

        return jax.vmap(one)(conditions)

    def passes(self, part: Part, state, key, conditions, first, images):
        """One block of epochs from number `first`: (state, rows [C, block]).

        All runs of a seed see the same batches and compare the same uniform numbers with their
        own share to keep, so these are drawn once.
        """
        model, splits = self.model(part), self.splits(key, part, images)
        batch = min(self.config.batch_size, part.size)
        steps = part.size // batch

        def loss(params, drop, examples, keys):
            each = jax.vmap(lambda k: chosen_loss(model, params, examples, k, drop))(keys)
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
            own = jax.random.fold_in(key, number)
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
        return state, {name: values.T for name, values in rows.items()}

    # -- measuring

    def end(self, part: Part, state, key, images):
        """What is measured of all runs after a block, [C]."""
        model, splits = self.model(part), self.splits(key, part, images)

        def one(params):
            row = {}
            for name, (x, y) in splits._asdict().items():
                logits, _ = model.apply({"params": params}, x)
                row[f"{name}_loss"] = losses.cross_entropy(logits, y)
                row[f"{name}_error"] = losses.error_rate(logits, y)
            return row

        return jax.lax.map(one, state[0])

    def examine(self, part: Part, state, key, chosen, images):
        """Ablation and correlations of the chosen runs [A], values [A, ...]."""
        config, model = self.config, self.model(part)
        test = self.splits(key, part, images).test
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

    def noise(self, part: Part, state, key, images):
        """Gradient noise of the runs with dropout at the lower middle rate, [1 + drops]."""
        config, model = self.config, self.model(part)
        x, y = self.splits(key, part, images).train
        count, rates = config.noise_examples, len(config.rates)
        chosen = slice((rates - 1) // 2, (1 + len(config.drops)) * rates, rates)
        params = jax.tree.map(lambda a: a[chosen], state[0])
        drops = jnp.array([0.0, *config.drops], jnp.float32)
        key = jax.random.fold_in(key, NOISE)

        def one(run):
            mine, drop = run
            return measures.gradient_noise(
                functools.partial(chosen_loss, model, drop=drop), mine, (x[:count], y[:count]), key,
                config.noise_masks,
            )._asdict()  # fmt: skip

        return jax.lax.map(one, (params, drops))

    # -- stages

    def run_part(self, part: Part) -> list[dict]:
        """One stage: rows of its blocks, with gradient noise before and the rest after each."""
        conditions = stacked(part.conditions, len(self.keys))
        starting = self.program(functools.partial(self.start, part), 0)
        advancing = self.program(functools.partial(self.passes, part), 2)
        ending = self.program(functools.partial(self.end, part))
        examining = self.program(functools.partial(self.examine, part))
        noise = self.program(functools.partial(self.noise, part))
        units = part.epochs // part.block

        def advance(unit, state):
            found = noise(state, self.keys, self.images) if part.noise else {}
            first = jnp.int32(unit * part.block)
            state, row = advancing(state, self.keys, conditions, first, self.images)
            # After every block, though the last one counts: the rows of a stage are alike.
            end = jax.device_get(ending(state, self.keys, self.images))
            found |= {f"end_{name}": values for name, values in end.items()}
            if part.examined:
                chosen = records.best_of(end["tune_error"], end["tune_loss"], part.examined)
                found |= examining(state, self.keys, chosen, self.images)
            return state, row | found

        return run_stage(
            self.host, part.name, units, lambda: starting(self.keys, conditions), advance, headline
        )

    def run_capacity(self, part: Part) -> tuple[list[dict], list[dict]]:
        """Random labels: rows with dropout, then of one more block without it."""
        conditions = stacked(part.conditions, len(self.keys))
        lifted = conditions._replace(drop=np.zeros_like(conditions.drop))
        starting = self.program(functools.partial(self.start, part), 0)
        advancing = self.program(functools.partial(self.passes, part), 2)
        units = part.epochs // part.block + 1

        def advance(unit, state):
            own = lifted if unit == units - 1 else conditions
            return advancing(state, self.keys, own, jnp.int32(unit * part.block), self.images)

        rows = run_stage(
            self.host, part.name, units, lambda: starting(self.keys, conditions), advance, headline
        )
        return rows[:-1], rows[-1:]


def headline(row) -> dict[str, float]:
    """Medians over seeds and runs after the block."""
    values = row["masked_loss"][..., -1]
    finite = values[np.isfinite(values)]
    return {"loss with masks": float(np.median(finite)) if finite.size else np.nan}
