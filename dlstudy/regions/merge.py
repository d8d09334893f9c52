"""Undo the cuts between losers of a maximum: regions with the same winners are one region."""

from __future__ import annotations

import numpy as np

from .arrangement import Complex
from .compiled import njit
from .network import Network
from .operations import Winners
from .resolve import Oracle, unpack


def group_levels(network: Network, group: int) -> list[int]:
    """Numbers of the kinks that hold a maximum's tournament."""
    return [i for i, s in enumerate(network.kinks()) if s.op.group == group]


def winners(op: Winners, rounds: list[np.ndarray]) -> np.ndarray:
    """Entry that wins each window, uint16 [F, windows].

    Args:
        rounds: per round of the tournament, bool [F, pairs * windows], whether the right entry won.
    """
    faces = len(rounds[0])
    shape = (faces, op.windows)
    columns = [np.full(shape, i, np.uint16) for i in range(op.count)]
    for on in rounds:
        half = len(columns) // 2
        on = on.reshape(faces, half, op.windows)
        won = [np.where(on[:, i], columns[2 * i + 1], columns[2 * i]) for i in range(half)]
        columns = won + columns[2 * half :]
    return columns[0]


def bits_at(oracle: Oracle, level: int) -> np.ndarray:
    """Packed bits of a level for every current face."""
    face = np.arange(len(oracle.history[-1][0]))
    for parent, _ in reversed(oracle.history[level + 1 :]):
        face = parent[face]
    return oracle.history[level][1][face]


def merge(cells: Complex, op: Winners, network: Network, oracle: Oracle):
    """Join faces that differ only in who lost.

    Returns:
        The coarser complex, the vertices it keeps (their old numbers), the winners [F, windows].
    """
    levels = group_levels(network, op.group)
    rounds, count = [], op.count
    for level in levels:
        rounds.append(unpack(bits_at(oracle, level), count // 2 * op.windows))
        count -= count // 2
    codes = winners(op, rounds)
    sides = cells.edge_faces()
    same = (codes[sides[:, 0]] == codes[sides[:, 1]]).all(1)
    dropped = np.isin(cells.edge_line[:, 0], levels) & (sides >= 0).all(1) & same
    coarse, kept, face = remove_edges(cells, dropped)
    parent, bits = oracle.history[-1]
    oracle.history[-1] = (parent[face], bits[face])
    return coarse, kept, codes[face]


def remove_edges(cells: Complex, dropped: np.ndarray):
    """Without the dropped edges, and without the vertices that then only bend nothing.

    Returns:
        The complex, old numbers of its vertices, an old face inside each of its faces.
    """
    ptr, half, face = rejoin(cells.face_ptr, cells.face_half, len(dropped), dropped)
    edge, line = cells.edge_vertices, cells.edge_line
    degree = np.bincount(edge[~dropped].ravel(), minlength=len(cells.vertex_lines))
    first, second = np.full(len(degree), -1), np.full(len(degree), -1)
    alive = np.flatnonzero(~dropped)
    first[edge[alive].ravel()] = np.repeat(alive, 2)
    second[edge[alive[::-1]].ravel()] = np.repeat(alive[::-1], 2)
    corner = (cells.vertex_lines[:, :, 0] == -1).all(1)
    smooth = (degree == 2) & ~corner  # regions are convex, so such a vertex is straight
    pairs, edge_map, keeper = splice(edge, dropped, smooth, first, second)
    kept = np.flatnonzero((degree > 0) & ~smooth)
    number = np.full(len(degree), -1)
    number[kept] = np.arange(len(kept))
    ptr, half = relabel(ptr, half, edge, smooth, edge_map, pairs)
    coarse = Complex(number[pairs], line[keeper], cells.vertex_lines[kept], ptr, half)
    return coarse, kept, face


@njit()
def rejoin(face_ptr, face_half, edges, dropped):
    """Loops of the merged faces, each with one old face inside it."""
    following, owner = np.full(2 * edges, -1), np.full(2 * edges, -1)
    for f in range(len(face_ptr) - 1):
        size = face_ptr[f + 1] - face_ptr[f]
        for i in range(size):
            h = face_half[face_ptr[f] + i]
            following[h] = face_half[face_ptr[f] + (i + 1) % size]
            owner[h] = f
    ptr, half, face = [0], [0], [0]
    half.pop()
    face.pop()
    seen = np.zeros(2 * edges, np.bool_)
    for k in range(len(face_half)):
        h = face_half[k]
        if seen[h] or dropped[h >> 1]:
            continue
        face.append(owner[h])
        while not seen[h]:
            seen[h] = True
            half.append(h)
            h = following[h]
            while dropped[h >> 1]:
                h = following[h ^ 1]
        ptr.append(len(half))
    return np.array(ptr, np.int64), np.array(half, np.int64), np.array(face, np.int64)


@njit()
def splice(edge, dropped, smooth, first, second):
    """Chains of edges through smooth vertices become one edge.

    Returns:
        Ends of each new edge, new number of each old edge (-1 dropped), an old edge of each.
    """
    number = np.full(len(edge), -1)
    pairs, keeper = np.empty((len(edge), 2), np.int64), np.empty(len(edge), np.int64)
    n = 0
    for e in range(len(edge)):
        if dropped[e] or number[e] >= 0:
            continue
        number[e] = n
        for side in range(2):
            v, here = edge[e, side], e
            while smooth[v]:
                there = first[v] if second[v] == here else second[v]
                number[there] = n
                v = edge[there, 0] + edge[there, 1] - v
                here = there
            pairs[n, side] = v
        keeper[n] = e
        n += 1
    return pairs[:n].copy(), number, keeper[:n].copy()


@njit()
def relabel(ptr, half, edge, smooth, edge_map, pairs):
    """Face loops in the new numbers: a half-edge stays if it leaves a vertex that stays."""
    new_ptr, new_half = np.zeros(len(ptr), np.int64), np.empty(len(half), np.int64)
    at = 0
    for f in range(len(ptr) - 1):
        for k in range(ptr[f], ptr[f + 1]):
            h = half[k]
            v = edge[h >> 1, h & 1]
            if not smooth[v]:
                e = edge_map[h >> 1]
                new_half[at] = 2 * e + (0 if pairs[e, 0] == v else 1)
                at += 1
        new_ptr[f + 1] = at
    return new_ptr, new_half[:at].copy()
