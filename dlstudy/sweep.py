"""Seeds as an axis: one compiled program for all of them, laid out over devices.

A function of one seed is mapped over a leading seed axis. The layout says how: every device gets
an equal share of the seeds and takes them one after another ("map", the fastest on a CPU, where a
seed's working set should stay in one core's cache) or several at a time ("vmap", for accelerators
that one seed cannot fill). The same seed gives the same numbers in every layout, to rounding; in
one layout, to the bit.

Programs that factor matrices run on one device where the devices are a CPU's cores: jaxlib's LAPACK
kernels wait for tasks they put into the pool of threads that all devices work from, and two that
wait at once can wait for ever.
"""

import contextlib
import dataclasses
import functools
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dlstudy.host import Layout

AXIS = "seed"

# Operations that jaxlib hands to LAPACK or BLAS on a CPU.
_LAPACK = frozenset((
    "cholesky", "eig", "eigh", "geqp3", "geqrf", "hessenberg", "householder_product", "lu", "ormqr",
    "qr", "schur", "svd", "triangular_solve", "tridiagonal", "tridiagonal_solve",
))  # fmt: skip


def seed_keys(seed: int, indices) -> jax.Array:
    """Keys of the runs `indices` of the base seed: run i has fold_in(key(seed), i), shape [S]."""
    base = jax.random.key(seed)
    return jax.vmap(lambda i: jax.random.fold_in(base, i))(jnp.asarray(indices, jnp.uint32))


@contextlib.contextmanager
def compiler():
    """A pool of threads for `compile` of the programs below; at its end what waits is dropped."""
    pool = ThreadPoolExecutor(2)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def over_seeds(function, layout: Layout, *, shared: int = 0, donate: tuple[int, ...] = ()):
    """A jitted map of `function` over seeds.

    Args:
      function: (per-seed arguments ..., shared arguments ...) -> tree, for one seed.
      layout: devices, strategy and seeds per program.
      shared: how many of the last arguments are the same for all seeds.
      donate: positions of arguments whose memory the result may take.

    Returns:
      The function of arguments with a leading axis [S] (the shared ones without), returning a tree
      with leading axis [S]. Its attribute `traces` counts how often `function` was traced. Its
      method `compile(*arguments, pool=None)` takes arrays or their `jax.ShapeDtypeStruct`s and
      returns the result's: it traces at once and compiles in the pool, if one is given, so that
      programs to come are compiled while others are traced and run.
    """
    width = layout.seeds_per_program if layout.strategy == "vmap" else 0

    def block(per_seed, common):
        """One device's share."""

        def one(arguments):
            call.traces += 1
            return function(*arguments, *common)

        if layout.strategy == "vmap" and not width:
            return jax.vmap(one)(per_seed)
        return jax.lax.map(one, per_seed, batch_size=width or None)

    def laid_out(layout):
        """The layout, where its per-seed and its shared arguments lie, and the jitted map."""
        mesh = Mesh(np.array(jax.devices()[: layout.devices]), (AXIS,))
        by_seed, everywhere = PartitionSpec(AXIS), PartitionSpec()
        mapped = jax.shard_map(
            block, mesh=mesh, in_specs=(by_seed, everywhere), out_specs=by_seed, check_vma=False
        )

        @functools.partial(jax.jit, donate_argnums=0)
        def program(given, kept, rest):
            """`given` and `kept`: per-seed arguments by position, to donate and the others."""
            per_seed = given | kept
            return mapped(tuple(per_seed[i] for i in sorted(per_seed)), rest)

        return layout, NamedSharding(mesh, by_seed), NamedSharding(mesh, everywhere), program

    chosen = []  # what `laid_out` gave, once the first arguments have shown what the function does

    def choose(arguments):
        if not chosen:
            found = laid_out(layout)
            if layout.devices > 1 and jax.default_backend() == "cpu":
                given, per_seed, rest = shapes(found, arguments)
                if _factors_matrices(found[3].trace(given, per_seed, rest).jaxpr):
                    call.traces = 0
                    found = laid_out(dataclasses.replace(layout, devices=1))
            chosen.append(found)
        return chosen[0]

    def shapes(found, arguments):
        """Shapes of a program's arguments: those to donate, the other per-seed ones, the shared."""
        layout, own, common, _ = found
        split = len(arguments) - shared
        slots = layout.slots(jax.tree.leaves(arguments[0])[0].shape[0])

        def by_seed(a):
            return jax.ShapeDtypeStruct((slots, *a.shape[1:]), a.dtype, sharding=own)

        def as_it_is(a):
            a = a if hasattr(a, "shape") else jax.typeof(a)  # a Python number
            weak = getattr(a, "weak_type", False)
            return jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=weak, sharding=common)

        per_seed = jax.tree.map(by_seed, dict(enumerate(arguments[:split])))
        rest = jax.tree.map(as_it_is, arguments[split:])
        given = {i: per_seed.pop(i) for i in donate}
        return given, per_seed, rest

    compiled = {}  # by structure, shapes and types of the arguments: (future, shapes)

    def kind_of(arguments):
        leaves, structure = jax.tree.flatten(arguments)
        return structure, *((leaf.shape, leaf.dtype) for leaf in leaves)

    def call(*arguments):
        layout, own, common, program = choose(arguments)
        split = len(arguments) - shared
        seeds = jax.tree.leaves(arguments[0])[0].shape[0]
        slots = layout.slots(seeds)
        per_seed = dict(enumerate(arguments[:split]))
        if slots != seeds:
            rows = np.minimum(np.arange(slots), seeds - 1)
            per_seed = jax.tree.map(lambda a: a[rows], per_seed)
        # Placed alike wherever they come from (a checkpoint, NumPy, another program), arguments
        # always meet the same compiled program.
        kept, rest = jax.device_put(per_seed, own), jax.device_put(arguments[split:], common)
        given = {i: kept.pop(i) for i in donate}
        placed = given, kept, rest
        asked = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(placed))
        found = None if asked else compiled.get(kind_of(placed))
        result = (found[0].result() if found else program)(*placed)
        if slots != seeds:
            result = jax.tree.map(lambda a: a[:seeds], result)
        return result

    def compile(*arguments, pool=None):
        found = choose(arguments)
        placed = shapes(found, arguments)
        kind = kind_of(placed)
        if kind not in compiled:
            traced = found[3].trace(*placed)
            work = traced.lower().compile
            if pool:
                future = pool.submit(work)
            else:
                future = Future()
                future.set_result(work())
            compiled[kind] = future, traced.out_info
        seeds = jax.tree.leaves(arguments[0])[0].shape[0]
        return jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((seeds, *a.shape[1:]), a.dtype), compiled[kind][1]
        )

    call.traces = 0
    call.compile = compile
    return call


def _factors_matrices(jaxpr) -> bool:
    """Whether a program, or one within it, has an operation of `_LAPACK`."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)  # a closed one holds another
    for equation in jaxpr.eqns:
        if equation.primitive.name in _LAPACK:
            return True
        inner = jax.tree.leaves(
            equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")
        )
        if any(_factors_matrices(p) for p in inner if hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            return True
    return False
