"""Computes the arms of `ill_posed`: settings in, record out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlstudy import optimizers, sweep
from dlstudy.host import Host
from dlstudy.stages import run_stage
from experiments import ill_posed_flow as flow
from experiments import ill_posed_problems as problems
from experiments import ill_posed_record as records

SOLVERS = ("gradient_descent", "other_start", "weight_decay", "weight_decay_other", "adam")
MOMENTS = 80  # steps at which the ways of the solvers are kept, evenly over the logarithm


class Problems(NamedTuple):
    """What one seed draws; a leading axis [S] for all of them."""

    signed: jax.Array  # float64[points, features + 1], separable points times labels, bias last
    x: jax.Array  # float64[rows, columns], standard normal
    y: jax.Array  # float64[rows], x times standard normal weights
    other: jax.Array  # float64[columns], a start that is not zero, standard normal
    train: jax.Array  # float64[rows, columns], variances fall as 1/k, their mean is 1
    new: jax.Array  # float64[new_samples, columns], from the same distribution


def run(config, host: Host):
    """Runs all stages and returns the record, an `xarray.Dataset` (see `ill_posed_record`)."""
    seeds = list(host.seeds(config.num_seeds))
    with jax.enable_x64(True):  # all that follows is algebra
        study = Study(config, host, seeds)
        rows = {
            "flow": study.run_flow(),
            "descent": study.run_descent(),
            "solutions": study.run_solutions(),
            "algebra": study.run_algebra(),
        }
    return records.assemble(config, seeds, rows)


def draw(config, key) -> Problems:
    """The problems of one seed."""
    keys = iter(jax.random.split(key, 8))

    def normal(*shape):
        return jax.random.normal(next(keys), shape, jnp.float64)

    points, features = config.points, config.features
    direction = normal(features)
    direction = direction / jnp.linalg.norm(direction)
    cloud, offset = normal(points, features), 0.5 * normal()
    sign = jnp.where(cloud @ direction + offset >= 0, 1.0, -1.0)[:, None]
    cloud = cloud + config.gap * sign * direction[None]
    signed = sign * jnp.concatenate([cloud, jnp.ones((points, 1))], 1)

    x = normal(config.rows, config.columns)
    variances = 1 / np.arange(1, config.columns + 1)
    scale = jnp.asarray(np.sqrt(variances / variances.mean()))[None]
    return Problems(
        signed, x, x @ normal(config.columns), normal(config.columns),
        scale * normal(config.rows, config.columns),
        scale * normal(config.new_samples, config.columns),
    )  # fmt: skip


def moments(steps: int) -> np.ndarray:
    """Steps to keep, from 0 (before the first) to `steps`, evenly over the logarithm."""
    return np.unique(np.append(0, np.round(np.geomspace(1, steps, MOMENTS)))).astype(int)


def descend(signed, rate, steps: int):
    """Norms [moments] of gradient descent from zero on the logistic loss without a penalty."""

    def step(w, _):
        pull = jax.nn.sigmoid(-(signed @ w)) @ signed / signed.shape[0]
        return w + rate * pull, jnp.linalg.norm(w)

    last, norms = jax.lax.scan(step, jnp.zeros(signed.shape[1]), length=steps)
    return jnp.append(norms, jnp.linalg.norm(last))[moments(steps)]


def solve_by_steps(config, x, y, other, shortest):
    """Ways of `SOLVERS` on |Xw - y|^2 / 2.

    Gradient descent has the rate 1 / (largest eigenvalue of X'X); with weight decay it steps as
    the source's update (1), w - rate (gradient + ridge w).

    Args:
      config: the settings.
      x: float64[N, D].
      y: float64[N].
      other: float64[D], the start that is not zero.
      shortest: float64[D], the minimum-norm solution.

    Returns:
      ends [solvers, D]; distance to the minimum-norm solution, and residual, each relative and
      [solvers, moments].
    """
    rate = 1 / jnp.linalg.eigvalsh(x @ x.T)[-1]
    ridge = jnp.array([0.0, 0.0, config.ridge, config.ridge])[:, None]
    starts = jnp.stack([0 * other, other, 0 * other, other])
    adam = optimizers.make("adam", optax.cosine_decay_schedule(config.adam_rate, config.steps))

    def gradients(w):
        return (w @ x.T - y[None]) @ x

    def measured(plain, adapted):
        w = jnp.concatenate([plain, adapted])
        away = jnp.linalg.norm(w - shortest[None], axis=1) / jnp.linalg.norm(shortest)
        return w, away, jnp.linalg.norm(w @ x.T - y[None], axis=1) / jnp.linalg.norm(y)

    def step(state, _):
        plain, adapted, memory = state
        row = measured(plain, adapted)[1:]
        plain = plain - rate * (gradients(plain) + ridge * plain)
        update, memory = adam.update(gradients(adapted), memory, adapted)
        return (plain, adapted + update, memory), row

    first = jnp.zeros((1, x.shape[1]))
    last, rows = jax.lax.scan(step, (starts, first, adam.init(first)), length=config.steps)
    ends, *final = measured(*last[:2])
    kept = moments(config.steps)
    distance, residual = (
        jnp.concatenate([of, end[None]])[kept].T for of, end in zip(rows, final, strict=True)
    )
    return {"ends": ends, "distance": distance, "residual": residual}


class Study:
    """The problems of all seeds, and the programs over them."""

    def __init__(self, config, host: Host, seeds):
        self.config, self.host = config, host
        program = self.over_seeds(lambda key: draw(config, key))
        self.problems = program(sweep.seed_keys(config.seed, seeds))
        self.arrays = jax.device_get(self.problems)
        self.inverse = problems.pseudoinverse(self.arrays.x)
        self.shortest = np.stack(
            [inverse @ y for inverse, y in zip(self.inverse, self.arrays.y, strict=True)]
        )

    def over_seeds(self, function, shared=0):
        return sweep.over_seeds(function, self.host.layout, shared=shared)

    def once(self, name, compute, headline):
        """A stage of one unit, without a state."""
        (row,) = run_stage(
            self.host, name, 1, lambda: (), lambda unit, state: (state, compute()), headline
        )
        return row

    def run_flow(self) -> list[dict]:
        """Rows of blocks of log time, values [S, 1 + penalties, steps of the block]."""
        penalties = jnp.array([0.0, *self.config.penalties])
        times = self.config.log_times
        width = float(times[0, 1] - times[0, 0])

        def start(signed):
            one = flow.begin(signed)
            return jax.tree.map(lambda a: jnp.tile(a[None], (len(penalties), 1)), one)

        def block(state, signed, ends):
            def step(state, end):
                one = lambda penalty, s: flow.advance(signed, penalty, s, end - width, width)  # noqa: E731
                return jax.vmap(one)(penalties, state)

            state, rows = jax.lax.scan(step, state, ends)
            return state, jax.tree.map(jnp.transpose, rows)

        begin, program = self.over_seeds(start), self.over_seeds(block, 1)
        return run_stage(
            self.host, "flow", len(times), lambda: begin(self.problems.signed),
            lambda unit, state: program(state, self.problems.signed, times[unit]),
            lambda row: {"norm": float(np.median(row["norm"][:, 0, -1]))},
        )  # fmt: skip

    def run_descent(self) -> dict:
        """Norms along gradient descent [S, moments]; hard margins [S] and their separators."""
        config = self.config
        program = self.over_seeds(
            lambda signed: descend(signed, config.learning_rate, config.descent_steps)
        )

        def compute():
            found = [problems.hard_margin(signed) for signed in self.arrays.signed]
            return {
                "descent_norm": program(self.problems.signed),
                "margin": np.array([margin for _, margin in found]),
            }

        return self.once(
            "descent", compute, lambda row: {"norm": float(np.median(row["descent_norm"][:, -1]))}
        )

    def run_solutions(self) -> dict:
        """Solutions of least squares and how far they are from each other, [S, ...]."""
        config, arrays = self.config, self.arrays
        program = self.over_seeds(lambda *own: solve_by_steps(config, *own))

        def compute():
            row = jax.device_get(program(arrays.x, arrays.y, arrays.other, self.shortest))
            ends = row.pop("ends")
            inverse = problems.stabilised_inverse(
                arrays.x, np.full(len(arrays.x), config.ridge), "dual"
            )
            ridge = (inverse @ arrays.y[..., None])[..., 0]
            sizes = np.linalg.norm(self.shortest, axis=1)
            away = lambda a, b: np.linalg.norm(a - b, axis=-1)  # noqa: E731
            row["between_starts"] = np.stack([away(ends[:, i], ends[:, i + 1]) / sizes
                                              for i in (0, 2)], 1)  # fmt: skip
            row["from_ridge"] = away(ends, ridge[:, None]) / np.linalg.norm(ridge, axis=1)[:, None]
            # What X does not see of a solution.
            seen = (ends @ np.swapaxes(arrays.x, 1, 2)) @ np.swapaxes(self.inverse, 1, 2)
            row["unseen"] = away(ends, seen) / sizes[:, None]
            return row

        return self.once(
            "solutions", compute,
            lambda row: {"distance": float(np.median(row["distance"][:, 0, -1]))},
        )  # fmt: skip

    def run_algebra(self) -> dict:
        """Errors of the stabilised inverse and variances after whitening, [S, ...]."""
        config, arrays = self.config, self.arrays

        def compute():
            row = problems.inverse_errors(arrays.x, config.ridges)
            return row | problems.whitening(arrays.train, arrays.new, records.stabilisers(config))

        return self.once(
            "algebra", compute, lambda row: {"error": float(np.median(row["dual"][:, 0]))}
        )
