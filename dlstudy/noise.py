"""How noisy a minibatch gradient is: per-example gradients, their covariance, the noise scale.

For any loss, `per_example_gradients` and `gradient_spread` map `grad` over examples. A
`models.CNN` can do better: `gradient_and_noise` and `network_gradients` need one batched backward
pass. What batches of two sizes tell of the noise, and what the batch size saves, is
McCandlish, Kaplan & Amodei 2018, "An empirical model of large-batch training".
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlstudy import convolution
from dlstudy.chunks import map_over_chunks, mean_over_chunks


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


def per_example_gradients(loss, params, data, chunk=None):
    """Every example's own gradient, a tree like `params` with a leading axis [N].

    Args:
      loss: (params, batch) -> mean loss of the batch, where no example sees another (no batch
        normalisation in training mode).
      params: the parameters.
      data: tree of arrays with leading axis [N].
      chunk: examples per chunk; None chooses by backend.
    """
    return map_over_chunks(lambda batch: _own(loss, params, batch), data, chunk)


def _own(loss, params, batch):
    one = jax.grad(lambda p, example: loss(p, jax.tree.map(lambda a: a[None], example)))
    return jax.vmap(one, (None, 0))(params, batch)


def network_gradients(loss, apply_fn, params, batch, *, factored=False):
    """Every example's own gradient of a `models.CNN`, by one backward pass of the whole batch.

    The convolutions' are one product of matrices for each example. Those of the head, which are
    outer products, are large: to write them out takes most of the time where it reads much. With
    `factored` they stay factors.

    Args:
      loss: (logits, labels) -> mean loss of the batch.
      apply_fn: the model's `apply`.
      params: the parameters.
      batch: (images [B, ...], labels [B]).
      factored: leave the head's kernel a `convolution.Outer`.

    Returns:
      A tree like `params` with a leading axis [B].
    """
    images, labels = batch
    size = labels.shape[0]
    convolutions = [name for name in params if name != "head"]
    names = [*sorted(convolutions, key=lambda name: int(name.removeprefix("conv_"))), "head"]
    nothing = jax.tree.map(lambda a: jnp.zeros((size, *a.shape), a.dtype), params)
    factors = (jnp.zeros((n, size), images.dtype) for n in params["head"]["kernel"].shape)
    nothing["head"] = nothing["head"] | {"kernel": convolution.Outer(*factors)}

    def total(own):
        return loss(apply_fn({"params": params}, images, own)[0], labels) * size

    own = dict(zip(names, jax.grad(total)([nothing[name] for name in names]), strict=True))
    if not factored:
        own["head"] = own["head"] | {"kernel": own["head"]["kernel"].whole()}
    return own


class Spread(NamedTuple):
    """The mean of N per-example gradients and their spread about it."""

    gradient: object  # tree like the parameters
    trace: jax.Array  # float[], tr Sigma = mean ||g_i - g||^2, divided by N, not N - 1


def gradient_spread(loss, params, data, chunk=None) -> Spread:
    """The gradient and tr Sigma of any loss, with one chunk of per-example gradients at a time.

    Arguments as for `per_example_gradients`. A first pass finds the mean, a second the distances
    from it: a difference of mean squares would lose the noise of examples that nearly agree.
    """
    mean = mean_over_chunks(lambda batch: jax.grad(loss)(params, batch), data, chunk)

    def square_distance(batch):
        own = _own(loss, params, batch)
        away = jax.tree.map(
            lambda g, m: jnp.square(g - m[None]).reshape(len(g), -1).sum(1), own, mean
        )
        return sum(jax.tree.leaves(away)).mean()

    return Spread(mean, mean_over_chunks(square_distance, data, chunk))


class NoiseScale(NamedTuple):
    """tr Sigma / ||g||^2 and its parts, estimated, each with its standard error."""

    scale: jax.Array  # float[], in examples
    scale_error: jax.Array
    trace: jax.Array  # float[], tr Sigma
    trace_error: jax.Array
    square: jax.Array  # float[], ||g||^2; noise may leave it negative
    square_error: jax.Array


def noise_scale(small_squares, large_squares, small: int, large: int) -> NoiseScale:
    """The noise scale from squared gradient norms of batches of two sizes.

    With E||g_B||^2 = ||g||^2 + tr Sigma / B, a pair of squared norms gives unbiased estimates of
    ||g||^2 and tr Sigma (McCandlish et al. 2018, appendix A.1). Their ratio is biased, so the
    scale is the ratio of the means over draws, not the mean of the ratios, which is ruled by the
    draws whose ||g||^2 happens to be near 0. The error of the ratio is that of its linearisation.

    Args:
      small_squares: float[D], ||g_B||^2 of batches of `small` examples drawn with replacement.
      large_squares: float[D], of batches of `large`; entries with one index may depend.
      small: the smaller batch size; large: the larger one.
    """
    square = (large * large_squares - small * small_squares) / (large - small)
    trace = (small_squares - large_squares) / (1 / small - 1 / large)
    draws = square.shape[0]
    scale = trace.mean() / square.mean()
    error = lambda values: values.std(ddof=1) / draws**0.5  # noqa: E731
    return NoiseScale(
        scale, error(trace - scale * square) / jnp.abs(square.mean()),
        trace.mean(), error(trace), square.mean(), error(square),
    )  # fmt: skip


class CriticalBatch(NamedTuple):
    """The hyperbola (S / min_steps - 1)(E / min_examples - 1) = 1 that fits best."""

    min_steps: float
    min_examples: float
    residual: float  # root mean square of ln(S / fitted S)

    @property
    def size(self) -> float:
        """The critical batch size: there both steps and examples are twice their least."""
        return self.min_examples / self.min_steps

    def steps(self, batch):
        """Steps at a batch size."""
        return self.min_steps * (1 + self.size / np.asarray(batch))


def fit_critical_batch(steps, examples) -> CriticalBatch:
    """Fits McCandlish et al.'s hyperbola to what each batch size B = E / S took to a target.

    With B given, the hyperbola says S = min_steps (1 + size / B); the squares of the differences
    of ln S are least. It assumes a noise scale that stays the same on the way: a model, not an
    identity.

    Args:
      steps: float[n], steps S to the target; those not finite are left out.
      examples: float[n], examples E to the target.

    Returns:
      The fit; NaN for fewer than three batch sizes.
    """
    from scipy.optimize import least_squares

    steps, examples = np.asarray(steps, float), np.asarray(examples, float)
    known = np.isfinite(steps) & np.isfinite(examples)
    steps, batch = steps[known], examples[known] / steps[known]
    if len(np.unique(batch)) < 3:
        return CriticalBatch(np.nan, np.nan, np.nan)

    def away(logs):
        return logs[0] + np.logaddexp(0, logs[1] - np.log(batch)) - np.log(steps)

    start = np.log([steps.min(), np.median(batch)])
    found = least_squares(away, start, xtol=1e-14, ftol=1e-14, gtol=1e-14)
    least, size = np.exp(found.x)
    residual = np.sqrt(np.mean(np.square(found.fun)))
    return CriticalBatch(float(least), float(least * size), float(residual))
