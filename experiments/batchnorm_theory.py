"""What batch normalisation does before training, in a wide and deep network: closed forms.

In a chain of wide Linear-BN-ReLU layers the squared gradient of a layer's input grows from layer
to layer on the way down, however the weights are scaled: pi / (pi - 1) = 1.467 a layer for large
batches, and more for small ones (Yang et al. 2019, "A mean field theory of batch normalization").
"""

import math

import jax
import jax.numpy as jnp

from dlstudy import normalization

LIMIT = math.pi / (math.pi - 1)


def growth(batch: int) -> float:
    """Growth of the squared gradient a layer, for batches of at least 4.

    The normalised values of a unit lie evenly on a sphere orthogonal to (1, ..., 1), so those of
    two examples correlate at -1 / (batch - 1). With J0 and J1 the arc-cosine kernels of that
    correlation, the growth is ((batch - 1 + J0) / (1 - J1) - 1) / (batch - 3). It is 1.493 at 64,
    where 1.485 is sometimes quoted: networks of 512 units measure 1.493 with a standard error of
    0.003.
    """
    rho = -1 / (batch - 1)
    angle = math.pi - math.acos(rho)
    j0 = angle / math.pi
    j1 = (math.sqrt(1 - rho**2) + rho * angle) / math.pi
    return ((batch - 1 + j0) / (1 - j1) - 1) / (batch - 3)


def draw_weights(key, width: int, depth: int):
    """Kernels of a chain of square layers, N(0, 2 / width) as He et al. have it."""
    return jax.random.normal(key, (depth, width, width)) * (2 / width) ** 0.5


def measured_growth(key, weights, batch: int, batch_norm: bool = True):
    """The same of one drawn network: geometric mean over its layers but the first and the last.

    Args:
      key: of the inputs and of the loss, which is linear in the outputs with random slopes.
      weights: kernels [depth, width, width], depth at least 3.
      batch: random examples.
      batch_norm: without it the chain is Linear-ReLU.

    Returns:
      Growth a layer.
    """
    depth, width, _ = weights.shape

    def layer(x, weight):
        x = x @ weight
        if batch_norm:
            x = normalization.normalise(x, normalization.of_batch(x, 1), 1, 0.0)
        return jax.nn.relu(x)

    below, above = (jax.random.normal(k, (batch, width)) for k in jax.random.split(key))
    _, inputs = jax.lax.scan(lambda x, w: (layer(x, w), x), below, weights)

    def back(gradient, of):
        x, weight = of
        _, pullback = jax.vjp(lambda x: layer(x, weight), x)
        (gradient,) = pullback(gradient)
        return gradient, jnp.square(gradient).mean()

    _, squares = jax.lax.scan(back, above, (inputs, weights), reverse=True)
    # Layer 0 has data as its input; the top layer's output gradient is the loss's own.
    return (squares[1] / squares[depth - 1]) ** (1 / (depth - 2))


def scale_identity(key, epsilon: float = 1e-5):
    """How far BN_eps(c z) and BN_(eps / c^2)(z) are apart for a random batch and scale c > 0.

    Returns:
      (with batch statistics, with the statistics of another batch that are not scaled along);
      largest difference, over the largest value. Call it in float64.
    """
    keys = jax.random.split(key, 4)
    z, other = (
        jax.random.normal(k, (32, 16)) * jnp.exp(jax.random.normal(keys[3], (1, 16)))
        for k in keys[:2]
    )
    c = 10.0 ** jax.random.uniform(keys[2], (), z.dtype, -3.0, 3.0)

    def apart(of_scaled, of_plain):
        scaled = normalization.normalise(c * z, of_scaled, 1, epsilon)
        plain = normalization.normalise(z, of_plain, 1, epsilon / c**2)
        return jnp.abs(scaled - plain).max() / jnp.abs(plain).max()

    fixed = normalization.of_batch(other, 1)
    return (
        apart(normalization.of_batch(c * z, 1), normalization.of_batch(z, 1)),
        apart(fixed, fixed),
    )
