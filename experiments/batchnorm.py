"""What does batch normalisation cost and give: expressiveness, rates, stability, test accuracy?

Source: problem 3 (3) and (4). ReLU networks learn digits by plain gradient descent on minibatches,
with batch normalisation (BN), without, with gamma and beta fixed, and with noise that shifts what
was normalised; at a grid of rates, and with batches of 2 to 64 images, drawn independently or by
class. Measured are the floor of the training loss, the gap between batch and running statistics,
the largest stable rate, the loss along a step, internal covariate shift, and what a large "ghost"
batch, in the statistics alone, does to the gap between training and test.

    python -m experiments.batchnorm --flagfile=experiments/flags/batchnorm.txt

`batchnorm_quick.txt` has fewer seeds and epochs, `batchnorm_full.txt` more, and MNIST images.
"""

import dataclasses
import itertools
import sys

from experiments import cli
from experiments.batchnorm_claims import CLAIMS
from experiments.batchnorm_figures import figures
from experiments.cli import Plan, seeds_setting, setting

__all__ = ["CLAIMS", "Config", "figures", "load", "plan", "run", "stages"]

NAME = "batchnorm"
SIZES = {"digits": (1437, 64), "mnist_5k": (4000, 784)}  # training images, pixels


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on; the defaults are those of flags/batchnorm.txt."""

    data: str = setting("digits", "data set", choices=tuple(SIZES))
    train_size: int = setting(
        640, "training images; the others are shared out to tuning and test", low=2
    )
    widths: tuple[int, ...] = setting((32, 32, 32), "units of each hidden layer", low=1)

    num_seeds: int = seeds_setting(20)
    seed: int = setting(0, "base of all random draws", low=0, high=2**32 - 1)

    batch_size: int = setting(64, "images of a step in the stages at every rate", low=2)
    epochs: int = setting(20, "passes over the training set at each rate", low=1)
    rates: tuple[float, ...] = setting(
        (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8), "learning rates, rising", low=0,
        low_open=True,
    )  # fmt: skip
    momentum: float = setting(
        0.9, "what running statistics keep of themselves in a step", low=0, high=1, high_open=True
    )
    slow_momentum: float = setting(
        0.99, "the same, too slow for a short run: a control", low=0, high=1, high_open=True
    )
    every: int = setting(
        4, "epochs between looks at a step and at the test error; the first after one epoch", low=1
    )
    short_epochs: int = setting(5, "epochs after which a run is short; there must be a look", low=1)
    recalibration_batches: int = setting(
        5, "batches of training images in recalibrated statistics", low=1
    )
    recalibration_size: int = setting(128, "images of each of them", low=2)
    test_sizes: tuple[int, ...] = setting(
        (2, 4, 16, 64, 256), "sizes of test batches, rising; beside all images", low=2
    )
    test_draws: int = setting(2, "ways in which the test images are cut into batches", low=1)

    batch_sizes: tuple[int, ...] = setting(
        (2, 4, 8, 16, 64), "sizes of training batches that are compared, rising", low=2
    )
    size_epochs: int = setting(10, "passes over the training set with each of them", low=1)
    size_rates: tuple[float, ...] = setting(
        (0.003, 0.0125, 0.05, 0.2, 0.8, 3.2), "learning rates with each of them, rising", low=0,
        low_open=True,
    )  # fmt: skip

    floor_images: int = setting(320, "training images of the narrow network, one batch", low=2)
    floor_widths: tuple[int, ...] = setting((6, 6), "units of its hidden layers", low=1)
    floor_rates: tuple[float, ...] = setting(
        (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), "rates of its Adam, rising", low=0, low_open=True
    )
    floor_steps: int = setting(600, "of it", "steps", low=1)

    ghost_batch: int = setting(
        16, "the one of --batch_sizes that is trained with steady statistics, too", low=2
    )
    ghost_images: int = setting(112, "further images that make them steady", low=1)

    growth_width: int = setting(384, "units of each layer of the chain before training", low=2)
    growth_depth: int = setting(8, "its layers", low=3)
    growth_batches: tuple[int, ...] = setting(
        (8, 64, 384), "sizes of its batches, rising; the largest is compared with the limit", low=4
    )

    def check(self):
        from dlstudy.errors import UserError

        for name in ("widths", "floor_widths"):
            if not getattr(self, name):
                raise UserError(f"--{name}=: must name at least one hidden layer")
        for name in ("rates", "batch_sizes", "size_rates", "floor_rates",
                     "test_sizes", "growth_batches"):  # fmt: skip
            values = getattr(self, name)
            text = f"--{name}={','.join(f'{value:g}' for value in values)}"
            if len(values) < 2:
                raise UserError(f"{text}: must hold at least two numbers")
            if list(values) != sorted(set(values)):
                raise UserError(f"{text}: must be in rising order, without a value twice")
        most = SIZES[self.data][0]
        if self.train_size > most:
            raise UserError(
                f"--train_size={self.train_size}: must be at most {most}, the training images of "
                f"{self.data}"
            )
        within = f"must be at most {self.train_size}, the --train_size"
        for name in ("batch_size", "floor_images", "recalibration_size"):
            if getattr(self, name) > self.train_size:
                raise UserError(f"--{name}={getattr(self, name)}: {within}")
        if self.batch_sizes[-1] > self.train_size:
            text = ",".join(map(str, self.batch_sizes))
            raise UserError(f"--batch_sizes={text}: each {within}")
        if self.ghost_batch not in self.batch_sizes:
            raise UserError(
                f"--ghost_batch={self.ghost_batch}: must be one of "
                f"{', '.join(map(str, self.batch_sizes))}, the --batch_sizes"
            )
        if self.recalibration_batches * self.recalibration_size > self.train_size:
            raise UserError(
                f"--recalibration_batches={self.recalibration_batches}: with "
                f"--recalibration_size={self.recalibration_size} they hold more images than "
                f"{self.train_size}, the --train_size"
            )
        if self.short_epochs > self.epochs:
            raise UserError(
                f"--short_epochs={self.short_epochs}: must be at most {self.epochs}, the --epochs"
            )
        if (self.short_epochs - 1) % self.every:
            raise UserError(
                f"--short_epochs={self.short_epochs}: must be 1 more than a multiple of "
                f"{self.every}, the --every"
            )
        if not self.momentum < self.slow_momentum:
            raise UserError(
                f"--momentum={self.momentum:g}: must be below {self.slow_momentum:g}, the "
                "--slow_momentum"
            )


def load(config: Config):
    """The data set, with a small training set and larger others."""
    from dlstudy import data

    return data.larger_tests(data.load(config.data), config.train_size)


def stages(config: Config) -> dict[str, int]:
    """Units of progress of each stage."""
    sizes = len(config.batch_sizes)
    return {"sizes_bn": sizes, "rates_bn": 1, "rates_none": 1, "sizes_none": 1, "floor_bn": 1,
            "floor_none": 1, "ghost": 1, "start": 1, "scale": 1}  # fmt: skip


def run(config: Config, data, host):
    """Trains all arms; see `batchnorm_runs`. Returns the record."""
    from experiments import batchnorm_runs

    return batchnorm_runs.run(config, data, host)


def plan(config: Config, seeds: int, devices: int) -> Plan:
    """What a run would do, how long and in how much memory."""
    pixels = SIZES[config.data][1]

    def weights(widths):
        return sum(a * b for a, b in itertools.pairwise((pixels, *widths, 10)))

    # Microseconds of one core of a 2.6 GHz AMD EPYC (Zen 4), of one run's step.
    each = lambda images, widths=config.widths: 4 + images * weights(widths) * 1.5e-4  # noqa: E731
    per_epoch = lambda size: config.train_size // size  # noqa: E731
    at_rates = 5 * len(config.rates)
    of_size = 4 * len(config.size_rates)  # with BN all sizes, without it the smallest
    growth = config.growth_depth * config.growth_width**2 * sum(config.growth_batches)
    seconds = 35 + 1e-6 * seeds / devices * (
        at_rates * config.epochs * (per_epoch(config.batch_size) + 12) * each(config.batch_size)
        + of_size * config.size_epochs * sum(
            per_epoch(size) * each(size) for size in config.batch_sizes)
        + 6 * len(config.floor_rates) * config.floor_steps
        * each(config.floor_images, config.floor_widths)
        + len(config.size_rates) * config.size_epochs * per_epoch(config.ghost_batch)
        * each(config.ghost_batch + config.ghost_images)
        + growth * 1.5e-4
    )  # fmt: skip
    return Plan(
        [
            f"{config.train_size} images of {config.data}; {len(config.widths)} hidden layers, "
            f"{weights(config.widths)} weights; {seeds} seeds",
            f"5 arms at {len(config.rates)} rates, {config.epochs} epochs in batches of "
            f"{config.batch_size}",
            f"batches of {', '.join(map(str, config.batch_sizes))}, two orders, with and without "
            f"BN, {len(config.size_rates)} rates, {config.size_epochs} epochs",
            f"in all about {round(seconds)} s, compilation included (a rough prediction); memory "
            "about 1 GiB",
        ],
        seconds,
    )


if __name__ == "__main__":
    raise SystemExit(cli.main(sys.modules[__name__]))
