"""Batch normalisation's statistics as plain values: of a batch, running, of a whole set.

A network with batch normalisation (`models.MLP`, `models.CNN`) takes the statistics it shall use as
an argument, a tree {"bn_0": Statistics, ...}, or uses its batch's own, and returns the tree it used
in taps["statistics"]. Nothing is hidden in the model, so seeds mapped side by side share nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Statistics(NamedTuple):
    """Mean and variance of every unit, [F] each; the variance divides by the number of values."""

    mean: jax.Array
    variance: jax.Array


def of_batch(x: jax.Array, axis: int) -> Statistics:
    """Statistics over all axes but `axis`, that of the units.

    In two passes: the mean of squares less the square of the mean loses its digits once the mean
    is far from 0. Gradients flow through both (Goodfellow et al. 2016, equations 8.36 and 8.37).

    Raises:
      ValueError: there is one value of each unit, whose variance is 0 whatever it is, or none.
    """
    others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    if x.size <= x.shape[axis]:
        raise ValueError("batch statistics need at least two values of each unit")
    mean = x.mean(others, keepdims=True)
    variance = jnp.square(x - mean).mean(others)
    return Statistics(mean.reshape(-1), variance)


def normalise(x: jax.Array, statistics: Statistics, axis: int, epsilon: float) -> jax.Array:
    """(x - mean) / sqrt(epsilon + variance) (Goodfellow et al. 2016, equations 8.35 and 8.37)."""
    shape = [1] * x.ndim
    shape[axis] = -1
    scale = jax.lax.rsqrt(statistics.variance + epsilon)
    return (x - statistics.mean.reshape(shape)) * scale.reshape(shape)


def initial(statistics):
    """Running statistics before the first batch, mean 0 and variance 1, shaped like a tree's."""
    is_leaf = lambda s: isinstance(s, Statistics)  # noqa: E731
    return jax.tree.map(
        lambda s: Statistics(jnp.zeros(s.mean.shape, s.mean.dtype),
                             jnp.ones(s.variance.shape, s.variance.dtype)),
        statistics, is_leaf=is_leaf,
    )  # fmt: skip


def moved(running, seen, momentum):
    """Running statistics after one more batch: momentum x running + (1 - momentum) x seen.

    After t batches they have weighed the start with momentum^t: short runs need a low momentum.
    """
    return jax.tree.map(lambda old, new: momentum * old + (1 - momentum) * new, running, seen)


def pooled(statistics):
    """Statistics of several batches of one size taken together, from each batch's own [K, F].

    Exact for the first layer. The inputs of later ones were normalised batch by batch; "precise"
    statistics (Wu & Johnson 2021, section 3.1) are these of large batches.

    Raises:
      ValueError: no batch.
    """

    def pool(s):
        if not s.mean.shape[0]:
            raise ValueError("statistics cannot be recalibrated on an empty set")
        return Statistics(s.mean.mean(0), s.variance.mean(0) + s.mean.var(0))

    return jax.tree.map(pool, statistics, is_leaf=lambda s: isinstance(s, Statistics))


def recalibrated(statistics_of, batches):
    """Statistics of a trained network on other data than it was trained with, or on more of it.

    Args:
      statistics_of: one batch -> the tree of its statistics.
      batches: trees of arrays [K, B, ...] that `statistics_of` takes one of; one large batch is
        [1, N, ...].

    Returns:
      A tree to normalise with, see `pooled`.

    Raises:
      ValueError: no batch, or a batch without examples.
    """
    if not all(leaf.shape[0] for leaf in jax.tree.leaves(batches)):
        raise ValueError("statistics cannot be recalibrated on an empty set")
    return pooled(jax.vmap(statistics_of)(batches))
