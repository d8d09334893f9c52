"""Exact arithmetic on float64 numbers: every finite float64 is an integer times a power of two.

Used only where a rigorous float64 bound cannot decide a sign or an order, so it favours clarity
over speed: NumPy object arrays of Python integers, with one positive rational scale per array.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np


class Exact(NamedTuple):
    """The array `ints * scale`, without rounding."""

    ints: np.ndarray  # object (Python integers), any shape
    scale: Fraction  # positive


def to_exact(values) -> Exact:
    """Integers and scale of a float64 array; raises ValueError on a non-finite entry."""
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("exact arithmetic needs finite numbers")
    mantissa, exponent = np.frexp(values)
    whole = (mantissa * 2.0**53).astype(np.int64)
    exponent = np.where(whole == 0, 0, exponent)
    used = exponent[whole != 0]
    lowest = int(used.min()) if used.size else 0
    shift = np.where(whole == 0, 0, exponent - lowest)
    ints = np.empty(values.shape, object)
    ints.ravel()[:] = [int(w) << int(s) for w, s in zip(whole.ravel(), shift.ravel(), strict=True)]
    return Exact(ints, Fraction(2) ** (lowest - 53))


def common(a: Exact, b: Exact) -> tuple[np.ndarray, np.ndarray, Fraction]:
    """Integers of both arrays on one scale."""
    ratio = a.scale / b.scale
    scale = b.scale / ratio.denominator
    return a.ints * ratio.numerator, b.ints * ratio.denominator, scale


def add(a: Exact, b: Exact) -> Exact:
    left, right, scale = common(a, b)
    return Exact(left + right, scale)


def multiply(a: Exact, b: Exact) -> Exact:
    """Elementwise, with broadcasting."""
    return Exact(a.ints * b.ints, a.scale * b.scale)


def divide(a: Exact, b: Exact) -> Exact:
    """Elementwise, with broadcasting; raises ZeroDivisionError where b is 0."""
    least = math.lcm(*(abs(i) for i in b.ints.ravel()))
    if least == 0:
        raise ZeroDivisionError("division by a constant that is 0")
    inverse = np.frompyfunc(lambda i: least // i, 1, 1)(b.ints).astype(object)
    return Exact(a.ints * inverse, a.scale / b.scale / least)


def matmul(a: Exact, b: Exact) -> Exact:
    """a[..., K] times b[K, M]."""
    flat = a.ints.reshape(-1, a.ints.shape[-1])
    return Exact(np.dot(flat, b.ints).reshape(*a.ints.shape[:-1], -1), a.scale * b.scale)


def select(mask: np.ndarray, a: Exact, b: Exact) -> Exact:
    """a where mask, else b."""
    left, right, scale = common(a, b)
    return Exact(np.where(mask, left, right), scale)


def differ(a: Exact, b: Exact) -> bool:
    """Whether two arrays differ anywhere."""
    left, right, _ = common(a, b)
    return bool((left != right).any())


def sign(value) -> int:
    return (value > 0) - (value < 0)


def cross(a, b):
    """Homogeneous point common to two lines, or line through two points; integers [3] each."""
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )


def sign_at(line, point) -> int:
    """Sign of line[0] + line[1] u1 + line[2] u2 at a homogeneous point (weight first)."""
    total = sum(c * p for c, p in zip(line, point, strict=True))
    return sign(total) * sign(point[0])


def order_along(line, others, rising) -> list[int]:
    """Order in which other lines meet a directed line.

    Args:
        line: integers (c, a, b) of the line c + a u1 + b u2 = 0.
        others: lines that each meet it in one point.
        rising: for each of them, whether it increases in the line's direction.

    Returns:
        Ranks from 0, equal for lines through the same point.
    """
    direction = (-line[2], line[1])
    slope = others[0][1] * direction[0] + others[0][2] * direction[1]
    forward = 1 if (slope > 0) == bool(rising[0]) else -1
    places = []
    for other in others:
        weight, x, y = cross(line, other)
        places.append(forward * Fraction(x * direction[0] + y * direction[1], weight))
    ranks = {place: rank for rank, place in enumerate(sorted(set(places)))}
    return [ranks[place] for place in places]
