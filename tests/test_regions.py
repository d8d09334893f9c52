"""Counts against the shared cases, and against rational arithmetic on degenerate tiny networks."""

import io
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import jax
import numba
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import rational_regions as oracle

from dlstudy import regions
from dlstudy.regions import compiled, events, lines

CASES = Path(__file__).parents[2] / "shared" / "cases" / "regions"
IN_CI = os.environ.get("CI") == "true"
LINES = [
    "1d_64x2_torch_s0",
    "1d_64x2_he_s0",
    "1d_256x3_torch_s0",
    "1d_256x3_he_s0",
    "deg_1d_dead_layer",
    "deg_1d_duplicate_neurons",
    "deg_1d_tent_10",
    "deg_1d_zero_bias",
    "line_784_100x2_torch_s0",
]
PLANES = [
    "2d_16x2_torch_s0",
    "2d_16x2_he_s0",
    "2d_32x3_torch_s0",
    "2d_32x3_he_s0",
    "2d_64x3_torch_s0",
    "2d_64x3_he_s0",
    "2d_256x3_torch_s0",
    "deg_2d_duplicate",
    "deg_2d_grid",
    "deg_2d_pencil",
    "slice_784_100x2_torch_s0",
    "slice_cnn_c2_c4",
]
RELAXED = settings(max_examples=40, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def counts():
    """What independent tools agree on, for each case beside the checkout."""
    if not (CASES / "counts.json").is_file() and not IN_CI:
        pytest.skip(f"the region cases are not at {CASES}")
    return json.loads((CASES / "counts.json").read_text())


def test_every_case_is_tested(counts):
    assert sorted(counts) == sorted(LINES + PLANES)


def load(name):
    case = np.load(CASES / f"{name}.npz")
    layers = range(int(case["n_hidden"]) + 1)
    network = regions.mlp([case[f"W{i}"] for i in layers], [case[f"b{i}"] for i in layers])
    if "basis" in case.files:
        network = regions.on_subspace(network, case["origin"], case["basis"])
    return network, np.stack([case["lo"], case["hi"]], 1), case


@pytest.mark.parametrize("name", PLANES)
def test_plane_cases_match(name, counts):
    network, bounds, _ = load(name)
    found, want = regions.regions_of(network, bounds), counts[name]
    assert found.n_regions == want["regions"]
    assert found.n_vertices == want.get("vertices", found.n_vertices)
    assert found.n_edges == want.get("edges", found.n_edges)
    assert regions.certify(found).holds()


@pytest.mark.parametrize("name", LINES)
def test_line_cases_match(name, counts):
    network, bounds, case = load(name)
    found, want = regions.regions_on_line(network, bounds), counts[name]
    assert found.n_regions == want["regions"]
    assert found.linear_pieces == want.get("linear_pieces", want["output_linear_pieces"])
    np.testing.assert_allclose(
        found.breakpoints[[0, -1]], want["breakpoints_first_last"], atol=1e-12
    )
    assert regions.certify(found).holds()
    if "basis" not in case.files:
        layers = range(int(case["n_hidden"]) + 1)
        weights = [np.stack([case[f"W{i}"].T] * 2) for i in layers]
        biases = [np.stack([case[f"b{i}"]] * 2) for i in layers]
        for pieces in regions.regions_on_lines(weights, biases, bounds[0]):
            np.testing.assert_allclose(pieces.knots, found.knots, atol=1e-10)
            np.testing.assert_array_equal(pieces.patterns, np.concatenate(found.patterns, 1))
            np.testing.assert_allclose(pieces.slopes, found.slopes, atol=1e-9)
            np.testing.assert_allclose(pieces.intercepts, found.intercepts, atol=1e-9)


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_sawtooth_has_two_to_the_k_pieces(k):
    first = ([[1.0], [1.0]], [0.0, -0.5])
    middle = ([[2.0, -4.0], [2.0, -4.0]], [0.0, -0.5])
    last = ([[2.0, -4.0]], [0.0])
    weights, biases = zip(first, *[middle] * (k - 1), last, strict=True)
    found = regions.regions_on_line(regions.mlp(weights, biases), [[0.0, 1.0]])
    assert found.n_regions == found.linear_pieces == 2**k
    np.testing.assert_array_equal(found.knots, np.arange(2**k + 1) / 2**k)


def small_net(seed, dimension, widths, step):
    """Weights on a coarse grid, so that coincidences are common."""
    rng = np.random.default_rng(seed)
    sizes = [dimension, *widths, 1]
    weights = [rng.integers(-2, 3, (b, a)) * step for a, b in pairwise(sizes)]
    return weights, [rng.integers(-2, 3, b) * step for b in sizes[1:]]


@RELAXED
@given(
    st.integers(0, 10**6), st.sampled_from([(3,), (4, 3), (3, 3, 2)]), st.sampled_from([1.0, 0.1])
)
def test_degenerate_planes_match_rational_arithmetic(seed, widths, step):
    weights, biases = small_net(seed, 2, widths, step)
    bounds = [[-1.0, 1.0], [-1.0, 1.0]]
    found = regions.regions_of(regions.mlp(weights, biases), bounds)
    want = oracle.network(weights, biases, 2, bounds)
    assert found.n_regions == len({pattern for _, pattern, _ in want})
    assert regions.certify(found).holds()


def test_a_region_thinner_than_float64_is_counted():
    """0.1 is not a float64: lines that would meet in a point enclose a true sliver of 1e-17."""
    weights, biases = small_net(266, 2, (4, 3), 0.1)
    bounds = [[-1.0, 1.0], [-1.0, 1.0]]
    found = regions.regions_of(regions.mlp(weights, biases), bounds)
    want = oracle.network(weights, biases, 2, bounds)
    assert found.n_regions == len({pattern for _, pattern, _ in want})
    assert found.areas.min() < 1e-17
    assert min(oracle.measure(c) for c, _, _ in want) > 0


@RELAXED
@given(
    st.integers(0, 10**6), st.sampled_from([(3,), (4, 3), (3, 3, 2)]), st.sampled_from([1.0, 0.1])
)
def test_degenerate_lines_match_rational_arithmetic(seed, widths, step):
    weights, biases = small_net(seed, 1, widths, step)
    found = regions.regions_on_line(regions.mlp(weights, biases), [[-2.0, 2.0]])
    want = oracle.network(weights, biases, 1, [[-2.0, 2.0]])
    assert found.n_regions == len({pattern for _, pattern, _ in want})
    forms = [tuple(f[0]) for _, _, f in sorted(want, key=lambda cell: min(cell[0]))]
    assert found.linear_pieces == 1 + sum(a != b for a, b in pairwise(forms))
    (pieces,) = regions.regions_on_lines(
        [w.T[None] for w in weights], [b[None] for b in biases], (-2.0, 2.0)
    )
    assert len(pieces.slopes) == found.n_regions


@RELAXED
@given(st.integers(0, 10**6), st.sampled_from([(8,), (6, 6), (5, 5, 5)]))
def test_generic_planes_are_certified(seed, widths):
    rng = np.random.default_rng(seed)
    sizes = [2, *widths, 3]
    weights = [rng.normal(size=(b, a)) for a, b in pairwise(sizes)]
    network = regions.mlp(weights, [rng.normal(size=b) for b in sizes[1:]])
    found = regions.regions_of(network, [[-1, 1], [-1, 1]])
    assert regions.certify(found).holds()


@pytest.mark.parametrize("seed", range(3))
def test_a_line_inside_a_plane_finds_the_planes_crossings(seed, counts):
    network, bounds, _ = load("2d_16x2_he_s0")
    found = regions.regions_of(network, bounds)
    rng = np.random.default_rng(seed)
    start, end = rng.uniform(-1, 1, 2), rng.uniform(-1, 1, 2)
    line = regions.regions_on_line(
        regions.on_subspace(network, start, (end - start)[:, None]), [[0.0, 1.0]]
    )
    normal = np.array([start[1] - end[1], end[0] - start[0]])
    side = (found.vertices - start) @ normal
    p, q = found.edges[(side[found.edges[:, 0]] > 0) != (side[found.edges[:, 1]] > 0)].T
    t = side[p] / (side[p] - side[q])
    crossing = found.vertices[p] + t[:, None] * (found.vertices[q] - found.vertices[p])
    along = np.sort((crossing - start) @ (end - start) / ((end - start) @ (end - start)))
    np.testing.assert_allclose(line.breakpoints, along[(along > 0) & (along < 1)], atol=1e-9)


@RELAXED
@given(st.integers(0, 10**6), st.sampled_from([1, 2]), st.sampled_from([1.0, 0.1]))
def test_tracking_matches_brute_force_refinement(seed, dimension, step):
    weights, biases = small_net(seed, dimension, (3, 3), step)
    rng = np.random.default_rng(seed)
    later = [w + step * (rng.random(w.shape) < 0.2) for w in weights]
    bounds = [[-1.0, 1.0]] * dimension
    solve = regions.regions_of if dimension == 2 else regions.regions_on_line
    a, b = (solve(regions.mlp(w, biases), bounds) for w in (weights, later))
    change = regions.track(a, b, bounds)
    old, new = (oracle.network(w, biases, dimension, bounds) for w in (weights, later))
    before, after = ({p for _, p, _ in cells} for cells in (old, new))
    assert len(change.born) == len(after - before)
    assert len(change.died) == len(before - after)
    both, hamming = {}, 0
    for corners, pattern, _ in old:
        layers = []
        for i, (w, c) in enumerate(zip(later, biases, strict=True)):
            layers += [oracle.affine(w, c)] + ([("leaky", 0.0)] if i + 1 < len(later) else [])
        for part, other in refine(corners, layers, dimension):
            both.setdefault(pattern, set()).add(other)
            hamming += oracle.measure(part) * sum(
                x != y for x, y in zip(pattern, other, strict=True)
            )
    assert len(change.split) == sum(len(others) > 1 for others in both.values())
    assert change.hamming == pytest.approx(float(hamming), abs=1e-9)


def refine(corners, layers, dimension):
    """Cut one cell by another network."""
    found = [(corners, (), oracle.exact(oracle.IDENTITY[dimension]))]
    for kind, what in layers:
        if kind == "affine":
            found = [(c, p, what(f)) for c, p, f in found]
            continue
        following = []
        for c, p, forms in found:
            parts = [c]
            for line in forms:
                parts = [piece for part in parts for piece in oracle.cut(part, line)]
            for part in parts:
                on = tuple(oracle.at(f, oracle.centre(part)) > 0 for f in forms)
                kept = [f if here else 0 * f for f, here in zip(forms, on, strict=True)]
                following.append((part, p + on, np.array(kept)))
        found = following
    return [(c, p) for c, p, _ in found]


def test_grid_audit_undercounts(counts):
    network, bounds, _ = load("2d_64x3_torch_s0")
    audit = regions.audit_grid(regions.regions_of(network, bounds), 50)
    assert audit.counted < audit.exact == counts["2d_64x3_torch_s0"]["regions"]


def test_a_traced_cnn_has_the_regions_of_its_matrices(counts):
    """The case's convolutions as Flax would write them, with the kernels in float64."""
    _, bounds, case = load("slice_cnn_c2_c4")

    def convolve(x, kernel, bias):
        axes = ("NCHW", "OIHW", "NCHW")
        out = jax.lax.conv_general_dilated(x, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=axes)
        return jax.nn.relu(out + bias[None, :, None, None])

    def cnn(p, x):
        x = convolve(x.reshape(1, 1, 28, 28), p["c1w"], p["c1b"])
        x = convolve(x, p["c2w"], p["c2b"])
        return x.reshape(1, -1) @ p["W2"].T + p["b2"][None]

    params = {key: case[key] for key in ("c1w", "c1b", "c2w", "c2b", "W2", "b2")}
    found = regions.plane(cnn, params, case["origin"], case["basis"], bounds)
    want = counts["slice_cnn_c2_c4"]
    assert (found.n_regions, found.n_vertices, found.n_edges) == (
        want["regions"],
        want["vertices"],
        want["edges"],
    )


FALSE_ALARMS = (535, 1090, 1980, 2725, 3033, 3216, 3230, 3366, 3880)


@pytest.mark.parametrize("seed", [10**7 + n for n in FALSE_ALARMS])
def test_a_network_that_is_zero_everywhere_is_certified(seed):
    """Its outputs are zeros or their stand-ins, which the certificate must not divide."""
    dimension, widths = 1 + seed % 2, [(5, 4), (4, 4, 3), (3, 3, 3, 2)][seed % 3]
    weights, biases = small_net(seed, dimension, widths, [1.0, 0.1, 0.3][seed % 5 % 3])
    bounds = [[-1.0, 1.0]] * dimension
    solve = regions.regions_of if dimension == 2 else regions.regions_on_line
    found = solve(regions.mlp(weights, biases), bounds)
    want = oracle.network(weights, biases, dimension, bounds)
    assert found.n_regions == len({pattern for _, pattern, _ in want})
    assert regions.certify(found).holds()


def test_the_certificate_notices_a_wrong_pattern_and_a_wrong_vertex():
    weights, biases = small_net(1, 2, (4, 3), 1.0)
    network, bounds = regions.mlp(weights, biases), [[-1.0, 1.0], [-1.0, 1.0]]
    found = regions.regions_of(network, bounds)
    assert regions.certify(found).holds()
    _, bits = found.oracle.history[-1]
    bits[0] ^= np.uint64(1)
    assert not regions.certify(found).holds()
    found = regions.regions_of(network, bounds)
    inside = np.flatnonzero((np.abs(found.vertices) < 1).all(1))
    found.vertices[inside[0]] += 1e-3
    assert not regions.certify(found).holds()


def test_importing_the_package_loads_neither_jax_nor_numba():
    code = "import sys, dlstudy.regions; sys.exit(any(m in sys.modules for m in ('jax', 'numba')))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_functions_compile_where_no_cache_can_be_kept():
    """As in a read-only installation: Numba refuses to cache what has no file beside it."""
    scope = {}
    exec("def add_one(x): return x + 1", scope)
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(scope["add_one"])
    assert compiled.njit()(scope["add_one"])(1) == 2


@pytest.mark.parametrize(
    "bad", [[[1.0, 1.0], [0.0, 1.0]], [[0.0, np.inf], [0.0, 1.0]], [[0.0, 1.0]]]
)
def test_bad_domains_are_refused(bad):
    with pytest.raises(ValueError, match=r"domain|bounds"):
        regions.regions_of(regions.mlp([np.ones((1, 2))], [np.ones(1)]), bad)


# --- statistics, progress and pictures


def random_plane(seed=0, widths=(12, 9), report=None):
    rng = np.random.default_rng(seed)
    sizes = [2, *widths, 3]
    weights = [rng.normal(size=(b, a)) for a, b in pairwise(sizes)]
    biases = [rng.normal(size=b) for b in sizes[1:]]
    network = regions.mlp(weights, biases)
    return regions.regions_of(network, [[-1, 1], [-1, 1]], report), (weights, biases)


def test_progress_is_told_after_each_layer():
    told = []
    found, _ = random_plane(report=lambda *so_far: told.append(so_far))
    assert told == list(enumerate(regions.regions_by_layer(found), 1))


@pytest.mark.parametrize("radius", [1e-4, 0.1, 0.7])
def test_a_disc_meets_the_regions_its_points_are_in(radius):
    found, _ = random_plane()
    centre = np.array([0.2, -0.1])
    met = regions.in_disc(found, centre, radius)
    angle, share = np.meshgrid(np.linspace(0, 2 * np.pi, 200), np.linspace(0, 1, 60))
    points = centre + radius * np.stack([share * np.cos(angle), share * np.sin(angle)], -1)
    points = points.reshape(-1, 2)
    seen = set()
    patterns = regions.point_patterns(found.network, found.centroids)
    index = {row.tobytes(): i for i, row in enumerate(patterns)}
    for row in np.unique(regions.point_patterns(found.network, points), axis=0):
        if row.tobytes() in index:
            seen.add(index[row.tobytes()])
    assert seen <= set(np.flatnonzero(met))
    # And none beyond: the nearest corner or side of each is within the radius, to the grid's step.
    wider = regions.in_disc(found, centre, radius * 1.05)
    assert met.sum() <= wider.sum()
    assert len(seen) >= met.sum() - 3
    with pytest.raises(ValueError, match="radius"):
        regions.in_disc(found, centre, 0.0)


def test_density_counts_the_breakpoints_of_each_leg():
    _, (weights, biases) = random_plane()

    def apply_fn(params, x):
        for w, b in zip(*params, strict=True):
            x = jax.nn.relu(x @ w.T + b[None]) if w.shape[0] > 3 else x @ w.T + b[None]
        return x

    points = [np.array(p) for p in ([-1.0, -1.0], [1.0, 0.5], [0.0, 1.0])]
    legs = regions.polyline(apply_fn, (weights, biases), points)
    places, density = regions.density(legs, bins=8)
    assert places.shape == (17,)
    assert places[-1] == 2
    for i, leg in enumerate(legs):
        own = density[8 * i : 8 * i + 8]
        assert own.sum() / 8 == len(leg.breakpoints)
        in_third = ((leg.breakpoints >= 2 / 8) & (leg.breakpoints < 3 / 8)).sum()
        assert own[2] == 8 * in_third
    np.testing.assert_array_equal(regions.density(legs[0], 8)[1], density[:8])


@pytest.mark.parametrize("colour", ["pattern", "output", "depth"])
def test_pictures_of_a_plane(colour):
    from dlstudy import plots

    found, _ = random_plane()
    made, (axis,) = plots.figure()
    shapes = plots.plane_regions(axis, found, colour)
    plots.boundary_lines(axis, regions.decision_boundary(found, [[-1, 1], [-1, 1]]))
    assert len(shapes.get_paths()) == found.n_regions
    made.savefig(io.BytesIO(), dpi=20)
    assert len(shapes.get_facecolor()) == found.n_regions
    with pytest.raises(ValueError, match="pattern, output or depth"):
        plots.plane_regions(axis, found, "hue")


@pytest.mark.parametrize("seed", range(3))
def test_two_networks_on_a_line_compared_equal_a_fine_count(seed):
    rng = np.random.default_rng(seed)
    sizes = (1, 6, 70, 1)
    kernels = [rng.normal(size=(2, a, b)) for a, b in pairwise(sizes)]
    kernels = [np.stack([k[0], k[0] + 0.2 * k[1]]) for k in kernels]
    biases = [rng.normal(size=(2, b)) for b in sizes[1:]]
    first, second = regions.regions_on_lines(kernels, biases, (-1, 1))
    found = regions.between(first, second)
    networks = [regions.mlp([k[i].T for k in kernels], [b[i] for b in biases]) for i in range(2)]
    lines = [regions.regions_on_line(n, [(-1.0, 1.0)]) for n in networks]
    exact = regions.track(*lines, [(-1.0, 1.0)])
    np.testing.assert_allclose(found.domain_hamming, exact.hamming / exact.measure, rtol=1e-9)
    assert found.born == len(exact.born)
    assert found.died == len(exact.died)
    same = regions.between(first, first)
    assert same == (0.0, 0, 0)


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_networks_on_lines_are_the_same_in_threads(workers):
    rng = np.random.default_rng(0)
    kernels = [rng.normal(size=(5, a, b)) for a, b in ((1, 8), (8, 8), (8, 1))]
    biases = [rng.normal(size=(5, b)) for b in (8, 8, 1)]
    alone = [
        regions.regions_on_lines([k[[i]] for k in kernels], [b[[i]] for b in biases], (-1, 1))[0]
        for i in range(5)
    ]
    for a, b in zip(
        alone, regions.regions_on_lines(kernels, biases, (-1, 1), workers), strict=True
    ):
        np.testing.assert_array_equal(a.knots, b.knots)
        np.testing.assert_array_equal(a.patterns, b.patterns)


def test_a_network_without_kinks_is_one_region_everywhere():
    from dlstudy import plots

    network = regions.mlp([np.array([[1.0, 2.0], [0.5, -1.0]])], [np.zeros(2)])
    bounds = [[-1, 1], [-1, 1]]
    found = regions.regions_of(network, bounds)
    assert found.n_regions == 1
    assert regions.certify(found).holds()
    change = regions.track(found, found, bounds)
    assert (change.hamming, len(change.born), len(change.died)) == (0, 0, 0)
    regions.audit_grid(found, 5)
    assert regions.boundary_length_by_layer(found).shape == (0,)
    _, (axis,) = plots.figure()
    plots.plane_regions(axis, found)


def test_comparisons_of_what_cannot_be_compared_are_refused():
    first, _ = random_plane(0)
    other, _ = random_plane(0, widths=(12, 8))
    bounds = [[-1, 1], [-1, 1]]
    with pytest.raises(ValueError, match="more than their weights"):
        regions.track(first, other, bounds)
    for ask in (lambda b: regions.track(first, first, b),
                lambda b: regions.decision_boundary(first, b)):  # fmt: skip
        with pytest.raises(ValueError, match="found on"):
            ask([[-1, 1], [-1, 2]])
    kernels, biases = [np.ones((1, 1, 2)), np.ones((1, 2, 1))], [np.ones((1, 2)), np.ones((1, 1))]
    here, there = (regions.regions_on_lines(kernels, biases, b)[0] for b in ((-2, 1), (-2, 2)))
    with pytest.raises(ValueError, match="domains differ"):
        regions.between(here, there)
    with pytest.raises(ValueError, match="two points"):
        regions.polyline(lambda p, x: x, (), [np.zeros(2)])
    with pytest.raises(ValueError, match="no line"):
        regions.density([])


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6, 40, 1000])
def test_places_are_sorted_within_their_row_alone(count):
    rng = np.random.default_rng(count)
    place = rng.integers(0, 1 + count // 2, count + 7).astype(float)  # with ties
    order = np.arange(count + 7)
    events.sort_places(order, place, 3, 3 + count)
    np.testing.assert_array_equal(np.sort(order[3 : 3 + count]), np.arange(3, 3 + count))
    np.testing.assert_array_equal(place[order[3 : 3 + count]], np.sort(place[3 : 3 + count]))
    np.testing.assert_array_equal(
        order[[0, 1, 2, -4, -3, -2, -1]], np.r_[:3, 3 + count : 7 + count]
    )


@pytest.mark.parametrize("values", [[0.0], [3.0, -5.0, 1.0], [-np.inf, 2.0], [1.0, np.nan, 7.0]])
def test_the_peak_is_that_of_numpy(values):
    np.testing.assert_equal(lines.peak(np.array(values)), np.abs(values).max())
