"""The deep ReLU network of `initialization`: its square layers are one array and one scan.

A network of 50 layers written out takes long to compile; as a scan it takes as long as one layer.
It computes what `models.MLP` computes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Layer(NamedTuple):
    """Of one layer, or of a stack of them with a leading axis."""

    kernel: jax.Array  # float[inputs, outputs]
    bias: jax.Array  # float[outputs]


class Params(NamedTuple):
    """A network of depth L and width n."""

    first: Layer  # [pixels, n]
    square: Layer  # [L - 1, n, n]
    head: Layer  # [n, classes]


def draw(key, init: Callable, depth: int, width: int, pixels: int, classes: int) -> Params:
    """Kernels by an initialiser and biases 0; layer l of any depth has the same weights."""
    layer_keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(jnp.arange(depth + 1))

    def layer(own, inputs, outputs):
        kernel = init(own, (inputs, outputs), jnp.float32)
        return Layer(kernel, jnp.zeros(outputs, jnp.float32))

    return Params(
        layer(layer_keys[1], pixels, width),
        # One after another: batches of QR decompositions (orthogonal matrices) on two devices of a
        # CPU wait for each other's threads for ever.
        jax.lax.map(lambda own: layer(own, width, width), layer_keys[2:]),
        layer(layer_keys[0], width, classes),
    )


def adapted(params: Params, depth: int, bias, factor=1.0) -> Params:
    """The lowest layers alone, kernels times a factor, every hidden unit's bias set to a number."""
    fill = lambda layer: Layer(layer.kernel * factor, jnp.zeros_like(layer.bias) + bias)  # noqa: E731
    square = jax.tree.map(lambda a: a[: depth - 1], params.square)
    head = Layer(params.head.kernel * factor, params.head.bias)
    return Params(fill(params.first), fill(square), head)


def hidden(layer: Layer, x):
    """ReLU of an affine map: x[B, inputs] -> [B, outputs]."""
    return jax.nn.relu(x @ layer.kernel + layer.bias[None])


def logits(params: Params, x):
    """x[B, pixels] -> [B, classes]."""
    step = lambda below, layer: (hidden(layer, below), None)  # noqa: E731
    top, _ = jax.lax.scan(step, hidden(params.first, x), params.square)
    return top @ params.head.kernel + params.head.bias[None]


class Moments(NamedTuple):
    """Of one network, by hidden layer from below."""

    forward: jax.Array  # float[L], mean over inputs and units of h^2
    backward: jax.Array  # float[L], likewise of the squared gradient with respect to h
    kernel: jax.Array  # float[L - 1], mean squared entry of the square kernels' gradients
    spread: jax.Array  # float[L], part of `forward` that is variance over inputs; nan: none left
    one_forward: jax.Array  # float[L], of the first input alone: means over inputs vary less
    one_backward: jax.Array  # float[L]


def moments(params: Params, x, direction) -> Moments:
    """Second moments of activations and gradients.

    The gradient is that of direction . logits, of each input by itself: for a direction that does
    not depend on the weights, its expectation over draws is known exactly.
    """
    step = lambda below, layer: (hidden(layer, below),) * 2  # noqa: E731
    first = hidden(params.first, x)
    _, above = jax.lax.scan(step, first, params.square)
    values = jnp.concatenate([first[None], above])  # [L, B, n]

    def down(gradient, layer):
        """From with respect to h of a layer to the one below; the slope of ReLU at 0 is 0."""
        kernel, value, below = layer
        inner = jnp.where(value > 0, gradient, jnp.zeros((), gradient.dtype))
        # Of an outer product the mean square is the product of both.
        squares = jnp.square(below).mean(1) * jnp.square(inner).mean(1)
        lower = inner @ kernel.T
        return lower, (lower, squares.mean())

    top = jnp.broadcast_to(params.head.kernel @ direction, first.shape)
    _, (lower, kernels) = jax.lax.scan(
        down, top, (params.square.kernel, values[1:], values[:-1]), reverse=True
    )
    gradients = jnp.concatenate([lower, top[None]])
    square = lambda a: jnp.square(a).mean((1, 2))  # noqa: E731
    forward = square(values)
    return Moments(
        forward=forward,
        backward=square(gradients),
        kernel=kernels,
        spread=values.var(1).mean(1) / forward,
        one_forward=square(values[:, :1]),
        one_backward=square(gradients[:, :1]),
    )
