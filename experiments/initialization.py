"""Does a poor initial scale make gradients vanish or explode, and does another rate help?

Source: problem 2 (4), "Algorithm 8.4", which describes the book's section 8.4. Deep ReLU networks
with weights drawn in eight ways and three biases: second moments of activations and gradients layer
by layer, against what expectation and median over draws say. Then networks of 30 layers learn
digits at a grid of learning rates, with momentum, which has one rate for all weights, and with
Adam, which scales every weight's step by itself.

    python -m experiments.initialization --flagfile=experiments/flags/initialization.txt

`initialization_quick.txt` has fewer seeds and epochs, `initialization_full.txt` wider and deeper
networks and more rates.
"""

import dataclasses
import sys

from experiments import cli
from experiments.cli import Plan, seeds_setting, setting
from experiments.initialization_claims import CLAIMS
from experiments.initialization_figures import figures

__all__ = ["CLAIMS", "Config", "figures", "load", "plan", "run", "stages"]

NAME = "initialization"
INITIALIZERS = ("zeros", "normal", "uniform", "lecun", "glorot", "he", "orthogonal", "sparse")
SIZES = {"digits": (1437, 64), "mnist_5k": (4000, 784)}  # training images, pixels


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on; the defaults are those of flags/initialization.txt."""

    data: str = setting("digits", "data set", choices=tuple(SIZES))
    initializers: tuple[str, ...] = setting(
        INITIALIZERS, "initialisers of the kernels", choices=INITIALIZERS
    )
    biases: tuple[float, ...] = setting((0.1, -0.1), "biases of the hidden units, beside 0")
    sparse_weights: int = setting(15, 'weights of a unit that "sparse" draws from N(0, 1)', low=1)
    orthogonal_gain: float = setting(
        2**0.5, 'factor of "orthogonal"; the root of 2 makes up for a ReLU', low=0, low_open=True
    )

    num_seeds: int = seeds_setting(20)
    seed: int = setting(0, "base of all random draws", low=0, high=2**32 - 1)

    moment_width: int = setting(100, "units of each layer where second moments are taken", low=2)
    moment_depth: int = setting(50, "hidden layers there", low=2)
    draws: int = setting(4, "networks drawn by each seed there", low=1)
    images: int = setting(16, "images there, the first of the training set", low=2)

    width: int = setting(32, "units of each layer of the networks that learn", low=1)
    depth: int = setting(30, "hidden layers of those that learn at every rate", low=2)
    depths: tuple[int, ...] = setting(
        (5, 10, 20, 30), "hidden layers of those that learn with Adam at its common rate", low=2
    )
    batch_size: int = setting(32, "images of a step; a last partial batch is dropped", low=1)
    epochs: int = setting(4, "passes over the training set", low=1)
    target: float = setting(
        2.0, "a network has learned anything if its training loss ends below this; guessing "
        "reads 2.30", "nat", low=0, low_open=True,
    )  # fmt: skip
    momentum_rates: tuple[float, ...] = setting(
        (1e-14, 1e-3, 3e-3, 1e-2, 1.0),
        "rates of momentum (0.9); the lowest is for gradients that explode", low=0, low_open=True,
    )  # fmt: skip
    momentum_rate: float = setting(0.003, "the common one among them")
    adam_rates: tuple[float, ...] = setting(
        (1e-4, 1e-3, 3e-3, 1e-2, 0.1), "rates of Adam, as many", low=0, low_open=True
    )
    adam_rate: float = setting(0.001, "the common one among them")
    scales: tuple[float, ...] = setting(
        (0.5, 0.85, 1.2, 2.0), 'factors of "he" that learn at the common rates too', low=0,
        low_open=True,
    )  # fmt: skip

    def check(self):
        from dlstudy.errors import UserError

        def text(name):
            return f"--{name}={','.join(f'{v:g}' for v in getattr(self, name))}"

        def one_of_each(name, values):
            if not values:
                raise UserError(f"--{name}=: must name at least one")
            if len({v if isinstance(v, str) else f"{v:g}" for v in values}) != len(values):
                raise UserError(f"--{name}: must not repeat a value")

        for name in ("initializers", "biases", "depths", "momentum_rates", "adam_rates", "scales"):
            one_of_each(name, getattr(self, name))
        if 0 in self.biases:
            raise UserError(f"{text('biases')}: must not hold 0, which is always there")
        if self.depth not in self.depths:
            raise UserError(f"{text('depths')}: must hold {self.depth}, the --depth")
        if len(self.adam_rates) != len(self.momentum_rates):
            raise UserError(
                f"{text('adam_rates')}: must be {len(self.momentum_rates)} rates, as many as "
                "--momentum_rates"
            )
        for name in ("momentum", "adam"):
            rates, common = (getattr(self, f"{name}_{what}") for what in ("rates", "rate"))
            if list(rates) != sorted(rates):
                raise UserError(f"{text(f'{name}_rates')}: must be in rising order")
            if common not in rates:
                raise UserError(f"--{name}_rate={common:g}: must be one of --{name}_rates")
        examples, _ = SIZES[self.data]
        for name in ("batch_size", "images"):
            if getattr(self, name) > examples:
                raise UserError(
                    f"--{name}={getattr(self, name)}: must be at most {examples}, the training "
                    f"images of {self.data}"
                )

    @property
    def retuned(self) -> tuple[str, ...]:
        """Initialisers that learn at every rate: not zeros, whose gradients no rate can change."""
        return tuple(name for name in self.initializers if name != "zeros")

    @property
    def chunks(self) -> int:
        """Units of progress of the training at every rate; see `initialization_runs.run`."""
        extra = len(self.initializers) - len(self.retuned) + len(self.scales) + 2 * len(self.biases)
        return len(self.retuned) - -extra // len(self.momentum_rates)


def load(config: Config):
    """The data set."""
    from dlstudy import data

    return data.load(config.data)


def stages(config: Config) -> dict[str, int | range]:
    """Units of progress of each stage."""
    found = {"moments": len(config.initializers) + 1}
    found |= {f"{name}_{config.depth}": config.chunks for name in ("momentum", "adam")}
    return found | {f"adam_{depth}": 1 for depth in config.depths if depth != config.depth}


def run(config: Config, data, host):
    """Measures and trains; see `initialization_runs`. Returns the record."""
    from experiments import initialization_runs

    return initialization_runs.run(config, data, host)


def plan(config: Config, seeds: int, devices: int) -> Plan:
    """What a run would do, how long and in how much memory.

    Args:
      config: the settings.
      seeds: how many seeds would run.
      devices: how many devices share them.
    """
    examples, _ = SIZES[config.data]
    steps = config.epochs * (examples // config.batch_size)
    runs = 2 * config.chunks * len(config.momentum_rates)
    others = [depth for depth in config.depths if depth != config.depth]
    layers = runs * config.depth + len(config.initializers) * sum(others)
    # Of one core of a 2.6 GHz AMD EPYC (Zen 4): products of a batch, and what each layer costs.
    product = 6 * config.batch_size * config.width**2 / 30e9
    weights = config.moment_width**2 * config.moment_depth
    networks = (len(config.initializers) + 1) * config.draws
    work = 12 * weights * config.images * (1 + len(config.biases)) / 15e9 + weights * 2e-8
    seconds = 14 + seeds / devices * (layers * steps * (product + 4e-6) + networks * work)
    memory = 0.7 + devices * 40 * weights / 2**30
    return Plan(
        [
            f"second moments: {len(config.initializers) + 1} initialisers, "
            f"{1 + len(config.biases)} biases, {config.draws} draws by each of {seeds} seeds, "
            f"{config.moment_depth} layers of {config.moment_width}",
            f"training: {runs} runs of {config.depth} layers of {config.width} by each seed, "
            f"{steps} steps of {config.batch_size} of {examples} images of {config.data}; "
            f"{len(config.initializers)} each of {', '.join(map(str, others)) or 'no other'} "
            "layers",
            f"in all about {round(seconds)} s, compilation included (a rough prediction); memory "
            f"about {memory:.1f} GiB",
        ],
        seconds,
    )


if __name__ == "__main__":
    raise SystemExit(cli.main(sys.modules[__name__]))
