"""What a run of `mnist_gradnorm` would do, how long and in how much memory, before it runs."""

from typing import NamedTuple

from dlstudy.host import Layout, available_cpus
from experiments.cli import Plan

# Milliseconds of one core for one training image at the default widths, measured on a 2.6 GHz
# AMD EPYC (Zen 4) that does not have the machine to itself; other widths and sizes scale with the
# multiplications.
CORE_MS = {"one_conv": 0.13, "two_conv": 0.135}
# Cost in units of a training epoch on the same images.
TAYLOR, REALISED, EVALUATION, GRADIENT, PRODUCT, CAP = 1.2, 0.35, 0.25, 0.8, 1.4, 0.9
PRODUCTS = 9.5  # Hessian products of an epoch, both eigenvalues and g'Hg together
COMPILATION = 20  # seconds, all programs together, when none is cached


class Sizes(NamedTuple):
    """A data set before it is loaded: examples of each split, pixels of a side, classes."""

    train: int
    tune: int
    test: int
    side: int
    classes: int


SIZES = {"mnist_5k": Sizes(4000, 500, 500, 28, 10), "digits": Sizes(1437, 180, 180, 8, 10)}
FULL = Sizes(50_000, 10_000, 10_000, 28, 10)  # every set of tensorflow-datasets


def sizes(data: str) -> Sizes:
    return SIZES.get(data, FULL)


def parameters(config) -> int:
    """Number of parameters of the network."""
    *_, side, classes = sizes(config.data)
    count, channels = 0, 1
    for width in config.channels:
        count += (9 * channels + 1) * width
        channels = width
        side = side // 2 if config.network == "two_conv" else side
    return count + (side * side * channels + 1) * classes


def multiplications(config) -> int:
    """Multiplications of one training image: forward, weight and input gradients."""
    *_, side, classes = sizes(config.data)
    count, channels = 0, 1
    for i, width in enumerate(config.channels):
        count += (2 if i == 0 else 3) * side * side * 9 * channels * width
        channels = width
        side = side // 2 if config.network == "two_conv" else side
    return count + 3 * side * side * channels * classes


def plan(config, seeds: int, devices: int) -> Plan:
    """Arms, steps, predicted time and memory.

    Args:
        config: the experiment's `Config`.
        seeds: how many are run.
        devices: that share them, each a core of this machine as far as there are enough.
    """
    train, tune, test, side, _ = sizes(config.data)
    train = config.train_size or train
    standard = {"one_conv": (784 * 9 * 32 * 2 + 3 * 25088 * 10), "two_conv": 3_017_504}
    core_ms = CORE_MS[config.network] * multiplications(config) / standard[config.network]
    layout, cores = Layout(devices), min(devices, available_cpus())
    outside = EVALUATION * (tune + test) / train
    share = config.curvature_images(train) / train

    def often(n):
        return 1 / n if n else 0

    def seconds(units, runs=1):
        """Of `units` training epochs of every seed, at each of so many rates."""
        return units * layout.slots(runs * seeds) * train * core_ms / 1000 / cores

    main = 1 + often(config.taylor_every) * TAYLOR + often(config.gradient_every) * GRADIENT
    main += often(config.evaluate_every) * outside
    main += often(config.curvature_every) * PRODUCTS * PRODUCT * share
    noisy = 1 + often(config.control_gradient_every) * GRADIENT + outside + EVALUATION
    rate = 1 + REALISED + outside + EVALUATION
    heads = len(config.frozen_at) * config.head_epochs * 0.6
    rates = max(1, len(config.rates))
    work = {
        f"main ({config.optimizer})": (config.epochs, seconds(config.epochs * main)),
        "label_noise": (config.epochs, seconds(config.epochs * noisy)),
        "rates": (config.epochs_at_rates, seconds(config.epochs_at_rates * rate, rates)),
        "capped": (config.epochs_at_rates, seconds(config.epochs_at_rates * (rate + CAP))),
        "heads": (len(config.frozen_at) * config.head_epochs, seconds(heads)),
    }
    where = f"{_count(seeds, 'seed')} on {_count(cores, 'core')}"
    lines = [
        f"{config.data}: {train} training, {tune} tuning, {test} test images; {config.network} "
        f"with {parameters(config):,} parameters; {where}"
    ]
    total = COMPILATION
    for name, (epochs, duration) in work.items():
        if name.startswith("main") or {"capped": "rates"}.get(name, name) in config.controls:
            total += duration
            lines.append(
                f"{name}: {epochs} epochs of {train // config.batch_size} steps, "
                f"about {_duration(duration)}"
            )
    lines.append(f"in all about {_duration(total)}, compilation included (a rough prediction)")
    basis = config.curvature_products * devices if config.curvature_every else 0
    copies = 10 * layout.slots(seeds) + 2 * layout.slots(rates * seeds) + basis
    floats = parameters(config) * copies
    images = 3 * (train + tune + test) * side**2
    lines.append(f"memory: about {0.7 + 4 * (floats + images) / 2**30:.1f} GiB")
    return Plan(lines, total)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
