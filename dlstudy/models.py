"""Flax networks that return `(output, taps)`: what the instruments need, without hooks.

The only module that imports `flax.linen`. Networks are pure functions: the keys of dropout and the
statistics of batch normalisation are arguments.
"""

from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from dlstudy import convolution, normalization

# LeCun's normal initialisation of a kernel [outputs, inputs].
_by_row = nn.initializers.lecun_normal(in_axis=-1, out_axis=-2)


# What stands around a hidden layer's ReLU, after its affine map. Without batch normalisation both
# are the same network; after a first "bn" the map has no bias, which its shift would undo.
ORDERS = ("bn_relu_dropout", "relu_dropout_bn")


class Dropout(NamedTuple):
    """Units to drop in one pass; each layer draws with a key of its own.

    Kept units are divided by the share kept, so that a pass without dropout is the weight scaling
    rule of the trained network (Goodfellow et al. 2016, section 7.12).
    """

    key: jax.Array
    rate: jax.Array | float  # probability that a hidden unit is dropped, in [0, 1)
    input_rate: jax.Array | float = 0.0  # that an input is


def drop(key, x, rate):
    """Sets each entry of x to 0 with probability `rate` and divides the others by 1 - rate."""
    keep = jnp.asarray(1 - rate, x.dtype)
    return jnp.where(jax.random.bernoulli(key, keep, x.shape), x / keep, 0)


class BatchNorm(nn.Module):
    """Normalises every unit, and with `affine` scales and shifts it again (gamma, beta).

    `x, statistics -> (normalised x, statistics used)`; statistics None: those of x itself.
    """

    axis: int  # of the units
    affine: bool = True
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, statistics=None):
        if statistics is None:
            statistics = normalization.of_batch(x, self.axis)
        y = normalization.normalise(x, statistics, self.axis, self.epsilon)
        if self.affine:
            shape = [1] * x.ndim
            shape[self.axis] = units = x.shape[self.axis]
            gamma = self.param("scale", nn.initializers.ones_init(), (units,), x.dtype)
            beta = self.param("bias", nn.initializers.zeros_init(), (units,), x.dtype)
            y = y * gamma.reshape(shape) + beta.reshape(shape)
        return y, statistics


class Conv(nn.Module):
    """Convolution with bias, "same" padding, stride 1: [C, H, W, B] -> [features, H, W, B]."""

    features: int
    kernel: int = 3
    use_bias: bool = True

    @nn.compact
    def __call__(self, x, probe=None):
        kernel = self.param(
            "kernel",
            nn.initializers.lecun_normal(),
            (self.kernel, self.kernel, x.shape[0], self.features),
        )
        # On a CPU the product of patches wins; an accelerator has convolution kernels of its own.
        on_cpu = jax.default_backend() == "cpu"
        convolve = convolution.convolve if on_cpu else convolution.convolve_lax
        if not self.use_bias:
            return convolve(x, kernel)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        if isinstance(probe, dict):
            return convolution.separate_convolve(x, kernel, bias, probe)
        if probe is not None:
            return convolution.probed_convolve(x, kernel, bias, probe)
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
        if isinstance(probe, dict):
            return convolution.separate_dense(x, kernel, bias, probe)
        if probe is not None:
            return convolution.probed_dense(x, kernel, bias, probe)
        return kernel @ x + bias[:, None]


class CNN(nn.Module):
    """Convolutions with ReLU, then one dense layer.

    `apply({"params": p}, images[B, H, W, C]) -> (logits[B, outputs], taps)`.

    taps["pre_i"]: pre-activation [B, H, W, widths[i]] of convolution i, before pooling and ReLU.
    taps["features"]: the head's input [B, F].
    taps["statistics"]: with batch normalisation, {"bn_i": those used}, one a channel.
    ReLU's derivative at 0 is 0. Inside, arrays are [channels, height, width, batch], so the
    columns of `head/kernel` [outputs, F] run over channels, then height, then width.

    `probes` [layers, B]: zeros whose gradient, for a loss *summed* over the batch, is the squared
    norm of each example's own gradient in each layer (convolutions in order, then the head).
    `statistics`, `dropout`: as in `MLP`; dropout after pooling, of single values.
    """

    widths: tuple[int, ...]
    outputs: int
    pool: bool = False
    kernel: int = 3
    batch_norm: bool = False
    order: str = ORDERS[0]
    affine: bool = True
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, images, probes=None, *, statistics=None, dropout=None):
        chex.assert_rank(images, 4)
        if self.batch_norm and probes is not None:
            raise ValueError("probes measure gradients of single examples; batches mix them")
        probe = lambda i: None if probes is None else probes[i]  # noqa: E731
        taps = {}
        x = _drop_inputs(images.transpose(3, 1, 2, 0), dropout)
        for i, width in enumerate(self.widths):
            x = Conv(width, self.kernel, _has_bias(self), name=f"conv_{i}")(x, probe(i))
            # ReLU after pooling: the same function as before it, on a quarter of the values.
            pool = convolution.max_pool if self.pool else lambda x: x
            x, taps[f"pre_{i}"] = _activate(self, i, x, 0, taps, statistics, dropout, pool)
            taps[f"pre_{i}"] = taps[f"pre_{i}"].transpose(3, 1, 2, 0)
        x = x.reshape(-1, x.shape[-1])
        taps["features"] = x.T
        return Dense(self.outputs, name="head")(x, probe(len(self.widths))).T, taps


class MLP(nn.Module):
    """ReLU network of dense layers. `apply({"params": p}, x[B, D]) -> (out[B, outputs], taps)`.

    taps["pre_i"]: pre-activation [B, widths[i]] of hidden layer i: what its ReLU gets.
    taps["statistics"]: with `batch_norm`, {"bn_i": `normalization.Statistics` used in layer i}.
    Weights and biases start uniform on +-1 / sqrt(fan-in) (as in PyTorch), or with `zero_bias` the
    biases at 0, as Flax does by default. Kernels are Flax's, [inputs, outputs].

    `statistics`: a tree like taps["statistics"] to normalise with, None for the batch's own.
    `dropout`: a `Dropout`, None for a pass without.

    Raises:
      ValueError: batch statistics of a single example; an `order` not in `ORDERS`.
    """

    widths: tuple[int, ...]
    outputs: int
    zero_bias: bool = False
    batch_norm: bool = False
    order: str = ORDERS[0]
    affine: bool = True  # batch normalisation has its gamma and beta
    epsilon: float = 1e-5  # added to its variance; the book has 1e-8

    @nn.compact
    def __call__(self, x, *, statistics=None, dropout=None):
        chex.assert_rank(x, 2)
        taps = {}
        x = _drop_inputs(x, dropout)
        for i, width in enumerate(self.widths):
            x = self._dense(width, x.shape[-1], f"hidden_{i}", _has_bias(self))(x)
            x, taps[f"pre_{i}"] = _activate(self, i, x, 1, taps, statistics, dropout)
        return self._dense(self.outputs, x.shape[-1], "head")(x), taps

    def _dense(self, features, fan_in, name, use_bias=True):
        uniform = _symmetric(fan_in**-0.5)
        bias = nn.initializers.zeros_init() if self.zero_bias else uniform
        return nn.Dense(features, use_bias, kernel_init=uniform, bias_init=bias, name=name)


def examples_last(params, x: jax.Array) -> jax.Array:
    """Logits [outputs, B] of a plain `MLP`, one without batch normalisation, for inputs [D, B].

    Many networks with one narrow hidden layer, mapped side by side over large batches, train
    twice as fast this way on a CPU: their loss reduces over few classes, whole rows of examples
    at a time. With batches of about 50 and wider layers `MLP.apply` is the faster.
    """
    for i in range(len(params) - 1):
        x = nn.relu(_affine(params[f"hidden_{i}"], x))
    return _affine(params["head"], x)


def _affine(layer, x):
    return layer["kernel"].T @ x + layer["bias"][:, None]


def _has_bias(model) -> bool:
    return not (model.batch_norm and model.order == ORDERS[0])


def _drop_inputs(x, dropout):
    if dropout is None:
        return x
    return drop(jax.random.fold_in(dropout.key, 0), x, dropout.input_rate)


def _activate(model, i, x, axis, taps, statistics, dropout, pool=lambda x: x):
    """Hidden layer i after its affine map: (its output, what its ReLU got, before pooling)."""
    if model.order not in ORDERS:
        raise ValueError(f"order is {model.order!r}; it must be one of {', '.join(ORDERS)}")

    def normalise(x):
        name = f"bn_{i}"
        layer = BatchNorm(axis, model.affine, model.epsilon, name=name)
        y, used = layer(x, None if statistics is None else statistics[name])
        taps.setdefault("statistics", {})[name] = used
        return y

    first = model.order == ORDERS[0]
    pre = normalise(x) if model.batch_norm and first else x
    x = nn.relu(pool(pre))
    if dropout is not None:
        x = drop(jax.random.fold_in(dropout.key, i + 1), x, dropout.rate)
    return (normalise(x) if model.batch_norm and not first else x), pre


def _symmetric(bound: float):
    """Initialiser: uniform on [-bound, bound)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def initialise(model: nn.Module, key: jax.Array, example: jax.Array):
    """Parameters for inputs shaped like `example` [D, ...] (one example, no batch axis)."""
    # Two examples: one has no batch statistics.
    return model.init(key, jnp.zeros((2, *example.shape), example.dtype))["params"]
