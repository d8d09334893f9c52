"""Losses and errors of one batch."""

import chex
import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy in nats, mean over the batch: logits[B, K], labels int[B] -> []."""
    return cross_entropies(logits, labels).mean()


def cross_entropies(logits: jax.Array, labels: jax.Array, axis: int = 1) -> jax.Array:
    """Softmax cross-entropy of each example, labels int[B] -> [B]; `axis`: classes of the logits.

    Written as softplus(logsumexp of the other classes - own logit): exact to relative rounding
    also when the loss is tiny, where log-sum-exp minus the own logit cancels. The difference of
    two nearly equal losses, which the Taylor budget of a step needs, depends on it.
    """
    chex.assert_rank([logits, labels], [2, 1])
    own = jax.nn.one_hot(labels, logits.shape[axis], dtype=bool, axis=axis)
    others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=axis)
    return jax.nn.softplus(others - jnp.where(own, logits, 0).sum(axis))


def mean_squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over all entries of (outputs - targets)^2, both [N, C], in the targets' unit squared."""
    return jnp.square(outputs - targets).mean()


def error_rate(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Share of misclassified examples: logits[B, K], labels int[B] -> float []."""
    chex.assert_rank([logits, labels], [2, 1])
    return (logits.argmax(1).astype(labels.dtype) != labels).mean(dtype=logits.dtype)
