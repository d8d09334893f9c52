"""Each layer kind on a tiny network: exact count from rational arithmetic, written out by hand."""

from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import rational_regions as oracle

from dlstudy import models, regions

SIDE = 4
RELU = ("leaky", 0.0)


def conv(kernel, bias, size=SIDE, pad=1):
    """Affine layer: kernel [k, k, in, out] on [size, size, in], zero padding, as nested loops."""
    kernel, bias = oracle.exact(kernel), oracle.exact(bias)
    k, _, inputs, outputs = kernel.shape

    def apply(forms):
        grid = forms.reshape(size, size, inputs, -1)
        out = []
        for y in range(size + 2 * pad - k + 1):
            for x in range(size + 2 * pad - k + 1):
                for o in range(outputs):
                    total = forms[0] * 0
                    for dy in range(k):
                        for dx in range(k):
                            r, c = y + dy - pad, x + dx - pad
                            if 0 <= r < size and 0 <= c < size:
                                for i in range(inputs):
                                    total = total + kernel[dy, dx, i, o] * grid[r, c, i]
                    total[0] += bias[o]
                    out.append(total)
        return np.array(out)

    return ("affine", apply)


def windows(size, channels, k, stride, pad_after=0):
    """Indices of pooling windows on [size, size, channels], row by row."""
    found = []
    for y in range(0, size + pad_after - k + 1, stride):
        for x in range(0, size + pad_after - k + 1, stride):
            for c in range(channels):
                found.append(
                    [
                        (r * size + s) * channels + c
                        for r in range(y, min(y + k, size))
                        for s in range(x, min(x + k, size))
                    ]
                )
    return found


def average(groups):
    return ("affine", lambda f: np.array([sum(f[i] for i in g) / Fraction(len(g)) for g in groups]))


def elementwise(scale, shift):
    scale, shift = oracle.exact(scale), oracle.exact(shift)

    def apply(forms):
        out = forms * np.resize(scale, len(forms))[:, None]
        out[:, 0] = out[:, 0] + np.resize(shift, len(forms))
        return out

    return ("affine", apply)


RNG = np.random.default_rng(0)


def grid(*shape):
    return RNG.integers(-4, 5, shape) / 8.0


K, B, K2, B2 = grid(3, 3, 1, 2), grid(2), grid(3, 3, 2, 1), grid(1)
W, V = grid(16, 3), grid(3)
MEAN, VAR, GAIN, BIAS = grid(2), np.array([0.25, 1.0]), np.array([1.5, -0.5]), grid(2)
P = dict(K=K, B=B, K2=K2, B2=B2, W=W, V=V)


def jconv(x, kernel, bias):
    return (
        jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        + bias[None, None, None]
    )


def first(p, x):
    return jconv(x, p["K"], p["B"])


def flat(x):
    return x.reshape(1, -1)


def strided(x):
    upper = jnp.maximum(x[:, ::2, ::2], x[:, 1::2, ::2])
    return jnp.maximum(upper, jnp.maximum(x[:, ::2, 1::2], x[:, 1::2, 1::2]))


def larger(a, b):
    return jnp.where(a >= b, a, b)


def lesser(a, b):
    return jnp.where(a > b, b, a)


def chosen(x):
    """The maximum of blocks, by comparisons: rows first, then columns."""
    x = larger(x[:, ::2], x[:, 1::2])
    return larger(x[:, :, ::2], x[:, :, 1::2])


def stacked(x):
    return jnp.stack([x[:, ::2], x[:, 1::2]]).max(0)


def batch_norm(p, x):
    return nn.BatchNorm(use_running_average=True, epsilon=0.0).apply(
        {"params": {"scale": GAIN, "bias": BIAS}, "batch_stats": {"mean": MEAN, "var": VAR}}, x
    )


GAINS = GAIN / np.sqrt(VAR)
NORMED = [conv(K, B), elementwise([1, 1], -MEAN), elementwise(GAINS, BIAS)]
POOL, OVERLAP = windows(4, 2, 2, 2), windows(4, 2, 3, 2, pad_after=1)
ROWS = [
    [(2 * y * 4 + x) * 2 + c, ((2 * y + 1) * 4 + x) * 2 + c]
    for y in range(2)
    for x in range(4)
    for c in range(2)
]
CASES = {
    "conv": (lambda p, x: flat(jax.nn.relu(first(p, x))), [conv(K, B), RELU]),
    "two convs": (
        lambda p, x: jax.nn.relu(jconv(jax.nn.relu(first(p, x)), p["K2"], p["B2"])),
        [conv(K, B), RELU, conv(K2, B2), RELU],
    ),
    "leaky": (
        lambda p, x: jax.nn.relu(jconv(nn.leaky_relu(first(p, x), 0.25), p["K2"], p["B2"])),
        [conv(K, B), ("leaky", 0.25), conv(K2, B2), RELU],
    ),
    "absolute value": (
        lambda p, x: jax.nn.relu(jconv(abs(first(p, x)), p["K2"], p["B2"])),
        [conv(K, B), ("leaky", -1.0), conv(K2, B2), RELU],
    ),
    "average pool": (
        lambda p, x: jax.nn.relu(nn.avg_pool(jax.nn.relu(first(p, x)), (2, 2), (2, 2)) - 0.25),
        [conv(K, B), RELU, average(POOL), elementwise([1.0], [-0.25]), RELU],
    ),
    "max pool": (
        lambda p, x: nn.max_pool(first(p, x), (2, 2), (2, 2)),
        [conv(K, B), ("max", POOL)],
    ),
    "relu, max pool, relu": (
        lambda p, x: jax.nn.relu(nn.max_pool(jax.nn.relu(first(p, x)), (2, 2), (2, 2)) - 0.25),
        [conv(K, B), RELU, ("max", POOL), elementwise([1.0], [-0.25]), RELU],
    ),
    "overlapping max pool, same padding": (
        lambda p, x: nn.max_pool(nn.leaky_relu(first(p, x), 0.5), (3, 3), (2, 2), "SAME"),
        [conv(K, B), ("leaky", 0.5), ("max", OVERLAP)],
    ),
    "maximum of strided slices": (lambda p, x: strided(first(p, x)), [conv(K, B), ("max", POOL)]),
    "minimum by comparison": (
        lambda p, x: lesser(first(p, x)[:, ::2], first(p, x)[:, 1::2]),
        [conv(K, B), elementwise([-1.0], [0.0]), ("max", ROWS)],
    ),
    "maximum by comparison": (lambda p, x: chosen(first(p, x)), [conv(K, B), ("max", POOL)]),
    "reduce_max over a stack": (lambda p, x: stacked(first(p, x)), [conv(K, B), ("max", ROWS)]),
    "batch norm": (lambda p, x: jax.nn.relu(batch_norm(p, first(p, x))), [*NORMED, RELU]),
    "dense": (
        lambda p, x: jax.nn.relu(flat(x) @ p["W"] + p["V"][None]),
        [oracle.affine(W.T, V), RELU],
    ),
    "slices, padding, concatenation": (
        lambda p, x: jax.nn.relu(
            jnp.pad(jnp.concatenate([flat(x)[:, 8:], flat(x)[:, :6]], 1), ((0, 0), (1, 1))) @ p["W"]
        ),
        [
            ("affine", lambda f: np.concatenate([0 * f[:1], f[8:], f[:6], 0 * f[:1]])),
            oracle.affine(W.T, np.zeros(3)),
            RELU,
        ],
    ),
}


@pytest.fixture(params=[1, 2])
def plane(request):
    """Origin and integer basis of a plane or line through 4 x 4 images."""
    rng = np.random.default_rng(request.param)
    return rng.integers(-3, 4, (SIDE, SIDE, 1)) / 4.0, rng.integers(-3, 4, (SIDE, SIDE, 1, 2)) / 4.0


@pytest.mark.parametrize("name", CASES)
def test_counts_equal_rational_arithmetic(name, plane):
    apply_fn, layers = CASES[name]
    origin, basis = plane
    bounds = [[-0.5, 0.5], [-0.5, 0.75]]
    if name.startswith("overlapping"):  # 36 lines a window: seconds in rational arithmetic
        bounds = [[-0.5, 0.0], [-0.5, 0.25]]
    start = np.concatenate([origin.reshape(-1, 1), basis.reshape(-1, 2)], 1)
    found = regions.plane(apply_fn, P, origin, basis, bounds)
    assert found.n_regions == oracle.regions(layers, start, bounds)
    assert regions.certify(found).holds()


@pytest.mark.parametrize("name", CASES)
def test_line_counts_equal_rational_arithmetic(name, plane):
    apply_fn, layers = CASES[name]
    origin, basis = plane
    found = regions.segment(apply_fn, P, origin, origin + basis[..., 0])
    start = np.stack([origin.ravel(), basis[..., 0].ravel()], 1)
    assert found.n_regions == oracle.regions(layers, start, [[0.0, 1.0]])
    assert regions.certify(found).holds()


class Residual(nn.Module):
    """Batch norm, max pool, residual block, average pool, dense; params of an ordinary user."""

    train: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.leaky_relu(nn.BatchNorm(use_running_average=not self.train)(nn.Conv(2, (3, 3))(x)))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(x + nn.Conv(2, (3, 3))(nn.relu(nn.Conv(2, (3, 3))(x))))
        x = nn.avg_pool(x, (2, 2), (2, 2)).reshape(x.shape[0], -1)
        return nn.Dense(3)(nn.relu6(nn.Dense(6)(x))), {}


@pytest.fixture(scope="module")
def trained():
    model, rng = Residual(), np.random.default_rng(0)
    with jax.numpy_dtype_promotion("standard"):  # Flax divides by an integer in its average pool
        variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    variables = jax.tree.map(
        lambda a: np.asarray(a + 0.2 * rng.normal(size=a.shape), np.float32), variables
    )
    return model, {**variables, "batch_stats": jax.tree.map(np.abs, variables["batch_stats"])}


def test_a_flax_network_needs_no_taps(trained):
    model, variables = trained
    rng = np.random.default_rng(1)
    origin, basis = rng.normal(size=(4, 4, 1)), rng.normal(size=(4, 4, 1, 2))
    found = regions.plane(model.apply, variables, origin, basis, [[-1, 1], [-1, 1]])
    assert found.n_regions > 100
    assert regions.certify(found).holds()
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        exact = jax.tree.map(lambda a: np.asarray(a, np.float64), variables)
        want, _ = jax.jit(model.apply)(
            exact, origin + np.einsum("hwcd,nd->nhwc", basis, found.vertices)
        )
    np.testing.assert_allclose(found.outputs, want, atol=1e-12)


@pytest.mark.parametrize("pool", [False, True])
def test_the_laboratorys_own_cnn_is_traced(pool):
    model = models.CNN((2, 3), 3, pool=pool)
    rng = np.random.default_rng(2)
    origin, basis = rng.normal(size=(4, 4, 1)), rng.normal(size=(4, 4, 1, 2))
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))["params"]
    found = regions.plane(model.apply, {"params": params}, origin, basis, [[-1, 1], [-1, 1]])
    assert found.n_regions > 10
    assert regions.certify(found).holds()
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
        points = origin + np.einsum("hwcd,nd->nhwc", basis, found.vertices)
        want, _ = jax.jit(model.apply)({"params": exact}, points)
    np.testing.assert_allclose(found.outputs, want, atol=1e-12)


def test_the_decision_boundary_separates_the_largest_outputs(trained):
    model, variables = trained
    rng = np.random.default_rng(1)
    origin, basis = rng.normal(size=(4, 4, 1)), rng.normal(size=(4, 4, 1, 2))
    bounds = [[-3, 3], [-3, 3]]
    centre = regions.plane(model.apply, variables, origin, basis, bounds).outputs.mean(0)

    def apply_fn(v, x):
        return model.apply(v, x)[0] - centre[None]

    found = regions.plane(apply_fn, variables, origin, basis, bounds)
    boundary = regions.decision_boundary(found, bounds)
    assert len(boundary.segments)
    assert (boundary.classes[:, 0] != boundary.classes[:, 1]).all()
    middle = boundary.segments.mean(1)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        out = np.sort(apply_fn(variables, origin + np.einsum("hwcd,nd->nhwc", basis, middle)), 1)
        inside = origin + np.einsum("hwcd,nd->nhwc", basis, boundary.plane.centroids)
        labels = np.argmax(np.asarray(apply_fn(variables, inside)), 1)
    np.testing.assert_allclose(out[:, -1], out[:, -2], atol=1e-6)
    assert (labels == boundary.region_class).mean() > 0.999


def test_unsupported_layers_are_named(trained):
    _, variables = trained
    origin, basis = np.zeros((4, 4, 1)), RNG.normal(size=(4, 4, 1, 2))

    def ask(f):
        return regions.plane(f, variables, origin, basis, [[-1, 1], [-1, 1]])

    with pytest.raises(regions.UnsupportedLayer, match=r"tanh.*supported"):
        ask(lambda v, x: jnp.tanh(x))
    with pytest.raises(regions.UnsupportedLayer, match="exp"):
        ask(lambda v, x: jax.nn.softmax(x))
    with pytest.raises(
        regions.UnsupportedLayer, match=r"batch norm in training mode|square|integer_pow"
    ):
        ask(lambda v, x: Residual(train=True).apply(v, x, mutable=["batch_stats"])[0])
    drop = nn.Dropout(0.5, deterministic=False)
    with pytest.raises(regions.UnsupportedLayer, match="dropout"):
        ask(lambda v, x: drop.apply({}, x, rngs={"dropout": jax.random.key(0)}))


def test_bad_planes_are_refused(trained):
    model, variables = trained
    origin, line = np.zeros((4, 4, 1)), RNG.normal(size=(4, 4, 1))
    with pytest.raises(ValueError, match="parallel"):
        regions.plane(
            model.apply, variables, origin, np.stack([line, -2 * line], -1), [[-1, 1]] * 2
        )
    bad = jax.tree.map(lambda a: a * np.nan, variables)
    with pytest.raises(ValueError, match="finite"):
        regions.plane(model.apply, bad, origin, np.stack([line, origin + 1], -1), [[-1, 1]] * 2)
