"""Which linear pieces does a ReLU network make while it fits g(x) = sin(pi x / 4) on [-2, 2]?

Source: problem 4. A network of one input, three hidden layers of ReLUs and a linear output learns
200 samples by full-batch Adam at 0.01, 32 seeds in one compiled program, until its error has
converged. After every epoch its activation regions are computed exactly from the weights (not from
a grid), and every sample's pattern is compared with that before the epoch. Beside the main arm
train the controls: a rate that decays, and biases that start at zero (Flax's default), where the
study is vacuous; networks of other sizes give the count against the number of neurons.

    python -m experiments.relu_regions --flagfile=experiments/flags/relu_regions.txt

`relu_regions_quick.txt` takes half a minute, the default two; `relu_regions_full.txt` has more and
wider networks.
"""

import dataclasses
import sys

from experiments import cli
from experiments.cli import Plan, seeds_setting, setting
from experiments.relu_regions_charts import charts
from experiments.relu_regions_claims import CLAIMS
from experiments.relu_regions_figures import figures

__all__ = ["CLAIMS", "Config", "charts", "figures", "load", "plan", "run", "stages"]

NAME = "relu_regions"
CONTROLS = ("decay", "zero_bias", "sizes")


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on; the defaults are those of flags/relu_regions.txt."""

    samples: int = setting(200, "training points, evenly spaced on [-2, 2]", low=2)
    grid: int = setting(2001, "points of the fine grid on which errors are measured too", low=2)
    widths: tuple[int, ...] = setting((16, 16, 16), "units of each hidden layer", low=1)

    num_seeds: int = seeds_setting(32)
    seed: int = setting(0, "base of all random draws", low=0, high=2**32 - 1)
    epochs: int = setting(2000, "cap on the passes over the samples", low=1)
    batch_size: int = setting(0, "samples of a step; 0: all", low=0)
    learning_rate: float = setting(0.01, "of Adam", low=0, low_open=True)
    patience: int = setting(
        200, "a run has converged, and stops, when its mean error has not improved for as long",
        "epochs", low=1,
    )  # fmt: skip
    gain: float = setting(
        0.05, "the least improvement on the best so far that counts", low=0, high=1, high_open=True
    )

    controls: tuple[str, ...] = setting(
        CONTROLS,
        "beside the main arm: a decaying rate, biases that start at zero, networks of other sizes",
        choices=CONTROLS,
    )
    sizes: tuple[int, ...] = setting(
        (4, 8, 16, 32, 64), "width of every hidden layer of the networks of other sizes", low=1
    )
    size_epochs: int = setting(500, "training of those", "epochs", low=1)
    block: int = setting(100, "epochs between checkpoints and lines of progress", low=1)

    @property
    def blocks(self) -> int:
        """Rows of an arm's stage: one before training, then one for each block of epochs."""
        return 1 + -(-self.epochs // self.block)

    @property
    def batch(self) -> int:
        return self.batch_size or self.samples

    def check(self):
        from dlstudy.errors import UserError

        if not self.widths:
            raise UserError("--widths=: must name at least one hidden layer")
        if self.batch_size > self.samples:
            raise UserError(
                f"--batch_size={self.batch_size}: must be at most {self.samples}, the --samples"
            )
        for name in ("sizes", "controls"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise UserError(f"--{name}={','.join(map(str, values))}: must not repeat a value")
        if "sizes" in self.controls and not self.sizes:
            raise UserError("--sizes=: must name at least one, or leave it out of --controls")


def load(config: Config):
    """The samples, and the fine grid as the test split."""
    from dlstudy import data

    return data.sine(config.samples, config.grid)


def stages(config: Config) -> dict[str, int | range]:
    """Units of progress of each stage: the measurement before training, then blocks of epochs."""
    units = config.blocks
    if config.epochs % config.block == 0:
        units = range(0, config.epochs + 1, config.block)  # the last epoch of each
    found = {"main": units}
    found |= {arm: units for arm in ("decay", "zero_bias") if arm in config.controls}
    if "sizes" in config.controls:
        found["sizes"] = len(config.sizes)
    return found


def run(config: Config, data, host):
    """Trains and measures every arm; see `relu_regions_runs`. Returns the record."""
    from experiments import relu_regions_runs

    return relu_regions_runs.run(config, data, host)


def plan(config: Config, seeds: int, devices: int) -> Plan:
    """What a run would do, how long and in how much memory.

    Args:
      config: the settings.
      seeds: how many seeds would run.
      devices: how many devices share them.
    """
    neurons = sum(config.widths)
    weights = sum(a * b for a, b in zip((1, *config.widths), (*config.widths, 1), strict=True))
    arms = 1 + sum(arm in config.controls for arm in ("decay", "zero_bias"))
    # Microseconds of one core, measured on a 2.6 GHz AMD EPYC (Zen 4): an epoch's training, and
    # the regions after it, of which there are about as many as neurons.
    training = 30 + config.samples * weights * 6 / 20_000
    exact = 60 + 3.5 * neurons
    seconds = arms * seeds * config.epochs * (training / devices + exact) / 1e6
    lines = [
        f"{config.samples} samples; {len(config.widths)} hidden layers with {neurons} neurons in "
        f"all, {weights + neurons + 1} parameters; {seeds} seeds",
        f"{arms} arm(s) of at most {config.epochs} epochs, exact regions after each",
    ]
    if "sizes" in config.controls:
        per_epoch = [30 + config.samples * len(config.widths) * w * w * 6 / 20_000
                     for w in config.sizes]  # fmt: skip
        seconds += seeds * config.size_epochs * sum(per_epoch) / devices / 1e6
        lines.append(f"networks of width {', '.join(map(str, config.sizes))} besides")
    floats = arms * seeds * config.epochs * 16
    seconds += 30
    lines.append(
        f"in all at most about {round(seconds)} s, compilation included (a rough prediction); "
        f"memory about {0.6 + 8 * floats / 2**30:.1f} GiB"
    )
    return Plan(lines, seconds)


if __name__ == "__main__":
    raise SystemExit(cli.main(sys.modules[__name__]))
