"""The host loop over epochs: restore, advance, save, report, stop when asked."""

from collections.abc import Callable

import jax

from dlstudy.host import Host, Interrupted


def run_stage(
    host: Host,
    name: str,
    units: int,
    start: Callable[[], object],
    advance: Callable[[int, object], tuple[object, dict]],
    headline: Callable[[dict], dict] = lambda row: {},
) -> list[dict]:
    """Runs one stage of an experiment and returns its rows.

    Args:
      host: where states are kept and progress is told.
      name: of the stage.
      units: how many times to advance (epochs, with one before training, say).
      start: makes the first state; only its shapes are used when an earlier run is resumed.
      advance: (unit, state) -> (state, row); the state's arrays may be donated.
      headline: row -> the live numbers to show.

    Raises:
      Interrupted: the user asked to stop; the state is saved.
    """
    stage = host.stage(name, units)
    restored = stage.restore(jax.eval_shape(start))
    unit, state, rows = restored or (0, None, [])
    if unit < units and state is None:
        state = start()
    while unit < units:
        state, row = advance(unit, state)
        row = jax.device_get(row)
        rows.append(row)
        unit += 1
        if unit == units:
            stage.finish(rows)
        else:
            stage.save(unit - 1, state, rows)
        stage.report(headline(row))
        if host.should_stop():
            raise Interrupted
    return rows
