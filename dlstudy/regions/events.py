"""Where lines meet edges and each other: parameters, their error bounds, and certain orders.

Only three kinds of decision depend on numbers: the sign of a unit at a vertex, the order of two
units along an edge, and the order of two lines along a third. Here each is taken in float64 with a
rigorous bound; what the bound leaves open is returned and settled in `resolve.py` with rational
arithmetic. Everything else (which lines cross inside a polygon, the cyclic order around a vertex,
the pattern of each new region) follows from these by combinatorics alone.
"""

from __future__ import annotations

import numpy as np

from .compiled import njit

U = 2.0**-53
SMALL = 1e-280  # above operations.TINY


@njit()
def sign_bits(z, unit, point, ulps):
    """Packed signs of z[V, n], and the entries that the bound leaves open.

    Returns:
        above, below: uint64 [V, words], bits of z > 0 and z < 0.
        open_vertex, open_unit: entries other than 0 with |z| not above their error bound.
    """
    count, n = z.shape
    words = (n + 63) // 64
    above, below = np.zeros((count, words), np.uint64), np.zeros((count, words), np.uint64)
    limit = unit * (1.0 + 8.0 * U)
    relative = ulps * U
    open_vertex, open_unit = [], []
    for v in range(count):
        for word in range(words):
            up, down = np.uint64(0), np.uint64(0)
            for j in range(word * 64, min(n, word * 64 + 64)):
                value = z[v, j]
                size = abs(value)
                if size == 0.0:  # by convention exactly zero, see operations.Value
                    continue
                if size > limit[j] * point[v] + relative * size + SMALL:
                    bit = np.uint64(1) << np.uint64(j - word * 64)
                    if value > 0:
                        up |= bit
                    else:
                        down |= bit
                else:
                    open_vertex.append(v)
                    open_unit.append(j)
            above[v, word], below[v, word] = up, down
    return above, below, np.array(open_vertex, np.int64), np.array(open_unit, np.int64)


@njit()
def bits_of(word, offset, out, count):
    """Append the positions of the set bits of a word to out; returns the new count."""
    while word:
        low = word & (~word + np.uint64(1))
        position = 0
        probe = low
        if probe >= np.uint64(1) << np.uint64(32):
            position += 32
            probe >>= np.uint64(32)
        while probe > np.uint64(1):
            probe >>= np.uint64(1)
            position += 1
        out[count] = offset + position
        count += 1
        word ^= low
    return count


@njit()
def fraction(za, ea, zb, eb):
    """Zero of the linear function with values za, zb (errors ea, eb) and its error bound."""
    gap = abs(za - zb)
    if gap <= 4.0 * (ea + eb):
        return (min(1.0, max(0.0, za / (za - zb))) if gap > 0.0 else 0.5), 1.0
    return min(1.0, max(0.0, za / (za - zb))), min(1.0, 3.0 * max(ea, eb) / gap + 4.0 * U)


@njit()
def edge_events(edge_vertices, above, below, z, unit, point, ulps):
    """Units that change sign strictly inside each edge.

    Returns:
        ptr [E + 1], then per event: unit, place t in (0, 1) from the edge's first vertex, its
        bound.
    """
    edges, words = len(edge_vertices), above.shape[1]
    ptr = np.zeros(edges + 1, np.int64)
    found = np.empty(words * 64, np.int64)
    units, places, bounds = [], [], []
    for e in range(edges):
        p, q = edge_vertices[e, 0], edge_vertices[e, 1]
        count = 0
        for w in range(words):
            word = (above[p, w] & below[q, w]) | (below[p, w] & above[q, w])
            if word:
                count = bits_of(word, w * 64, found, count)
        for i in range(count):
            j = found[i]
            zp, zq = z[p, j], z[q, j]
            ep = unit[j] * point[p] + ulps * U * abs(zp)
            eq = unit[j] * point[q] + ulps * U * abs(zq)
            t, dt = fraction(zp, ep, zq, eq)
            units.append(j)
            places.append(t)
            bounds.append(dt)
        ptr[e + 1] = ptr[e] + count
    return ptr, np.array(units, np.int64), np.array(places), np.array(bounds)


@njit()
def sort_places(order, place, start, stop):
    """Sorts order[start:stop] by the place of each, in the order array itself.

    Shell's method, as it compiles in a fraction of the time of `np.argsort`; up to 5 it is plain
    insertion.
    """
    gap = 1
    while 3 * gap + 1 < stop - start:
        gap = 3 * gap + 1
    while gap > 0:
        for k in range(start + gap, stop):
            moved, i = order[k], k
            while i >= start + gap and place[order[i - gap]] > place[moved]:
                order[i] = order[i - gap]
                i -= gap
            order[i] = moved
        gap //= 3


@njit()
def order_events(ptr, place, bound):
    """Sort each row's events; apart[k] is False where the order with event k - 1 is open.

    Returns:
        order: event at each sorted position; apart: bool, by sorted position.
    """
    total = len(place)
    order, apart = np.arange(total), np.ones(total, np.bool_)
    for row in range(len(ptr) - 1):
        start, stop = ptr[row], ptr[row + 1]
        if stop - start < 2:
            continue
        sort_places(order, place, start, stop)
        least = np.inf
        lowest = np.empty(stop - start)
        for k in range(stop - 1, start - 1, -1):
            least = min(least, place[order[k]] - bound[order[k]])
            lowest[k - start] = least
        highest = -np.inf
        for k in range(start, stop):
            if k > start and highest >= lowest[k - start]:
                apart[k] = False
            highest = max(highest, place[order[k]] + bound[order[k]])
    return order, apart


@njit()
def value_at(vertex, j, old, z, unit, point, ulps, ends, place, bound):
    """Value of unit j and its error bound at an old vertex or at one inserted on an edge."""
    if vertex < old:
        value = z[vertex, j]
        return value, unit[j] * point[vertex] + ulps * U * abs(value)
    k = vertex - old
    p, q, t = ends[k, 0], ends[k, 1], place[k]
    zp, zq = z[p, j], z[q, j]
    size = max(abs(zp), abs(zq))
    error = unit[j] * max(point[p], point[q]) + (ulps + 4.0) * U * size + bound[k] * abs(zq - zp)
    return (1.0 - t) * zp + t * zq, error


@njit()
def chord_events(chord_ptr, chord_unit, chord_a, chord_b, chord_rep, ends_a, ends_b, values):
    """Pairs of chords that cross strictly inside their polygon: their endpoints interleave.

    Returns:
        ptr [C + 1], then per event: the other chord, the same crossing on the other chord, place
        on the chord, its bound.
    """
    chords = len(chord_unit)
    counts = np.zeros(chords + 1, np.int64)
    for f in range(len(chord_ptr) - 1):
        for c in range(chord_ptr[f], chord_ptr[f + 1]):
            for d in range(c + 1, chord_ptr[f + 1]):
                if crosses(c, d, chord_a, chord_b, chord_rep):
                    counts[c + 1] += 1
                    counts[d + 1] += 1
    ptr = np.cumsum(counts)
    total = ptr[-1]
    other, partner = np.empty(total, np.int64), np.empty(total, np.int64)
    place, bound = np.empty(total), np.empty(total)
    cursor = ptr[:-1].copy()
    for f in range(len(chord_ptr) - 1):
        for c in range(chord_ptr[f], chord_ptr[f + 1]):
            for d in range(c + 1, chord_ptr[f + 1]):
                if not crosses(c, d, chord_a, chord_b, chord_rep):
                    continue
                x, y = cursor[c], cursor[d]
                other[x], other[y], partner[x], partner[y] = d, c, y, x
                za, ea = value_at(ends_a[c], chord_unit[d], *values)
                zb, eb = value_at(ends_b[c], chord_unit[d], *values)
                place[x], bound[x] = fraction(za, ea, zb, eb)
                za, ea = value_at(ends_a[d], chord_unit[c], *values)
                zb, eb = value_at(ends_b[d], chord_unit[c], *values)
                place[y], bound[y] = fraction(za, ea, zb, eb)
                cursor[c] += 1
                cursor[d] += 1
    return ptr, other, partner, place, bound


@njit()
def crosses(c, d, chord_a, chord_b, chord_rep):
    """Whether two distinct chords (endpoints a < b on the boundary) interleave strictly."""
    if chord_rep[c] != c or chord_rep[d] != d:
        return False
    a, b, x, y = chord_a[c], chord_b[c], chord_a[d], chord_b[d]
    return (a < x < b < y) or (x < a < y < b)
