"""Does dropout belong after batch normalisation, and does it matter less beside it?

Source: problem 3 (5). Networks with batch normalisation, ReLU, dropout ("after") and ReLU,
dropout, batch normalisation ("before") and one without batch normalisation learn a few digits at
all rates of dropping and learning: test error, with running statistics and with statistics
measured again without dropout; the variance that each batch normalisation meets in a test over
that of training, before training too, where it is known in closed form; and how sparse an input
and how rough a training go together.

    python -m experiments.dropout_batchnorm --flagfile=experiments/flags/dropout_batchnorm.txt

`dropout_batchnorm_quick.txt` has fewer seeds, `dropout_batchnorm_full.txt` more, and wider
networks.
"""

import dataclasses
import itertools
import sys

from experiments import cli
from experiments.cli import Plan, seeds_setting, setting
from experiments.dropout_batchnorm_claims import CLAIMS
from experiments.dropout_batchnorm_figures import figures

__all__ = ["CLAIMS", "Config", "figures", "load", "plan", "run", "stages"]

NAME = "dropout_batchnorm"
PIXELS = {"digits": 64, "mnist_5k": 784}


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on; the defaults are those of flags/dropout_batchnorm.txt."""

    data: str = setting("digits", "data set", choices=tuple(PIXELS))
    train_size: int = setting(
        500, "training images; what is left of the set joins the tuning and test images", low=1
    )
    widths: tuple[int, ...] = setting((64, 64), "units of each hidden layer", low=1)

    num_seeds: int = seeds_setting(20)
    seed: int = setting(0, "base of all random draws", low=0, high=2**32 - 1)
    batch_size: int = setting(50, "images of a step; a last partial batch is dropped", low=1)
    block: int = setting(5, "epochs between checkpoints and lines of progress", low=1)
    epochs: int = setting(20, "passes over the training set", low=1)

    rates: tuple[float, ...] = setting(
        (0.005, 0.02, 0.08, 0.3), "grid of learning rates", low=0, low_open=True
    )
    drops: tuple[float, ...] = setting(
        (0.0, 0.1, 0.2, 0.3, 0.5, 0.7), "grid of rates of dropping a hidden unit; has 0 and "
        "0.5", low=0, high=1, high_open=True,
    )  # fmt: skip
    judged_drop: float = setting(
        0.5, "the rate of dropping at which the orders are compared; one of the grid", low=0,
        high=1, high_open=True,
    )  # fmt: skip
    momentum: float = setting(0.9, "of the optimizer", low=0, high=1, high_open=True)
    average: float = setting(
        0.9, "part of the running statistics that is kept at each step", low=0, high=1,
        high_open=True,
    )  # fmt: skip

    start_depth: int = setting(3, "hidden layers of the untrained network", low=1)
    start_width: int = setting(128, "its inputs, and units of each layer", low=1)
    start_inputs: int = setting(2000, "its normal inputs", low=2)

    def check(self):
        from dlstudy.errors import UserError

        if not self.widths:
            raise UserError("--widths=: must name at least one hidden layer")
        for name in ("rates", "drops"):
            values = getattr(self, name)
            text = f"--{name}={','.join(f'{value:g}' for value in values)}"
            if not values:
                raise UserError(f"{text}: must hold at least one number")
            if list(values) != sorted(set(values)):
                raise UserError(f"{text}: must be in rising order, without a value twice")
        for needed in (0.0, 0.5):
            if needed not in self.drops:
                text = ",".join(f"{value:g}" for value in self.drops)
                raise UserError(f"--drops={text}: must hold {needed:g}")
        if self.judged_drop not in self.drops:
            raise UserError(f"--judged_drop={self.judged_drop:g}: must be one of --drops")
        if self.batch_size < 2:
            raise UserError(
                f"--batch_size={self.batch_size}: must be at least 2: one image has no batch "
                "statistics"
            )
        if self.batch_size > self.train_size:
            raise UserError(
                f"--batch_size={self.batch_size}: must be at most {self.train_size}, the training "
                "images"
            )

    @property
    def blocks(self) -> int:
        return -(-self.epochs // self.block)


def load(config: Config):
    """The data set, with few training images."""
    from dlstudy import data

    return data.larger_tests(data.load(config.data), config.train_size)


def stages(config: Config) -> dict[str, int | range]:
    """Units of progress of each stage, blocks of epochs."""
    return {"start": 1, "after": config.blocks, "before": config.blocks, "none": config.blocks}


def run(config: Config, data, host):
    """Trains all arms; see `dropout_batchnorm_runs`. Returns the record."""
    from experiments import dropout_batchnorm_runs

    return dropout_batchnorm_runs.run(config, data, host)


def plan(config: Config, seeds: int, devices: int) -> Plan:
    """What a run would do, how long and in how much memory.

    Args:
      config: the settings.
      seeds: how many seeds would run.
      devices: how many devices share them.
    """
    layers = (PIXELS[config.data], *config.widths, 10)
    weights = sum(a * b for a, b in itertools.pairwise(layers))
    steps = config.epochs * (config.train_size // config.batch_size)
    runs = len(config.rates) * len(config.drops)
    # Of one core of a 2.6 GHz AMD EPYC (Zen 4), a step of one run.
    each = weights * (6 * config.batch_size / 40_000 + 0.006) / 1e6
    seconds = 18 + seeds / devices * 3 * runs * steps * each
    memory = 0.6 + 12 * seeds * runs * (weights + 3 * steps) / 2**30
    return Plan(
        [
            f"{config.train_size} images of {config.data}; {len(config.widths)} hidden layers, "
            f"{weights} weights; {seeds} seeds",
            f"3 networks, {len(config.drops)} rates of dropping, {len(config.rates)} learning "
            f"rates, {steps} steps",
            f"in all about {round(seconds)} s, compilation included (a rough prediction); memory "
            f"about {memory:.1f} GiB",
        ],
        seconds,
    )


if __name__ == "__main__":
    raise SystemExit(cli.main(sys.modules[__name__]))
