"""Do bounds on the weights keep training stable, and spare units that a penalty would kill?

Source: problem 1 (3), "Algorithm 7.2", which describes the book's section 7.2. A ReLU network
learns digits by plain gradient descent on minibatches, with every unit's incoming weights
projected onto a norm ball after each step (a bound on the columns), onto balls by row or as a
whole, with an L2 penalty (lambda / 2) |w|^2, or with nothing, at rates from 1 to 64 times the
lowest. Then, at one rate, along grids of penalties and of radii: which units die at the same
training error, and do they come back once penalty and bound are lifted?

    python -m experiments.constraints --flagfile=experiments/flags/constraints.txt

`constraints_quick.txt` has fewer seeds and epochs, `constraints_full.txt` more, on MNIST.
"""

import dataclasses
import itertools
import sys

from experiments import cli
from experiments.cli import Plan, seeds_setting, setting
from experiments.constraints_claims import CLAIMS
from experiments.constraints_figures import figures

__all__ = ["CLAIMS", "Config", "figures", "load", "plan", "run", "stages"]

NAME = "constraints"
SIZES = {"digits": (1437, 64), "mnist_5k": (4000, 784)}  # training images, pixels


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on; the defaults are those of flags/constraints.txt."""

    data: str = setting("digits", "data set", choices=tuple(SIZES))
    widths: tuple[int, ...] = setting((32, 32, 32), "units of each hidden layer", low=1)

    num_seeds: int = seeds_setting(20)
    seed: int = setting(0, "base of all random draws", low=0, high=2**32 - 1)
    batch_size: int = setting(64, "images of a step; a last partial batch is dropped", low=1)
    block: int = setting(5, "epochs between checkpoints and lines of progress", low=1)

    epochs: int = setting(15, "passes over the training set at each rate", low=1)
    rate: float = setting(0.1, "the lowest learning rate", low=0, low_open=True)
    multipliers: tuple[float, ...] = setting(
        (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0), "of the lowest rate: the grid of rates",
        low=0, low_open=True,
    )  # fmt: skip
    radii: tuple[float, ...] = setting(
        (1.0, 2.0, 4.0),
        "bounds on the norm of a column; the middle one is judged, and rows and Frobenius norm "
        "get a bound that allows the same sum of squares",
        low=0, low_open=True,
    )  # fmt: skip
    penalties: tuple[float, ...] = setting(
        (1e-4, 1e-3, 1e-2), "lambda of the penalty (lambda / 2) |w|^2, at every rate", low=0,
        low_open=True,
    )  # fmt: skip

    path_widths: tuple[int, ...] = setting(
        (32,), "units of each hidden layer of the network along the paths", low=1
    )
    path_epochs: int = setting(
        30, "passes along the paths; then as many again without penalty and bound", low=1
    )
    path_rate: float = setting(0.4, "learning rate along the paths", low=0, low_open=True)
    path_penalties: tuple[float, ...] = setting(
        (0.003, 0.005, 0.008, 0.013, 0.02, 0.03, 0.045, 0.07, 0.1),
        "the path of penalties, rising", low=0, low_open=True,
    )  # fmt: skip
    path_radii: tuple[float, ...] = setting(
        (1.5, 1.25, 1.05, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4), "the path of radii, falling",
        low=0, low_open=True,
    )  # fmt: skip
    match_error: float = setting(
        0.1, "training error at which dead units are compared", low=0, low_open=True, high=1,
        high_open=True,
    )  # fmt: skip
    match_margin: float = setting(
        0.1, "two neighbours on a path are interpolated only where their errors are no further "
        "apart than this", low=0, low_open=True, high=1,
    )  # fmt: skip

    def check(self):
        from dlstudy.errors import UserError

        for name in ("widths", "path_widths"):
            if not getattr(self, name):
                raise UserError(f"--{name}=: must name at least one hidden layer")
        for name in ("multipliers", "radii", "penalties", "path_penalties", "path_radii"):
            values = getattr(self, name)
            text = f"--{name}={','.join(f'{value:g}' for value in values)}"
            if not values:
                raise UserError(f"{text}: must hold at least one number")
            if len({f"{value:g}" for value in values}) != len(values):  # told apart by arm names
                raise UserError(f"{text}: must not repeat a value")
            falls = name == "path_radii"
            if list(values) != sorted(values, reverse=falls):
                raise UserError(f"{text}: must be in {'falling' if falls else 'rising'} order")
        examples, _ = SIZES[self.data]
        if self.batch_size > examples:
            raise UserError(
                f"--batch_size={self.batch_size}: must be at most {examples}, the training images "
                f"of {self.data}"
            )

    @property
    def middle_radius(self) -> float:
        """The bound that is judged."""
        return self.radii[len(self.radii) // 2]

    def units(self, epochs: int) -> int:
        """Blocks of so many epochs."""
        return -(-epochs // self.block)


def load(config: Config):
    """The data set."""
    from dlstudy import data

    return data.load(config.data)


def stages(config: Config) -> dict[str, int | range]:
    """Units of progress of each stage, blocks of epochs."""
    at_rates = config.units(config.epochs)
    return {
        "rates": at_rates, "other_balls": at_rates, "paths": 2 * config.units(config.path_epochs)
    }  # fmt: skip


def run(config: Config, data, host):
    """Trains all arms; see `constraints_runs`. Returns the record."""
    from experiments import constraints_runs

    return constraints_runs.run(config, data, host)


def plan(config: Config, seeds: int, devices: int) -> Plan:
    """What a run would do, how long and in how much memory.

    Args:
      config: the settings.
      seeds: how many seeds would run.
      devices: how many devices share them.
    """
    examples, pixels = SIZES[config.data]
    steps = examples // config.batch_size

    def weights(widths):
        return sum(a * b for a, b in itertools.pairwise((pixels, *widths, 10)))

    at_rates = (3 + len(config.radii) + len(config.penalties)) * len(config.multipliers)
    on_paths = 2 + len(config.path_radii) + len(config.path_penalties)
    # Of one core of a 2.6 GHz AMD EPYC (Zen 4): products of the batch, and passes over the weights.
    each = lambda widths: weights(widths) * (6 * config.batch_size / 40_000 + 0.004) / 1e6  # noqa: E731
    seconds = 15 + seeds / devices * steps * (
        at_rates * config.epochs * each(config.widths)
        + 2 * on_paths * config.path_epochs * each(config.path_widths)
    )
    floats = seeds * at_rates * (weights(config.widths) + 4 * config.epochs * steps)
    return Plan(
        [
            f"{examples} images of {config.data}; {len(config.widths)} hidden layers, "
            f"{weights(config.widths)} weights; {seeds} seeds",
            f"rates: {at_rates} arms and rates, {config.epochs} epochs of {steps} steps",
            f"paths: {on_paths} penalties and radii, {weights(config.path_widths)} weights, "
            f"{config.path_epochs} epochs, and as many without them",
            f"in all about {round(seconds)} s, compilation included (a rough prediction); memory "
            f"about {0.6 + 8 * floats / 2**30:.1f} GiB",
        ],
        seconds,
    )


if __name__ == "__main__":
    raise SystemExit(cli.main(sys.modules[__name__]))
