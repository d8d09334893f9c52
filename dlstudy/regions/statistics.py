"""Numbers about the regions of a plane or a path, and a plane's decision boundary."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from .linear import Line
from .network import Network
from .operations import Winners
from .planar import Plane, check_domain, regions_of
from .trace import Builder


def regions_by_layer(plane: Plane) -> np.ndarray:
    """Number of regions after each kink (layer), int [L]."""
    return np.array([len(parent) for parent, _ in plane.oracle.history])


def edge_lengths(plane: Plane) -> np.ndarray:
    """Length of each edge, float64 [E]."""
    ends = plane.vertices[plane.edges]
    return np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1)


def boundary_length_by_layer(plane: Plane) -> np.ndarray:
    """Total length of the edges behind which each kink stands, float64 [L]."""
    level, inside = plane.edge_units[:, 0], plane.edge_units[:, 0] >= 0
    return np.bincount(level[inside], edge_lengths(plane)[inside], len(plane.oracle.history))


def depth_of_first_change(plane: Plane) -> np.ndarray:
    """Smallest layer among the units behind a region's edges, int [F]; -1 if it fills the box."""
    found = np.full(plane.n_regions, len(plane.oracle.history))
    level = plane.edge_units[:, 0]
    inside = level >= 0
    for side in range(2):
        np.minimum.at(found, plane.adjacency[inside, side], level[inside])
    return np.where(found == len(plane.oracle.history), -1, found)


class Boundary(NamedTuple):
    """Where the class of largest output changes."""

    segments: np.ndarray  # float64 [B, 2, 2]
    classes: np.ndarray  # int [B, 2], left and right of each segment
    plane: Plane  # regions further cut by the boundary
    region_class: np.ndarray  # int [F']


def with_argmax(network: Network, outputs: int) -> Network:
    """The network followed by the maximum of its outputs; of equal outputs the first wins."""
    builder = Builder()
    builder.steps = list(network.steps)
    builder.values = 1 + max(s.output for s in network.steps)
    builder.groups = 1 + max(
        (s.op.group for s in network.steps if isinstance(s.op, Winners)), default=-1
    )
    entries = [(network.output, np.array([j])) for j in range(outputs)]
    best = builder.maximum(entries, (1,))
    return dataclasses.replace(network, steps=tuple(builder.steps), output=best.value)


def decision_boundary(plane: Plane, bounds) -> Boundary:
    """Exact segments on which the two largest outputs are equal.

    Args:
        bounds: the bounds `plane` was made with.
    """
    check_domain(plane, bounds)
    classes = plane.outputs.shape[1]
    if classes < 2:
        raise ValueError("a decision boundary needs at least two outputs")
    layers = len(plane.oracle.history)
    found = regions_of(with_argmax(plane.network, classes), bounds)
    region_class = found.patterns[-1][:, 0].astype(int)
    behind = found.edge_units[:, 0] >= layers
    sides = found.adjacency[behind]
    return Boundary(found.vertices[found.edges[behind]], region_class[sides], found, region_class)


def density(lines: Line | list[Line], bins: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """How densely breakpoints lie along a segment or polyline.

    Args:
        lines: of `segment` or `polyline`.
        bins: intervals of equal length in which each leg is counted.

    Returns:
        Places float64 [legs * bins + 1], in legs of the path (1.5: the middle of the second), and
        breakpoints per leg in each interval, float64 [legs * bins]. Regions that meet where two
        legs do are not counted there.
    """
    legs = [lines] if isinstance(lines, Line) else list(lines)
    if not legs:
        raise ValueError("there is no line")
    counts = []
    for line in legs:
        lo, hi = line.knots[[0, -1]]
        share = (line.breakpoints - lo) / (hi - lo)
        counts.append(np.histogram(share, bins, (0.0, 1.0))[0] * float(bins))
    return np.linspace(0, len(legs), len(legs) * bins + 1), np.concatenate(counts)


def in_disc(plane: Plane, centre, radius: float) -> np.ndarray:
    """Which regions a disc of the plane meets, bool [F]: regions in a ball around a point.

    Args:
        centre: float [2]; radius: both in the plane's own coordinates u. Decided in float64.

    Raises:
        ValueError: a radius that is not positive.
    """
    centre = np.asarray(centre, np.float64)
    if not radius > 0 or not np.isfinite(centre).all():
        raise ValueError(f"radius {radius} and centre {centre} must be positive and finite")
    ends = plane.vertices[plane.edges]
    along = ends[:, 1] - ends[:, 0]
    length = np.maximum((along**2).sum(1), np.finfo(float).tiny)
    place = np.clip(((centre - ends[:, 0]) * along).sum(1) / length, 0, 1)
    nearest = ends[:, 0] + place[:, None] * along
    near = np.linalg.norm(nearest - centre, axis=1) <= radius
    met = np.zeros(plane.n_regions, bool)
    sides = plane.adjacency[near].ravel()
    met[sides[sides >= 0]] = True
    if not near.any():  # the disc lies within one region, or outside the box
        corner = plane.vertices[plane.face_vertices]
        ptr = plane.cells.face_ptr
        following = np.roll(corner, -1, 0)
        following[ptr[1:] - 1] = corner[ptr[:-1]]
        step, offset = following - corner, centre - corner
        left = step[:, 0] * offset[:, 1] - step[:, 1] * offset[:, 0] >= 0
        met |= np.logical_and.reduceat(left, ptr[:-1])
    return met
