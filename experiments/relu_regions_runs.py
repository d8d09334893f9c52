"""Trains the arms of `relu_regions` and finds their regions: settings and arrays in, record out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlstudy import losses, models, optimizers, patterns, regions, sweep, training
from dlstudy.data import Data
from dlstudy.host import Host
from dlstudy.stages import run_stage
from experiments import relu_regions_record as records


class Arm(NamedTuple):
    """One way to train. Arms differ in numbers only, so that they share their programs."""

    zero_bias: bool = False
    decay: bool = False  # of the rate, to 0 along a cosine; else it is constant


ARMS = {"main": Arm(), "decay": Arm(decay=True), "zero_bias": Arm(zero_bias=True)}


class Convergence(NamedTuple):
    """Whether a seed goes on."""

    best: jax.Array  # float32[], the lowest mean error that counted as an improvement
    waited: jax.Array  # int32[], epochs since then
    done: jax.Array  # bool[]


class State(NamedTuple):
    """One seed of one arm."""

    train: training.TrainState
    convergence: Convergence


def run(config, data: Data, host: Host):
    """Runs all arms and returns the record, an `xarray.Dataset` (see `relu_regions_record`)."""
    seeds = list(host.seeds(config.num_seeds))
    study = Study(config, data, host, seeds)
    with sweep.compiler() as pool:
        study.compile(pool)
        rows = {name: study.run_arm(name) for name in ARMS if name in ("main", *config.controls)}
        sizes = study.run_sizes() if "sizes" in config.controls else None
    return records.assemble(config, seeds, rows, sizes)


class Study:
    """The data, and the programs over seeds."""

    def __init__(self, config, data: Data, host: Host, seeds):
        self.config, self.host = config, host
        self.keys = sweep.seed_keys(config.seed, seeds)
        self.data, self.grid = jax.device_put((tuple(data.train), tuple(data.test)))
        self.first = self.over_seeds(self.start)
        self.begun = self.over_seeds(self.begin)
        self.blocks = {
            count: self.over_seeds(
                lambda arm, state, key, count=count: self.epochs(arm, count, state, key), (1,)
            )
            for count in {records.epochs_of(config, unit) for unit in range(1, config.blocks)}
        }
        self.of_size = {
            width: self.over_seeds(lambda key, width=width: self.train_size(width, key))
            for width in (config.sizes if "sizes" in config.controls else ())
        }

    # -- functions of one seed

    def trainer(self, arm: Arm, widths):
        config = self.config
        model = models.MLP(widths, 1)
        steps = config.epochs * (config.samples // config.batch)
        decaying = optax.cosine_decay_schedule(config.learning_rate, steps)

        def rate(step):
            constant = jnp.float32(config.learning_rate)
            return jnp.where(arm.decay, decaying(step), constant)

        def init(key):
            params = models.initialise(model, jax.random.fold_in(key, 0), self.data[0][0])
            return jax.tree_util.tree_map_with_path(
                lambda path, leaf: jnp.where(arm.zero_bias & (path[-1].key == "bias"), 0, leaf),
                params,
            )

        def loss(params, batch):
            return losses.mean_squared_error(model.apply({"params": params}, batch[0])[0], batch[1])

        return model, training.make_trainer(
            init, loss, optimizers.make("adam", rate), config.batch,
            instruments=training.Instruments(0, 0), chunk=config.samples,
        )  # fmt: skip

    def measure(self, model, params):
        """Errors on samples and grid, and the samples' packed patterns uint32[N, W]."""
        row = {}
        for where, (x, y) in (("", self.data), ("grid_", self.grid)):
            output, taps = model.apply({"params": params}, x)
            error = jnp.abs(output - y)
            row |= {f"{where}mean_error": error.mean(), f"{where}max_error": error.max()}
            if not where:
                on = patterns.pack(patterns.of_taps(taps))
        # What a count at the samples finds: each pattern fires on one interval.
        row["sample_regions"] = 1 + (on[1:] != on[:-1]).any(1).sum().astype(jnp.float32)
        return row, on

    def start(self, arm: Arm, key) -> State:
        model, trainer = self.trainer(arm, self.config.widths)
        train = trainer.init(key)
        error = self.measure(model, train.params)[0]["mean_error"]
        return State(train, Convergence(error, jnp.int32(0), jnp.bool_(False)))

    def begin(self, arm: Arm, state: State):
        """The row before training: an axis of one epoch, like those of `epochs`."""
        row = jax.eval_shape(lambda: self.epoch(arm, state, jax.random.key(0))[1])
        row = jax.tree.map(lambda a: jnp.full(a.shape, jnp.nan, a.dtype), row)
        row["stopped"] = jnp.float32(0)
        model, _ = self.trainer(arm, self.config.widths)
        row |= self.measure(model, state.train.params)[0] | {"params": state.train.params}
        return jax.tree.map(lambda a: a[None], row)

    def epoch(self, arm: Arm, state: State, key):
        """One epoch: (state, row). A seed that has converged stays, and its row is NaN."""
        model, trainer = self.trainer(arm, self.config.widths)
        before, goes_on = state.train.params, ~state.convergence.done
        train, metrics = trainer.epoch(state.train, jax.random.fold_in(key, 2), self.data)
        row, now = self.measure(model, train.params)
        _, was = self.measure(model, before)
        moved = jax.tree.map(jnp.subtract, train.params, before)
        changed = patterns.hamming_by_layer(was, now, self.config.widths).sum(0)
        row |= {
            "loss": metrics.loss.mean(),
            "displacement": optax.tree.norm(moved),
            "layer_hamming": changed.astype(jnp.float32),
            "params": train.params,
        }
        keep = lambda new, old: jnp.where(goes_on, new, old)  # noqa: E731
        convergence = self.converge(state.convergence, row["mean_error"])
        finite = jnp.isfinite(row["mean_error"])
        row["stopped"] = jnp.where(finite, jnp.where(convergence.done, 1.0, 0.0), 2.0)
        state = jax.tree.map(keep, State(train, convergence), state)
        return state, jax.tree.map(lambda value: keep(value, jnp.nan), row)

    def converge(self, found: Convergence, error) -> Convergence:
        better = error < (1 - self.config.gain) * found.best
        waited = jnp.where(better, 0, found.waited + 1)
        done = (waited >= self.config.patience) | ~jnp.isfinite(error)
        return Convergence(jnp.where(better, error, found.best), waited, done)

    def epochs(self, arm: Arm, count: int, state: State, key):
        """`count` epochs: (state, rows with leading axis [count])."""
        return jax.lax.scan(lambda s, _: self.epoch(arm, s, key), state, None, length=count)

    def train_size(self, width: int, key):
        """Parameters before and after training of the network with layers of this width."""
        _, trainer = self.trainer(Arm(), (width,) * len(self.config.widths))
        first = trainer.init(key)

        def step(state, _):
            return trainer.epoch(state, jax.random.fold_in(key, 2), self.data)[0], None

        last, _ = jax.lax.scan(step, first, None, length=self.config.size_epochs)
        return first.params, last.params

    # -- stages: loops of the host over blocks of epochs

    def compile(self, pool):
        """Has all programs compiled by XLA and, beside it, the regions by Numba."""
        pool.submit(records.compile_regions)
        arm = self.arm("main")
        state = self.first.compile(arm, self.keys, pool=pool)
        self.begun.compile(arm, state, pool=pool)
        for block in self.blocks.values():
            block.compile(arm, state, self.keys, pool=pool)
        for program in self.of_size.values():
            program.compile(self.keys, pool=pool)

    def arm(self, name: str) -> Arm:
        """An arm's numbers, for every seed."""
        return jax.tree.map(lambda value: jnp.full(self.keys.shape, value), ARMS[name])

    def over_seeds(self, function, donate=()):
        return sweep.over_seeds(function, self.host.layout, donate=donate)

    def run_arm(self, name: str) -> list[dict]:
        """Rows of blocks of epochs, values [S, epochs of the block, ...]."""
        config = self.config
        arm = self.arm(name)

        def advance(unit, state: State):
            if unit == 0:
                row = jax.device_get(self.begun(arm, state))
                return state, self.with_regions(row, None)
            before = jax.device_get(state.train.params)
            state, row = self.blocks[records.epochs_of(config, unit)](arm, state, self.keys)
            return state, self.with_regions(jax.device_get(row), before)

        return run_stage(
            self.host, name, config.blocks, lambda: self.first(arm, self.keys), advance, headline
        )

    def with_regions(self, row, before) -> dict:
        """A block's row with the exact regions after each epoch instead of all parameters.

        Args:
          row: values [S, K, ...]; "params" is a tree.
          before: parameters [S, ...] before the block; None: there is nothing before.
        """
        params = row.pop("params")
        alive = np.isfinite(row["mean_error"])  # [S, K], a beginning of each seed's row
        found = {
            name: np.full(alive.shape, np.nan, np.float32)
            for name in ("regions", "domain_hamming", "born", "died", "fallbacks")
        }
        for s, ran in enumerate(alive):
            count = int(ran.sum())
            if not count:
                continue
            one = jax.tree.map(lambda a, s=s, n=count: a[s, :n], params)
            if before is not None:
                one = jax.tree.map(lambda b, a, s=s: np.concatenate([b[s][None], a]), before, one)
            pieces = records.exact_regions(one)
            after = pieces if before is None else pieces[1:]
            found["regions"][s, :count] = [len(p.knots) - 1 for p in after]
            found["fallbacks"][s, :count] = [p.fallback for p in after]
            if before is not None:
                changes = [regions.between(a, b) for a, b in zip(pieces, after, strict=False)]
                for name in ("domain_hamming", "born", "died"):
                    found[name][s, :count] = [getattr(c, name) for c in changes]
        # The order of `jax.flatten_util.ravel_pytree`.
        flat = np.concatenate([a.reshape(*alive.shape, -1) for a in jax.tree.leaves(params)], 2)
        last = np.maximum(alive.sum(1) - 1, 0)
        row = row | found
        row["shown_params"] = flat[:1]
        # All rows of a stage have one shape: the first and last blocks are filled up.
        rest = self.config.block - alive.shape[1]
        for name, values in row.items():
            widths = [(0, 0), (0, rest)] + [(0, 0)] * (values.ndim - 2)
            row[name] = np.pad(values, widths, constant_values=np.nan)
        return row | {"end_params": flat[np.arange(len(last)), last]}

    def run_sizes(self) -> list[dict]:
        """Regions before and after training of networks of each size: one row a size."""

        def advance(unit, state):
            width = self.config.sizes[unit]
            ends = self.of_size[width](self.keys)
            counts = [records.counts(jax.device_get(params)) for params in ends]
            return state, {"size_regions": np.stack(counts, 1)}

        return run_stage(
            self.host, "sizes", len(self.config.sizes), lambda: (), advance,
            lambda row: {"regions": float(np.median(row["size_regions"][:, 1]))},
        )  # fmt: skip


def headline(row) -> dict[str, float]:
    """Medians over the seeds that went on, after the last epoch of the block."""
    alive = np.isfinite(row["mean_error"])
    if not alive.any():
        return {"stopped": len(alive)}
    last = np.flatnonzero(alive.any(0))[-1]  # before the filling up of a short block
    shown = {"mean_error": "mean error", "max_error": "maximal error", "regions": "regions"}
    found = {label: float(np.nanmedian(row[name][:, last])) for name, label in shown.items()}
    found["stopped"] = int((row["stopped"] > 0).any(1).sum() + (~alive.any(1)).sum())
    return found
