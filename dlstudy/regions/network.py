"""A piecewise affine network as a flat list of operations; value 0 is the input."""

from __future__ import annotations

import dataclasses

import numpy as np

from .operations import Kink, Matmul, Shift


@dataclasses.dataclass(frozen=True)
class Step:
    """values[output] = op(values[inputs])."""

    op: object
    inputs: tuple[int, ...]
    output: int


@dataclasses.dataclass(frozen=True)
class Network:
    """Steps in order of evaluation."""

    steps: tuple[Step, ...]
    input_size: int
    output: int

    def kinks(self) -> list[Step]:
        return [s for s in self.steps if isinstance(s.op, Kink)]


def mlp(weights, biases) -> Network:
    """ReLU network from weights [out, in] and biases [out]; the last layer is linear."""
    steps, last = [], 0
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        weight = np.asarray(weight, np.float64)
        steps.append(Step(Matmul(weight.T[None], None), (last,), last + 1))
        steps.append(Step(Shift(np.asarray(bias, np.float64)), (last + 1,), last + 2))
        last += 2
        if i + 1 < len(weights):
            steps.append(Step(Kink(), (last,), last + 1))
            last += 1
    return Network(tuple(steps), np.shape(weights[0])[1], last)


def on_subspace(network: Network, origin, basis) -> Network:
    """The network after x = origin + basis @ u; origin [D], basis [D, d]."""
    basis = np.asarray(basis, np.float64)
    offset = 2
    head = (Step(Matmul(basis.T[None], None), (0,), 1), Step(Shift(np.asarray(origin)), (1,), 2))
    body = tuple(
        Step(s.op, tuple(i + offset for i in s.inputs), s.output + offset) for s in network.steps
    )
    return Network(head + body, basis.shape[1], network.output + offset)
