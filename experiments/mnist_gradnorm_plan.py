"""What a run of `mnist_gradnorm` would do, how long and in how much memory, before it runs."""

from experiments.devices import available_cpus

# Milliseconds of one core for one training image at the default widths, measured on a 2.6 GHz
# AMD EPYC (Zen 4); other widths and sizes scale with the multiplications.
CORE_MS = {"one_conv": 0.08, "two_conv": 0.085}
# Cost in units of a training epoch on the same images.
TAYLOR, REALISED, EVALUATION, GRADIENT, PRODUCT, CAP = 1.2, 0.35, 0.25, 0.8, 1.4, 0.9
PRODUCTS = 9.5  # Hessian products of an epoch, both eigenvalues and g'Hg together
COMPILATION = 60  # seconds, all programs together, when none is cached
SIZES = {  # train, tune, test, side, classes
    "mnist_5k": (4000, 500, 500, 28, 10),
    "digits": (1437, 180, 180, 8, 10),
}
FULL = (50_000, 10_000, 10_000, 28, 10)


def parameters(config) -> int:
    """Number of parameters of the network."""
    *_, side, classes = SIZES.get(config.data, FULL)
    count, channels = 0, 1
    for width in config.channels:
        count += (9 * channels + 1) * width
        channels = width
        side = side // 2 if config.network == "two_conv" else side
    return count + (side * side * channels + 1) * classes


def multiplications(config) -> int:
    """Multiplications of one training image: forward, weight and input gradients."""
    *_, side, classes = SIZES.get(config.data, FULL)
    count, channels = 0, 1
    for i, width in enumerate(config.channels):
        count += (2 if i == 0 else 3) * side * side * 9 * channels * width
        channels = width
        side = side // 2 if config.network == "two_conv" else side
    return count + 3 * side * side * channels * classes


def plan(config) -> list[str]:
    """Lines for --dry_run: arms, steps, predicted time and memory."""
    train, tune, test, *_ = SIZES.get(config.data, FULL)
    train = config.train_size or train
    standard = {"one_conv": (784 * 9 * 32 * 2 + 3 * 25088 * 10), "two_conv": 3_017_504}
    core_ms = CORE_MS[config.network] * multiplications(config) / standard[config.network]
    cores = available_cpus()
    epoch = config.num_seeds * train * core_ms / 1000 / cores
    outside = EVALUATION * (tune + test) / train
    share = (config.curvature_size or train) / train

    def often(n):
        return 1 / n if n else 0

    main = 1 + often(config.taylor_every) * TAYLOR + often(config.gradient_every) * GRADIENT
    main += often(config.evaluate_every) * outside
    main += often(config.curvature_every) * PRODUCTS * PRODUCT * share
    noisy = 1 + often(config.control_gradient_every) * GRADIENT + outside + EVALUATION
    rate = 1 + REALISED + outside + EVALUATION
    heads = len(config.frozen_at) * config.head_epochs * 0.6
    work = {
        f"main ({config.optimizer})": (config.epochs, config.epochs * main),
        "label_noise": (config.epochs, config.epochs * noisy),
        "rates": (config.epochs_at_rates, len(config.rates) * config.epochs_at_rates * rate),
        "capped": (config.epochs_at_rates, config.epochs_at_rates * (rate + CAP)),
        "heads": (len(config.frozen_at) * config.head_epochs, heads),
    }
    lines = [
        f"{config.data}: {train} training, {tune} tuning, {test} test images; {config.network} "
        f"with {parameters(config):,} parameters; {config.num_seeds} seeds on {cores} cores"
    ]
    total = COMPILATION
    for name, (epochs, units) in work.items():
        if name.startswith("main") or {"capped": "rates"}.get(name, name) in config.controls:
            total += units * epoch
            lines.append(
                f"{name}: {epochs} epochs of {train // config.batch_size} steps, "
                f"about {_duration(units * epoch)}"
            )
    lines.append(f"in all about {_duration(total)}, compilation included (a rough prediction)")
    basis = config.curvature_products * cores if config.curvature_every else 0
    slots = max(config.num_seeds * max(1, len(config.rates)), 1)
    floats = parameters(config) * (10 * config.num_seeds + 2 * slots + basis)
    images = 3 * (train + tune + test) * SIZES.get(config.data, FULL)[3] ** 2
    lines.append(f"memory: about {0.7 + 4 * (floats + images) / 2**30:.1f} GiB")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
