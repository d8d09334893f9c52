"""Cutting convex polygons by chords: from ordered events to new vertices, edges and faces."""

from __future__ import annotations

import numpy as np

from .compiled import njit
from .events import bits_of


@njit()
def split_edges(edge_vertices, ptr, order, apart, place, bound):
    """One new vertex per group of events at the same place of an edge.

    Returns:
        group_ptr [E + 1]; group_of: group of each event; ends [G, 2], place [G], bound [G],
        edge [G].
    """
    edges = len(edge_vertices)
    group_ptr, group_of = np.zeros(edges + 1, np.int64), np.empty(len(order), np.int64)
    groups = 0
    for e in range(edges):
        for k in range(ptr[e], ptr[e + 1]):
            if k == ptr[e] or apart[k]:
                groups += 1
            group_of[order[k]] = groups - 1
        group_ptr[e + 1] = groups
    ends, edge = np.empty((groups, 2), np.int64), np.empty(groups, np.int64)
    where, error = np.empty(groups), np.full(groups, np.inf)
    for e in range(edges):
        for k in range(ptr[e], ptr[e + 1]):
            event = order[k]
            g = group_of[event]
            ends[g, 0], ends[g, 1], edge[g] = edge_vertices[e, 0], edge_vertices[e, 1], e
            if bound[event] < error[g]:  # the best conditioned of the units that meet here
                where[g], error[g] = place[event], bound[event]
    return group_ptr, group_of, ends, where, error, edge


@njit()
def boundaries(face_ptr, face_half, edge_vertices, group_ptr, old):
    """Boundary of each face after the edges are split, counter-clockwise.

    Returns:
        ptr [F + 1]; per position: vertex, and new half-edge that leaves it.
    """
    faces = len(face_ptr) - 1
    ptr = np.zeros(faces + 1, np.int64)
    for f in range(faces):
        size = 0
        for k in range(face_ptr[f], face_ptr[f + 1]):
            e = face_half[k] >> 1
            size += 1 + group_ptr[e + 1] - group_ptr[e]
        ptr[f + 1] = ptr[f] + size
    vertex, half = np.empty(ptr[-1], np.int64), np.empty(ptr[-1], np.int64)
    at = 0
    for k in range(len(face_half)):
        e, back = face_half[k] >> 1, face_half[k] & 1
        first, last = group_ptr[e], group_ptr[e + 1]
        base = e + first
        vertex[at] = edge_vertices[e, back]
        half[at] = 2 * (base + (last - first if back else 0)) + back
        at += 1
        for i in range(last - first):
            step = last - first - 1 - i if back else i
            vertex[at] = old + first + step
            half[at] = 2 * (base + (step if back else step + 1)) + back
            at += 1
    return ptr, vertex, half


@njit()
def population(word):
    """Number of set bits."""
    count = 0
    while word:
        word &= word - np.uint64(1)
        count += 1
    return count


@njit()
def cut_units(face_ptr, face_half, edge_vertices, above, below):
    """Units that change sign inside each face.

    Returns:
        ptr [F + 1], their number summed; cut [F, words]; on [F, words]: units positive all over.
    """
    faces, words = len(face_ptr) - 1, above.shape[1]
    ptr = np.zeros(faces + 1, np.int64)
    cut, on = np.zeros((faces, words), np.uint64), np.zeros((faces, words), np.uint64)
    for f in range(faces):
        count = 0
        for w in range(words):
            some, none = np.uint64(0), np.uint64(0)
            for k in range(face_ptr[f], face_ptr[f + 1]):
                v = edge_vertices[face_half[k] >> 1, face_half[k] & 1]
                some |= above[v, w]
                none |= below[v, w]
            cut[f, w], on[f, w] = some & none, some & ~none
            count += population(some & none)
        ptr[f + 1] = ptr[f] + count
    return ptr, cut, on


@njit()
def chords(
    face_ptr,
    face_half,
    edge_vertices,
    group_ptr,
    event_ptr,
    event_unit,
    group_of,
    above,
    below,
    ptr,
    cut,
):
    """Chord of each unit that changes sign inside a face: it vanishes at two boundary positions.

    Args:
        ptr, cut: from `cut_units`.

    Returns:
        Per chord: unit, positions a < b, whether the unit is positive on the boundary between a
        and b, and the first chord of the face with the same ends.
    """
    faces, words = len(face_ptr) - 1, above.shape[1]
    total = ptr[-1]
    unit, rep = np.empty(total, np.int64), np.arange(total)
    first, last, up = np.full(total, -1), np.full(total, -1), np.zeros(total, np.int64)
    slot, found = np.full(words * 64, -1), np.empty(words * 64, np.int64)
    for f in range(faces):
        base, stop = ptr[f], ptr[f + 1]
        if base == stop:
            continue
        count = 0
        for w in range(words):
            count = bits_of(cut[f, w], w * 64, found, count)
        for i in range(count):
            unit[base + i] = found[i]
            slot[found[i]] = base + i
        position = 0
        for k in range(face_ptr[f], face_ptr[f + 1]):
            e, back = face_half[k] >> 1, face_half[k] & 1
            v = edge_vertices[e, back]
            for w in range(words):
                count = bits_of(cut[f, w] & ~above[v, w] & ~below[v, w], w * 64, found, 0)
                for i in range(count):
                    mark(slot[found[i]], position, first, last)
            position += 1
            groups = group_ptr[e + 1] - group_ptr[e]
            for x in range(event_ptr[e], event_ptr[e + 1]):
                g = group_of[x] - group_ptr[e]
                mark(slot[event_unit[x]], position + (groups - 1 - g if back else g), first, last)
            position += groups
        position = 0
        for k in range(face_ptr[f], face_ptr[f + 1]):
            e, back = face_half[k] >> 1, face_half[k] & 1
            v = edge_vertices[e, back]
            for w in range(words):
                count = bits_of(cut[f, w] & above[v, w], w * 64, found, 0)
                for i in range(count):
                    c = slot[found[i]]
                    up[c] = 1 if first[c] < position < last[c] else 0
            position += 1 + group_ptr[e + 1] - group_ptr[e]
        for c in range(base, stop):
            for d in range(base, c):
                if first[c] == first[d] and last[c] == last[d]:
                    rep[c] = rep[d]
                    break
    return unit, first, last, up, rep


@njit()
def mark(chord, position, first, last):
    """Record a boundary position of a chord, keeping first < last."""
    if first[chord] < 0:
        first[chord] = position
    elif position < first[chord]:
        last[chord] = first[chord]
        first[chord] = position
    else:
        last[chord] = position


@njit()
def find(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit()
def crossing_vertices(chord_ptr, event_ptr, bound, partner, order, apart):
    """Join events that are one point; number the points face by face.

    Returns:
        point: of each event; point_ptr [F + 1]; host [P]: best conditioned event of each point.
    """
    total = len(partner)
    parent = np.arange(total)
    for x in range(total):
        parent[find(parent, x)] = find(parent, partner[x])
    for c in range(len(event_ptr) - 1):
        for k in range(event_ptr[c] + 1, event_ptr[c + 1]):
            if not apart[k]:
                parent[find(parent, order[k])] = find(parent, order[k - 1])
    point, number = np.empty(total, np.int64), np.full(total, -1, np.int64)
    faces = len(chord_ptr) - 1
    point_ptr, host = np.zeros(faces + 1, np.int64), np.empty(total, np.int64)
    points = 0
    for f in range(faces):
        for x in range(event_ptr[chord_ptr[f]], event_ptr[chord_ptr[f + 1]]):
            root = find(parent, x)
            if number[root] < 0:
                number[root] = points
                host[points] = x
                points += 1
            point[x] = number[root]
            if bound[x] < bound[host[point[x]]]:
                host[point[x]] = x
        point_ptr[f + 1] = points
    return point, point_ptr, host[:points]


@njit()
def chord_edges(chord_rep, chord_a_vertex, chord_b_vertex, event_ptr, order, point, base):
    """Pieces of each chord from end a to end b, as new edges.

    Returns:
        ptr [C + 1] (rows of merged chords are empty); vertices [N, 2]; chord [N].
    """
    count = len(chord_rep)
    ptr = np.zeros(count + 1, np.int64)
    vertices = np.empty((count + len(order), 2), np.int64)
    owner = np.empty(count + len(order), np.int64)
    n = 0
    for c in range(count):
        if chord_rep[c] == c:
            here = chord_a_vertex[c]
            previous = -1
            for k in range(event_ptr[c], event_ptr[c + 1]):
                p = point[order[k]]
                if p == previous:
                    continue
                vertices[n, 0], vertices[n, 1], owner[n] = here, base + p, c
                previous, here = p, base + p
                n += 1
            vertices[n, 0], vertices[n, 1], owner[n] = here, chord_b_vertex[c], c
            n += 1
        ptr[c + 1] = n
    return ptr, vertices[:n], owner[:n]
