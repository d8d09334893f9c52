"""What do adaptive learning rates adapt to, and when are they better than one rate for all?

Source: problem 2, questions 3 and 4 (Adam, AdaGrad, RMSProp). In float64, with known answers: the
size of a step under a constant gradient, with and without Adam's bias correction; the losses on
which Adam goes the wrong way (Reddi et al. 2018) and adaptive methods generalise worse (Wilson et
al. 2017); a minimum that moves; an ill-conditioned quadratic; the loss, or one input, rescaled; and
every algorithm against its formula. Then a network on digits: the error over a grid of rates for
each optimizer, and random search over all hyperparameters.

    python -m experiments.adaptive --flagfile=experiments/flags/adaptive.txt

`adaptive_quick.txt` has fewer seeds, rates and trials; `adaptive_full.txt` more, and longer
training.
"""

import dataclasses
import itertools
import sys

import numpy as np

from experiments import cli
from experiments.adaptive_claims import CLAIMS
from experiments.adaptive_figures import figures
from experiments.cli import Plan, seeds_setting, setting

__all__ = ["CLAIMS", "Config", "figures", "load", "plan", "run", "stages"]

NAME = "adaptive"
TRAIN = 1437  # images of digits
NEEDED = ("sgd", "momentum", "adam", "adam_uncorrected")  # claims are about these
KNOWN = (
    "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "rmsprop_nesterov", "adam",
    "averaged_momentum", "adam_uncorrected", "amsgrad",
)  # fmt: skip


def _range(default, help):
    """A setting of two numbers, rising, above 0."""
    return setting(default, help, low=0, low_open=True)


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on; the defaults are those of flags/adaptive.txt."""

    num_seeds: int = seeds_setting(20)
    seed: int = setting(0, "base of all random draws", low=0, high=2**32 - 1)

    optimizers: tuple[str, ...] = setting(
        ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "rmsprop_nesterov", "adam",
         "adam_uncorrected", "amsgrad"),
        f"trained at every rate; among them {', '.join(NEEDED)}", choices=KNOWN,
    )  # fmt: skip
    momentum: float = setting(
        0.9, "of those that have one, on the grid of rates", low=0, high=1, high_open=True
    )
    widths: tuple[int, ...] = setting((32,), "units of each hidden layer", low=1)
    train_size: int = setting(
        600, "images to train on; half of the other training images are to tune on, half to test",
        low=1, high=TRAIN - 2,
    )  # fmt: skip
    batch_size: int = setting(50, "images of a step; a last partial batch is dropped", low=1)
    epochs: int = setting(15, "passes over the training images", low=1)
    rates: tuple[float, ...] = _range((1e-5, 10.0), "lowest and highest rate of the grid")
    rates_per_decade: int = setting(4, "of the grid", low=1)
    repeats: int = setting(
        3, "trainings by each seed at each rate, from other weights and in another order: errors "
        "are means, or a tenth of the best would be less than chance", low=1,
    )  # fmt: skip
    early_steps: int = setting(40, "first steps in which a peak of the loss is early", low=1)

    trials: int = setting(64, "of random search, by each seed and in each space", low=2)
    search_rate: tuple[float, ...] = _range(
        (1e-2, 1e2), "range of the rate at full speed: momentum's is this times 1 - alpha, Adam's "
        "this times max(delta, --delta_scale)",
    )  # fmt: skip
    search_slow: tuple[float, ...] = _range((1e-3, 1.0), "range of 1 - alpha and 1 - rho1")
    search_slower: tuple[float, ...] = _range((1e-4, 1.0), "range of 1 - rho2")
    search_delta: tuple[float, ...] = _range((1e-8, 10.0), "range of Adam's delta, where searched")
    delta_scale: float = setting(
        0.01, "Adam's rate is searched as a multiple of max(delta, this)", low=0, low_open=True
    )

    scale_size: int = setting(200, "images of the network whose loss or input is scaled", low=1)
    scale_steps: int = setting(50, "of that network, full batch", "steps", low=1)
    scale_adam_rate: float = setting(0.003, "its rate with Adam", low=0, low_open=True)
    scale_sgd_rate: float = setting(0.1, "its rate with plain descent", low=0, low_open=True)
    loss_scales: tuple[float, ...] = _range(
        (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0), "what the loss is multiplied by"
    )
    feature_scales: tuple[float, ...] = _range(
        (0.125, 0.25, 0.5, 1.0, 2.0, 4.0), "what one input feature is multiplied by"
    )
    no_delta: float = setting(
        1e-30, "Adam's delta where none is meant: 0 would give 0 / 0 at dark pixels", low=0,
        low_open=True,
    )  # fmt: skip

    steps: int = setting(10_000, "under a constant gradient", "steps", low=20)
    small_gradient: float = setting(
        1e-3, "the gradient of Optax's AdaGrad, whose sum starts at 0.1", low=0, low_open=True
    )
    rho: float = setting(
        0.9, "of RMSProp on these problems", low=0, low_open=True, high=1, high_open=True
    )
    reddi_c: float = setting(3.0, "C of Reddi's counter-example", low=2, low_open=True)
    reddi_rate: float = setting(
        0.5, "its first rate, which falls with the root of time", low=0, low_open=True
    )
    reddi_steps: int = setting(10_000, "of it", "steps", low=1)
    reddi_hidden: float = setting(
        0.5, "rho2 of the control that hides it", low=0, low_open=True, high=1, high_open=True
    )
    wilson_samples: int = setting(40, "of Wilson's data set", low=4)
    wilson_share: float = setting(
        0.7, "chance of a positive label in it", low=0.5, low_open=True, high=1, high_open=True
    )
    wilson_rate: float = setting(0.1, "rate of the adaptive methods on it", low=0, low_open=True)
    wilson_steps: int = setting(2000, "of all methods on it", "steps", low=1)

    track_steps: int = setting(4000, "of following a moving minimum", "steps", low=80)
    track_size: int = setting(10, "its coordinates", low=1)
    drift: float = setting(
        0.03, "standard deviation of the minimum's move in a step, in that of the gradient's noise",
        low=0, low_open=True,
    )  # fmt: skip
    calm: float = setting(
        0.01, "what gradients are multiplied by in the second half, in the second world", low=0,
        low_open=True,
    )  # fmt: skip
    quadratic_size: int = setting(10, "coordinates of the ill-conditioned quadratic", low=3)
    quadratic_steps: int = setting(1000, "of descent on it", "steps", low=10)
    condition: float = setting(100.0, "its condition number", low=1, low_open=True)
    period: float = setting(
        100.0, "of its curvatures where these wander", "steps", low=0, low_open=True
    )
    target: float = setting(
        0.03, "part of the first distance to the minimum at which progress is equal", low=0,
        low_open=True, high=1, high_open=True,
    )  # fmt: skip

    @property
    def rate_grid(self) -> np.ndarray:
        """Rates of the networks, float64[R], rising, evenly over the logarithm."""
        return _decades(*self.rates, self.rates_per_decade)

    @property
    def track_rates(self) -> np.ndarray:
        """Rates at which the moving minimum is followed."""
        return _decades(1e-4, 1e2, 4)

    @property
    def descent_rates(self) -> np.ndarray:
        """Rates of plain descent on the quadratic: quarter octaves about the limit 2 / curvature"""
        return 2 / self.condition * 2.0 ** (np.arange(-28, 37) / 4)

    @property
    def rmsprop_rates(self) -> np.ndarray:
        """As many rates of RMSProp on it, in quarter octaves; the start is of the order of 1."""
        return 2.0 ** (np.arange(-40, 25) / 4)

    def check(self):
        from dlstudy.errors import UserError

        def text(name):
            return f"--{name}={','.join(map(str, getattr(self, name)))}"

        if not self.widths:
            raise UserError("--widths=: must name at least one hidden layer")
        if len(set(self.optimizers)) != len(self.optimizers):
            raise UserError(f"{text('optimizers')}: must not repeat a name")
        missing = [name for name in NEEDED if name not in self.optimizers]
        if missing:
            raise UserError(f"{text('optimizers')}: must hold {', '.join(missing)} too")
        for name in ("rates", "search_rate", "search_slow", "search_slower", "search_delta"):
            limits = getattr(self, name)
            if len(limits) != 2 or not limits[0] < limits[1]:
                raise UserError(f"{text(name)}: must be two numbers, the lower one first")
            if name in ("search_slow", "search_slower") and limits[1] > 1:
                raise UserError(f"{text(name)}: must be at most 1")
        for name in ("loss_scales", "feature_scales"):
            values = getattr(self, name)
            if list(values) != sorted(set(values)) or 1.0 not in values or len(values) < 2:
                raise UserError(f"{text(name)}: must rise, and hold 1 and another number")
        if len(self.rate_grid) < 3:
            raise UserError(f"{text('rates')}: must span three rates of the grid")
        for name in ("batch_size", "scale_size"):
            if getattr(self, name) > self.train_size:
                raise UserError(
                    f"--{name}={getattr(self, name)}: must be at most {self.train_size}, the "
                    "--train_size"
                )
        steps = self.epochs * (self.train_size // self.batch_size)
        if self.early_steps > steps:
            raise UserError(f"--early_steps={self.early_steps}: must be at most {steps}, all steps")


def _decades(low: float, high: float, each: int) -> np.ndarray:
    return np.logspace(
        np.log10(low), np.log10(high), 1 + round(np.log10(high / low) * each)
    )  # fmt: skip


def load(config: Config):
    """Digits; what is not trained on is to tune and to test on.

    These sets must be large: a tenth of a small error on few images is less than one image.
    """
    from dlstudy import data

    return data.larger_tests(data.load("digits"), config.train_size)


def stages(config: Config) -> dict[str, int]:
    """Units of progress of each stage."""
    once = ("steps", "counterexamples", "tracking", "oscillation", "conformance", "scaling")
    return dict.fromkeys(once, 1) | {"rates": len(config.optimizers), "search": 2}


def run(config: Config, data, host):
    """Solves and trains everything; see `adaptive_runs`. Returns the record."""
    from experiments import adaptive_runs

    return adaptive_runs.run(config, data, host)


def plan(config: Config, seeds: int, devices: int) -> Plan:
    """What a run would do, how long and in how much memory."""
    sizes = (64, *config.widths, 10)
    weights = sum(a * b for a, b in itertools.pairwise(sizes))
    steps = config.epochs * (config.train_size // config.batch_size)
    runs = len(config.optimizers) * len(config.rate_grid) * config.repeats + 4 * config.trials
    # Microseconds of one core of a 2.6 GHz AMD EPYC (Zen 4).
    step = 4 + weights * (config.batch_size / 10_000 + 0.001)
    others = (config.steps + config.reddi_steps) * 5 + config.wilson_steps * 40
    others += config.track_steps * 20 + config.scale_steps * 10_000
    seconds = 40 + seeds * (runs * steps * step + others) / devices / 1e6
    lines = [
        f"{config.train_size} digits, {weights} weights, {steps} steps of {config.batch_size}: "
        f"{len(config.optimizers)} optimizers at {len(config.rate_grid)} rates, 4 spaces of "
        f"{config.trials} trials",
        "steps, counter-examples, a moving minimum, quadratics and scales in float64",
        f"{seeds} seeds; in all about {round(seconds)} s, compilation included (a rough "
        f"prediction); memory about {0.7 + seeds * runs * config.early_steps * 8 / 2**30:.1f} GiB",
    ]
    return Plan(lines, seconds)


if __name__ == "__main__":
    raise SystemExit(cli.main(sys.modules[__name__]))
