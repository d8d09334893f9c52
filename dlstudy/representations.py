"""How alike two representations of the same examples are."""

import chex
import jax
import jax.numpy as jnp


def linear_cka(a: jax.Array, b: jax.Array) -> jax.Array:
    """Linear centred kernel alignment of features a[N, P] and b[N, Q] of the same N examples.

    1 if one is a rotation and uniform scaling of the other, near 0 if unrelated and N is large
    (Kornblith et al. 2019, section 3). Uses N x N Gram matrices: made for N below P and Q.
    """
    chex.assert_rank([a, b], 2)
    chex.assert_equal_shape_prefix([a, b], 1)

    def centred_gram(x):
        x = x - x.mean(0, keepdims=True)
        return x @ x.T

    k, l = centred_gram(a), centred_gram(b)  # noqa: E741 - the paper's names
    return jnp.vdot(k, l) / jnp.sqrt(jnp.vdot(k, k) * jnp.vdot(l, l))
