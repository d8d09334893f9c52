"""Exact answers where float64 bounds leave a sign or an order open.

Every vertex is the crossing of two lines, and every line is a unit of the network restricted to a
face of the arrangement of the layers before it, or a side of the box. Float64 weights are rational
numbers, so both are rational and so is the answer: no tolerance anywhere. A line is named by
(level, face, unit): the kink's number, the face of the arrangement before that kink, the unit.
Sides of the box are (-1, 0, side).
"""

from __future__ import annotations

import numpy as np

from . import exact
from .network import Network
from .operations import Kink


def unpack(bits: np.ndarray, count: int) -> np.ndarray:
    """Packed words uint64 [..., words] -> bool [..., count]."""
    raw = np.ascontiguousarray(bits).view(np.uint8)
    return np.unpackbits(raw, axis=-1, count=count, bitorder="little").astype(bool)


class Oracle:
    """Rational rows of units on faces, and the questions asked of them.

    Attributes:
        history: per level, parent [F] and bits [F, words] of the faces after that kink.
        asked: how many questions went to rational arithmetic.
    """

    def __init__(self, network: Network, sides: list[tuple]):
        self.network = network
        self.sides = [tuple(exact.to_exact(side).ints) for side in sides]
        self.history: list[tuple[np.ndarray, np.ndarray]] = []
        self.winners: dict[int, np.ndarray] = {}  # by the last level of a maximum
        self.asked = 0
        self._rows: dict[tuple[int, int], np.ndarray] = {}

    def patterns(self, level: int, face: int) -> list[np.ndarray]:
        """Bits of one face at every level before this one."""
        found = []
        for parent, bits in reversed(self.history[:level]):
            found.append(bits[face])
            face = parent[face]
        return found[::-1]

    def all_patterns(self) -> list[np.ndarray]:
        """For every current face, bits of each level of units and winners of each maximum."""
        groups = [step.op.group for step in self.network.kinks()]
        found, face = [], np.arange(len(self.history[-1][0]) if self.history else 1)
        for level in reversed(range(len(self.history))):
            parent, bits = self.history[level]
            if level in self.winners:
                found.append(self.winners[level][face])
            if groups[level] is None:
                found.append(bits[face])
            face = parent[face]
        return found[::-1]

    def rows(self, level: int, face: int) -> np.ndarray:
        """Integers [1 + d, units]: positive multiples of (c, a, b) of each unit c + a u1 + b u2."""
        key = (level, face)
        if key not in self._rows:
            if len(self._rows) > 256:
                self._rows.clear()
            self._rows[key] = self._forward(level, self.patterns(level, face)).ints
        return self._rows[key]

    def _forward(self, level: int, masks: list[np.ndarray]) -> exact.Exact:
        size = self.network.input_size
        values = {0: exact.to_exact(np.eye(size + 1, size, -1))}
        kink = 0
        for step in self.network.steps:
            inputs = [values[i] for i in step.inputs]
            if not isinstance(step.op, Kink):
                values[step.output] = step.op.exact(*inputs)
                continue
            if kink == level:
                return inputs[0]
            on = unpack(masks[kink], inputs[0].ints.shape[1])
            values[step.output] = step.op.exact(inputs[0], on)
            kink += 1
        return values[self.network.output]

    def differ(self, face: int, other: int) -> bool:
        """Whether the output's affine maps of two regions differ."""
        self.asked += 1
        level = len(self.history)
        first = self._forward(level, self.patterns(level, face))
        second = self._forward(level, self.patterns(level, other))
        return exact.differ(first, second)

    def line(self, name) -> tuple:
        """Integers of the line with this name."""
        level, face, unit = (int(i) for i in name)
        return self.sides[unit] if level < 0 else tuple(self.rows(level, face)[:, unit])

    def sign(self, level: int, face: int, unit: int, lines) -> int:
        """Sign of a unit on a face (closed) at the crossing of the named lines."""
        self.asked += 1
        if len(lines) == 1:  # on a line segment a point is the zero of one row
            constant, slope = self.line(lines[0])
            point = (slope, -constant)
        else:
            point = exact.cross(self.line(lines[0]), self.line(lines[1]))
        return exact.sign_at(tuple(self.rows(level, face)[:, unit]), point)


def settle_signs(oracle, level, vertices, units, face_of, vertex_lines, above, below, z) -> None:
    """Write the exact signs of open entries into above, below; exact zeros into z."""
    for v, j in zip(vertices.tolist(), units.tolist(), strict=True):
        sign = oracle.sign(level, int(face_of[v]), j, vertex_lines[v])
        bit = np.uint64(1) << np.uint64(j & 63)
        if sign > 0:
            above[v, j >> 6] |= bit
        elif sign < 0:
            below[v, j >> 6] |= bit
        else:
            z[v, j] = 0.0


def open_clusters(ptr, apart):
    """Rows and sorted ranges of events whose order is open."""
    starts = np.flatnonzero(~apart & np.r_[True, apart[:-1]]) - 1
    for start in starts.tolist():
        stop = start + 1
        while stop < len(apart) and not apart[stop]:
            stop += 1
        yield int(np.searchsorted(ptr, start, side="right")) - 1, start, stop


def apply_ranks(ranks, order, apart, start, stop) -> None:
    """Reorder a cluster by exact ranks; equal ranks stay together, others come apart."""
    ranks = np.asarray(ranks)
    new = np.argsort(ranks, kind="stable")
    order[start:stop] = order[start:stop][new]
    apart[start + 1 : stop] = np.diff(ranks[new]) > 0


def settle_edges(oracle, level, ptr, order, apart, unit, face_of, edge_line, rising) -> None:
    """Exact order of units along edges; rising[event]: positive at the edge's second vertex."""
    for e, start, stop in open_clusters(ptr, apart):
        events = order[start:stop]
        oracle.asked += 1
        rows = oracle.rows(level, int(face_of[e]))
        others = [tuple(rows[:, unit[x]]) for x in events]
        ranks = exact.order_along(oracle.line(edge_line[e]), others, [rising[x] for x in events])
        apply_ranks(ranks, order, apart, start, stop)


def settle_chords(oracle, level, ptr, order, apart, other, face_of, chords) -> None:
    """Exact order of the crossings on chords (unit, a, b, up per chord)."""
    unit, a, b, up = chords
    for c, start, stop in open_clusters(ptr, apart):
        events = order[start:stop]
        oracle.asked += 1
        rows = oracle.rows(level, int(face_of[c]))
        others, rising = [], []
        for d in other[events]:
            others.append(tuple(rows[:, unit[d]]))
            rising.append((a[d] < b[c] < b[d]) == bool(up[d]))
        ranks = exact.order_along(tuple(rows[:, unit[c]]), others, rising)
        apply_ranks(ranks, order, apart, start, stop)
