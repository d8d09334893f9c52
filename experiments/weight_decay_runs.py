"""Runs `weight_decay`: settings and arrays in, record out.

Algebra is done in float64, the network in float32. Penalties, rates and the ways to descend are
axes of one compiled program each.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from dlstudy import losses, models, optimizers, sweep, training
from dlstudy.data import Data
from dlstudy.host import Host
from dlstudy.stages import run_stage
from experiments import weight_decay_linear as linear
from experiments import weight_decay_record as records

# Eigenvalues of the Hessians of the problems in two dimensions.
EIGENVALUES = (1.0, 0.2)


def run(config, data: Data, host: Host):
    """Runs everything and returns the record, an `xarray.Dataset` (see `weight_decay_record`)."""
    seeds = list(host.seeds(config.num_seeds))
    study = Study(config, data, host, seeds)
    rows = {
        "trajectories": study.run_trajectories(),
        "plane": study.run_plane(),
        "linear": study.run_linear(),
        "network": study.run_network(),
    }
    return records.assemble(config, seeds, rows)


def base_factors(beta: float) -> np.ndarray:
    """Coupled penalties over the decoupled decay that always run: see `records.FACTORS`."""
    return np.array([0.0, 1.0, 2.0, 1 - beta])


def noisy_labels(key, labels, share: float, classes: int):
    """Labels of which round(share x N), drawn by `key`, are moved to another class."""
    which, shift = jax.random.split(key)
    count = labels.shape[0]
    rank = jax.random.permutation(which, count)
    moved = labels + jax.random.randint(shift, (count,), 1, classes, labels.dtype)
    return jnp.where(rank < round(share * count), moved % classes, labels)


class Study:
    """The data on the device, and the programs over seeds."""

    def __init__(self, config, data: Data, host: Host, seeds):
        self.config, self.host, self.classes = config, host, data.classes
        self.keys = sweep.seed_keys(config.seed, seeds)
        flat = lambda split: jax.device_put((split.x.reshape(len(split.y), -1), split.y))  # noqa: E731
        self.train, self.tune, self.test = map(flat, (data.train, data.tune, data.test))
        self.model = models.MLP(config.widths, data.classes)

    def over_seeds(self, function, donate=()):
        return sweep.over_seeds(function, self.host.layout, donate=donate)

    def init_params(self, key):
        return models.initialise(self.model, jax.random.fold_in(key, 0), self.train[0][0])

    def labels(self, key):
        """Training labels of one seed."""
        key = jax.random.fold_in(key, 1)
        return noisy_labels(key, self.train[1], self.config.label_noise, self.classes)

    def loss(self, params, batch):
        return losses.cross_entropy(self.model.apply({"params": params}, batch[0])[0], batch[1])

    # -- trajectories of a network under both decays, in float64

    def rate(self, name: str) -> float:
        """Of an optimizer; momentum multiplies steps by 1 / (1 - beta), which is taken out."""
        config = self.config
        rates = {"sgd": config.descent_rate, "adam": config.adam_rate}
        return rates.get(name, config.descent_rate * (1 - config.momentum))

    def both(self, name: str, penalty, decay):
        """The optimizer with a coupled penalty, and with decoupled decay of rate x `decay`."""
        rate = self.rate(name)
        plain = optimizers.make(name, rate, momentum=self.config.momentum)
        return optimizers.decoupled_decay(optimizers.coupled_decay(plain, penalty), rate * decay)

    def trajectories(self, name: str, key, more):
        """One seed: both decays on the same batches, with all penalties at once.

        Args:
          name: of the optimizer.
          key: of the seed.
          more: penalties over the decay [M], beside `base_factors`.

        Returns:
          By step, [T]: norms and distances; by penalty, [4 + M]: the largest distance. A distance
          is that of all parameters, relative to the norm of the decoupled run's.
        """
        config = self.config
        factors = jnp.concatenate([jnp.asarray(base_factors(config.momentum)), more])
        start = jax.tree.map(lambda a: a.astype(jnp.float64), self.init_params(key))
        first, unravel = ravel_pytree(start)
        x, labels = self.train[0].astype(jnp.float64), self.labels(key)
        batches = self.batches(jax.random.fold_in(key, 3))
        rate = self.rate(name)

        def path(penalty, decay):
            """Weights after each step, [T, P], and what a step took off them, [T]."""
            optimizer = self.both(name, penalty, decay)

            def step(run, rows):
                flat, state = run
                batch = x[rows], labels[rows]
                slope = jax.grad(lambda w: self.loss(unravel(w), batch))(flat)
                updates, state = optimizer.update(slope, state, flat)
                # Beside the gradient, along the weights and over their size.
                shrunk = -(flat @ (updates + rate * slope)) / (flat @ flat)
                after = flat + updates
                return (after, state), (after, shrunk)

            return jax.lax.scan(step, (first, optimizer.init(first)), batches)[1]

        def compare(reference, run):
            """The first run, with decoupled decay, becomes the reference of all others."""
            penalty, decay = run
            found, shrunk = path(penalty, decay)
            reference = jnp.where(decay > 0, found, reference)
            away = jnp.linalg.norm(found - reference, axis=1)
            return reference, (jnp.linalg.norm(found, axis=1), away, shrunk.mean())

        none = jnp.zeros((config.steps, first.shape[0]))
        runs = jnp.concatenate([jnp.zeros(1), factors]), jnp.zeros(1 + len(factors)).at[0].set(1.0)
        # One after another: products of batches of small float64 matrices are slow on a CPU.
        _, (norms, away, shrunk) = jax.lax.scan(
            compare, none, jax.tree.map(lambda a: a * config.decay, runs)
        )
        distance = away[1:] / norms[:1]
        base = len(records.FACTORS)
        return {
            "decoupled_norm": norms[0],
            "coupled_norm": norms[1 : 1 + base].T,
            "distance": distance[:base].T,
            "shrinkage": shrunk[1 : 1 + base] / (rate * config.decay),
            "largest_distance": distance.max(1),
            "factor": factors,
        }

    def batches(self, key):
        """Rows of each batch of the trajectories, int[T, B]: passes in a new order each."""
        config = self.config
        count = len(self.train[1])
        per_pass = count // config.batch_size
        passes = -(-config.steps // per_pass)
        orders = jax.vmap(lambda k: jax.random.permutation(k, count))(jax.random.split(key, passes))
        rows = orders[:, : per_pass * config.batch_size].reshape(-1, config.batch_size)
        return rows[: config.steps]

    def run_trajectories(self) -> list[dict]:
        """For each optimizer a search over penalties and a finer one around the best: six rows."""
        config = self.config
        wide = 2.0 ** np.linspace(-9, 5, config.matches)
        near = 2.0 ** np.linspace(-1, 1, config.matches)
        programs = {}

        def advance(unit, state):
            name, again = records.OPTIMIZERS[unit // 2], unit % 2
            if name not in programs:
                programs[name] = self.over_seeds(lambda k, m: self.trajectories(name, k, m))
            centre = state[0][:, None] if again else np.ones((len(self.keys), 1))
            row = jax.device_get(programs[name](self.keys, centre * (near if again else wide)))
            # A run that diverged is no match.
            largest = np.where(np.isnan(row["largest_distance"]), np.inf, row["largest_distance"])
            searched = slice(len(records.FACTORS), None)
            best = largest[:, searched].argmin(1)
            best = np.take_along_axis(row["factor"][:, searched], best[:, None], 1)[:, 0]
            return (best,), row

        with jax.enable_x64(True):
            return run_stage(
                self.host, "trajectories", 2 * len(records.OPTIMIZERS),
                lambda: (np.ones(len(self.keys)),), advance,
                lambda row: {"distance": float(np.median(row["distance"][:, -1, 1]))},
            )  # fmt: skip

    # -- a quadratic in the plane

    def plane_steps(self) -> int:
        """Enough for plain descent and momentum to reach their fixed points to rounding."""
        config = self.config
        slowest = min(config.descent_rate * EIGENVALUES[-1], 1 - config.momentum**0.5)
        return max(records.PLANE_SHOWN, int(np.ceil(40 / slowest)))

    def plane(self, key):
        """One seed's quadratic, and for each optimizer the path of the weights with no decay,
        coupled penalties of once and of 1 - beta the decay, and decoupled decay."""
        config = self.config
        keys = jax.random.split(jax.random.fold_in(key, 4), 3)
        turn = jax.random.uniform(keys[0], (), jnp.float64, 0, jnp.pi)
        cos, sin = jnp.cos(turn), jnp.sin(turn)
        axes = jnp.array([[cos, -sin], [sin, cos]])
        hessian = axes @ jnp.diag(jnp.array(EIGENVALUES)) @ axes.T
        minimum, first = (jax.random.normal(k, (2,), jnp.float64) for k in keys[1:])
        steps, shown = self.plane_steps(), records.PLANE_SHOWN

        def path(optimizer):
            def step(run, _):
                w, state = run
                updates, state = optimizer.update(hessian @ (w - minimum), state, w)
                return (w + updates, state), w + updates

            _, found = jax.lax.scan(step, (first, optimizer.init(first)), length=steps)
            return jnp.concatenate([first[None], found[:shown]]), found[-1]

        kinds = jnp.array([[0.0, 0.0], [1.0, 0.0], [1 - config.momentum, 0.0], [0.0, 1.0]])
        found = [
            jax.vmap(lambda kind, name=name: path(self.both(name, *kind)))(kinds * config.decay)
            for name in records.OPTIMIZERS
        ]
        paths, ends = zip(*found, strict=True)
        ridge = jnp.linalg.solve(
            hessian + config.decay * (1 - config.momentum) * jnp.eye(2), hessian @ minimum
        )
        return {
            "plane_path": jnp.stack(paths),
            "plane_end": jnp.stack(ends),
            "plane_hessian": hessian,
            "plane_minimum": minimum,
            "plane_ridge": ridge,
        }

    def run_plane(self) -> list[dict]:
        with jax.enable_x64(True):
            program = self.over_seeds(self.plane)
            return run_stage(
                self.host, "plane", 1, lambda: (), lambda unit, state: (state, program(self.keys))
            )

    # -- linear regression

    def run_linear(self) -> list[dict]:
        config = self.config

        def one(key):
            return linear.compare(
                jax.random.fold_in(key, 5), samples=config.samples, features=config.features,
                spectrum=config.spectrum, noise=config.noise, beta=config.momentum,
                steps=config.linear_steps,
            )  # fmt: skip

        with jax.enable_x64(True):
            program = self.over_seeds(one)
            return run_stage(
                self.host, "linear", 1, lambda: (), lambda unit, state: (state, program(self.keys))
            )

    # -- a network with every rate and penalty

    def trainer(self, rate, penalty):
        descent = optimizers.coupled_decay(optimizers.make("sgd", rate), penalty)
        return training.make_trainer(
            self.init_params, self.loss, descent, self.config.batch_size,
            instruments=training.Instruments(0, 0, 0), chunk=self.config.batch_size,
        )  # fmt: skip

    def measure(self, params, data):
        splits = {"train": data, "tune": self.tune, "test": self.test}
        ends = np.cumsum([len(y) for _, y in splits.values()])[:-1].tolist()
        everything = jnp.concatenate([x for x, _ in splits.values()])
        logits = self.model.apply({"params": params}, everything)[0]
        row = {"norm": optax.tree.norm(params)}
        for (name, (_, y)), z in zip(splits.items(), jnp.split(logits, ends), strict=True):
            row[f"{name}_loss"] = losses.cross_entropy(z, y)
            row[f"{name}_error"] = losses.error_rate(z, y)
        return row

    def epochs(self, count: int, state, key, rate, penalty):
        """`count` epochs of one run: (state, rows [count])."""
        data = (self.train[0], self.labels(key))
        trainer = self.trainer(rate, penalty)

        def epoch(state, _):
            state, _ = trainer.epoch(state, jax.random.fold_in(key, 2), data)
            return state, self.measure(state.params, data)

        return jax.lax.scan(epoch, state, None, length=count)

    def run_network(self) -> list[dict]:
        """Rows of blocks of epochs, [S, rates, 1 + penalties, epochs of the block]; first 0."""
        config = self.config
        conditions = [(r, p) for r in config.rates for p in (0.0, *config.strengths)]
        rates, penalties = np.repeat(np.float32(conditions), len(self.keys), 0).T
        keys = jnp.tile(self.keys, len(conditions))
        shape = len(config.rates), 1 + len(config.strengths), len(self.keys)

        def start(key, rate, penalty):
            return self.trainer(rate, penalty).init(key)

        def before(state, key):
            data = (self.train[0], self.labels(key))
            return jax.tree.map(lambda a: a[None], self.measure(state.params, data))

        starting, measuring = self.over_seeds(start), self.over_seeds(before)
        programs = {}

        def advance(unit, state):
            if unit == 0:
                row = measuring(state, keys)
            else:
                count = records.epochs_of(config, unit)
                if count not in programs:
                    programs[count] = self.over_seeds(
                        lambda s, k, r, p: self.epochs(count, s, k, r, p), (0,)
                    )
                state, row = programs[count](state, keys, rates, penalties)
            return state, {name: self.by_condition(a, shape) for name, a in row.items()}

        return run_stage(
            self.host, "network", config.blocks, lambda: starting(keys, rates, penalties), advance,
            headline,
        )  # fmt: skip

    def by_condition(self, values, shape) -> np.ndarray:
        """[rates x penalties x S, epochs] -> [S, rates, penalties, block], filled up with NaN."""
        values = np.moveaxis(np.reshape(values, (*shape, -1)), 2, 0)
        rest = self.config.block - values.shape[3]
        return np.pad(values, [(0, 0)] * 3 + [(0, rest)], constant_values=np.nan)


def headline(row) -> dict[str, float]:
    """Medians over seeds and rates, without a penalty, in the last epoch of the block."""
    last = np.flatnonzero(np.isfinite(row["train_loss"]).any((0, 1, 2)))
    if not len(last):
        return {}
    shown = {"train_loss": "training loss", "test_error": "test error"}
    return {
        label: float(np.nanmedian(row[name][:, :, 0, last[-1]])) for name, label in shown.items()
    }
