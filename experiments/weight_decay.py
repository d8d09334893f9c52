"""Is an L2 penalty the same as weight decay, and does early stopping act like either?

Source: problem 1 (1). Four parts. A network on digits, in float64, is trained with a coupled
penalty and with decoupled decay by plain descent, momentum and Adam, the penalty searched over a
grid; a quadratic in the plane shows both paths and where they end. Linear regression compares
gradient descent, stopped, with ridge, where shrinkage and risk are known in closed form; beside it
run the usual slips: a factor of two, a sum for a mean, a start that is not zero, momentum. Last, a
network learns wrong labels: the best moment to stop is compared with the best penalty, rates and
penalties tuned on the tuning split, and the norms of their weights over the epochs.

    python -m experiments.weight_decay --flagfile=experiments/flags/weight_decay.txt

`weight_decay_quick.txt` is shorter; `weight_decay_full.txt` has more seeds, epochs and penalties.
"""

import dataclasses
import itertools
import sys

from experiments import cli
from experiments.cli import Plan, seeds_setting, setting
from experiments.weight_decay_claims import CLAIMS
from experiments.weight_decay_figures import figures

__all__ = ["CLAIMS", "Config", "figures", "load", "plan", "run", "stages"]

NAME = "weight_decay"
TRAIN, PIXELS, CLASSES = 1437, 64, 10  # of digits


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on; the defaults are those of flags/weight_decay.txt."""

    num_seeds: int = seeds_setting(20)
    seed: int = setting(0, "base of all random draws", low=0, high=2**32 - 1)
    reading: str = setting(
        "source",
        "what --penalties multiply: |w|^2, as the source writes, or |w|^2 / 2, as the book does; "
        "the claims on the factor of the decay show both, whichever is chosen",
        choices=("source", "book"),
    )

    decay: float = setting(
        0.1, "decoupled decay of the trajectories, over the rate", low=0, low_open=True
    )
    steps: int = setting(150, "length of the trajectories", "steps", low=1)
    matches: int = setting(
        15, "penalties searched for the trajectory nearest to the decay's, twice", low=2
    )
    descent_rate: float = setting(
        0.1, "of plain descent there; momentum has this times (1 - --momentum)",
        low=0.001, high=1,
    )  # fmt: skip
    adam_rate: float = setting(0.01, "of Adam there", low=0, low_open=True)
    momentum: float = setting(0.9, "of heavy ball", low=0, low_open=True, high=1, high_open=True)

    samples: int = setting(100, "examples of the linear regression", low=1)
    features: int = setting(32, "its features, at most as many", low=1)
    spectrum: float = setting(1.0, "its input variances are 1, 2^-this, 3^-this, ...", low=0)
    noise: float = setting(3.0, "standard deviation of its targets' noise", low=0, low_open=True)
    linear_steps: int = setting(4000, "of its gradient descent", "steps", low=1)

    train_size: int = setting(200, "training images of the network", low=1, high=TRAIN)
    label_noise: float = setting(
        0.2, "share of their labels that is wrong, others for each seed", low=0, high=1,
        high_open=True,
    )  # fmt: skip
    widths: tuple[int, ...] = setting((32,), "units of each hidden layer", low=1)
    batch_size: int = setting(50, "images of a step; a last partial batch is dropped", low=1)
    epochs: int = setting(200, "passes over the training images", low=1)
    rates: tuple[float, ...] = setting(
        (0.2, 0.4, 0.8), "learning rates of plain descent, tuned for each way", low=0,
        low_open=True,
    )  # fmt: skip
    penalties: tuple[float, ...] = setting(
        (0.001, 0.002, 0.005, 0.01, 0.02, 0.05), "L2 penalties, tuned", low=0, low_open=True
    )
    block: int = setting(100, "epochs between checkpoints and lines of progress", low=1)

    @property
    def blocks(self) -> int:
        """Rows of the network's stage: one before training, then one for each block of epochs."""
        return 1 + -(-self.epochs // self.block)

    @property
    def strengths(self) -> tuple[float, ...]:
        """The penalties as multiples of |w|^2 / 2."""
        return tuple((2 if self.reading == "source" else 1) * p for p in self.penalties)

    def check(self):
        from dlstudy.errors import UserError

        for name in ("widths", "rates", "penalties"):
            values = getattr(self, name)
            given = ",".join(map(str, values))
            if not values:
                raise UserError(f"--{name}=: must name at least one")
            if name != "widths" and len(set(values)) != len(values):
                raise UserError(f"--{name}={given}: must not repeat a value")
        for name, limit, of in (
            ("batch_size", self.train_size, "--train_size"),
            ("features", self.samples, "--samples"),
        ):
            if getattr(self, name) > limit:
                raise UserError(
                    f"--{name}={getattr(self, name)}: must be at most {limit}, the {of}"
                )


def load(config: Config):
    """Digits; wrong labels are drawn by each seed."""
    from dlstudy import data

    return data.load("digits", train_size=config.train_size)


def stages(config: Config) -> dict[str, int | range]:
    """Units of progress of each stage: searches of each optimizer, one, one, blocks of epochs."""
    blocks = config.blocks
    if config.epochs % config.block == 0:
        blocks = range(0, config.epochs + 1, config.block)  # the last epoch of each
    return {"trajectories": 6, "plane": 1, "linear": 1, "network": blocks}


def run(config: Config, data, host):
    """Runs all parts; see `weight_decay_runs`. Returns the record."""
    from experiments import weight_decay_runs

    return weight_decay_runs.run(config, data, host)


def plan(config: Config, seeds: int, devices: int) -> Plan:
    """What a run would do, how long and in how much memory.

    Args:
      config: the settings.
      seeds: how many seeds would run.
      devices: how many devices share them.
    """
    sizes = (PIXELS, *config.widths, CLASSES)
    weights = sum(a * b for a, b in itertools.pairwise(sizes))
    work = weights * config.batch_size * 6  # floating-point operations of a step
    runs = len(config.rates) * (1 + len(config.penalties))
    per_epoch = config.train_size // config.batch_size
    # Microseconds of one core of a 2.6 GHz AMD EPYC (Zen 4).
    pairs = config.matches + 5
    trajectories = 6 * config.steps * pairs * (4 + work / 6_000)
    network = runs * config.epochs * (per_epoch * (12 + work / 25_000) + 60 + weights / 60)
    descent = config.linear_steps * (10 + 8 * config.features**2 / 1000)
    seconds = 20 + seeds * (trajectories + network + descent) / devices / 1e6
    floats = seeds * (runs * config.epochs * 7 + 8 * 80 * config.features * 4)
    lines = [
        f"trajectories: 3 optimizers, {config.steps} steps, {pairs} runs side by side, twice",
        f"linear regression: {config.samples} samples, {config.features} features, 8 ways to "
        f"descend for {config.linear_steps} steps",
        f"network with {weights + sum(sizes[1:])} parameters: {len(config.rates)} rates x "
        f"{1 + len(config.penalties)} penalties, {config.epochs} epochs of {per_epoch} steps",
        f"{seeds} seeds; in all about {round(seconds)} s, compilation included (a rough "
        f"prediction); memory about {0.6 + 8 * floats / 2**30:.1f} GiB",
    ]
    return Plan(lines, seconds)


if __name__ == "__main__":
    raise SystemExit(cli.main(sys.modules[__name__]))
