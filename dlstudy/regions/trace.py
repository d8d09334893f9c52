"""From any JAX function to a `Network`: walk its jaxpr, name what cannot be handled exactly."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from . import primitives
from .network import Network, Step
from .operations import Add, Kink, Pick, Scale, Shift, Winners

INLINED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
SUPPORTED = (
    "dense, convolutional, average- and max-pooling layers, ReLU, leaky ReLU, absolute value, "
    "clipping, batch norm in evaluation mode, residual and other sums, reshapes, slices, padding "
    "and concatenation"
)


class UnsupportedLayer(ValueError):
    """The function is not piecewise affine by construction, or not in a supported form."""


def unsupported(name: str, why: str = "") -> UnsupportedLayer:
    why = f" ({why})" if why else ""
    return UnsupportedLayer(f"cannot handle `{name}`{why} exactly; supported: {SUPPORTED}")


class Variable:
    """An array that depends on the input: number of its flat value, and shape.

    Attributes:
        scaled: (value, factor) if it is that value times a number.
        entries: picks (value, index) whose entrywise maximum it is, or None.
    """

    def __init__(self, value, shape, scaled=None, entries=None):
        self.value, self.shape = value, tuple(shape)
        self.scaled, self.entries = scaled or (value, 1.0), entries

    @property
    def size(self):
        return int(np.prod(self.shape))


class Comparison:
    """The truth of `variable - constant` compared with 0, used by select_n."""

    def __init__(self, value, above: bool):
        self.value, self.above = value, above


class Order:
    """The truth of `larger > smaller`, two variables, used by select_n.

    Attributes:
        equal: what it is where they are equal.
    """

    def __init__(self, larger: Variable, smaller: Variable, equal: bool):
        self.larger, self.smaller, self.equal = larger, smaller, equal


class Builder:
    """Appends steps; numbers values and maxima."""

    def __init__(self):
        self.steps, self.values, self.groups = [], 1, 0

    def emit(self, op, inputs, shape, **notes) -> Variable:
        self.steps.append(Step(op, tuple(inputs), self.values))
        self.values += 1
        return Variable(self.values - 1, shape, **notes)

    def pick(self, variables, index, fill, shape) -> Variable:
        """Entries of the variables' concatenation; no step if that is a mere reshape."""
        index = np.asarray(index).ravel()
        if len(variables) > 1:
            return self.emit(Pick(index, fill), [v.value for v in variables], shape)
        v = variables[0]
        if len(index) == v.size and (index == np.arange(v.size)).all():
            return Variable(v.value, shape, v.scaled, v.entries)
        entries = None
        if v.entries and (index >= 0).all():
            entries = [(source, own[index]) for source, own in v.entries]
        return self.emit(Pick(index, fill), [v.value], shape, entries=entries)

    def shift(self, v, constant) -> Variable:
        constant = np.broadcast_to(constant, v.shape).ravel()
        return self.emit(Shift(constant), [v.value], v.shape) if constant.any() else v

    def scale(self, v, constant, inverse=False) -> Variable:
        flat = np.broadcast_to(constant, v.shape).ravel()
        scaled = None
        if not inverse and flat.size and (flat == flat[0]).all():
            scaled = (v.scaled[0], v.scaled[1] * float(flat[0]))
        return self.emit(Scale(flat, inverse), [v.value], v.shape, scaled=scaled)

    def add(self, a, b, minus=False) -> Variable:
        return self.emit(Add(minus), [a.value, b.value], a.shape)

    def kink(self, v, leak=0.0, group=None) -> Variable:
        return self.emit(Kink(leak, group), [v.value], v.shape)

    def maximum(self, entries, shape) -> Variable:
        """Entrywise maximum of picks (value, index): a tournament, then its winners.

        The first of equal entries wins. d = right - left is on iff right wins; comparisons
        between losers are undone by the `Winners` step. Index -1 is a missing entry; the first
        pick has none.
        """
        group, count = self.groups, len(entries)
        self.groups += 1
        windows = int(np.prod(shape))
        columns = [
            (
                self.emit(Pick(np.maximum(index, 0), np.zeros(windows)), [value], (windows,)),
                index >= 0,
            )
            for value, index in entries
        ]
        while len(columns) > 1:
            half = len(columns) // 2
            left, right = columns[0 : 2 * half : 2], columns[1 : 2 * half : 2]
            present = np.concatenate([valid for _, valid in right])
            left, right = self.join([v for v, _ in left]), self.join([v for v, _ in right])
            lead = self.add(right, left, True)
            index = np.where(present, np.arange(lead.size), -1)  # a missing entry never wins
            lead = self.pick([lead], index, np.where(present, 0.0, -1.0), lead.shape)
            best = self.add(left, self.kink(lead, 0.0, group))
            pieces = np.arange(half * windows).reshape(half, windows)
            columns = [
                (self.pick([best], piece, np.zeros(windows), (windows,)), columns[2 * i][1])
                for i, piece in enumerate(pieces)
            ] + columns[2 * half :]
        return self.emit(
            Winners(group, count, windows), [columns[0][0].value], shape, entries=entries
        )

    def join(self, columns) -> Variable:
        size = sum(c.size for c in columns)
        return self.pick(columns, np.arange(size), np.zeros(size), (size,))


def network_of(apply_fn, params, shape) -> Network:
    """The network x -> apply_fn(params, x[None]) for x of this shape.

    Floating-point parameters are taken as the exact real numbers they are, in float64; the first
    array that apply_fn returns is the output. Types may mix while it is traced, even if
    `jax_numpy_dtype_promotion` is strict: parameters in float64 meet constants of other types.
    Conversions between floating-point types inside apply_fn are taken as exact.

    Raises:
        UnsupportedLayer: names the primitive.
        ValueError: non-finite parameters.
    """
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        params = jax.tree.map(as_float64, params)

        def first(x):
            return jax.tree.leaves(apply_fn(params, x))[0]

        closed = jax.make_jaxpr(first)(jnp.zeros((1, *shape), jnp.float64))
        builder = Builder()
        start = Variable(0, (1, *shape))
        (out,) = walk(builder, closed.jaxpr, [np.asarray(c) for c in closed.consts], [start])
    if not isinstance(out, Variable):
        raise ValueError("the output does not depend on the input")
    return pruned(Network(tuple(builder.steps), start.size, out.value))


def as_float64(leaf):
    leaf = np.asarray(leaf)
    if not np.issubdtype(leaf.dtype, np.floating) and leaf.dtype != jnp.bfloat16:
        return leaf
    leaf = leaf.astype(np.float64)
    if not np.isfinite(leaf).all():
        raise ValueError("parameters must be finite")
    return leaf


def walk(builder, jaxpr, consts, inputs) -> list:
    """Interpret a jaxpr on variables and constants (NumPy arrays)."""
    env = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom):
        return np.asarray(atom.val) if isinstance(atom, core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        outputs = interpret(builder, eqn, [read(a) for a in eqn.invars])
        env.update(zip(eqn.outvars, outputs, strict=True))
    return [read(a) for a in jaxpr.outvars]


def interpret(builder, eqn, inputs) -> list:
    """Outputs of one equation."""
    name = eqn.primitive.name
    if name.startswith(("random_", "threefry")):
        raise unsupported(name, "random numbers: is dropout on?")
    inner = next((eqn.params[key] for key in INLINED if key in eqn.params), None)
    if inner is not None and name not in ("while", "scan", "cond"):
        consts = getattr(inner, "consts", ())
        return walk(
            builder, getattr(inner, "jaxpr", inner), [np.asarray(c) for c in consts], inputs
        )
    if not any(isinstance(i, (Variable, Comparison, Order)) for i in inputs):
        found = eqn.primitive.bind(*inputs, **eqn.params)
        return [np.asarray(f) for f in (found if eqn.primitive.multiple_results else [found])]
    handler = primitives.HANDLERS.get(name)
    if handler is None:
        raise unsupported(name)
    try:
        found = handler(builder, eqn, *inputs)
    except primitives.Refused as why:
        raise unsupported(name, str(why)) from None
    return found if isinstance(found, list) else [found]


def pruned(network: Network) -> Network:
    """Without steps that do not reach the output."""
    needed, kept = {network.output}, []
    for step in reversed(network.steps):
        if step.output in needed:
            needed.update(step.inputs)
            kept.append(step)
    return Network(tuple(kept[::-1]), network.input_size, network.output)
