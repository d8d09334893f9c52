"""Which units fire: activation patterns of samples, packed into bits, and Hamming distances.

A pattern says of every hidden unit whether its pre-activation is positive (0 counts as off).
Functions of one pattern map over samples, epochs and seeds with `jax.vmap` or by broadcasting:
whatever comes before the last axis is theirs.
"""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

WORD = 32  # bits of a word; JAX has no wider one outside 64-bit mode
_BITS = np.arange(WORD, dtype=np.uint32)


def _last(array, rank: int):
    """`array` with leading axes of length 1, to meet the last axes of one of this rank."""
    return jnp.asarray(array).reshape((1,) * (rank - np.ndim(array)) + np.shape(array))


def layer_names(taps) -> list[str]:
    """Names of the pre-activations among a model's taps, in the order of the layers.

    By number: a dictionary that passed through `jit` comes back with `pre_10` before `pre_2`.
    """
    return sorted((name for name in taps if name.startswith("pre_")), key=lambda n: int(n[4:]))


def layer_sizes(taps) -> tuple[int, ...]:
    """Units of each layer: all that its taps [B, ...] hold of one sample (channels x places)."""
    return tuple(int(np.prod(taps[name].shape[1:])) for name in layer_names(taps))


def of_taps(taps) -> jax.Array:
    """Patterns of a batch from its taps [B, ...]: bool[B, U], layer after layer."""
    on = [taps[name] > 0 for name in layer_names(taps)]
    return jnp.concatenate([layer.reshape(layer.shape[0], -1) for layer in on], 1)


def activation_pattern(apply_fn, params, x) -> jax.Array:
    """Pattern of one sample x[...]: bool[U]. `apply_fn({"params": p}, x[B, ...])` gives taps."""
    return of_taps(apply_fn({"params": params}, x[None])[1])[0]


def pack(pattern: jax.Array) -> jax.Array:
    """bool[..., U] -> uint32[..., ceil(U / 32)]; unit u is bit u % 32 of word u // 32."""
    chex.assert_type(pattern, bool)
    units = pattern.shape[-1]
    words = -(-units // WORD)
    padding = [(0, 0)] * (pattern.ndim - 1) + [(0, words * WORD - units)]
    bits = jnp.pad(pattern, padding).reshape(*pattern.shape[:-1], words, WORD)
    return (bits.astype(jnp.uint32) << _last(_BITS, bits.ndim)).sum(-1, dtype=jnp.uint32)


def unpack(words: jax.Array, units: int) -> jax.Array:
    """The pattern bool[..., units] that `pack` made words[..., W] of."""
    bits = words[..., None] >> _last(_BITS, words.ndim + 1) & jnp.uint32(1)
    return bits.reshape(*words.shape[:-1], -1)[..., :units].astype(bool)


def layer_masks(sizes: Sequence[int]) -> jax.Array:
    """Packed patterns in which just one layer is on: uint32[L, W] for L layers of these sizes."""
    ends = np.cumsum(sizes)
    unit = np.arange(ends[-1])
    rows = [(unit >= end - size) & (unit < end) for size, end in zip(sizes, ends, strict=True)]
    return pack(jnp.asarray(np.stack(rows)))


def hamming(a: jax.Array, b: jax.Array) -> jax.Array:
    """Number of units that differ between packed patterns [..., W]: int32[...]."""
    return jax.lax.population_count(a ^ b).sum(-1).astype(jnp.int32)


def hamming_by_layer(a: jax.Array, b: jax.Array, sizes: Sequence[int]) -> jax.Array:
    """The same of each layer: int32[..., L]."""
    differing = (a ^ b)[..., None, :]
    masked = differing & _last(layer_masks(sizes), differing.ndim)
    return jax.lax.population_count(masked).sum(-1).astype(jnp.int32)


def hamming_by_unit(a: jax.Array, b: jax.Array, units: int) -> jax.Array:
    """Number of samples whose state differs, of each unit: packed [..., N, W] -> int32[..., U]."""
    return unpack(a ^ b, units).sum(-2, dtype=jnp.int32)


def first_and_last_change(history: jax.Array) -> tuple[jax.Array, jax.Array]:
    """When something first and last changed, of packed patterns or of any integers.

    Args:
      history: [E, ...], one row an epoch.

    Returns:
      Two int32[...]: the first epoch e >= 1 whose value differs from that of e - 1, and the last;
      0 where it never changed.
    """
    changed = history[1:] != history[:-1]
    epochs = jnp.arange(1, history.shape[0], dtype=jnp.int32)
    epochs = epochs.reshape(-1, *(1,) * (history.ndim - 1))
    never = jnp.int32(history.shape[0])
    first = jnp.where(changed, epochs, never).min(0, initial=never)
    last = jnp.where(changed, epochs, 0).max(0, initial=0)
    return jnp.where(first == never, 0, first), last
