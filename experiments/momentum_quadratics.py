"""Descent with momentum on quadratics: best constants, contraction, steps and what noise does.

The cost is half of e'He, e the distance from the minimum, H's eigenvalues from 1 / kappa to 1.
All the methods commute with rotations, so that a problem may be put into its eigenbasis, where
every direction is a recursion of two numbers; what turns the axes is left to `turned`. A method is
the book's algorithm 8.2 or 8.3,

    v <- alpha v - rate * gradient(theta + ahead * alpha v);    theta <- theta + v,

gradient descent being that of alpha = 0. Everything is float64.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LOST = 1e8  # times the start: a run that is as far away has diverged


class Method(NamedTuple):
    """Constants of a method; numbers or arrays of one shape."""

    rate: jax.Array  # times the largest eigenvalue
    alpha: jax.Array
    ahead: jax.Array  # 1: the gradient is taken at theta + alpha v (Nesterov), 0: at theta


class Quadratic(NamedTuple):
    """What a seed draws."""

    place: jax.Array  # float64[N], from 0 to 1, both there: an eigenvalue is kappa^-place
    start: jax.Array  # float64[N], distance from the minimum in the eigenbasis; its norm is 1
    axes: jax.Array  # float64[N, N], orthogonal: the eigenvectors, uniformly distributed


def methods(kappa: float, alpha: float) -> dict[str, Method]:
    """The methods by name; `alpha` is that of the ones which are not at their best constants.

    The best constants of heavy ball are Polyak's (1964), those of Nesterov's method on quadratics
    Lessard, Recht & Packard's (2016, proposition 1); "nesterov_usual" has the rate 1 / L.
    """
    low, root = 1 / kappa, kappa**0.5
    best = 2 / (1 + low)
    three = (3 * kappa + 1) ** 0.5
    constants = {
        "gd": (best, 0, 0),
        "heavy_ball": (4 / (1 + low**0.5) ** 2, ((root - 1) / (root + 1)) ** 2, 0),
        "nesterov": (4 / (3 + low), (three - 2) / (three + 2), 1),
        "nesterov_usual": (1, (root - 1) / (root + 1), 1),
        "gd_cautious": (1, 0, 0),
        "momentum_cautious": (1, alpha, 0),
        "averaged_cautious": (1 - alpha, alpha, 0),
        "momentum_at_best": (best, alpha, 0),
        "gd_tenth": (best / 10, 0, 0),
        "momentum_tenth": (best / 10, alpha, 0),
    }
    return {name: Method(*map(float, values)) for name, values in constants.items()}


# What theory says of a method's contraction per step, as a function of kappa.
THEORY = {
    "gd": lambda k: (k - 1) / (k + 1),
    "heavy_ball": lambda k: (k**0.5 - 1) / (k**0.5 + 1),
    "nesterov": lambda k: 1 - 2 / (3 * k + 1) ** 0.5,
    "nesterov_usual": lambda k: 1 - k**-0.5,
}


def companion(method: Method, eigenvalue) -> np.ndarray:
    """float64[..., 2, 2]: (theta, v) after a step from those before, along an eigenvector."""
    rate, alpha, ahead = (np.asarray(part, float) for part in method)
    pull = rate * eigenvalue
    kept = alpha * (1 - ahead * pull)
    rows = np.broadcast_arrays(1 - pull, kept, -pull, kept)
    return np.stack(rows, -1).reshape(*rows[0].shape, 2, 2)


def spectral_radius(method: Method, eigenvalues) -> float:
    """The largest modulus of the companion matrices' eigenvalues: contraction in the long run."""
    return float(np.abs(np.linalg.eigvals(companion(method, np.asarray(eigenvalues)))).max())


def draw(key, dimensions: int) -> Quadratic:
    """Eigenvalues even over the logarithm, a direction to start from, and axes."""
    keys = jax.random.split(key, 3)
    inner = jnp.sort(jax.random.uniform(keys[0], (dimensions - 2,), jnp.float64))
    start = jax.random.normal(keys[1], (dimensions,), jnp.float64)
    square = jax.random.normal(keys[2], (dimensions, dimensions), jnp.float64)
    axes, upper = jnp.linalg.qr(square)
    # The sign makes the distribution uniform (Mezzadri 2007).
    axes = axes * jnp.sign(jnp.diagonal(upper))[None]
    place = jnp.concatenate([jnp.zeros(1), inner, jnp.ones(1)])
    return Quadratic(place, start / jnp.linalg.norm(start), axes)


def turned(problem: Quadratic, kappa) -> tuple[jax.Array, jax.Array]:
    """The Hessian [N, N] and the start [N] with the axes of the problem."""
    eigenvalues = kappa**-problem.place
    return problem.axes * eigenvalues[None] @ problem.axes.T, problem.axes @ problem.start


def step(method: Method, theta, v, gradient):
    """(theta, v) after a step; `gradient` is a function of the parameters."""
    v = method.alpha * v - method.rate * gradient(theta + method.ahead * method.alpha * v)
    return theta + v, v


def averaged_step(rate, beta, theta, v, gradient):
    """The same of the source's equations 3 and 4, as they are written."""
    v = beta * v + (1 - beta) * gradient(theta)
    return theta - rate * v, v


class Way(NamedTuple):
    """What is kept of a run, scalars."""

    steps: jax.Array  # int32, until the target, or so many as there were
    distance: jax.Array  # from the minimum, at the end
    turns: jax.Array  # int32, steps at an angle of more than 90 degrees to the one before
    path: jax.Array  # length of the way


def descend(eigenvalues, start, method: Method, target: float, most: int) -> Way:
    """Runs until the distance from the minimum is below `target`, at most `most` steps.

    Args:
      eigenvalues: float64[N].
      start: float64[N], of norm 1.
      method: scalars.
      target: distance at which to stop.
      most: number of steps.
    """

    def goes_on(state):
        _, _, way = state
        return (way.steps < most) & (way.distance > target) & (way.distance < LOST)

    def once(state):
        theta, v, way = state
        after, velocity = step(method, theta, v, lambda at: eigenvalues * at)
        turned = (velocity * v).sum() < 0
        way = Way(
            way.steps + 1, jnp.linalg.norm(after), way.turns + turned.astype(jnp.int32),
            way.path + jnp.linalg.norm(velocity),
        )  # fmt: skip
        return after, velocity, way

    none = Way(jnp.int32(0), jnp.linalg.norm(start), jnp.int32(0), jnp.float64(0))
    return jax.lax.while_loop(goes_on, once, (start, jnp.zeros_like(start), none))[2]


def path(hessian, start, method: Method, steps: int):
    """Points [steps + 1, N] of a run."""

    def once(state, _):
        state = step(method, *state, lambda at: hessian @ at)
        return state, state[0]

    _, points = jax.lax.scan(once, (start, jnp.zeros_like(start)), length=steps)
    return jnp.concatenate([start[None], points])


class Moments(NamedTuple):
    """Mean and covariance of (theta, v) along each eigenvector, [..., N]; start and unit noise."""

    theta: jax.Array
    v: jax.Array
    theta_theta: jax.Array
    theta_v: jax.Array
    v_v: jax.Array


def moments_step(eigenvalues, method: Method, now: Moments) -> Moments:
    """The moments after a step whose gradient has noise of covariance H.

    That is the noise of a minibatch in least squares, up to a factor; the mean does not feel it,
    and the covariance is in proportion to that factor, so that one run serves any amount of noise.
    """
    pull = method.rate * eigenvalues
    kept, stays = method.alpha * (1 - method.ahead * pull), 1 - pull
    fresh = method.rate**2 * eigenvalues
    a, b, c = now.theta_theta, now.theta_v, now.v_v
    return Moments(
        stays * now.theta + kept * now.v,
        -pull * now.theta + kept * now.v,
        stays**2 * a + 2 * stays * kept * b + kept**2 * c + fresh,
        -stays * pull * a + (stays - pull) * kept * b + kept**2 * c + fresh,
        pull**2 * a - 2 * pull * kept * b + kept**2 * c + fresh,
    )


def floor(eigenvalues, rate):
    """Expected cost at which gradient descent with noise of covariance H ends."""
    return 0.5 * (rate * eigenvalues / (2 - rate * eigenvalues)).sum(-1)


def steps_with_noise(eigenvalues, start, method: Method, amounts, target: float, most: int):
    """Steps until the expected cost is below a part of its start, for each amount of noise.

    Args:
      eigenvalues: float64[N].
      start: float64[N].
      method: arrays [G].
      amounts: float64[R], noise in units of what makes gradient descent at the rate 1 end at the
        target.
      target: part of the cost at the start.
      most: number of steps.

    Returns:
      int32[G, R]; -1: not in so many steps.
    """
    own = Method(*(part[:, None] for part in method))
    cost = 0.5 * (eigenvalues * start**2).sum()
    noise = amounts * target * cost / floor(eigenvalues, 1.0)
    shape = method.rate.shape[0], eigenvalues.shape[0]
    zero = jnp.zeros(shape)

    def once(state, number):
        now, hit = state
        now = moments_step(eigenvalues[None], own, now)
        bias, spread = (
            0.5 * (eigenvalues[None] * part).sum(1)
            for part in (now.theta**2, now.theta_theta)
        )  # fmt: skip
        expected = bias[:, None] + noise[None] * spread[:, None]
        # Constants that are not stable overflow, to minus infinity too.
        reached = (hit < 0) & (expected >= 0) & (expected <= target * cost)
        return (now, jnp.where(reached, number, hit)), None

    first = Moments(jnp.broadcast_to(start[None], shape), zero, zero, zero, zero)
    none = jnp.full((shape[0], amounts.shape[0]), -1, jnp.int32)
    (_, hit), _ = jax.lax.scan(once, (first, none), jnp.arange(1, most + 1, dtype=jnp.int32))
    return hit
