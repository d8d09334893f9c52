"""Installs the locked packages and dlstudy itself into a virtual environment.

scripts/setup calls it with a Python that works; it uses the standard library alone. It does
nothing when the environment is up to date, may be interrupted at any time, and may run in
several processes at once. On success it prints the path of the environment's Python.
"""

import argparse
import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUN = ["requirements.txt"]
DEV = [*RUN, "requirements-tfds.txt", "requirements-dev.txt"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/setup", allow_abbrev=False)
    parser.add_argument("venv", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dev", action="store_true", help="also install what the tests need")
    args = parser.parse_args()
    venv = args.venv.absolute()
    try:
        # One process at a time; a lock on a file that is there anyway leaves nothing behind.
        with open(ROOT / "requirements.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            install(venv, args.dev)
    except KeyboardInterrupt:
        print("interrupted; the next call goes on", file=sys.stderr)
        return 130
    except subprocess.CalledProcessError:
        print(f"error: could not install into {venv}; the reason is above", file=sys.stderr)
        return 3
    except OSError as error:
        print(f"error: could not install into {venv}: {error}", file=sys.stderr)
        return 3
    print(venv / "bin" / "python")
    return 0


def install(venv: Path, dev: bool) -> None:
    """Brings the environment up to date.

    The file .dlstudy.json in it says what is installed. It is emptied first and written last:
    where it is empty an installation was cut short, and the environment is made anew.
    """
    stamp, python = venv / ".dlstudy.json", venv / "bin" / "python"
    wanted = {"python": f"{sys.version} {sys.base_prefix}", "dev": dev, "inputs": fingerprint()}
    found = read_stamp(stamp)
    if found in (wanted, wanted | {"dev": True}) and python.exists():
        return

    if venv.exists() and not (venv / "pyvenv.cfg").exists() and any(venv.iterdir()):
        raise OSError("the folder is neither empty nor a virtual environment")
    if not has_pip(python) or (stamp.exists() and found.get("python") != wanted["python"]):
        print(f"making {venv} with Python {sys.version.split()[0]}", file=sys.stderr)
        base = getattr(sys, "_base_executable", sys.executable)
        subprocess.run([base, "-I", "-m", "venv", "--clear", venv], check=True)
    stamp.write_text("")
    print(f"installing packages into {venv} (a few minutes, once)", file=sys.stderr)
    packages = [word for name in (DEV if dev else RUN) for word in ("-r", ROOT / name)]
    pip(python, *packages, "-c", ROOT / "requirements.lock")
    pip(python, "--no-deps", "--editable", ROOT)
    stamp.write_text(json.dumps(wanted))


def fingerprint() -> str:
    """SHA-256 of all that decides what is installed: these files and where they are."""
    digest = hashlib.sha256(str(ROOT).encode())
    for name in ["pyproject.toml", "requirements.lock", *DEV]:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def read_stamp(path: Path) -> dict:
    """What is installed; empty when nothing is, or not to the end."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def has_pip(python: Path) -> bool:
    """Whether an environment is there and whole enough to install into."""
    if not python.exists():
        return False
    return (
        subprocess.run([python, "-I", "-m", "pip", "--version"], capture_output=True).returncode
        == 0
    )


def pip(python: Path, *arguments: str | Path) -> None:
    """Runs pip install, quietly; what would install elsewhere is taken from its settings."""
    elsewhere = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
    environment = {key: value for key, value in os.environ.items() if key not in elsewhere}
    command = [python, "-I", "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    subprocess.run([*command, *arguments], env=environment, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
