"""Optimizers against the book's formulas in NumPy, and against Optax's defaults, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlstudy import optimizers
from experiments import adaptive_reference as reference

ALGORITHMS = {
    "sgd": "8.1", "momentum": "8.2", "nesterov": "8.3", "adagrad": "8.4",
    "rmsprop": "8.5, source 7", "rmsprop_nesterov": "8.6", "adam": "8.7",
    "averaged_momentum": "source 3, 4", "adam_uncorrected": "source 5, 6",
    "amsgrad": "Reddi et al.",
}  # fmt: skip
SCHEDULES = ("constant", "falling")
STEPS = 100
RATE, LAST = 0.02, 0.0002  # first and last rate of the falling schedule, algorithm 8.1's
STREAM = 20  # of a seed's key

# What Optax makes of the same name, or of the nearest one, with its defaults.
DEFAULTS = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "nesterov": lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True),
    "adagrad": optax.adagrad,
    "rmsprop": optax.rmsprop,
    "rmsprop_nesterov": lambda rate: optax.rmsprop(rate, momentum=0.9, nesterov=True),
    "adam": optax.adam,
    "averaged_momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "adam_uncorrected": optax.adam,
    "amsgrad": optax.amsgrad,
}


def problem(key):
    """(start [6], pull [6], forcing [100, 6]): gradients pull theta + forcing.

    Sizes lie between 1e-5 and 10, and the last coordinate has no gradient at all.
    """
    one, two, three = jax.random.split(jax.random.fold_in(key, STREAM), 3)
    size = (10.0 ** jax.random.uniform(one, (6,), jnp.float64, -5, 1)).at[-1].set(0)
    pull = jnp.minimum(size, 1)
    forcing = size[None] * jax.random.normal(two, (STEPS, 6), jnp.float64)
    return jax.random.normal(three, (6,), jnp.float64), pull, forcing


def rates(linear) -> jax.Array:
    """Rates of all steps, [schedules, T]; `linear` makes the falling schedule."""
    counts = jnp.arange(STEPS)
    falling = jax.vmap(linear(RATE, LAST, STEPS))(counts).astype(jnp.float64)
    return jnp.stack([jnp.full(STEPS, RATE), falling])


def paths(start, pull, forcing):
    """theta after each step, [2, algorithms, schedules, T, n]: our optimizers and Optax's."""

    def path(maker, table, look_ahead=False):
        optimizer = maker(lambda count: table[count])

        def step(state, push):
            params, memory = state
            update, memory = optimizer.update(pull * params + push, memory, params)
            params = params + update
            theta = optimizers.nesterov_point(params, memory) if look_ahead else params
            return (params, memory), theta

        return jax.lax.scan(step, (start, optimizer.init(start)), forcing)[1]

    own, theirs = rates(optimizers.linear_decay), rates(optax.linear_schedule)
    found = []
    for name in ALGORITHMS:
        make = lambda rate, name=name: optimizers.make(name, rate)  # noqa: E731
        default = lambda rate, name=name: optimizers.standard_promotion(DEFAULTS[name](rate))  # noqa: E731
        ahead = "nesterov" in name
        found.append((
            jax.vmap(lambda table, m=make, a=ahead: path(m, table, a))(own),
            jax.vmap(lambda table, m=default: path(m, table))(theirs),
        ))  # fmt: skip
    return jnp.stack([jnp.stack(side) for side in zip(*found, strict=True)])


def expected(start, pull, forcing) -> np.ndarray:
    """theta after each step by the formulas, [algorithms, schedules, T, n]."""
    falls = {
        "constant": np.full(STEPS, RATE),
        "falling": reference.linear_decay(RATE, LAST, STEPS, STEPS),
    }
    gradient = lambda t, theta: pull * theta + forcing[t]  # noqa: E731
    return np.array([
        [
            start + np.cumsum(reference.BY_NAME[name](gradient, start, falls[schedule]), 0)
            for schedule in SCHEDULES
        ]
        for name in ALGORITHMS
    ])  # fmt: skip


def distances(found: np.ndarray, formula: np.ndarray, start: np.ndarray) -> dict:
    """Largest distances of one seed, [algorithms, schedules].

    Args:
      found: of `paths`.
      formula: of `expected`.
      start: theta before the first step.

    Returns:
      "conformance": ours from the formula, over theta where that is above 1; "optax_gap": Optax's
      from the formula, over the largest distance that the formula's path gets from its start.
    """
    # Optax's parameters are the look-ahead point, as ours would be.
    last = np.concatenate([np.broadcast_to(start, (*formula.shape[:2], 1, len(start))), formula], 2)
    ahead = np.array([0.9 * ("nesterov" in name) for name in ALGORITHMS])[:, None, None, None]
    ours, theirs = np.abs(found - np.stack([formula, formula + ahead * np.diff(last, axis=2)]))
    length = np.abs(formula - start).max((2, 3))
    return {
        "conformance": (ours / np.maximum(np.abs(formula), 1)).max((2, 3)),
        "optax_gap": theirs.max((2, 3)) / length,
    }
