"""The record of `batchnorm`: names, units and axes for what the runs measured."""

import json

import jax
import numpy as np

from dlstudy.representations import linear_cka
from experiments.batchnorm_networks import MODES

PLAIN_ARMS = ("none", "none_again")
BN_ARMS = ("bn", "bn_fixed", "bn_noisy")
# How far batches go by class, see `batchnorm_networks.by_class`: i.i.d.; of about four classes;
# of one or two.
ORDERS = {"iid": 0.0, "few": 0.25, "class": 1.0}
SPLITS = ("train", "tune", "test")
DIVERGED = 10.0  # times the loss before training: from there on a run has diverged

ARMS = {
    "none": "without BN",
    "none_again": "without BN, from other initial weights",
    "bn": "with BN",
    "bn_fixed": "with BN whose gamma and beta stay 1 and 0",
    "bn_noisy": "with BN and noise after it",
    "sizes": "BN at every batch size, i.i.d. batches",
    "ghost": "BN with and without a ghost batch",
    "floor": "narrow networks on random labels",
}

_RUN, _STEP = ("run", "rate", "seed"), ("run", "rate", "seed", "look")
_SIZE = ("size", "order", "size_rate", "seed")
_PLAIN = ("plain_size", *_SIZE[1:])
_GHOST = ("size_rate", "seed", "split", "mode")

# name: (dimensions, unit, long name)
VARIABLES = {
    "start_loss": (_RUN, "nat", "training loss before training, batch statistics"),
    "curve": ((*_RUN, "epoch"), "nat", "training loss after each epoch, batch statistics"),
    "final_sd": (_RUN, "nat", "standard deviation of the losses of the last epoch's batches"),
    "worst_loss": (_RUN, "nat", "largest loss of a step's batch"),
    "loss": ((*_RUN, "split", "mode"), "nat", "loss at the end by split and statistics"),
    "error": ((*_RUN, "split", "mode"), "1", "share misclassified at the end"),
    "epoch_error": (
        (*_STEP, "running"), "1", "test error after an epoch, batch and two running statistics"),
    "shift": ((*_STEP, "layer"), "1",
              "l2 distance of a layer's gradients before and after the step of the layers below"),
    "shift_cosine": ((*_STEP, "layer"), "1", "cosine of the same two gradients"),
    "step_loss": (_STEP, "nat", "loss of a batch before a step"),
    "loss_range": (_STEP, "nat", "range of its loss on the way along four such steps"),
    "gradient_change": (_STEP, "1", "largest distance of its gradient there, relative"),
    "similarity": (("pair", "seed"), "1", "linear CKA of the last hidden layers of two networks"),
    "test_batch_error": (("bn_run", "rate", "seed", "test_order", "test_size"), "1",
                         "test error with statistics of test batches"),
    "size_loss": ((*_SIZE, "split", "mode"), "nat", "loss at the end by split and statistics, BN"),
    "size_error": ((*_SIZE, "split", "mode"), "1", "share misclassified at the end, BN"),
    "own_train_loss": (_SIZE, "nat", "training loss in batches like those of training, BN"),
    "own_tune_loss": (_SIZE, "nat", "tuning loss in batches like those of training, BN"),
    "own_test_error": (_SIZE, "1", "test error in batches like those of training, BN"),
    "mean_spread": ((*_SIZE, "bn_layer"), "1",
                    "spread of batch means, over the standard deviation of all images, BN"),
    "variance_spread": ((*_SIZE, "bn_layer"), "1",
                        "spread of batch variances, over their mean, BN"),
    "probe_sd": (_SIZE, "nat",
                 "standard deviation of a fixed set's loss over training batches' statistics, BN"),
    "last_mean": (_SIZE, "nat", "mean over the last epoch of the batches' losses, BN"),
    "last_sd": (_SIZE, "nat", "standard deviation of the same, BN"),
    "plain_last_mean": (_PLAIN, "nat", "the same mean in the smallest and largest batches, no BN"),
    "plain_last_sd": (_PLAIN, "nat", "the same standard deviation, no BN"),
    "plain_size_loss": ((*_PLAIN, "split"), "nat", "loss at the end in these, no BN"),
    "floor": (("floor_arm", "floor_rate", "seed"), "nat",
              "lowest training loss of a narrow network on random labels, batch statistics"),
    "half_floor": (("floor_arm", "floor_rate", "seed"), "nat", "the same of the first half of the "
                   "steps"),
    "ghost_loss": (_GHOST, "nat", "loss at the end with a ghost batch"),
    "ghost_error": (_GHOST, "1", "share misclassified at the end with a ghost batch"),
    "growth": (("growth_batch", "seed"), "1",
               "growth a layer of the squared gradient before training, with BN"),
    "growth_theory": (("growth_batch",), "1", "the same of an infinitely wide network"),
    "plain_growth": (("seed",), "1", "the same of the largest batch without BN"),
    "scale_batch": (("seed",), "1",
                    "relative distance of BN_eps(c z) from BN_(eps / c^2)(z), batch statistics"),
    "scale_fixed": (("seed",), "1", "the same with statistics that are not scaled along"),
}  # fmt: skip


def ends(sizes) -> list:
    """The first and the last of some sizes; one, if there is no other."""
    return [sizes[0], *sizes[1:][-1:]]


def fold(values, dims: dict[str, int]) -> np.ndarray:
    """[S, runs, ...] as [*dims, S, ...], the runs being those of `dims`, slowest first."""
    values = np.asarray(values)
    values = values.reshape(len(values), *dims.values(), *values.shape[2:])
    return np.moveaxis(values, 0, len(dims))


def _by_split(row: dict, what: str) -> np.ndarray:
    """Losses or errors of all splits, [..., split, mode]."""
    return np.stack([np.asarray(row[f"{split}_{what}"]) for split in SPLITS], -2)


def _at_rates(config, rows: dict[str, list[dict]]) -> dict:
    """Of the stages at every rate: the arms without BN, then those with it."""
    from experiments.batchnorm_theory import growth

    found = {}
    parts = [
        (rows["rates_none"][0], {"arm": len(PLAIN_ARMS), "rate": len(config.rates)}),
        (rows["rates_bn"][0], {"arm": len(BN_ARMS), "rate": len(config.rates)}),
    ]

    def joined(of):
        return np.concatenate([fold(of(row), dims) for row, dims in parts])

    looks = slice(None, None, config.every)
    for name in ("start_loss", "curve"):
        found[name] = joined(lambda row, name=name: row[name])
    for name in ("shift", "shift_cosine", "step_loss", "loss_range", "gradient_change"):
        found[name] = joined(lambda row, name=name: np.asarray(row[name])[:, :, looks])
    found["epoch_error"] = joined(lambda row: np.asarray(row["errors"])[:, :, looks])
    found["loss"] = joined(lambda row: _by_split(row, "loss"))
    found["error"] = joined(lambda row: _by_split(row, "error"))
    steps = joined(lambda row: np.asarray(row["step_losses"]))
    found["final_sd"] = steps[..., -1, :].std(-1)
    found["worst_loss"] = np.where(np.isfinite(steps), steps, np.inf).max((-2, -1))
    found["test_batch_error"] = fold(rows["rates_bn"][0]["test_batch_error"], parts[1][1])
    found["features"] = joined(lambda row: row["features"])
    found["growth"] = np.asarray(rows["start"][0]["growth"]).T
    found["growth_theory"] = np.array([growth(batch) for batch in config.growth_batches])
    found["plain_growth"] = rows["start"][0]["plain_growth"]
    return found


def _at_sizes(config, rows: dict[str, list[dict]]) -> dict:
    """Of the stages at every batch size, and of the ghost batch."""
    dims = {"order": len(ORDERS), "size_rate": len(config.size_rates)}
    by_size = lambda stage, of: np.stack([fold(of(row), dims) for row in rows[stage]])  # noqa: E731
    found = {
        name: by_size("sizes_bn", lambda row, name=name: row[name])
        for name in ("own_train_loss", "own_tune_loss", "own_test_error", "mean_spread",
                     "variance_spread", "probe_sd", "last_mean", "last_sd")
    }  # fmt: skip
    for name in ("last_mean", "last_sd"):
        found[f"plain_{name}"] = by_size("sizes_none", lambda row, name=name: row[name])
    # Without BN the losses with all statistics are one.
    found["plain_size_loss"] = by_size("sizes_none", lambda row: _by_split(row, "loss")[..., 0])
    for what in ("loss", "error"):
        found[f"size_{what}"] = by_size("sizes_bn", lambda row, what=what: _by_split(row, what))
        ghost = _by_split(rows["ghost"][0], what)
        found[f"ghost_{what}"] = fold(ghost, {"rate": len(config.size_rates)})
    return found


def assemble(config, seeds, rows: dict[str, list[dict]], tested: int):
    """The record.

    Args:
      config: the experiment's `Config`.
      seeds: labels of the seeds.
      rows: by stage, as `batchnorm_runs` makes them; values [S, ...].
      tested: number of test images.

    Returns:
      `xarray.Dataset`.
    """
    import xarray

    from experiments.batchnorm_runs import test_sizes

    found = _at_rates(config, rows) | _at_sizes(config, rows)
    features = found.pop("features")
    for name in ("floor", "half_floor"):
        found[name] = np.concatenate([
            fold(np.asarray(rows[stage][0][name]).reshape(len(seeds), -1),
                 {"arm": arms, "rate": len(config.floor_rates)})
            for stage, arms in (("floor_none", 1), ("floor_bn", 2))
        ])  # fmt: skip
    found |= {name: rows["scale"][0][name] for name in ("scale_batch", "scale_fixed")}
    coords = {
        "arm": list(ARMS),
        "run": [*PLAIN_ARMS, *BN_ARMS],
        "bn_run": list(BN_ARMS),
        "rate": list(config.rates),
        "seed": seeds,
        "epoch": np.arange(1, config.epochs + 1),
        "look": np.arange(1, config.epochs + 1, config.every),
        "running": ["batch", "running", "slow"],
        "split": list(SPLITS),
        "mode": list(MODES),
        "layer": np.arange(1, len(config.widths) + 1),
        "bn_layer": np.arange(len(config.widths)),
        "pair": ["bn", "none_again"],
        "test_order": ["iid", "class"],
        "test_size": test_sizes(config, tested),
        "size": list(config.batch_sizes),
        "plain_size": ends(config.batch_sizes),
        "order": list(ORDERS),
        "size_rate": list(config.size_rates),
        "floor_arm": ["none", "bn", "bn_fixed"],
        "floor_rate": list(config.floor_rates),
        "growth_batch": list(config.growth_batches),
    }
    found["similarity"] = np.zeros((2, len(seeds)))
    variables = {
        name: (dims, np.asarray(found[name]), {"units": unit, "long_name": words})
        for name, (dims, unit, words) in VARIABLES.items()
    }
    attributes = {"data": config.data, "train_size": config.train_size,
                  "batch_size": config.batch_size, "ghost_batch": config.ghost_batch,
                  "ghost_images": config.ghost_images,
                  "momentum": config.momentum, "slow_momentum": config.slow_momentum,
                  "short_epochs": config.short_epochs, "widths": json.dumps(list(config.widths)),
                  "floor_widths": json.dumps(list(config.floor_widths)),
                  "floor_images": config.floor_images}  # fmt: skip
    record = xarray.Dataset(variables, coords, attributes)
    return _with_choices(record, features)


def _with_choices(record, features):
    """Adds what rests on the rates chosen: similarities, and which arms diverged."""
    from experiments import batchnorm_claims as claims

    chosen = {run: claims.chosen(record, run) for run in (*PLAIN_ARMS, "bn")}
    names = [str(run) for run in record.run.values]

    def of(run, seed):
        return features[names.index(run), max(chosen[run][seed], 0), seed]

    seeds = range(record.sizes["seed"])
    stacked = {run: np.stack([of(run, seed) for seed in seeds]) for run in chosen}
    for place, other in enumerate(record.pair.values):
        # NaN where all units of a network are dead.
        record["similarity"].values[place] = jax.vmap(linear_cka)(stacked["none"], stacked[other])
    diverged = np.stack([
        np.where(claims.chosen(record, str(run)) < 0, 0, -1) for run in record.run.values
    ])  # fmt: skip
    sizes = np.isfinite(claims.at_sizes(record, "size_loss", split="train", mode="running"))
    ghost = np.isfinite(claims.ghosts(record, "loss", "train"))
    floor = np.isfinite(record["floor"].min("floor_rate").transpose("floor_arm", "seed").values)
    more = [np.where(good, -1, 0) for good in (sizes.all(0), ghost.all(0), floor.all(0))]
    words = {"units": "1", "long_name": "0 where no rate kept the arm's loss finite; -1: one did"}
    record["diverged_step"] = (
        ("arm", "seed"),
        np.concatenate([diverged, more]).astype(np.int32),
        words,
    )
    return record
