"""Records and the run folder.

A record is an `xarray.Dataset` in a NetCDF file that anyone can open without dlstudy. A run
folder holds one run:

    flags.txt        the settings, as a flagfile that repeats the run
    manifest.json    where, when and with what it ran, its layout, and how far it came
    checkpoints/     what is needed to go on
    record.nc        the numbers
    claims.json      the verdicts
    figures/         SVG and PNG
    log.txt          what was said

Every file is written whole or not at all, in an order that makes the folder complete or
resumable at any moment: manifest, flags, checkpoints, record, its SHA-256 in the manifest,
verdicts, figures, and last the manifest's status "finished".
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dlstudy.checkpoints import (
    DamagedError,
    StageFiles,
    remove_temporary,
    sync_folder,
    write_atomic,
)
from dlstudy.errors import UserError
from dlstudy.host import Layout

if TYPE_CHECKING:
    import xarray

PACKAGES = (
    "dlstudy",
    "absl-py",
    "array-record",
    "chex",
    "flax",
    "jax",
    "jaxlib",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "matplotlib",
    "mlxtend",
    "netCDF4",
    "numba",
    "numpy",
    "optax",
    "rich",
    "scikit-learn",
    "scipy",
    "tensorflow-datasets",
    "xarray",
)


# ---------------------------------------------------------------------------- the record


def save_record(path: Path, record: "xarray.Dataset") -> str:
    """Writes a record as NetCDF-4, atomically.

    Args:
        path: the file.
        record: its attributes hold only strings, integers, floats and lists of them.

    Returns:
        The SHA-256 of the file.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    # Made in memory: the NetCDF library does not report a full disk in a usable way. Without
    # _FillValue, not-a-number stays what it is.
    encoding = {name: {"_FillValue": None} for name in record.variables}
    content = record.to_netcdf(engine="netcdf4", encoding=encoding)
    write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def load_record(path: Path, sha256: str | None = None) -> "xarray.Dataset":
    """Reads a record into memory.

    Args:
        path: the NetCDF file.
        sha256: the digest it must have; None to take the file as it is.

    Raises:
        DamagedError: the file is missing or is not the one that was written.
    """
    import xarray

    if not path.exists():
        raise DamagedError(f"{path}: there is no record")
    if sha256 is not None and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise DamagedError(f"{path}: damaged: its SHA-256 is not the one in manifest.json")
    try:
        return xarray.load_dataset(path, engine="netcdf4")
    except (OSError, RuntimeError, ValueError) as error:
        raise DamagedError(f"{path}: not a readable NetCDF file") from error


# ---------------------------------------------------------------------------- the run folder


def utc_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def state_of(path: Path) -> str:
    """What is at `path`: "absent", "empty", "run" (a run folder) or "other" (leave it alone)."""
    if not path.exists():
        return "absent"
    if not path.is_dir():
        return "other"
    if (path / "manifest.json").exists():
        return "run"
    # A process killed while it made the folder leaves the lock and a half-written manifest.
    names = {entry.name for entry in path.iterdir()} - {".lock", ".manifest.json.tmp"}
    return "other" if names else "empty"


def without_diverged(record):
    """A record with every run that diverged as NaN, for figures.

    Args:
        record: with `diverged_step` over arm and seed, -1 where a run did not; variables without an
            arm are the main arm's.

    Returns:
        The record; its attribute `left_out`, if any run diverged, names them.
    """
    good = record["diverged_step"] < 0
    left_out = [
        f"{seed} of {arm}"
        for arm in record.arm.values for seed in record.seed.values[~good.sel(arm=arm).values]
    ]  # fmt: skip
    if not left_out:
        return record
    main = good.sel(arm="main", drop=True)
    masked = {
        name: values.where(good if "arm" in values.dims else main)
        for name, values in record.items()
        if "seed" in values.dims and values.dtype.kind == "f"
    }
    masked = {name: values.transpose(*record[name].dims) for name, values in masked.items()}
    return record.assign(masked).assign_attrs(left_out=", ".join(left_out))


def new_path(runs: Path) -> Path:
    """Makes an empty folder named after the time, in UTC, and returns its path.

    Two processes that ask in the same second get different folders.

    Raises:
        OSError: it cannot be made.
    """
    runs.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    number = 1
    while True:
        path = runs / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            sync_folder(runs)
            return path


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the run folder `path`.

    Raises:
        DamagedError: it cannot be read.
    """
    file = path / "manifest.json"
    try:
        manifest = json.loads(file.read_text("utf-8"), parse_constant=_no_number)
        if not is_manifest(manifest):
            raise ValueError
        # Half of a character that JSON writes as two cannot be written anywhere else.
        json.dumps(manifest, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{file}: damaged: not the manifest of a run") from error
    return manifest


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


# What the entries of a manifest must be, where they are there.
_TYPES = {
    "experiment": str,
    "flags": list,
    "layout": dict,
    "status": str,
    "data": dict,
    "code": dict,
    "environment": dict,
    "record_sha256": str,
    "started": str,
    "finished": str,
    "seconds": (int, float),
    "peak_memory_mib": (int, float),
}


def is_manifest(manifest: Any) -> bool:
    """Whether this is a manifest whose entries are what they must be."""
    return (
        isinstance(manifest, dict)
        and {"experiment", "flags", "layout", "status"} <= manifest.keys()
        and all(isinstance(manifest[name], kind) for name, kind in _TYPES.items()
                if name in manifest)
        and all(isinstance(flag, str) for flag in manifest["flags"])
        and isinstance(manifest.get("environment", {}).get("packages", {}), dict)
        and abs(manifest.get("seconds", 0.0)) < 1e12
    )  # fmt: skip


class RunFolder:
    """A run folder whose lock this process holds. Use `open_folder`.

    Attributes:
        path: the folder.
        manifest: the content of manifest.json; change it through `update`. Empty in a new folder.
    """

    def __init__(self, path: Path):
        self.path = path
        self.manifest = read_manifest(path) if state_of(path) == "run" else {}

    def update(self, **changes: Any) -> None:
        """Changes entries of the manifest, on the disk too."""
        self.manifest |= changes
        self.write("manifest.json", json.dumps(self.manifest, indent=1), "\n")

    def write(self, name: str, *chunks: bytes | memoryview | str) -> None:
        """Writes a file of the folder atomically; makes its subfolder."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, *chunks)

    def log(self, text: str) -> None:
        """Appends to log.txt, with the time."""
        with open(self.path / "log.txt", "a", encoding="utf-8") as file:
            file.write("".join(f"{utc_now()} {line}\n" for line in text.splitlines() or [""]))

    def log_error(self) -> None:
        """Appends the exception being handled to log.txt, if that is possible."""
        with contextlib.suppress(OSError):
            self.log(traceback.format_exc())

    def save_record(self, record: "xarray.Dataset") -> None:
        """Writes record.nc and then its SHA-256 into the manifest."""
        self.update(record_sha256=save_record(self.path / "record.nc", record))

    def has_record(self) -> bool:
        """Whether record.nc is whole. If it is not, `run` makes it again from the checkpoints."""
        try:
            self.load_record()
        except DamagedError as error:
            if "record_sha256" in self.manifest:
                self.log(str(error))
            return False
        return True

    def load_record(self) -> "xarray.Dataset":
        """The record, compared with its SHA-256.

        Raises:
            DamagedError: it is missing or damaged.
        """
        path = self.path / "record.nc"
        if "record_sha256" not in self.manifest:
            raise DamagedError(f"{path}: there is no finished record")
        return load_record(path, self.manifest["record_sha256"])


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[RunFolder]:
    """Takes the lock of a run folder (made if absent) and tidies up after killed processes.

    Raises:
        UserError: another process has it.
        DamagedError: its manifest cannot be read.
        OSError: it cannot be made or written.
    """
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 40).decode(errors="replace").strip()
            raise UserError(
                f"--run_dir={path}: in use by another process (number {owner or 'unknown'})"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        remove_temporary(path)
        yield RunFolder(path)
    finally:
        os.close(descriptor)  # this releases the lock, as the end of the process would


class Console(Protocol):
    """What `FileHost` says to the user."""

    def log(self, line: str) -> None: ...
    def batch(self, later: int) -> None: ...
    def stage(self, name: str, epochs: int) -> None: ...
    def restored(self, epoch: int) -> None: ...
    def place(self) -> str: ...
    def report(self, row: dict[str, float]) -> None: ...


class FileHost:
    """A `dlstudy.host.Host` that keeps everything in a run folder.

    Args:
        folder: the run folder.
        console: what the user sees.
        layout: of the run.
        only: the seeds to run; None for all.
        should_stop: whether the user asked to stop.
        checkpoints: where they lie, in the folder.
    """

    def __init__(
        self,
        folder: RunFolder,
        console: Console,
        layout: Layout,
        only: range | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        checkpoints: str = "checkpoints",
    ):
        self.folder, self.console, self.layout = folder, console, layout
        self.only, self.should_stop, self.checkpoints = only, should_stop, checkpoints

    def seeds(self, number: int) -> range:
        return range(number) if self.only is None else self.only

    def batch(self, seeds: range) -> "FileHost":
        """The same host for some of the seeds; their checkpoints lie in a folder of their own."""
        place = f"{self.checkpoints}/seeds_{seeds[0]}-{seeds[-1]}"
        return FileHost(self.folder, self.console, self.layout, seeds, self.should_stop, place)

    def stage(self, name: str, epochs: int) -> "FileStage":
        self.console.stage(name, epochs)
        return FileStage(self.folder.path / self.checkpoints / name, epochs, self)

    def log(self, line: str) -> None:
        self.console.log(line)
        self.folder.log(line)


class FileStage(StageFiles):
    """A `dlstudy.host.StageHost` that says what it does."""

    def __init__(self, folder: Path, epochs: int, host: FileHost):
        super().__init__(folder, epochs, host.log)
        self.host = host

    def restore(self, template):
        restored = super().restore(template)
        if restored:
            self.host.console.restored(restored[0])
            after = f"goes on after {self.host.console.place()}"
            self.log(f"{self.folder.name} {'is done' if restored[1] is None else after}")
        return restored

    def report(self, row):
        self.host.console.report(dict(row))


# ---------------------------------------------------------------------------- where it ran


def environment() -> dict[str, Any]:
    """What a result may depend on: interpreter, packages, commit, machine."""
    packages = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    return {
        "python": platform.python_version(),
        "packages": packages,
        "commit": commit(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cpu_count": os.cpu_count(),
    }


def commit() -> str:
    """The commit this code was checked out from, with "-dirty" after a change; else ""."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # else it is some other project's checkout
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return ""


def cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def changed_environment(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between two environments, one phrase each ("jax 0.8.0 -> 0.8.1")."""
    before = {**old.get("packages", {}), **{k: v for k, v in old.items() if k != "packages"}}
    after = {**new.get("packages", {}), **{k: v for k, v in new.items() if k != "packages"}}
    return [
        f"{name} {before.get(name)} -> {after.get(name)}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
