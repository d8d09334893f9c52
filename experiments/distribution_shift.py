"""Does a shifted test distribution harm batch normalisation, and which statistics help?

Source: problem 3 (4). A network with batch normalisation and one without learn MNIST images; test
images are then blurred, dimmed, brightened, made noisy and turned, at five severities. Error
against severity with running statistics, with those of each test batch (at random, and in the
order of classes, which misleads), and with statistics measured on corrupted tuning images without
their labels; what shift adds to the error is compared with the network without batch normalisation
at the same clean error.

    python -m experiments.distribution_shift --flagfile=experiments/flags/distribution_shift.txt

`distribution_shift_quick.txt` has fewer seeds, `distribution_shift_full.txt` more, and longer
training.
"""

import dataclasses
import itertools
import sys

from experiments import cli
from experiments.cli import Plan, seeds_setting, setting
from experiments.distribution_shift_claims import CLAIMS
from experiments.distribution_shift_figures import figures

__all__ = ["CLAIMS", "Config", "figures", "load", "plan", "run", "stages"]

NAME = "distribution_shift"
SIZES = {"digits": (64, 1797), "mnist_5k": (784, 5000)}  # pixels, images
KINDS = ("blur", "contrast", "brightness", "noise", "rotation")


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on; the defaults are those of flags/distribution_shift.txt."""

    data: str = setting("mnist_5k", "data set", choices=tuple(SIZES))
    train_size: int = setting(
        2000, "training images; what is left of the set joins the tuning and test images", low=1
    )
    widths: tuple[int, ...] = setting((64, 64), "units of each hidden layer", low=1)
    corruptions: tuple[str, ...] = setting(KINDS, "kinds of corruption", choices=KINDS)

    num_seeds: int = seeds_setting(20)
    seed: int = setting(0, "base of all random draws", low=0, high=2**32 - 1)
    batch_size: int = setting(50, "images of a step; a last partial batch is dropped", low=1)
    epochs: int = setting(8, "passes over the training set", low=1)
    rates: tuple[float, ...] = setting(
        (0.01, 0.03, 0.1, 0.3), "grid of learning rates", low=0, low_open=True
    )
    momentum: float = setting(0.9, "of the optimizer", low=0, high=1, high_open=True)
    average: float = setting(
        0.9, "part of the running statistics that is kept at each step", low=0, high=1,
        high_open=True,
    )  # fmt: skip

    test_batch: int = setting(50, "test images that are normalised together", low=1)
    recalibration: int = setting(
        500, "corrupted tuning images that give the statistics of their own", low=0
    )

    def check(self):
        from dlstudy.errors import UserError

        if not self.widths:
            raise UserError("--widths=: must name at least one hidden layer")
        rates = ",".join(f"{rate:g}" for rate in self.rates)
        if not self.rates:
            raise UserError("--rates=: must hold at least one number")
        if list(self.rates) != sorted(set(self.rates)):
            raise UserError(f"--rates={rates}: must be in rising order, without a value twice")
        if not self.corruptions or len(set(self.corruptions)) != len(self.corruptions):
            raise UserError(
                f"--corruptions={','.join(self.corruptions)}: must name at least one, and none "
                "twice"
            )
        for name in ("batch_size", "test_batch"):
            if getattr(self, name) < 2:
                raise UserError(
                    f"--{name}={getattr(self, name)}: must be at least 2: one image has no batch "
                    "statistics"
                )
        if self.recalibration < 2:
            raise UserError(
                f"--recalibration={self.recalibration}: must be at least 2: an empty set, or one "
                "image, has no statistics"
            )
        if self.batch_size > self.train_size:
            raise UserError(
                f"--batch_size={self.batch_size}: must be at most {self.train_size}, the training "
                "images"
            )


def load(config: Config):
    """The data set, most of it in the tuning and test splits."""
    from dlstudy import data
    from dlstudy.errors import UserError

    found = data.larger_tests(data.load(config.data), config.train_size)
    for name, split in (("test_batch", found.test), ("recalibration", found.tune)):
        if getattr(config, name) > len(split.y):
            raise UserError(
                f"--{name}={getattr(config, name)}: must be at most {len(split.y)}, the images of "
                "that split"
            )
    return found


def stages(config: Config) -> dict[str, int | range]:
    """Units of progress of each stage."""
    return {"networks": 1}


def run(config: Config, data, host):
    """Trains and tests all arms; see `distribution_shift_runs`. Returns the record."""
    from experiments import distribution_shift_runs

    return distribution_shift_runs.run(config, data, host)


def plan(config: Config, seeds: int, devices: int) -> Plan:
    """What a run would do, how long and in how much memory.

    Args:
      config: the settings.
      seeds: how many seeds would run.
      devices: how many devices share them.
    """
    pixels, images = SIZES[config.data]
    weights = sum(a * b for a, b in itertools.pairwise((pixels, *config.widths, 10)))
    steps = config.epochs * (config.train_size // config.batch_size)
    tests = len(config.corruptions) * 6
    held_out = max(images - config.train_size, 0)
    # Of one core of a 2.6 GHz AMD EPYC (Zen 4): training steps, then tests.
    training = 2 * len(config.rates) * steps * weights * (3 * config.batch_size / 40_000 + 0.003)
    testing = tests * held_out * (weights * 10 / 40_000 + pixels / 100)
    seconds = 12 + seeds / devices * (training + testing) / 1e6
    memory = 0.7 + 16 * weights * len(config.rates) * config.epochs * devices / 2**30
    return Plan(
        [
            f"{config.train_size} images of {config.data}; {len(config.widths)} hidden layers, "
            f"{weights} weights; {seeds} seeds",
            f"2 networks, {len(config.rates)} learning rates, {steps} steps; "
            f"{len(config.corruptions)} kinds of corruption at 6 severities",
            f"in all about {round(seconds)} s, compilation included (a rough prediction); memory "
            f"about {memory:.1f} GiB",
        ],
        seconds,
    )


if __name__ == "__main__":
    raise SystemExit(cli.main(sys.modules[__name__]))
