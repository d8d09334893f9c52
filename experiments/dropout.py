"""Does dropout prevent co-adaptation, slow training down, cost capacity and generalise better?

Source: problem 3 (1). A ReLU network learns digits with and without dropout of its hidden units,
at several shares dropped and every learning rate: what its test error loses when trained units are
taken away, how alike units are, how noisy its gradients are with masks on and off at the same
parameters, how many epochs it needs, with one mask a step and with several averaged, and its test
error on all and on few training images. An L2 penalty and a wider network stand beside it. Then
networks of one hidden layer learn random labels: how low does the training loss get?

    python -m experiments.dropout --flagfile=experiments/flags/dropout.txt

`dropout_quick.txt` has fewer seeds and epochs, `dropout_full.txt` more, on MNIST.
"""

import dataclasses
import itertools
import sys

from experiments import cli
from experiments.cli import Plan, seeds_setting, setting
from experiments.dropout_claims import CLAIMS
from experiments.dropout_figures import figures

__all__ = ["CLAIMS", "Config", "figures", "load", "plan", "run", "stages"]

NAME = "dropout"
SIZES = {"digits": (1797, 64), "mnist_5k": (5000, 784)}  # images, pixels


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on; the defaults are those of flags/dropout.txt.

    Every share dropped is one of *dropping*: formulas have keep = 1 - drop.
    """

    data: str = setting("digits", "data set", choices=tuple(SIZES))
    tune_size: int = setting(300, "images to tune on, others for each seed", low=1)
    test_size: int = setting(697, "images to test on, others for each seed", low=1)

    num_seeds: int = seeds_setting(20)
    seed: int = setting(0, "base of all random draws", low=0, high=2**32 - 1)
    batch_size: int = setting(50, "images of a step; a last partial batch is dropped", low=1)
    momentum: float = setting(0.9, "of descent", low=0, high=1, high_open=True)
    rates: tuple[float, ...] = setting(
        (0.025, 0.05, 0.1, 0.2), "learning rates, tuned for each arm", low=0, low_open=True
    )

    widths: tuple[int, ...] = setting((64, 64), "units of each hidden layer, all alike", low=1)
    drops: tuple[float, ...] = setting(
        (0.1, 0.25, 0.5), "shares of hidden units dropped; none always runs", low=0,
        low_open=True, high=1, high_open=True,
    )  # fmt: skip
    judged_drop: float = setting(0.5, "the share that is judged, one of --drops")
    penalties: tuple[float, ...] = setting(
        (0.001, 0.003), "L2 penalties (lambda / 2) |w|^2 beside it, tuned", low=0,
        low_open=True,
    )  # fmt: skip
    wider: int = setting(2, "times the widths: the wider network without dropout", low=2)
    epochs: int = setting(60, "passes over all training images", low=1)
    block: int = setting(20, "epochs between checkpoints, a divisor of --epochs", low=1)
    target: float = setting(
        0.1, "training loss, masks off, to which epochs are counted", "nat", low=0, low_open=True
    )

    fractions: tuple[float, ...] = setting(
        (0.1, 0.25, 0.5, 0.75), "shares of the hidden units taken away after training", low=0,
        low_open=True, high=1, high_open=True,
    )  # fmt: skip
    judged_fraction: float = setting(0.25, "the share that is judged, one of --fractions")
    ablations: int = setting(10, "random sets of units of each share", low=1)
    noise_examples: int = setting(100, "training images whose gradients are compared", low=2)
    noise_masks: int = setting(4, "masks of each of these", low=2)

    masks: int = setting(4, "masks averaged in each step, where noise is taken out", low=2)
    averaged_epochs: int = setting(20, "passes with so many masks", low=1)
    small_size: int = setting(100, "training images of the small set", low=1)
    small_epochs: int = setting(120, "passes over the small set", low=1)

    capacity_size: int = setting(100, "images with random labels", low=1)
    capacity_widths: tuple[int, ...] = setting(
        (8, 16, 32), "units of the one hidden layer there", low=1
    )
    capacity_drops: tuple[float, ...] = setting(
        (0.25, 0.5), "shares dropped there", low=0, low_open=True, high=1, high_open=True
    )
    judged_width: int = setting(16, "the width that is judged, one of --capacity_widths")
    capacity_rates: tuple[float, ...] = setting(
        (0.05, 0.1, 0.2, 0.4), "learning rates there; the lowest loss counts", low=0, low_open=True
    )
    capacity_epochs: int = setting(
        240, "passes there, a multiple of 4; then a quarter as many without dropout", low=4
    )

    @property
    def train_size(self) -> int:
        """All images that are not held out."""
        return SIZES[self.data][0] - self.tune_size - self.test_size

    def check(self):
        from dlstudy.errors import UserError

        def refuse(name, why):
            value = getattr(self, name)
            text = ",".join(map(str, value)) if isinstance(value, tuple) else value
            raise UserError(f"--{name}={text}: must {why}")

        grids = ("rates", "drops", "penalties", "fractions", "capacity_widths", "capacity_drops",
                 "capacity_rates")  # fmt: skip
        for name in grids:
            values = getattr(self, name)
            if not values:
                refuse(name, "hold at least one number")
            if list(values) != sorted(set(values)):
                refuse(name, "rise")
        if not self.widths or len(set(self.widths)) > 1:
            refuse("widths", "name at least one hidden layer, and one width")
        for one, of in (
            ("judged_drop", "drops"), ("judged_drop", "capacity_drops"),
            ("judged_fraction", "fractions"), ("judged_width", "capacity_widths"),
        ):  # fmt: skip
            values = getattr(self, of)
            if getattr(self, one) not in values:
                refuse(one, f"be one of --{of}, {', '.join(map(str, values))}")
        if self.judged_width * (1 - self.judged_drop) not in self.capacity_widths:
            refuse("judged_width", "leave one of --capacity_widths when --judged_drop of it goes")
        if self.epochs % self.block:
            refuse("block", f"divide --epochs={self.epochs}")
        if self.capacity_epochs % 4:
            refuse("capacity_epochs", "be a multiple of 4")
        images = SIZES[self.data][0]
        if self.tune_size + self.test_size >= images:
            refuse("test_size", f"leave some of {images} images, with --tune_size={self.tune_size}")
        for name in ("batch_size", "small_size", "capacity_size", "noise_examples"):
            if getattr(self, name) > self.train_size:
                refuse(name, f"be at most {self.train_size}, the training images")


def load(config: Config):
    """The data set, whose images each seed cuts into splits of its own."""
    from dlstudy import data

    return data.load(config.data)


def stages(config: Config) -> dict[str, int | range]:
    """Units of progress of each stage."""
    return {"learn": config.epochs // config.block, "wide": 1, "averaged": 1, "small": 1,
            "capacity": 5}  # fmt: skip


def run(config: Config, data, host):
    """Runs all parts; see `dropout_runs`. Returns the record."""
    from experiments import dropout_runs

    return dropout_runs.run(config, data, host)


def plan(config: Config, seeds: int, devices: int) -> Plan:
    """What a run would do, how long and in how much memory.

    Args:
      config: the settings.
      seeds: how many seeds would run.
      devices: how many devices share them.
    """
    from experiments import dropout_parts

    _, pixels = SIZES[config.data]
    every = [*dropout_parts.parts(config), dropout_parts.capacity(config)]
    work, floats = 0.0, 0

    def count(widths):
        return sum(a * b for a, b in itertools.pairwise((pixels, *widths, 10)))

    lines = []
    for part in every:
        batch = min(config.batch_size, part.size)
        steps = part.epochs * (part.size // batch) * len(part.conditions)
        # Microseconds of one core of a 2.6 GHz AMD EPYC (Zen 4), with the curves.
        each = 14 + part.masks * count(part.widths) * batch / 8_000
        work += steps * each * (1 + 0.4 * bool(part.curves)) / 1e6
        floats += 3 * len(part.conditions) * count(part.widths)
        lines.append(
            f"{part.name}: {len(part.conditions)} runs, {count(part.widths)} weights, "
            f"{part.size} images, {part.epochs} epochs"
        )
    seconds = 20 + seeds * work / devices
    lines.append(
        f"{seeds} seeds; in all about {round(seconds)} s, compilation included (a rough "
        f"prediction); memory about {0.6 + 4 * seeds * floats / 2**30:.1f} GiB"
    )
    return Plan(lines, seconds)


if __name__ == "__main__":
    raise SystemExit(cli.main(sys.modules[__name__]))
