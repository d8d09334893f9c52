"""Trains and tests the networks of `distribution_shift`: settings and arrays in, record out."""

import jax
import jax.numpy as jnp
import numpy as np

from dlstudy import corruptions, losses, normalization, sweep
from dlstudy.data import Data
from dlstudy.host import Host
from dlstudy.stages import run_stage
from experiments import distribution_shift_record as records
from experiments.dropout_batchnorm_runs import make_trainer, network

NETWORK_OF = {"bn": "after", "none": "none"}


def run(config, data: Data, host: Host):
    """Runs all stages and returns the record; see `distribution_shift_record`."""
    study = Study(config, data, host)
    return records.assemble(config, study.seeds, study.run_networks())


def matched(errors: dict) -> dict:
    """Index of the candidate of each network that has the other's clean tuning error.

    Args:
      errors: by name of the network, tuning errors of its candidates [N]; NaN: none.

    Returns:
      By name: the best candidate of the network whose best is worse, and for the other the
      candidate with the nearest error, the first of equals.
    """
    clean = {name: jnp.where(jnp.isfinite(e), e, 2.0) for name, e in errors.items()}
    target = jnp.stack([e.min() for e in clean.values()]).max()
    return {name: jnp.abs(e - target).argmin() for name, e in clean.items()}


class Study:
    """The data on the device, and the program over seeds."""

    def __init__(self, config, data: Data, host: Host):
        self.config, self.host = config, host
        self.seeds = list(host.seeds(config.num_seeds))
        self.keys = sweep.seed_keys(config.seed, self.seeds)
        self.splits = jax.device_put(
            {name: tuple(getattr(data, name)) for name in ("train", "tune", "test")}
        )
        self.models = {
            name: network(NETWORK_OF[name], config.widths, data.classes)
            for name in records.NETWORKS
        }

    def run_networks(self) -> dict:
        program = sweep.over_seeds(self.one, self.host.layout, shared=1)
        (row,) = run_stage(
            self.host, "networks", 1, lambda: (),
            lambda unit, state: (state, program(self.keys, self.splits)),
            lambda row: {"clean test error": float(np.median(row["error_running"][:, 0, 0, 0]))},
        )  # fmt: skip
        return row

    def one(self, key, splits) -> dict:
        """All of one seed: training at all rates, then the tests of the networks picked."""
        kept, errors, row = {}, {}, {}
        for name in records.NETWORKS:
            kept[name], errors[name], bad = self.train(name, key, splits)
            row |= {f"tune_error_{name}": errors[name], f"bad_{name}": bad}
        flat = {name: e.ravel() for name, e in errors.items()}
        same = matched(flat)
        chosen = {
            name: jnp.stack([jnp.nan_to_num(e, nan=2.0).argmin(), same[name]])
            for name, e in flat.items()
        }
        picked = {
            name: jax.tree.map(lambda a, at=chosen[name]: a.reshape(-1, *a.shape[2:])[at], tree)
            for name, tree in kept.items()
        }
        found = self.shifted(key, picked, splits)
        return found | {
            "tune_error": jnp.stack([errors[name] for name in records.NETWORKS]),
            "bad_step": jnp.stack([row[f"bad_{name}"] for name in records.NETWORKS]),
            "chosen": jnp.stack([chosen[name] for name in records.NETWORKS]),
        }

    def train(self, name: str, key, splits):
        """(params and statistics [R, E, ...], tuning errors [R, E], first bad steps [R])."""
        config, model = self.config, self.models[name]
        x, labels = splits["train"]
        data = x.reshape(len(labels), -1), labels
        tune, tune_labels = splits["tune"]
        tune = tune.reshape(len(tune_labels), -1)

        def run(rate):
            trainer = make_trainer(model, data[0][0], rate, None, config)

            def epoch(state, _):
                state, loss = trainer.epoch(state, jax.random.fold_in(key, 1), data)
                own = state.params, state.statistics
                logits = self.logits(name, own, tune)
                error = losses.error_rate(logits, tune_labels)
                error = jnp.where(jnp.isfinite(logits).all(), error, jnp.nan)
                return state, (own, error, loss)

            _, (own, errors, loss) = jax.lax.scan(epoch, trainer.init(key), length=config.epochs)
            lost = ~jnp.isfinite(loss.ravel())
            return own, errors, jnp.where(lost.any(), lost.argmax(), -1)

        return jax.lax.map(run, jnp.float32(config.rates))

    def logits(self, name, own, x, statistics=None):
        """With running statistics, or others."""
        params, running = own
        used = (statistics or running) if name == "bn" else None
        return self.models[name].apply({"params": params}, x, statistics=used)[0]

    def shifted(self, key, picked, splits) -> dict:
        """Test errors under every corruption and severity, [pick, corruption, severity]."""
        test, tune = splits["test"], splits["tune"]
        # Test splits balance the classes along their order: batches at random need a new one. A
        # last partial batch is left out, whatever the statistics.
        order = jax.random.permutation(jax.random.fold_in(key, 2), len(test[1]))
        order = order[: len(order) // self.config.test_batch * self.config.test_batch]
        some = jax.random.permutation(jax.random.fold_in(key, 3), len(tune[1]))
        some = some[: self.config.recalibration]
        test, unseen = (test[0][order], test[1][order]), tune[0][some]
        severities = jnp.arange(corruptions.SEVERITIES + 1)

        def kind(number, name):
            draw = jax.random.fold_in(jax.random.fold_in(key, 4), number)

            def at(severity):
                parts = [
                    corruptions.corrupt(name, x, severity, jax.random.fold_in(draw, i))
                    for i, x in enumerate((test[0], unseen))
                ]
                x, more = (part.reshape(len(part), -1) for part in parts)
                own = jax.vmap(lambda p: self.with_normalisation(p, x, test[1], more))(picked["bn"])
                none = jax.vmap(
                    lambda p: losses.error_rate(self.logits("none", p, x), test[1])
                )(picked["none"])  # fmt: skip
                return own | {"error_none": none}

            return jax.lax.map(at, severities)

        found = [kind(i, name) for i, name in enumerate(self.config.corruptions)]
        # From a list of [severity, pick].
        return {
            name: jnp.moveaxis(jnp.stack([part[name] for part in found]), -1, 0)
            for name in found[0]
        }

    def with_normalisation(self, own, x, labels, more) -> dict:
        """Errors of one network on one set of images, by the statistics it is given."""
        model, (params, running) = self.models["bn"], own
        batch = self.config.test_batch
        statistics = lambda x: model.apply({"params": params}, x)[1]["statistics"]  # noqa: E731

        def by_batch(rows):
            logits = jax.lax.map(
                lambda part: model.apply({"params": params}, part)[0],
                x[rows].reshape(-1, batch, x.shape[1]),
            )
            return losses.error_rate(logits.reshape(len(rows), -1), labels[rows])

        recalibrated = normalization.recalibrated(statistics, more[None])
        first, usual = recalibrated["bn_0"], running["bn_0"]
        scale = jnp.sqrt(usual.variance + model.epsilon)
        return {
            "error_running": losses.error_rate(self.logits("bn", own, x), labels),
            "error_recalibrated": losses.error_rate(
                self.logits("bn", own, x, recalibrated), labels
            ),
            "error_batch": by_batch(jnp.arange(len(labels))),
            "error_ordered": by_batch(jnp.argsort(labels, stable=True)),
            "shift": jnp.sqrt(jnp.square((first.mean - usual.mean) / scale).mean()),
            "spread": first.variance.sum() / usual.variance.sum(),
        }
