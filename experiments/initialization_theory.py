"""What `initialization` should measure: second moments by depth, in the limit of wide layers."""

from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from dlstudy import initializers


class Profile(NamedTuple):
    """By hidden layer from below; nan: nothing is left there."""

    forward: np.ndarray  # float64[L], mean over inputs and units of h^2
    backward: np.ndarray  # float64[L], of the squared gradient with respect to h; 1 at the top


def profile(name, bias: float, squares, pixels: int, width: int, depth: int, **constants):
    """Second moments when a layer's pre-activations are normal, given the layer below.

    Exact in expectation for bias 0, where only the weights' second moment counts; for others the
    limit of wide layers.

    Args:
      name: of the initialiser.
      bias: of every hidden unit.
      squares: float[N], mean square of the pixels of each input.
      pixels: inputs of the first layer.
      width: units of each hidden layer.
      depth: hidden layers.
      **constants: of the initialiser.
    """
    below, slopes, forward = np.asarray(squares, float), [], []
    for layer in range(depth):
        inputs = width if layer else pixels
        weight = initializers.second_moment(name, inputs, width, **constants)
        variance = inputs * weight * below
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = bias / np.sqrt(variance)
        # A unit without variance is on or off for sure; without bias either is half the units.
        ratio = np.where(variance > 0, ratio, np.sign(bias) * np.inf) if bias else 0 * below
        active = norm.cdf(ratio)
        below = (bias**2 + variance) * active + bias * np.sqrt(variance) * norm.pdf(ratio)
        below = np.maximum(below, 0)  # a difference of nearly equal numbers, for a bias far below 0
        slopes.append(active * width * weight)
        forward.append(below)
    # From the top down, input by input; the first layer's slope is not passed.
    above = np.cumprod(np.array(slopes)[:0:-1], 0)[::-1]
    backward = np.concatenate([above, np.ones((1, len(below)))])
    return Profile(np.mean(forward, 1), backward.mean(1))
