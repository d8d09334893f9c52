"""How noisy a minibatch gradient is: the trace of the per-example gradient covariance."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlstudy.chunks import mean_over_chunks


class GradientNoise(NamedTuple):
    """The gradient of the mean loss over N examples, and the spread of the examples' own."""

    loss: jax.Array  # float[], mean over the examples
    error: jax.Array  # float[], share misclassified
    gradient: object  # tree like the parameters: the gradient of the mean loss
    trace: jax.Array  # float[], tr Sigma = mean ||g_i - g||^2, divided by N, not N - 1


def gradient_and_noise(loss_and_error, apply_fn, params, data, layers: int, chunk=None):
    """Full-batch gradient and tr Sigma in one pass, for a model with `probes` (see `models.CNN`).

    With tr Sigma, E||g_B||^2 = ||g||^2 + tr Sigma / B for B examples drawn with replacement; for a
    batch of an epoch, drawn without, the second term has the factor (N - B) / (N - 1).

    Args:
      loss_and_error: (logits, labels) -> (mean loss, mean error).
      apply_fn: the model's `apply`, taking `probes` [layers, B].
      params: the parameters.
      data: (images [N, ...], labels [N]).
      layers: how many probes the model takes.
      chunk: examples per chunk; None chooses by backend.
    """

    def batch_mean(batch):
        images, labels = batch
        size = labels.shape[0]

        def total(p, probes):
            logits, _ = apply_fn({"params": p}, images, probes)
            loss, error = loss_and_error(logits, labels)
            return loss * size, (loss, error)

        probes = jnp.zeros((layers, size), images.dtype)
        (gradient, squares), (loss, error) = jax.grad(total, (0, 1), has_aux=True)(params, probes)
        mean = jax.tree.map(lambda g: g / size, gradient)
        return loss, error, mean, squares.sum(0).mean()

    loss, error, gradient, square = mean_over_chunks(batch_mean, data, chunk)
    whole = sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient))
    return GradientNoise(loss, error, gradient, square - whole)
