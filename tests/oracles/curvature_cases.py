"""Curvature of small CNNs, computed elsewhere in float64, in this project's parameter layout.

The files name the layers conv1, conv2 and dense and flatten images in the order height, width,
channel; `models.CNN` names them conv_0, conv_1 and head, flattens channel, height, width, and
stores the head's kernel as [outputs, inputs].
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

FOLDER = Path(__file__).parents[3] / "shared" / "cases" / "curvature"
LAYERS = {"conv1": "conv_0", "conv2": "conv_1", "dense": "head"}


class Case(NamedTuple):
    """One network, its data, and what is known of it."""

    images: np.ndarray  # [N, H, W, 1]
    labels: np.ndarray  # int32[N]
    params: dict  # {layer: {"bias", "kernel"}}
    widths: tuple[int, int]
    classes: int
    arrays: dict  # flat vectors in the files' own order
    numbers: dict

    def tree(self, flat):
        """A flat vector of the files as a tree like `params`."""
        tree, start = {}, 0
        for layer, leaves in sorted(self.params.items()):
            tree[layer] = {}
            for name in ("bias", "kernel"):
                shape = leaves[name].shape
                shape = shape[::-1] if layer == "head" else shape  # as the files have it
                size = int(np.prod(shape))
                tree[layer][name] = flat[start : start + size].reshape(shape)
                start += size
        assert start == flat.size
        tree["head"]["kernel"] = self._permuted(tree["head"]["kernel"])
        return tree

    def _permuted(self, kernel):
        """A head [inputs, outputs] of height, width, channel to [outputs, inputs] of ours."""
        side = self.images.shape[1] // 4
        rows = kernel.reshape(side, side, self.widths[-1], -1)
        return rows.transpose(3, 2, 0, 1).reshape(kernel.shape[::-1])


def load(name: str, state: str, dtype) -> Case:
    """The case `name` ("tiny", "cnn2") at `state` ("init", "trained"), floats as `dtype`.

    Skips the test where a checkout has no such files; in continuous integration it must.
    """
    if not FOLDER.is_dir():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs the shared cases")
    with np.load(FOLDER / f"{name}_data.npz") as data:
        images, labels = data["x"].astype(dtype), data["y"]
    with np.load(FOLDER / f"{name}_{state}.npz") as file:
        arrays = {k: file[k] for k in file.files}
    params = {
        ours: {leaf: arrays.pop(f"{theirs}/{leaf}").astype(dtype) for leaf in ("bias", "kernel")}
        for theirs, ours in LAYERS.items()
    }
    widths = tuple(params[f"conv_{i}"]["bias"].size for i in range(2))
    numbers = json.loads((FOLDER / f"{name}_{state}.json").read_text())
    classes = params["head"]["bias"].size
    case = Case(images, labels, params, widths, classes, arrays, numbers)
    params["head"]["kernel"] = case._permuted(params["head"]["kernel"])
    return case
