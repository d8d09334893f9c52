"""The arrangement of successive layers on a box: cut every face by the next layer's units."""

from __future__ import annotations

import dataclasses

import numpy as np

from . import events, faces, resolve, subdivide
from .compiled import njit
from .operations import TINY, Value
from .resolve import Oracle

U = 2.0**-53


@dataclasses.dataclass
class Complex:
    """A subdivision of the box into convex faces.

    Half-edge 2 e + d runs along edge e from its vertex d to the other, its face on the left.
    """

    edge_vertices: np.ndarray  # int [E, 2]
    edge_line: np.ndarray  # int [E, 3]: level, face, unit of the line it lies on
    vertex_lines: np.ndarray  # int [V, 2, 3]: two lines that cross there
    face_ptr: np.ndarray  # int [F + 1]
    face_half: np.ndarray  # int [H], half-edges counter-clockwise, face by face

    def vertex_face(self) -> np.ndarray:
        """Some face at each vertex, [V]."""
        found = np.zeros(len(self.vertex_lines), np.int64)
        vertex = self.edge_vertices[self.face_half >> 1, self.face_half & 1]
        found[vertex] = self.half_owner()
        return found

    def half_owner(self) -> np.ndarray:
        """Face of each entry of face_half."""
        return np.repeat(np.arange(len(self.face_ptr) - 1), np.diff(self.face_ptr))

    def edge_faces(self) -> np.ndarray:
        """Faces left of the half-edges 2 e and 2 e + 1, [E, 2]; -1 outside the box."""
        found = np.full(2 * len(self.edge_vertices), -1, np.int64)
        found[self.face_half] = self.half_owner()
        return found.reshape(-1, 2)


@dataclasses.dataclass
class Insertion:
    """New vertices: first points on edges, then crossings of chords, as linear interpolations."""

    edge_ends: np.ndarray  # int [G, 2], old vertices
    edge_place: np.ndarray  # [G]
    edge_bound: np.ndarray  # [G], error bound of the place
    chord_ends: np.ndarray  # int [P, 2], old or edge vertices
    chord_place: np.ndarray
    chord_bound: np.ndarray
    zero_vertex: np.ndarray  # entries that vanish by construction
    zero_unit: np.ndarray


def box(bounds) -> tuple[Complex, np.ndarray, list[tuple]]:
    """One face: [lo, hi] in both coordinates; returns it, its corners [4, 2] and its sides."""
    (x0, x1), (y0, y1) = bounds
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)
    sides = [(-y0, 0.0, 1.0), (-x1, 1.0, 0.0), (-y1, 0.0, 1.0), (-x0, 1.0, 0.0)]
    index = np.arange(4)
    line = np.stack([np.full(4, -1), np.zeros(4, int), index], 1)
    complex_ = Complex(
        np.stack([index, (index + 1) % 4], 1),
        line,
        np.stack([line[index - 1], line], 1),
        np.array([0, 4]),
        2 * index,
    )
    return complex_, corners, sides


def refine(cells: Complex, z: Value, level: int, oracle: Oracle) -> tuple[Complex, Insertion]:
    """Cut every face by the lines on which a unit of z changes sign.

    Args:
        z: pre-activations at the vertices; entries found to be exactly 0 are written back.

    Returns:
        The finer complex (old vertices keep their numbers) and how to extend values to it.
    """
    if level != len(oracle.history):
        raise ValueError("levels are cut in order")
    old = len(cells.vertex_lines)
    errors = (z.unit, z.point, float(z.ulps))
    above, below, open_v, open_j = events.sign_bits(z.x, *errors)
    if len(open_v):
        resolve.settle_signs(
            oracle,
            level,
            open_v,
            open_j,
            cells.vertex_face(),
            cells.vertex_lines,
            above,
            below,
            z.x,
        )
    ev = cells.edge_vertices
    edge_ptr, edge_unit, place, bound = events.edge_events(ev, above, below, z.x, *errors)
    order, apart = events.order_events(edge_ptr, place, bound)
    edge_face = cells.edge_faces().max(1)
    if not apart.all():
        owner = np.repeat(np.arange(len(ev)), np.diff(edge_ptr))
        word = above[ev[owner, 1], edge_unit >> 6] >> (edge_unit & 63).astype(np.uint64)
        resolve.settle_edges(
            oracle,
            level,
            edge_ptr,
            order,
            apart,
            edge_unit,
            edge_face,
            cells.edge_line,
            (word & np.uint64(1)).astype(bool),
        )
    split = subdivide.split_edges(ev, edge_ptr, order, apart, place, bound)
    group_ptr, group_of, ends, g_place, g_bound, g_edge = split
    border = subdivide.boundaries(cells.face_ptr, cells.face_half, ev, group_ptr, old)
    c_ptr, cut, base_bits = subdivide.cut_units(cells.face_ptr, cells.face_half, ev, above, below)
    c_unit, c_a, c_b, c_up, c_rep = subdivide.chords(
        cells.face_ptr,
        cells.face_half,
        ev,
        group_ptr,
        edge_ptr,
        edge_unit,
        group_of,
        above,
        below,
        c_ptr,
        cut,
    )
    c_face = np.repeat(np.arange(len(c_ptr) - 1), np.diff(c_ptr))
    end_a, end_b = border[1][border[0][c_face] + c_a], border[1][border[0][c_face] + c_b]
    values = (old, z.x, *errors, ends, g_place, g_bound)
    x_ptr, other, partner, x_place, x_bound = events.chord_events(
        c_ptr, c_unit, c_a, c_b, c_rep, end_a, end_b, values
    )
    x_order, x_apart = events.order_events(x_ptr, x_place, x_bound)
    if not x_apart.all():
        resolve.settle_chords(
            oracle, level, x_ptr, x_order, x_apart, other, c_face, (c_unit, c_a, c_b, c_up)
        )
    point, point_ptr, host = subdivide.crossing_vertices(
        c_ptr, x_ptr, x_bound, partner, x_order, x_apart
    )
    first_point, first_piece = old + len(ends), len(ev) + len(ends)
    pieces = subdivide.chord_edges(c_rep, end_a, end_b, x_ptr, x_order, point, first_point)
    face_ptr, face_half, parent, bits = faces.build_faces(
        border[0],
        border[2],
        c_ptr,
        c_unit,
        c_a,
        c_b,
        c_up,
        c_rep,
        pieces[0],
        pieces[1],
        point_ptr,
        base_bits,
        first_point,
        first_piece,
    )
    oracle.history.append((parent, bits))

    owner = np.repeat(np.arange(len(c_unit)), np.diff(x_ptr))
    line = np.stack([np.full(len(c_unit), level), c_face, c_unit], 1)
    first_event = np.zeros(len(ends), np.int64)
    first_event[group_of] = np.arange(len(group_of))
    cutting = np.stack([np.full(len(ends), level), edge_face[g_edge], edge_unit[first_event]], 1)
    vertex_lines = np.concatenate(
        [
            cells.vertex_lines,
            np.stack([cells.edge_line[g_edge], cutting], 1),
            np.stack([line[owner[host]], line[other[host]]], 1),
        ]
    )
    sub_edges, sub_of = split_pieces(ev, group_ptr, old)
    finer = Complex(
        np.concatenate([sub_edges, pieces[1]]),
        np.concatenate([cells.edge_line[sub_of], line[pieces[2]]]),
        vertex_lines,
        face_ptr,
        face_half,
    )
    chord_ends = np.stack([end_a[owner[host]], end_b[owner[host]]], 1)
    zero_vertex, zero_unit = zeros(
        old + group_of, edge_unit, first_point + point, owner, c_unit, c_rep
    )
    return finer, Insertion(
        ends, g_place, g_bound, chord_ends, x_place[host], x_bound[host], zero_vertex, zero_unit
    )


def zeros(edge_vertex, edge_unit, cross_vertex, owner, chord_unit, chord_rep):
    """(vertex, unit) pairs on the cutting lines, those of merged chords included."""
    vertices, units = [edge_vertex, cross_vertex], [edge_unit, chord_unit[owner]]
    for c in np.flatnonzero(chord_rep != np.arange(len(chord_rep))):
        shared = cross_vertex[owner == chord_rep[c]]
        vertices.append(shared)
        units.append(np.full(len(shared), chord_unit[c]))
    return np.concatenate(vertices), np.concatenate(units)


def split_pieces(edge_vertices, group_ptr, old):
    """Pieces of the old edges [E + G, 2] in order, and the old edge of each."""
    counts = np.diff(group_ptr) + 1
    owner = np.repeat(np.arange(len(edge_vertices)), counts)
    index = np.arange(len(owner))
    stop = np.cumsum(counts)
    head, tail = np.zeros(len(owner), bool), np.zeros(len(owner), bool)
    head[stop - counts], tail[stop - 1] = True, True
    inserted = old + index - owner  # the group that ends this piece
    start = np.where(head, edge_vertices[owner, 0], inserted - 1)
    end = np.where(tail, edge_vertices[owner, 1], inserted)
    return np.stack([start, end], 1), owner


@njit()
def blend(x, norm, begin, ends, place, bound):
    """Fill rows begin, begin + 1, … of x and norm by interpolating rows ends [G, 2]."""
    for g in range(len(ends)):
        p, q, t = ends[g, 0], ends[g, 1], place[g]
        gap, size = 0.0, 0.0
        for j in range(x.shape[1]):
            a, b = x[p, j], x[q, j]
            gap += (b - a) * (b - a)
            size += a * a + b * b
            mixed = (1.0 - t) * a + t * b
            x[begin + g, j] = TINY if mixed == 0.0 and (a != 0.0 or b != 0.0) else mixed
        error = max(norm[p], norm[q]) + 4.0 * U * np.sqrt(size)
        norm[begin + g] = 1.001 * (error + bound[g] * (np.sqrt(gap) + norm[p] + norm[q]))


def extend(value: Value, new: Insertion) -> tuple[np.ndarray, np.ndarray]:
    """Values and row error bounds at old and new vertices, [V', n] and [V']."""
    old, on_edges = len(value.x), len(new.edge_ends)
    total = old + on_edges + len(new.chord_ends)
    x, norm = np.empty((total, value.x.shape[1])), np.empty(total)
    x[:old], norm[:old] = value.x, value.norm
    blend(x, norm, old, new.edge_ends, new.edge_place, new.edge_bound)
    blend(x, norm, old + on_edges, new.chord_ends, new.chord_place, new.chord_bound)
    return x, norm
