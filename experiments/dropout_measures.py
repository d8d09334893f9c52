"""What `dropout` measures of one network: gradient noise, ablation, correlation of units."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dlstudy import losses
from dlstudy.chunks import map_over_chunks


def layers(params) -> list[str]:
    """Names of the layers of an MLP, from below."""
    return [f"hidden_{i}" for i in range(len(params) - 1)] + ["head"]


def norm(params) -> jax.Array:
    """l2 norm of all weights, without biases."""
    return optax.tree.norm([params[name]["kernel"] for name in layers(params)])


# -- gradient noise


class GradientNoise(NamedTuple):
    """Variances of one example's gradient, summed over parameters, at the same parameters.

    With g(i, m) the gradient of example i with masks m, the law of total variance says
    noise_total = noise_examples + noise_masks.
    """

    noise_total: jax.Array  # float[], over examples and masks, masks on
    noise_examples: jax.Array  # float[], over examples, of the mean over masks
    noise_masks: jax.Array  # float[], over masks, mean over the examples
    noise_off: jax.Array  # float[], over examples, masks off
    square_on: jax.Array  # float[], squared norm of the mean gradient, masks on
    square_off: jax.Array  # float[], masks off


def gradient_noise(loss, params, data, key, drop, masks: int) -> GradientNoise:
    """Splits tr Sigma of per-example gradients into what examples and what masks add.

    The examples are taken for all there are, the masks for a sample: the mean gradient of an
    example over M masks still has 1 / M of the masks' variance, which is taken off the spread
    between the examples, and the variance over masks divides by M - 1.

    Args:
      loss: (params, batch, key, drop) -> mean loss of the batch with masks drawn by the key;
        `drop` 0 is without masks.
      params: a tree of arrays.
      data: (x [N, ...], y [N]).
      key: of the masks; every example and mask has its own.
      drop: share of the units that the masks drop.
      masks: M, drawn for each example, at least 2.
    """
    count = data[1].shape[0]
    keys = jax.random.split(key, (count, masks + 1))
    # The last of each example's gradients is the one without a mask.
    drops = jnp.append(jnp.full(masks, drop), jnp.zeros_like(drop))

    def own(example):
        """One example: its gradient averaged over masks, their variance, and without masks."""
        x, y, drawn = example
        slope = lambda k, p: jax.grad(loss)(params, (x[None], y[None]), k, p)  # noqa: E731
        each = jax.vmap(slope)(drawn, drops)
        mean = jax.tree.map(lambda g: g[:-1].mean(0), each)
        within = _square(jax.tree.map(lambda g, m: g[:-1] - m[None], each, mean)) / (masks - 1)
        return mean, within, jax.tree.map(lambda g: g[-1], each)

    means, within, off = map_over_chunks(jax.vmap(own), (*data, keys))

    def spread(own):
        whole = jax.tree.map(lambda g: g.mean(0), own)
        away = _square(jax.tree.map(lambda g, m: g - m[None], own, whole)) / count
        return away, _square(whole)

    (between, square_on), (alone, square_off) = spread(means), spread(off)
    of_masks = within.mean()
    of_examples = between - of_masks * (1 - 1 / count) / masks
    return GradientNoise(
        of_examples + of_masks, of_examples, of_masks, alone, square_on, square_off
    )


def _square(tree):
    return sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree))


# -- ablation


def ablated(params, kept):
    """The parameters with the outgoing weights of hidden units set to 0 where `kept` is 0.

    Args:
      params: of an MLP.
      kept: float[units] of each hidden layer, from below.
    """
    params = dict(params)
    for (_, above), mine in zip(itertools.pairwise(layers(params)), kept, strict=True):
        params[above] = params[above] | {"kernel": params[above]["kernel"] * mine[:, None]}
    return params


def ablated_error(model, params, data, key, fractions, draws: int) -> jax.Array:
    """Error with a share of each hidden layer's units ablated, mean over random sets, [2, F].

    First as it is; then with the outgoing weights of the units that are left divided by their
    share, so that the sum they feed keeps its mean over the sets.

    Args:
      model: the MLP.
      params: its parameters.
      data: (x, y).
      key: draws the sets: the same for any parameters of the same shapes, and nested.
      fractions: shares of the units of each layer, F of them.
      draws: sets to average over.
    """
    x, y = data
    widths = [params[name]["bias"].shape[0] for name in layers(params)[:-1]]
    lost = jnp.array([[round(f * w) for w in widths] for f in fractions])

    def one(drawn, counts, scaled):
        kept = []
        for i, w in enumerate(widths):
            rank = jax.random.permutation(jax.random.fold_in(drawn, i), w)
            grown = jnp.where(scaled, w / jnp.maximum(w - counts[i], 1).astype(x.dtype), 1)
            kept.append((rank >= counts[i]).astype(x.dtype) * grown)
        logits, _ = model.apply({"params": ablated(params, kept)}, x)
        return losses.error_rate(logits, y)

    over_sets = jax.vmap(one, (0, None, None))
    every = jax.vmap(jax.vmap(over_sets, (None, 0, None)), (None, None, 0))
    return every(jax.random.split(key, draws), lost, jnp.array([False, True])).mean(2)


# -- correlation


def correlations(taps) -> jax.Array:
    """Mean |correlation| of two hidden units' outputs over inputs, in each layer, [layers].

    Units that are the same at every input are left out; NaN where fewer than two are not.
    """
    return jnp.stack([mean_correlation(jax.nn.relu(taps[f"pre_{i}"])) for i in range(len(taps))])


def mean_correlation(values) -> jax.Array:
    """Mean of |correlation| over pairs of columns of values[N, U]."""
    away = values - values.mean(0)[None]
    size = jnp.sqrt(jnp.square(away).sum(0))
    alive = size > 0
    unit = away / jnp.where(alive, size, 1)[None]
    off = jnp.abs(unit.T @ unit).sum() - jnp.square(unit).sum()
    count = alive.sum(dtype=values.dtype)
    pairs = count * (count - 1)
    return jnp.where(pairs > 0, off / jnp.maximum(pairs, 1), jnp.nan)
