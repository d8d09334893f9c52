"""Checks a user can ask for after the fact, and what a grid would have counted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import maps
from .linear import Line
from .merge import group_levels, winners
from .network import Network
from .operations import Kink, Winners, exactly
from .planar import Plane


class Certificate(NamedTuple):
    """Every entry would reveal a broken arrangement; see `holds`."""

    euler: int  # V - E + F, must be 1 (line: knots - regions, must be 1)
    measure_error: float  # |sum of areas or lengths - domain| / domain
    smallest: float  # smallest area or length; 0 for a region thinner than float64 can show
    distinct: bool  # no two regions share a pattern
    patterns_agree: bool  # the network's signs at the centroids are the stored patterns
    doubtful: int  # signs at centroids too small to check in float64
    # Largest |affine map - network| at centroids beyond what rounding of the network explains, over
    # the largest |output|.
    map_error: float

    def holds(self, tolerance: float = 1e-9) -> bool:
        """All of them, with rounding allowed in what is measured in float64."""
        exact = self.euler == 1 and self.distinct and self.patterns_agree
        rounded = max(self.measure_error, self.map_error, -self.smallest)
        return bool(exact and rounded < tolerance)


def forward(network: Network, points: np.ndarray):
    """Output at points, a `Value` [P, C]; per kink the signs, bool [P, n], and whether certain."""
    values, signs, sure = {0: exactly(points)}, [], []
    for step in network.steps:
        inputs = [values[i] for i in step.inputs]
        if isinstance(step.op, Kink):
            v = inputs[0].folded()
            signs.append(v.x > 0)
            sure.append((np.abs(v.x) > v.unit * v.point[:, None]) | (v.x == 0.0))
            values[step.output] = step.op.value(v.x, v.norm)
        else:
            values[step.output] = step.op.value(*inputs)
    return values[network.output], signs, sure


def point_patterns(network: Network, points: np.ndarray) -> np.ndarray:
    """Pattern at each point, uint16 [P, units and windows]: 0 or 1, and winners of maxima."""
    _, signs, _ = forward(network, points)
    kinks = network.kinks()
    parts = [s for s, k in zip(signs, kinks, strict=True) if k.op.group is None]
    for step in network.steps:
        if isinstance(step.op, Winners):
            rounds = [signs[level] for level in group_levels(network, step.op.group)]
            parts.append(winners(step.op, rounds))
    parts = [np.asarray(p, np.uint16) for p in parts] or [np.zeros((len(points), 0), np.uint16)]
    return np.concatenate(parts, 1)


def certify(found: Plane | Line) -> Certificate:
    """Check a result against the network itself."""
    if isinstance(found, Plane):
        points, measure = found.centroids, found.areas
        low, high = found.vertices.min(0), found.vertices.max(0)
        domain = np.prod(high - low)
        euler = found.n_vertices - found.n_edges + found.n_regions
        affine = maps.fitted_maps(found)
    else:
        points, measure = 0.5 * (found.knots[1:] + found.knots[:-1])[:, None], np.diff(found.knots)
        domain = found.knots[-1] - found.knots[0]
        euler = len(found.knots) - found.n_regions
        affine = np.stack([found.intercepts, found.slopes], 1)
    value, signs, sure = forward(found.network, points)
    output = value.x
    masks = maps.masks_of(found.oracle, np.arange(found.n_regions))
    units = [step.op.group is None for step in found.network.kinks()]
    agree, doubtful = True, 0
    for sign, certain, mask, unit in zip(signs, sure, masks, units, strict=True):
        if unit:  # who lost a comparison is not part of the pattern
            agree &= bool((sign == maps.unpack(mask, sign.shape[1]))[certain].all())
            doubtful += int((~certain).sum())
    columns = np.concatenate([np.ones((len(points), 1)), points], 1)
    gap = np.abs(np.einsum("fd,fdc->fc", columns, affine) - output)
    error = (gap - value.norm[:, None]).max(initial=0.0)
    packed = [np.ascontiguousarray(p).view(np.uint8).reshape(len(p), -1) for p in found.patterns]
    rows = np.concatenate(packed, 1) if packed else np.zeros((1, 1), np.uint8)
    return Certificate(
        euler,
        float(abs(measure.sum() - domain) / domain),
        float(measure.min()),
        len(np.unique(rows, axis=0)) == found.n_regions,
        agree,
        doubtful,
        float(error / max(np.abs(output).max(initial=0.0), 1e-200)),
    )


class GridAudit(NamedTuple):
    """What counting patterns on a grid would have said."""

    points: int
    counted: int
    exact: int

    @property
    def share(self) -> float:
        return self.counted / self.exact


def audit_grid(found: Plane | Line, side: int) -> GridAudit:
    """Count patterns at side (line) or side x side (plane) evenly spaced points."""
    if isinstance(found, Plane):
        low, high = found.vertices.min(0), found.vertices.max(0)
        axes = [np.linspace(a, b, side) for a, b in zip(low, high, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    else:
        points = np.linspace(found.knots[0], found.knots[-1], side)[:, None]
    patterns = point_patterns(found.network, points)
    return GridAudit(len(points), len(np.unique(patterns, axis=0)), found.n_regions)
