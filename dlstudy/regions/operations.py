"""The operations of a piecewise affine network, with rigorous float64 error bounds.

Every value is a flat vector per point, so a batch of points is a matrix [V, n]. Each operation
knows three things: its float64 value, a bound on its rounding error, and its exact value.

Error model (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.5): with
u = 2^-53 and gamma_n = n u / (1 - n u), a dot product of length n in any order of summation errs by
at most gamma_n |w|.|x|. A `Value` bounds the error of entry (v, j) by
    r[j] E[v] + ulps * u * |x[v, j]|,
and the 2-norm of the error of row v by N[v]. Rank-one bounds cost O(V + n), not another product.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np

from . import exact
from .compiled import njit

U = 2.0**-53
TINY = 1e-290  # stands for a result that rounded to 0 but is not known to be 0


@dataclasses.dataclass
class Value:
    """A float64 array at all points, with bounds on its distance from the true value.

    An entry equal to 0.0 is exactly zero: structural zeros (two units that are off, under a
    maximum) must not be left to rational arithmetic. Results that cancel to 0.0 become TINY.
    """

    x: np.ndarray  # [V, n]
    norm: np.ndarray  # [V], N: bound on the 2-norm of the row's error
    unit: np.ndarray  # [n], r
    point: np.ndarray  # [V], E
    ulps: int = 0

    def take(self, rows: np.ndarray) -> Value:
        return Value(self.x[rows], self.norm[rows], self.unit, self.point[rows], self.ulps)

    def folded(self) -> Value:
        """The same bound with ulps = 0."""
        if not self.ulps:
            return self
        unit = np.maximum(self.unit, np.abs(self.x).max(0, initial=0.0))
        return Value(self.x, self.norm, unit, self.point + 2 * self.ulps * U)


def row_norms(x: np.ndarray) -> np.ndarray:
    """2-norm of each row, [V]."""
    return np.sqrt(np.einsum("vn,vn->v", x, x))


def exactly(x: np.ndarray) -> Value:
    """A value without error."""
    return Value(x, np.zeros(len(x)), np.ones(x.shape[1]), np.zeros(len(x)))


def after_activation(x: np.ndarray, norm: np.ndarray) -> Value:
    return Value(x, norm, np.ones(x.shape[1]), norm)


def hide_zeros(x: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Mark zeros that are not known to be exact."""
    doubtful = x == 0.0
    if doubtful.any():
        x[doubtful & ~known] = TINY
    return x


@dataclasses.dataclass(frozen=True)
class Pick:
    """out[j] = concat(inputs)[index[j]], or fill[j] where index is -1 (slice, pad, concat, …)."""

    index: np.ndarray  # int [m]
    fill: np.ndarray  # float64 [m]

    def value(self, *inputs: Value) -> Value:
        inputs = [v.folded() for v in inputs]
        x = np.concatenate([v.x for v in inputs], 1) if len(inputs) > 1 else inputs[0].x
        unit = np.concatenate([v.unit for v in inputs])
        outside = self.index < 0
        x, unit = x[:, self.index], unit[self.index]
        if outside.any():
            x[:, outside], unit[outside] = self.fill[outside], 0.0
        uses = np.bincount(self.index[~outside], minlength=1).max(initial=1)
        norm = np.sqrt(uses) * sum(v.norm for v in inputs)
        return Value(x, norm, unit, np.max([v.point for v in inputs], axis=0))

    def exact(self, *inputs: exact.Exact) -> exact.Exact:
        whole = inputs[0]
        for other in inputs[1:]:
            left, right, scale = exact.common(whole, other)
            whole = exact.Exact(np.concatenate([left, right], 1), scale)
        taken = exact.Exact(whole.ints[:, self.index], whole.scale)
        outside = self.index < 0
        if not outside.any():
            return taken
        columns = np.zeros((len(whole.ints), len(self.index)))
        columns[0] = self.fill
        return exact.select(
            np.broadcast_to(~outside, columns.shape), taken, exact.to_exact(columns)
        )


@dataclasses.dataclass(frozen=True)
class Matmul:
    """Patches times matrices: dense layers, convolutions, sums and batched products.

    out[g, p, m] = sum_k x[index[g, p, k]] weight[g, k, m], flattened; index -1 reads 0;
    index None: one group, one patch, the whole input.
    """

    weight: np.ndarray  # float64 [G, K, M]
    index: np.ndarray | None  # int [G, P, K]

    @cached_property
    def bounds(self) -> tuple[np.ndarray, float]:
        """2-norms of the rows of the matrix, [G P M], and a bound on its 2-norm."""
        squares = self.weight**2
        if self.index is None:
            rows = np.sqrt(squares.sum(1)).ravel()
            gram = self.weight[0].T @ self.weight[0]
            if self.weight.shape[2] > self.weight.shape[1]:
                gram = self.weight[0] @ self.weight[0].T
            schatten = np.linalg.norm(gram @ gram) ** 0.25
            return rows, 1.001 * min(schatten, np.linalg.norm(rows))
        groups, patches, length = self.index.shape
        rows = np.sqrt(np.einsum("gpk,gkm->gpm", (self.index >= 0) * 1.0, squares))
        magnitudes = np.abs(self.weight)
        into = np.zeros(self.index.max(initial=0) + 2)
        per_input = np.broadcast_to(magnitudes.sum(2)[:, None], (groups, patches, length))
        np.add.at(into, self.index, per_input)
        interpolated = np.sqrt(into[:-1].max(initial=0.0) * magnitudes.sum(1).max(initial=0.0))
        return rows.ravel() * 1.001, 1.001 * min(interpolated, np.linalg.norm(rows))

    def product(self, x: np.ndarray) -> np.ndarray:
        """[V, n] -> [V, G P M], in slices that stay in cache."""
        if self.index is None:
            return x @ self.weight[0]
        groups, patches, length = self.index.shape
        out = np.empty((len(x), groups, patches, self.weight.shape[2]))
        step = max(1, (1 << 20) // max(1, patches * length))
        for group in range(groups):
            index = self.index[group]
            pad = (index < 0).any()
            for start in range(0, len(x), step):
                rows = x[start : start + step]
                if pad:
                    rows = np.concatenate([rows, np.zeros((len(rows), 1))], 1)
                out[start : start + step, group] = np.take(rows, index, 1) @ self.weight[group]
        return out.reshape(len(x), -1)

    def value(self, v: Value) -> Value:
        rows, operator = self.bounds
        gamma = 1.01 * (self.weight.shape[1] + 2) * U
        rounding = gamma * row_norms(v.x)
        norm = operator * v.norm + np.linalg.norm(rows) * rounding
        x = self.product(v.x)
        zero = (x == 0.0).any(1)
        if zero.any():
            reached = dataclasses.replace(self, weight=(self.weight != 0.0) * 1.0)
            x[zero] = hide_zeros(x[zero], reached.product((v.x[zero] != 0.0) * 1.0) == 0.0)
        return Value(x, norm, rows, 1.001 * (v.norm + rounding))

    def exact(self, v: exact.Exact) -> exact.Exact:
        if self.index is None:
            return exact.matmul(v, exact.to_exact(self.weight[0]))
        zero = np.zeros((len(v.ints), 1), object)
        patches = np.concatenate([v.ints, zero], 1)[:, self.index]
        weight = exact.to_exact(self.weight)
        parts = [np.dot(patches[:, g], weight.ints[g]) for g in range(len(weight.ints))]
        return exact.Exact(np.stack(parts, 1).reshape(len(zero), -1), v.scale * weight.scale)


@dataclasses.dataclass(frozen=True)
class Shift:
    """x + constant."""

    constant: np.ndarray  # float64 [n]

    def value(self, v: Value) -> Value:
        v = v.folded()
        x = hide_zeros(v.x + self.constant, self.constant == 0.0)
        return Value(x, v.norm + U * row_norms(x), v.unit, v.point, 1)

    def exact(self, v: exact.Exact) -> exact.Exact:
        columns = np.zeros((len(v.ints), len(self.constant)))
        columns[0] = self.constant
        return exact.add(v, exact.to_exact(columns))


@dataclasses.dataclass(frozen=True)
class Scale:
    """x times a constant, or divided by it."""

    constant: np.ndarray  # float64 [n]
    inverse: bool = False

    def value(self, v: Value) -> Value:
        x = v.x / self.constant if self.inverse else v.x * self.constant
        size = np.abs(1 / self.constant if self.inverse else self.constant) * 1.001
        norm = v.norm * size.max(initial=0.0) + U * row_norms(x)
        return Value(x, norm, v.unit * size, v.point, v.ulps + 2)

    def exact(self, v: exact.Exact) -> exact.Exact:
        apply = exact.divide if self.inverse else exact.multiply
        return apply(v, exact.to_exact(self.constant[None]))


@dataclasses.dataclass(frozen=True)
class Add:
    """a + b, or a - b."""

    minus: bool = False

    def value(self, a: Value, b: Value) -> Value:
        a, b = a.folded(), b.folded()
        x = hide_zeros(a.x - b.x if self.minus else a.x + b.x, a.x == 0.0)
        unit = np.maximum(a.unit, b.unit)
        return Value(x, a.norm + b.norm + U * row_norms(x), unit, a.point + b.point, 1)

    def exact(self, a: exact.Exact, b: exact.Exact) -> exact.Exact:
        return exact.add(a, exact.Exact(-b.ints, b.scale) if self.minus else b)


@njit()
def rectify(x, norm, out):
    """max(x, 0) into out; entries that may be positive are not set to 0."""
    for v in range(x.shape[0]):
        for j in range(x.shape[1]):
            if x[v, j] > 0.0:
                out[v, j] = x[v, j]
            elif -norm[v] < x[v, j] < 0.0:
                out[v, j] = TINY
            else:
                out[v, j] = 0.0
    return out


@dataclasses.dataclass(frozen=True)
class Kink:
    """x where x > 0, leak * x elsewhere: ReLU (leak 0), leaky ReLU, absolute value (leak -1).

    `group` is None for a unit of the network. Comparisons inside a maximum share a group number:
    their own signs are not part of the pattern, the winners are.
    """

    leak: float = 0.0
    group: int | None = None

    def value(self, x: np.ndarray, norm: np.ndarray, overwrite: bool = False) -> Value:
        """From pre-activations and their row error bounds; a doubtful 0 becomes TINY."""
        if self.leak == 0.0:
            return after_activation(rectify(x, norm, x if overwrite else np.empty_like(x)), norm)
        out = np.where(x > 0, x, self.leak * x)
        return after_activation(out, max(1.0, abs(self.leak)) * norm + U * row_norms(out))

    def masked(self, v: Value, on: np.ndarray) -> Value:
        """With a given pattern on[V, n]."""
        norm = max(1.0, abs(self.leak)) * v.norm + U * row_norms(v.x)
        return after_activation(np.where(on, v.x, self.leak * v.x), norm)

    def exact(self, v: exact.Exact, on: np.ndarray) -> exact.Exact:
        return exact.select(on, v, exact.multiply(v, exact.to_exact([[self.leak]])))


@dataclasses.dataclass(frozen=True)
class Winners:
    """End of a maximum of `count` entries in each of `windows`; the value passes unchanged.

    Regions that differ only in the order of entries that lost become one again.
    """

    group: int
    count: int
    windows: int

    def value(self, v: Value) -> Value:
        return v

    def exact(self, v: exact.Exact) -> exact.Exact:
        return v
