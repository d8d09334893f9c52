"""The command line: flags, help, bad input, folders, layouts, redrawing."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy_experiment as toy
import xarray
from hypothesis import given
from hypothesis import strategies as st

from dlstudy.errors import UserError
from experiments import cli, console, devices, flagging
from experiments.cli import setting

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*argv):
    """An experiment in this process, without a folder of compiled programs."""
    return cli.main(toy, ["--compilation_cache_dir=", *argv])


def everything_in(folder):
    return {
        path: path.read_bytes() if path.is_file() else None
        for path in Path(folder).rglob("*")
        if path.name != ".lock"
    }


# ---------------------------------------------------------------------------- flags


@dataclasses.dataclass(frozen=True)
class Everything:
    whole: int = setting(1, "an int")
    number: float = setting(0.5, "a float")
    switch: bool = setting(False, "a bool")
    text: str = setting("", "a string")
    wholes: tuple[int, ...] = setting((), "ints")
    numbers: tuple[float, ...] = setting((), "floats")
    texts: tuple[str, ...] = setting((), "strings")
    worded: int = setting(1, "an int or a word", low=1, words={"auto": 0, "none": -1})


one_line = st.text(max_size=20).filter(lambda s: s.isprintable() and s == s.strip())
finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.builds(
        Everything,
        whole=st.integers(),
        number=finite,
        switch=st.booleans(),
        text=one_line,
        wholes=st.lists(st.integers()).map(tuple),
        numbers=st.lists(finite).map(tuple),
        texts=st.lists(one_line.filter(lambda s: s and "," not in s)).map(tuple),
        worded=st.integers(-1),
    )
)
def test_what_flags_txt_says_is_the_configuration(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("flags") / "flags.txt"
    path.write_text("\n".join(flagging.to_lines(config)), "utf-8")
    (back,), named = flagging.parse([f"--flagfile={path}"], Everything)
    assert back == config
    assert repr(back) == repr(config)  # -0.0 is 0.0, but not here
    assert named.keys() == {field.name for field in dataclasses.fields(Everything)}


@given(st.text(max_size=10))
def test_a_string_is_kept_as_it_is_or_refused(tmp_path_factory, text):
    try:
        (config,), _ = flagging.parse([f"--text={text}"], Everything)
    except UserError:
        assert not text.isprintable() or text != text.strip()
    else:
        assert config.text == text


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ([], {}),
        (["--switch"], {"switch": True}),
        (["--switch", "--noswitch"], {"switch": False}),
        (["--switch=true", "--whole", "3"], {"switch": True, "whole": 3}),
        (["--whole=3", "--whole=4"], {"whole": 4}),
        (["--numbers=1,2.5, 1e-3"], {"numbers": (1.0, 2.5, 1e-3)}),
        (["--texts=a,b c"], {"texts": ("a", "b c")}),
        (["-number=2"], {"number": 2.0}),
        (["--worded=auto"], {"worded": 0}),
        (["--worded=none", "--worded=7"], {"worded": 7}),
    ],
)
def test_ways_to_write_a_flag(arguments, changes):
    (config,), given_flags = flagging.parse(arguments, Everything)
    assert config == dataclasses.replace(Everything(), **changes)
    assert given_flags == changes


def test_later_flags_win_over_flagfiles_and_flagfiles_over_earlier_flags(tmp_path):
    (tmp_path / "a.txt").write_text("# a comment\n\n--whole=2\n--number=3\n--switch\n")
    arguments = ["--whole=1", "--flagfile=a.txt", "--number=4"]
    (config,), _ = flagging.parse(arguments, Everything)
    assert config == Everything(whole=2, number=4.0, switch=True)


def test_a_flagfile_is_found_beside_the_one_that_names_it(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("--flagfile=b.txt\n--number=3\n")
    (tmp_path / "sub" / "b.txt").write_text("--whole=2\n")
    (config,), _ = flagging.parse(["--flagfile", "sub/a.txt"], Everything)
    assert config == Everything(whole=2, number=3.0)


@pytest.mark.parametrize(
    "field",
    [
        setting(0, "below its own limit", low=1),
        setting("c", "not a choice", choices=("a", "b")),
        dataclasses.field(default=1),
    ],
)
def test_a_default_that_is_not_allowed_is_a_mistake_of_the_programmer(field):
    config = dataclasses.make_dataclass("Bad", [("x", type(field.default), field)], frozen=True)
    with pytest.raises((TypeError, ValueError)):
        flagging.parse([], config)


# ---------------------------------------------------------------------------- help


def test_help_is_complete_and_exits_0(capsys):
    assert cli.main(toy, ["--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(toy.__doc__.splitlines()[0])
    assert not err
    settings, common = out.split("Settings of this experiment:")[1].split("Settings of every")
    for field in dataclasses.fields(toy.Config):
        assert re.search(rf"--(\[no])?{field.name}\b", settings)
    for field in dataclasses.fields(cli.Options):
        assert re.search(rf"--(\[no])?{field.name}\b", common)
    assert "--learning_rate=0.1 " in settings
    assert "step size [1]; greater than 0" in settings
    assert "at least 0 and less than 1" in settings
    assert "each one of plain, heavy_ball" in settings
    assert "at least 1, or auto" in " ".join(settings.split())
    assert max(map(len, out.splitlines())) <= 100


def test_help_imports_nothing_slow():
    code = (
        "import sys, toy_experiment; from experiments import cli\n"
        "status = cli.main(toy_experiment, ['--help'])\n"
        "slow = {'jax', 'scipy', 'matplotlib', 'xarray', 'pandas', 'flax', 'rich'}\n"
        "slow &= {*sys.modules}\n"
        "sys.exit(f'imported {slow}' if slow else status)\n"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def a_python_in(folder, target=None):
    folder.mkdir()
    path = folder / "python"
    path.symlink_to(target) if target else (path.touch(), path.chmod(0o755))
    return path


def test_a_command_names_the_interpreter_unless_python_is_it(tmp_path, monkeypatch):
    base = a_python_in(tmp_path / "base")
    venv = a_python_in(tmp_path / "my venv", base)
    (venv.parent / "python3").symlink_to("python")
    monkeypatch.setattr(sys, "executable", str(venv.parent / "python3"))
    for path, word in {
        venv.parent: "python",
        base.parent: f"'{venv}3'",  # the same file, but another environment
        tmp_path: f"'{venv}3'",  # no python there
    }.items():
        monkeypatch.setenv("PATH", str(path))
        assert cli.command(toy, "--redraw").startswith(f"{word} -m toy_experiment --redraw")


# ---------------------------------------------------------------------------- bad input


BAD = {
    "--stepz=3": "--stepz: there is no such flag; did you mean --steps?",
    "--qqqqqqqq": "--qqqqqqqq: there is no such flag; --help lists them",
    "mnist": "'mnist': stray argument; settings are given as --NAME=VALUE",
    "--steps=0": "--steps=0: must be at least 1",
    "--num_seeds=-1": "--num_seeds=-1: must be at least 1, or auto",
    "--num_seeds=0": "--num_seeds=0: must be at least 1, or auto",
    "--num_seeds=many": "--num_seeds=many: must be a whole number or auto",
    "--seed_batch=0": "--seed_batch=0: must be at least 1",
    "--max_seeds=0": "--max_seeds=0: must be at least 1",
    "--num_seeds=auto --max_seeds=9": "--max_seeds=9: must be at least 10, the --seed_batch",
    "--num_seeds=auto --seed_batch=81": "--max_seeds=80: must be at least 81, the --seed_batch",
    "--num_seeds=auto --only_seed=80": "--only_seed=80: must be 0 to 79, or -1 for all",
    "--steps=2.5": "--steps=2.5: must be a whole number",
    "--steps=": "--steps=: must be a whole number",
    "--steps": "--steps: needs a value",
    "--learning_rate=0": "--learning_rate=0: must be greater than 0",
    "--learning_rate=nan": "--learning_rate=nan: must be a finite number",
    "--learning_rate=fast": "--learning_rate=fast: must be a number",
    "--momentum=1": "--momentum=1: must be at least 0 and less than 1",
    "--noise=maybe": "--noise=maybe: must be true or false",
    "--nonoise=1": "--nonoise=1 does not take an argument",
    "--target=two": "--target=two: must be one of zero, one",
    "--widths=1,x": "--widths=1,x: each must be a whole number",
    "--widths=1,0": "--widths=1,0: each must be at least 1",
    "--widths=1,2,3": "--widths=1,2,3: must be two numbers",
    "--arms=plain,sgd": "--arms=plain,sgd: each must be one of plain, heavy_ball",
    "--arms=plain,": "--arms=plain,: each must be some printable text",
    "--data_dir=a\nb": "--data_dir=a b: must be one line of printable text",
    "--flagfile=no.txt": "--flagfile=no.txt: cannot be read: No such file or directory",
    "--flagfile=.": "--flagfile=.: cannot be read: Is a directory",
    "--flagfile=binary": "--flagfile=binary: cannot be read: it is not a text file",
    "--flagfile=loop": "--flagfile=loop: the file includes itself",
    "--flagfile=nested": "--flagfile=no.txt: cannot be read: No such file or directory",
    "--flagfile=words": "--flagfile=words: 'steps=3': a line must be --NAME=VALUE",
    "--only_seed=3": "--only_seed=3: must be 0 to 2, or -1 for all",
    "--only_seed=-2": "--only_seed=-2: must be 0 to 2, or -1 for all",
    "--devices=-1": "--devices=-1: must be at least 0",
    "--strategy=pmap": "--strategy=pmap: must be one of auto, map, vmap",
    "--run_dir=words": "--run_dir=words: exists and is not a run folder; name another one",
    "--run_dir=.": "--run_dir=.: exists and is not a run folder; name another one",
    "--run_dir=words/x": "--run_dir=words/x: {here}/words is not a folder",
    "--runs_dir=words": "--runs_dir=words: {here}/words is not a folder",
    "--redraw": "--redraw: --run_dir is missing; name the folder of a finished run",
    "--redraw --run_dir=x": "--redraw: needs --run_dir=FOLDER of a finished run, not x",
}


@pytest.mark.parametrize("argument", BAD)
def test_bad_input_gets_one_line_and_status_2_and_writes_nothing(tmp_path, capsys, argument):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "loop").write_text("--flagfile=loop\n")
    (tmp_path / "nested").write_text("--flagfile=no.txt\n")
    (tmp_path / "words").write_text("steps=3\n")
    before = everything_in(tmp_path)
    status = run(*argument.split(" "))
    out, err = capsys.readouterr()
    assert status == 2
    assert err == f"error: {BAD[argument].format(here=tmp_path)}\n"
    assert out == ""
    assert everything_in(tmp_path) == before


def test_data_that_cannot_be_had_are_reported_before_anything_is_written(
    tmp_path, capsys, monkeypatch
):
    def load(config):
        raise UserError("--data_dir=x: train-images.gz is damaged")

    monkeypatch.setattr(toy, "load", load)
    assert run() == 2
    assert capsys.readouterr().err == "error: --data_dir=x: train-images.gz is damaged\n"
    assert not everything_in(tmp_path)


def test_a_folder_that_may_not_be_written_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert run("--run_dir=new") == 2
    assert capsys.readouterr().err == f"error: --run_dir=new: {tmp_path} is not writable\n"


def test_a_full_disk_gets_one_line_and_status_3(capsys, monkeypatch):
    def full(path, record):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("dlstudy.records.save_record", full)
    assert run("--run_dir=a", "--epochs=2") == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "No space left on device" in err
    assert f"to go on: {cli.command(toy, '--run_dir=a')}" in err


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path, capsys):
    assert run("--dry_run", "--num_seeds=5") == 0
    out = capsys.readouterr().out
    assert "plain: 5 seeds x 4 epochs" in out
    assert "nothing was written" in out
    assert not everything_in(tmp_path)


def test_a_dry_run_plans_what_would_run(monkeypatch, capsys):
    monkeypatch.setattr(cli, "available_cpus", lambda: 64)
    for arguments, plan in {
        ("--num_seeds=20",): "20 seeds x 4 epochs on 10 devices",
        ("--num_seeds=20", "--devices=3"): "20 seeds x 4 epochs on 3 devices",
        # The layout of one seed is that which it has among the others.
        ("--num_seeds=20", "--only_seed=7"): "1 seeds x 4 epochs on 10 devices",
    }.items():
        assert run("--dry_run", *arguments) == 0
        assert f"plain: {plan}\n" in capsys.readouterr().out


def test_a_dry_run_of_a_run_plans_its_layout(copied, capsys):
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["layout"]["devices"] = 7
    (copied / "manifest.json").write_text(json.dumps(manifest))
    assert run("--dry_run", f"--run_dir={copied}") == 0
    assert "on 7 devices" in capsys.readouterr().out


# ---------------------------------------------------------------------------- a finished run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run; not to be changed."""
    path = tmp_path_factory.mktemp("finished") / "run"
    assert run(f"--run_dir={path}", "--epochs=3") == 0
    return path


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of it that may be."""
    for source, content in everything_in(finished).items():
        target = tmp_path / "run" / source.relative_to(finished)
        target.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            target.write_bytes(content)
    return tmp_path / "run"


def test_a_finished_folder_holds_everything(finished):
    names = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file()}
    figures = {
        f"figures/{name}" for name in ("loss.svg", "loss.png", "grad_norm.svg", "grad_norm.png")
    } | {"figures/figures.json"}
    stages = {f"checkpoints/{name}/finished.ckpt" for name in toy.STAGES}
    files = {"flags.txt", "manifest.json", "record.nc", "claims.json", "log.txt", ".lock"}
    assert names == files | figures | stages
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["environment"]["packages"]["numpy"] == np.__version__
    assert manifest["data"] == {"name": "scales", "checksum": "7.500"}
    assert manifest["seconds"] > 0
    record = xarray.load_dataset(finished / "record.nc")
    assert json.loads(record.attrs["config"])["epochs"] == 3
    assert record.attrs["experiment"] == "toy"
    assert "loss: free" in (finished / "log.txt").read_text()
    assert json.loads((finished / "claims.json").read_text())


def test_the_same_command_on_a_finished_folder_says_so_and_points_to_redraw(copied, capsys):
    before = everything_in(copied)
    assert run(f"--run_dir={copied}") == 0
    assert "--redraw" in capsys.readouterr().out
    assert everything_in(copied) == before


def test_redraw_makes_the_same_verdicts_and_figures(copied, capsys, monkeypatch):
    before = everything_in(copied)
    (copied / "claims.json").unlink()
    for figure in (copied / "figures").iterdir():
        figure.unlink()
    monkeypatch.setattr(toy, "run", None)
    monkeypatch.setattr(toy, "load", None)
    assert run(f"--run_dir={copied}", "--redraw") == 0
    assert "The loss falls" in capsys.readouterr().out
    after = everything_in(copied)
    del before[copied / "log.txt"], after[copied / "log.txt"]
    assert after == before


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_record_is_not_drawn_but_made_again_without_training(copied, capsys, damage):
    path = copied / "record.nc"
    good = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 4
        path.write_bytes(bad if damage == "flip" else good[:-100])
    assert run(f"--run_dir={copied}", "--redraw") == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert str(path) in err
    assert f"--run_dir={copied}" in err
    assert run(f"--run_dir={copied}") == 0
    assert "1/3" not in capsys.readouterr().out  # no epoch was trained
    xarray.testing.assert_identical(
        xarray.load_dataset(path), xarray.load_dataset(good_copy(copied, good))
    )


def good_copy(folder, content):
    path = folder / "good.nc"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs=4"], "holds a run with other settings: --epochs=3 there, 4 here"),
        (["--nonoise", "--seed=1"], "--seed=0 there, 1 here; --noise=true there, false here"),
        (["--only_seed=1"], "--only_seed=-1 there, 1 here"),
    ],
)
def test_other_settings_are_named_and_nothing_changes(copied, capsys, arguments, message):
    before = everything_in(copied)
    assert run(f"--run_dir={copied}", *arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert all(part in err for part in message.split("; "))
    assert everything_in(copied) == before


def test_equal_settings_and_local_ones_may_be_given_again(copied, capsys):
    arguments = ["--epochs=3", "--data_dir=elsewhere", f"--flagfile={copied}/flags.txt"]
    assert run(f"--run_dir={copied}", *arguments) == 0


def test_a_run_of_another_experiment_is_refused(copied, capsys, monkeypatch):
    monkeypatch.setattr(toy, "NAME", "other")
    assert run(f"--run_dir={copied}") == 2
    assert "holds a run of toy" in capsys.readouterr().err


def test_other_data_than_before_are_refused(copied, capsys, monkeypatch):
    (copied / "record.nc").unlink()
    data = dataclasses.replace(toy.load(toy.Config()), checksum="other")
    monkeypatch.setattr(toy, "load", lambda config: data)
    assert run(f"--run_dir={copied}") == 2
    assert "'checksum': '7.500'" in capsys.readouterr().err


def test_flags_txt_repeats_the_run(finished, tmp_path):
    assert "run_dir" not in (finished / "flags.txt").read_text()
    assert run(f"--flagfile={finished}/flags.txt") == 0
    (path,) = (tmp_path / "runs" / "toy").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ", path.name)
    one, other = (xarray.load_dataset(p / "record.nc") for p in (finished, path))
    xarray.testing.assert_identical(one, other)


def test_one_seed_is_the_same_alone_as_among_others(finished, tmp_path):
    assert run("--run_dir=alone", "--epochs=3", "--only_seed=1") == 0
    alone = xarray.load_dataset(tmp_path / "alone" / "record.nc")
    every = xarray.load_dataset(finished / "record.nc").sel(seed=[1])
    assert alone.attrs["only_seed"] == 1
    for name in every.variables:
        assert alone[name].values.tobytes() == every[name].values.tobytes()
    assert "--only_seed=1" in (tmp_path / "alone" / "flags.txt").read_text()


# ---------------------------------------------------------------------------- layout


def stored_layout(**changes):
    import jax

    return devices.start_jax({}, {}, False) | {"device": jax.devices()[0].device_kind} | changes


@pytest.mark.parametrize(
    ("asked", "changes", "message"),
    [
        ({"devices": 1}, {"devices": 2}, "--devices=1: this run was begun with devices 2"),
        ({"strategy": "vmap"}, {}, "--strategy=vmap: this run was begun with strategy map"),
        ({}, {"platform": "gpu"}, r"this machine \(cpu\): this run was begun with platform gpu"),
        ({}, {"device": "M1"}, "this run was begun with device M1"),
        ({"devices": 999}, {"devices": 999}, "--devices=999: must be at most"),
    ],
)
def test_another_layout_is_refused_unless_allowed(asked, changes, message):
    stored = stored_layout(**changes)
    with pytest.raises(UserError, match=message) as caught:
        devices.start_jax(asked, stored, False)
    assert "--allow_layout_change" in str(caught.value)
    if asked.get("devices") != 999:
        assert devices.start_jax(asked, stored, True) == stored_layout(**asked)


@pytest.mark.parametrize(
    ("available", "seeds", "devices"),
    [(64, 20, 10), (64, 21, 11), (2, 20, 2), (4, 1, 1), (4, 3, 2), (3, 8, 3), (4, None, 4)],
)
def test_as_few_devices_as_are_as_fast_as_all(available, seeds, devices, monkeypatch):
    import jax

    assert cli.default_devices(available, seeds) == devices
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1] * available)
    assert start_with(seeds, {})["devices"] == devices
    assert start_with(seeds, {"devices": available})["devices"] == available  # as asked for
    # A run begun with all devices goes on with them.
    assert devices_of_resumed(seeds, available) == available


def start_with(seeds, asked):
    return devices.start_jax(asked, {}, False, seeds)


def devices_of_resumed(seeds, number):
    return devices.start_jax({}, stored_layout(devices=number), False, seeds)["devices"]


def test_the_stored_layout_is_used_again():
    stored = stored_layout(devices=1, strategy="vmap", seeds_per_program=7)
    assert devices.start_jax({}, stored, False) == stored
    assert devices.start_jax({"devices": 1}, stored, False) == stored


def test_a_changed_layout_is_refused_by_the_command_and_allowed_on_request(copied, capsys):
    (copied / "record.nc").unlink()
    assert run(f"--run_dir={copied}", "--seeds_per_program=2") == 2
    assert "--seeds_per_program=2: this run was begun with" in capsys.readouterr().err
    assert run(f"--run_dir={copied}", "--seeds_per_program=2", "--allow_layout_change") == 0
    manifest = json.loads((copied / "manifest.json").read_text())
    assert manifest["layout"]["seeds_per_program"] == 2


def test_a_cache_that_cannot_be_written_is_no_harm(tmp_path):
    (tmp_path / "file").touch()
    devices.use_compilation_cache(str(tmp_path / "file" / "cache"))


# ---------------------------------------------------------------------------- the console


def test_plain_lines_have_no_control_characters(capsys):
    plain = console.PlainConsole({"one": 2, "two": 1})
    plain.stage("one", 2)
    plain.report({"diverged": 1, "loss": 0.123456, "grad_norm": 2.0})
    plain.report({"diverged": 1, "loss": 1e-9})
    plain.stage("two", 1)
    plain.report({"loss": 3})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("one 1/2  loss 0.1235  grad norm 2  diverged 1  0 s left")
    assert lines[1].startswith("one 2/2  loss 1e-09  diverged 1  0 s left")
    assert lines[2] == "two 1/1  loss 3"
    assert all(line.isprintable() for line in lines)


def test_a_restored_stage_counts_as_done(capsys):
    plain = console.PlainConsole({"one": 4})
    plain.stage("one", 4)
    plain.restored(3)
    assert math.isnan(plain.left())
    plain.report({})
    assert capsys.readouterr().out == "one 4/4\n"


def test_a_measurement_before_training_is_epoch_0(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    for make in (console.PlainConsole, console.RichConsole):
        told = make({"main": range(3), "heads": 2})
        told.stage("main", 3)
        assert told.place() == ""
        said = []
        for epoch in range(3):
            told.report({"error": 0.5})
            said.append(f"main epoch {epoch}/2")
        if make is console.RichConsole:  # draws over what it drew
            said = [f"main epoch {epoch}/2"]
        else:
            told.stage("heads", 2)
            told.report({"error": 0.5})
            said.append("heads 1/2")
        told.close()
        out = capsys.readouterr().out
        assert all(text in out for text in said), out


def test_a_stage_of_another_length_than_said_is_counted_as_it_is(capsys):
    plain = console.PlainConsole({"main": range(3)})
    plain.stage("main", 2)
    plain.report({})
    assert capsys.readouterr().out.startswith("main 1/2")


def test_time_left_takes_each_stage_at_its_own_pace(monkeypatch):
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    plain = console.PlainConsole({"slow": 4, "fast": 4, "last": 4})
    left = []
    for name, paces in {"slow": (9, 3, 3, 3), "fast": (2, 1, 1, 1)}.items():
        plain.stage(name, 4)
        for seconds in paces:
            now += seconds
            plain.report({})
            left.append(plain.left())
    assert left[:4] == [11 * 9, 10 * 3, 9 * 3, 8 * 3]
    # The new stage begins at the average so far, and then has its own pace.
    assert left[4] == 7 * 3
    assert left[5] == 2 * 1 + 4 * (3 * 3 + 1) / 4
    assert left[7] == 4 * (3 * 3 + 3 * 1) / 6


def test_the_bar_shows_the_same(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    bar = console.RichConsole({"one": 2, "two": 3})
    bar.stage("one", 2)
    bar.report({"loss": 0.5, "diverged": 1})
    bar.log("a line [of text]")
    bar.stopping()
    bar.close()
    out = capsys.readouterr().out
    assert "a line [of text]" in out
    assert "one 1/2" in out
    assert "stopping after this epoch" in out


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (3725, "1 h 02 min")]
)
def test_time_in_words(seconds, text):
    assert console.format_seconds(seconds) == text
