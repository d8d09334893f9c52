"""What counts as a change of a run's code, data and versions."""

import importlib
import sys

import pytest

from experiments import inputs, mnist_gradnorm, relu_regions

RUN = "def run():\n    return 1\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An experiment in files of its own: (its module, what changes a file)."""
    files = {
        "run": "from dlstudy import errors\nimport toy_inputs_claims\n" + RUN,
        "claims": "CLAIMS = ()\n",
    }
    names = {"run": "toy_inputs", "claims": "toy_inputs_claims"}

    def write(which, text):
        (tmp_path / f"{names[which]}.py").write_text(text)
        inputs.imported.cache_clear()
        inputs._digest.cache_clear()

    for which, text in files.items():
        write(which, text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(inputs, "PACKAGES", (*inputs.PACKAGES, *names.values()))
    yield importlib.import_module("toy_inputs"), write
    for name in names.values():
        sys.modules.pop(name, None)


def names_of(module, kind):
    left_out = {
        "run": lambda name: name in inputs.AROUND or inputs._comes_after(name),
        "all": lambda name: name in inputs.AROUND,
    }
    return set(inputs.closure(module, left_out[kind]))


def test_a_record_depends_on_what_trains_and_not_on_what_judges_or_draws():
    for module, lacking in ((mnist_gradnorm, {"dlstudy.regions"}), (relu_regions, set())):
        name = module.__name__
        run = names_of(module, "run")
        assert {name, f"{name}_runs", f"{name}_record", "dlstudy.training"} <= run
        assert not {f"{name}_claims", f"{name}_figures", "dlstudy.plots", "experiments.cli"} & run
        assert not lacking & run
        rest = names_of(module, "all") - run
        assert {f"{name}_claims", f"{name}_figures", "dlstudy.claims.judging"} <= rest


def test_a_package_that_loads_its_modules_on_first_use_counts_as_a_whole():
    assert "dlstudy.regions.faces" in names_of(relu_regions, "run")


def test_comments_docstrings_and_layout_do_not_count(project):
    module, write = project
    before = inputs.code(module)
    imports = "import toy_inputs_claims\nfrom dlstudy import errors\n"
    write("run", '"""What it is."""\n# Why.\nfrom dlstudy import errors\nimport toy_inputs_claims\n'
          'def run():\n    """One."""\n    return (1)\n')  # fmt: skip
    assert inputs.code(module) == before
    write("run", imports + RUN)
    assert inputs.code(module) != before  # the order of statements does


def test_code_that_trains_and_code_that_judges_are_told_apart(project):
    module, write = project
    before = inputs.code(module)
    write("claims", "CLAIMS = (1,)\n")
    judged = inputs.code(module)
    assert judged["run"] == before["run"]
    assert judged["conclusion"] != before["conclusion"]
    write("run", "from dlstudy import errors\nimport toy_inputs_claims\n" + RUN.replace("1", "2"))
    trained = inputs.code(module)
    assert trained["run"] != judged["run"]
    assert trained["conclusion"] == judged["conclusion"]


def test_changes_are_named():
    environment = {"python": "3.11", "packages": {"jax": "0.10.2"}, "cpu": "one"}
    manifest = {
        "code": {"run": "a", "conclusion": "b"},
        "data": {"checksum": "1"},
        "environment": environment,
    }
    assert inputs.changes(manifest, manifest) == []
    other_machine = manifest | {"environment": environment | {"cpu": "two", "commit": "x"}}
    assert inputs.changes(manifest, other_machine) == []
    newer = manifest | {"environment": {"python": "3.11", "packages": {"jax": "0.12", "new": "1"}}}
    assert inputs.changes(manifest, newer) == ["versions (jax 0.10.2 -> 0.12, new None -> 1)"]
    assert inputs.changes(manifest, manifest | {"data": {"checksum": "2"}}) == ["data"]
    redraw = manifest | {"code": {"run": "a", "conclusion": "c"}}
    assert inputs.changes(manifest, redraw) == [inputs.CONCLUSION]
    assert inputs.changes({}, manifest) == [
        "code",
        "data",
        "versions (jax None -> 0.10.2, python None -> 3.11)",
        inputs.CONCLUSION,
    ]
