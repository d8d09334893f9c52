"""Flax networks that return `(output, taps)`: what the instruments need, without hooks.

The only module that imports `flax.linen`.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from dlstudy import convolution

# LeCun's normal initialisation of a kernel [outputs, inputs].
_by_row = nn.initializers.lecun_normal(in_axis=-1, out_axis=-2)


class Conv(nn.Module):
    """Convolution with bias, "same" padding, stride 1: [C, H, W, B] -> [features, H, W, B]."""

    features: int
    kernel: int = 3

    @nn.compact
    def __call__(self, x, probe=None):
        kernel = self.param(
            "kernel",
            nn.initializers.lecun_normal(),
            (self.kernel, self.kernel, x.shape[0], self.features),
        )
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        if probe is not None:
            return convolution.probed_convolve(x, kernel, bias, probe)
        # On a CPU the product of patches wins; an accelerator has convolution kernels of its own.
        on_cpu = jax.default_backend() == "cpu"
        convolve = convolution.convolve if on_cpu else convolution.convolve_lax
        return convolve(x, kernel) + bias[:, None, None, None]


class Dense(nn.Module):
    """Affine layer on columns: [I, B] -> [features, B]; the kernel is [features, I].

    The kernel's long axis is the last: its gradient, `delta @ x.T`, is then written in long runs,
    which a CPU does faster.
    """

    features: int

    @nn.compact
    def __call__(self, x, probe=None):
        kernel = self.param("kernel", _by_row, (self.features, x.shape[0]))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        if probe is not None:
            return convolution.probed_dense(x, kernel, bias, probe)
        return kernel @ x + bias[:, None]


class CNN(nn.Module):
    """Convolutions with ReLU, then one dense layer.

    `apply({"params": p}, images[B, H, W, C]) -> (logits[B, outputs], taps)`.

    taps["pre_i"]: pre-activation [B, H, W, widths[i]] of convolution i, before pooling and ReLU.
    taps["features"]: the head's input [B, F].
    ReLU's derivative at 0 is 0. Inside, arrays are [channels, height, width, batch], so the
    columns of `head/kernel` [outputs, F] run over channels, then height, then width.

    `probes` [layers, B]: zeros whose gradient, for a loss *summed* over the batch, is the squared
    norm of each example's own gradient in each layer (convolutions in order, then the head).
    """

    widths: tuple[int, ...]
    outputs: int
    pool: bool = False
    kernel: int = 3

    @nn.compact
    def __call__(self, images, probes=None):
        chex.assert_rank(images, 4)
        probe = lambda i: None if probes is None else probes[i]  # noqa: E731
        taps = {}
        x = images.transpose(3, 1, 2, 0)
        for i, width in enumerate(self.widths):
            x = Conv(width, self.kernel, name=f"conv_{i}")(x, probe(i))
            taps[f"pre_{i}"] = x.transpose(3, 1, 2, 0)
            # ReLU after pooling: the same function as before it, on a quarter of the values.
            x = nn.relu(convolution.max_pool(x) if self.pool else x)
        x = x.reshape(-1, x.shape[-1])
        taps["features"] = x.T
        return Dense(self.outputs, name="head")(x, probe(len(self.widths))).T, taps


class MLP(nn.Module):
    """ReLU network of dense layers. `apply({"params": p}, x[B, D]) -> (out[B, outputs], taps)`.

    taps["pre_i"]: pre-activation [B, widths[i]] of hidden layer i.
    Weights and biases start uniform on +-1 / sqrt(fan-in) (as in PyTorch), or with `zero_bias` the
    biases at 0, as Flax does by default. Kernels are Flax's, [inputs, outputs].
    """

    widths: tuple[int, ...]
    outputs: int
    zero_bias: bool = False

    @nn.compact
    def __call__(self, x):
        chex.assert_rank(x, 2)
        taps = {}
        for i, width in enumerate(self.widths):
            x = taps[f"pre_{i}"] = self._dense(width, x.shape[-1], f"hidden_{i}")(x)
            x = nn.relu(x)
        return self._dense(self.outputs, x.shape[-1], "head")(x), taps

    def _dense(self, features, fan_in, name):
        uniform = _symmetric(fan_in**-0.5)
        bias = nn.initializers.zeros_init() if self.zero_bias else uniform
        return nn.Dense(features, kernel_init=uniform, bias_init=bias, name=name)


def _symmetric(bound: float):
    """Initialiser: uniform on [-bound, bound)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def initialise(model: nn.Module, key: jax.Array, example: jax.Array):
    """Parameters for inputs shaped like `example` [D, ...] (one example, no batch axis)."""
    return model.init(key, jnp.zeros((1, *example.shape), example.dtype))["params"]
