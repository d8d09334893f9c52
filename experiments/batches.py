"""Seeds in batches, until every verdict is decided or a cap is reached: `--num_seeds=auto`.

A batch is a run of its own on the next seeds, with checkpoints in a folder of its own, so that
runs of the experiment know nothing of the others. After each batch all claims are judged on all
seeds so far, at the looks that were fixed beforehand (`dlstudy.stats.Looks`). A killed run goes on
by running its batches again: finished stages come back from their checkpoints, and the same
numbers stop it in the same place.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dlstudy import records
from dlstudy.errors import UserError
from dlstudy.host import Interrupted
from dlstudy.stats import Looks
from experiments.console import format_seconds
from experiments.flagging import setting

if TYPE_CHECKING:
    import xarray

    from dlstudy.claims import Verdict

AUTO = 0  # the value of a setting `num_seeds` that is given as "auto"


def seeds_setting(default: int) -> Any:
    """The field `num_seeds` of an experiment's configuration."""
    text = (
        "seeds; run i draws from fold_in(key(seed), i); auto: --seed_batch more at a time, until "
        "every verdict is decided or there are --max_seeds"
    )
    return setting(default, text, low=1, words={"auto": AUTO})


def looks_of(config: Any, batch: int, cap: int) -> Looks | None:
    """The looks of a run whose `num_seeds` is auto; None for any other.

    Raises:
        UserError: no batch fits under the cap.
    """
    if getattr(config, "num_seeds", None) != AUTO:
        return None
    if cap < batch:
        raise UserError(f"--max_seeds={cap}: must be at least {batch}, the --seed_batch")
    return Looks(batch, cap)


def plan_lines(module: ModuleType, config: Any, looks: Looks, devices: int) -> Iterator[str]:
    """What a dry run says."""
    if len(looks.counts) > 1:
        yield (
            f"between {looks.batch} and {looks.cap} seeds, in batches of {looks.batch}, until "
            "every verdict is decided; of each batch:"
        )
    yield from module.plan(config, looks.batch, devices).lines
    most = module.plan(config, looks.cap, devices).seconds
    yield f"all {looks.cap} seeds together: about {format_seconds(most)}, as rough a prediction"


def run(
    module: ModuleType, config: Any, data: Any, host: records.FileHost, looks: Looks
) -> "xarray.Dataset":
    """Runs batch after batch and returns the record of all their seeds.

    Raises:
        Interrupted: the user asked to stop.
    """
    from dlstudy.claims import judge

    found = []
    for look, (begin, end) in enumerate(pairwise((0, *looks.counts)), 1):
        host.log(f"seeds {begin} to {end - 1}")
        host.console.batch(later=len(looks.counts) - look)
        so_far = dataclasses.replace(config, num_seeds=end)
        found.append(module.run(so_far, data, host.batch(range(begin, end))))
        record = join(found, looks)
        goes_on, line = after_batch(judge(module.CLAIMS, record), end, looks.cap)
        host.log(line)
        if not goes_on:
            return record
        if host.should_stop():
            raise Interrupted
    raise AssertionError("the last look is at the cap")


def join(found: Sequence["xarray.Dataset"], looks: Looks) -> "xarray.Dataset":
    """The records of batches as one; attributes, and what has no seeds, are the first batch's.

    Axes of different lengths are filled up with NaN.
    """
    import xarray

    whole = found[0] if len(found) == 1 else xarray.concat(
        found, "seed", data_vars="minimal", coords="minimal", compat="override", join="outer",
        combine_attrs="override",
    )  # fmt: skip
    return whole.assign_attrs(seed_batch=looks.batch, seed_cap=looks.cap)


def after_batch(verdicts: "Sequence[Verdict]", seeds: int, cap: int) -> tuple[bool, str]:
    """Whether more seeds are needed, and what to say."""
    from dlstudy.claims import decidable, undecided

    judged, waiting = decidable(verdicts), undecided(verdicts)
    if not judged:
        return False, f"{seeds} seeds: there is no verdict that seeds could decide"
    line = f"{seeds} seeds: {len(judged) - len(waiting)} of {len(judged)} verdicts decided"
    if not waiting:
        return False, line
    own = {id(verdict) for verdict in verdicts}
    names = (v.id if id(v) in own else f"{v.id} {v.arm or v.reading}" for v in waiting)
    line += f"; {len(waiting)} open: {', '.join(names)}"
    return (True, line) if seeds < cap else (False, f"{line}; these are --max_seeds")
