"""The record of `relu_regions`: rows of the stages in, one labelled data set out."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from dlstudy import models, regions
from dlstudy.data import DOMAIN
from dlstudy.regions.resolve import unpack

# name: (unit, long name), all float32 over arm, seed, epoch.
VARIABLES = {
    "loss": ("1", "mean squared error on the samples, before the epoch's steps"),
    "mean_error": ("1", "mean |f - g| on the samples"),
    "max_error": ("1", "maximal |f - g| on the samples"),
    "grid_mean_error": ("1", "mean |f - g| on the fine grid"),
    "grid_max_error": ("1", "maximal |f - g| on the fine grid"),
    "regions": ("1", "activation regions on the domain, exact"),
    "sample_regions": ("1", "activation regions that the samples see"),
    "hamming": ("bit", "units that differ between the epoch's start and end, over all samples"),
    "domain_hamming": ("bit", "units that differ at a point, mean over the whole domain, exact"),
    "born": ("1", "patterns that appear in the epoch, exact"),
    "died": ("1", "patterns that vanish in the epoch, exact"),
    "displacement": ("1", "l2 distance of the parameters from an epoch ago"),
    "fallbacks": ("1", "1 where rational arithmetic had to decide something"),
}
END_VARIABLES = {
    "linear_pieces": ("1", "maximal affine pieces of the output"),
    "distinct_patterns": ("1", "different patterns among the regions"),
    "map_error": ("1", "largest |f - its affine piece| over the largest |f|, beyond rounding"),
    "misplaced": ("1", "share of 2,000 points whose pattern is not that of their region"),
    "smallest_region": ("1", "length of the shortest region"),
}
MOMENTS = ("start", "end")


def unflatten(widths, flat) -> dict:
    """Parameters of the experiment's MLP from `shown_params` or `end_params`: [..., P] to a tree.

    The order is that of `jax.flatten_util.ravel_pytree`.
    """
    model = models.MLP(tuple(np.atleast_1d(widths).tolist()), 1)
    shapes = jax.eval_shape(lambda k: models.initialise(model, k, jnp.zeros(1)), jax.random.key(0))
    leaves, tree = jax.tree.flatten(shapes)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = np.split(flat, ends[:-1], axis=-1)
    shaped = [p.reshape(*flat.shape[:-1], *leaf.shape)
              for p, leaf in zip(parts, leaves, strict=True)]  # fmt: skip
    return jax.tree.unflatten(tree, shaped)


def layers_of(params) -> tuple[list, list]:
    """Kernels [..., in, out] and biases [..., out] of an MLP, in order, as float64."""
    names = sorted((n for n in params if n != "head"), key=lambda n: int(n.rpartition("_")[2]))
    layers = [params[name] for name in (*names, "head")]
    kernels, biases = (
        [np.asarray(layer[leaf], np.float64) for layer in layers] for leaf in ("kernel", "bias")
    )
    return kernels, biases


def exact_regions(params) -> list:
    """`regions.Pieces` of each of N networks on the domain; params has a leading axis [N]."""
    return regions.regions_on_lines(*layers_of(params), DOMAIN)


def pieces_of(record, flat) -> list:
    """The same from parameters [N, P] of a record."""
    return exact_regions(unflatten(record.attrs["widths"], flat))


def compile_regions() -> None:
    """Has Numba compile what `exact_regions` and `examine` need, or load it from its cache."""
    flat = np.random.default_rng(0).normal(size=(2, 3 + 3 + 3 + 1)).astype(np.float32)
    exact_regions(unflatten((3,), flat))
    examine((3,), flat)


def counts(params) -> np.ndarray:
    """Regions of each network, float32[N]; NaN where parameters are not finite."""
    leaves = [np.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(params)]
    good = np.isfinite(np.concatenate(leaves, 1)).all(1)
    found = np.full(len(good), np.nan, np.float32)
    if good.any():
        pieces = exact_regions(jax.tree.map(lambda leaf: np.asarray(leaf)[good], params))
        found[good] = [len(p.knots) - 1 for p in pieces]
    return found


def examine(widths, flat) -> dict[str, np.ndarray]:
    """What is said of the regions of N networks [N, P] by a certificate, [N] each."""
    kernels, biases = layers_of(unflatten(widths, flat))
    found = {name: np.full(len(flat), np.nan, np.float32) for name in END_VARIABLES}
    for i in np.flatnonzero(np.isfinite(flat).all(1)):
        network = regions.mlp([k[i].T for k in kernels], [b[i] for b in biases])
        line = regions.regions_on_line(network, [DOMAIN])
        checked = regions.certify(line)
        # Between the points of every grid used elsewhere; a knot is on neither side.
        points = np.linspace(*DOMAIN, 4001)[1::2]
        inside = np.abs(points[:, None] - line.knots).min(1) > 1e-9
        region = np.searchsorted(line.knots, points[inside], "right") - 1
        stored = [unpack(p, w) for p, w in zip(line.patterns, widths, strict=True)]
        found_there = regions.point_patterns(network, points[inside][:, None])
        wrong = (np.concatenate(stored, 1)[region] != found_there).any(1)
        keys = {tuple(row) for row in np.concatenate(line.patterns, 1).tolist()}
        values = line.linear_pieces, len(keys), checked.map_error
        values += (wrong.mean(), checked.smallest)
        for name, value in zip(END_VARIABLES, values, strict=True):
            found[name][i] = value
    return found


def assemble(config, seeds, rows, sizes):
    """The record of all arms.

    Args:
      config: the experiment's `Config`.
      seeds: labels of the seeds, S of them.
      rows: blocks of each arm by name, as `relu_regions_runs` makes them.
      sizes: rows of the networks of other sizes, or None.

    Returns:
      `xarray.Dataset` over `arm`, `seed`, `epoch` (0 is before training), `layer`, `moment`,
      `width` and `parameter`. NaN: not measured, or after the seed had converged.
    """
    import xarray

    arms = {name: _joined(config, found) for name, found in rows.items()}

    def variable(name, dims, unit, words, dtype=np.float32):
        values = np.stack([found[name] for found in arms.values()]).astype(dtype)
        return ("arm", *dims), values, {"units": unit, "long_name": words}

    variables = {name: variable(name, ("seed", "epoch"), *text) for name, text in VARIABLES.items()}
    words = VARIABLES["hamming"][1] + ", by layer"
    variables["layer_hamming"] = variable("layer_hamming", ("seed", "epoch", "layer"), "bit", words)
    for name, words in (
        ("epochs_trained", "epochs until the run had converged, or the cap"),
        ("converged", "1 if the run converged before the cap"),
        ("diverged_step", "first epoch with an error that is not finite; -1: none"),
    ):
        variables[name] = variable(name, ("seed",), "1", words, np.int32)
    for name, dims, words in (
        ("shown_params", ("epoch", "parameter"), "parameters of the first seed by epoch"),
        ("end_params", ("seed", "parameter"), "parameters at the end"),
    ):
        variables[name] = variable(name, dims, "1", words)
    ends = {
        arm: [examine(config.widths, found[f"{moment}_params"]) for moment in MOMENTS]
        for arm, found in arms.items()
    }
    for name, (unit, words) in END_VARIABLES.items():
        values = np.array([[found[name] for found in both] for both in ends.values()])
        variables[name] = (("arm", "moment", "seed"), values, {"units": unit, "long_name": words})
    coords = {
        "arm": list(arms),
        "seed": seeds,
        "epoch": np.arange(config.epochs + 1),
        "layer": [f"hidden_{i}" for i in range(len(config.widths))],
        "moment": list(MOMENTS),
    }
    if sizes is not None:
        coords["width"] = list(config.sizes)
        variables["size_regions"] = (
            ("width", "seed", "moment"), np.stack([row["size_regions"] for row in sizes]),
            {"units": "1", "long_name": "exact regions of networks of other sizes"},
        )  # fmt: skip
    attributes = {
        "data": "sine",
        "samples": config.samples,
        "widths": list(config.widths),
        "neurons": sum(config.widths),
        "patience": config.patience,
        "arms": json.dumps({arm: _WORDS[arm] for arm in arms}),
    }
    return xarray.Dataset(variables, coords, attributes)


_WORDS = {
    "main": "constant rate",
    "decay": "decaying rate",
    "zero_bias": "biases start at zero",
}


def epochs_of(config, unit: int) -> int:
    """Epochs of a row that count; the others fill it up."""
    return min(config.block, config.epochs - (unit - 1) * config.block) if unit else 1


def _joined(config, blocks) -> dict[str, np.ndarray]:
    """The blocks of one arm, one after another: [S, epochs, ...] and what follows from it."""
    found = {
        name: np.concatenate(
            [block[name][:, : epochs_of(config, i)] for i, block in enumerate(blocks)], 1
        )
        for name in blocks[0]
        if name != "end_params"
    }
    found["shown_params"] = found["shown_params"][0]
    found["start_params"] = blocks[0]["end_params"]
    found["end_params"] = found["start_params"].copy()
    for block in blocks[1:]:
        ran = np.isfinite(block["mean_error"]).any(1)
        found["end_params"][ran] = block["end_params"][ran]
    found["hamming"] = found["layer_hamming"].sum(2)
    stopped = found["stopped"]
    found["epochs_trained"] = np.isfinite(found["mean_error"]).sum(1) - 1
    found["converged"] = (stopped == 1).any(1)
    found["diverged_step"] = np.where((stopped == 2).any(1), (stopped == 2).argmax(1), -1)
    return found
