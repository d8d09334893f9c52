"""The loop over epochs: from the start, from the middle, from the end, and interrupted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlstudy.host import Interrupted, NullHost
from dlstudy.stages import run_stage


class FakeHost(NullHost):
    """A host of one stage that keeps copies of what it is given, in memory."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.stop_after = stop_after
        self.saved = {}  # next unit: (state, rows)
        self.finished = None
        self.reports = []
        self.templates = []
        self.begun = None

    def stage(self, name, epochs):
        self.begun = (name, epochs)
        return self

    def restore(self, template):
        self.templates.append(template)
        if self.finished is not None:
            return self.begun[1], None, list(self.finished)
        if not self.saved:
            return None
        unit = max(self.saved)
        state, rows = self.saved[unit]
        return unit, {"x": jnp.asarray(state)}, list(rows)

    def save(self, epoch, state, rows):
        self.saved[epoch + 1] = np.array(state["x"]), list(rows)

    def finish(self, rows):
        self.finished = list(rows)

    def report(self, row):
        self.reports.append(row)

    def should_stop(self):
        return len(self.reports) == self.stop_after


def start():
    return {"x": jnp.float32(1)}


def run(host, units=5, started=start, headline=lambda row: {"half": row["x"] / 2}):
    """Doubles a number and adds the unit; each row says what came in."""

    def advance(unit, state):
        x = state["x"]
        return {"x": 2 * x + unit}, {"x": x, "unit": jnp.int32(unit)}

    return run_stage(host, "doubling", units, started, advance, headline)


def values(rows):
    return [(int(row["unit"]), float(row["x"])) for row in rows]


EXPECTED = [(0, 1.0), (1, 2.0), (2, 5.0), (3, 12.0), (4, 27.0)]


def test_rows_saves_and_reports_of_a_whole_run():
    host = FakeHost()
    rows = run(host)
    assert values(rows) == values(host.finished) == EXPECTED
    assert host.begun == ("doubling", 5)
    assert sorted(host.saved) == [1, 2, 3, 4]  # the last unit finishes instead
    assert all(values(rows) == EXPECTED[:unit] for unit, (_, rows) in host.saved.items())
    assert [float(state) for state, _ in host.saved.values()] == [2, 5, 12, 27]
    assert host.reports == [{"half": x / 2} for _, x in EXPECTED]
    assert all(isinstance(row["x"], np.ndarray | np.generic) for row in rows)  # off the device
    (template,) = host.templates
    assert (template["x"].shape, template["x"].dtype) == ((), jnp.float32)


@pytest.mark.parametrize("after", [1, 3, 4])
def test_stopped_in_the_middle_it_saves_and_goes_on_to_the_same_rows(after):
    host = FakeHost(stop_after=after)
    with pytest.raises(Interrupted):
        run(host)
    assert max(host.saved) == after  # saved before it stopped
    assert host.finished is None
    host.stop_after = None
    assert values(run(host)) == EXPECTED
    assert len(host.reports) == 5  # no unit was run twice


def test_stopped_after_the_last_unit_it_is_finished():
    host = FakeHost(stop_after=5)
    with pytest.raises(Interrupted):
        run(host)
    assert values(host.finished) == EXPECTED


def test_only_a_new_stage_makes_its_start():
    made = []

    def started():
        jax.debug.callback(lambda: made.append(1))  # not called where only shapes are asked for
        return start()

    host = FakeHost(stop_after=2)
    with pytest.raises(Interrupted):
        run(host, started=started)
    host.stop_after = None
    run(host, started=started)
    run(host, started=started)  # finished by now
    jax.effects_barrier()
    assert made == [1]


def test_a_finished_stage_returns_its_rows():
    host = FakeHost()
    run(host)
    host.reports.clear()
    assert values(run(host)) == EXPECTED
    assert host.reports == []


def test_without_a_host_that_keeps_anything():
    assert values(run(NullHost(), units=1)) == EXPECTED[:1]
    assert run(NullHost(), units=0) == []
