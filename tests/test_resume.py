"""Real processes that are killed, interrupted or short of disk go on to the same numbers."""

import multiprocessing
import os
import re
import resource
import shlex
import shutil
import signal
import sys
import time
from typing import NamedTuple

import pytest
import xarray

FLAGS = ("--epochs=3", "--num_seeds=2")

# Each run is a process of its own, forked from one that has imported everything and started
# nothing: this saves seconds a run.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    ["jax", "jax.numpy", "xarray", "netCDF4", "matplotlib.pyplot", "scipy.stats", "rich.table"]
)


class Kill(NamedTuple):
    """SIGKILL before or after the n-th time that a file of this name takes its place."""

    name: str
    moment: str
    number: int = 1


def child(place, argv, output, sleep, kill, file_limit):
    """Runs the toy experiment; the body of a process."""
    os.chdir(place)
    for number, path in ((1, output.with_suffix(".out")), (2, output.with_suffix(".err"))):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ["TOY_SLEEP"] = str(sleep)
    os.environ["XDG_CACHE_HOME"] = str(place / "cache")
    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    if kill:
        os.replace = deadly_replace(kill)
    import toy_experiment

    from experiments import cli

    sys.exit(cli.main(toy_experiment, argv))


def deadly_replace(kill):
    replace, count = os.replace, 0

    def deadly(source, target):
        nonlocal count
        count += os.path.basename(target) == kill.name
        now = os.path.basename(target) == kill.name and count == kill.number
        if not now or kill.moment == "after":
            replace(source, target)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)

    return deadly


class Toy:
    """A process that runs the toy experiment."""

    def __init__(self, place, *argv, sleep=0.0, kill=None, file_limit=None):
        self.output = place / f"output{time.monotonic_ns()}"
        arguments = (place, argv, self.output, sleep, kill, file_limit)
        self.process = processes.Process(target=child, args=arguments)
        self.process.start()

    @property
    def out(self):
        path = self.output.with_suffix(".out")
        return path.read_text() if path.exists() else ""

    @property
    def err(self):
        return self.output.with_suffix(".err").read_text()

    def until(self, text):
        """Waits until it has printed `text`."""
        deadline = time.monotonic() + 60
        while text not in self.out:
            assert self.process.is_alive(), self.out + self.err
            assert time.monotonic() < deadline, self.out + self.err
            time.sleep(0.01)
        return self

    def signal(self, number):
        os.kill(self.process.pid, number)

    def end(self):
        """Waits for its end; returns the exit status."""
        self.process.join(60)
        return self.process.exitcode


def toy(place, *argv, **options):
    """Runs the toy experiment to its end."""
    run = Toy(place, *argv, **options)
    assert run.end() is not None
    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def reference(place):
    """The record of a run that nothing disturbed."""
    run = toy(place, "--run_dir=reference", *FLAGS)
    assert run.end() == 0, run.err
    return xarray.load_dataset(place / "reference" / "record.nc")


def assert_same(folder, reference):
    record = xarray.load_dataset(folder / "record.nc")
    assert record.variables.keys() == reference.variables.keys()
    for name in reference.variables:
        assert record[name].dtype == reference[name].dtype
        assert record[name].values.tobytes() == reference[name].values.tobytes(), name
    assert '"status": "finished"' in (folder / "manifest.json").read_text()
    assert len(list((folder / "figures").iterdir())) == 5  # two pictures twice, figures.json
    assert not list(folder.rglob("*.tmp"))


def test_killed_again_and_again_it_ends_with_the_same_record(place, reference):
    kills = [
        Kill("manifest.json", "before"),
        Kill("epoch-000002.ckpt", "before"),  # of the first stage
        Kill("finished.ckpt", "after"),
        Kill("record.nc", "before"),
        Kill("record.nc", "after"),
        Kill("grad_norm.svg", "before"),
        Kill("manifest.json", "before", 2),  # which would have said "finished"
    ]
    runs = []
    for kill in kills:
        runs.append(toy(place, "--run_dir=killed", *FLAGS, kill=kill))
        assert runs[-1].end() == -signal.SIGKILL, (kill, runs[-1].err)
    runs.append(toy(place, "--run_dir=killed", *FLAGS))
    assert runs[-1].end() == 0, runs[-1].err
    assert_same(place / "killed", reference)
    assert "plain goes on after 1/3" in runs[2].out
    trained = [line for run in runs for line in re.findall(r"(?m)^\w+ \d/3", run.out)]
    # The two epochs whose process died while it saved or before it printed are not among them;
    # none is there twice.
    assert len(trained) == len(set(trained)) >= 4


def test_killed_in_and_between_batches_of_seeds_it_stops_at_the_same_place(place):
    auto = ("--num_seeds=auto", "--seed_batch=5", "--max_seeds=20", "--epochs=3")
    undisturbed = toy(place, "--run_dir=auto", *auto)
    assert undisturbed.end() == 0, undisturbed.err
    kills = [
        Kill("epoch-000002.ckpt", "before"),  # of the first stage of the first batch
        Kill("finished.ckpt", "after", 2),  # the first batch is done
        Kill("epoch-000001.ckpt", "after", 2),  # of the second stage of the second batch
        Kill("finished.ckpt", "after"),  # the second batch is done, and not judged
        Kill("record.nc", "before"),
    ]
    for kill in kills:
        run = toy(place, "--run_dir=auto_killed", *auto, kill=kill)
        assert run.end() == -signal.SIGKILL, (kill, run.err)
    run = toy(place, "--run_dir=auto_killed")
    assert run.end() == 0, run.err
    assert not re.search(r"(?m)^\w+ \d/3", run.out)  # nothing was left to train
    reference = xarray.load_dataset(place / "auto" / "record.nc")
    assert reference.sizes["seed"] == 10  # decided before the cap
    assert_same(place / "auto_killed", reference)
    xarray.testing.assert_identical(
        reference, xarray.load_dataset(place / "auto_killed" / "record.nc")
    )
    one, other = ((place / name / "claims.json").read_text() for name in ("auto", "auto_killed"))
    assert one == other


def test_ctrl_c_stops_at_the_next_epoch_and_says_how_to_go_on(place, reference):
    run = Toy(place, "--run_dir=stopped", *FLAGS, sleep=0.5).until("plain 1/3")
    run.signal(signal.SIGINT)
    assert run.end() == 130
    assert run.err == "stopping after this epoch; once more stops at once\n"
    assert '"status": "interrupted"' in (place / "stopped" / "manifest.json").read_text()
    command = shlex.split(re.search(r"interrupted; to go on: (.*)", run.out)[1])
    assert os.path.samefile(shutil.which(command[0]), sys.executable)
    assert command[1:3] == ["-m", "toy_experiment"]
    run = toy(place, *command[3:])
    assert run.end() == 0, run.err
    assert "plain goes on after 2/3" in run.out
    assert_same(place / "stopped", reference)


def test_sigterm_asks_to_stop_and_a_second_signal_insists(place):
    run = Toy(place, "--run_dir=insisted", *FLAGS, sleep=9).until("strategy")
    time.sleep(0.5)
    run.signal(signal.SIGTERM)
    time.sleep(0.1)
    run.signal(signal.SIGTERM)
    began = time.monotonic()
    assert run.end() == 130
    assert time.monotonic() - began < 9
    assert "plain 1/3" not in run.out
    assert re.search(r"; to go on: .*python\S* -m toy_experiment --run_dir=insisted", run.err)


def test_the_second_process_on_a_folder_gets_one_line(place):
    first = Toy(place, "--run_dir=shared", *FLAGS, sleep=9).until("strategy")
    second = toy(place, "--run_dir=shared", *FLAGS)
    first.signal(signal.SIGKILL)
    assert first.end() == -signal.SIGKILL
    assert second.end() == 2
    assert second.err == (
        f"error: --run_dir=shared: in use by another process (number {first.process.pid})\n"
    )


def test_a_flipped_bit_in_a_checkpoint_is_named_and_costs_one_epoch(place, reference):
    toy(place, "--run_dir=flipped", *FLAGS, kill=Kill("epoch-000003.ckpt", "after"))
    path = place / "flipped" / "checkpoints" / "plain" / "epoch-000003.ckpt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 32
    path.write_bytes(content)
    run = toy(place, "--run_dir=flipped", *FLAGS)
    line = "checkpoints/plain/epoch-000003.ckpt is damaged (its SHA-256"
    assert line in run.out
    assert line in (place / "flipped" / "log.txt").read_text()
    assert "plain goes on after 2/3" in run.out
    assert_same(place / "flipped", reference)


def test_on_a_full_disk_it_says_so_and_goes_on_when_there_is_room(place, reference):
    # Without the compilation cache, whose own files meet the limit too, with a warning of jax's.
    uncached = "--compilation_cache_dir="
    run = toy(place, "--run_dir=full", uncached, *FLAGS, file_limit=9000)
    assert run.end() == 3
    assert re.fullmatch(r"error: .*File too large.*; to go on: .*python\S* -m .*\n", run.err)
    assert not (place / "full" / "record.nc").exists()
    run = toy(place, "--run_dir=full", *FLAGS)
    assert run.end() == 0, run.err
    assert "1/3" not in run.out  # nothing was trained again
    assert_same(place / "full", reference)


def test_a_moved_folder_goes_on_without_its_settings_being_given(place, reference):
    toy(place, "--run_dir=here", *FLAGS, kill=Kill("epoch-000002.ckpt", "after"))
    shutil.move(place / "here", place / "there")
    run = toy(place, "--run_dir=there")
    assert run.end() == 0, run.err
    assert_same(place / "there", reference)
