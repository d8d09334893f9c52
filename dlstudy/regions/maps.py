"""The affine map of each region, from the weights and the pattern (never from tiny differences)."""

from __future__ import annotations

import numpy as np

from .network import Network
from .operations import Kink, Value, exactly
from .resolve import Oracle, unpack


def masks_of(oracle: Oracle, regions: np.ndarray) -> list[np.ndarray]:
    """Packed bits of every kink, comparisons included, for some regions."""
    found, face = [], regions
    for parent, bits in reversed(oracle.history):
        found.append(bits[face])
        face = parent[face]
    return found[::-1]


def masked_values(network: Network, masks, points: np.ndarray) -> Value:
    """Output, rows [F P], at points [P, d] of the affine map of each of F regions."""
    count = len(masks[0]) if masks else 1
    values, kink = {0: exactly(np.tile(points, (count, 1)))}, 0
    for step in network.steps:
        if isinstance(step.op, Kink):
            v = values[step.inputs[0]]
            on = np.repeat(unpack(masks[kink], v.x.shape[1]), len(points), 0)
            values[step.output] = step.op.masked(v, on)
            kink += 1
        else:
            values[step.output] = step.op.value(*(values[i] for i in step.inputs))
    return values[network.output]


def masked_maps(network: Network, oracle: Oracle, points: np.ndarray, regions=None):
    """Affine maps by evaluating each region's network at d + 1 points in general position.

    Args:
        points: float64 [d + 1, d]; use points as far apart as the domain.
        regions: their numbers; all by default.

    Returns:
        float64 [F, 1 + d, C]: constant, then one row per coordinate; and float64 [F]: bound on the
        error of each entry, up to the rounding of a (d + 1) x (d + 1) inverse.
    """
    if regions is None:
        regions = np.arange(len(oracle.history[-1][0]) if oracle.history else 1)
    inverse = np.linalg.inv(np.concatenate([np.ones((len(points), 1)), points], 1))
    size = np.abs(inverse).sum(1).max()
    widest = max(
        (s.op.weight.shape[2] for s in network.steps if hasattr(s.op, "weight")), default=1
    )
    step = max(1, (1 << 19) // (len(points) * widest))
    found, errors = [], []
    for start in range(0, len(regions), step):
        chunk = regions[start : start + step]
        out = masked_values(network, masks_of(oracle, chunk), points)
        found.append(inverse @ out.x.reshape(len(chunk), len(points), -1))
        errors.append(size * out.folded().norm.reshape(len(chunk), -1).max(1))
    return np.concatenate(found), 1.01 * np.concatenate(errors)


def fitted_maps(plane, tolerance: float = 1e-9) -> np.ndarray:
    """Affine maps [F, 3, C] of a `Plane`: through three corners where that is well conditioned.

    The rest (slivers, where differences of outputs say little) are evaluated from the weights.

    Args:
        tolerance: largest bound on the error of a gradient from corners, relative to the largest
            gradient; it chooses the cheaper of two right methods, no result hangs on it.
    """
    ptr, corner = plane.cells.face_ptr, plane.face_vertices
    owner = np.repeat(np.arange(plane.n_regions), np.diff(ptr))
    here = plane.vertices[corner] - plane.vertices[corner[ptr[:-1]]][owner]
    index = np.arange(len(corner))
    following = np.where(index + 1 < ptr[1:][owner], index + 1, ptr[:-1][owner])
    twice = here[:, 0] * here[following, 1] - here[:, 1] * here[following, 0]
    order = np.lexsort((twice, owner))
    best = order[ptr[1:] - 1]  # largest triangle of the fan, per region
    triple = np.stack([corner[ptr[:-1]], corner[best], corner[following[best]]], 1)
    place, value = plane.vertices[triple], plane.outputs[triple]
    edges = place[:, 1:] - place[:, :1]
    determinant = twice[best]
    safe = np.where(determinant > 0, determinant, 1.0)
    rise = value[:, 1:] - value[:, :1]
    gx = (rise[:, 0] * edges[:, 1, 1, None] - rise[:, 1] * edges[:, 0, 1, None]) / safe[:, None]
    gy = (rise[:, 1] * edges[:, 0, 0, None] - rise[:, 0] * edges[:, 1, 0, None]) / safe[:, None]
    constant = value[:, 0] - gx * place[:, 0, :1] - gy * place[:, 0, 1:]
    found = np.stack([constant, gx, gy], 1)
    size = np.abs(edges).max((1, 2))
    error = 4 * plane.output_error[triple].max(1) + 1e-15 * np.abs(value).max((1, 2))
    scale = np.median(np.abs(found[:, 1:])) + 1e-300
    poor = np.flatnonzero((determinant <= 0) | (error * size > tolerance * scale * safe))
    if len(poor):
        (x0, y0), (x1, y1) = plane.vertices.min(0), plane.vertices.max(0)
        spread = np.array([[x0, y0], [x1, y0], [x0, y1]])
        found[poor], _ = masked_maps(plane.network, plane.oracle, spread, poor)
    return found
