"""The shell scripts parse, and bad surroundings end set-up with one clear line."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SCRIPTS = [
    path
    for path in sorted([*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"])
    if path.is_file() and path.read_bytes().startswith(b"#!/usr/bin/env bash")
]


def setup(*arguments, script=ROOT / "scripts" / "setup", **environment):
    return subprocess.run(
        [shutil.which("bash"), script, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_can_be_run(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert os.access(script, os.X_OK)
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def requirements(name):
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("kind", ["", "-tfds", "-dev"])
def test_requirements_have_both_ends_and_hold_the_locked_versions(kind):
    locked = {}
    for pin in requirements("requirements.lock"):
        (exact,) = pin.specifier
        locked.setdefault(canonicalize_name(pin.name), []).append(exact.version)
    for requirement in requirements(f"requirements{kind}.txt"):
        assert sorted(s.operator for s in requirement.specifier) == ["<", ">="], requirement
        versions = locked[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(version) for version in versions), requirement


def test_continuous_integration_says_that_it_is(tmp_path):
    for place in (".ci", "scripts"):
        (tmp_path / place).mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "scripts" / "setup").touch()
    (tmp_path / "scripts" / "test").write_text('echo "CI is $CI"')
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    command = [shutil.which("bash"), tmp_path / ".ci" / "run"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "CI is true" in done.stdout


def test_a_python_that_fails_is_named():
    done = setup(PYTHON="/bin/false")
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: PYTHON=/bin/false: must be a Python of at least 3.11 with venv and ssl\n"
    )


def test_stubs_of_python_that_fail_are_passed_over(tmp_path):
    for name in ("bash", "dirname", "readlink"):
        (tmp_path / name).symlink_to(shutil.which(name))
    for name in ("python3.13", "python3"):
        (tmp_path / name).symlink_to(shutil.which("false"))
    done = setup(PATH=str(tmp_path), PYTHON="", DLSTUDY_VENV=str(tmp_path / "venv"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: no working Python of at least 3.11")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "venv").exists()


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    link = tmp_path.parent / f"{tmp_path.name} link"
    link.symlink_to(ROOT / "scripts" / "setup")
    done = setup(script=link, DLSTUDY_VENV=str(tmp_path))
    assert done.returncode == 3
    assert "neither empty nor a virtual environment" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
