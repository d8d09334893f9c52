"""Does noise help descent to leave saddle points and wells, and momentum to leave plateaus?

Source: problem 2 (1), "helps in escaping local minima and saddle points", and (2), "helps escape
flat regions". In float64: a saddle in two dimensions, with noise over ten decades and without; a
double well, where the expected time to leave is known exactly from an integral equation, and in the
limit from Kramers; a flat valley, with momentum as the book has it and as the source has it. Then
networks: one whose hidden units all start equal, which noise of minibatches cannot part, and one
with small or zero weights.

    python -m experiments.saddles --flagfile=experiments/flags/saddles.txt

`saddles_quick.txt` has fewer seeds and steps, `saddles_full.txt` more.
"""

import dataclasses
import sys

from experiments import cli
from experiments.cli import Plan, seeds_setting, setting
from experiments.saddles_claims import CLAIMS
from experiments.saddles_figures import figures

__all__ = ["CLAIMS", "Config", "figures", "load", "plan", "run", "stages"]

NAME = "saddles"
IMAGES = {"digits": 1437, "mnist_5k": 4000}  # of the training set


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on; the defaults are those of flags/saddles.txt."""

    num_seeds: int = seeds_setting(20)
    seed: int = setting(0, "base of all random draws", low=0, high=2**32 - 1)
    walkers: int = setting(64, "runs of a seed on the saddle and in the well", low=2)

    saddle_rate: float = setting(
        0.1, "learning rate on the saddle, whose curvatures are between 1/2 and 2", low=0,
        low_open=True, high=0.5,
    )  # fmt: skip
    sigmas: tuple[float, ...] = setting(
        (1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2), "standard deviations of the gradient's noise there",
        low=0, low_open=True, high=1,
    )  # fmt: skip
    saddle_steps: int = setting(1000, "on the saddle, at most", "steps", low=10)

    well_rate: float = setting(
        0.05, "learning rate in the double well, whose barrier is between 0.8 and 1.25 high", low=0,
        low_open=True, high=0.1,
    )  # fmt: skip
    barriers: tuple[float, ...] = setting(
        (1.5, 2.0, 3.0, 4.0, 5.0, 6.0),
        "noise in the well: the barrier over rate x variance / 2, rising", low=1, high=20,
    )  # fmt: skip
    well_steps: int = setting(20_000, "in the well, at most", "steps", low=10)
    well_given: int = setting(
        1000, "steps in which the share that leaves the well is counted", "steps", low=1
    )

    valley_rate: float = setting(
        1.0, "learning rate in the flat valley, whose walls have curvature 1", low=0, low_open=True,
        high=1.9,
    )  # fmt: skip
    alpha: float = setting(
        0.9, "momentum, and beta of the source's form", low=0, low_open=True, high=1, high_open=True
    )
    valley_steps: int = setting(50_000, "in the flat valley, at most", "steps", low=10)

    data: str = setting("digits", "data set of the networks", choices=tuple(IMAGES))
    images: int = setting(512, "of the training set, the first ones", low=10)
    batch_size: int = setting(32, "images of a minibatch", low=1)
    units: int = setting(8, "hidden units that start equal", low=2)
    symmetric_rate: float = setting(0.3, "learning rate of that network", low=0, low_open=True)
    symmetric_steps: int = setting(500, "of it", "steps", low=1)
    weight_noises: tuple[float, ...] = setting(
        (1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2),
        "standard deviations of noise added to every weight's gradient, beside none; rising",
        low=0, low_open=True,
    )  # fmt: skip
    widths: tuple[int, ...] = setting(
        (16, 16), "units of each hidden layer of the network with small weights", low=1
    )
    scale: float = setting(0.1, "of its weights, over the usual ones", low=0, low_open=True, high=1)
    small_rate: float = setting(0.5, "learning rate of that network", low=0, low_open=True)
    small_steps: int = setting(800, "of it", "steps", low=1)
    every: int = setting(4, "steps between measurements of the networks", "steps", low=1)

    def check(self):
        from dlstudy.errors import UserError

        for name in ("sigmas", "barriers", "weight_noises"):
            values = getattr(self, name)
            text = f"--{name}={','.join(f'{value:g}' for value in values)}"
            if len(values) < 2:
                raise UserError(f"{text}: must hold at least two numbers")
            if list(values) != sorted(set(values)):
                raise UserError(f"{text}: must be in rising order, without a value twice")
        if not self.widths:
            raise UserError("--widths=: must name at least one hidden layer")
        if self.images > IMAGES[self.data]:
            raise UserError(
                f"--images={self.images}: must be at most {IMAGES[self.data]}, the training images "
                f"of {self.data}"
            )
        if self.batch_size >= self.images:
            raise UserError(
                f"--batch_size={self.batch_size}: must be less than {self.images}, the --images"
            )
        if self.well_given > self.well_steps:
            raise UserError(
                f"--well_given={self.well_given}: must be at most {self.well_steps}, the "
                "--well_steps"
            )
        for name in ("symmetric_steps", "small_steps"):
            if getattr(self, name) < self.every:
                raise UserError(
                    f"--{name}={getattr(self, name)}: must be at least {self.every}, the --every"
                )


def load(config: Config):
    """The data set."""
    from dlstudy import data

    return data.load(config.data)


def stages(config: Config) -> dict[str, int]:
    """Units of progress of each stage."""
    return {"saddle": 1, "well": 1, "valley": 1, "symmetric": 1, "small": 1}


def run(config: Config, data, host):
    """Runs everything; see `saddles_runs`. Returns the record."""
    from experiments import saddles_runs

    return saddles_runs.run(config, data, host)


def plan(config: Config, seeds: int, devices: int) -> Plan:
    """What a run would do, how long and in how much memory."""
    noises, pixels = 1 + len(config.weight_noises), 64 if config.data == "digits" else 784
    work = config.images * pixels * (1 + config.batch_size / config.images)
    # Microseconds of one core of a 2.6 GHz AMD EPYC (Zen 4).
    draws = config.walkers * 0.054
    seconds = 18 + seeds / devices * 1e-6 * (
        config.saddle_steps * (10 + 2 * draws)
        + config.well_steps * (3 + draws * (1 + len(config.barriers)))
        + config.valley_steps * 0.1
        + config.symmetric_steps * noises * config.units * work * 5.3e-4
        + config.small_steps * 4 * sum(config.widths) * work * 2e-4
    )
    return Plan(
        [
            f"{seeds} seeds; saddle and well: {config.walkers} walkers, {len(config.sigmas)} and "
            f"{len(config.barriers)} amounts of noise, {config.saddle_steps} and "
            f"{config.well_steps} steps",
            f"networks on {config.images} images of {config.data}, whole and in minibatches of "
            f"{config.batch_size}: {config.units} equal units with {noises} amounts of noise, "
            f"{config.symmetric_steps} steps; small and zero weights, {config.small_steps} steps",
            f"in all about {round(seconds)} s, compilation included (a rough prediction); memory "
            "about 0.7 GiB",
        ],
        seconds,
    )


if __name__ == "__main__":
    raise SystemExit(cli.main(sys.modules[__name__]))
