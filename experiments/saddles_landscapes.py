"""Places that descent is slow to leave, in one and two dimensions, and the time by theory.

A step is theta <- theta - rate * (gradient + sigma * normal draw). Everything is float64.

* A saddle of the quadratic -a x^2 / 2 + b y^2 / 2: along x the distance grows by 1 + rate a a step.
* A double well h (x^2 - 1)^2 with its barrier of height h at 0.
* A flat valley: walls y^2 / 2 and, along it, a constant slope or a sigmoid's plateau.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.momentum_quadratics import Method, averaged_step, step

EDGE = 1.0  # distance along the falling direction at which a saddle is left
LEFT_OF, WELL, OTHER = -2.5, -1.0, 1.0  # of the double well: no walker is there; start; end
NODES = 240  # of the integral equation

# -- saddle


class Saddle(NamedTuple):
    """What a seed draws."""

    falling: jax.Array  # a, curvature of the direction that falls
    rising: jax.Array  # b
    axes: jax.Array  # [2, 2], columns: the falling and the rising direction


def draw_saddle(key) -> Saddle:
    """Curvatures from 1/2 to 2, and a direction."""
    keys = jax.random.split(key, 3)
    falling, rising = (
        2.0 ** jax.random.uniform(k, (), jnp.float64, -1.0, 1.0) for k in keys[:2]
    )  # fmt: skip
    angle = jax.random.uniform(keys[2], (), jnp.float64, 0.1, jnp.pi / 2 - 0.1)
    c, s = jnp.cos(angle), jnp.sin(angle)
    return Saddle(falling, rising, jnp.array([[c, -s], [s, c]]))


def saddle_escape(saddle: Saddle, key, rate: float, sigmas, walkers: int, most: int):
    """Steps to leave the saddle, started on it, int32[sigmas, walkers]; -1: it is not left.

    The same draws serve every sigma.
    """
    hessian = saddle.axes * jnp.stack([-saddle.falling, saddle.rising])[None] @ saddle.axes.T
    sigma = sigmas[:, None, None]

    def once(state, number):
        points, left = state
        draws = jax.random.normal(jax.random.fold_in(key, number), (walkers, 2), jnp.float64)
        points = points - rate * (points @ hessian + sigma * draws[None])
        out = jnp.abs(points @ saddle.axes[:, 0]) > EDGE
        left = jnp.where((left < 0) & out, number + 1, left)
        # Those that are out stay where they are: far out there is no saddle any more.
        return (jnp.where((left >= 0)[..., None], jnp.clip(points, -9.0, 9.0), points), left), None

    shape = sigmas.shape[0], walkers
    first = jnp.zeros((*shape, 2)), jnp.full(shape, -1, jnp.int32)
    (_, left), _ = jax.lax.scan(once, first, jnp.arange(most, dtype=jnp.int32))
    return left


def ridge_escape(saddle: Saddle, rate: float, most: int):
    """Steps to leave without noise, from the ridge at distance 1: int32[2], axes along and turned.

    Along the eigenvectors the gradient across the ridge is exactly 0. With turned axes it is the
    difference of two numbers that rounding does not leave equal.
    """

    def leave(axes):
        hessian = axes * jnp.stack([-saddle.falling, saddle.rising])[None] @ axes.T

        def once(state, number):
            point, left = state
            point = jnp.clip(point - rate * (hessian @ point), -9.0, 9.0)
            out = jnp.abs(point @ axes[:, 0]) > EDGE
            return (point, jnp.where((left < 0) & out, number + 1, left)), None

        numbers = jnp.arange(most, dtype=jnp.int32)
        return jax.lax.scan(once, (axes[:, 1], jnp.int32(-1)), numbers)[0][1]

    return jax.vmap(leave)(jnp.stack([jnp.eye(2), saddle.axes]))


def saddle_steps(rate: float, falling, sigma):
    """Expected steps to leave a saddle for small sigma.

    After t steps x is (1 + rate a)^t rate sigma Z, Z tending to a normal draw of variance
    1 / ((1 + rate a)^2 - 1); the mean of log |normal draw| is -(Euler's constant + ln 2) / 2, and
    half a step is lost to whole steps.
    """
    growth = 1 + rate * np.asarray(falling, float)
    lost = (np.euler_gamma + np.log(2)) / 2
    distance = np.log(EDGE / (rate * np.asarray(sigma, float)))
    return (distance + 0.5 * np.log(growth**2 - 1) + lost) / np.log(growth) + 0.5


# -- double well


def well_slope(x, height):
    return 4 * height * x * (x * x - 1)


def noise_of(height, rate, barrier):
    """Sigma at which the barrier is so many times the temperature rate sigma^2 / 2."""
    return (2 * height / (rate * barrier)) ** 0.5


def well_escape(height, key, rate: float, barriers, walkers: int, most: int):
    """Steps from one well to the bottom of the other, int32[1 + barriers, walkers]; -1: not there.

    The first row is without noise.
    """
    sigma = jnp.concatenate([jnp.zeros(1), noise_of(height, rate, barriers)])[:, None]
    shape = sigma.shape[0], walkers

    def once(state, number):
        x, left = state
        draws = jax.random.normal(jax.random.fold_in(key, number), shape, jnp.float64)
        x = x - rate * (well_slope(x, height) + sigma * draws)
        there = x >= OTHER
        return (
            jnp.where(left >= 0, OTHER, x),
            jnp.where((left < 0) & there, number + 1, left),
        ), None

    first = jnp.full(shape, WELL), jnp.full(shape, -1, jnp.int32)
    (_, left), _ = jax.lax.scan(once, first, jnp.arange(most, dtype=jnp.int32))
    return left


def mean_steps(height: float, rate: float, sigma: float, nodes: int = NODES) -> float:
    """The expected number of steps from one well to the bottom of the other, to rounding.

    m(x) = 1 + integral of p(y | x) m(y) over all y that are not there yet, p the normal density of
    a step; solved at the nodes of Gauss and Legendre.
    """
    place, weight = np.polynomial.legendre.leggauss(nodes)
    half = (OTHER - LEFT_OF) / 2
    place, weight = LEFT_OF + half * (place + 1), half * weight
    spread = rate * sigma

    def kernel(x):
        away = (place[None] - (x - rate * well_slope(x, height))[:, None]) / spread
        return np.exp(-0.5 * away**2) * weight[None] / (spread * np.sqrt(2 * np.pi))

    found = np.linalg.solve(np.eye(nodes) - kernel(place), np.ones(nodes))
    return float(1 + (kernel(np.array([WELL])) @ found)[0])


def kramers(height, rate, barrier):
    """Kramers' mean steps: 2 pi / sqrt(8 h 4 h) exp(barrier) / rate, for high barriers."""
    return 2 * np.pi / (32**0.5 * height) * np.exp(barrier) / rate


def mean_of_exponential(left: np.ndarray, most: int) -> np.ndarray:
    """Mean steps [...] of walkers [..., W] that leave at a constant chance; -1: not in `most`.

    All steps made, over the number of walkers that left; nan if none did.
    """
    gone = left >= 0
    made = np.where(gone, left, most).sum(-1)
    count = gone.sum(-1)
    return np.where(count > 0, made / np.maximum(count, 1), np.nan)


# -- flat valley


def valley_slopes(steepness):
    """Slopes along the valley, by name: of (position) -> gradient."""
    return {
        "constant": lambda x: -steepness * jnp.ones_like(x),
        "sigmoid": lambda x: -jax.nn.sigmoid(x) * jax.nn.sigmoid(-x),
    }


def valley_methods(rate: float, alpha: float) -> dict[str, tuple[Method, bool, bool]]:
    """Arms by name: constants, whether the form is the exponential average, and walls."""
    return {
        "gd": (Method(rate, 0.0, 0.0), False, True),
        "momentum": (Method(rate, alpha, 0.0), False, True),
        "averaged": (Method(rate, alpha, 0.0), True, True),
        "gd_at_walls": (Method(1.9, 0.0, 0.0), False, True),
        "gd_without_walls": (Method(rate / (1 - alpha), 0.0, 0.0), False, False),
    }


def cross(slope, start, length, method: Method, averaged, walls, most: int):
    """Steps until the position is `length`, int32; `most` + 1: it is not reached.

    Args:
      slope: of the valley, a function of the position.
      start: [2], along and across the valley.
      length: where the valley ends.
      method: constants.
      averaged: the source's form instead of the book's.
      walls: whether there are any; without, the valley is a line.
      most: steps.
    """

    def gradient(at):
        return jnp.stack([slope(at[0]), jnp.where(walls, at[1], 0.0)])

    def goes_on(state):
        theta, _, steps = state
        return (theta[0] < length) & (steps <= most)

    def once(state):
        theta, v, steps = state
        book = step(method, theta, v, gradient)
        source = averaged_step(method.rate, method.alpha, theta, v, gradient)
        theta, v = jax.tree.map(lambda a, b: jnp.where(averaged, a, b), source, book)
        return theta, v, steps + 1

    return jax.lax.while_loop(goes_on, once, (start, jnp.zeros(2), jnp.int32(0)))[2]


def speed_ratio(alpha: float, steps) -> np.ndarray:
    """(1 - alpha^t) / (1 - alpha): speed on a constant slope over gradient descent's."""
    return (1 - alpha ** np.asarray(steps, float)) / (1 - alpha)
