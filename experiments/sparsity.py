"""Why does L1 make weights exactly zero where L2 does not, and what is that worth?

Source: problem 1 (2). Three studies. On quadratics with a diagonal Hessian, where the minimum is
known in closed form, in float64: the proximal step, the source's update (2) as written (a step
along a subgradient), the same with a falling rate, L2 and the elastic net; a threshold put on the
weights afterwards is the control that fakes zeros. On digits: networks along a path of penalties,
compared at matched error: zero weights, whole neurons without weights, pixels that the first layer
still reads. On linear data of which few features matter: are the features found, also where they
are correlated?

    python -m experiments.sparsity --flagfile=experiments/flags/sparsity.txt

`sparsity_quick.txt` takes a quarter of a minute; `sparsity_full.txt` trains on MNIST.
"""

import dataclasses
import itertools
import sys

from experiments import cli
from experiments.cli import Plan, seeds_setting, setting
from experiments.sparsity_claims import CLAIMS
from experiments.sparsity_figures import figures

__all__ = ["CLAIMS", "Config", "figures", "load", "plan", "run", "stages"]

NAME = "sparsity"
BLOCK = 6  # epochs between checkpoints


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on; the defaults are those of flags/sparsity.txt."""

    num_seeds: int = seeds_setting(20)
    seed: int = setting(0, "base of all random draws", low=0, high=2**32 - 1)

    # quadratics with a diagonal Hessian
    weights: int = setting(100, "weights of a quadratic", low=8)
    alphas: tuple[float, ...] = setting(
        (0.003, 0.005, 0.008, 0.013, 0.02, 0.03, 0.05, 0.08, 0.13, 0.2, 0.3, 0.5, 0.8),
        "strengths of the penalty on quadratics", low=0,
    )  # fmt: skip
    quadratic_rate: float = setting(
        0.2, "learning rate on quadratics, whose largest curvature is 1",
        low=0, low_open=True, high=2, high_open=True,
    )  # fmt: skip
    quadratic_steps: int = setting(2000, "steps on quadratics", low=1)
    l2_ratio: float = setting(
        1.0, "of the elastic net: its L2 strength over its L1 strength", low=0
    )
    cutoff: float = setting(
        0.01, "in the control, weights smaller than this are called zero afterwards", low=0
    )

    # networks
    data: str = setting("digits", "data set of the networks", choices=("digits", "mnist_5k"))
    widths: tuple[int, ...] = setting((32,), "units of each hidden layer", low=1)
    l1_strengths: tuple[float, ...] = setting(
        (0.0001, 0.0003, 0.0006, 0.001, 0.002, 0.004, 0.008), "L1 path of the networks", low=0
    )
    l2_strengths: tuple[float, ...] = setting(
        (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1), "L2 path of the networks", low=0
    )
    group_strengths: tuple[float, ...] = setting(
        (0.0001, 0.0003, 0.0006, 0.001, 0.002, 0.004, 0.008), "group lasso's path", low=0
    )
    rates: tuple[float, ...] = setting(
        (0.3, 1.0, 3.0), "learning rates to choose from by the tuning split", low=0, low_open=True
    )
    epochs: int = setting(24, "passes over the training images", low=1)
    batch_size: int = setting(64, "images of a step", low=1)
    last_steps: int = setting(
        20, "full-batch steps after the epochs: the noise of minibatches keeps weights off zero",
        low=0,
    )  # fmt: skip
    margin: float = setting(
        0.01, "models match whose tuning error is within this of the best L2 model's", low=0, high=1
    )
    pruning_levels: int = setting(
        20, "shares of weights, evenly spaced from 0, that are cut from the L2 models", low=1
    )

    # linear data of which few features matter
    features: int = setting(60, "features of the linear data", low=2)
    informative: int = setting(8, "of them, those that matter", low=1)
    samples: int = setting(120, "training samples", low=2)
    tuning: int = setting(60, "tuning samples", low=2)
    noise: float = setting(1.5, "standard deviation of the noise on y", low=0)
    correlations: tuple[float, ...] = setting(
        (0.0, 0.3, 0.6, 0.9, 0.95), "correlation of neighbouring features", low=0, high=1,
        high_open=True,
    )  # fmt: skip
    path: int = setting(25, "strengths on the path of a linear model", low=2)
    linear_steps: int = setting(1000, "steps of accelerated proximal descent", low=1)

    @property
    def blocks(self) -> int:
        return -(-self.epochs // BLOCK)

    def check(self):
        from dlstudy.errors import UserError

        for name in (
            "alphas", "widths", "l1_strengths", "l2_strengths", "group_strengths", "rates",
            "correlations",
        ):  # fmt: skip
            values = getattr(self, name)
            if not values:
                raise UserError(f"--{name}=: must name at least one")
            if name != "widths" and list(values) != sorted(set(values)):
                listed = cli.flagging.to_text(values)
                raise UserError(f"--{name}={listed}: must rise from value to value")
        if self.correlations[0] != 0 or len(self.correlations) < 2:
            listed = cli.flagging.to_text(self.correlations)
            raise UserError(f"--correlations={listed}: must begin with 0 and go on")
        if self.informative >= self.features:
            raise UserError(
                f"--informative={self.informative}: must be below {self.features}, the --features"
            )
        size = TRAINING_IMAGES[self.data]
        if self.batch_size > size:
            raise UserError(
                f"--batch_size={self.batch_size}: must be at most {size}, the training images"
            )


TRAINING_IMAGES = {"digits": 1437, "mnist_5k": 4000}
PIXELS = {"digits": 64, "mnist_5k": 784}


def load(config: Config):
    """The images; quadratics and linear data are drawn from the seeds."""
    from dlstudy import data

    return data.load(config.data)


def stages(config: Config) -> dict[str, int]:
    """Units of progress of each stage."""
    return {"quadratic": 1, "linear": 1, "network": config.blocks}


def run(config: Config, data, host):
    """Runs the three studies; see `sparsity_runs`. Returns the record."""
    from experiments import sparsity_runs

    return sparsity_runs.run(config, data, host)


def plan(config: Config, seeds: int, devices: int) -> Plan:
    """What a run would do, how long and in how much memory.

    Args:
      config: the settings.
      seeds: how many seeds would run.
      devices: how many devices share them.
    """
    paths = 2 * len(config.l1_strengths) + len(config.l2_strengths) + len(config.group_strengths)
    conditions = paths * len(config.rates)
    sizes = (PIXELS[config.data], *config.widths, 10)
    weights = sum(a * b for a, b in itertools.pairwise(sizes))
    passes = config.epochs + config.last_steps + 1
    # Measured on a 2.6 GHz AMD EPYC (Zen 4), one core: nanoseconds for each image and weight.
    training = seeds * conditions * passes * TRAINING_IMAGES[config.data] * weights * 0.2e-9
    grid = seeds * config.quadratic_steps * 5 * len(config.alphas) * config.weights * 6e-9
    linear = seeds * config.linear_steps * len(config.correlations) * config.path
    linear *= config.features**2 * 0.5e-9
    seconds = 20 + (training + grid + linear) / devices
    memory = 0.6 + 3 * seeds * conditions * weights * 4 / 2**30
    return Plan(
        [
            f"{seeds} seeds; quadratics of {config.weights} weights, {len(config.alphas)} "
            f"strengths, 5 updates, {config.quadratic_steps} steps in float64",
            f"linear data: {config.informative} of {config.features} features matter, "
            f"{len(config.correlations)} correlations, {config.path} strengths",
            f"networks with {weights} weights on {config.data}: {paths} penalties x "
            f"{len(config.rates)} rates in one program, {config.epochs} epochs and "
            f"{config.last_steps} full-batch steps",
            f"in all about {round(seconds)} s, compilation included (a rough prediction); memory "
            f"about {memory:.1f} GiB",
        ],
        seconds,
    )


if __name__ == "__main__":
    raise SystemExit(cli.main(sys.modules[__name__]))
