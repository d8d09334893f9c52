"""Is dropout a cheap ensemble: how does it compare with bagging in error, bytes and diversity?

Source: problem 3 (2). Softmax regression with dropout, float64: weight scaling against the exact
mean over all masks. Then small networks on few digits: k models trained separately, each on a
bootstrap sample with its own start and order, against one network with dropout that trains k
times as long (equal compute) or has k times the units (equal parameters), and against k models
with 1/k of the units; the same models with only one source of diversity; random masks of the
dropout network as an ensemble.

    python -m experiments.bagging --flagfile=experiments/flags/bagging.txt

`bagging_quick.txt` has fewer seeds and models, `bagging_full.txt` more, and MNIST images.
"""

import dataclasses
import sys

from experiments import cli
from experiments.bagging_claims import CLAIMS
from experiments.bagging_figures import figures
from experiments.cli import Plan, seeds_setting, setting

__all__ = ["CLAIMS", "Config", "figures", "load", "plan", "run", "stages"]

NAME = "bagging"
SIZES = {"digits": (1797, 64), "mnist_5k": (5000, 784)}  # images, pixels


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on; the defaults are those of flags/bagging.txt.

    Every share dropped is one of *dropping*: formulas have keep = 1 - drop.
    """

    data: str = setting("digits", "data set", choices=tuple(SIZES))
    train_size: int = setting(200, "images to train on, others for each seed", low=2)
    tune_size: int = setting(400, "images to tune on, others for each seed", low=1)
    test_size: int = setting(600, "images to test on, others for each seed", low=1)

    num_seeds: int = seeds_setting(20)
    seed: int = setting(0, "base of all random draws", low=0, high=2**32 - 1)
    batch_size: int = setting(50, "images of a step; a last partial batch is dropped", low=1)
    width: int = setting(32, "units of the hidden layer of a model, and of the dropout net", low=2)
    epochs: int = setting(25, "passes over its training set for each model", low=1)
    rates: tuple[float, ...] = setting(
        (0.008, 0.025, 0.08, 0.25), "Adam's rates for separate models, tuned", low=0, low_open=True
    )

    models: int = setting(16, "the largest ensemble, k", low=2)
    counts: tuple[int, ...] = setting(
        (4, 16), "k where a k times wider dropout net and k models of 1/k of the width are trained",
        low=2,
    )  # fmt: skip
    dropout_rates: tuple[float, ...] = setting(
        (0.0007, 0.003, 0.012, 0.05), "Adam's rates with dropout, which trains longer; tuned",
        low=0, low_open=True,
    )  # fmt: skip
    drops: tuple[float, ...] = setting(
        (0.05, 0.25, 0.6), "shares of hidden units dropped, tuned", low=0, low_open=True, high=1,
        high_open=True,
    )  # fmt: skip
    input_drop: float = setting(0.1, "share of pixels dropped", low=0, high=1, high_open=True)
    masks: int = setting(300, "random masks of Monte Carlo dropout", low=2)

    exact_units: int = setting(12, "inputs of the softmax regression: 2^d masks", low=1, high=12)
    exact_drop: float = setting(0.5, "share of inputs dropped there", low=0, high=1, high_open=True)
    exact_steps: int = setting(200, "steps of Adam there, on all training images", low=1)

    def check(self):
        from dlstudy.errors import UserError

        def refuse(name, why):
            value = getattr(self, name)
            text = ",".join(map(str, value)) if isinstance(value, tuple) else value
            raise UserError(f"--{name}={text}: must {why}")

        for name in ("rates", "dropout_rates", "drops", "counts"):
            values = getattr(self, name)
            if not values:
                refuse(name, "hold at least one number")
            if list(values) != sorted(set(values)):
                refuse(name, "rise")
        if self.counts[-1] > self.models:
            refuse("counts", f"be at most --models={self.models}")
        if any(self.width % count for count in self.counts):
            refuse("counts", f"divide --width={self.width}")
        images, _ = SIZES[self.data]
        used = self.train_size + self.tune_size + self.test_size
        if used > images:
            refuse("test_size", f"leave training, tuning and test at most {images} images, not "
                   f"{used}")  # fmt: skip
        if self.batch_size > self.train_size:
            refuse("batch_size", f"be at most {self.train_size}, the training images")


def load(config: Config):
    """The data set, whose images each seed cuts into splits of its own."""
    from dlstudy import data

    return data.load(config.data)


def stages(config: Config) -> dict[str, int | range]:
    """Units of progress of each stage."""
    from experiments.bagging_record import separate

    found = {"regression": 1, "members": len(separate(config)), "dropout": config.models}
    return found | {f"wide_{count}": 1 for count in config.counts}


def run(config: Config, data, host):
    """Trains all arms; see `bagging_runs`. Returns the record."""
    from experiments import bagging_runs

    return bagging_runs.run(config, data, host)


def plan(config: Config, seeds: int, devices: int) -> Plan:
    """What a run would do, how long and in how much memory.

    Args:
      config: the settings.
      seeds: how many seeds would run.
      devices: how many devices share them.
    """
    from experiments.bagging_record import separate

    _, pixels = SIZES[config.data]
    steps = config.epochs * (config.train_size // config.batch_size)
    weights = lambda width: width * (pixels + 11) + 10  # noqa: E731
    arms, each = len(separate(config)), len(config.rates) * config.models
    conditions, wide = len(config.dropout_rates) * len(config.drops), sum(config.counts)
    work = steps * weights(config.width) * (arms * each + conditions * (config.models + wide))
    # Of one core of a 2.6 GHz AMD EPYC (Zen 4).
    seconds = 20 + seeds / devices * (work * config.batch_size * 6 / 2e10 + 1.5)
    floats = seeds * (each + 3 * conditions * wide) * weights(config.width)
    return Plan(
        [
            f"{config.train_size} training images of {config.data} for each of {seeds} seeds; "
            f"models of {weights(config.width)} weights, {steps} steps",
            f"members: {arms} arms of {config.models} models at {len(config.rates)} rates",
            f"dropout: {conditions} rates and shares, up to {config.models} times as long or "
            f"{config.counts[-1]} times as wide",
            f"in all about {round(seconds)} s, compilation included (a rough prediction); memory "
            f"about {0.6 + 4 * floats / 2**30:.1f} GiB",
        ],
        seconds,
    )


if __name__ == "__main__":
    raise SystemExit(cli.main(sys.modules[__name__]))
