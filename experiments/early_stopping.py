"""Does early stopping find a good moment, and what do retraining and going on add to it?

Source: problem 1 (1) and (3); the book's algorithms 7.1, 7.2 and 7.3. A ReLU network learns digits
of which a fifth have a wrong label, with heavy ball, 20 seeds in one compiled program. Every seed
draws its own training images, wrong labels and validation set, which, as in the book, is part of
the training set and has wrong labels too; so has the tuning split, by which learning rates and
penalties are chosen, each seed for itself. The test images have true labels.

Arms: stopped (7.1, five patiences watch one training), decayed (an L2 penalty, no stop), neither;
all data afresh for i* steps or for i*'s number of passes (7.2); on all data from where 7.1 ended,
or from its best parameters, until the validation loss is down to the training loss (7.3).

    python -m experiments.early_stopping --flagfile=experiments/flags/early_stopping.txt

The default takes less than a minute, `early_stopping_quick.txt` half of that;
`early_stopping_full.txt` trains 64 seeds of a wider network on more digits.
"""

import dataclasses
import itertools
import sys

from dlstudy.errors import UserError
from experiments import cli
from experiments.cli import Plan, seeds_setting, setting
from experiments.early_stopping_claims import CLAIMS
from experiments.early_stopping_figures import figures

__all__ = ["CLAIMS", "Config", "figures", "load", "plan", "run", "stages"]

NAME = "early_stopping"
TRAINING_IMAGES = {"digits": 1437, "mnist_5k": 4000}
PIXELS = {"digits": 64, "mnist_5k": 784}


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on; the defaults are those of flags/early_stopping.txt."""

    data: str = setting("digits", "data set", choices=tuple(TRAINING_IMAGES))
    train_size: int = setting(
        500, "images of the training set, drawn anew for each seed; the rest are tested on", low=2
    )
    validation_share: float = setting(
        0.2, "share of the training set that 7.1 validates on", low=0, low_open=True, high=1,
        high_open=True,
    )  # fmt: skip
    label_noise: float = setting(
        0.2, "share of wrong labels in training, validation and tuning", low=0, high=1,
        high_open=True,
    )  # fmt: skip
    widths: tuple[int, ...] = setting((64,), "units of each hidden layer", low=1)

    num_seeds: int = seeds_setting(20)
    seed: int = setting(0, "base of all random draws", low=0, high=2**32 - 1)
    batch_size: int = setting(50, "images of a step; a last partial batch is dropped", low=1)
    optimizer: str = setting("momentum", "of every arm", choices=("sgd", "momentum", "adam"))
    rates: tuple[float, ...] = setting(
        (0.03, 0.1), "learning rates to choose from", low=0, low_open=True
    )
    decays: tuple[float, ...] = setting(
        (0.003, 0.01, 0.03, 0.1), "penalties lambda/2 ||w||^2 to choose from, biases exempt",
        low=0, low_open=True,
    )  # fmt: skip

    every: int = setting(10, "n: between evaluations", "steps", low=1)
    cap: int = setting(100, "most evaluations of a training; undisturbed ones go so far", low=1)
    patiences: tuple[int, ...] = setting(
        (1, 2, 5, 10, 20), "evaluations without improvement after which 7.1 stops", low=1
    )
    patience: int = setting(10, "that of --patiences which the claims are about", low=1)
    criterion: str = setting("loss", "validation error that 7.1 watches", choices=("loss", "error"))
    continue_cap: int = setting(100, "most evaluations that 7.3 adds", low=1)
    block: int = setting(25, "evaluations between checkpoints and lines of progress", low=1)

    @property
    def validation_size(self) -> int:
        return round(self.validation_share * self.train_size)

    @property
    def sub_size(self) -> int:
        """Images of the sub-training set."""
        return self.train_size - self.validation_size

    @property
    def waits(self) -> tuple[int, ...]:
        """The patiences, least first."""
        return tuple(sorted(self.patiences))

    @property
    def penalties(self) -> tuple[float, ...]:
        """None, then those to choose from."""
        return (0.0, *self.decays)

    @property
    def blocks(self) -> int:
        """Rows of the stage `grid`: one before training, then one for each block."""
        return 1 + -(-self.cap // self.block)

    def check(self):
        for name in ("rates", "decays", "patiences", "widths"):
            values = getattr(self, name)
            given = f"--{name}={','.join(map(str, values))}"
            if not values:
                raise UserError(f"{given}: must name at least one")
            if name != "widths" and len(set(values)) != len(values):
                raise UserError(f"{given}: must not repeat a value")
        if self.patience not in self.patiences:
            among = ", ".join(map(str, self.patiences))
            raise UserError(f"--patience={self.patience}: must be one of --patiences, {among}")
        most = TRAINING_IMAGES[self.data]
        if self.train_size > most:
            raise UserError(
                f"--train_size={self.train_size}: must be at most {most}, the training images of "
                f"{self.data}"
            )
        share = f"--validation_share={self.validation_share:g}"
        if self.validation_size < 1:
            raise UserError(
                f"{share}: must leave a validation set that is not empty, of {self.train_size} "
                f"images"
            )
        left = self.sub_size
        if left < 1:
            raise UserError(f"{share}: must leave images to train on, of {self.train_size}")
        if self.batch_size > left:
            raise UserError(
                f"--batch_size={self.batch_size}: must be at most {left}, the images that are not "
                f"validated on"
            )


def load(config: Config):
    """The data set; seeds draw their training sets from its training split."""
    from dlstudy import data

    return data.load(config.data)


def stages(config: Config) -> dict[str, int | range]:
    """Units of progress of each stage: blocks of evaluations for the grid, then the algorithms."""
    units = config.blocks
    if config.cap % config.block == 0:
        units = range(0, config.cap + 1, config.block)  # the last evaluation of each
    return {"grid": units, "stop": 1, "retrain": 1, "continue": 1}


def run(config: Config, data, host):
    """Trains and measures every arm; see `early_stopping_runs`. Returns the record."""
    from experiments import early_stopping_runs

    return early_stopping_runs.run(config, data, host)


def plan(config: Config, seeds: int, devices: int) -> Plan:
    """What a run would do, how long and in how much memory."""
    sizes = (PIXELS[config.data], *config.widths, 10)
    weights = sum(a * b for a, b in itertools.pairwise(sizes))
    images = TRAINING_IMAGES[config.data]
    conditions = len(config.rates) * len(config.penalties)
    # Microseconds of one core, measured on a 2.6 GHz AMD EPYC (Zen 4).
    step = 12 + config.batch_size * weights * 6 / 40_000
    evaluation = 100 + images * weights * 2 / 20_000
    turn = config.every * step + evaluation
    waits = len(config.waits)
    turns = (conditions + 1) * config.cap  # the grid, and 7.1
    turns += 2 * waits * config.cap / 2 + 2 * waits * config.continue_cap  # at most, or nearly
    seconds = 15 + seeds * turns * turn / devices / 1e6
    # States of the grid (parameters, moments), rows of 13 numbers, parameters of 7.1.
    floats = seeds * (conditions * (3 * weights + 13 * config.cap) + 6 * waits * weights)
    return Plan(
        [
            f"{config.train_size} of {images} images, {config.validation_size} of them for "
            f"validation; {weights} weights; {seeds} seeds",
            f"{conditions} trainings of {config.cap * config.every} steps a seed to choose rates "
            f"and penalties, then 7.1, 7.2 and 7.3 for {waits} patiences",
            f"in all at most about {round(seconds)} s, compilation included (a rough prediction); "
            f"memory about {0.6 + 4 * floats / 2**30:.1f} GiB",
        ],
        seconds,
    )


if __name__ == "__main__":
    raise SystemExit(cli.main(sys.modules[__name__]))
