"""Gradient flow of logistic regression in log time, so that times like e^100 can be reached.

The loss is L(w) = mean log(1 + exp(-m_i)) + (penalty / 2) |w|^2 with margins m_i = a_i'w, where a_i
is a point times its label. Gradient descent at rate r follows dw/dt = -grad L with t = r x steps.
With s = ln t,

    dw/ds = mean a_i exp(s - log(1 + exp(m_i))) - penalty e^s w,

whose exponents stay small along a solution however late it is: nothing underflows. The penalty
makes the equation stiff (its rate is penalty e^s), hence an implicit method: the two-stage,
second-order, L-stable Runge-Kutta method of Alexander (1977), each stage by Newton's method.

Functions of one problem, in float64: call them where 64-bit types are enabled.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

FIRST = -8.0  # ln t at which the flow starts: there w is -t grad L(0) to a relative 1e-3
STAGE = 1 - 1 / math.sqrt(2)
TOLERANCE = 1e-12  # size of the last Newton step over that of w
MOST = 30  # Newton steps


class Flow(NamedTuple):
    """Where a flow is."""

    w: jax.Array  # float64[P]
    velocity: jax.Array  # float64[P], of the last step: where Newton's method starts


def begin(signed) -> Flow:
    """The flow at ln t = FIRST, started from zero at t = 0, to first order in t."""
    velocity = math.exp(FIRST) * signed.mean(0) / 2
    return Flow(velocity, velocity)


def implicit(signed, penalty, log_time, weight, constant, guess):
    """Solves y = constant + weight f(log_time, y), f the right side of the flow.

    Returns:
      (y, last): and the size of the last Newton step over that of y.
    """
    points = signed.shape[0]
    decay = penalty * jnp.exp(log_time)

    def newton(carry):
        y, _, count = carry
        margins = signed @ y
        pull = jnp.exp(log_time + jax.nn.log_sigmoid(-margins)) / points
        residual = y - constant - weight * (signed.T @ pull - decay * y)
        curvature = pull * jax.nn.sigmoid(margins)
        matrix = signed.T @ (curvature[:, None] * signed) * weight
        matrix = matrix + (1 + weight * decay) * jnp.eye(y.shape[0])
        step = jnp.linalg.solve(matrix, residual)
        y = y - step
        return y, jnp.linalg.norm(step) / (1 + jnp.linalg.norm(y)), count + 1

    def goes_on(carry):
        return (carry[1] > TOLERANCE) & (carry[2] < MOST)

    start = guess, jnp.full((), jnp.inf, guess.dtype), jnp.int32(0)
    y, last, _ = jax.lax.while_loop(goes_on, newton, start)
    return y, last


def advance(signed, penalty, state: Flow, log_time, width):
    """One step of `width` in ln t from `log_time`.

    Returns:
      (state, row): row has norm |w| after the step, and the larger of the two last Newton steps.
    """
    w, velocity = state
    weight = STAGE * width
    first, one = implicit(
        signed, penalty, log_time + STAGE * width, weight, w, w + weight * velocity
    )
    slope = (first - w) / weight
    constant = w + (1 - STAGE) * width * slope
    last, two = implicit(signed, penalty, log_time + width, weight, constant, w + width * velocity)
    row = {"norm": jnp.linalg.norm(last), "newton": jnp.maximum(one, two)}
    return Flow(last, (last - w) / width), row
