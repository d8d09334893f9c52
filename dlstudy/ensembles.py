"""Many models, or many masks of one, as one: predictors, what they score and what they cost.

A *predictor* is a function of inputs [N, ...] that gives log-probabilities [N, C]. Weight scaling
is `predictor` of the trained network; an `Ensemble` is made of masks (`every_mask`, exact), of
keys of random masks (Monte Carlo dropout) or of separately trained parameters (bagging), and
`average` or `vote` makes a predictor of it. Where the members' predictions [K, N, C] are at hand
(`predictions`), `combine` and `majority` do the same on arrays:

    scaled = predictor(lambda x: x @ w + b[None])
    exact = average(every_mask(lambda x, scale: (x * scale[None]) @ w + b[None], 12, 0.5))
    bagged = average(bagged_members(lambda params, x: model.apply({"params": params}, x)[0], many))
    scores(exact(x), labels)

Masks are inverted: a unit that is kept is divided by 1 - rate, in training and here, so that
weight scaling multiplies nothing (`models.Dropout`). `rate` is the probability of dropping.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

Predictor = Callable[[jax.Array], jax.Array]
MOST_UNITS = 12  # that `every_mask` enumerates: 4,096 masks
BLOCK = 64  # members that `average` has in memory at a time, at most
BINS = 15  # of confidence, for the calibration error (Guo et al. 2017)


class Ensemble(NamedTuple):
    """Members that differ in one argument."""

    logits: Callable  # (member, inputs [N, ...]) -> logits [N, C]
    members: object  # a tree with leading axis [K]
    log_weights: jax.Array  # [K], of weights that add up to 1


class Estimate(NamedTuple):
    """Probabilities from random members."""

    mean: jax.Array  # [N, C]
    standard_error: jax.Array  # [N, C], of that mean


class Scores(NamedTuple):
    """What a predictor's output is worth on labelled inputs."""

    error: jax.Array  # share misclassified
    negative_log_likelihood: jax.Array  # mean over inputs, in nats
    squared_error: jax.Array  # of the probabilities: sum over classes, mean over inputs
    calibration_error: jax.Array  # expected, over `BINS` bins of confidence


# -- predictors


def predictor(logits: Callable) -> Predictor:
    """One deterministic network, inputs -> logits; with dropout off it is weight scaling."""
    return lambda x: jax.nn.log_softmax(logits(x))


def every_mask(logits: Callable, units: int, rate) -> Ensemble:
    """All 2^units ways to drop units, each with its probability.

    Args:
      logits: (inputs, scale [units]) -> logits [N, C]; scale is what each unit is multiplied by,
        0 or 1 / (1 - rate).
      units: how many, 1 to `MOST_UNITS`.
      rate: probability that a unit is dropped, in [0, 1).

    Raises:
      ValueError: too many units.
    """
    if not 1 <= units <= MOST_UNITS:
        raise ValueError(f"{units} units: all masks of 1 to {MOST_UNITS} can be enumerated")
    masks = jnp.asarray(np.arange(2**units)[:, None] >> np.arange(units) & 1, bool)
    keep = 1 - jnp.asarray(rate, jnp.result_type(float))
    # xlogy: at rate 0 a mask that drops something has probability 0, and nothing else 0 x log 0.
    kept = masks.sum(1).astype(keep.dtype)
    log_weights = kept * jnp.log(keep) + jax.scipy.special.xlogy(units - kept, 1 - keep)
    return Ensemble(lambda mask, x: logits(x, mask.astype(x.dtype) / keep.astype(x.dtype)), masks,
                    log_weights)  # fmt: skip


def random_masks(logits: Callable, key, count: int) -> Ensemble:
    """Monte Carlo dropout: `count` passes of logits(inputs, key), each with a key of its own."""
    return Ensemble(lambda key, x: logits(x, key), jax.random.split(key, count), _even(count))


def bagged_members(logits: Callable, params) -> Ensemble:
    """Separately trained models: logits(params, inputs), parameters with leading axis [K]."""
    return Ensemble(logits, params, _even(jax.tree.leaves(params)[0].shape[0]))


def _even(count: int) -> jax.Array:
    return jnp.full(count, -np.log(count), jnp.result_type(float))


def average(ensemble: Ensemble, mean: str = "arithmetic") -> Predictor:
    """`combine` of the members' predictions, with at most `BLOCK` of them in memory.

    Args:
      ensemble: the members.
      mean: "arithmetic" or "geometric".

    Raises:
      ValueError: another mean.
    """
    _check_mean(mean)

    def predict(x):
        members, log_weights = ensemble.members, ensemble.log_weights
        size = math.gcd(len(log_weights), BLOCK)
        blocks = jax.tree.map(lambda a: a.reshape(-1, size, *a.shape[1:]), (members, log_weights))

        def add(total, block):
            """Means of parts combine like members: what there is so far counts once."""
            log_p = jax.nn.log_softmax(jax.vmap(ensemble.logits, (0, None))(block[0], x))
            weights = jnp.concatenate([jnp.zeros(1), block[1]]).astype(log_p.dtype)
            return combine(jnp.concatenate([total[None], log_p]), weights, mean), None

        first = jax.tree.map(lambda a: a[0], members)
        shape = jax.eval_shape(ensemble.logits, first, x)
        start = jnp.full(shape.shape, 0 if mean == "geometric" else -jnp.inf, shape.dtype)
        return jax.lax.scan(add, start, blocks)[0]

    return predict


def combine(log_p: jax.Array, log_weights: jax.Array, mean: str = "arithmetic") -> jax.Array:
    """Log of the weighted mean of probabilities: log_p [K, N, C], log_weights [K] -> [N, C].

    Args:
      log_p: log-probabilities of the members.
      log_weights: of weights that add up to 1; -inf leaves a member out (`of_subsets`).
      mean: "arithmetic", or "geometric": renormalised (Goodfellow et al. 2016, equation 7.53).

    Raises:
      ValueError: another mean.
    """
    _check_mean(mean)
    chex.assert_rank([log_p, log_weights], [3, 1])
    weights = jnp.exp(log_weights)

    def weighted(values):
        return jnp.tensordot(weights, values, 1, precision="highest")

    if mean == "geometric":
        return jax.nn.log_softmax(weighted(log_p))
    # Taken off before exp, so that small probabilities do not underflow; the weights stay out of
    # it: with many sets of weights, under vmap, all means are one product of matrices.
    top = log_p.max(0)
    top = jnp.where(jnp.isneginf(top), 0, top)
    return top + jnp.log(jnp.maximum(weighted(jnp.exp(log_p - top[None])), _least(log_p)))


def _check_mean(mean: str):
    if mean not in ("arithmetic", "geometric"):
        raise ValueError(f"mean is {mean!r}; it must be arithmetic or geometric")


def _least(log_p) -> float:
    """The least that can be told from a probability of 0."""
    return jnp.finfo(log_p.dtype).tiny


def of_subsets(inside) -> jax.Array:
    """Log-weights of the means over subsets of members: inside [..., K], 0 or 1 -> [..., K]."""
    return jnp.log(inside / inside.sum(-1, keepdims=True))


def predictions(ensemble: Ensemble, x) -> jax.Array:
    """Log-probabilities of every member, [K, N, C]."""
    return jax.lax.map(lambda m: jax.nn.log_softmax(ensemble.logits(m, x)), ensemble.members)


def estimate(log_p: jax.Array) -> Estimate:
    """Arithmetic mean over members drawn at random: log-probabilities [K, N, C], K of 2 or more."""
    p = jnp.exp(log_p)
    return Estimate(p.mean(0), p.std(0, ddof=1) / math.sqrt(len(log_p)))


def vote(ensemble: Ensemble) -> Predictor:
    """Majority vote of the members; see `majority`."""
    return lambda x: majority(predictions(ensemble, x))


def majority(log_p: jax.Array) -> jax.Array:
    """Log of the shares of votes for each class: log-probabilities [K, N, C] -> [N, C].

    Half a vote more is shared out by the mean probabilities: it decides between classes with
    equally many votes, which argmax would give to the lower number, and keeps logarithms finite.
    """
    chex.assert_rank(log_p, 3)
    votes = jax.nn.one_hot(log_p.argmax(2), log_p.shape[2], dtype=log_p.dtype).sum(0)
    mean = jnp.exp(log_p).mean(0)
    # A class may be without any probability at all (underflow).
    shares = jnp.maximum(votes + mean / 2, _least(log_p))
    return jnp.log(shares) - math.log(len(log_p) + 0.5)


# -- training sets


def bootstrap_rows(key, count: int) -> jax.Array:
    """Rows int[count] of a training set of as many examples, drawn with replacement."""
    return jax.random.randint(key, (count,), 0, count)


# -- the table


def scores(log_p: jax.Array, labels: jax.Array) -> Scores:
    """Scores of log-probabilities [N, C] on labels int[N]."""
    chex.assert_rank([log_p, labels], [2, 1])
    right = jax.nn.one_hot(labels, log_p.shape[1], dtype=log_p.dtype)
    p = jnp.exp(log_p)
    return Scores(
        error=wrong(log_p, labels).mean(dtype=log_p.dtype),
        # where, not a product: 0 x infinity is not a number.
        negative_log_likelihood=-jnp.where(right > 0, log_p, 0).sum(1).mean(),
        squared_error=jnp.square(p - right).sum(1).mean(),
        calibration_error=calibration_error(log_p, labels),
    )


def wrong(log_p: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the likeliest class is another than the label: [..., N, C], int[N] -> bool[..., N]"""
    return log_p.argmax(-1).astype(labels.dtype) != jnp.broadcast_to(labels, log_p.shape[:-1])


def calibration_error(log_p: jax.Array, labels: jax.Array, bins: int = BINS) -> jax.Array:
    """Expected calibration error: |share right - mean confidence| in bins of confidence.

    Bins have equal width, are open below and weighed by their number of inputs (Guo et al. 2017,
    equation 3). An estimate: with few inputs a calibrated predictor reads above 0 too.
    """
    confidence = jnp.exp(log_p.max(1))
    right = 1 - wrong(log_p, labels).astype(log_p.dtype)
    place = jnp.clip(jnp.ceil(confidence * bins) - 1, 0, bins - 1).astype(jnp.int32)
    gap = jax.ops.segment_sum(right - confidence, place, bins)
    return jnp.abs(gap).sum() / len(labels)


def parameter_bytes(params) -> int:
    """Bytes of all arrays of a tree: what has to be stored, without a file's compression."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))


def gradient_evaluations(examples: int, batch_size: int, epochs: int, members: int = 1) -> int:
    """Training cost: gradients of single examples, the last partial batch of an epoch dropped."""
    return members * epochs * (examples // batch_size) * batch_size


# -- diversity


def disagreement(log_p: jax.Array) -> jax.Array:
    """Share of inputs that two members put in different classes: [K, N, C] -> [K, K]."""
    chex.assert_rank(log_p, 3)
    chosen = log_p.argmax(2)
    return (chosen[:, None] != chosen[None]).mean(2, dtype=log_p.dtype)


def error_correlation(log_p: jax.Array, labels: jax.Array) -> jax.Array:
    """Pearson correlation of two members' errors (0 or 1 an input): -> [K, K].

    NaN for a member that is always right or always wrong.
    """
    misses = wrong(log_p, labels).astype(log_p.dtype)
    centred = misses - misses.mean(1, keepdims=True)
    covariance = centred @ centred.T
    size = jnp.sqrt(jnp.diag(covariance))
    return covariance / (size[:, None] * size[None])


def over_pairs(matrix: jax.Array, inside=None) -> jax.Array:
    """Mean over pairs of different members of a matrix [K, K]; NaN where there is no pair.

    Pairs without a value are left out, and those that are not both `inside` [K], 0 or 1.
    """
    pairs = ~jnp.eye(len(matrix), dtype=bool) & ~jnp.isnan(matrix)
    weights = pairs.astype(matrix.dtype)
    if inside is not None:
        weights = weights * inside[:, None] * inside[None]
    return jnp.where(pairs, matrix * weights, 0).sum() / weights.sum()


def error_products(p: jax.Array, labels: jax.Array) -> jax.Array:
    """Scalar products of two members' errors, mean over inputs: [K, N, C] -> [K, K]."""
    chex.assert_rank(p, 3)
    off = p - jax.nn.one_hot(labels, p.shape[2], dtype=p.dtype)[None]
    off = off.reshape(len(p), -1)
    return jnp.matmul(off, off.T, precision="highest") / p.shape[1]


def moments(products: jax.Array, inside=None) -> tuple[jax.Array, jax.Array]:
    """(v, c) of `error_products`: mean over members, and over pairs of different members.

    The squared error of the members' mean is v / K + (K - 1) c / K, exactly (`expected_error`): an
    average over these members, not an expectation (Goodfellow et al. 2016, equations 7.50 and 7.51,
    where errors have mean 0; here v and c are second moments, so that no such assumption is
    needed). c is NaN for a single member. `inside` [K], 0 or 1: the members that count, None for
    all.
    """
    if inside is None:
        inside = jnp.ones(len(products), products.dtype)
    return jnp.diag(products) @ inside / inside.sum(), over_pairs(products, inside)


def rings(count: int) -> np.ndarray:
    """Which members belong to each window: 0 or 1, [count, count, count].

    Of `count` members on a ring, window j of size k (entry k - 1) holds j, j + 1, ... j + k - 1.
    Every member is in equally many windows, so a mean over windows favours none.
    """
    start, member = np.arange(count)[:, None], np.arange(count)
    size = np.arange(1, count + 1)[:, None, None]
    return ((member - start) % count < size).astype(np.float32)


def expected_error(variance, covariance, members):
    """v / k + (k - 1) c / k; for k = 1 the variance alone, covariance unknown or not."""
    return variance / members + np.where(members > 1, (members - 1) * covariance / members, 0)
