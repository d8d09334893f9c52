"""Do gradient norms stay large while the error of a CNN on MNIST settles, and what limits a step?

Source: problem 5. A convolution with ReLU and a dense layer, cross-entropy, Adam at 0.001, 25
epochs on a subset of MNIST, 20 seeds in one compiled program. Every step records its gradient
norm and its Taylor budget (what first and second order predict, and what the loss of the same
batch really did); every epoch the losses, the full-batch gradient and its noise, the curvature
and how far parameters and predictions moved. Beside the main arm train the controls: 10% wrong
labels, plain gradient descent at fixed rates and with the rate capped by the curvature, and new
heads on convolutions frozen early.

    python -m experiments.mnist_gradnorm --flagfile=experiments/flags/mnist_gradnorm.txt

`mnist_gradnorm_quick.txt` takes half a minute, on a narrower network;
`mnist_gradnorm_full.txt` trains on all of MNIST. `--dry_run` says how long yours will take.
"""

import dataclasses
import sys

from dlstudy.errors import UserError
from experiments import cli
from experiments import mnist_gradnorm_plan as plans
from experiments.cli import Plan, seeds_setting, setting
from experiments.mnist_gradnorm_charts import charts
from experiments.mnist_gradnorm_claims import CLAIMS
from experiments.mnist_gradnorm_figures import figures

__all__ = ["CLAIMS", "Config", "charts", "figures", "load", "plan", "run", "stages"]

NAME = "mnist_gradnorm"
CONTROLS = ("label_noise", "rates", "heads")


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run depends on; the defaults are those of flags/mnist_gradnorm.txt."""

    data: str = setting(
        "mnist_5k",
        "data set; the last three are prepared by tensorflow-datasets on first use",
        choices=("mnist_5k", "digits", "mnist", "fashion_mnist", "kmnist"),
    )
    train_size: int = setting(0, "keep this many training images; 0: all", low=0)
    label_noise: float = setting(
        0.0, "share of the training labels replaced, in every arm", low=0, high=1, high_open=True
    )
    tfds_data_dir: str = setting("", "where prepared tensorflow-datasets sets are", local=True)
    tfds_manual_dir: str = setting("", "where a set's original files are", local=True)

    network: str = setting(
        "one_conv",
        "one_conv: convolution, dense; two_conv: two convolutions with pooling, dense",
        choices=("one_conv", "two_conv"),
    )
    widths: tuple[int, ...] = setting(
        (), "channels of each convolution; empty: 32 for one_conv, 16,32 for two_conv", low=1
    )

    num_seeds: int = seeds_setting(20)
    seed: int = setting(0, "base of all random draws", low=0, high=2**32 - 1)
    epochs: int = setting(25, "passes over the training set", low=1)
    batch_size: int = setting(64, "images of a step; a last partial batch is dropped", low=1)
    optimizer: str = setting("adam", "of the main arm", choices=("adam", "sgd", "momentum"))
    learning_rate: float = setting(0.001, "of the main arm", low=0, low_open=True)
    momentum: float = setting(
        0.9, "of --optimizer=momentum (heavy ball)", low=0, high=1, high_open=True
    )

    norms_every: int = setting(
        1,
        "norms of gradient, whole and by layer, and step, every n-th step; 0: off",
        "steps",
        low=0,
    )
    taylor_every: int = setting(1, "Taylor budget of every n-th step; 0: off", "steps", low=0)
    evaluate_every: int = setting(1, "loss, error and churn; 0: off", "epochs", low=0)
    gradient_every: int = setting(
        1, "full-batch gradient norm and tr Sigma, in one pass; 0: off", "epochs", low=0
    )
    curvature_every: int = setting(
        1, "g'Hg, largest eigenvalue, the same preconditioned; 0: off", "epochs", low=0
    )
    curvature_size: int = setting(
        512,
        "curvature on a fixed stratified subset of this size, the default on all where they are "
        "fewer; 0: all",
        "images",
        low=0,
    )
    curvature_tolerance: float = setting(
        0.01, "residual over eigenvalue at which Lanczos stops", low=0, low_open=True, high=1
    )
    curvature_products: int = setting(20, "most Hessian products for an eigenvalue", low=1)

    controls: tuple[str, ...] = setting(
        CONTROLS,
        "arms beside the main one: wrong labels, fixed and capped rates, heads on frozen "
        "convolutions; empty: none",
        choices=CONTROLS,
    )
    control_label_noise: float = setting(
        0.1, "share of wrong labels in the arm label_noise", low=0, high=1, high_open=True
    )
    control_gradient_every: int = setting(
        5, "full-batch gradient of the arm label_noise; 0: off", "epochs", low=0
    )
    rates: tuple[float, ...] = setting(
        (0.1, 0.3, 1.0), "fixed rates of plain gradient descent; the cap works on the largest",
        low=0, low_open=True,
    )  # fmt: skip
    rate_epochs: int = setting(
        6, "of the arms with fixed and capped rates; at most --epochs are run", "epochs", low=1
    )
    head_at: tuple[int, ...] = setting(
        (0, 1, 2, 5, 25), "epochs after which the convolution is frozen for a new head", low=0
    )
    head_epochs: int = setting(3, "training of each new head, by Adam at 0.001", "epochs", low=1)

    measure_cost: bool = setting(
        True, "measure what the Taylor budget costs a step (a few seconds)", local=True
    )

    @property
    def channels(self) -> tuple[int, ...]:
        return self.widths or ((32,) if self.network == "one_conv" else (16, 32))

    @property
    def epochs_at_rates(self) -> int:
        """Epochs of the arms with fixed and capped rates: no more than the main arm has."""
        return min(self.rate_epochs, self.epochs)

    @property
    def frozen_at(self) -> tuple[int, ...]:
        """Epochs at which new heads start: those asked for, up to the last, which is always in."""
        return tuple(sorted({e for e in self.head_at if e < self.epochs} | {self.epochs}))

    def curvature_images(self, train: int) -> int:
        """Images for the curvature, of `train` training images."""
        return min(self.curvature_size or train, train)

    def check(self):
        layers = 1 if self.network == "one_conv" else 2
        if self.widths and len(self.widths) != layers:
            given = ",".join(map(str, self.widths))
            raise UserError(f"--widths={given}: must be {layers} number(s) for {self.network}")
        for name in ("rates", "head_at", "controls"):
            values = getattr(self, name)
            told_apart = {f"{v:g}" if isinstance(v, float) else v for v in values}  # by arm names
            if len(told_apart) != len(values):
                raise UserError(f"--{name}={','.join(map(str, values))}: must not repeat a value")
        if "rates" in self.controls and not self.rates:
            raise UserError("--rates=: must name at least one rate, or leave it out of --controls")
        self._check_sizes()

    def _check_sizes(self):
        """Checks what depends on the number of training images, which is known without them."""
        whole = plans.sizes(self.data).train
        train = self.train_size or whole
        limits = {"train_size": whole, "batch_size": train}
        # The default is nobody's wish: it gives way, see `curvature_images`.
        if self.curvature_size != type(self).curvature_size:
            limits["curvature_size"] = train
        for name, limit in limits.items():
            if getattr(self, name) > limit:
                raise UserError(
                    f"--{name}={getattr(self, name)}: must be at most {limit}, the training "
                    f"images of {self.data}" + " with this --train_size" * (limit < whole)
                )


def load(config: Config):
    """The data set."""
    from dlstudy import data

    found = data.load(
        config.data,
        train_size=config.train_size or None,
        label_noise=config.label_noise,
        seed=config.seed,
        tfds_data_dir=config.tfds_data_dir or None,
        tfds_manual_dir=config.tfds_manual_dir or None,
    )
    if config.network == "two_conv" and min(found.train.x.shape[1:3]) < 4:
        raise UserError(f"--network=two_conv: images of {config.data} are too small to pool twice")
    return found


def stages(config: Config) -> dict[str, int | range]:
    """Units of progress of each stage, in order: epochs from 0, a measurement, or heads."""
    found = {"main": range(config.epochs + 1)}
    if "label_noise" in config.controls:
        found["label_noise"] = range(config.epochs + 1)
    if "rates" in config.controls:
        found["rates"] = found["capped"] = range(config.epochs_at_rates + 1)
    if "heads" in config.controls:
        found["heads"] = len(config.frozen_at)
    return found


def run(config: Config, data, host):
    """Trains and measures every arm; see `mnist_gradnorm_runs`. Returns the record."""
    from experiments import mnist_gradnorm_runs

    size = config.curvature_images(len(data.train.y))
    return mnist_gradnorm_runs.run(dataclasses.replace(config, curvature_size=size), data, host)


def plan(config: Config, seeds: int, devices: int) -> Plan:
    """What a run would do, how long and in how much memory."""
    return plans.plan(config, seeds, devices)


if __name__ == "__main__":
    raise SystemExit(cli.main(sys.modules[__name__]))
