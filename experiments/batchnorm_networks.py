"""The networks of `batchnorm`: how they train, and what a step of them is measured for."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlstudy import losses, models, normalization, optimizers, training

ALONG = (0.5, 1.0, 2.0, 4.0)  # of a step, as far as Santurkar et al. look
SHIFT, SCALE = 0.5, 0.25  # of the noise: shifts in +-0.5, factors from 1 to 1.25, as theirs
MODES = ("batch", "running", "recalibrated")  # statistics to evaluate with


class Condition(NamedTuple):
    """What sets a run apart; scalars, or arrays with one entry a run."""

    rate: jax.Array  # learning rate
    affine: jax.Array  # bool: gamma and beta learn; else they stay 1 and 0
    noise: jax.Array  # of the normalised values, 1 as in Santurkar et al.; 0: none
    start: jax.Array  # int: which initial weights
    ordered: jax.Array  # how far batches go by class, see `batch_order`; 0: i.i.d.


def condition(rate, affine=True, noise=0.0, start=0, ordered=0.0) -> Condition:
    return Condition(rate, affine, noise, start, ordered)


def stack(conditions) -> Condition:
    kinds = (np.float32, np.bool_, np.float32, np.int32, np.float32)
    columns = zip(*conditions, strict=True)
    return Condition(*(np.array(v, kind) for v, kind in zip(columns, kinds, strict=True)))


class Network(NamedTuple):
    """Functions of one network with parameters as arguments."""

    model: models.MLP

    def start(self, key, example):
        """Parameters; kernels of hidden layers U(+-sqrt(6 / inputs)) (He et al. 2015).

        Without batch normalisation the model's own, smaller ones would let the signal fade with
        depth, which is another matter.
        """
        params = models.initialise(self.model, key, example)
        larger = lambda layer: layer | {"kernel": layer["kernel"] * np.float32(6**0.5)}  # noqa: E731
        return {k: larger(v) if k.startswith("hidden") else v for k, v in params.items()}

    def forward(self, params, x, statistics=None):
        """(logits, taps) with these statistics, None for the batch's own."""
        return self.model.apply({"params": params}, x, statistics=statistics)

    def used(self, params, x, statistics=None):
        """(logits, the statistics used; {} without batch normalisation)."""
        logits, taps = self.forward(params, x, statistics)
        return logits, taps.get("statistics", {})

    def loss(self, params, batch, statistics=None):
        return losses.cross_entropy(self.forward(params, batch[0], statistics)[0], batch[1])

    def initial_statistics(self, example):
        """Running statistics before training."""
        shapes = jax.eval_shape(
            lambda key: self.used(self.start(key, example), jnp.stack([example] * 2))[1],
            jax.random.key(0),
        )
        return normalization.initial(shapes)


def layer_of(name: str, layers: int) -> int:
    """Number of the layer that a group of parameters belongs to; the head is the last."""
    return layers - 1 if name == "head" else int(name.rpartition("_")[2])


def frozen(params, affine):
    """The same parameters, of which gamma and beta have a gradient only where `affine`."""
    still = lambda p: jnp.where(affine, p, jax.lax.stop_gradient(p))  # noqa: E731
    return {k: jax.tree.map(still, v) if k.startswith("bn") else v for k, v in params.items()}


def noisy(params, amount, key):
    """Parameters of a network whose normalised values are scaled and shifted at random.

    Each unit gets a factor and a shift, which gamma and beta can take in: with a new key in each
    step its distribution changes from step to step, and its mean is not zero (Santurkar et al.
    2018, appendix A, who also jitter each example, by a fifth of that).
    """
    found = dict(params)
    for name in (name for name in params if name.startswith("bn")):
        keys = jax.random.split(jax.random.fold_in(key, layer_of(name, 0)))
        gamma, beta = params[name]["scale"], params[name]["bias"]
        factor = 1 + amount * jax.random.uniform(keys[0], gamma.shape, maxval=SCALE)
        shift = amount * jax.random.uniform(keys[1], gamma.shape, minval=-SHIFT, maxval=SHIFT)
        found[name] = {"scale": gamma * factor, "bias": beta * factor + shift}
    return found


def by_class(labels, classes: int, ordered, key):
    """Indices of all examples, int[N], in an order between random (0) and by class (1).

    Between the two a stretch holds about 1 / `ordered` classes. Which classes are neighbours is
    random.
    """
    place, own = jax.random.split(key)
    rank = jax.random.permutation(place, classes)[labels].astype(jnp.float32)
    return jnp.argsort(ordered * rank + jax.random.uniform(own, labels.shape))


def batch_order(labels, classes: int, batch_size: int, ordered, key, count: int):
    """Indices int[steps * batch_size] of an epoch's examples, a batch after the other.

    The examples are put in order (`by_class`) and cut into batches, and these are shuffled:
    batches hold one class or a few, yet an epoch does not forget from class to class.
    """
    own, mixed = jax.random.split(key)
    steps = count // batch_size
    rows = by_class(labels, classes, ordered, own)[: steps * batch_size]
    return rows.reshape(steps, batch_size)[jax.random.permutation(mixed, steps)].reshape(-1)


def trainer(network: Network, own: Condition, starts, train, classes: int, batch_size: int,
            momenta, ghost: int = 0):  # fmt: skip
    """Gradient descent of one run; its running statistics are a tuple, one for each momentum.

    Args:
      network: the network.
      own: the run's condition.
      starts: initial parameters, each with a leading axis; `own.start` is the run's place on it.
      train: (images [N, D], labels [N]).
      classes: how many.
      batch_size: images of a step whose loss is followed.
      momenta: of the running statistics.
      ghost: further training images in each step, which enter its statistics alone (a "ghost"
        batch): with many the statistics hardly depend on the batch.
    """

    def loss(params, running, batch, key):
        shift, extra = jax.random.split(key)
        x = batch[0]
        if ghost:
            rows = jax.random.randint(extra, (ghost,), 0, len(train[1]))
            x = jnp.concatenate([x, train[0][rows]])
        logits, used = network.used(noisy(frozen(params, own.affine), own.noise, shift), x)
        running = tuple(normalization.moved(r, used, m) for r, m in zip(running, momenta))  # noqa: B905
        return losses.cross_entropy(logits[:batch_size], batch[1]), running

    return training.make_noisy_trainer(
        lambda _: jax.tree.map(lambda a: a[own.start], starts),
        loss, optimizers.sgd(own.rate), batch_size,
        statistics=(network.initial_statistics(train[0][0]),) * len(momenta),
        order=functools.partial(batch_order, train[1], classes, batch_size, own.ordered),
    )  # fmt: skip


# -- one step under the microscope


def mixtures(before, after, layers: int) -> list:
    """Parameters with the layers below i as they are after a step, for each i but the first."""
    return [
        {k: after[k] if layer_of(k, layers) < i else before[k] for k in before}
        for i in range(1, layers)
    ]


def kernel_distance(gradients, other) -> jax.Array:
    """l2 distance of two gradients, of the kernels alone."""
    squares = [jnp.square(gradients[k]["kernel"] - other[k]["kernel"]).sum()
               for k in gradients if "kernel" in gradients[k]]  # fmt: skip
    return jnp.sqrt(sum(squares))


def inspect(network: Network, params, own: Condition, batch, key) -> dict:
    """What a step of a run would do on its batch; it is not taken.

    Returns:
      "shift" and "shift_cosine", [L - 1]: internal covariate shift of each layer but the first as
      Santurkar et al. (2018, definition 2.1) measure it, between the gradient of the layer's
      kernel before the step and with the layers below it as they are after; l2 distance, cosine.
      "step_loss": the loss before the step.
      "loss_range": of the loss over the start and the points `ALONG` the step.
      "gradient_change": largest distance of their gradients from the first one over its norm, of
      the kernels.
    """
    layers = len(network.model.widths) + 1
    now, then = jax.random.split(key)
    here, pullback = jax.vjp(lambda p: noisy(frozen(p, own.affine), own.noise, now), params)
    slope_of = jax.value_and_grad(network.loss)
    value, slope = slope_of(here, batch)
    (gradient,) = pullback(slope)

    def moved(multiple, draw):
        there = jax.tree.map(lambda p, g: p - multiple * own.rate * g, params, gradient)
        return noisy(there, own.noise, draw)

    points = [*mixtures(here, moved(1.0, then), layers), *(moved(m, now) for m in ALONG)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *points)
    values, slopes = jax.vmap(slope_of, (0, None))(stacked, batch)
    apart, cosine = [], []
    for i in range(1, layers):
        name = "head" if i == layers - 1 else f"hidden_{i}"
        old, new = slope[name]["kernel"], slopes[name]["kernel"][i - 1]
        apart.append(jnp.linalg.norm(new - old))
        cosine.append(jnp.vdot(old, new) / (jnp.linalg.norm(old) * jnp.linalg.norm(new)))
    along = jnp.append(values[layers - 1 :], value)
    ahead = jax.tree.map(lambda a: a[layers - 1 :], slopes)
    change = jax.vmap(kernel_distance, (0, None))(ahead, slope).max()
    size = kernel_distance(slope, jax.tree.map(jnp.zeros_like, slope))
    return {"shift": jnp.stack(apart), "shift_cosine": jnp.stack(cosine), "step_loss": value,
            "loss_range": along.max() - along.min(), "gradient_change": change / size}  # fmt: skip


# -- a trained network


def in_batches(network: Network, params, split, rows):
    """(loss, error, statistics) with batch statistics, one of each for each of the rows [K, B]."""

    def one(own):
        logits, used = network.used(params, split[0][own])
        y = split[1][own]
        return losses.cross_entropy(logits, y), losses.error_rate(logits, y), used

    return jax.vmap(one)(rows)


def recalibrated(network: Network, params, train, batches: int, size: int):
    """Statistics of batches of training images taken together (`normalization.pooled`).

    The images of a training split are in random order.
    """
    rows = jnp.arange(batches * size).reshape(batches, size)
    return normalization.pooled(in_batches(network, params, train, rows)[2])


def with_statistics(network: Network, params, statistics: list, split):
    """(loss, error) with each of several given statistics, [K] each."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *statistics)

    def one(own):
        logits, _ = network.used(params, split[0], own)
        return losses.cross_entropy(logits, split[1]), losses.error_rate(logits, split[1])

    return jax.vmap(one, axis_size=len(statistics))(stacked)


def evaluate(network: Network, params, running, pooled, splits) -> dict:
    """{split}_loss and {split}_error with the statistics of `MODES`, [3]; all of a split a batch.

    Without batch normalisation the three are one number.
    """
    row = {}
    for name, split in splits.items():
        own = in_batches(network, params, split, jnp.arange(len(split[1]))[None])[:2]
        if network.model.batch_norm:
            given = with_statistics(network, params, [running, pooled], split)
        else:
            given = tuple(jnp.broadcast_to(v, 2) for v in own)
        row[f"{name}_loss"], row[f"{name}_error"] = (
            jnp.concatenate(pair) for pair in zip(own, given, strict=True)
        )
    return row


def spread(statistics) -> tuple[jax.Array, jax.Array]:
    """How far statistics [K, F] of batches spread, of each layer [L].

    Returns:
      Root of the mean over units of (variance of the batch means / pooled variance); and of the
      batch variances, over the square of their mean.
    """
    of_mean, of_variance = [], []
    for i in range(len(statistics)):
        own = statistics[f"bn_{i}"]
        pooled = normalization.pooled(own)
        of_mean.append(jnp.sqrt((own.mean.var(0) / pooled.variance).mean()))
        relative = own.variance.var(0) / jnp.square(own.variance.mean(0))
        of_variance.append(jnp.sqrt(relative.mean()))
    return jnp.stack(of_mean), jnp.stack(of_variance)
