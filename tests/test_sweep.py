"""A seed's numbers do not depend on its company, nor on the layout beyond rounding."""

import subprocess
import sys
import threading
from concurrent import futures
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlstudy import sweep
from dlstudy.host import Layout

LAYOUTS = {
    "map": Layout(1, "map"),
    "vmap": Layout(1, "vmap"),
    "vmap by twos": Layout(1, "vmap", 2),
}


def walk(start, key, weights):
    """A few steps of something that rounds: state and rows of one seed."""

    def step(x, i):
        noise = jax.random.normal(jax.random.fold_in(key, i), x.shape)
        x = jnp.tanh(weights @ x) + 0.1 * noise
        return x, jnp.vdot(x, x)

    return jax.lax.scan(step, start, jnp.arange(4))


def arguments(indices, size=16):
    keys = sweep.seed_keys(3, indices)
    starts = jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)
    weights = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32) / 4
    return starts, keys, weights


@pytest.fixture(scope="module")
def one_by_one():
    """Every seed on its own, without `sweep`."""
    starts, keys, weights = arguments(range(5))
    alone = jax.jit(walk)
    return [jax.device_get(alone(starts[i], keys[i], weights)) for i in range(5)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_every_layout_gives_each_seed_its_own_numbers(layout, seeds, one_by_one):
    call = sweep.over_seeds(walk, LAYOUTS[layout], shared=1)
    found, rows = call(*arguments(range(seeds)))
    assert (found.shape, rows.shape) == ((seeds, 16), (seeds, 4))
    for i in range(seeds):
        np.testing.assert_allclose(found[i], one_by_one[i][0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(rows[i], one_by_one[i][1], rtol=1e-5)


def test_among_others_as_alone_to_the_bit():
    call = sweep.over_seeds(walk, LAYOUTS["map"], shared=1)
    together = jax.device_get(call(*arguments(range(5))))
    for i in range(5):
        alone = jax.device_get(call(*arguments([i])))
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b[0]), together, alone)


@pytest.mark.parametrize(
    ("devices", "seeds", "slots"), [(1, 1, 2), (2, 5, 6), (10, 20, 20), (64, 20, 128), (3, 60, 60)]
)
def test_every_device_has_as_many_places_and_at_least_two(devices, seeds, slots):
    assert Layout(devices).slots(seeds) == slots


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_program_is_traced_once(layout):
    call = sweep.over_seeds(walk, LAYOUTS[layout], shared=1)
    assert call.traces == 0
    for first in (0, 10, 20):
        call(*arguments(range(first, first + 4)))
    assert call.traces == 1


def test_shared_arguments_have_no_seed_axis():
    def both(x, scale, shift):
        return x * scale["by"] + shift

    call = sweep.over_seeds(both, LAYOUTS["map"], shared=2)
    found = call(jnp.arange(3.0), {"by": jnp.float32(2)}, jnp.arange(2.0))
    np.testing.assert_array_equal(found, [[0, 1], [2, 3], [4, 5]])


def test_donated_memory_is_given_up_and_the_rest_is_not():
    call = sweep.over_seeds(lambda x, y: x + y, LAYOUTS["map"], donate=(0,))
    y = call(jnp.ones((2, 8)), jnp.ones((2, 8)))
    x = call(jnp.ones((2, 8)), y)
    np.testing.assert_array_equal(call(x, y), 5)
    assert x.is_deleted()
    np.testing.assert_array_equal(y, 2)


def test_keys_are_folded_in():
    keys = sweep.seed_keys(7, [0, 4, 2**32 - 1])
    for key, i in zip(keys, [0, 4, 2**32 - 1], strict=True):
        assert key == jax.random.fold_in(jax.random.key(7), i)
    assert sweep.seed_keys(7, range(20)).shape == (20,)
    data = jax.random.key_data(
        jnp.concatenate([sweep.seed_keys(s, range(20)) for s in (0, 1, 2**32 - 1)])
    )
    assert len(np.unique(data, axis=0)) == 60


# A process with two devices: an epoch of a small CNN with its Taylor budget, the full-batch
# gradient and an eigenvalue, for five seeds (six places, one of them filled up) and for one.
TWO_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.flatten_util import ravel_pytree
from dlstudy import chunks, curvature, losses, models, noise, optimizers, sweep, training
from dlstudy.host import Layout

assert jax.local_device_count() == 2
rng = np.random.default_rng(0)
images = rng.normal(size=(42, 6, 6, 1)).astype(np.float32)
labels = rng.integers(3, size=42).astype(np.int32)
model = models.CNN((4,), 3)

def loss(params, batch):
    return losses.cross_entropy(model.apply({"params": params}, batch[0])[0], batch[1])

trainer = training.make_trainer(
    lambda key: models.initialise(model, key, images[0]), loss, optimizers.make("adam", 0.01), 8)

def train(key, data):
    return trainer.epoch(trainer.init(key), key, data)

def study(key, data):
    state, metrics = train(key, data)
    found = noise.gradient_and_noise(
        lambda z, y: (losses.cross_entropy(z, y), losses.error_rate(z, y)),
        model.apply, state.params, data, 2)
    flat, unravel = ravel_pytree(state.params)
    product = lambda v: ravel_pytree(chunks.mean_over_chunks(lambda b: curvature.hessian_product(
        lambda p: loss(p, b), state.params, unravel(v)), data))[0]
    top = curvature.largest_eigenpair(product, flat, tolerance=1e-2, max_products=10)
    return state, metrics, found, top

data = (images, labels)
call = sweep.over_seeds(study, Layout(2, "map"), shared=1)
together = jax.device_get(call(sweep.seed_keys(0, range(5)), data))
assert call.traces == 1
assert all(len(leaf) == 5 for leaf in jax.tree.leaves(together))
for i in (0, 3, 4):
    alone = jax.device_get(call(sweep.seed_keys(0, [i]), data))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[i], b[0]), together, alone)
batch = jax.device_get(sweep.over_seeds(train, Layout(2, "vmap"), shared=1)(
    sweep.seed_keys(0, range(5)), data))
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5),
             together[:2], batch)

# Batches of LAPACK's factorisations on two devices at once wait for each other for ever.
def factor(key, scale):
    matrices = jax.random.normal(key, (8, 30, 30)) * scale
    return jax.lax.map(lambda a: jnp.linalg.qr(a)[0], matrices), jnp.linalg.qr(matrices)[1]

call = sweep.over_seeds(factor, Layout(2, "map"), shared=1)
found = call(sweep.seed_keys(0, range(5)), 2.0)
assert all(len(leaf.sharding.device_set) == 1 for leaf in found)
assert call.traces == 1
compiled = sweep.over_seeds(factor, Layout(2, "map"), shared=1)
compiled.compile(sweep.seed_keys(0, range(5)), 2.0)
jax.tree.map(np.testing.assert_array_equal, found, compiled(sweep.seed_keys(0, range(5)), 2.0))
print("equal")
"""


def test_a_cnn_on_two_devices_gives_the_same_bits_for_a_seed_in_any_company():
    flags = "--xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", TWO_DEVICES],
        cwd=Path(__file__).parents[1],
        env={"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.strip() == "equal", done.stderr[-3000:]


def shapes(tree):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("seeds", [1, 3])
def test_compiled_ahead_it_gives_the_same_numbers_and_is_traced_once(pooled, seeds):
    given = arguments(range(seeds))
    expected = sweep.over_seeds(walk, LAYOUTS["map"], shared=1)(*given)
    call = sweep.over_seeds(walk, LAYOUTS["map"], shared=1, donate=(0,))
    with sweep.compiler() as pool:
        promised = call.compile(*shapes(given), pool=pool if pooled else None)
        assert promised == shapes(expected)
        assert call.compile(*given) == promised
        found = jax.device_get(call(*given))
    for mine, theirs in zip(found, jax.device_get(expected), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert call.traces == 1
    # Other shapes are compiled when they come; shapes alone can still be asked for.
    more = arguments(range(seeds + 2))
    assert jax.eval_shape(call, *more)[0].shape == (seeds + 2, 16)
    assert call(*more)[0].shape == (seeds + 2, 16)


def test_a_program_that_cannot_be_compiled_fails_where_it_is_called():
    call = sweep.over_seeds(lambda x: x + 1, LAYOUTS["map"])

    class Broken:
        def submit(self, work):
            found = futures.Future()
            found.set_exception(MemoryError("no room"))
            return found

    x = np.zeros(2, np.float32)
    call.compile(x, pool=Broken())
    with pytest.raises(MemoryError, match="no room"):
        call(x)


def test_what_waits_to_be_compiled_is_dropped_at_the_end():
    begun, go_on, done = threading.Barrier(3), threading.Event(), []

    def slow():
        begun.wait(10)
        go_on.wait(10)

    try:
        with sweep.compiler() as pool:
            for _ in range(2):
                pool.submit(slow)
            waiting = pool.submit(done.append, 1)
            begun.wait(10)
            threading.Timer(0.2, go_on.set).start()
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert waiting.cancelled()
    assert not done
