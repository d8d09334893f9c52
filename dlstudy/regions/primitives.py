"""What each JAX primitive does to a piecewise affine function."""

from __future__ import annotations

import itertools

import numpy as np

from .operations import Matmul


class Refused(Exception):
    """This use of a primitive is not supported; the message says why."""


def variable(x) -> bool:
    return hasattr(x, "entries")


def structural(builder, eqn, *inputs):
    """Primitives that only move entries: run them on entry numbers."""
    data = 1 if eqn.primitive.name in ("gather", "dynamic_slice") else len(inputs)
    if any(not isinstance(i, np.ndarray) for i in inputs[data:]):
        raise Refused("indices depend on the input")
    variables, constants, numbers = [], [], []
    total = sum(i.size for i in inputs[:data] if variable(i))
    used, tail = 0, total
    for x in inputs[:data]:
        start = used if variable(x) else tail
        numbers.append(np.arange(start, start + x.size).reshape(x.shape))
        if variable(x):
            variables.append(x)
            used += x.size
        else:
            constants.append(np.asarray(x, np.float64).ravel())
            tail += x.size
    table = np.concatenate([np.zeros(total), *constants])
    found = eqn.primitive.bind(*numbers, *inputs[data:], **eqn.params)
    found = found if eqn.primitive.multiple_results else [found]
    outputs = []
    for numbers in found:
        index = np.asarray(numbers).ravel()
        if index.size and (index.min() < 0 or index.max() >= tail):
            raise Refused("reads outside the array")
        outside = index >= total
        fill = np.where(outside, table[index], 0.0)
        outputs.append(builder.pick(variables, np.where(outside, -1, index), fill, numbers.shape))
    return outputs


def same(builder, eqn, x):
    """Copies and conversions between floating-point types, taken as exact."""
    new = eqn.params.get("new_dtype")
    if new is not None and not np.issubdtype(new, np.inexact) and "float" not in str(new):
        raise Refused("conversion to a type without fractions")
    return x


def add(builder, eqn, a, b):
    if variable(a) and variable(b):
        return builder.add(a, b)
    return builder.shift(a, b) if variable(a) else builder.shift(b, a)


def subtract(builder, eqn, a, b):
    if variable(a) and variable(b):
        return builder.add(a, b, True)
    return builder.shift(a, -b) if variable(a) else builder.shift(builder.scale(b, -1.0), a)


def multiply(builder, eqn, a, b):
    if variable(a) and variable(b):
        raise Refused("a product of two functions of the input; batch norm in training mode?")
    return builder.scale(a, b) if variable(a) else builder.scale(b, a)


def divide(builder, eqn, a, b):
    if variable(b):
        raise Refused("the divisor depends on the input")
    if not np.all(b):
        raise Refused("division by 0")
    return builder.scale(a, b, inverse=True)


def dot_general(builder, eqn, a, b):
    if variable(a) and variable(b):
        raise Refused("a product of two functions of the input")
    (contract_a, contract_b), (batch_a, batch_b) = eqn.params["dimension_numbers"]
    swap = variable(b)
    x, w = (b, a) if swap else (a, b)
    contract_x, contract_w = (contract_b, contract_a) if swap else (contract_a, contract_b)
    batch_x, batch_w = (batch_b, batch_a) if swap else (batch_a, batch_b)
    free_x = [i for i in range(len(x.shape)) if i not in (*contract_x, *batch_x)]
    free_w = [i for i in range(w.ndim) if i not in (*contract_w, *batch_w)]
    groups = int(np.prod([x.shape[i] for i in batch_x]))
    length = int(np.prod([x.shape[i] for i in contract_x]))
    index = np.arange(x.size).reshape(x.shape).transpose(*batch_x, *free_x, *contract_x)
    weight = w.transpose(*batch_w, *contract_w, *free_w).reshape(groups, length, -1)
    product = patches_times(builder, x, index.reshape(groups, -1, length), weight)
    if not swap:
        return Reshape(builder, product, np.arange(product.size), eqn)
    order = np.arange(product.size).reshape(groups, -1, weight.shape[2]).transpose(0, 2, 1)
    return Reshape(builder, product, order, eqn)


def patches_times(builder, x, index, weight):
    """Variable of flat size G P M."""
    size = index.shape[0] * index.shape[1] * weight.shape[2]
    whole = index.size == x.size and (index.ravel() == np.arange(x.size)).all()
    index = None if whole and index.shape[:2] == (1, 1) else index
    return builder.emit(Matmul(np.ascontiguousarray(weight, np.float64), index), [x.value], (size,))


def Reshape(builder, v, order, eqn):
    shape = eqn.outvars[0].aval.shape
    return builder.pick([v], order, np.zeros(v.size), shape)


def windows(numbers, size, strides, padding, dilation, base):
    """Entry numbers of sliding windows: [*spatial] -> [*out, prod(size)]; -1 in the padding."""
    for axis, (low, high) in enumerate(padding):
        if base[axis] > 1:
            spread = list(numbers.shape)
            spread[axis] = (spread[axis] - 1) * base[axis] + 1
            wide = np.full(spread, -1)
            wide[(slice(None),) * axis + (slice(None, None, base[axis]),)] = numbers
            numbers = wide
        crop = (slice(None),) * axis + (slice(max(0, -low), numbers.shape[axis] - max(0, -high)),)
        numbers = numbers[crop]
        pad = [(0, 0)] * numbers.ndim
        pad[axis] = (max(0, low), max(0, high))
        numbers = np.pad(numbers, pad, constant_values=-1)
    reach = [(s - 1) * d + 1 for s, d in zip(size, dilation, strict=True)]
    axes = tuple(range(len(size)))
    view = np.lib.stride_tricks.sliding_window_view(numbers, reach, axis=axes)
    view = view[tuple(slice(None, None, s) for s in strides)]
    tail = (slice(None),) * (view.ndim - len(size)) + tuple(slice(None, None, d) for d in dilation)
    return view[tail]


def convolution(builder, eqn, x, kernel):
    if not variable(x) or variable(kernel):
        raise Refused("the kernel depends on the input")
    p = eqn.params
    if p["batch_group_count"] != 1:
        raise Refused("batch_group_count")
    lhs, rhs, out = p["dimension_numbers"]
    kernel = kernel.transpose(rhs)  # O, I, *spatial
    groups, (outputs, inputs), size = p["feature_group_count"], kernel.shape[:2], kernel.shape[2:]
    numbers = np.arange(x.size).reshape(x.shape).transpose(lhs)
    batch, channels = numbers.shape[:2]
    patches = [
        [
            windows(
                numbers[n, c],
                size,
                p["window_strides"],
                p["padding"],
                p["rhs_dilation"],
                p["lhs_dilation"],
            )
            for c in range(channels)
        ]
        for n in range(batch)
    ]
    patches = np.array(patches)  # N, C, *out, *size
    spatial = patches.shape[2 : 2 + len(size)]
    index = patches.reshape(batch, groups, inputs, int(np.prod(spatial)), -1)
    index = index.transpose(1, 0, 3, 2, 4).reshape(groups, batch * int(np.prod(spatial)), -1)
    weight = kernel.reshape(groups, outputs // groups, -1).transpose(0, 2, 1)
    product = patches_times(builder, x, index, weight)
    order = np.arange(product.size).reshape(groups, batch, *spatial, outputs // groups)
    order = np.moveaxis(order, (1, 0, -1), (0, 1, 2)).reshape(batch, outputs, *spatial)
    return Reshape(builder, product, order.transpose(np.argsort(out)), eqn)


def reduced(eqn, x):
    """Entry numbers [out, K] of a reduction over axes."""
    axes = tuple(a % len(x.shape) for a in eqn.params["axes"])
    kept = [a for a in range(len(x.shape)) if a not in axes]
    order = np.arange(x.size).reshape(x.shape).transpose(*kept, *axes)
    return order.reshape(int(np.prod([x.shape[a] for a in kept])), -1)


def pooled(eqn, x):
    """Entry numbers [out, K] of a reduce_window."""
    p = eqn.params
    size = p["window_dimensions"]
    found = windows(
        np.arange(x.size).reshape(x.shape),
        size,
        p["window_strides"],
        p["padding"],
        p["window_dilation"],
        p["base_dilation"],
    )
    return found.reshape(-1, int(np.prod(size)))


def total(rows):
    def handler(builder, eqn, x):
        index = rows(eqn, x)
        ones = np.ones((1, index.shape[1], 1))
        return Reshape(
            builder, patches_times(builder, x, index[None], ones), np.arange(len(index)), eqn
        )

    return handler


def largest(rows):
    def handler(builder, eqn, x):
        index = rows(eqn, x)
        index = np.take_along_axis(index, np.argsort(index < 0, 1, kind="stable"), 1)
        entries = [(x.value, column) for column in index.T]
        shape = eqn.outvars[0].aval.shape
        return (
            builder.maximum(entries, shape)
            if len(entries) > 1
            else structural_pick(builder, x, index[:, 0], shape)
        )

    return handler


def structural_pick(builder, x, index, shape):
    return builder.pick([x], index, np.zeros(len(index)), shape)


def maximum(builder, eqn, a, b):
    if variable(a) and variable(b):
        whole = np.arange(a.size)
        entries = list(
            itertools.chain(a.entries or [(a.value, whole)], b.entries or [(b.value, whole)])
        )
        return builder.maximum(entries, a.shape)
    x, floor = (a, b) if variable(a) else (b, a)
    if np.all(np.isneginf(floor)):
        return x
    return builder.shift(builder.kink(builder.shift(x, -floor)), floor)


def minimum(builder, eqn, a, b):
    def turn(x):
        return builder.scale(x, -1.0) if variable(x) else -x

    return turn(maximum(builder, eqn, turn(a), turn(b)))


def clamp(builder, eqn, low, x, high):
    if not variable(x) or variable(low) or variable(high):
        raise Refused("bounds that depend on the input")
    return minimum(builder, eqn, maximum(builder, eqn, x, low), high)


def compare(above):
    def handler(builder, eqn, a, b):
        from .trace import Comparison, Order

        if variable(a) and variable(b):
            return Order(*((a, b) if above else (b, a)), eqn.primitive.name in ("ge", "le"))
        if variable(a) and not variable(b) and not np.any(b):
            return Comparison(a.scaled[0], above == (a.scaled[1] > 0))
        if variable(b) and not variable(a) and not np.any(a):
            return Comparison(b.scaled[0], above != (b.scaled[1] > 0))
        raise Refused("only comparisons with 0")

    return handler


def select(builder, eqn, which, off, on):
    """where(x > 0, a x, b x), a leaky ReLU; where(x > y, x, y), a maximum."""
    if hasattr(which, "larger"):
        return select_larger(builder, eqn, which, off, on)
    if not hasattr(which, "above"):
        raise Refused("the condition is not a comparison with 0")
    slopes = []
    for branch in (off, on) if which.above else (on, off):
        if variable(branch) and branch.scaled[0] == which.value:
            slopes.append(branch.scaled[1])
        elif not variable(branch) and not np.any(branch):
            slopes.append(0.0)
        else:
            raise Refused("a branch is not a multiple of the compared value")
    below, up = slopes
    shape = eqn.outvars[0].aval.shape
    x = builder.pick([_Bare(which.value, shape)], np.arange(int(np.prod(shape))), None, shape)
    if up == 0.0:
        return builder.scale(builder.kink(builder.scale(x, -1.0)), -below)
    out = builder.kink(x, below / up)
    return out if up == 1.0 else builder.scale(out, up)


def select_larger(builder, eqn, which, off, on):
    """where(x > y, x, y) or its opposite; of equal ones the first is what `where` takes."""
    if not (variable(on) and variable(off)):
        raise Refused("a branch is not one of the compared values")
    first, second = (on, off) if which.equal else (off, on)
    if (on.value, off.value) == (which.larger.value, which.smaller.value):
        return maximum(builder, eqn, first, second)
    if (off.value, on.value) == (which.larger.value, which.smaller.value):
        return minimum(builder, eqn, first, second)
    raise Refused("a branch is not one of the compared values")


class _Bare:
    """A variable without notes."""

    def __init__(self, value, shape):
        self.value, self.shape, self.size = value, shape, int(np.prod(shape))
        self.scaled, self.entries = (value, 1.0), None


MOVES = (
    "reshape",
    "squeeze",
    "expand_dims",
    "transpose",
    "slice",
    "rev",
    "broadcast_in_dim",
    "pad",
    "concatenate",
    "stack",
    "dynamic_slice",
    "gather",
    "split",
    "unstack",
)


def refuse(why: str):
    """A handler that says what a smooth primitive usually comes from."""

    def handler(builder, eqn, *inputs):
        raise Refused(why)

    return handler


_SQUARE = refuse("a product of functions of the input; batch norm in training mode, or layer norm?")
_EXPONENTIAL = refuse("a smooth function; softmax inside the network?")

HANDLERS = (
    dict.fromkeys(MOVES, structural)
    | dict.fromkeys(
        (
            "convert_element_type",
            "copy",
            "copy_p",
            "reduce_precision",
            "device_put",
            "optimization_barrier",
            "stop_gradient",
        ),
        same,
    )
    | {
        "add": add,
        "add_any": add,
        "sub": subtract,
        "mul": multiply,
        "div": divide,
        "neg": lambda builder, eqn, x: builder.scale(x, -1.0),
        "square": _SQUARE,
        "integer_pow": _SQUARE,
        "rsqrt": _SQUARE,
        "exp": _EXPONENTIAL,
        "logistic": refuse("a smooth function; sigmoid or swish?"),
        "abs": lambda builder, eqn, x: builder.kink(x, -1.0),
        "dot_general": dot_general,
        "conv_general_dilated": convolution,
        "reduce_sum": total(reduced),
        "reduce_window_sum": total(pooled),
        "reduce_max": largest(reduced),
        "reduce_window_max": largest(pooled),
        "max": maximum,
        "min": minimum,
        "clamp": clamp,
        "select_n": select,
        "gt": compare(True),
        "ge": compare(True),
        "lt": compare(False),
        "le": compare(False),
    }
)
