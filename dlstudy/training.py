"""Training as a scan: a step measures itself, an epoch is one compiled loop over its batches."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dlstudy.chunks import mean_over_chunks
from dlstudy.curvature import directional


class TrainState(NamedTuple):
    """Everything a step changes."""

    params: object  # tree of float32 arrays
    opt_state: object  # the optimizer's tree
    step: jax.Array  # int32[], updates done


class Metrics(NamedTuple):
    """One row per update; a scan stacks to [T]. NaN: not measured at this step."""

    loss: jax.Array  # float32[], batch mean in nats, before the update
    grad_norm: jax.Array  # float32[], l2, before any cap
    layer_grad_norm: jax.Array  # float32[L], l2 per layer, in the order of `layer_names`
    update_norm: jax.Array  # float32[], l2, of the step taken
    first_order: jax.Array  # float32[], -g'd: change of the batch loss to first order
    second_order: jax.Array  # float32[], d'Hd / 2: what the second order adds
    realised: jax.Array  # float32[], change of the same batch's loss


class Instruments(NamedTuple):
    """What a step measures beside its loss; 0 switches off, n means every n steps."""

    taylor_every: int = 1  # first_order, second_order and realised
    realised_every: int = 1  # realised alone, where taylor_every is 0
    norms_every: int = 1  # grad_norm, layer_grad_norm and update_norm


class Trainer(NamedTuple):
    """`init(key) -> TrainState` and `epoch(state, key, data) -> (TrainState, Metrics[T])`."""

    init: Callable
    step: Callable
    epoch: Callable


def layer_names(params) -> tuple[str, ...]:
    """Names of the layers, in the order of `Metrics.layer_grad_norm`."""
    return tuple(sorted(params))


def make_trainer(
    init_params: Callable,
    loss: Callable,
    optimizer: optax.GradientTransformationExtraArgs,
    batch_size: int,
    *,
    instruments: Instruments = Instruments(),  # noqa: B008 - an immutable tuple
    needs_curvature: bool = False,
    chunk: int | None = None,
) -> Trainer:
    """A trainer for one seed; map it over seeds with `sweep`.

    Args:
      init_params: key -> parameters.
      loss: (params, batch) -> mean loss of the batch; batch is a tree with leading axis [B].
      optimizer: its update may take the keyword `curvature`.
      batch_size: B; the last partial batch of an epoch is dropped.
      instruments: what each step measures.
      needs_curvature: pass `curvature` = g'Hg of the batch to the optimizer.
      chunk: examples per chunk inside a step; None chooses by backend.
    """

    def init(key):
        params = init_params(key)
        return TrainState(params, optimizer.init(params), jnp.int32(0))

    def batch_gradient(params, batch):
        return mean_over_chunks(lambda b: jax.value_and_grad(loss)(params, b), batch, chunk)

    def taylor(params, after, taken, batch):
        """(-g'd, d'Hd / 2, realised) of the step d that was taken, on its own batch."""

        def parts(b):
            # Both losses from the same chunk: their small difference is formed before averaging.
            along = directional(lambda p: loss(p, b), params, taken)
            return -along.slope, along.curvature / 2, loss(after, b) - along.value

        return mean_over_chunks(parts, batch, chunk)

    def realised(params, after, batch):
        return mean_over_chunks(lambda b: loss(after, b) - loss(params, b), batch, chunk)

    def measure_step(step, params, after, taken, batch):
        # Small differences of losses: TF32, a GPU's default, would drown them.
        with jax.default_matmul_precision("highest"):
            return measure_exactly(step, params, after, taken, batch)

    def measure_exactly(step, params, after, taken, batch):
        nan = jnp.float32(jnp.nan)
        if instruments.taylor_every:
            return _every(
                instruments.taylor_every, step,
                lambda: taylor(params, after, taken, batch), (nan, nan, nan),
            )  # fmt: skip
        change = _every(
            instruments.realised_every, step, lambda: realised(params, after, batch), nan
        )
        return nan, nan, change

    def norms(gradient, taken):
        squares = [optax.tree.norm(gradient[k], squared=True) for k in layer_names(gradient)]
        return jnp.stack(squares), optax.tree.norm(taken)

    def step(state: TrainState, batch) -> tuple[TrainState, Metrics]:
        value, gradient = batch_gradient(state.params, batch)
        extra = {}
        if needs_curvature:
            extra["curvature"] = mean_over_chunks(
                lambda b: directional(lambda p: loss(p, b), state.params, gradient).curvature,
                batch,
                chunk,
            )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params, **extra)
        after = jax.tree.map(jnp.add, state.params, updates)
        # The step as the parameters saw it, after rounding: after = params - taken.
        taken = jax.tree.map(jnp.subtract, state.params, after)
        first, second, change = measure_step(state.step, state.params, after, taken, batch)
        squares, update_norm = _every(
            instruments.norms_every, state.step, lambda: norms(gradient, taken),
            (jnp.full(len(gradient), jnp.nan, jnp.float32), jnp.float32(jnp.nan)),
        )  # fmt: skip
        metrics = Metrics(
            loss=value,
            grad_norm=jnp.sqrt(squares.sum()),
            layer_grad_norm=jnp.sqrt(squares),
            update_norm=update_norm,
            first_order=first,
            second_order=second,
            realised=change,
        )
        return TrainState(after, opt_state, state.step + 1), metrics

    def epoch(state: TrainState, key: jax.Array, data) -> tuple[TrainState, Metrics]:
        """One pass over `data` in an order drawn from `key` and the step number."""
        return _scan(step, state, data, batch_size, jax.random.fold_in(key, state.step))

    return Trainer(init, step, epoch)


def _scan(step, state, data, batch_size: int, key, order=jax.random.permutation):
    """`step(state, batch)` over the batches of one pass; the last partial batch is dropped."""
    examples = jax.tree.leaves(data)[0].shape[0]
    steps = examples // batch_size
    batches = order(key, examples)[: steps * batch_size].reshape(steps, batch_size)
    return jax.lax.scan(
        lambda s, rows: step(s, jax.tree.map(lambda a: a[rows], data)), state, batches
    )


class NoisyState(NamedTuple):
    """Everything a step changes, for networks with dropout or batch normalisation."""

    params: object  # tree of float32 arrays
    opt_state: object  # the optimizer's tree
    statistics: object  # running statistics, a tree as in `normalization`; () without
    step: jax.Array  # int32[], updates done


def make_noisy_trainer(
    init_params: Callable,
    loss: Callable,
    optimizer: optax.GradientTransformationExtraArgs,
    batch_size: int,
    *,
    statistics: object = (),
    order: Callable = jax.random.permutation,
) -> Trainer:
    """A trainer for one seed of a network with dropout or batch normalisation.

    A step sees its batch as a whole, as batch statistics must, and measures its loss alone: the
    loss of the network that was drawn for it, dropout and batch statistics included.

    Args:
      init_params: key -> parameters.
      loss: (params, statistics, batch, key) -> (mean loss of the batch, statistics after it); the
        key is another one in each step.
      optimizer: an Optax transformation.
      batch_size: the last partial batch of an epoch is dropped.
      statistics: the running statistics before training, see `normalization.initial`.
      order: (key, N) -> int[N], the order of the examples in an epoch.

    Returns:
      `init(key) -> NoisyState`, `step(state, key, batch) -> (state, loss)` and
      `epoch(state, key, data) -> (state, losses[T])`; the key of a step is drawn from `key` and
      the step number.
    """

    def init(key):
        params = init_params(key)
        return NoisyState(params, optimizer.init(params), statistics, jnp.int32(0))

    def step(state: NoisyState, key: jax.Array, batch) -> tuple[NoisyState, jax.Array]:
        own = jax.random.fold_in(jax.random.fold_in(key, state.step), 1)
        (value, seen), gradient = jax.value_and_grad(loss, has_aux=True)(
            state.params, state.statistics, batch, own
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        after = jax.tree.map(jnp.add, state.params, updates)
        return NoisyState(after, opt_state, seen, state.step + 1), value

    def epoch(state: NoisyState, key: jax.Array, data) -> tuple[NoisyState, jax.Array]:
        # Steps draw from child 1 of this key.
        shuffled = jax.random.fold_in(jax.random.fold_in(key, state.step), 0)
        return _scan(lambda s, b: step(s, key, b), state, data, batch_size, shuffled, order)

    return Trainer(init, step, epoch)


def _every(n: int, step: jax.Array, measure: Callable, otherwise):
    """`measure()` at every n-th step, `otherwise` between; never for n = 0."""
    if n == 0:
        return otherwise
    if n == 1:
        return measure()
    return jax.lax.cond(step % n == 0, measure, lambda: otherwise)
