"""What became of the regions between two moments of training, exactly."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from .linear import Line, regions_on_line
from .lines import Pieces
from .network import Network, Step
from .operations import Kink, Pick, Winners
from .planar import Plane, check_domain, regions_of
from .resolve import unpack


def side_by_side(first: Network, second: Network) -> Network:
    """Both networks on the same input, outputs concatenated: regions are the common refinement."""
    offset = max((s.output for s in first.steps), default=0)
    groups = 1 + max((s.op.group for s in first.steps if isinstance(s.op, Winners)), default=-1)
    moved = []
    for step in second.steps:
        op = step.op
        if isinstance(op, Winners) or (isinstance(op, Kink) and op.group is not None):
            op = dataclasses.replace(op, group=op.group + groups)
        inputs = tuple(i + offset if i else 0 for i in step.inputs)
        moved.append(Step(op, inputs, step.output + offset))
    outputs = (first.output, second.output + offset)
    width = sum(output_size(n) for n in (first, second))
    join = Step(Pick(np.arange(width), np.zeros(width)), outputs, offset + second.output + 1)
    return Network((*first.steps, *moved, join), first.input_size, join.output)


def output_size(network: Network) -> int:
    from .certificate import forward

    return forward(network, np.zeros((1, network.input_size)))[0].x.shape[1]


class Change(NamedTuple):
    """From one network to the next. Regions are identified by their patterns.

    `hamming` integrates over the domain the number of units (and maxima) whose state differs;
    divide by `measure` for the mean. `split` holds the numbers of earlier regions that the later
    network's boundaries cut; `overlap` the common refinement: earlier region, later region,
    measure.
    """

    born: np.ndarray  # int, later regions whose pattern did not exist
    died: np.ndarray  # int, earlier regions whose pattern exists no more
    split: np.ndarray
    overlap: tuple[np.ndarray, np.ndarray, np.ndarray]
    hamming: float
    measure: float


class Between(NamedTuple):
    """From one network on a line to the next, as `Change` but counted only."""

    domain_hamming: float  # mean over the domain of the number of units whose state differs
    born: int
    died: int


def between(earlier: Pieces, later: Pieces) -> Between:
    """Compares two of the networks of `regions_on_lines`: same architecture, same domain.

    The distance is integrated over the common refinement of both sets of regions.

    Raises:
        ValueError: another domain, or another number of units.
    """
    ends = [pieces.knots[[0, -1]] for pieces in (earlier, later)]
    if not np.array_equal(*ends):
        raise ValueError(f"the domains differ: {ends[0].tolist()} and {ends[1].tolist()}")
    if earlier.patterns.shape[1] != later.patterns.shape[1]:
        raise ValueError("the networks differ in their units")
    knots = np.unique(np.concatenate([earlier.knots, later.knots]))
    pattern = [
        pieces.patterns[np.searchsorted(pieces.knots, knots[:-1], "right") - 1]
        for pieces in (earlier, later)
    ]
    differing = np.bitwise_count(pattern[0] ^ pattern[1]).sum(1)
    mean = float(differing @ np.diff(knots)) / (knots[-1] - knots[0])
    before, after = (set(keys([pieces.patterns])) for pieces in (earlier, later))
    return Between(mean, len(after - before), len(before - after))


def keys(patterns) -> list[bytes]:
    """One hashable per region."""
    if not patterns:
        return [b""]  # without a kink there is one region
    rows = [np.ascontiguousarray(p).view(np.uint8).reshape(len(p), -1) for p in patterns]
    return [row.tobytes() for row in np.concatenate(rows, 1)]


def distance(first, second) -> np.ndarray:
    """Number of differing units and winners between two lists of patterns, [R]."""
    total = 0
    for a, b in zip(first, second, strict=True):
        if a.dtype == np.uint64:
            total = total + unpack(a ^ b, 64 * a.shape[1]).sum(1)
        else:
            total = total + (a != b).sum(1)
    return total


def track(earlier: Plane | Line, later: Plane | Line, bounds) -> Change:
    """Compare two networks of the same architecture on the same domain.

    Args:
        bounds: the domain's bounds, as given to both.

    Raises:
        ValueError: other bounds, or networks that differ in more than their weights.
    """
    kinds = [
        [(type(step.op), np.shape(getattr(step.op, "weight", 0))) for step in found.network.steps]
        for found in (earlier, later)
    ]
    shapes = [[(p.dtype, p.shape[1]) for p in found.patterns] for found in (earlier, later)]
    if kinds[0] != kinds[1] or shapes[0] != shapes[1]:
        raise ValueError("the networks differ in more than their weights")
    for found in (earlier, later):
        check_domain(found, bounds)
    solve = regions_of if isinstance(earlier, Plane) else regions_on_line
    common = solve(side_by_side(earlier.network, later.network), bounds)
    patterns = common.patterns
    half = len(patterns) // 2
    before, after = keys(earlier.patterns), keys(later.patterns)
    index_before = {key: i for i, key in enumerate(before)}
    index_after = {key: i for i, key in enumerate(after)}
    old = np.array([index_before[k] for k in keys(patterns[:half])])
    new = np.array([index_after[k] for k in keys(patterns[half:])])
    measure = common.areas if isinstance(common, Plane) else np.diff(common.knots)
    hamming = (distance(patterns[:half], patterns[half:]) * measure).sum()
    return Change(
        np.array([i for i, key in enumerate(after) if key not in index_before], int),
        np.array([i for i, key in enumerate(before) if key not in index_after], int),
        np.flatnonzero(np.bincount(old, minlength=len(before)) > 1),
        (old, new, measure),
        float(hamming),
        float(measure.sum()),
    )
