"""Initial weights by name, after Goodfellow et al. 2016, section 8.4.

An initialiser is a function of key, shape [inputs, outputs] and dtype that returns an array; m is
the number of inputs of a layer, n that of its outputs.

    name               weights                                            second moment of a weight
    zeros              0                                                  0
    normal             N(0, 0.01^2)                                       1e-4
    uniform            U(-1/sqrt(m), 1/sqrt(m))                           1 / (3 m)
    lecun              truncated normal                                   1 / m
    glorot             U(+-sqrt(6 / (m + n))), book 8.23                  2 / (m + n)
    he                 truncated normal                                   2 / m
    orthogonal         a random orthogonal matrix times a gain            gain^2 / max(m, n)
    sparse             k weights of every unit N(0, 1), the others 0      k / m
    lecun_uncorrected  truncated normal, the usual mistake                0.774 / m

"lecun" and "he" are those of Flax: a normal distribution cut off at two of its standard deviations,
which takes 23% off its variance, and widened so that the variance is again what the name says.
"lecun_uncorrected" is not widened; it is a control, and not among `NAMES`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers as ready
from scipy.stats import norm

from dlstudy.errors import UserError
from dlstudy.sampling import without_replacement

# Of a standard normal cut off at -2 and 2.
TRUNCATED_VARIANCE = float(1 - 4 * norm.pdf(2) / (2 * norm.cdf(2) - 1))


def sparse(count: int = 15, std: float = 1.0) -> Callable:
    """`count` weights of every unit are N(0, std^2), the others 0 (Martens 2010; book 8.4).

    The places of a unit's weights are drawn without replacement. With fewer inputs than `count`
    all its weights are drawn.
    """

    def init(key, shape, dtype=jnp.float32):
        where, what = jax.random.split(key)
        kept = min(count, shape[0])
        drawn = without_replacement(where, shape[::-1], kept).T
        return jnp.where(drawn, jax.random.normal(what, shape, dtype) * std, 0)

    return init


def scaled(init: Callable, factor: float) -> Callable:
    """`init` times a factor."""
    return lambda key, shape, dtype=jnp.float32: init(key, shape, dtype) * factor


_MAKERS = {
    "zeros": lambda: ready.zeros,
    "normal": lambda std=0.01: ready.normal(std),
    "uniform": lambda: ready.variance_scaling(1 / 3, "fan_in", "uniform"),
    "lecun": ready.lecun_normal,
    "glorot": ready.glorot_uniform,
    "he": ready.he_normal,
    "orthogonal": lambda gain=2**0.5: ready.orthogonal(gain),
    "sparse": sparse,
    "lecun_uncorrected": lambda: _truncated_by_inputs,
}
_CONSTANTS = {"normal": ("std",), "orthogonal": ("gain",), "sparse": ("count", "std")}
NAMES = tuple(name for name in _MAKERS if name != "lecun_uncorrected")


def _truncated_by_inputs(key, shape, dtype=jnp.float32):
    return ready.truncated_normal(shape[0] ** -0.5)(key, shape, dtype)


def make(name: str, **constants) -> Callable:
    """The initialiser called `name`.

    Args:
      name: one of `NAMES`, or "lecun_uncorrected".
      **constants: `std` of "normal" (0.01), `gain` of "orthogonal" (the root of 2, which makes up
        for a ReLU), `count` (15) and `std` (1) of "sparse".

    Raises:
      UserError: an unknown name.
      TypeError: a constant that this initialiser does not have.
    """
    if name not in _MAKERS:
        raise UserError(f"--initializers={name}: must be one of {', '.join(NAMES)}")
    known = _CONSTANTS.get(name, ())
    extra = sorted(set(constants) - set(known))
    if extra:
        raise TypeError(f"{name} has no constant {', '.join(extra)}")
    return _MAKERS[name](**constants)


def second_moment(name: str, inputs: int, outputs: int, **constants) -> float:
    """Second moment of one weight of a layer, its mean being 0: the last column above.

    Raises:
      UserError: an unknown name.
    """
    make(name, **constants)  # refuses what is unknown
    if name == "orthogonal":
        return constants.get("gain", 2**0.5) ** 2 / max(inputs, outputs)
    if name == "sparse":
        share = min(constants.get("count", 15), inputs) / inputs
        return share * constants.get("std", 1.0) ** 2
    return {
        "zeros": 0.0,
        "normal": constants.get("std", 0.01) ** 2,
        "uniform": 1 / (3 * inputs),
        "lecun": 1 / inputs,
        "glorot": 2 / (inputs + outputs),
        "he": 2 / inputs,
        "lecun_uncorrected": TRUNCATED_VARIANCE / inputs,
    }[name]


def relu_gain(name: str, inputs: int, outputs: int, **constants) -> float:
    """Expected gain of the sum of squares in a ReLU layer without bias.

    E |max(W'h, 0)|^2 = outputs x second moment / 2 x |h|^2 over draws of W, for every h: exact
    wherever W and W with a column's sign turned are equally likely, and each column's weights
    have mean 0 and are uncorrelated, as they are here. It is also the gain of a gradient's
    sum of squares on its way down through a square layer.
    """
    return outputs * second_moment(name, inputs, outputs, **constants) / 2


def redraw(key: jax.Array, params, kernel: Callable, bias: float = 0.0):
    """Parameters like `params`, kernels [inputs, outputs] drawn anew and biases set to a number.

    Args:
      key: of all draws.
      params: a tree of layers, as of `models.MLP`: matrices are kernels, vectors are biases.
      kernel: initialiser.
      bias: of every unit.
    """
    leaves, structure = jax.tree.flatten(params)
    drawn = [
        kernel(jax.random.fold_in(key, i), leaf.shape, leaf.dtype) if leaf.ndim > 1
        else jnp.full_like(leaf, bias)
        for i, leaf in enumerate(leaves)
    ]  # fmt: skip
    return jax.tree.unflatten(structure, drawn)


def log_gain(name: str, width: int, **constants) -> float:
    """Expected logarithm of the gain of a square ReLU layer, to order 1 / width.

    A layer's gain varies with its draw, with variance (2 kappa - 1) / width relative to its mean,
    where kappa is the kurtosis of a pre-activation (3 for normal ones), so that its logarithm is
    less in the mean by half of that: 5 / (2 width). The gain of many layers is lognormal, and its
    median is the exponential of this times the number of layers. Orthogonal matrices keep the
    length and lose 3 / (2 width) only. -inf for zeros.
    """
    gain = relu_gain(name, width, width, **constants)
    if gain == 0:
        return -np.inf
    if name == "orthogonal":
        return float(np.log(gain)) - 3 / (2 * width)
    return float(np.log(gain)) - (2 * kurtosis(name, width, **constants) - 1) / (2 * width)


def kurtosis(name: str, width: int, **constants) -> float:
    """Of a pre-activation in a deep network of square layers, whose inputs are rectified.

    A sum of independent w_i h_i has kurtosis 3 + (kappa_w - 3) sum h^4 / (sum h^2)^2, and rectified
    values have sum h^4 / (sum h^2)^2 = 2 kappa / width: a linear equation for kappa.
    """
    if name == "sparse":  # independent but for the places, which are as for any kappa_w here
        count = min(constants.get("count", 15), width)
        free = (1 - (count - 1) / (width - 1)) / count  # what is random in which inputs are read
        return 3 * (1 - free) / (1 - 6 * free)
    excess = {"uniform": -1.2, "glorot": -1.2}.get(name, 0.0)
    if name in ("lecun", "he", "lecun_uncorrected"):
        excess = _TRUNCATED_KURTOSIS - 3
    return 3 / (1 - 2 * excess / width)


def _truncated_kurtosis() -> float:
    density = norm.pdf(2) / (2 * norm.cdf(2) - 1)
    return float((3 - 2 * density * (2**3 + 3 * 2)) / TRUNCATED_VARIANCE**2)


_TRUNCATED_KURTOSIS = _truncated_kurtosis()
