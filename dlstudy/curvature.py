"""Curvature of a loss: products with the Hessian, the largest eigenvalue, a step's Taylor budget.

Every function here is pure and carries no jit. A loss maps parameters (any tree of floating
arrays) to a scalar and must be deterministic: no dropout, batch statistics in a stated mode.
Where a loss is a mean over data, differentiate chunk by chunk with `dlstudy.chunks`.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

RESIDUAL = 1e-2  # of an eigenvalue, relative: above, it is no number
LEFT_OUT = 0.05  # of eigenvalues: where more are none, nothing can be said of the rest


def hessian_product(loss, params, vector):
    """H v by forward- over reverse-mode (Pearlmutter 1994): a tree like `params`."""
    return jax.jvp(jax.grad(loss), (params,), (vector,))[1]


class Directional(NamedTuple):
    """A loss and its derivatives along one direction d."""

    value: jax.Array  # float[], loss(params)
    slope: jax.Array  # float[], g'd
    curvature: jax.Array  # float[], d'Hd


def directional(loss, params, direction) -> Directional:
    """Value, g'd and d'Hd in one forward pass, by forward over forward: about one gradient."""

    def first(p):
        return jax.jvp(loss, (p,), (direction,))

    (value, slope), (_, curvature) = jax.jvp(first, (params,), (direction,))
    return Directional(value, slope, curvature)


def warm_start(vector: jax.Array, fresh: jax.Array, weight: float = 0.3) -> jax.Array:
    """A start for `largest_eigenpair`: the eigenvector of a nearby matrix, and a little of another.

    Eigenvalues cross in training, and Lanczos started from what has become the second eigenvector
    stays there. `fresh` is to overlap with all leading ones, as the gradient does (Gur-Ari, Roberts
    & Dyer 2018, "Gradient descent happens in a tiny subspace"). Where its cosine with the leading
    eigenvector is c, a lead of more than tolerance / (weight * c) is found at once; a smaller one
    is an error of that size until the vector has turned.

    Args:
      vector: float[n], of unit length, or zero where there is none yet: then `fresh` alone.
      fresh: float[n].
      weight: length of the part in the direction of `fresh`.
    """
    length = jnp.linalg.norm(fresh)
    unit = fresh / jnp.where(length > 0, length, 1)
    return jnp.where(vector.any(), vector + weight * unit, unit)


class Eigenpair(NamedTuple):
    """A Ritz pair and how good it is."""

    value: jax.Array  # float[], the eigenvalue
    vector: jax.Array  # float[n], of unit length
    residual: jax.Array  # float[], ||A v - value v||
    products: jax.Array  # int32[], matrix-vector products spent
    # bool[], residual <= tolerance * |value|, or the residual is rounding; else out of products
    converged: jax.Array


def largest_eigenpair(
    product, start: jax.Array, *, tolerance: float = 1e-2, max_products: int = 20
) -> Eigenpair:
    """The algebraically largest eigenvalue of a symmetric matrix, by Lanczos with a residual.

    Every new basis vector is orthogonalised twice against all earlier ones: without that, float32
    Lanczos returns copies of the leading pair. It stops on the residual, not on the change of the
    value (Parlett 1998, chapter 13), or when the Krylov space is exhausted. The residual is the
    exact one of the Ritz pair in exact arithmetic, |beta_k s_k|, and costs nothing more. A small
    residual says that an eigenvalue is near the value, not that it is the largest: a start very
    close to another eigenvector converges to that one, see `warm_start`.

    Args:
      product: v[n] -> A v[n].
      start: float[n], not zero; the eigenvector of a nearby matrix makes a warm start.
      tolerance: residual over |value| at which to stop.
      max_products: cap on the products, at least 1; the basis takes that many vectors of memory.
    """
    chex.assert_rank(start, 1)
    dtype, size = start.dtype, min(max_products, start.shape[0])
    tiny = jnp.finfo(dtype).eps
    indices = jnp.arange(size, dtype=jnp.int32)

    def ritz(alpha, beta, k):
        """Largest pair of the k x k tridiagonal matrix T, and a bound on ||T||."""
        scale = jnp.abs(alpha).max() + 2 * jnp.abs(beta).max()
        used = indices < k
        diagonal = jnp.where(used, alpha, -4 * scale - 1)  # unused rows far below
        off = jnp.where(indices[:-1] < k - 1, beta[:-1], 0)
        values, vectors = jnp.linalg.eigh(jnp.diag(diagonal) + jnp.diag(off, 1) + jnp.diag(off, -1))
        return values[-1], vectors[:, -1], scale

    def step(carry):
        basis, alpha, beta, k, *_ = carry
        q = basis[k]
        w = product(q)
        a = jnp.vdot(q, w)
        for _ in range(2):
            w = w - basis.T @ (basis @ w)
        b = jnp.linalg.norm(w)
        alpha, beta = alpha.at[k].set(a), beta.at[k].set(b)
        value, weights, scale = ritz(alpha, beta, k + 1)
        residual = b * jnp.abs(weights[k])
        # Relative to ||T||: below rounding the remainder is noise, the space is invariant.
        exhausted = b <= tiny * scale * 4
        basis = basis.at[jnp.minimum(k + 1, size - 1)].set(
            jnp.where((k + 1 < size) & ~exhausted, w / jnp.where(b > 0, b, 1), basis[-1])
        )
        done = exhausted | (residual <= tolerance * jnp.abs(value))
        return basis, alpha, beta, k + 1, value, weights, residual, done

    zero = jnp.zeros((), dtype)
    first = start / jnp.linalg.norm(start)
    carry = (
        jnp.zeros((size, start.shape[0]), dtype).at[0].set(first),
        jnp.zeros(size, dtype),
        jnp.zeros(size, dtype),
        jnp.int32(0),
        zero,
        jnp.zeros(size, dtype),
        zero,
        jnp.bool_(False),
    )
    basis, _, _, k, value, weights, residual, done = jax.lax.while_loop(
        lambda c: (c[3] < size) & ~c[-1], step, carry
    )
    vector = basis.T @ weights
    return Eigenpair(value, vector / jnp.linalg.norm(vector), residual, k, done)


def converged(values, relative_residuals, what: str, counted=True) -> np.ndarray:
    """The eigenvalues that are ones: NaN where the relative residual is above `RESIDUAL`.

    Args:
      values: float[...], eigenvalues.
      relative_residuals: float[...], |A v - value v| over |value|; NaN counts as too large.
      what: their name, for the message.
      counted: bool[...], which of them the share is taken of, such as those of runs that did not
        diverge.

    Raises:
      ValueError: more than `LEFT_OUT` of the counted have too large a residual, so that what is
        left may be a selection.
    """
    bad = ~(np.asarray(relative_residuals) <= RESIDUAL)
    counted = np.broadcast_to(counted, bad.shape)
    share = bad[counted].mean() if counted.any() else 0.0
    if share > LEFT_OUT:
        raise ValueError(f"{share:.0%} of the {what} values have too large a residual")
    return np.where(bad, np.nan, values)
