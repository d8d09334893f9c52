"""The one side channel of an experiment's `run(config, data, host)`.

`run` is a function of its configuration and data; what it has to say to the outside while it
works (save this state, is there one to go on from, here are the live numbers, may I go on?) goes
through a `Host`. `dlstudy.records.FileHost` keeps everything in a run folder; `NullHost` does
nothing and is what tests and notebooks pass.

An experiment uses it like this, once per stage:

    stage = host.stage("adam", epochs=config.epochs)
    begin, state, rows = stage.restore(template) or (0, template, [])
    for epoch in range(begin, config.epochs):
        state, row = train_epoch(state)
        rows.append(row)
        stage.save(epoch, state, rows)
        stage.report({"loss": median_loss, "diverged": diverged})
        if host.should_stop():
            raise Interrupted
    stage.finish(rows)
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

PyTree = Any
Row = Mapping[str, np.ndarray]


def available_cpus() -> int:
    """CPUs this process may use: its affinity, and the quota of its container."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cpus = min(cpus, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no control group, or no quota ("max")
        pass
    return max(1, cpus)


class Interrupted(Exception):
    """Raised by an experiment that was asked to stop, after it has saved its state."""


@dataclass(frozen=True)
class Layout:
    """How the seeds are spread over devices; results may depend on it in the last bits.

    Attributes:
        devices: number of devices that share the seeds.
        strategy: what one device does with its seeds: "map" runs one after another, "vmap"
            makes them a batch axis.
        seeds_per_program: seeds that one call of the compiled program carries; 0 means all.
    """

    devices: int = 1
    strategy: str = "map"
    seeds_per_program: int = 0

    def slots(self, seeds: int) -> int:
        """Places for that many seeds: as many on each device, and at least two.

        Places without a seed of their own repeat one. A loop of one turn would be compiled away,
        and with it the guarantee that a seed run alone repeats its numbers among others to the bit.
        """
        return self.devices * max(2, -(-seeds // self.devices))


class StageHost(Protocol):
    """One stage: a number of epochs that share one state."""

    def restore(self, template: PyTree) -> tuple[int, PyTree, list[dict[str, np.ndarray]]] | None:
        """What an earlier, killed process left of this stage.

        Args:
            template: a pytree of arrays or `jax.ShapeDtypeStruct` with the structure, shapes and
                dtypes of the state.

        Returns:
            None if there is nothing; else (next_epoch, state, rows): the epoch to go on with, the
            state before it and the rows of the epochs before it. A finished stage gives
            (epochs, None, rows).
        """
        ...

    def save(self, epoch: int, state: PyTree, rows: Sequence[Row]) -> None:
        """Keeps state and rows after `epoch` (counted from 0) is done.

        Args:
            epoch: the epoch just finished.
            state: pytree of numpy or jax arrays.
            rows: one per finished epoch, all with the same names, shapes and dtypes.
        """
        ...

    def finish(self, rows: Sequence[Row]) -> None:
        """The stage is done: its rows are kept, its state is not."""
        ...

    def report(self, row: Mapping[str, float]) -> None:
        """Live numbers of the epoch just finished; call it once an epoch.

        The key "diverged" is the number of seeds whose loss stopped being finite.
        """
        ...


class Host(Protocol):
    """What `run` may use of the outside world."""

    @property
    def layout(self) -> Layout:
        """The layout of this run, chosen once and kept when the run is resumed."""
        ...

    def seeds(self, number: int) -> range:
        """The seeds to run: all of them, range(number), or those that this call is about.

        Seed i draws the same numbers whichever others run beside it.
        """
        ...

    def stage(self, name: str, epochs: int) -> StageHost:
        """Begins a stage; stages follow one another and have different names."""
        ...

    def log(self, line: str) -> None:
        """Says one line to the user and writes it to the log."""
        ...

    def should_stop(self) -> bool:
        """Whether the user asked to stop; then save and raise `Interrupted`."""
        ...


class NullStage:
    """Keeps nothing, says nothing."""

    def restore(self, template):
        return None

    def save(self, epoch, state, rows):
        pass

    def finish(self, rows):
        pass

    def report(self, row):
        pass


class NullHost:
    """A host that keeps nothing and never stops a run."""

    def __init__(self, layout: Layout | None = None, only: range | None = None):
        self.layout = layout or Layout()
        self.only = only

    def seeds(self, number: int) -> range:
        return range(number) if self.only is None else self.only

    def stage(self, name: str, epochs: int) -> NullStage:
        return NullStage()

    def log(self, line: str) -> None:
        pass

    def should_stop(self) -> bool:
        return False
