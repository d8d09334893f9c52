"""Early stopping against ridge in linear regression, where both are known in closed form.

The loss is half the mean squared error; its Hessian has the eigenvalues l. After t steps of
gradient descent at rate e from zero, the solution along an eigenvector is the least-squares
solution times 1 - (1 - e l)^t (Goodfellow et al. 2016, 7.40); ridge with the penalty a/2 ||w||^2
multiplies it by l / (l + a) (7.13). They are compared at a = 1 / (e t) (7.45).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# In the limit of small steps (Ali, Kolter & Tibshirani 2019): the largest difference of the two
# factors, where it is reached, and the largest ratio of the expected risks.
GAP, GAP_AT, RISK = 0.2036, 2.513, 1.6859


class Case(NamedTuple):
    """One way to run gradient descent, and the ridge that it is compared with."""

    name: str
    words: str
    step: float = 0.01  # e times the largest eigenvalue
    slope: float = 1.0  # of the loss in units of half the mean squared error
    momentum: bool = False
    start: bool = False  # from a random point instead of zero
    summed: bool = False  # ridge of the sum over the examples, at the same a


CASES = (
    Case("gd", "steps of 0.01"),
    Case("gd_0.1", "steps of 0.1", 0.1),
    Case("gd_0.5", "steps of 0.5", 0.5),
    Case("gd_1", "steps of 1", 1.0),
    Case("no_half", "factor ½ dropped", slope=2.0),
    Case("summed", "sum for the mean", summed=True),
    Case("start", "non-zero start", start=True),
    Case("momentum", "momentum", momentum=True),
)


def descent_shrinkage(step, steps):
    """1 - (1 - e l)^t for `step` = e l in [0, 1] and t >= 1; arrays broadcast."""
    with np.errstate(divide="ignore"):
        return -np.expm1(steps * np.log1p(-np.asarray(step, float)))


def ridge_shrinkage(ratio):
    """l / (l + a) for `ratio` = l / a; NumPy or JAX."""
    return ratio / (1 + ratio)


def suprema(step: float) -> tuple[float, float]:
    """Largest gap and risk ratio of descent from zero at any e l up to `step`, after any t.

    By search over steps and times; as `step` falls to 0 they tend to `GAP` and `RISK`.
    """
    gap, risk = 0.0, 0.0
    for size in step * np.linspace(0.02, 1, 99):
        steps = np.arange(1, int(40 / size) + 2)
        descent, ridge = descent_shrinkage(size, steps), ridge_shrinkage(size * steps)
        gap = max(gap, np.abs(descent - ridge).max())
        # The bias of descent is the smaller one, so the variances bound the ratio of the risks.
        risk = max(risk, ((descent / ridge) ** 2).max())
    return gap, risk


def times(steps: int, count: int = 80) -> np.ndarray:
    """Step numbers at which all is compared, evenly spaced in their logarithm."""
    return np.unique(np.round(np.geomspace(1, steps, count)).astype(int))


class Regression(NamedTuple):
    """Data of one seed; everything float64."""

    hessian: jax.Array  # [P, P], of half the mean squared error
    slope: jax.Array  # [P], hessian @ least-squares solution
    eigenvalues: jax.Array  # [P], ascending
    vectors: jax.Array  # [P, P], columns
    truth: jax.Array  # [P], the weights that made the data


def draw(key, samples: int, features: int, spectrum: float, noise: float) -> Regression:
    """Normal inputs whose covariance has the eigenvalues 1, 2^-spectrum, 3^-spectrum, ..."""
    keys = jax.random.split(key, 3)
    scales = jnp.arange(1.0, features + 1) ** (-spectrum / 2)
    inputs = jax.random.normal(keys[0], (samples, features)) * scales[None]
    truth = jax.random.normal(keys[1], (features,))
    targets = inputs @ truth + noise * jax.random.normal(keys[2], (samples,))
    hessian = inputs.T @ inputs / samples
    return Regression(hessian, inputs.T @ targets / samples, *jnp.linalg.eigh(hessian), truth)


def descend(problem: Regression, cases, start, beta: float, steps: int):
    """Gradient descent of each case: weights [C, T + 1, P], and what is left of the start's error.

    Args:
      problem: the data.
      cases: C of them.
      start: weights [P] for the cases that do not start at zero.
      beta: of heavy ball.
      steps: T.

    Returns:
      weights [C, T + 1, P], iterated in the space of the weights; residual [C, T + 1, P], the same
      recursion for the error along each eigenvector, from 1.
    """
    rates = jnp.array([c.slope * c.step for c in cases]) / problem.eigenvalues[-1]
    betas = jnp.array([beta if c.momentum else 0.0 for c in cases])
    starts = jnp.array([float(c.start) for c in cases])[:, None] * start[None]

    def one(rate, beta, first):
        def step(state, _):
            (w, v), (r, u) = state
            v = beta * v - rate * (problem.hessian @ w - problem.slope)
            u = beta * u - rate * problem.eigenvalues * r
            state = (w + v, v), (r + u, u)
            return state, (state[0][0], state[1][0])

        ones = jnp.ones_like(first)
        begin = (first, 0 * first), (ones, 0 * ones)
        _, found = jax.lax.scan(step, begin, length=steps)
        return [jnp.concatenate([a[None], b]) for a, b in zip((first, ones), found, strict=True)]

    return jax.vmap(one)(rates, betas, starts)


def compare(key, *, samples, features, spectrum, noise, beta, steps, cases=CASES) -> dict:
    """Descent and ridge on one draw of the data, at `times(steps)`; arrays [C, times, ...].

    A shrinkage is the part along an eigenvector over that of the least-squares solution. The risk
    is that of the predictions on the same inputs, beyond the noise, expected over the noise.
    """
    problem = draw(jax.random.fold_in(key, 0), samples, features, spectrum, noise)
    eigenvalues = problem.eigenvalues[None, None]
    start = jax.random.normal(jax.random.fold_in(key, 1), (features,))
    weights, residual = descend(problem, cases, start, beta, steps)
    when = times(steps)
    reached, residual = weights[:, when] @ problem.vectors, residual[:, when]
    truth = (problem.truth @ problem.vectors)[None, None]
    solution = (problem.slope @ problem.vectors)[None, None] / eigenvalues
    from_zero = jnp.array([float(c.start) for c in cases])[:, None, None]
    firsts = from_zero * (start @ problem.vectors)[None, None]

    # e is the nominal rate whatever the factor in the loss is: that is the trap.
    progress = jnp.array([[c.step * t for t in when.tolist()] for c in cases])  # e t l_max
    fewer = jnp.array([samples if c.summed else 1.0 for c in cases])
    relative = eigenvalues / problem.eigenvalues[-1]
    ratio = fewer[:, None, None] * progress[:, :, None] * relative
    ridge = ridge_shrinkage(ratio)

    def risk(factor, first):
        """Expected over the noise: of least squares x factor + first x (1 - factor)."""
        bias = (1 - factor) * (first - truth)
        return (eigenvalues * bias**2 + noise**2 / samples * factor**2).sum(-1)

    def loss(found):
        return (eigenvalues * (found - truth) ** 2).sum(-1)

    # The penalty whose solution is nearest, in octaves from 1 / (e t).
    octaves = jnp.linspace(-7.0, 7.0, 281)
    away = jax.lax.map(
        lambda o: jnp.square(reached - ridge_shrinkage(ratio * 2**-o) * solution).sum(-1), octaves
    )
    return {
        "progress": progress,
        "ratio": ratio,
        "descent_shrinkage": reached / solution,
        "ridge_shrinkage": ridge,
        "descent_risk": risk(1 - residual, firsts),
        "ridge_risk": risk(ridge, 0.0),
        "descent_loss": loss(reached),
        "ridge_loss": loss(ridge * solution),
        "nearest": octaves[jnp.argmin(away, 0)],
    }
