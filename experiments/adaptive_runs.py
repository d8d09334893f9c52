"""Runs `adaptive`: settings and digits in, record out.

Every problem is one function of a seed, and its rates, hyperparameters and scales are axes of one
compiled program; the programs of the networks are compiled while others run.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dlstudy import models, sweep
from dlstudy.data import Data
from dlstudy.host import Host
from dlstudy.optimizers import make
from dlstudy.stages import run_stage
from experiments import adaptive_conformance as conformance
from experiments import adaptive_networks as networks
from experiments import adaptive_problems as problems
from experiments import adaptive_record as records
from experiments import adaptive_scaling as scaling


def run(config, data: Data, host: Host):
    """Runs all stages and returns the record, an `xarray.Dataset` (see `adaptive_record`)."""
    seeds = list(host.seeds(config.num_seeds))
    with sweep.compiler() as pool:
        study = Study(config, data, host, seeds)
        rates, search = study.compile(pool)
        rows = {
            "steps": study.solve("steps", problems.unit_steps),
            "counterexamples": study.solve("counterexamples", counterexamples),
            "tracking": study.solve("tracking", problems.tracking),
            "oscillation": study.solve("oscillation", problems.oscillation),
            "conformance": study.run_conformance(),
            "scaling": study.run_scaling(),
            "rates": study.run_rates(rates),
            "search": study.run_search(search),
        }
    return records.assemble(config, seeds, rows)


def counterexamples(config, key) -> dict:
    """Those of Reddi et al. and of Wilson et al."""
    return problems.reddi(config, key) | problems.wilson(config, key)


class Study:
    """The data, the networks, and the programs over seeds."""

    def __init__(self, config, data: Data, host: Host, seeds):
        self.config, self.host = config, host
        self.keys = sweep.seed_keys(config.seed, seeds)
        self.splits = jax.device_put(networks.splits_of(data))
        self.net = networks.Net(
            models.MLP(config.widths, data.classes), config.batch_size, config.epochs,
            config.early_steps,
        )  # fmt: skip
        begin = self.over_seeds(
            lambda key, splits: self.net.begin_repeats(key, splits, config.repeats), 1
        )
        self.starts = begin(self.keys, self.splits)

    def over_seeds(self, function, shared=0):
        return sweep.over_seeds(function, self.host.layout, shared=shared)

    def once(self, name, compute):
        """A stage of one unit, without a state."""
        (row,) = run_stage(self.host, name, 1, lambda: (), lambda unit, state: (state, compute()))
        return row

    def solve(self, name: str, problem) -> dict:
        """A problem of each seed, in float64: values [S, ...]."""
        config = self.config
        with jax.enable_x64(True):
            return self.once(
                name, lambda: self.over_seeds(lambda key: problem(config, key))(self.keys)
            )

    def run_conformance(self) -> dict:
        """Distances from the formulas, [S, algorithms, schedules]."""

        def one(key):
            drawn = conformance.problem(key)
            return drawn, conformance.paths(*drawn)

        def compute():
            drawn, found = jax.device_get(self.over_seeds(one)(self.keys))
            rows = []
            for *own, path in zip(*drawn, found, strict=True):
                rows.append(conformance.distances(path, conformance.expected(*own), own[0]))
            return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

        with jax.enable_x64(True):
            return self.once("conformance", compute)

    def run_scaling(self) -> dict:
        """The network with loss or input scaled; see `adaptive_scaling`."""

        def one(key, splits):
            return scaling.rescaled(self.net, self.config, key, splits)

        with jax.enable_x64(True):
            return self.once("scaling", lambda: self.over_seeds(one, 1)(self.keys, self.splits))

    def compile(self, pool):
        """Programs of the networks: by optimizer, and by family of random search."""
        config = self.config
        grid = jnp.asarray(config.rate_grid, jnp.float32)

        def at_rates(name):
            def one(starts, key, splits):
                def train(rate):
                    optimizer = make(name, rate, momentum=config.momentum)
                    return self.net.repeated(optimizer, starts, splits)

                return jax.vmap(train)(grid)

            return one

        def searched(spaces):
            def one(starts, key, splits):
                start = jax.tree.map(lambda a: a[0], starts)
                trials = networks.draw_trials(config, key)

                def train(space):
                    return jax.vmap(
                        lambda trial: self.net.train(
                            networks.searcher(space, trial, config.delta_scale), start, splits
                        )
                    )(trials)

                rows = [train(space) for space in spaces]
                return jax.tree.map(lambda *a: jnp.stack(a), *rows), trials

            return one

        programs = []
        for one in [
            *map(at_rates, config.optimizers),
            *map(searched, (networks.SPACES[:2], networks.SPACES[2:])),
        ]:
            program = self.over_seeds(one, 1)
            program.compile(self.starts, self.keys, self.splits, pool=pool)
            programs.append(program)
        return programs[:-2], programs[-2:]

    def run_rates(self, programs) -> list[dict]:
        """Errors and losses [S, rates, ...], a row for each optimizer."""
        return run_stage(
            self.host, "rates", len(programs), lambda: (),
            lambda unit, state: (state, programs[unit](self.starts, self.keys, self.splits)),
            lambda row: {"best error": float(np.median(row["tune_error"].min(1)))},
        )  # fmt: skip

    def run_search(self, programs) -> list[dict]:
        """Errors and losses [S, spaces, trials, ...] and the trials [S, trials], for each family"""

        def advance(unit, state):
            row, trials = programs[unit](self.starts, self.keys, self.splits)
            return state, row | trials._asdict()

        return run_stage(
            self.host, "search", len(programs), lambda: (), advance,
            lambda row: {"best error": float(np.median(row["tune_error"].min(2)))},
        )  # fmt: skip
