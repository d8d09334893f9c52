"""How sharply a loss rises around parameters, by a measure that rescaling a network leaves alone.

A ReLU network whose hidden layer is multiplied by c and whose next layer is divided by c is the
same function, yet its Hessian differs (Dinh et al. 2017, "Sharp minima can generalize for deep
nets"). Directions normalised filter by filter (Li et al. 2018, "Visualizing the loss landscape of
neural nets") scale with the weights. Parameters are those of `models.MLP`.
"""

import jax
import jax.numpy as jnp


def filter_direction(params, key):
    """A random direction whose part for each unit is as long as the unit's own weights.

    A hidden unit's filter is its column of the kernel with its bias; of the head, the columns
    alone, since no rescaling reaches its bias, which stays.
    """
    own = {}
    for i, name in enumerate(sorted(params)):
        kernel, bias = params[name]["kernel"], params[name]["bias"]
        whole = jnp.concatenate([kernel, bias[None] if name != "head" else 0 * bias[None]])
        drawn = jax.random.normal(jax.random.fold_in(key, i), whole.shape, whole.dtype)
        drawn = drawn.at[-1].set(drawn[-1] if name != "head" else 0)
        lengths = [jnp.linalg.norm(a, axis=0, keepdims=True) for a in (whole, drawn)]
        drawn = drawn * (lengths[0] / lengths[1])
        own[name] = {"kernel": drawn[:-1], "bias": drawn[-1]}
    return own


def filter_sharpness(loss, params, key, radius: float, directions: int = 8):
    """Mean rise of the loss at `radius` times random filter directions, on both sides.

    Args:
      loss: params -> scalar.
      params: of a `models.MLP`.
      key: of the directions.
      radius: distance, relative to each filter's length.
      directions: how many.
    """

    def rise(key):
        way = filter_direction(params, key)
        ends = [
            loss(jax.tree.map(lambda p, d, s=side: p + s * radius * d, params, way))
            for side in (1, -1)
        ]
        return (ends[0] + ends[1]) / 2

    return jax.lax.map(rise, jax.random.split(key, directions)).mean() - loss(params)


def rescaled(params, factor: float):
    """The same function of a ReLU network: the last hidden layer times `factor`, the head by it.

    With a power of two not even rounding differs.
    """
    last = f"hidden_{len(params) - 2}"
    scaled = dict(params)
    scaled[last] = jax.tree.map(lambda a: a * factor, params[last])
    scaled["head"] = {"kernel": params["head"]["kernel"] / factor, "bias": params["head"]["bias"]}
    return scaled
