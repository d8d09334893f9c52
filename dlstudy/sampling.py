"""Drawing without replacement, for programs that do it many times."""

import jax
import jax.numpy as jnp


def without_replacement(key, shape: tuple[int, ...], size) -> jax.Array:
    """Which are drawn: `size` of the last axis, each row of the others by itself.

    Every subset of that size is equally likely but for the resolution of the random bits: with n
    to draw from, 32 less the bits of n - 1, at least 16, and ties go to the lower index.

    Args:
      key: a random key.
      shape: of the result; its last axis, of at most 2^16, is drawn from.
      size: int, or int[] of a traced value, from 1 to that axis's length.

    Returns:
      bool[shape].

    Raises:
      ValueError: the last axis is empty or longer than 2^16.
    """
    count = shape[-1]
    if not 1 <= count <= 2**16:
        raise ValueError(f"shape={shape}: the last axis must hold from 1 to 65536, not {count}")
    # The lowest of different random numbers. Unsigned integers are sorted by themselves: sorting
    # indices along, or floats, takes four times as long on a CPU.
    low = jnp.uint32((1 << (count - 1).bit_length()) - 1)
    index = jax.lax.broadcasted_iota(jnp.uint32, shape, len(shape) - 1)
    lots = jax.random.bits(key, shape, jnp.uint32) & ~low | index
    last = jnp.take(jax.lax.sort(lots, is_stable=False), size - 1, axis=-1)
    return lots <= last[..., None]
