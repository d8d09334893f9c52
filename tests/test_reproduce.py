"""reproduce: what it runs and what not, what it says, and what survives damage."""

import contextlib
import dataclasses
import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
import toy_experiment as toy
import xarray

from dlstudy import records
from dlstudy.errors import UserError
from experiments import cli, compare, inputs, ledger, reproduce

TESTS = Path(__file__).parent
SECOND = '''"""Does another toy do the same? (with <script>alert(1)</script> | and a bar)"""

import sys

import toy_experiment
from experiments import cli
from toy_experiment import Config, figures, load, plan, run, stages

NAME = "second"


def last(record):
    """last loss"""
    return record["loss"].sel(arm="plain").isel(step=-1)


CLAIMS = tuple(
    toy_experiment.Claim(f"0.{i}", text, "paired", last, "below", 10.0, "ten", "", "0")
    for i, text in ((2, "It ends low"), (3, "Ends | low <b>"))
)

if __name__ == "__main__":
    raise SystemExit(cli.main(sys.modules[__name__]))
'''


def forget_code():
    inputs.imported.cache_clear()
    inputs._digest.cache_clear()


@pytest.fixture
def two(tmp_path, monkeypatch):
    """Two toy experiments, the second one in a file of its own, which may be changed."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "modules"
    home.mkdir()
    (home / "second.py").write_text(SECOND)
    monkeypatch.syspath_prepend(home)
    monkeypatch.setenv("PYTHONPATH", f"{home}{os.pathsep}{TESTS}")
    monkeypatch.setattr(ledger, "EXPERIMENTS", ("toy", "second"))
    names = {"toy": "toy_experiment", "second": "second"}
    monkeypatch.setattr(ledger, "load_module", lambda name: importlib.import_module(names[name]))
    flags = ("--num_seeds=7", "--epochs=3", "--compilation_cache_dir=")
    monkeypatch.setattr(ledger, "preset_flags", lambda module, preset: flags)
    yield home / "second.py"
    sys.modules.pop("second", None)
    forget_code()


@pytest.fixture
def processes(monkeypatch):
    """The experiments that are started, by name, and with what; all in this process, for speed."""
    started = []

    def in_this_process(commands, jobs, hear, ended):
        for own, command in commands:
            name = command[command.index("-m") + 1]
            started.append((name, command))
            said, errors = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
                status = cli.main(importlib.import_module(name), command[command.index("-m") + 2 :])
            for line in said.getvalue().splitlines():
                if row := reproduce._row(line):
                    hear(own, row)
            ended(own, status, errors.getvalue().strip().removeprefix("error: "))
        return False

    monkeypatch.setattr(reproduce, "run_processes", in_this_process)
    return started


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the runs of `finished` are kept: they are made once."""
    return tmp_path_factory.mktemp("kept") / "runs"


@pytest.fixture
def finished(two, processes, kept):
    """The folder of runs after both toys have been run, here."""
    if kept.exists():
        shutil.copytree(kept, "runs")
    else:
        assert reproduce.main([]) == 0
        shutil.copytree("runs", kept)
    del processes[:]
    return Path("runs")


def names(processes):
    return [name for name, _ in processes]


def read_ledger(runs="runs"):
    return json.loads(Path(runs, "report", "ledger.json").read_text())


def verdicts(content):
    return {row["id"]: row["verdict"] for row in content["claims"]}


def folder_of(name):
    (folder,) = Path("runs", name).iterdir()
    return folder


def test_everything_runs_once_and_then_nothing(two, processes, capsys, monkeypatch):
    assert reproduce.main([]) == 0
    assert names(processes) == ["toy_experiment", "second"]
    content = read_ledger()
    assert verdicts(content) == {"0.1": "supported", "0.2": "supported", "0.3": "supported"}
    assert content["complete"]
    assert content["counts"] == {
        "supported": 3, "refuted": 0, "conditional": 0, "inconclusive": 0
    }  # fmt: skip
    first = capsys.readouterr().out
    assert "claims: 3 supported" in first
    assert re.search(r"\[1/2\] toy plain 1/3  loss .* left in all|in all", first)
    page = Path("runs/report/index.html")
    assert f"report: {page}" in first
    # p-values belong to the family of all experiments: 7 of 7 seeds, three claims.
    assert [row["p"] for row in content["claims"]] == [1 / 128] * 3
    assert [row["p_holm"] for row in content["claims"]] == [3 / 128] * 3

    written = page.stat().st_mtime_ns
    assert reproduce.main([]) == 0
    said = capsys.readouterr().out
    assert len(processes) == 2
    assert "nothing has changed: no experiment is run" in said
    assert "nothing has changed: the report is up to date" in said
    assert page.stat().st_mtime_ns == written

    monkeypatch.setattr(reproduce, "report_code", lambda: "another template")
    assert reproduce.main([]) == 0
    assert "no experiment is run" in capsys.readouterr().out
    assert page.stat().st_mtime_ns > written


def test_a_change_runs_again_what_it_concerns(two, finished, processes, capsys):
    two.write_text(SECOND.replace('NAME = "second"', 'NAME = "second"\nMORE = 1'))
    forget_code()
    sys.modules.pop("second", None)
    assert reproduce.main([]) == 0
    assert names(processes) == ["second"]
    said = capsys.readouterr().out
    assert re.search(r"second: runs, about \d+ s \(changed since .*: code", said)
    assert "toy: up to date" in said
    assert len(list(Path("runs/second").iterdir())) == 2  # the old one is kept


def test_new_judging_redraws_without_training(two, finished, processes, monkeypatch, capsys):
    folder = folder_of("toy")
    manifest = json.loads((folder / "manifest.json").read_text())
    record = (folder / "record.nc").stat().st_mtime_ns
    manifest["code"]["conclusion"] = "that of an earlier version"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert reproduce.main([]) == 0
    assert names(processes) == ["toy_experiment"]
    assert "--redraw" in processes[0][1]
    assert "toy: is drawn again" in capsys.readouterr().out
    assert (folder / "record.nc").stat().st_mtime_ns == record
    assert reproduce.main([]) == 0
    assert len(processes) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": {"checksum": "another"}}, "data"),
        ({"environment": {"python": "2.7", "packages": {}}}, "versions (absl-py None -> "),
    ],
)
def test_other_data_and_versions_run_again(two, finished, processes, capsys, change, said):
    file = folder_of("toy") / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert reproduce.main([]) == 0
    assert names(processes) == ["toy_experiment"]
    assert said in capsys.readouterr().out


def test_one_failure_does_not_lose_the_others(two, processes, capsys):
    two.write_text(SECOND.replace("def last", "def load(config):\n    raise OSError('no data here')"
                                  "\n\n\ndef last"))  # fmt: skip
    forget_code()
    assert reproduce.main([]) == 3
    content = read_ledger()
    assert verdicts(content) == {"0.1": "supported", "0.2": "inconclusive", "0.3": "inconclusive"}
    reasons = {row["id"]: row["reason"] for row in content["claims"]}
    assert reasons["0.2"] == "no record: no data here"
    assert not content["complete"]
    captured = capsys.readouterr()
    assert "second: failed after" in captured.out
    assert "second: failed: no data here" in captured.err
    page = Path("runs/report/index.html").read_text()
    assert "no data here" in page


def test_a_missing_run_is_no_record(two, processes, capsys):
    assert reproduce.main(["--report_only"]) == 3
    assert not processes
    assert set(verdicts(read_ledger()).values()) == {"inconclusive"}
    assert (
        "toy: no record: there is no run of the preset default in runs/toy"
        in capsys.readouterr().err
    )
    assert Path("runs/report/index.html").exists()


def test_damage_is_reported_and_mended(two, finished, processes, capsys):
    folder = folder_of("toy")
    record = folder / "record.nc"
    before, content = records.load_record(record), record.read_bytes()
    record.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert reproduce.main(["--report_only"]) == 3
    assert "toy: damaged" in capsys.readouterr().err
    assert verdicts(read_ledger())["0.1"] == "inconclusive"
    del processes[:]
    assert reproduce.main([]) == 0  # the checkpoints still have the numbers
    assert names(processes) == ["toy_experiment"]
    xarray.testing.assert_identical(records.load_record(record), before)

    (folder / "manifest.json").write_text("{")
    assert reproduce.main(["--report_only"]) == 3
    capsys.readouterr()
    assert reproduce.main([]) == 0
    assert len(list(Path("runs/toy").iterdir())) == 2
    assert "damaged" in capsys.readouterr().out


def test_what_is_left_out_is_taken_along_if_it_is_there(two, monkeypatch, processes, capsys):
    monkeypatch.setattr(reproduce, "chosen", lambda options: ["toy"])
    assert reproduce.main([]) == 0
    assert names(processes) == ["toy_experiment"]
    content = read_ledger()
    assert verdicts(content) == {"0.1": "supported"}
    assert [e["status"] for e in content["experiments"]] == ["finished", "not run"]
    monkeypatch.setattr(reproduce, "chosen", lambda options: ["second"])
    assert reproduce.main([]) == 0
    assert names(processes) == ["toy_experiment", "second"]
    assert set(verdicts(read_ledger())) == {"0.1", "0.2", "0.3"}


def test_only_and_skip_choose():
    first, *rest = ledger.EXPERIMENTS
    assert reproduce.chosen(reproduce.Options()) == list(ledger.EXPERIMENTS)
    assert reproduce.chosen(reproduce.Options(only=(first,))) == [first]
    assert reproduce.chosen(reproduce.Options(skip=(first,))) == rest


STARTER = """
import sys
import test_reproduce
from experiments import inputs, ledger, reproduce
import toy_experiment
ledger.EXPERIMENTS = ("toy",)
ledger.load_module = lambda name: toy_experiment
ledger.preset_flags = lambda module, preset: ("--epochs=6", "--compilation_cache_dir=")
sys.exit(reproduce.main([]))
"""


def test_an_interrupted_run_goes_on(tmp_path):
    environment = {**os.environ, "TOY_SLEEP": "0.5", "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    command = [sys.executable, "-c", STARTER]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    for line in process.stdout:
        if "plain 2/6" in line:
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; the same command goes on" in errors
    (folder,) = (tmp_path / "runs" / "toy").iterdir()
    assert records.read_manifest(folder)["status"] == "interrupted"

    done = subprocess.run(command, cwd=tmp_path, env=environment | {"TOY_SLEEP": "0"}, text=True,
                          capture_output=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "toy: goes on in" in done.stdout
    assert len(list((tmp_path / "runs" / "toy").iterdir())) == 1
    assert "plain 1/6" not in done.stdout
    assert "plain 6/6" in done.stdout


BAD = {
    ("--preset=tiny",): "--preset=tiny: must be one of quick, default, full",
    ("--only=nothing",): "--only=nothing: each must be one of",
    ("--only=relu_regions", "--skip=relu_regions"): "--only and --skip: give one of the two",
    ("--only=",): "--only=: must name an experiment, or be left out",
    ("--skip=",): "--skip=: must name an experiment, or be left out",
    ("--skip=" + ",".join(ledger.EXPERIMENTS),): "--skip: leaves no experiment",
    ("--runs_dir=",): "--runs_dir=: must name a folder, or be left out",
    ("--runs_dir=file",): "--runs_dir=file:",
    ("--num_seeds=3",): "num_seeds",
    ("quick",): "quick",
    ("--compare", "a"): "--compare: needs two places",
    ("--compare", "a", "b"): "--compare: a: must be a ledger.json, a folder with one, or a",
}


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_bad_input_ends_with_one_line(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert reproduce.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    assert BAD[arguments] in captured.err
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_list_names_questions_and_times(capsys):
    assert reproduce.main(["--list"]) == 0
    said = capsys.readouterr().out
    for name in ledger.EXPERIMENTS:
        assert f"{name}\n  {ledger.question(ledger.load_module(name))}\n  quick: about " in said
    assert said.count("full: about") == len(ledger.EXPERIMENTS)


def test_help_explains(capsys):
    assert reproduce.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "--compare RUN_A RUN_B" in said
    assert "Exit status" in said


def test_every_experiment_has_its_presets_and_its_claims_their_own_ids():
    ids = []
    for name in ledger.EXPERIMENTS:
        module = ledger.load_module(name)
        assert name == module.NAME
        for preset in ledger.PRESETS:
            config, _ = ledger.settings(module, ledger.preset_flags(module, preset))
            assert isinstance(config, module.Config)
        ids += [v.id for v in ledger.claims.judge(module.CLAIMS, None)]
    assert len(ids) == len(set(ids))


# ---------------------------------------------------------------------------- the ledger


def test_markdown_holds_every_claim_and_cannot_be_broken(finished):
    text = (finished / "report" / "ledger.md").read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| \**0\.", line)]
    assert len(rows) == 3
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 7  # six cells
    assert "Ends \\| low &lt;b>" in text
    assert "<script>" not in text


def test_a_ledger_compared_with_itself_agrees(finished, capsys):
    assert reproduce.main(["--compare", "runs", "runs/report/ledger.json"]) == 0
    said = capsys.readouterr().out
    assert "all 3 verdicts and effects agree" in said
    assert "toy: made alike" in said


def test_compare_names_what_changed(finished, capsys):
    content = read_ledger()
    changed, same, gone = content["claims"]
    changed |= {"verdict": "refuted", "effect": 5.0, "low": 4.0, "high": 6.0}
    same |= {"effect": same["effect"] + 1e-9}
    content["claims"].remove(gone)
    content["experiments"][0]["manifest"]["flags"].append("--epochs=9")
    content["experiments"][0]["manifest"]["layout"]["devices"] = 64
    Path("other.json").write_text(json.dumps(content))
    capsys.readouterr()
    assert reproduce.main(["--compare", "runs", "other.json"]) == 0
    said = capsys.readouterr().out
    assert "only in RUN_A: second 0.3" in said
    assert "--epochs 3 -> 9" in said
    assert "-> 64" in said
    assert "of 2 verdicts 1 differ, of the effects 2" in said
    a, b = (compare.read(Path(place)) for place in ("runs", "other.json"))
    first, second = compare.changes(a, b)
    assert (first.key[1], first.verdict, second.key[1], second.verdict) == (
        "0.1", True, "0.2", False,
    )  # fmt: skip
    assert not second.apart


@pytest.mark.parametrize(
    ("a", "b", "apart"),
    [
        ((0, 1), (2, 3), True),
        ((2, 3), (0, 1), True),
        ((0, 2), (1, 3), False),
        ((None, None), (5, 6), False),  # unbounded
        ((None, 1), (2, None), True),
    ],
)
def test_intervals_are_apart_where_they_share_no_point(a, b, apart):
    sides = [{"verdict": "x", "effect": 1.0, "low": low, "high": high} for low, high in (a, b)]
    assert compare.Change(("e", "1", ""), *sides).apart is apart


def test_run_folders_can_be_compared(finished, capsys):
    folder = folder_of("toy")
    assert reproduce.main(["--compare", str(folder), str(folder)]) == 0
    assert "all 1 verdicts and effects agree" in capsys.readouterr().out


def _claims(**change):
    row = {"experiment": "toy", "id": "0.1", "sentence": "x", "verdict": "supported",
           "effect": 1.0, "low": 0.0, "high": 2.0} | change  # fmt: skip
    return json.dumps({"claims": [row], "experiments": []})


NO_LEDGERS = ["{", "[]", "{}", '{"claims": [{}], "experiments": []}', "1", "[" * 100_000]
NO_LEDGERS += [_claims(effect="abc"), _claims(low=[]), _claims(verdict=None)]


@pytest.mark.parametrize("content", NO_LEDGERS, ids=range(len(NO_LEDGERS)))
def test_a_damaged_ledger_is_named(content, tmp_path, capsys):
    (tmp_path / "ledger.json").write_text(content)
    assert reproduce.main(["--compare", str(tmp_path), str(tmp_path)]) == 3
    assert "damaged" in capsys.readouterr().err


def test_sentences_are_counted_without_their_parts():
    module = ledger.load_module("relu_regions")
    verdicts = ledger.claims.judge(module.CLAIMS, None)
    assert [v.id for v in ledger.sentences(verdicts)] == [claim.id for claim in module.CLAIMS]


@pytest.mark.parametrize(
    ("id", "whole", "part"),
    [("5.2a", "5.2", True), ("5.3a1", "5.3a", True), ("5.20", "5.2", False), ("5.2", "5.2", False),
     ("5.3b1", "5.3a", False)],
)  # fmt: skip
def test_parts_are_told_by_their_ids(id, whole, part):
    assert ledger.is_part(id, whole) is part


def test_a_run_with_other_settings_is_another_run(finished, monkeypatch):
    assert ledger.find_run(toy, ("--num_seeds=7", "--epochs=3"), finished).folder
    assert ledger.find_run(toy, ("--num_seeds=7", "--epochs=4"), finished) is None
    shutil.copytree(folder_of("toy"), finished / "toy" / "2000")
    newest = ledger.find_run(toy, ("--num_seeds=7", "--epochs=3"), finished)
    assert newest.folder.name > "2000"


def test_predictions_are_finite():
    for name in ledger.EXPERIMENTS:
        module = ledger.load_module(name)
        for preset in ledger.PRESETS:
            assert 1 < reproduce.predicted(module, ledger.preset_flags(module, preset)) < 1e5


def test_an_unknown_flag_is_bad_input():
    with pytest.raises(UserError):
        reproduce.read_command(["--nothing=1"])


def processes_of(programs, jobs=1, hear=lambda name, row: None):
    """What `run_processes` says of small programs: (ends in order, whether stopped)."""
    ends = []
    commands = iter([(name, [sys.executable, "-u", "-c", text]) for name, text in programs.items()])
    stopped = reproduce.run_processes(commands, jobs, hear, lambda *end: ends.append(end))
    return ends, stopped


def test_a_process_that_says_nothing_of_use_fails_with_its_last_line():
    program = "print('{\"log\": \"x\"}'); print('[1]'); print('error: out of luck'); exit(4)"
    heard = []
    ends, stopped = processes_of({"one": program}, hear=lambda *row: heard.append(row))
    assert ends == [("one", 4, "out of luck")]
    assert heard == [("one", {"log": "x"})]
    assert not stopped


def test_so_many_run_at_a_time():
    waits = "import sys; print('{}'); sys.stdin.read(); import time; time.sleep({})"
    programs = {f"p{i}": waits.format("{}", 0.8 if i == 0 else 0.1) for i in range(3)}
    ends, _ = processes_of(programs, jobs=2)
    assert [name for name, *_ in ends] == ["p1", "p2", "p0"]  # while the first still runs
    ends, _ = processes_of(programs, jobs=1)
    assert [name for name, *_ in ends] == ["p0", "p1", "p2"]


def test_a_wish_to_stop_is_passed_on_to_all_and_starts_no_more():
    program = """
import signal, sys, time
def stop(number, frame):
    print('{"heard": true}', flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print('{"ready": true}', flush=True)
time.sleep(60)
"""
    heard = []

    def hear(name, row):
        heard.append((name, *row))
        if len(heard) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    ends, stopped = processes_of(dict.fromkeys("abc", program), 2, hear)
    assert stopped
    assert ends == []
    assert sorted(heard) == [("a", "heard"), ("a", "ready"), ("b", "heard"), ("b", "ready")]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_failure_here_leaves_nothing_running():
    started = []

    def hear(name, row):
        started.append(row["pid"])
        raise OSError("the terminal is gone")

    program = "import os, time; print('{\"pid\": %d}' % os.getpid()); time.sleep(60)"
    with pytest.raises(OSError, match="terminal"):
        processes_of({"one": program}, hear=hear)
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_progress_adds_up_what_is_left(monkeypatch, capsys):
    def pretend(commands, jobs, hear, ended):
        next(commands)
        hear("toy", {"log": "said to the log alone"})
        hear("toy", {"stage": "plain 1/4", "text": "loss 1", "left": 20.0})
        hear("toy", {"stage": "plain", "text": "", "left": None})
        ended("toy", 0, "")
        return False

    monkeypatch.setattr(reproduce, "run_processes", pretend)
    monkeypatch.setattr(reproduce, "command", lambda task, runs_dir: [])
    other = types.SimpleNamespace(NAME="other")
    tasks = [
        reproduce.Task(toy, (), "run", seconds=60.0),
        reproduce.Task(other, (), "run", seconds=100.0),
    ]
    for jobs, in_all in ((1, "2 min 00 s"), (2, "1 min 00 s")):
        assert reproduce.carry_out(tasks, Path("runs"), jobs) == ({}, False)
        assert capsys.readouterr().out.splitlines()[2:] == [
            f"[1/2] toy plain 1/4  loss 1  20 s left, {in_all} in all",
            f"[1/2] toy plain    20 s left, {in_all} in all",
            "[1/2] toy: done in 0 s",
        ]


@pytest.mark.parametrize(("arguments", "jobs"), [((), 1), (("--preset=quick",), 2),
                                                 (("--preset=quick", "--jobs=1"), 1)])  # fmt: skip
def test_quick_runs_two_at_a_time(arguments, jobs, monkeypatch):
    monkeypatch.setattr(reproduce, "available_cpus", lambda: 8)
    assert reproduce.jobs_of(reproduce.read_command(arguments)[0]) == jobs


# ---------------------------------------------------------------------------- damage of all kinds


def test_a_run_that_fails_is_a_failure_though_an_earlier_one_has_numbers(two, finished, capsys):
    two.write_text(SECOND.replace("def last", "def load(config):\n    raise OSError('no data here')"
                                  "\n\n\ndef last"))  # fmt: skip
    forget_code()
    sys.modules.pop("second", None)
    assert reproduce.main([]) == 3
    content = read_ledger()
    assert not content["complete"]
    assert {e["name"]: e["status"] for e in content["experiments"]}["second"] == "failed"
    assert "second: failed: no data here" in capsys.readouterr().err


def test_a_damaged_report_is_written_again(finished, capsys):
    report = finished / "report"
    good = {path.name: path.read_bytes() for path in report.iterdir()}
    for name, junk in (("index.html", b"broken"), ("ledger.md", None), ("ledger.json", b"[]")):
        if junk is None:
            (report / name).unlink()
        else:
            (report / name).write_bytes(junk)
        capsys.readouterr()
        assert reproduce.main([]) == 0
        assert "the report is up to date" not in capsys.readouterr().out
        assert {path.name for path in report.iterdir()} == good.keys()
        assert len((report / name).read_bytes()) > 100
    assert reproduce.main([]) == 0
    assert "the report is up to date" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["claims.json", "figures/loss.png", "figures/loss.svg"])
@pytest.mark.parametrize("junk", [b"junk", None])
def test_damaged_figures_and_verdicts_are_made_again(finished, processes, capsys, name, junk):
    path = folder_of("toy") / name
    good = path.read_bytes()
    path.unlink() if junk is None else path.write_bytes(junk)
    assert reproduce.main([]) == 0
    assert names(processes) == ["toy_experiment"]
    assert "toy: is drawn again (verdicts or figures are damaged)" in capsys.readouterr().out
    assert path.read_bytes() == good


HOSTILE = [
    {"flags": None},
    {"flags": [1, [2]]},
    {"seconds": float("nan")},
    {"seconds": float("inf")},
    {"seconds": "long"},
    {"layout": {"device": float("nan")}},
    {"data": {"name": "\ud800"}},
    {"environment": {"packages": []}},
    {"code": 3},
    {"started": 5},
]


@pytest.mark.parametrize("change", HOSTILE, ids=str)
def test_a_hostile_manifest_is_damage_and_no_crash(finished, capsys, change):
    file = folder_of("toy") / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert reproduce.main(["--report_only"]) == 3
    assert "toy: damaged: " in capsys.readouterr().err
    assert verdicts(read_ledger()) == {
        "0.1": "inconclusive", "0.2": "supported", "0.3": "supported"
    }  # fmt: skip
    assert Path("runs/report/index.html").exists()


def test_text_of_a_manifest_is_shown_as_text(finished):
    file = folder_of("toy") / "manifest.json"
    hostile = "<script>alert(1)</script>"
    changed = {"layout": {"device": hostile}, "started": hostile}
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    assert reproduce.main(["--report_only"]) == 0
    assert hostile not in Path("runs/report/index.html").read_text()


def test_a_deeply_nested_manifest_is_damage(finished, capsys):
    (folder_of("toy") / "manifest.json").write_text("[" * 100_000)
    assert reproduce.main(["--report_only"]) == 3
    assert "toy: damaged: " in capsys.readouterr().err


@pytest.mark.parametrize("attributes", [{"seed_batch": "abc", "seed_cap": 3}, {"seed_batch": 0}])
def test_a_plan_that_is_none_is_inconclusive(attributes):
    record = xarray.Dataset({"x": ("seed", [1.0] * 9)}, attrs=attributes)
    (verdict,) = ledger.claims.judge(toy.CLAIMS, record)
    assert verdict.verdict == "inconclusive"
    assert "are no plan" in verdict.reason


def test_a_folder_whose_listing_fails_does_not_lose_the_others(finished, monkeypatch, capsys):
    iterdir = Path.iterdir

    def refuse(path):
        if path.name == "toy":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert reproduce.main(["--report_only"]) == 3
    assert "toy: damaged: " in capsys.readouterr().err
    assert verdicts(read_ledger())["0.2"] == "supported"


def test_damage_of_what_is_left_out_is_said(finished, monkeypatch, capsys):
    (folder_of("second") / "manifest.json").write_text("{")
    monkeypatch.setattr(reproduce, "chosen", lambda options: ["toy"])
    assert reproduce.main(["--report_only"]) == 3
    assert "second: damaged" in capsys.readouterr().err


def test_two_calls_do_not_work_in_one_folder(two, capsys):
    with reproduce.locked(Path("runs")):
        assert reproduce.main([]) == 2
    captured = capsys.readouterr()
    assert "another call of reproduce is at work there" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_wish_to_stop_between_two_runs_is_heard(two, monkeypatch, capsys, number):
    def stop(*_):
        os.kill(os.getpid(), number)

    monkeypatch.setattr(reproduce, "carry_out", stop)
    before = signal.getsignal(number)
    assert reproduce.main([]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_a_refuted_arm_shows_its_own_p():
    control = {"verdict": "supported", "p": 0.001, "p_holm": 0.002}
    base = ledger.claims.judge(toy.CLAIMS, None)[0]
    beside = dataclasses.replace(base, **control)
    verdict = dataclasses.replace(
        base, verdict="conditional", control=beside, p=1.0, p_holm=1.0, p_against=1e-6,
        p_against_holm=1e-5,
    )  # fmt: skip
    assert verdict.own == "refuted"
    assert verdict.p_decided == (1e-6, 1e-5)
    assert beside.p_decided == (0.001, 0.002)
