"""Penalties, their proximal maps, and proximal gradient descent.

The proximal map of a penalty P with weight t takes w to the v that minimises
1/2 ||v - w||^2 + t P(v). Gradient descent on a loss followed by the proximal map of rate x P
minimises loss + P (Parikh & Boyd 2014); for the L1 norm the map is the soft threshold, which sets
weights to exactly 0, as a step along a subgradient does not.

A strength multiplies its penalty: `l1` |w|, `l2` / 2 w^2 (Goodfellow et al. 2016, 7.1.1; with
`half=False` l2 w^2), `group` sqrt(n) ||w_g|| of each group g of n weights (Yuan & Lin 2006).
Strengths and rates may be traced arrays, a grid of them an axis of `vmap`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

# -- penalties


def l1(tree) -> jax.Array:
    """Sum of |w| over all leaves."""
    return sum(jnp.abs(w).sum() for w in jax.tree.leaves(tree))


def l2(tree, half: bool = True) -> jax.Array:
    """Sum of w^2 / 2 over all leaves, or of w^2, the other convention."""
    square = sum(jnp.square(w).sum() for w in jax.tree.leaves(tree))
    return square / 2 if half else square


def elastic_net(tree, l1_strength, l2_strength) -> jax.Array:
    """l1_strength |w| + l2_strength w^2 / 2, summed (Zou & Hastie 2005, up to their scaling)."""
    return l1_strength * l1(tree) + l2_strength * l2(tree)


def group_lasso(w: jax.Array, axis: int = 0) -> jax.Array:
    """Sum over groups of sqrt(n) ||w_g||, for one array.

    A group holds the n weights along `axis`: of a Flax kernel [inputs, outputs], axis 0 gives each
    unit's incoming weights, axis 1 the outgoing weights of each unit of the layer below.
    """
    return w.shape[axis] ** 0.5 * jnp.linalg.norm(w, axis=axis).sum()


# -- proximal maps of one array


def soft_threshold(w: jax.Array, threshold) -> jax.Array:
    """Proximal map of threshold |w|: sign(w) max(|w| - threshold, 0), elementwise."""
    return jnp.sign(w) * jnp.maximum(jnp.abs(w) - threshold, 0)


def shrink(w: jax.Array, strength, half: bool = True) -> jax.Array:
    """Proximal map of strength w^2 / 2, or of strength w^2: never 0 unless w is."""
    return w / (1 + (strength if half else 2 * strength))


def elastic_net_prox(w: jax.Array, l1_strength, l2_strength) -> jax.Array:
    """Proximal map of `elastic_net`: the soft threshold, then the shrinkage."""
    return shrink(soft_threshold(w, l1_strength), l2_strength)


def group_soft_threshold(w: jax.Array, threshold, axis: int = 0) -> jax.Array:
    """Proximal map of threshold times `group_lasso`: shortens each group, or sets all of it to 0.

    Args:
      w: weights, groups along `axis`.
      threshold: multiplied by sqrt(n) for a group of n weights.
      axis: see `group_lasso`.
    """
    norm = jnp.linalg.norm(w, axis=axis, keepdims=True)
    cut = threshold * w.shape[axis] ** 0.5
    # A group shorter than the cut is 0 exactly; the guard keeps 0 / 0 out of groups that are 0.
    kept = norm > cut
    return jnp.where(kept, w * (1 - cut / jnp.where(kept, norm, 1)), 0)


class Strengths(NamedTuple):
    """Of the penalties that `sparse_group_prox` joins."""

    l1: jax.Array | float = 0.0
    l2: jax.Array | float = 0.0  # of w^2 / 2
    group: jax.Array | float = 0.0


def sparse_group_prox(w: jax.Array, step, strengths: Strengths, axis: int = 0) -> jax.Array:
    """Proximal map of step x (all three penalties together).

    Exact: the three maps in this order compose (Simon et al. 2013). With one strength positive and
    the others 0 it is that penalty's own map, so that arms differ in numbers only.
    """
    w = soft_threshold(w, step * strengths.l1)
    return shrink(group_soft_threshold(w, step * strengths.group, axis), step * strengths.l2)


def diagonal_minimiser(curvature, target, l1_strength, l2_strength=0.0):
    """Minimiser of sum H_i (w_i - target_i)^2 / 2 + `elastic_net`, in closed form.

    For L1 alone sign(w*) max(|w*| - alpha / H, 0) (Goodfellow et al. 2016, 7.23); for L2 alone
    H w* / (H + alpha) (7.13 in the eigenvectors' basis).
    """
    rest = jnp.maximum(jnp.abs(target) - l1_strength / curvature, 0)
    return jnp.sign(target) * rest * (curvature / (curvature + l2_strength))


# -- trees of parameters


def on_kernels(function: Callable, params):
    """`function(name of the layer, kernel)` on the kernels of a network; biases stay as they are.

    Biases are not penalised (Goodfellow et al. 2016, 7.1).
    """
    return {
        name: {key: function(name, w) if key == "kernel" else w for key, w in layer.items()}
        for name, layer in params.items()
    }


def kernels(params) -> dict:
    """The kernels by the name of their layer."""
    return {name: layer["kernel"] for name, layer in params.items()}


# -- steps


def proximal_step(params, gradient, rate, prox: Callable):
    """One step of proximal gradient descent: prox(params - rate gradient, rate).

    Args:
      params: tree of arrays.
      gradient: of the loss without the penalty, like params.
      rate: learning rate; below 2 / (largest curvature of the loss) the objective falls.
      prox: (tree, step) -> tree, proximal map of step x penalty.
    """
    return prox(jax.tree.map(lambda w, g: w - rate * g, params, gradient), rate)


def subgradient_step(params, gradient, rate, strength):
    """w - rate gradient - rate strength sign(w), as in equation (2) of the source; sign(0) = 0."""
    return jax.tree.map(lambda w, g: w - rate * g - rate * strength * jnp.sign(w), params, gradient)


class Solution(NamedTuple):
    """What an iteration of fixed length found."""

    params: object  # tree
    residual: jax.Array  # float[], l2 length of a further proximal step, over the rate
    steps: int


def minimise(gradient: Callable, prox: Callable, rate, start, steps: int) -> Solution:
    """Accelerated proximal gradient descent (Beck & Teboulle 2009), for convex losses.

    Restarts its momentum whenever that points uphill (O'Donoghue & Candes 2015), which makes it
    linear where the loss is strongly convex without knowing how strongly.

    Args:
      gradient: params -> gradient of the loss.
      prox: as in `proximal_step`.
      rate: at most 1 / (largest curvature of the loss).
      start: tree of arrays.
      steps: how many; there is no other rule to stop, so that a grid can be an axis of vmap.
    """

    def step(carry, _):
        params, ahead, t = carry
        new = proximal_step(ahead, gradient(ahead), rate, prox)
        way = jax.tree.map(jnp.subtract, new, params)
        uphill = optax.tree.vdot(jax.tree.map(jnp.subtract, ahead, new), way) > 0
        t = jnp.where(uphill, jnp.ones_like(t), t)
        after = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
        push = jnp.where(uphill, jnp.zeros_like(t), (t - 1) / after)
        ahead = jax.tree.map(lambda w, d: w + push * d, new, way)
        return (new, ahead, after), None

    one = jnp.ones((), jnp.result_type(*jax.tree.leaves(start)))
    (params, _, _), _ = jax.lax.scan(step, (start, start, one), None, length=steps)
    further = proximal_step(params, gradient(params), rate, prox)
    way = optax.tree.norm(jax.tree.map(jnp.subtract, further, params))
    return Solution(params, way / rate, steps)


# -- Optax transformations


class ProximalState(NamedTuple):
    """Counts updates, for a rate that is a schedule."""

    count: jax.Array  # int32[]


def proximal(prox: Callable, rate) -> optax.GradientTransformationExtraArgs:
    """Ends a chain: turns its updates u into prox(w + u, rate) - w.

    `optax.chain(optax.sgd(rate), proximal(prox, rate))` is proximal gradient descent. A weight that
    the map sets to 0 is 0 exactly after `optax.apply_updates`, since w + (0 - w) = 0; others are
    those of the map to rounding. `rate` must be the step by which the chain multiplies a constant
    gradient: behind heavy ball with momentum b that is rate / (1 - b), and behind a method with a
    step of its own for each weight, as Adam, no single number is right.

    Args:
      prox: (tree, step) -> tree, proximal map of step x penalty.
      rate: number, array, or schedule.
    """

    def update(updates, state, params=None, **extra):
        del extra
        if params is None:
            raise ValueError("a proximal map needs params: call update(updates, state, params)")
        step = rate(state.count) if callable(rate) else rate
        target = prox(jax.tree.map(jnp.add, params, updates), step)
        return jax.tree.map(jnp.subtract, target, params), ProximalState(state.count + 1)

    return optax.GradientTransformationExtraArgs(lambda params: ProximalState(jnp.int32(0)), update)


def add_penalty_gradient(slope: Callable) -> optax.GradientTransformationExtraArgs:
    """Begins a chain: adds `slope(params)`, a penalty's (sub)gradient, to the gradient."""

    def update(updates, state, params=None, **extra):
        del extra
        if params is None:
            raise ValueError("a penalty needs params: call update(updates, state, params)")
        return jax.tree.map(jnp.add, updates, slope(params)), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def add_l1_subgradient(strength) -> optax.GradientTransformationExtraArgs:
    """Adds strength sign(w), 0 at 0: the source's equation (2) before the rate."""
    return add_penalty_gradient(lambda p: jax.tree.map(lambda w: strength * jnp.sign(w), p))


def add_l2_gradient(strength, half: bool = True) -> optax.GradientTransformationExtraArgs:
    """Adds strength w, the gradient of strength w^2 / 2; or 2 strength w, that of strength w^2."""
    factor = 1 if half else 2
    return add_penalty_gradient(lambda p: jax.tree.map(lambda w: factor * strength * w, p))
