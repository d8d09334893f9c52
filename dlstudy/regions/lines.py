"""Many ReLU networks of one scalar input at once: breakpoints, patterns, slopes, intercepts.

Along the line a network's slopes change by one column of a weight matrix at a breakpoint, so a
layer costs one product per piece of the layer before its predecessor and one column per piece of
its predecessor; values follow by continuity. A rigorous bound on the rounding of every value, slope
and breakpoint decides whether each sign and each order is certain; a network with one that is not
goes through `linear.regions_on_line`, which settles it in rational arithmetic.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from dlstudy.host import available_cpus

from .compiled import njit
from .events import sort_places
from .linear import regions_on_line
from .network import mlp
from .planar import check_bounds

U = 2.0**-53
THREADED = 10_000  # weights from which a network takes longer than what Python does around it


class Pieces(NamedTuple):
    """Regions of one network on [lo, hi]."""

    knots: np.ndarray  # float64 [K + 1], ends of the domain included
    patterns: np.ndarray  # uint64 [K, words], the layers' packed bits side by side
    slopes: np.ndarray  # float64 [K, C]
    intercepts: np.ndarray  # float64 [K, C]
    fallback: bool  # whether rational arithmetic had to decide something


# Loops instead of array expressions below: half of the time to compile them.


@njit(nogil=True)
def peak(values):
    """The largest |value| of a flat array; nan if there is one."""
    high = 0.0
    for value in values:
        size = abs(value)
        if size != size:
            return size
        high = size if size > high else high
    return high


@njit(nogil=True)
def crossings(knots, spread, start, slopes, error):
    """Zeros of units inside each interval.

    Args:
        knots: [K + 1]; spread: [K + 1], bound on the error of each knot.
        start: [n], values at the first knot; slopes: [K, n]; error: bound on values at the knots.

    Returns:
        certain; per zero: interval, unit, place, bound; on [n] at the first knot; largest |value|.
    """
    n = len(start)
    on = start > 0
    interval, unit, place, bound = [0], [0], [0.0], [0.0]
    interval.pop()
    unit.pop()
    place.pop()
    bound.pop()
    z, following = start.copy(), np.empty(n)
    certain, largest = True, 0.0
    for m in range(n):
        certain &= abs(z[m]) > error
        largest = max(largest, abs(z[m]))
    for k in range(len(knots) - 1):
        length, doubt = knots[k + 1] - knots[k], spread[k + 1]
        doubtful, changes, high = 0, 0, 0.0
        for m in range(n):
            s = slopes[k, m]
            value = z[m] + s * length
            following[m] = value
            size = abs(value)
            doubtful += 1 if size <= error + abs(s) * doubt else 0
            changes += 1 if value * z[m] < 0.0 else 0
            high = size if size > high else high
        certain &= doubtful == 0
        largest = max(largest, high)
        if changes:
            for m in range(n):
                if following[m] * z[m] < 0.0:
                    s = slopes[k, m]
                    interval.append(k)
                    unit.append(m)
                    place.append(knots[k] - z[m] / s)
                    bound.append(
                        3.0 * error / abs(s) + 8.0 * U * (abs(knots[k]) + abs(knots[k + 1]))
                    )
        z, following = following, z
    return (
        certain,
        np.array(interval),
        np.array(unit),
        np.array(place),
        np.array(bound),
        on,
        largest,
    )


@njit(nogil=True)
def solve(theta, sizes, lo, hi):
    """All pieces of one network.

    Args:
        theta: weights [in, out] and biases of all layers, flattened one after the other.
        sizes: input, hidden and output widths.

    Returns:
        certain, knots, per-layer bits (packed side by side) [K, words], slopes [K, C], values
        [K, C] at the left end of each piece.
    """
    layers, offset = len(sizes) - 1, 0
    knots, spread = np.array([lo, hi]), np.zeros(2)
    dense = np.ones((1, 1))  # slopes of the last activations on the old intervals
    value = np.array([lo])
    reach, size = hi - lo, max(abs(lo), abs(hi))
    error, slope_error, tall = 0.0, 0.0, size
    parent, flipped, sign = np.zeros(1, np.int64), np.zeros(1, np.int64) - 1, np.zeros(1)
    before = np.ones((1, 1))  # slopes of the last pre-activations on the old intervals
    bits = np.zeros((1, 0), np.uint64)
    certain, repeats = True, 0
    for layer in range(layers):
        n_in, n = sizes[layer], sizes[layer + 1]
        columns = theta[offset : offset + n * n_in].reshape(n_in, n)
        bias = theta[offset + n * n_in : offset + n * n_in + n]
        offset += n * n_in + n
        start = np.dot(value, columns) + bias
        first = np.dot(dense, columns)
        pieces = len(knots) - 1
        slopes = np.empty((pieces, n))
        longest, run = 0, 0
        for k in range(pieces):
            if flipped[k] < 0:
                for m in range(n):
                    slopes[k, m] = first[parent[k], m]
                run = 0
            else:
                run += 1
                longest = max(longest, run)
                j = flipped[k]
                change = sign[k] * before[parent[k], j]
                for m in range(n):
                    slopes[k, m] = slopes[k - 1, m] + change * columns[j, m]
        sums = np.zeros(n)
        for j in range(n_in):
            for m in range(n):
                sums[m] += abs(columns[j, m])
        norm = peak(sums)
        steep = peak(before.ravel())
        slope_error = 1.1 * norm * (slope_error + (n_in + 2 * longest + 4) * U * steep)
        top = peak(slopes.ravel()) * reach + peak(start)
        error = norm * (1 + repeats) * error + reach * slope_error
        error = 1.1 * (error + (4 * pieces + n_in + 8) * U * (top + norm * tall + peak(bias)))
        if layer == layers - 1:
            return certain, knots, bits, slopes, start
        sure, interval, unit, place, bound, on, high = crossings(
            knots, spread, start, slopes, error
        )
        certain &= sure
        tall = high
        total = pieces + len(unit)
        new_knots, new_spread = np.empty(total + 1), np.empty(total + 1)
        new_parent, new_flipped = np.empty(total, np.int64), np.empty(total, np.int64)
        new_sign = np.zeros(total)
        words, earlier = (n + 63) // 64, bits.shape[1]
        new_bits = np.zeros((total, earlier + words), np.uint64)
        new_dense = np.empty((pieces, n))
        state, count = np.zeros(n), np.zeros(n, np.int64)
        here = np.zeros(words, np.uint64)
        for m in range(n):
            if on[m]:
                state[m] = 1.0
                here[m >> 6] |= np.uint64(1) << np.uint64(m & 63)
        at, x, order = 0, 0, np.arange(len(unit))
        for k in range(pieces):
            stop = x
            while stop < len(unit) and interval[stop] == k:
                stop += 1
            sort_places(order, place, x, stop)
            for m in range(n):
                new_dense[k, m] = slopes[k, m] * state[m]
            for i in range(x - 1, stop):
                new_parent[at], new_flipped[at] = k, -1
                new_knots[at], new_spread[at] = knots[k], spread[k]
                if i >= x:
                    event = order[i]
                    m = unit[event]
                    state[m] = 1.0 - state[m]
                    count[m] += 1
                    here[m >> 6] ^= np.uint64(1) << np.uint64(m & 63)
                    new_flipped[at], new_sign[at] = m, 2.0 * state[m] - 1.0
                    new_knots[at], new_spread[at] = place[event], bound[event]
                    previous = new_spread[at - 1] if i > x else 0.0
                    certain &= new_knots[at] - new_knots[at - 1] > previous + bound[event]
                    certain &= 2.0 * slope_error < abs(slopes[k, m])
                for w in range(earlier):
                    new_bits[at, w] = bits[k, w]
                for w in range(words):
                    new_bits[at, earlier + w] = here[w]
                at += 1
            x = stop
        new_knots[total], new_spread[total] = hi, 0.0
        repeats, value = 0, np.zeros(n)
        for m in range(n):
            repeats = max(repeats, count[m])
            value[m] = start[m] if start[m] > 0.0 else 0.0
        knots, spread, bits, parent = new_knots, new_spread, new_bits, new_parent
        flipped, sign, dense, before = new_flipped, new_sign, new_dense, slopes
    return certain, knots, bits, dense, value


def regions_on_lines(kernels, biases, bounds, workers: int | None = None) -> list[Pieces]:
    """Regions of S networks of scalar input on [lo, hi].

    Args:
        kernels: per layer [S, in, out], as Flax keeps them; biases: per layer [S, out]; the last
            layer is linear.
        bounds: (lo, hi).
        workers: threads; None: one a core where the networks are large, else one.

    Raises:
        ValueError: non-finite weights, empty domain, inputs that are not scalar.
    """
    lo, hi = check_bounds([bounds], 1)[0]
    sizes = np.array([np.shape(kernels[0])[1]] + [np.shape(k)[2] for k in kernels])
    if sizes[0] != 1:
        raise ValueError(f"the input must be a scalar, not {sizes[0]} numbers")
    kernels, biases = ([np.asarray(a, np.float64) for a in part] for part in (kernels, biases))
    if not all(np.isfinite(a).all() for a in (*kernels, *biases)):
        raise ValueError("weights must be finite")
    parts = [part for both in zip(kernels, biases, strict=True) for part in both]

    def some(indices):
        # One buffer for all: it stays in the cache, and its memory is asked for once.
        theta = np.empty(sum(part[0].size for part in parts))
        found = []
        for i in indices:
            start = 0
            for part in parts:
                stop = start + part[i].size
                theta[start:stop].reshape(part[i].shape)[...] = part[i]
                start = stop
            found.append(finish(solve(theta, sizes, lo, hi), kernels, biases, i, (lo, hi)))
        return found

    count = len(kernels[0])
    if workers is None:
        workers = available_cpus() if sizes[:-1] @ sizes[1:] >= THREADED else 1
    shares = np.array_split(np.arange(count), max(1, min(workers, count)))
    if len(shares) == 1:
        return some(shares[0])
    # BLAS's own threads would compete with these.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(len(shares)) as pool:
        return [pieces for share in pool.map(some, shares) for pieces in share]


def finish(found, kernels, biases, i, bounds) -> Pieces:
    """Slopes and intercepts, or the exact way when something is not certain."""
    certain, knots, bits, slopes, start = found
    if not certain:
        line = regions_on_line(mlp([k[i].T for k in kernels], [b[i] for b in biases]), [bounds])
        return Pieces(
            line.knots, np.concatenate(line.patterns, 1), line.slopes, line.intercepts, True
        )
    rise = slopes * np.diff(knots)[:, None]
    values = start + np.cumsum(rise, 0) - rise
    return Pieces(knots, bits, slopes, values - slopes * knots[:-1, None], False)
