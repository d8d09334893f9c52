"""Exact activation regions on a plane."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np

from . import exact
from .arrangement import Complex, box, extend, refine
from .merge import merge
from .network import Network, on_subspace
from .operations import Kink, Value, Winners, after_activation, exactly
from .resolve import Oracle
from .trace import network_of

COORDINATES = -1  # number of the value that holds the points themselves


@dataclasses.dataclass
class Plane:
    """Regions of a network on a box in the plane.

    A region is a maximal connected set of positive area with a constant pattern; a unit is on iff
    its pre-activation is positive.
    """

    network: Network
    cells: Complex
    oracle: Oracle
    vertices: np.ndarray  # float64 [V, 2]
    outputs: np.ndarray  # float64 [V, C], network output at the vertices
    output_error: np.ndarray  # float64 [V], bound on its 2-norm error

    @property
    def n_regions(self) -> int:
        return len(self.cells.face_ptr) - 1

    @property
    def n_vertices(self) -> int:
        return len(self.vertices)

    @property
    def n_edges(self) -> int:
        return len(self.cells.edge_vertices)

    @property
    def edges(self) -> np.ndarray:
        """Vertices of each edge, int [E, 2]."""
        return self.cells.edge_vertices

    @property
    def edge_units(self) -> np.ndarray:
        """Level and unit behind each edge, int [E, 2]; level -1 is the box, with its side."""
        return self.cells.edge_line[:, [0, 2]]

    @cached_property
    def adjacency(self) -> np.ndarray:
        """Regions on the two sides of each edge, int [E, 2]; -1 outside the box."""
        return self.cells.edge_faces()

    @cached_property
    def face_vertices(self) -> np.ndarray:
        """Vertices of all regions, counter-clockwise, region after region (`cells.face_ptr`)."""
        half = self.cells.face_half
        return self.cells.edge_vertices[half >> 1, half & 1]

    def polygon(self, region: int) -> np.ndarray:
        """Corners of one region, float64 [k, 2], counter-clockwise."""
        ptr = self.cells.face_ptr
        return self.vertices[self.face_vertices[ptr[region] : ptr[region + 1]]]

    @cached_property
    def areas(self) -> np.ndarray:
        """Area of each region, float64 [F]."""
        ptr = self.cells.face_ptr
        corner = self.vertices[self.face_vertices]
        anchor = np.repeat(corner[ptr[:-1]], np.diff(ptr), 0)
        here = corner - anchor
        following = np.roll(here, -1, 0)
        following[ptr[1:] - 1] = 0.0
        return 0.5 * np.add.reduceat(
            here[:, 0] * following[:, 1] - here[:, 1] * following[:, 0], ptr[:-1]
        )

    @cached_property
    def centroids(self) -> np.ndarray:
        """Mean of the corners of each region, float64 [F, 2]; inside it."""
        ptr = self.cells.face_ptr
        total = np.add.reduceat(self.vertices[self.face_vertices], ptr[:-1], axis=0)
        return total / np.diff(ptr)[:, None]

    @cached_property
    def patterns(self) -> list[np.ndarray]:
        """Pattern of each region: per layer of units uint64 [F, words], unit j at bit j % 64 of
        word j // 64; per maximum uint16 [F, windows], the entry that wins."""
        return self.oracle.all_patterns()


def last_uses(network: Network) -> dict[int, int]:
    """Number of the last step that reads each value."""
    last = {network.output: len(network.steps)}
    for i, step in enumerate(network.steps):
        for source in step.inputs:
            last[source] = max(i, last.get(source, -1))
    return last


def place(coordinates: np.ndarray) -> np.ndarray:
    """Coordinates with the stand-ins for a doubtful 0 (see operations.TINY) written as 0."""
    return np.where(np.abs(coordinates) < 1e-280, 0.0, coordinates)


def check_bounds(bounds, dimension: int) -> np.ndarray:
    """Bounds [[lo, hi], …] as float64; raises ValueError if not finite or empty."""
    bounds = np.asarray(bounds, np.float64)
    if bounds.shape != (dimension, 2) or not np.isfinite(bounds).all():
        raise ValueError(f"bounds must be {dimension} finite pairs (lo, hi), not {bounds.tolist()}")
    if (bounds[:, 0] >= bounds[:, 1]).any():
        raise ValueError(f"the domain is empty: {bounds.tolist()}")
    return bounds


def check_domain(found, bounds) -> None:
    """Raises ValueError if the bounds are not those with which the regions were found."""
    if isinstance(found, Plane):
        have = np.stack([found.vertices.min(0), found.vertices.max(0)], 1)
    else:
        have = found.knots[None, [0, -1]]
    # Vertices on the border are crossings: within rounding of it.
    bounds = check_bounds(bounds, len(have))
    if np.abs(bounds - have).max() > 1e-9 * np.ptp(bounds, axis=1).max():
        raise ValueError(f"the regions were found on {have.tolist()}, not on {bounds.tolist()}")


def check_basis(origin, basis, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Origin [D] and basis [D, dimension] in float64; raises ValueError on dependent columns."""
    origin = np.asarray(origin, np.float64).ravel()
    basis = np.asarray(basis, np.float64).reshape(len(origin), -1)
    if basis.shape[1] != dimension:
        raise ValueError(f"need a basis [D, {dimension}], not {list(basis.shape)}")
    if not np.isfinite(basis).all() or not np.isfinite(origin).all():
        raise ValueError("origin and basis must be finite")
    if dimension == 1 and not basis.any():
        raise ValueError("the direction is zero")
    if dimension == 2 and dependent(basis):
        raise ValueError("the basis vectors are parallel")
    return origin, basis


def dependent(basis: np.ndarray) -> bool:
    """Whether two columns are exactly parallel (or zero), without rounding."""
    first, second = exact.to_exact(basis[:, 0]).ints, exact.to_exact(basis[:, 1]).ints
    pivots = np.flatnonzero(first)
    if not len(pivots):
        return True
    return not np.any(first * second[pivots[0]] - second * first[pivots[0]])


def plane(apply_fn, params, origin, basis, bounds, report=None) -> Plane:
    """All regions of a network on the plane x = origin + basis @ u, u in a box.

    Args:
        apply_fn: apply_fn(params, x[1, *shape]) -> output, or a tuple that starts with it.
        params: any pytree.
        origin: float [*shape], one input of the network.
        basis: float [*shape, 2] or [D, 2].
        bounds: [[lo, hi], [lo, hi]] of u.
        report: called with the number of layers done and of regions so far after each layer, for
            progress; raise in it to give up.

    Raises:
        UnsupportedLayer: names a primitive that is not piecewise affine.
        ValueError: empty domain, parallel basis, non-finite numbers.
    """
    bounds = check_bounds(bounds, 2)
    flat, columns = check_basis(origin, basis, 2)
    network = network_of(apply_fn, params, np.shape(origin))
    return regions_of(on_subspace(network, flat, columns), bounds, report)


def regions_of(network: Network, bounds, report=None) -> Plane:
    """All regions of a network with two inputs on the box [[lo, hi], [lo, hi]]; see `plane`."""
    cells, corners, sides = box(check_bounds(bounds, 2))
    oracle = Oracle(network, sides)
    last = last_uses(network)
    values: dict[int, Value] = {COORDINATES: exactly(corners), 0: exactly(corners)}
    level = 0
    for i, step in enumerate(network.steps):
        source = step.inputs[0]
        if isinstance(step.op, Kink):
            cells, new = refine(cells, values[source], level, oracle)
            level += 1
            if report:
                report(level, len(cells.face_ptr) - 1)
            values = {j: after_activation(*extend(v, new)) for j, v in values.items()}
            z = values[source]
            z.x[new.zero_vertex, new.zero_unit] = 0.0
            values[step.output] = step.op.value(z.x, z.norm, last[source] <= i)
        elif isinstance(step.op, Winners):
            cells, kept, codes = merge(cells, step.op, network, oracle)
            oracle.winners[level - 1] = codes
            values = {j: v.take(kept) for j, v in values.items()}
            values[step.output] = values[source]
        else:
            values[step.output] = step.op.value(*(values[j] for j in step.inputs))
        values = {j: v for j, v in values.items() if last.get(j, -1) > i or j == COORDINATES}
    out = values[network.output]
    return Plane(network, cells, oracle, place(values[COORDINATES].x), place(out.x), out.norm)
