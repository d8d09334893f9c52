"""Exact counts of tiny networks by rational arithmetic; shares no code with the library.

A network is a list of layers; a layer is ("affine", function of object array [n, d + 1] of affine
forms), ("leaky", slope) or ("max", windows as lists of indices). Cells are convex polygons (or
intervals) with Fraction corners, cut by every form in turn.
"""

from fractions import Fraction

import numpy as np


def exact(x):
    """float64 -> object array of Fractions."""
    return np.vectorize(Fraction, otypes=[object])(np.asarray(x, float))


def affine(weight, bias):
    weight, bias = exact(weight), exact(bias)

    def apply(forms):
        out = weight @ forms
        out[:, 0] = out[:, 0] + bias
        return out

    return ("affine", apply)


def at(form, point):
    return form[0] + sum(c * x for c, x in zip(form[1:], point, strict=True))


def cut(corners, form):
    """Parts of a convex cell on the two sides of a form; the cell itself if it is not crossed."""
    values = [at(form, p) for p in corners]
    if not (min(values) < 0 < max(values)):
        return [corners]
    parts = []
    for sign in (1, -1):
        part = []
        for i, p in enumerate(corners):
            v, w, q = values[i], values[(i + 1) % len(corners)], corners[(i + 1) % len(corners)]
            if sign * v >= 0:
                part.append(p)
            if v * w < 0 and (len(corners) > 2 or i == 0):
                t = v / (v - w)
                part.append(tuple(a + t * (b - a) for a, b in zip(p, q, strict=True)))
        parts.append(part)
    return parts


def centre(corners):
    return tuple(sum(c) / len(corners) for c in zip(*corners, strict=True))


def measure(corners):
    if len(corners[0]) == 1:
        return abs(corners[1][0] - corners[0][0])
    x, y = zip(*corners, strict=True)
    n = len(corners)
    return sum(x[i] * y[(i + 1) % n] - x[(i + 1) % n] * y[i] for i in range(n)) / 2


def cells(layers, start, bounds):
    """List of (corners, pattern, output forms) of the arrangement, losers' cuts included.

    Args:
        start: affine forms of the inputs, [D, d + 1].
    """
    if len(bounds) == 1:
        corners = [(Fraction(b),) for b in bounds[0]]
    else:
        (a, b), (c, d) = [[Fraction(x) for x in bound] for bound in bounds]
        corners = [(a, c), (b, c), (b, d), (a, d)]
    found = [(corners, (), exact(start))]
    for kind, what in layers:
        if kind == "affine":
            found = [(c, p, what(f)) for c, p, f in found]
            continue
        following = []
        for corners, pattern, forms in found:
            if kind == "leaky":
                lines = list(forms)
            else:
                lines = [forms[i] - forms[j] for w in what for i in w for j in w if i < j]
            parts = [corners]
            for line in lines:
                parts = [piece for part in parts for piece in cut(part, line)]
            for part in parts:
                here = [at(f, centre(part)) for f in forms]
                if kind == "leaky":
                    on = tuple(v > 0 for v in here)
                    new = [f if s else Fraction(what) * f for f, s in zip(forms, on, strict=True)]
                else:
                    on = tuple(
                        next(i for i in w if here[i] == max(here[j] for j in w)) for w in what
                    )
                    new = [forms[i] for i in on]
                following.append((part, pattern + on, np.array(new)))
        found = following
    return found


def regions(layers, start, bounds):
    """Number of distinct patterns (each is one convex region)."""
    return len({pattern for _, pattern, _ in cells(layers, start, bounds)})


IDENTITY = {1: [[0, 1]], 2: [[0, 1, 0], [0, 0, 1]]}


def network(weights, biases, dimension, bounds):
    """Cells of a ReLU network on the identity plane or line."""
    layers = []
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        layers.append(affine(w, b))
        if i + 1 < len(weights):
            layers.append(("leaky", 0.0))
    return cells(layers, IDENTITY[dimension], bounds)
