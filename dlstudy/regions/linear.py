"""Exact activation regions on a line segment or polyline, for any supported network."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from itertools import pairwise

import numpy as np

from . import events, exact, maps, resolve
from .arrangement import blend
from .compiled import njit
from .merge import bits_at, group_levels, winners
from .network import Network, on_subspace
from .operations import Kink, Value, Winners, after_activation, exactly
from .planar import COORDINATES, check_basis, check_bounds, last_uses, place
from .resolve import Oracle
from .trace import network_of


@dataclasses.dataclass
class Line:
    """Regions of a network along t in [lo, hi].

    A region is a maximal interval of positive length with a constant pattern; a unit is on iff its
    pre-activation is positive.
    """

    network: Network
    oracle: Oracle
    knots: np.ndarray  # float64 [K + 1], ends of the domain included
    outputs: np.ndarray  # float64 [K + 1, C]

    @property
    def n_regions(self) -> int:
        return len(self.knots) - 1

    @property
    def breakpoints(self) -> np.ndarray:
        """Interior knots, float64 [K - 1]."""
        return self.knots[1:-1]

    @cached_property
    def patterns(self) -> list[np.ndarray]:
        """Pattern of each region, as in `Plane.patterns`."""
        return self.oracle.all_patterns()

    @cached_property
    def _maps(self) -> tuple[np.ndarray, np.ndarray]:
        return maps.masked_maps(self.network, self.oracle, self.knots[[0, -1]][:, None])

    @property
    def intercepts(self) -> np.ndarray:
        """Output at t = 0 of each region's affine map, float64 [K, C]."""
        return self._maps[0][:, 0]

    @property
    def slopes(self) -> np.ndarray:
        """Slope of the output on each region, float64 [K, C]."""
        return self._maps[0][:, 1]

    @cached_property
    def linear_pieces(self) -> int:
        """Number of maximal intervals on which the output is affine, decided exactly."""
        error = self._maps[1] + 1e-300
        change = np.abs(np.diff(self.slopes, axis=0)).max(1)
        bends = change > 2 * (error[1:] + error[:-1])
        for k in np.flatnonzero(~bends):
            bends[k] = self.oracle.differ(int(k), int(k) + 1)
        return 1 + int(bends.sum())


@njit()
def piece_bits(above, below, ptr, order, unit, group_of):
    """Pattern of the pieces of each interval between knots k, k + 1, and the interval of each."""
    words = above.shape[1]
    intervals = len(ptr) - 1
    most = intervals + len(order)
    bits, parent = np.zeros((most, words), np.uint64), np.empty(most, np.int64)
    n = 0
    for e in range(intervals):
        for w in range(words):
            zero = ~above[e, w] & ~below[e, w]
            bits[n, w] = above[e, w] | (zero & above[e + 1, w])
        parent[n] = e
        last = -1
        for k in range(ptr[e], ptr[e + 1]):
            x = order[k]
            if group_of[x] != last:
                n += 1
                parent[n] = e
                for w in range(words):  # a loop compiles in a tenth of the time of a row's copy
                    bits[n, w] = bits[n - 1, w]
                last = group_of[x]
            bits[n, unit[x] >> 6] ^= np.uint64(1) << np.uint64(unit[x] & 63)
        n += 1
    return bits[:n].copy(), parent[:n].copy()


def settle_order(oracle, level, ptr, order, apart, unit) -> None:
    """Exact order of zeros inside an interval."""
    for e, start, stop in resolve.open_clusters(ptr, apart):
        oracle.asked += 1
        rows = oracle.rows(level, e)
        zeros = [exact.Fraction(-rows[0, unit[x]], rows[1, unit[x]]) for x in order[start:stop]]
        ranks = {zero: rank for rank, zero in enumerate(sorted(set(zeros)))}
        resolve.apply_ranks([ranks[z] for z in zeros], order, apart, start, stop)


def cut(z: Value, level: int, oracle: Oracle, lines: np.ndarray):
    """Split the intervals where units of z change sign.

    Args:
        lines: int [K + 1, 1, 3], the unit that vanishes at each knot.

    Returns:
        groups (interval, place, bound), zero entries (new knot, unit), lines of the new knots.
    """
    from .subdivide import split_edges

    errors = (z.unit, z.point, float(z.ulps))
    knots = len(z.x)
    above, below, open_v, open_j = events.sign_bits(z.x, *errors)
    resolve.settle_signs(
        oracle,
        level,
        open_v,
        open_j,
        np.minimum(np.arange(knots), knots - 2),
        lines,
        above,
        below,
        z.x,
    )
    edges = np.stack([np.arange(knots - 1), np.arange(1, knots)], 1)
    ptr, unit, place, bound = events.edge_events(edges, above, below, z.x, *errors)
    order, apart = events.order_events(ptr, place, bound)
    settle_order(oracle, level, ptr, order, apart, unit)
    _, group_of, ends, where, error, edge = split_edges(edges, ptr, order, apart, place, bound)
    bits, parent = piece_bits(above, below, ptr, order, unit, group_of)
    oracle.history.append((parent, bits))
    first = np.zeros(len(ends), np.int64)
    first[group_of] = unit
    new_lines = np.stack([np.full(len(ends), level), edge, first], 1)[:, None]
    return (ends, where, error), (group_of, unit), new_lines


def extended(value: Value, groups, order) -> Value:
    """A value at old and new knots, sorted along the line."""
    ends, where, error = groups
    old = len(value.x)
    x, norm = np.empty((len(order), value.x.shape[1])), np.empty(len(order))
    x[:old], norm[:old] = value.x, value.norm
    blend(x, norm, old, ends, where, error)
    return after_activation(x[order], norm[order])


def regions_on_line(network: Network, bounds) -> Line:
    """All regions of a network with one input on [[lo, hi]]."""
    bounds = check_bounds(bounds, 1)
    oracle = Oracle(network, [(-bounds[0, 0], 1.0), (-bounds[0, 1], 1.0)])
    values = {COORDINATES: exactly(bounds.T), 0: exactly(bounds.T)}
    lines = np.array([[[-1, 0, 0]], [[-1, 0, 1]]])
    last, level = last_uses(network), 0
    for i, step in enumerate(network.steps):
        source = step.inputs[0]
        if isinstance(step.op, Kink):
            groups, zeros, new_lines = cut(values[source], level, oracle, lines)
            level += 1
            old = len(lines)
            order = np.argsort(np.r_[np.arange(old), groups[0][:, 0] + 0.5], kind="stable")
            lines = np.concatenate([lines, new_lines])[order]
            values = {j: extended(v, groups, order) for j, v in values.items()}
            z = values[source]
            z.x[np.argsort(order)[old + zeros[0]], zeros[1]] = 0.0
            values[step.output] = step.op.value(z.x, z.norm, last[source] <= i)
        elif isinstance(step.op, Winners):
            kept = merge_intervals(step.op, network, oracle, lines, level)
            lines = lines[kept]
            values = {j: v.take(kept) for j, v in values.items()}
            values[step.output] = values[source]
        else:
            values[step.output] = step.op.value(*(values[j] for j in step.inputs))
        values = {j: v for j, v in values.items() if last.get(j, -1) > i or j == COORDINATES}
    return Line(
        network, oracle, place(values[COORDINATES].x[:, 0]), place(values[network.output].x)
    )


def merge_intervals(op: Winners, network: Network, oracle: Oracle, lines, level) -> np.ndarray:
    """Knots that remain once intervals with the same winners are joined."""
    levels, rounds, count = group_levels(network, op.group), [], op.count
    for k in levels:
        rounds.append(resolve.unpack(bits_at(oracle, k), count // 2 * op.windows))
        count -= count // 2
    codes = winners(op, rounds)
    drop = (codes[1:] == codes[:-1]).all(1) & np.isin(lines[1:-1, 0, 0], levels)
    first = np.r_[True, ~drop]  # pieces that stay
    parent, bits = oracle.history[-1]
    oracle.history[-1] = (parent[first], bits[first])
    oracle.winners[level - 1] = codes[first]
    return np.flatnonzero(np.r_[first, True])


def segment(apply_fn, params, start, end) -> Line:
    """All regions between two inputs: x = start + t (end - start), t in [0, 1].

    Args:
        apply_fn: apply_fn(params, x[1, *shape]) -> output, or a tuple that starts with it.
        start, end: float [*shape]; `end - start` is rounded to float64 once, then taken as exact.

    Raises:
        UnsupportedLayer, ValueError: as `plane`.
    """
    start = np.asarray(start, np.float64)
    direction = np.asarray(end, np.float64) - start
    flat, columns = check_basis(start, direction.reshape(-1, 1), 1)
    network = on_subspace(network_of(apply_fn, params, start.shape), flat, columns)
    return regions_on_line(network, [[0.0, 1.0]])


def polyline(apply_fn, params, points) -> list[Line]:
    """One `Line` for each leg between consecutive points [P, *shape]."""
    if len(points) < 2:
        raise ValueError(f"a polyline needs two points or more, not {len(points)}")
    return [segment(apply_fn, params, a, b) for a, b in pairwise(points)]
