"""A network whose loss, or one input, is multiplied by c: functions of one seed, in float64."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlstudy.data import Split
from dlstudy.optimizers import make

STREAM = 14  # of a seed's key
SCALING_ARMS = ("adam", "adam_no_delta", "adam_scaled_delta", "sgd", "sgd_matched")
FEATURE_ARMS = ("adam", "sgd")
DELTA = 1e-8  # Adam's default


class Condition(NamedTuple):
    """What is done to one run; arrays with one entry for each."""

    rate: np.ndarray
    delta: np.ndarray  # Adam's; descent has no use for it
    loss: np.ndarray  # the loss is multiplied by this
    feature: np.ndarray  # one input is
    boost: np.ndarray  # the updates of its weights are


def conditions(config, name: str) -> tuple[dict[str, Condition], Condition, Condition]:
    """Runs of an optimizer: by arm with the loss scaled; with a feature, or its rate, scaled.

    Scaling a feature by c is to be the same as multiplying the rate of its weights by c under Adam
    and c^2 under plain descent.
    """
    c, f = np.array(config.loss_scales), np.array(config.feature_scales)
    none, still, power = config.no_delta, np.ones_like(f), 1 if name == "adam" else 2

    def run(rate, delta, loss=1.0, feature=1.0, boost=1.0):
        return Condition(*np.broadcast_arrays(rate, delta, loss, feature, boost))

    if name == "adam":
        rate = config.scale_adam_rate
        arms = {
            "adam": run(rate, DELTA, c),
            "adam_no_delta": run(rate, none, c),
            "adam_scaled_delta": run(rate, DELTA * c, c),
        }
    else:
        rate = config.scale_sgd_rate
        arms = {"sgd": run(rate, none, c), "sgd_matched": run(rate / c, none, c)}
    return arms, run(rate, none, feature=f), run(rate, none, still, boost=f**power)


def rescaled(net, config, key, splits) -> dict:
    """Full-batch descent with the loss, or one input feature, scaled by c.

    Returns:
      "loss_change" [arms, scales]: largest relative change of the loss curve over its steps;
      "feature_change" [2, scales, 2]: size of the change of the feature's weights as they act on
      the unscaled feature, after the first and after the last step, under Adam and SGD;
      "feature_gap" [2, scales]: largest relative distance between the loss curves of the scaled
      feature and of the unscaled one whose rate is multiplied instead;
      "curves" [2, scales, T + 1]: losses over c of Adam with its default delta and of SGD.
    """
    x = splits.train.x[: config.scale_size].astype(jnp.float64)
    y = splits.train.y[: config.scale_size]
    start = jax.tree.map(lambda a: a.astype(jnp.float64), net.init(key, splits.train.x[0]))
    lit = (x > 0).mean(0) > 0.2
    pixel = jax.random.categorical(jax.random.fold_in(key, STREAM), jnp.where(lit, 0.0, -jnp.inf))
    row = jnp.arange(x.shape[1]) == pixel

    def first_kernel(params, factor):
        """The weights of the chosen input multiplied by a factor."""
        layer = params["hidden_0"]
        kernel = layer["kernel"] * jnp.where(row, factor, 1.0)[:, None]
        return params | {"hidden_0": layer | {"kernel": kernel}}

    def run(name, own: Condition):
        """(losses over the scale [T + 1], the input's weights times the feature [T + 1, U])."""
        constants = {"delta": own.delta} if name == "adam" else {}
        optimizer = make(name, own.rate, **constants)
        inputs = jnp.where(row[None], own.feature, 1.0) * x

        def loss(params):
            return own.loss * net.loss(params, Split(inputs, y))

        def seen(params):
            return params["hidden_0"]["kernel"][pixel] * own.feature

        def step(state, _):
            params, memory = state
            value, gradient = jax.value_and_grad(loss)(params)
            updates, memory = optimizer.update(gradient, memory, params)
            after = optax.apply_updates(params, first_kernel(updates, own.boost))
            return (after, memory), (value / own.loss, seen(params))

        first = first_kernel(start, 1 / own.feature)
        (last, _), (values, weights) = jax.lax.scan(
            step, (first, optimizer.init(first)), length=config.scale_steps
        )
        values = jnp.append(values, loss(last) / own.loss)
        return values, jnp.append(weights, seen(last)[None], 0)

    def apart(a, b):
        return (jnp.abs(a - b) / jnp.abs(b)).max(-1)

    unscaled = config.loss_scales.index(1.0)
    loss_change, curves, feature_change, feature_gap = [], [], [], []
    for name in FEATURE_ARMS:
        arms, scaled, boosted = conditions(config, name)
        parts = [*arms.values(), scaled, boosted]
        every = Condition(*(jnp.asarray(np.concatenate(v)) for v in zip(*parts, strict=True)))
        losses, weights = jax.lax.map(lambda own, name=name: run(name, own), every)
        cuts = np.cumsum([len(part.rate) for part in parts])[:-1]
        *of_arms, of_feature, of_boost = jnp.split(losses, cuts)
        loss_change += [apart(found, found[unscaled][None]) for found in of_arms]
        curves.append(of_arms[0])
        feature_gap.append(apart(of_feature, of_boost))
        moved = jnp.split(weights, cuts)[-2]
        ends = moved[:, jnp.array([1, -1])] - moved[:, :1]
        feature_change.append(jnp.linalg.norm(ends, axis=2))
    return {
        "loss_change": jnp.stack(loss_change),
        "curves": jnp.stack(curves),
        "feature_change": jnp.stack(feature_change),
        "feature_gap": jnp.stack(feature_gap),
    }
