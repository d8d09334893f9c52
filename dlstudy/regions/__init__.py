"""Exact activation regions of piecewise affine networks: on a line, on a plane, over training.

    from dlstudy.regions import plane, segment
    found = plane(model.apply, {"params": params}, origin, basis, [[-1, 1], [-1, 1]])
    found.n_regions, found.areas, found.patterns, found.adjacency

Counting rule: a region is a maximal connected set of positive length or area on which the pattern
is constant; a unit is on iff its pre-activation is positive; of a maximum the winner counts (the
first of equal ones). The network is the real function its float64 weights define, and every count
is that function's: what float64 bounds leave open is settled in rational arithmetic.

Method. The arrangement is built layer by layer: inside a region of the layers so far every unit of
the next layer is affine, so its zeros are a straight line that cuts the (convex) region in two.
Only three kinds of decision depend on numbers: the sign of a unit at a vertex, the order of two
units along an edge, and the order of two lines along a third; everything else is combinatorics, so
that rounding cannot make it contradict itself. Each decision is taken in float64 under a bound on
its rounding error and, where the bound does not decide, in integers. The bounds leave out
underflow.

Sources. That a ReLU network is affine on convex polytopes cut by successive layers: Montúfar,
Pascanu, Cho and Bengio, "On the Number of Linear Regions of Deep Neural Networks", 2014; counting
by activation patterns on lines and planes: Hanin and Rolnick, "Deep ReLU Networks Have Surprisingly
Few Activation Patterns", 2019. Error bounds: Higham, "Accuracy and Stability of Numerical
Algorithms", 2002, section 3.5. Float64 first, exact arithmetic where it does not decide: Shewchuk,
"Adaptive Precision Floating-Point Arithmetic and Fast Robust Geometric Predicates", 1997.

Names are loaded on first use, so that importing this package costs neither JAX nor Numba.
"""

import importlib

MODULES = {
    "certificate": ("Certificate", "audit_grid", "certify", "point_patterns"),
    "linear": ("Line", "polyline", "regions_on_line", "segment"),
    "lines": ("Pieces", "regions_on_lines"),
    "maps": ("fitted_maps", "masked_maps"),
    "network": ("Network", "mlp", "on_subspace"),
    "planar": ("Plane", "plane", "regions_of"),
    "statistics": (
        "boundary_length_by_layer",
        "decision_boundary",
        "density",
        "depth_of_first_change",
        "edge_lengths",
        "in_disc",
        "regions_by_layer",
    ),
    "trace": ("UnsupportedLayer", "network_of"),
    "tracking": ("between", "track"),
}
_HOME = {name: module for module, names in MODULES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
