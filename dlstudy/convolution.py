"""Convolution and max pooling, fast on a CPU inside loops and over many seeds.

Arrays are laid out [channels, height, width, batch]. With the batch last, shifts of an image are
copies of long contiguous runs, pooling and ReLU vectorise over the batch, and a convolution is one
matrix product of all patches. XLA's own CPU convolution is 9-15 times slower inside a loop
(jax-ml/jax#12868), and becomes a grouped convolution when mapped over per-seed kernels.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

IN_CACHE = 2**22  # numbers, near what the caches of a CPU hold


def patches(x: jax.Array, height: int, width: int) -> jax.Array:
    """Every kernel-sized window of zero-padded images.

    Args:
      x: [C, H, W, B].
      height: odd height of the kernel.
      width: odd width of the kernel.

    Returns:
      [height * width * C, H, W, B], ordered like a kernel [height, width, C] in C order.

    Raises:
      ValueError: an even kernel size, for which "same" padding has no centre.
    """
    if height % 2 == 0 or width % 2 == 0:
        raise ValueError(f"kernel of {height}x{width}: both sizes must be odd")
    _, rows, columns, _ = x.shape
    x = jnp.pad(x, ((0, 0), (height // 2,) * 2, (width // 2,) * 2, (0, 0)))
    # Columns first, rows second: two small concatenations compile to faster copies than one of
    # height * width parts.
    x = jnp.concatenate([x[:, :, j : j + columns] for j in range(width)])
    return jnp.concatenate([x[:, i : i + rows] for i in range(height)])


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlation with zero padding ("same") and stride 1: x[C, H, W, B] -> [O, H, W, B].

    Equal to `jax.lax.conv_general_dilated` with padding SAME, in every derivative.

    Args:
      x: [C, H, W, B].
      kernel: [height, width, C, O], odd height and width.
    """
    height, width, channels, outputs = kernel.shape
    window = patches(x, height, width).reshape(height * width * channels, -1)
    return (kernel.reshape(-1, outputs).T @ window).reshape(outputs, *x.shape[1:])


def convolve_lax(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolve` by XLA's own convolution: the choice on an accelerator, and a test's oracle."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("CHWN", "HWIO", "CHWN")
    )


def max_pool(x: jax.Array) -> jax.Array:
    """Maximum of each 2x2 block: [C, H, W, B] -> [C, H // 2, W // 2, B].

    An odd last row or column is dropped, as PyTorch and Flax do by default. A tie sends the
    gradient to the first of the equals, so that every derivative is one selection.
    """
    _, rows, columns, _ = x.shape
    x = x[:, : rows // 2 * 2, : columns // 2 * 2]
    larger = lambda a, b: jnp.where(a >= b, a, b)  # noqa: E731
    x = larger(x[:, ::2], x[:, 1::2])
    return larger(x[:, :, ::2], x[:, :, 1::2])


# A layer whose backward pass also says how large each example's own gradient is. The cotangent of
# the unused argument `probe` carries it, so one ordinary backward pass yields both the gradient of
# the sum and the squared norms, with no per-example gradient of a dense layer ever written out.


@jax.custom_vjp
def probed_convolve(x, kernel, bias, probe):
    """`convolve(x, kernel) + bias`; the cotangent of probe[B] is each example's squared norm.

    That is, for a loss summed over examples, ||d loss_b / d (kernel, bias)||^2 for example b.
    """
    del probe
    return convolve(x, kernel) + bias[:, None, None, None]


def _probed_convolve_forward(x, kernel, bias, probe):
    return probed_convolve(x, kernel, bias, probe), (x, kernel)


def _probed_convolve_backward(residuals, delta):
    x, kernel = residuals
    height, width, channels, outputs = kernel.shape
    batch = x.shape[-1]
    window = patches(x, height, width).reshape(height * width * channels, -1, batch)
    own_kernel = jnp.einsum("ksb,osb->bko", window, delta.reshape(outputs, -1, batch))
    own_bias = delta.sum((1, 2))
    _, pull = jax.vjp(functools.partial(convolve, kernel=kernel), x)
    square_norms = jnp.square(own_kernel).sum((1, 2)) + jnp.square(own_bias).sum(0)
    return pull(delta)[0], own_kernel.sum(0).reshape(kernel.shape), own_bias.sum(1), square_norms


probed_convolve.defvjp(_probed_convolve_forward, _probed_convolve_backward)


@jax.custom_vjp
def probed_dense(x, kernel, bias, probe):
    """`kernel @ x + bias` for x[I, B]; the cotangent of probe[B] as in `probed_convolve`.

    A dense layer's gradient of one example is an outer product, so its norm is a product of norms
    (Goodfellow 2015, "Efficient per-example gradient computations").
    """
    del probe
    return kernel @ x + bias[:, None]


def _probed_dense_forward(x, kernel, bias, probe):
    return probed_dense(x, kernel, bias, probe), (x, kernel)


def _probed_dense_backward(residuals, delta):
    x, kernel = residuals
    square_norms = (jnp.square(x).sum(0) + 1) * jnp.square(delta).sum(0)
    return kernel.T @ delta, delta @ x.T, delta.sum(1), square_norms


probed_dense.defvjp(_probed_dense_forward, _probed_dense_backward)


# Likewise with each example's own gradient whole. The unused argument `own` is a tree of zeros
# shaped like those gradients, never written out, whose cotangent they are.


@jax.custom_vjp
def separate_convolve(x, kernel, bias, own):
    """`convolve(x, kernel) + bias`; the cotangent of `own` is each example's gradient.

    Args:
      x: [C, H, W, B].
      kernel: [height, width, C, O].
      bias: [O].
      own: {"kernel": [B, height, width, C, O], "bias": [B, O]}, for a loss summed over examples.
    """
    del own
    return convolve(x, kernel) + bias[:, None, None, None]


def _separate_convolve_forward(x, kernel, bias, own):
    return separate_convolve(x, kernel, bias, own), (x, kernel)


def _separate_convolve_backward(residuals, delta):
    x, kernel = residuals
    height, width, channels, outputs = kernel.shape
    batch = x.shape[-1]
    # One product of matrices for each example, examples first: with them last it takes thrice as
    # long. To turn the patches over is cheaper than to gather them from images turned over.
    window = patches(x, height, width).reshape(height * width * channels, -1, batch)
    by_pixel = delta.reshape(outputs, -1, batch).transpose(2, 1, 0)
    own_kernel = jnp.einsum("bks,bso->bko", window.transpose(2, 0, 1), by_pixel)
    own_bias = delta.sum((1, 2)).T
    _, pull = jax.vjp(functools.partial(convolve, kernel=kernel), x)
    own = {"kernel": own_kernel.reshape(batch, *kernel.shape), "bias": own_bias}
    return pull(delta)[0], own["kernel"].sum(0), own["bias"].sum(0), own


separate_convolve.defvjp(_separate_convolve_forward, _separate_convolve_backward)


class Outer(NamedTuple):
    """Per-example gradients of a dense kernel as the factors of their outer products."""

    delta: jax.Array  # [O, B]
    inputs: jax.Array  # [I, B]

    def whole(self) -> jax.Array:
        """[B, O, I]."""
        if self.delta.size * self.inputs.shape[0] > IN_CACHE:
            return self.delta.T[:, :, None] * self.inputs.T[:, None]
        # Turned over after the product: one fused loop, which pays while it stays in cache.
        return jnp.moveaxis(self.delta[:, None] * self.inputs[None], -1, 0)


@jax.custom_vjp
def separate_dense(x, kernel, bias, own):
    """`kernel @ x + bias` for x[I, B]; the cotangent of `own` as in `separate_convolve`.

    `own` is {"kernel": Outer, "bias": [B, O]}: the factors say all, in far less memory than the
    products where inputs are many.
    """
    del own
    return kernel @ x + bias[:, None]


def _separate_dense_forward(x, kernel, bias, own):
    return separate_dense(x, kernel, bias, own), (x, kernel)


def _separate_dense_backward(residuals, delta):
    x, kernel = residuals
    own = {"kernel": Outer(delta, x), "bias": delta.T}
    return kernel.T @ delta, delta @ x.T, delta.sum(1), own


separate_dense.defvjp(_separate_dense_forward, _separate_dense_backward)
