"""Whole files, checkpoints, the record on the disk, the run folder."""

import hashlib
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from dlstudy import checkpoints, records
from dlstudy.checkpoints import DamagedError, StageFiles
from dlstudy.errors import UserError
from dlstudy.host import Interrupted, Layout, NullHost


class State(NamedTuple):
    params: dict
    key: jax.Array
    step: jax.Array


def example_state():
    with jax.enable_x64(True):
        double = jnp.asarray([1 / 3, np.nan, -0.0], jnp.float64)
    return State(
        params={
            "w": jnp.arange(6, dtype=jnp.float32).reshape(2, 3) / 7,
            "half": jnp.asarray([1.5, 2.5], jnp.bfloat16),
            "double": double,
            "numpy": np.array([[True], [False]]),
            "empty": jnp.zeros((0, 2)),
        },
        key=jax.random.split(jax.random.key(3), 2),
        step=jnp.int32(7),
    )


def bits(leaf):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return str(leaf.dtype), np.shape(leaf), np.asarray(leaf).tobytes()


def assert_same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert bits(a) == bits(b)


# ---------------------------------------------------------------------------- whole files


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    checkpoints.write_atomic(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoints.write_atomic(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_temporary_files_of_killed_processes_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "sub").mkdir()
    keep = [tmp_path / "a.tmp", tmp_path / ".lock", tmp_path / "sub" / "b.nc"]
    for path in [*keep, tmp_path / ".a.nc.tmp", tmp_path / "sub" / ".b.nc.tmp"]:
        path.touch()
    checkpoints.remove_temporary(tmp_path)
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(keep)


# ---------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_gives_back_every_bit_of_state_and_rows(tmp_path):
    state = example_state()
    rows = [{"loss": np.float32([i, np.nan]), "count": np.int64(i)} for i in range(3)]
    stage = StageFiles(tmp_path / "adam", 9, print)
    stage.save(2, state, rows)
    epoch, restored, rows_back = stage.restore(state)
    assert epoch == 3
    assert_same_bits(restored, state)
    assert_same_bits(rows_back, rows)
    assert isinstance(restored.params["numpy"], np.ndarray)
    assert all(isinstance(restored.params[name], jax.Array) for name in ("w", "double", "empty"))


def test_shapes_and_dtypes_suffice_as_a_template(tmp_path):
    state = example_state()._replace(params={"w": jnp.ones(3)})
    stage = StageFiles(tmp_path / "adam", 9, print)
    stage.save(0, state, [])
    _, restored, rows = stage.restore(jax.eval_shape(lambda: state))
    assert_same_bits(restored, state)
    assert rows == []


def test_an_array_put_on_a_device_comes_back_on_it(tmp_path):
    device = jax.devices()[-1]
    state = jax.device_put(jnp.ones(3), device)
    stage = StageFiles(tmp_path / "adam", 9, print)
    stage.save(0, state, [])
    _, restored, _ = stage.restore(jax.device_put(jnp.zeros(3), device))
    assert restored.committed
    assert restored.devices() == {device}


def test_a_flip_of_any_bit_is_noticed(tmp_path):
    path = tmp_path / "file"
    checkpoints.write_checkpoint(path, {"next_epoch": 1}, {"w": np.arange(3.0)}, [])
    good = path.read_bytes()
    assert checkpoints.read_checkpoint(path).meta["next_epoch"] == 1
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        path.write_bytes(bad)
        with pytest.raises(DamagedError):
            checkpoints.read_checkpoint(path)


@pytest.mark.parametrize("length", [0, 20, 110, 500, -1])
def test_a_cut_checkpoint_is_noticed(tmp_path, length):
    path = tmp_path / "file"
    checkpoints.write_checkpoint(path, {}, {"w": np.arange(3.0)}, [])
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DamagedError):
        checkpoints.read_checkpoint(path)


def saved_stage(folder, epochs, said):
    stage = StageFiles(folder / "checkpoints" / "adam", 9, said.append)
    for epoch in range(epochs):
        rows = [{"loss": np.float32(i)} for i in range(epoch + 1)]
        stage.save(epoch, {"w": np.full(3, epoch)}, rows)
    return stage


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_last_two_checkpoints_are_kept(tmp_path):
    stage = saved_stage(tmp_path, 5, [])
    names = sorted(path.name for path in stage.folder.iterdir())
    assert names == ["epoch-000004.ckpt", "epoch-000005.ckpt"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path):
    said = []
    stage = saved_stage(tmp_path, 5, said)
    flip(stage.folder / "epoch-000005.ckpt")
    epoch, state, rows = stage.restore({"w": np.zeros(3, int)})
    assert (epoch, len(rows)) == (4, 4)
    np.testing.assert_array_equal(state["w"], 3)
    assert len(said) == 1
    assert "checkpoints/adam/epoch-000005.ckpt is damaged" in said[0]


def test_with_every_checkpoint_damaged_the_stage_begins_anew(tmp_path):
    said = []
    stage = saved_stage(tmp_path, 5, said)
    for path in stage.folder.iterdir():
        flip(path)
    assert stage.restore({"w": np.zeros(3, int)}) is None
    assert len(said) == 2


def test_a_finished_stage_keeps_its_rows_alone(tmp_path):
    stage = saved_stage(tmp_path, 5, [])
    stage.finish([{"loss": np.float32(i)} for i in range(9)])
    epoch, state, rows = stage.restore({"w": np.zeros(3, int)})
    assert (epoch, state, len(rows)) == (9, None, 9)
    assert [path.name for path in stage.folder.iterdir()] == ["finished.ckpt"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"v": np.zeros(3, int)}, "another kind of state"),
        ({"w": np.zeros(4, int)}, r"\['w'\] is int64\[3\].* int64\[4\]"),
        ({"w": np.zeros(3, np.float32)}, r"int64\[3\].* float32\[3\]"),
    ],
)
def test_a_whole_checkpoint_of_another_program_is_refused(tmp_path, template, message):
    stage = saved_stage(tmp_path, 2, [])
    with pytest.raises(DamagedError, match=message):
        stage.restore(template)
    assert len(list(stage.folder.iterdir())) == 2


def test_rows_must_agree(tmp_path):
    stage = StageFiles(tmp_path / "adam", 9, print)
    with pytest.raises(ValueError, match="same names"):
        stage.save(1, {}, [{"a": np.ones(2)}, {"b": np.ones(2)}])
    with pytest.raises(ValueError, match="same shape"):
        stage.save(1, {}, [{"a": np.ones(2)}, {"a": np.ones(3)}])


# ---------------------------------------------------------------------------- the record


def example_record():
    rng = np.random.default_rng(0)
    loss = rng.normal(size=(2, 3))
    loss[0, 1] = np.nan
    return xarray.Dataset(
        {
            "loss": (("seed", "epoch"), loss, {"units": "nat", "long_name": "loss"}),
            "single": (("seed",), np.float32([1 / 3, np.inf])),
            "diverged_step": (("seed",), np.array([-1, 7])),
            "good": (("seed",), np.array([True, False])),
            "arm": (("seed",), ["adam", "é"]),
        },
        coords={"seed": [4, 5]},
        attrs={"config": "{}", "cost": ["a: 1 s", "b: 2 s"], "n": 3, "x": 0.1},
    )


def test_a_record_comes_back_bit_for_bit(tmp_path):
    record = example_record()
    digest = records.save_record(tmp_path / "record.nc", record)
    back = records.load_record(tmp_path / "record.nc", digest)
    assert digest == hashlib.sha256((tmp_path / "record.nc").read_bytes()).hexdigest()
    xarray.testing.assert_identical(back, record)
    for name in ("loss", "single", "diverged_step", "good", "seed"):
        assert back[name].dtype == record[name].dtype
        assert back[name].values.tobytes() == record[name].values.tobytes()


def test_a_damaged_or_missing_record_is_named(tmp_path):
    path = tmp_path / "record.nc"
    with pytest.raises(DamagedError, match=r"record\.nc: there is no record"):
        records.load_record(path)
    digest = records.save_record(path, example_record())
    flip(path)
    with pytest.raises(DamagedError, match=r"record\.nc: damaged"):
        records.load_record(path, digest)
    path.write_text("nothing of the kind")
    with pytest.raises(DamagedError, match="not a readable NetCDF file"):
        records.load_record(path)


# ---------------------------------------------------------------------------- the run folder


def test_what_is_at_a_path(tmp_path):
    assert records.state_of(tmp_path / "nothing") == "absent"
    assert records.state_of(tmp_path) == "empty"
    for name in (".lock", ".manifest.json.tmp"):
        (tmp_path / name).touch()
    assert records.state_of(tmp_path) == "empty"
    (tmp_path / "thesis.tex").touch()
    assert records.state_of(tmp_path) == "other"
    assert records.state_of(tmp_path / "thesis.tex") == "other"
    (tmp_path / "manifest.json").touch()
    assert records.state_of(tmp_path) == "run"


def test_folders_of_one_second_differ(tmp_path):
    assert len({records.new_path(tmp_path / "runs") for _ in range(5)}) == 5


def test_a_folder_has_one_user_at_a_time(tmp_path):
    path = tmp_path / "run"
    with (
        records.open_folder(path),
        pytest.raises(UserError, match=f"in use by another process .number {os.getpid()}"),
        records.open_folder(path),
    ):
        pass
    with records.open_folder(path) as folder:
        folder.update(experiment="toy", flags=[], layout={}, status="running")
    with records.open_folder(path) as folder:
        assert folder.manifest["experiment"] == "toy"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3"])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DamagedError, match=r"manifest\.json: damaged"):
        records.read_manifest(tmp_path)


def test_a_change_of_the_environment_is_put_in_words():
    old = {"python": "3.11", "packages": {"jax": "1", "flax": "2"}, "cpu": "x"}
    new = {"python": "3.12", "packages": {"jax": "1.1", "flax": "2"}, "cpu": "x"}
    assert records.changed_environment(old, new) == ["jax 1 -> 1.1", "python 3.11 -> 3.12"]
    assert records.changed_environment(old, old) == []


# ---------------------------------------------------------------------------- killed anywhere


class Killed(BaseException):
    """Stands for SIGKILL: no code of ours catches it."""


class Quiet:
    def log(self, line): ...
    def stage(self, name, epochs): ...

    def place(self):
        return ""

    def restored(self, epoch): ...
    def report(self, row): ...


def train(host, seen):
    """Two stages of a chaotic map; returns all rows, and notes the epochs it computed."""
    every = []
    for name in ("one", "two"):
        stage = host.stage(name, 4)
        start = {"x": np.linspace(0.1, 0.9, 3)}
        begin, state, rows = stage.restore(start) or (0, start, [])
        for epoch in range(begin, 4):
            seen.append((name, epoch))
            state = {"x": 3.9 * state["x"] * (1 - state["x"])}
            rows.append({"x": state["x"]})
            stage.save(epoch, state, rows)
            stage.report({"x": 0.0})
            if host.should_stop():
                raise Interrupted
        stage.finish(rows)
        every += [row["x"] for row in rows]
    return np.stack(every)


@pytest.mark.parametrize("call", ["fsync", "replace", "unlink"])
def test_killed_at_any_system_call_it_goes_on_to_the_same_numbers(tmp_path, monkeypatch, call):
    expected = train(NullHost(), [])
    real = getattr(os, call)
    for moment in range(1, 100):
        path, seen, calls = tmp_path / f"{call}{moment}", [], iter(range(moment))

        def deadly(*args, calls=calls, **kwargs):
            if next(calls, None) is None:
                raise Killed
            return real(*args, **kwargs)

        killed = False
        monkeypatch.setattr(os, call, deadly)
        try:
            with records.open_folder(path) as folder:
                train(records.FileHost(folder, Quiet(), Layout()), seen)
        except Killed:
            killed = True
        monkeypatch.setattr(os, call, real)
        with records.open_folder(path) as folder:
            assert not list(path.rglob("*.tmp"))
            got = train(records.FileHost(folder, Quiet(), Layout()), seen)
        assert got.tobytes() == expected.tobytes()
        assert len(seen) <= 8 + 1  # at most the epoch it was killed in is done twice
        if not killed:
            break
    assert moment > 4
    assert not killed


def test_a_null_host_keeps_nothing_and_never_stops():
    host = NullHost()
    assert host.layout == Layout()
    assert host.seeds(3) == range(3)
    assert NullHost(only=range(1, 2)).seeds(3) == range(1, 2)
    assert not host.should_stop()
    assert host.stage("adam", 3).restore({}) is None
