"""Explicit constraints: projection onto norm balls, and steps that end inside them.

    optimizer = optax.chain(optax.sgd(rate), projections.after_update(radius=2.0))

Section 7.2 of Goodfellow et al. (2016): step on the objective, then project onto the constraint
set. The projection has to come *after* the step: a loop that projects first and steps then leaves
weights outside.

Which axis holds a unit's incoming weights depends on the layer. `nn.Dense`, and with it
`models.MLP`, keeps a kernel [inputs, outputs]: unit j reads kernel[:, j], so its norm runs along
axis 0, the default here. `models.Dense` and the head of `models.CNN` keep [outputs, inputs]: there
it is axis 1. A convolution's kernel [height, width, inputs, outputs] has axes (0, 1, 2).

`optax.projections.projection_l2_ball` projects a whole tree onto one ball; mapped over columns it
gives the same as `onto_balls`, which besides takes any axes at once, a radius of infinity (there
it returns nan) and weights whose squares overflow (there it returns 0).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

Axis = int | tuple[int, ...] | None

# The axes along which a kernel [inputs, outputs] has its norms.
COLUMN: Axis = 0  # incoming weights of each unit
ROW: Axis = 1  # outgoing weights of each input
FROBENIUS: Axis = None  # all weights of the layer as one vector


def norms(array: jax.Array, axis: Axis = COLUMN) -> jax.Array:
    """Euclidean norms along `axis`, which is kept with length 1.

    Scaled by the largest entry, so that squares neither overflow nor vanish.
    """
    largest = jnp.abs(array).max(axis, keepdims=True)
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, jnp.ones_like(largest))
    return unit * jnp.sqrt(jnp.square(array / unit).sum(axis, keepdims=True))


def onto_balls(array: jax.Array, radius, axis: Axis = COLUMN) -> jax.Array:
    """The nearest array whose norms along `axis` are at most `radius`.

    Args:
      array: weights, of any rank.
      radius: positive; a number or an array that broadcasts against the norms; may be traced,
        and infinite for no constraint.
      axis: what one ball holds: 0 the columns of a kernel, 1 its rows, None all of it.

    Returns:
      Each vector scaled down to the radius where it is longer, else unchanged to the bit. The
      norms of the result exceed the radius by rounding at most (6e-7 of it in float32).
    """
    size = norms(array, axis)
    outside = size > jnp.asarray(radius, array.dtype)
    factor = jnp.where(outside, radius / jnp.where(outside, size, jnp.ones_like(size)), 1)
    return jnp.where(outside, array * factor.astype(array.dtype), array)


def onto_balls_tree(params, radius, axis: Axis = COLUMN, *, biases: bool = False):
    """`onto_balls` of every kernel of a network.

    Args:
      params: tree of arrays; those with fewer than two axes are biases.
      radius: as of `onto_balls`, for every kernel; or a function from an array's shape to its
        radius.
      axis: as of `onto_balls`, for every kernel.
      biases: project each layer's bias vector as a whole onto a ball too; else leave them alone.
    """

    def project(leaf):
        if leaf.ndim < 2 and not biases:
            return leaf
        own = radius(leaf.shape) if callable(radius) else radius
        return onto_balls(leaf, own, axis if leaf.ndim >= 2 else None)

    return jax.tree.map(project, params)


def after_update(
    radius, axis: Axis = COLUMN, *, biases: bool = False
) -> optax.GradientTransformationExtraArgs:
    """The last link of a chain: shortens the step so that it ends inside the balls.

    The updates become projected(params + updates) - params; where the step ends inside they are
    passed on to the bit. `update` needs the parameters.

    Args:
      radius: as of `onto_balls_tree`.
      axis: as of `onto_balls_tree`.
      biases: as of `onto_balls_tree`.
    """
    return project_after_update(lambda p: onto_balls_tree(p, radius, axis, biases=biases))


def project_after_update(project: Callable) -> optax.GradientTransformationExtraArgs:
    """As `after_update`, with any projection: a function of the parameters to parameters."""

    def update(updates, state, params=None, **extra):
        del extra
        if params is None:
            raise ValueError("a projection needs the parameters: update(updates, state, params)")
        free = jax.tree.map(jnp.add, params, updates)
        kept = jax.tree.map(
            lambda u, p, end, inside: jnp.where(end == inside, u, inside - p),
            updates, params, free, project(free),
        )  # fmt: skip
        return kept, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
