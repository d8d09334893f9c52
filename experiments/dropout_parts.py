"""The stages of `dropout`: which networks are trained on what, by one program each."""

from typing import Any, NamedTuple


class Condition(NamedTuple):
    """What sets one run apart; scalars, or arrays with one entry a run."""

    rate: Any  # learning rate
    drop: Any  # probability that a hidden unit is dropped
    penalty: Any  # lambda of (lambda / 2) |w|^2
    width: Any  # units that exist of each hidden layer


class Part(NamedTuple):
    """One stage of training."""

    name: str
    widths: tuple[int, ...]
    size: int  # training images
    epochs: int
    block: int  # epochs of a unit of progress
    conditions: list[Condition]
    masks: int = 1  # averaged over in each step, of each example
    curves: tuple[str, ...] = ()  # splits whose loss is measured after each epoch, masks off
    random_labels: bool = False
    ends: bool = False  # losses and errors of all splits are measured after each block
    examined: tuple[slice, ...] = ()  # of these runs the best tuned is examined, one of each
    noise: bool = False


def parts(config) -> list[Part]:
    """The stages on true labels."""
    own = lambda **more: Condition(**(dict(penalty=0.0, width=config.widths[0]) | more))  # noqa: E731
    rates, full = config.rates, config.train_size
    dropped = [own(rate=r, drop=p) for p in (0.0, *config.drops) for r in rates]
    decayed = [own(rate=r, drop=0.0, penalty=c) for c in config.penalties for r in rates]
    averaged = [own(rate=r, drop=config.judged_drop) for r in rates]
    wide = tuple(config.wider * width for width in config.widths)
    plain = [own(rate=r, drop=0.0, width=wide[0]) for r in rates]
    every = len(dropped) + len(decayed)
    each_drop = [slice(i, i + len(rates)) for i in range(0, len(dropped), len(rates))]
    return [
        Part("learn", config.widths, full, config.epochs, config.block, dropped + decayed,
             curves=("train", "tune"), examined=(*each_drop, slice(len(dropped), every)),
             ends=True, noise=True),
        Part("wide", wide, full, config.epochs, config.epochs, plain,
             examined=(slice(len(plain)),), ends=True),
        Part("averaged", config.widths, full, config.averaged_epochs, config.averaged_epochs,
             averaged, masks=config.masks, curves=("train",)),
        Part("small", config.widths, config.small_size, config.small_epochs, config.small_epochs,
             dropped, ends=True),
    ]  # fmt: skip


def capacity(config) -> Part:
    """The stage on random labels: one hidden layer, of the largest width there is."""
    conditions = [
        Condition(rate, drop, 0.0, width)
        for width in config.capacity_widths
        for drop in (0.0, *config.capacity_drops)
        for rate in config.capacity_rates
    ]
    size, epochs = config.capacity_size, config.capacity_epochs
    return Part("capacity", (max(config.capacity_widths),), size, epochs, epochs // 4, conditions,
                curves=("train",), random_labels=True)  # fmt: skip
