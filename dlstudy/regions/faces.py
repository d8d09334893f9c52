"""Faces of a subdivided polygon, by walking half-edges; the order around a vertex is combinatorial:
seen from inside a convex polygon, lines point to their ends in the order of the boundary."""

from __future__ import annotations

import numpy as np

from .compiled import njit


@njit()
def flip(bits, chord, lo, hi, chord_rep, chord_unit):
    """Flip the units of all chords of the face merged with this one."""
    for c in range(lo, hi):
        if chord_rep[c] == chord:
            j = chord_unit[c]
            bits[j >> 6] ^= np.uint64(1) << np.uint64(j & 63)


@njit()
def build_faces(
    bound_ptr,
    bound_half,
    chord_ptr,
    chord_unit,
    chord_a,
    chord_b,
    chord_up,
    chord_rep,
    piece_ptr,
    piece_vertices,
    point_ptr,
    base_bits,
    first_point,
    first_piece,
):
    """New faces of all old faces.

    Args:
        first_point: number of the first crossing vertex; first_piece: of the first chord edge.

    Returns:
        face_ptr, face_half, parent [F'], bits uint64 [F', words].
    """
    faces, words = len(bound_ptr) - 1, base_bits.shape[1]
    pieces = len(piece_vertices)
    most = faces + pieces
    ptr, half = np.zeros(most + 1, np.int64), np.empty(len(bound_half) + 2 * pieces, np.int64)
    parent, bits = np.empty(most, np.int64), np.zeros((most, words), np.uint64)
    n, at = 0, 0
    for f in range(faces):
        lo, hi = chord_ptr[f], chord_ptr[f + 1]
        start, stop = bound_ptr[f], bound_ptr[f + 1]
        size = stop - start
        distinct, only = 0, -1
        for c in range(lo, hi):
            if chord_rep[c] == c:
                distinct += 1
                only = c
        if distinct == 0:
            half[at : at + size] = bound_half[start:stop]
            at += size
            parent[n], bits[n] = f, base_bits[f]
            n += 1
            ptr[n] = at
            continue
        if distinct > 1:
            n, at = walk(
                f,
                lo,
                hi,
                start,
                size,
                bound_half,
                chord_unit,
                chord_a,
                chord_b,
                chord_up,
                chord_rep,
                piece_ptr,
                piece_vertices,
                point_ptr,
                base_bits,
                first_point,
                first_piece,
                ptr,
                half,
                parent,
                bits,
                n,
                at,
            )
            continue
        a, b = chord_a[only], chord_b[only]
        edge = 2 * (first_piece + piece_ptr[only])
        for side in range(2):
            parent[n], bits[n] = f, base_bits[f]
            for c in range(lo, hi):
                if chord_up[c] == 1 - side:
                    j = chord_unit[c]
                    bits[n, j >> 6] |= np.uint64(1) << np.uint64(j & 63)
            span = b - a if side == 0 else size - b + a
            begin = a if side == 0 else b
            for i in range(span):
                half[at] = bound_half[start + (begin + i) % size]
                at += 1
            half[at] = edge + 1 if side == 0 else edge
            at += 1
            n += 1
            ptr[n] = at
    return ptr[: n + 1].copy(), half[:at].copy(), parent[:n].copy(), bits[:n].copy()


@njit()
def walk(
    f,
    lo,
    hi,
    start,
    size,
    bound_half,
    chord_unit,
    chord_a,
    chord_b,
    chord_up,
    chord_rep,
    piece_ptr,
    piece_vertices,
    point_ptr,
    base_bits,
    first_point,
    first_piece,
    ptr,
    half,
    parent,
    bits,
    n,
    at,
):
    """Faces of one polygon with several chords; appends and returns the new counts."""
    first, last = piece_ptr[lo], piece_ptr[hi]
    halves = 2 * size + 2 * (last - first)
    local = size + point_ptr[f + 1] - point_ptr[f]
    shift = first_point + point_ptr[f] - size
    origin, key = np.empty(halves, np.int64), np.empty(halves, np.int64)
    for i in range(size):
        origin[i], key[i] = i, 1
        origin[size + i], key[size + i] = (i + 1) % size, size - 1
    for c in range(lo, hi):
        a, b = chord_a[c], chord_b[c]
        for s in range(piece_ptr[c], piece_ptr[c + 1]):
            h = 2 * size + 2 * (s - first)
            head = s == piece_ptr[c]
            tail = s == piece_ptr[c + 1] - 1
            origin[h] = a if head else piece_vertices[s, 0] - shift
            key[h] = b - a if head else b
            origin[h + 1] = b if tail else piece_vertices[s, 1] - shift
            key[h + 1] = a - b + size if tail else a
    fan_ptr = np.zeros(local + 1, np.int64)
    for h in range(halves):
        fan_ptr[origin[h] + 1] += 1
    for v in range(local):
        fan_ptr[v + 1] += fan_ptr[v]
    fan, slot, filled = np.empty(halves, np.int64), np.empty(halves, np.int64), fan_ptr[:-1].copy()
    for h in range(halves):
        v = origin[h]
        i = filled[v]
        filled[v] += 1
        while i > fan_ptr[v] and key[fan[i - 1]] > key[h]:
            fan[i] = fan[i - 1]
            slot[fan[i]] = i
            i -= 1
        fan[i] = h
        slot[h] = i
    face_of = np.full(halves, -1, np.int64)
    begin = n
    for h0 in range(halves):
        if face_of[h0] >= 0 or size <= h0 < 2 * size:
            continue
        h = h0
        while face_of[h] < 0:
            face_of[h] = n
            if h < size:
                half[at] = bound_half[start + h]
                twin = h + size
            else:
                s = h - 2 * size
                half[at] = 2 * (first_piece + first) + s
                twin = 2 * size + (s ^ 1)
            at += 1
            v = origin[twin]
            i = slot[twin] - 1
            h = fan[i if i >= fan_ptr[v] else fan_ptr[v + 1] - 1]
        parent[n] = f
        n += 1
        ptr[n] = at
    spread_patterns(
        lo,
        hi,
        size,
        first,
        begin,
        n,
        face_of,
        chord_unit,
        chord_a,
        chord_up,
        chord_rep,
        piece_ptr,
        base_bits[f],
        bits,
    )
    return n, at


@njit()
def spread_patterns(
    lo,
    hi,
    size,
    first,
    begin,
    end,
    face_of,
    chord_unit,
    chord_a,
    chord_up,
    chord_rep,
    piece_ptr,
    base,
    bits,
):
    """Pattern of each local face: known beside boundary edge 0, flipped across each chord."""
    count = end - begin
    seed = face_of[0]
    bits[seed] = base
    for c in range(lo, hi):
        if (chord_a[c] == 0) == (chord_up[c] == 1):
            j = chord_unit[c]
            bits[seed, j >> 6] |= np.uint64(1) << np.uint64(j & 63)
    total = piece_ptr[hi] - first
    degree = np.zeros(count + 1, np.int64)
    for s in range(2 * total):
        degree[face_of[2 * size + s] - begin + 1] += 1
    for i in range(count):
        degree[i + 1] += degree[i]
    place, across, over = (
        degree[:-1].copy(),
        np.empty(2 * total, np.int64),
        np.empty(2 * total, np.int64),
    )
    for c in range(lo, hi):
        for s in range(piece_ptr[c] - first, piece_ptr[c + 1] - first):
            left, right = face_of[2 * size + 2 * s], face_of[2 * size + 2 * s + 1]
            for here, there in ((left, right), (right, left)):
                i = place[here - begin]
                across[i], over[i] = there, c
                place[here - begin] += 1
    done, stack = np.zeros(count, np.bool_), np.empty(count, np.int64)
    stack[0], depth = seed, 1
    done[seed - begin] = True
    while depth:
        depth -= 1
        here = stack[depth]
        for i in range(degree[here - begin], degree[here - begin + 1]):
            there = across[i]
            if not done[there - begin]:
                done[there - begin] = True
                bits[there] = bits[here]
                flip(bits[there], over[i], lo, hi, chord_rep, chord_unit)
                stack[depth] = there
                depth += 1
