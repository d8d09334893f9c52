"""Early stopping as the book has it: algorithms 7.1, 7.2 and 7.3 (Goodfellow et al. 2016, 7.8).

The functions know nothing of networks or data: they take `advance`, which trains a state of any
kind, and a measurement of it. They are pure, for one seed, and may be mapped over seeds: in one
program each seed stops by itself and keeps its own best parameters.

* `stop_early` is algorithm 7.1: stop once the validation error has not improved for a while.
* `retrain` is what algorithm 7.2 does next: train afresh, on all data, for as many steps; or, with
  `same_epochs`, for as many passes, which is not the same once the set has grown.
* `continue_until` is what algorithm 7.3 does instead: go on, on all data, until the objective on
  the validation set is down to what it was on the sub-training set. That may never happen: it has
  a cap, and says whether it hit it.

What is measured must not be random: dropout off.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Stopped(NamedTuple):
    """Algorithm 7.1 after some evaluations. Several patiences: every field has an axis [P]."""

    best: Any  # tree, theta*: what `keep` kept at the best evaluation; before any, of the start
    best_step: jax.Array  # int32[], i*: steps trained by then; 0 if no error was below infinity
    best_error: jax.Array  # float[], v: the lowest validation error; infinity before any
    last: Any  # tree like `best`: theta where training stopped
    waited: jax.Array  # int32[], j: evaluations since the best
    evaluations: jax.Array  # int32[], evaluations used: the stop is after so many times n steps
    done: jax.Array  # bool[], stopped by patience; False at the end: by the cap


class Watched(NamedTuple):
    """What `stop_early` returns; `stopped` has an axis [P] for several patiences."""

    stopped: Stopped
    errors: jax.Array  # float[cap], the validation errors seen, then NaN
    aux: Any  # tree of [cap, ...], what `validate` returned beside them; () if nothing
    state: Any  # tree, where training ended; with several patiences, for the most patient


class Continued(NamedTuple):
    """What `continue_until` returns."""

    state: Any  # tree, where training ended
    objectives: jax.Array  # float[cap + 1], of the start and after each n steps, then NaN
    steps: jax.Array  # int32[], spent
    reached: jax.Array  # bool[], the objective is down to the threshold
    capped: jax.Array  # bool[], the cap ended it. Neither: the objective is NaN


def watch(kept, patience, dtype=jnp.float32) -> Stopped:
    """Algorithm 7.1 before its first evaluation.

    Args:
      kept: the parameters at the start, theta_0, a tree.
      patience: p, int [] or [P].
      dtype: of the validation error.
    """
    patience = jnp.asarray(patience, jnp.int32)

    def one(patience):
        zero = jnp.int32(0)
        return Stopped(kept, zero, jnp.array(jnp.inf, dtype), kept, zero, zero, zero >= patience)

    return jax.vmap(one)(patience) if patience.ndim else one(patience)


def observe(found: Stopped, error: jax.Array, kept, steps: int, patience) -> Stopped:
    """One turn of algorithm 7.1's loop, after n more steps; one that has stopped stays as it is.

    Only a strictly lower error is an improvement, so a tie and NaN are none.

    Args:
      found: so far.
      error: validation error, float [].
      kept: the parameters it was measured at, a tree.
      steps: n, between evaluations.
      patience: p, in evaluations: int [], or [P] as in `watch`.
    """
    patience = jnp.asarray(patience, jnp.int32)

    def one(found, patience):
        better = error < found.best_error
        evaluations = found.evaluations + 1
        waited = jnp.where(better, 0, found.waited + 1)
        turned = Stopped(
            best=_choose(better, kept, found.best),
            best_step=jnp.where(better, evaluations * steps, found.best_step),
            best_error=jnp.where(better, error, found.best_error),
            last=kept,
            waited=waited,
            evaluations=evaluations,
            done=waited >= patience,
        )
        return _choose(found.done, found, turned)

    return jax.vmap(one)(found, patience) if patience.ndim else one(found, patience)


def stop_early(
    advance: Callable,
    validate: Callable,
    state,
    *,
    steps: int,
    patience,
    cap: int,
    keep: Callable = lambda state: state,
    has_aux: bool = False,
    whole: bool = False,
) -> Watched:
    """Algorithm 7.1: trains until the validation error has not improved for `patience` turns.

    Args:
      advance: state -> state after n more steps.
      validate: state -> validation error, float []; with `has_aux` (error, tree of arrays).
      state: to start from, a tree of arrays.
      steps: n, what `advance` trains.
      patience: p >= 1, in evaluations, int []; or [P]: one training serves them all, and goes on
        until the last of them has stopped. May be traced, and mapped over.
      cap: most evaluations, >= 1.
      keep: state -> the part of it that is wanted of the best and the last.
      has_aux: see `validate`.
      whole: train on to the cap; `stopped` is the same.

    Raises:
      ValueError: a patience that is known to be below 1, or such a cap or n.
    """
    _at_least_one(steps=steps, cap=cap)
    if not isinstance(patience, jax.core.Tracer):
        _at_least_one(patience=int(np.min(patience)))  # NumPy: also while being traced
    measure = validate if has_aux else lambda state: (validate(state), ())
    error, aux = jax.eval_shape(measure, state)

    def goes_on(turn):
        count, _, found, *_ = turn
        return (count < cap) & (whole | ~found.done.all())

    def body(turn):
        count, state, found, errors, aux = turn
        state = advance(state)
        error, row = measure(state)
        found = observe(found, error, keep(state), steps, patience)
        errors = errors.at[count].set(error)
        aux = jax.tree.map(lambda rows, value: rows.at[count].set(value), aux, row)
        return count + 1, state, found, errors, aux

    turn = (
        jnp.int32(0),
        state,
        watch(keep(state), patience, error.dtype),
        _unseen(cap, error),
        jax.tree.map(lambda leaf: _unseen(cap, leaf), aux),
    )
    _, state, found, errors, aux = jax.lax.while_loop(goes_on, body, turn)
    return Watched(found, errors, aux, state)


def replay(errors: jax.Array, steps: int, patience) -> Stopped:
    """Where algorithm 7.1 would have stopped on a curve of errors that is already there.

    Args:
      errors: float[E], validation error after each n steps.
      steps: n.
      patience: p, int [] or [P].

    Returns:
      Its `best` and `last` are counts of evaluations, int32.
    """
    errors = jnp.asarray(errors)
    return stop_early(
        lambda count: count + 1, lambda count: errors[count - 1], jnp.int32(0),
        steps=steps, patience=patience, cap=errors.shape[0],
    ).stopped  # fmt: skip


def same_epochs(best_step, examples: int, more_examples: int, batch_size: int):
    """Steps on more examples that are as many passes as `best_step` steps on fewer, rounded.

    Passes drop the last partial batch, as `training.make_trainer`'s do.

    Args:
      best_step: int32 [...].
      examples: of the sub-training set, at least a batch.
      more_examples: of the whole training set.
      batch_size: examples of a step.
    """
    few, many = examples // batch_size, more_examples // batch_size
    _at_least_one(**{"examples // batch_size": few, "more_examples // batch_size": many})
    # Whole passes apart from the rest: their product with the steps of a pass could overflow.
    passes, rest = best_step // few, best_step % few
    return passes * many + (2 * rest * many + few) // (2 * few)


def retrain(step: Callable, state, steps):
    """The second half of algorithm 7.2: trains for so many steps and returns the state.

    Args:
      step: state -> state after one step on all data.
      state: a fresh random one.
      steps: int32 [], i* of `stop_early`, or `same_epochs` of it; may be traced.
    """
    return jax.lax.fori_loop(0, steps, lambda _, state: step(state), state)


def continue_until(
    advance: Callable, objective: Callable, state, threshold, *, steps: int, cap: int
) -> Continued:
    """The second half of algorithm 7.3: trains on while the validation objective is too high.

    Args:
      advance: state -> state after n more steps on all data.
      objective: state -> J on the validation set, float [].
      state: what algorithm 7.1 left.
      threshold: J on the sub-training set of that state, float []; may be traced.
      steps: n.
      cap: most turns of n steps, >= 1.
    """
    _at_least_one(steps=steps, cap=cap)

    def goes_on(turn):
        count, _, now, _ = turn
        return (now > threshold) & (count < cap)

    def body(turn):
        count, state, _, seen = turn
        state = advance(state)
        now = objective(state)
        return count + 1, state, now, seen.at[count + 1].set(now)

    now = objective(state)
    seen = _unseen(cap + 1, now).at[0].set(now)
    count, state, now, seen = jax.lax.while_loop(goes_on, body, (jnp.int32(0), state, now, seen))
    return Continued(state, seen, count * steps, now <= threshold, now > threshold)


def _choose(condition, yes, no):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _unseen(count: int, like) -> jax.Array:
    """Room for `count` arrays shaped like one: NaN, or 0 where there is no NaN."""
    blank = jnp.nan if jnp.issubdtype(like.dtype, jnp.inexact) else 0
    return jnp.full((count, *like.shape), blank, like.dtype)


def _at_least_one(**numbers):
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
