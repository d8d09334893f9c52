"""Algorithms 7.1 to 7.3 against hand-written traces and the book's loops in plain Python."""

import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlstudy import early_stopping as es

NAN, INF = math.nan, math.inf


def book_7_1(errors, n, p):
    """Algorithm 7.1 on the errors that evaluations 1, 2, ... would give, up to the last of them.

    Returns (i*, v, evaluation of theta*, j, evaluations, stopped by patience).
    """
    i = j = best_i = best_at = 0
    v = INF
    used = 0
    while j < p and used < len(errors):
        i += n
        error = errors[used]
        used += 1
        if error < v:
            j, best_at, best_i, v = 0, used, i, error
        else:
            j += 1
    return best_i, v, best_at, j, used, j >= p


def found(stopped):
    """The same of a `Stopped` of `replay`."""
    fields = (stopped.best_step, stopped.best_error, stopped.best, stopped.waited,
              stopped.evaluations, stopped.done)  # fmt: skip
    return tuple(np.asarray(f).item() for f in fields)


TRACES = {
    # errors, n, p: (i*, v, theta*, j, evaluations, by patience)
    "falls to the cap": ([5, 4, 3, 2], 1, 2, (4, 2, 4, 0, 4, False)),
    "patience 1": ([3, 2, 2.5, 1, 0], 1, 1, (2, 2, 2, 1, 3, True)),
    "patience 2": ([3, 2, 2.5, 1, 1.5, 1.5, 0], 1, 2, (4, 1, 4, 2, 6, True)),
    "patience 3": ([3, 2, 4, 4, 1, 4, 4, 4, 0], 1, 3, (5, 1, 5, 3, 8, True)),
    "patience 4": ([3, 4, 4, 4, 2, 4, 4, 4, 4, 1], 1, 4, (5, 2, 5, 4, 9, True)),
    "patience 5": ([1, 2, 2, 2, 2, 2, 0], 1, 5, (1, 1, 1, 5, 6, True)),
    "improvement starts the count afresh": ([3, 4, 2, 4, 4, 1], 1, 2, (3, 2, 3, 2, 5, True)),
    "a tie is no improvement": ([2, 2, 2, 1], 1, 2, (1, 2, 1, 2, 3, True)),
    "the first of two ties is kept": ([2, 1, 3, 1, 3, 3], 1, 5, (2, 1, 2, 4, 6, False)),
    "n counts in i*": ([3, 2, 4, 4], 7, 2, (14, 2, 2, 2, 4, True)),
    "the cap ends while waiting": ([1, 2, 2], 3, 5, (3, 1, 1, 2, 3, False)),
    "patience and cap at once": ([1, 2, 2], 3, 2, (3, 1, 1, 2, 3, True)),
    "nan is no improvement": ([2, NAN, 1, NAN, NAN, 0], 1, 2, (3, 1, 3, 2, 5, True)),
    "nothing but nan": ([NAN, NAN, NAN], 2, 2, (0, INF, 0, 2, 2, True)),
    "infinity is no improvement": ([INF, INF, 1], 1, 2, (0, INF, 0, 2, 2, True)),
    "minus infinity is one": ([3, -INF, -INF], 1, 1, (2, -INF, 2, 1, 3, True)),
    "a single evaluation": ([4], 5, 3, (5, 4, 1, 0, 1, False)),
}  # fmt: skip


@pytest.mark.parametrize("name", TRACES)
def test_a_trace_by_hand(name):
    errors, n, p, expected = TRACES[name]
    assert found(es.replay(jnp.array(errors, jnp.float32), n, p)) == expected
    assert book_7_1(errors, n, p) == expected


def walk(errors, n):
    """A "training" whose state counts steps and whose parameters name the step they are of."""
    errors = jnp.asarray(errors, jnp.float32)
    start = {"w": jnp.zeros(3), "step": jnp.int32(0)}

    def advance(state):
        return {"w": state["w"] + n, "step": state["step"] + n}

    return start, advance, lambda state: errors[state["step"] // n - 1]


def test_the_best_parameters_are_returned_and_not_the_last():
    start, advance, validate = walk([3, 1, 2, 2, 0], 4)
    run = es.stop_early(advance, validate, start, steps=4, patience=2, cap=5)
    np.testing.assert_array_equal(run.stopped.best["w"], np.full(3, 8.0))
    np.testing.assert_array_equal(run.stopped.last["w"], np.full(3, 16.0))
    assert run.stopped.best_step == run.stopped.best["step"] == 8
    assert run.state["step"] == 16
    np.testing.assert_array_equal(run.errors, np.array([3, 1, 2, 2, NAN], np.float32))
    assert run.aux == ()


def test_what_is_kept_and_seen_can_be_chosen():
    start, advance, validate = walk([3, 1, 2, 2, 0], 4)
    run = es.stop_early(
        advance, lambda s: (validate(s), {"step": s["step"], "w": s["w"]}), start, steps=4,
        patience=2, cap=5, keep=lambda s: s["w"], has_aux=True,
    )  # fmt: skip
    np.testing.assert_array_equal(run.stopped.best, np.full(3, 8.0))
    np.testing.assert_array_equal(run.aux["step"], [4, 8, 12, 16, 0])
    assert np.isnan(run.aux["w"][4]).all()
    whole = es.stop_early(advance, validate, start, steps=4, patience=2, cap=5, whole=True)
    assert whole.state["step"] == 20
    assert whole.errors[4] == 0
    assert whole.stopped.best_step == 8  # what comes after the stop does not count
    assert whole.stopped.evaluations == 4
    np.testing.assert_array_equal(whole.stopped.last["w"], np.full(3, 16.0))


def test_if_nothing_improves_the_start_is_returned():
    start, advance, validate = walk([NAN, NAN], 1)
    run = es.stop_early(advance, validate, start, steps=1, patience=5, cap=2)
    np.testing.assert_array_equal(run.stopped.best["w"], start["w"])
    assert run.stopped.best_step == 0
    assert not run.stopped.done


curves = st.lists(
    st.floats(width=32, allow_subnormal=False) | st.sampled_from([0.0, 1.0, 2.0]),
    min_size=12,
    max_size=12,
)
_replay = jax.jit(es.replay, static_argnums=1)
_replays = jax.jit(jax.vmap(es.replay, (0, None, None)), static_argnums=1)


@given(curves, st.sampled_from([1, 3]), st.integers(1, 6))
def test_it_is_the_books_loop_on_any_curve(errors, n, p):
    errors = np.array(errors, np.float32)
    expected = book_7_1(errors.tolist(), n, p)
    assert found(_replay(errors, n, jnp.int32(p))) == expected


@hypothesis.settings(max_examples=15)
@given(st.lists(curves, min_size=3, max_size=3))
def test_seeds_and_patiences_as_axes_are_each_alone(rows):
    rows = np.array(rows, np.float32)
    waits = jnp.arange(1, 6)
    together = _replays(rows, 3, waits)
    for s, errors in enumerate(rows):
        for k, p in enumerate(waits):
            one = jax.tree.map(lambda a, s=s, k=k: a[s, k], together)
            assert found(one) == book_7_1(errors.tolist(), 3, int(p))


def descend(key):
    """Noisy descent on a quartic, one seed: (start, advance, validate); elementwise throughout."""
    start = {"w": jax.random.normal(key, (5,)), "step": jnp.int32(0)}

    def advance(state):
        noise = jax.random.normal(jax.random.fold_in(key, state["step"]), (5,))
        return {"w": state["w"] - 0.1 * (state["w"] ** 3 + noise), "step": state["step"] + 2}

    return start, advance, lambda state: jnp.max(jnp.abs(state["w"]))


def stopped_descent(key, patience):
    start, advance, validate = descend(key)
    return es.stop_early(advance, validate, start, steps=2, patience=patience, cap=40)


@pytest.fixture(scope="module")
def keys():
    return jax.vmap(jax.random.key)(jnp.arange(6))


def test_mapped_seeds_equal_each_seed_alone_bit_for_bit(keys):
    waits = jnp.array([1, 2, 5, 50])
    # All patiences of all seeds, as two mapped axes.
    each = jax.vmap(jax.vmap(stopped_descent, (None, 0)), (0, None))
    together = jax.jit(each)(keys, waits)
    lone = jax.jit(stopped_descent)
    stops = set()
    for s, key in enumerate(keys):
        for k, p in enumerate(waits):
            alone = lone(key, p)
            stops.add(int(alone.stopped.evaluations))
            for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
                assert np.asarray(a).tobytes() == np.asarray(b[s, k]).tobytes()
    assert len(stops) > 3  # they did stop by themselves


def test_one_training_serves_several_patiences(keys):
    waits = jnp.array([1, 2, 5, 50])
    shared = jax.jit(jax.vmap(stopped_descent, (0, None)))(keys, waits)
    apart = jax.jit(jax.vmap(jax.vmap(stopped_descent, (None, 0)), (0, None)))(keys, waits)
    for a, b in zip(*map(jax.tree.leaves, (shared.stopped, apart.stopped)), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    # The common errors go on to the stop of the most patient.
    assert shared.errors.shape == (6, 40)
    used = np.isfinite(shared.errors).sum(1)
    np.testing.assert_array_equal(used, shared.stopped.evaluations.max(1))


def test_the_patience_may_be_traced_without_another_program():
    traces = []

    @jax.jit
    def stop(errors, patience):
        traces.append(1)
        return es.replay(errors, 1, patience).best_step

    errors = jnp.array([3.0, 2, 4, 1, 5, 5, 5])
    assert [int(stop(errors, p)) for p in (1, 2, 3)] == [2, 4, 4]
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"patience": 0}, "patience is 0"),
        ({"patience": np.array([2, 0])}, "patience is 0"),
        ({"patience": -1}, "patience is -1"),
        ({"cap": 0}, "cap is 0"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_settings_below_one_are_refused(settings, words):
    settings = {"steps": 1, "patience": 1, "cap": 1} | settings
    start, advance, validate = walk([1.0], 1)
    with pytest.raises(ValueError, match=words):
        es.stop_early(advance, validate, start, **settings)


# --- algorithm 7.2


@pytest.mark.parametrize("steps", [0, 1, 13])
def test_retraining_takes_exactly_so_many_steps(steps):
    count = es.retrain(lambda s: s + 1, jnp.int32(5), jnp.int32(steps))
    assert count == 5 + steps


def test_each_seed_retrains_for_its_own_steps():
    steps = jnp.array([0, 7, 3])
    run = jax.vmap(lambda n: es.retrain(lambda s: 2 * s, jnp.float32(1), n))(steps)
    np.testing.assert_array_equal(run, [1, 128, 8])


def test_as_many_passes_are_more_steps_once_the_set_has_grown():
    # 400 of 500 examples in batches of 20: 20 steps a pass, then 25.
    np.testing.assert_array_equal(
        es.same_epochs(np.array([0, 20, 40, 100]), 400, 500, 20), [0, 25, 50, 125]
    )
    # A partial batch is dropped: 3 steps a pass, then 4; a third of a pass is 4/3 steps.
    np.testing.assert_array_equal(es.same_epochs(np.array([1, 2, 3, 7]), 39, 50, 12), [1, 3, 4, 9])
    assert es.same_epochs(60, 100, 100, 10) == 60
    with pytest.raises(ValueError, match="at least 1"):
        es.same_epochs(5, 9, 20, 10)


@given(st.integers(0, 2**31 // 8), st.integers(1, 1000), st.integers(1, 3000))
def test_passes_are_rounded_to_the_nearest_step(best, few, more):
    exact = best * (few + more) / few
    if exact < 2**31 - few:
        small = es.same_epochs(jnp.int32(best), few, few + more, 1)
        assert abs(int(small) - exact) <= 0.5 + 1e-6


# --- algorithm 7.3


def book_7_3(objectives, threshold, cap):
    """(turns of n steps, J at the end): objectives[k] is J on the validation set after k turns."""
    turns = 0
    while objectives[turns] > threshold and turns < cap:
        turns += 1
    return turns, objectives[turns]


def go_on(objectives, threshold, cap, n=3):
    objectives = jnp.asarray(objectives, jnp.float32)
    return es.continue_until(
        lambda s: s + n, lambda s: objectives[s // n], jnp.int32(0), threshold, steps=n, cap=cap
    )


@pytest.mark.parametrize(
    ("objectives", "threshold", "cap", "steps", "reached", "capped"),
    [
        ([5, 4, 2, 1], 2.5, 3, 6, True, False),
        ([5, 4, 2, 1], 2.0, 3, 6, True, False),  # down to the threshold is enough
        ([5, 4, 3, 3], 2.0, 3, 9, False, True),
        ([5, 4, 3, 2], 2.0, 3, 9, True, False),  # reached in the last turn allowed
        ([1, 4, 4, 4], 2.0, 3, 0, True, False),  # nothing to do
        ([5, NAN, 1, 1], 2.0, 3, 3, False, False),  # NaN is not above it, nor down to it
        ([5, 5], 2.0, 1, 3, False, True),
    ],
)
def test_continuing_by_hand(objectives, threshold, cap, steps, reached, capped):
    run = go_on(objectives, threshold, cap)
    assert (run.steps, run.reached, run.capped) == (steps, reached, capped)
    assert run.state == steps
    seen = [*objectives[: steps // 3 + 1], *[NAN] * (cap - steps // 3)]
    np.testing.assert_array_equal(run.objectives, np.array(seen, np.float32))


_go_on = jax.jit(go_on, static_argnums=2)


@given(curves, st.floats(-2, 3, width=32, allow_subnormal=False), st.sampled_from([1, 5, 11]))
def test_continuing_is_the_books_loop_on_any_curve(objectives, threshold, cap):
    objectives = np.array(objectives, np.float32).tolist()
    run = _go_on(jnp.array(objectives, jnp.float32), threshold, cap)
    turns, value = book_7_3(objectives, threshold, cap)
    assert run.steps == 3 * turns
    assert bool(run.reached) == (value <= threshold)
    assert bool(run.capped) == (value > threshold)


def test_each_seed_continues_by_itself():
    rows = jnp.array([[5.0, 4, 3, 2], [1, 1, 1, 1], [5, 5, 5, 5]])
    run = jax.vmap(lambda row, eps: go_on(row, eps, 3))(rows, jnp.array([3.0, 2.0, 1.0]))
    np.testing.assert_array_equal(run.steps, [6, 0, 9])
    np.testing.assert_array_equal(run.capped, [False, False, True])
    np.testing.assert_array_equal(run.state, run.steps)


def test_a_cap_of_nothing_is_refused():
    with pytest.raises(ValueError, match="cap is 0"):
        go_on([1.0, 2.0], 0.0, 0)
