"""What do small and large minibatches buy, and what do they cost?

Source: problem 2 (1), minibatch size in algorithm 8.1. A ReLU network learns digits by stochastic
gradient descent with batches of 1 to all examples. How noisy are their gradients; how many steps
and examples does the same loss take, with the rate tuned for each size and with one rate for all;
up to which rate is descent stable, and is it the gradient's variance that decides (a control gives
the full gradient noise of the same covariance); how rough is the way; are the minima of large
batches sharper, do they generalise worse; what do memory and speed say.

    python -m experiments.minibatch --flagfile=experiments/flags/minibatch.txt

`minibatch_quick.txt` has fewer seeds and sizes, `minibatch_full.txt` more seeds and epochs.
"""

import dataclasses
import itertools
import sys

from experiments import cli
from experiments.cli import Plan, seeds_setting, setting
from experiments.minibatch_claims import CLAIMS
from experiments.minibatch_figures import figures

__all__ = ["CLAIMS", "Config", "figures", "load", "plan", "run", "stages"]

NAME = "minibatch"
SIZES = {"digits": (1437, 64), "mnist_5k": (4000, 784)}  # training images, pixels


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on; the defaults are those of flags/minibatch.txt."""

    data: str = setting("digits", "data set", choices=tuple(SIZES))
    widths: tuple[int, ...] = setting((32,), "units of each hidden layer", low=1)

    num_seeds: int = seeds_setting(20)
    seed: int = setting(0, "base of all random draws", low=0, high=2**32 - 1)
    batch_sizes: tuple[int, ...] = setting(
        (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1437), "batch sizes, rising", "examples", low=1
    )
    small_batch: int = setting(16, "the small batch of a comparison of two", "examples", low=1)
    large_batch: int = setting(256, "the large one", "examples", low=1)
    rates: tuple[float, ...] = setting(
        (0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0), "grid of learning rates, rising",
        low=0, low_open=True,
    )  # fmt: skip
    shared_rate: float = setting(
        0.125, "the one rate of the control that tunes none", low=0, low_open=True
    )

    checkpoints: tuple[int, ...] = setting(
        (0, 10, 20, 40, 80, 160, 640),
        "steps of a run after which gradient noise is measured",
        low=0,
    )
    reference_batch: int = setting(64, "batch size of that run", "examples", low=1)
    draws: int = setting(64, "batches drawn of each size, for the noise", low=2)

    target: float = setting(0.3, "full training loss to reach", "nats", low=0, low_open=True)
    step_limit: int = setting(160, "most steps to the target of a large batch", "steps", low=1)
    example_limit: int = setting(4096, "examples to it granted besides", "examples", low=0)
    patience: int = setting(4, "times the limit, for the control", low=1)
    looks: int = setting(200, "most looks at the full loss on the way", low=1)

    stable_steps: int = setting(100, "steps at each rate, to see whether it is stable", low=1)
    levels: tuple[int, ...] = setting(
        (1, 8, 64), "batch sizes whose noise is added to the full gradient", "examples",
        low=1,
    )  # fmt: skip

    epochs: int = setting(15, "passes of the runs whose minima are compared", low=1)
    radius: float = setting(
        0.25, "distance along filter directions, of a filter's length", low=0, low_open=True
    )

    cost_sizes: tuple[int, ...] = setting(
        (1, 4, 16, 64, 256, 1437), "batch sizes whose memory and speed are measured", low=1
    )
    cost_examples: int = setting(
        16000, "examples of a turn of the clock, of each size", "examples", low=1
    )
    cost_calls: int = setting(400, "at most so many steps of a turn", low=1)
    measure_cost: bool = setting(True, "measure speed (a few seconds)", local=True)

    def check(self):
        from dlstudy.errors import UserError

        if not self.widths:
            raise UserError("--widths=: must name at least one hidden layer")
        for name, fewest in (
            ("batch_sizes", 3), ("rates", 1), ("checkpoints", 1), ("levels", 1), ("cost_sizes", 2)
        ):  # fmt: skip
            values = getattr(self, name)
            text = f"--{name}={','.join(f'{value:g}' for value in values)}"
            if len(values) < fewest:
                raise UserError(f"{text}: must hold at least {fewest} number{'s'[: fewest - 1]}")
            if any(b <= a for a, b in itertools.pairwise(values)):
                raise UserError(f"{text}: must be in rising order, without repeats")
        for name in ("batch_sizes", "cost_sizes"):
            if max(getattr(self, name)) > self.examples:
                raise UserError(
                    f"--{name}={','.join(map(str, getattr(self, name)))}: must be at most "
                    f"{self.examples}, the training images of {self.data}"
                )
        for name in ("small_batch", "large_batch", "reference_batch", "levels"):
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            if not set(values) <= set(self.batch_sizes):
                text = ",".join(map(str, values))
                known = ",".join(map(str, self.batch_sizes))
                raise UserError(f"--{name}={text}: must be of the batch sizes, {known}")
        if self.small_batch >= self.large_batch:
            raise UserError(
                f"--small_batch={self.small_batch}: must be below {self.large_batch}, the large one"
            )

    @property
    def examples(self) -> int:
        return SIZES[self.data][0]

    @property
    def rates_beyond(self) -> tuple[float, ...]:
        """As many rates above the grid, as far apart."""
        first, last = self.rates[0], self.rates[-1]
        step = last / self.rates[-2] if len(self.rates) > 1 else 2.0
        return tuple(rate * last / first * step for rate in self.rates)

    def limit(self, size: int) -> int:
        """Most steps to the target at a batch size."""
        return self.step_limit + self.example_limit // size

    def stage_units(self) -> dict[str, int]:
        return {
            "noise": len(self.checkpoints),
            "race": len(self.batch_sizes),
            "shared": len(self.batch_sizes),
            "stable": 2 * len(self.batch_sizes) + len(self.levels),
            "ends": 3,
            "cost": 1,
        }


def load(config: Config):
    """The data set."""
    from dlstudy import data

    return data.load(config.data)


def stages(config: Config) -> dict[str, int]:
    """Units of progress of each stage."""
    return config.stage_units()


def run(config: Config, data, host):
    """Runs all arms; see `minibatch_runs`. Returns the record."""
    from experiments import minibatch_runs

    return minibatch_runs.run(config, data, host)


def plan(config: Config, seeds: int, devices: int) -> Plan:
    """What a run would do, how long and in how much memory.

    Args:
      config: the settings.
      seeds: how many seeds would run.
      devices: how many devices share them.
    """
    examples, pixels = SIZES[config.data]
    weights = sum(a * b for a, b in itertools.pairwise((pixels, *config.widths, 10)))
    lanes, small, large = len(config.rates), config.small_batch, config.large_batch
    # Examples whose gradient is taken: towards the target a third of the limit, then the others.
    taken = sum(
        (config.limit(b) * b / 3 + 2 * config.stable_steps * b) * lanes + config.limit(b) * b
        for b in config.batch_sizes
    )
    taken += len(config.levels) * config.stable_steps * examples * lanes
    taken += config.epochs * examples * lanes * (2 + large / small)
    # Of one core of a 2.6 GHz AMD EPYC (Zen 4).
    seconds = 25 + seeds / devices * taken * weights * 2.6e-10
    seconds += 0.05 * seeds * len(config.cost_sizes) * config.measure_cost
    return Plan(
        [
            f"{examples} images of {config.data}; {len(config.widths)} hidden layers, "
            f"{weights} weights; {seeds} seeds",
            f"{len(config.batch_sizes)} batch sizes, {lanes} rates; to a loss of {config.target:g}",
            f"batches of {small} and {large}: {config.epochs} epochs, and as many steps",
            f"in all about {round(seconds)} s, compilation included (a rough prediction); memory "
            f"about {0.6 + 2 * examples * weights * 4 * devices / 2**30:.1f} GiB",
        ],
        seconds,
    )


if __name__ == "__main__":
    raise SystemExit(cli.main(sys.modules[__name__]))
