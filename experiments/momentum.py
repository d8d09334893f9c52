"""Does momentum speed up ill-conditioned descent, and does it take the zigzag out of it?

Source: problem 2 (2), equations 3 and 4, against the book's algorithms 8.2 and 8.3. On random
quadratics of condition number 10 to 10,000, in float64: gradient descent, heavy ball and
Nesterov's method at their best constants, against theory; the same with the rate that one would
choose without knowing these; and with noise in the gradient, where the expected cost is known
exactly and every constant is the best of a grid. Then the source's exponential average against
the book's sum, and a network that learns digits with every rate of a grid, on the whole set and on
minibatches.

    python -m experiments.momentum --flagfile=experiments/flags/momentum.txt

`momentum_quick.txt` has fewer seeds, `momentum_full.txt` more, larger problems and a wider network.
"""

import dataclasses
import itertools
import sys

from experiments import cli
from experiments.cli import Plan, seeds_setting, setting
from experiments.momentum_claims import CLAIMS
from experiments.momentum_figures import figures

__all__ = ["CLAIMS", "Config", "figures", "load", "plan", "run", "stages"]

NAME = "momentum"
SIZES = {"digits": (1437, 64), "mnist_5k": (4000, 784)}  # training images, pixels


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on; the defaults are those of flags/momentum.txt."""

    num_seeds: int = seeds_setting(20)
    seed: int = setting(0, "base of all random draws", low=0, high=2**32 - 1)

    dimensions: int = setting(20, "of the quadratics", low=3)
    kappas: tuple[float, ...] = setting(
        (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0),
        "condition numbers; the middle one is judged", low=1, low_open=True,
    )  # fmt: skip
    alpha: float = setting(
        0.9, "momentum where it is not the best for the problem", low=0, low_open=True, high=1,
        high_open=True,
    )  # fmt: skip
    target: float = setting(
        1e-4, "distance from the minimum, of the start's, at which a run ends", low=0,
        low_open=True, high=1, high_open=True,
    )  # fmt: skip
    most_steps: int = setting(50_000, "of a run on a quadratic", "steps", low=1)

    noise_kappa: float = setting(100.0, "condition number with noise", low=1, low_open=True)
    noise_target: float = setting(
        1e-3, "expected cost, of the start's, that is to be reached with noise", low=0,
        low_open=True, high=1, high_open=True,
    )  # fmt: skip
    noises: tuple[float, ...] = setting(
        (0.0, 0.1, 0.3, 1.0, 3.0, 10.0),
        "amounts of noise, from none; at 1 gradient descent at the rate 1 / L ends at the target",
        low=0,
    )  # fmt: skip
    noise_alphas: tuple[float, ...] = setting(
        (0.3, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995), "the grid of momentum with noise",
        low=0, low_open=True, high=1, high_open=True,
    )  # fmt: skip
    noise_steps: int = setting(4000, "with noise, at most", "steps", low=1)

    form_kappa: float = setting(
        30.0, "condition number where the two forms are compared", low=1, low_open=True
    )
    form_rate: float = setting(
        0.02, "rate of the book's form there, times the largest eigenvalue", low=0, low_open=True
    )
    form_steps: int = setting(20_000, "there, at most", "steps", low=1)

    data: str = setting("digits", "data set of the network", choices=tuple(SIZES))
    widths: tuple[int, ...] = setting((16,), "units of each hidden layer", low=1)
    batch_size: int = setting(32, "images of a minibatch", low=1)
    rates: tuple[float, ...] = setting(
        (0.0625, 0.09, 0.125, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0),
        "learning rates of the network, with and without momentum", low=0, low_open=True,
    )  # fmt: skip
    loss_target: float = setting(0.2, "loss of the network to be reached", "nat", low=0,
                                 low_open=True)  # fmt: skip
    whole_steps: int = setting(160, "of the network on the whole set", "steps", low=1)
    batch_steps: int = setting(320, "of the network on minibatches", "steps", low=1)
    every: int = setting(2, "steps between measurements of the network", "steps", low=1)

    def check(self):
        from dlstudy.errors import UserError

        for name in ("kappas", "noises", "noise_alphas", "rates"):
            values = getattr(self, name)
            text = f"--{name}={','.join(f'{value:g}' for value in values)}"
            if not values:
                raise UserError(f"{text}: must hold at least one number")
            if list(values) != sorted(set(values)):
                raise UserError(f"{text}: must be in rising order, without a value twice")
        if len(self.kappas) < 2:
            raise UserError(f"--kappas={self.kappas[0]:g}: must hold at least two numbers")
        if self.noises[0] != 0:
            raise UserError(
                f"--noises={','.join(f'{n:g}' for n in self.noises)}: must begin with 0, no noise"
            )
        if self.form_rate >= 2:
            raise UserError(f"--form_rate={self.form_rate:g}: must be less than 2")
        if not self.widths:
            raise UserError("--widths=: must name at least one hidden layer")
        examples, _ = SIZES[self.data]
        if self.batch_size > examples:
            raise UserError(
                f"--batch_size={self.batch_size}: must be at most {examples}, the training images "
                f"of {self.data}"
            )
        for name in ("whole_steps", "batch_steps"):
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
    return {"quadratics": 1, "noise": 1, "forms": 1, "whole": 1, "batches": 1}


def run(config: Config, data, host):
    """Runs everything; see `momentum_runs`. Returns the record."""
    from experiments import momentum_runs

    return momentum_runs.run(config, data, host)


def plan(config: Config, seeds: int, devices: int) -> Plan:
    """What a run would do, how long and in how much memory."""
    examples, pixels = SIZES[config.data]
    weights = sum(a * b for a, b in itertools.pairwise((pixels, *config.widths, 10)))
    runs = 2 * len(config.rates)
    grid = 29 * (1 + len(config.noise_alphas))
    # Microseconds of one core of a 2.6 GHz AMD EPYC (Zen 4).
    image = runs * weights * 1.45e-4
    seconds = 16 + seeds / devices * 1e-6 * (
        config.most_steps * (3 + 0.024 * len(config.kappas) * config.dimensions)
        + config.noise_steps * (5 + 0.01 * grid * config.dimensions)
        + config.form_steps * 2.5
        + config.whole_steps * examples * image * (1 + 0.4 / config.every)
        + config.batch_steps * image * (config.batch_size + 0.4 * examples / config.every)
    )
    return Plan(
        [
            f"{seeds} seeds; quadratics of {config.dimensions} dimensions, {len(config.kappas)} "
            f"condition numbers and 10 methods, at most {config.most_steps} steps",
            f"noise: {grid} constants, {len(config.noises)} amounts, {config.noise_steps} steps; "
            f"forms: {config.form_steps} steps",
            f"network of {weights} weights on {examples} images: {runs} rates, "
            f"{config.whole_steps} steps on all of them and {config.batch_steps} on minibatches "
            f"of {config.batch_size}",
            f"in all about {round(seconds)} s, compilation included (a rough prediction); memory "
            f"about {0.6 + runs * examples * sum(config.widths) * 16 * devices / 2**30:.1f} GiB",
        ],
        seconds,
    )


if __name__ == "__main__":
    raise SystemExit(cli.main(sys.modules[__name__]))
