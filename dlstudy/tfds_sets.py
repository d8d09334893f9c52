"""MNIST, Fashion-MNIST and KMNIST through tensorflow-datasets (TFDS).

Preparing a set, once, turns its four original files into ArrayRecord files and needs
TensorFlow (requirements-tfds.txt). Reading needs none: the records come through
`builder.as_data_source`, and the decoded arrays are kept beside them, since decoding 70,000
PNG images takes seconds and reading the arrays a fraction of one.
"""

import contextlib
import hashlib
import io
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from dlstudy.errors import UserError

NAMES = ("mnist", "fashion_mnist", "kmnist")
_SIZES = {"train": 60_000, "test": 10_000}
_ARRAYS_FILE = "dlstudy_arrays.npz"

Arrays = dict[str, np.ndarray]


def read(
    name: str, data_dir: str | Path | None = None, manual_dir: str | Path | None = None
) -> Arrays:
    """Reads a set, which is prepared first if it is not.

    Args:
      name: one of `NAMES`.
      data_dir: where prepared sets are kept; None: TFDS's default.
      manual_dir: folder with the original files; None: they are downloaded.

    Returns:
      train_x uint8[60000, 28, 28, 1], train_y uint8[60000], test_x and test_y (10000), in the
      order of the records.

    Raises:
      UserError: the set is damaged, or is not prepared and cannot be.
    """
    folder = _prepared_folder(name, _root(data_dir))
    if folder is None:
        folder = _prepare_apart(name, data_dir, manual_dir)
    arrays = _load_arrays(folder / _ARRAYS_FILE)
    if arrays is None:
        arrays = _read_records(name, folder)
        with contextlib.suppress(OSError):  # a prepared set may be read-only
            _save_arrays(folder / _ARRAYS_FILE, arrays)
    return arrays


def prepare(
    name: str, data_dir: str | Path | None = None, manual_dir: str | Path | None = None
) -> Path:
    """Prepares a set unless it is there already; returns its folder.

    Loads TensorFlow into this process.

    Args: as `read`.

    Raises:
      UserError: TensorFlow or an original file is missing, a file is damaged, a folder cannot
        be written, or there is no network.
    """
    root = _root(data_dir)
    with _locked(root, name):
        folder = _prepared_folder(name, root)
        if folder is None:
            _generate(name, root, None if manual_dir is None else Path(manual_dir))
            folder = _prepared_folder(name, root)
    read(name, root)  # also keeps the decoded arrays
    return folder


def _root(data_dir: str | Path | None) -> Path:
    """The folder of prepared sets, where TFDS looks for them."""
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return Path(data_dir or default).expanduser()


def _prepared_folder(name: str, root: Path) -> Path | None:
    """Folder of a prepared set's newest version, or None."""
    found = [info.parent for info in root.glob(f"{name}/[0-9]*/dataset_info.json")]
    return max(found, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def _command(name: str, data_dir: str | Path | None, manual_dir: str | Path | None) -> str:
    """The shell command that prepares a set."""
    words = [sys.executable, "-m", "dlstudy.data", "prepare", name]
    if manual_dir is not None:
        words.append(f"--tfds_manual_dir={manual_dir}")
    if data_dir is not None:
        words.append(f"--tfds_data_dir={data_dir}")
    return shlex.join(words)


def _prepare_apart(name: str, data_dir: str | Path | None, manual_dir: str | Path | None) -> Path:
    """Runs `prepare` in a process of its own, so that TensorFlow stays out of this one.

    TensorFlow would take half a gigabyte, print warnings, and claim the GPU that JAX uses.
    """
    root = _root(data_dir)
    if manual_dir is not None and not Path(manual_dir).is_dir():
        raise UserError(f"--tfds_manual_dir={manual_dir}: no such folder")
    if find_spec("tensorflow") is None:
        raise UserError(_without_tensorflow(name, data_dir, manual_dir))
    print(f"preparing {name} in {root}, once ...", file=sys.stderr, flush=True)
    command = shlex.split(_command(name, data_dir, manual_dir))
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    folder = _prepared_folder(name, root)
    if done.returncode or folder is None:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        errors = [line for line in lines if line.startswith("error: ")] or lines
        raise UserError(errors[-1].removeprefix("error: "))
    return folder


def _without_tensorflow(
    name: str, data_dir: str | Path | None, manual_dir: str | Path | None
) -> str:
    # The list lies beside the package in a checkout, not where pip has installed it.
    listed = Path(__file__).resolve().parents[1] / "requirements-tfds.txt"
    cpu_only = sys.platform == "linux" and platform.machine() == "x86_64"
    package = "tensorflow-cpu" if cpu_only else "tensorflow"
    what = ["-r", str(listed)] if listed.is_file() else [package]
    install = shlex.join([sys.executable, "-m", "pip", "install", *what])
    return (
        f"--data={name}: not prepared in {_root(data_dir)}, and preparing it needs TensorFlow; "
        f"run: {install} && {_command(name, data_dir, manual_dir)}"
    )


def _generate(name: str, root: Path, manual_dir: Path | None) -> None:
    """Lets TFDS write the ArrayRecord files."""
    if find_spec("tensorflow") is None:
        raise UserError(_without_tensorflow(name, root, manual_dir))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no start-up notes from TensorFlow,
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # which trains nothing here
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    builder = tfds.builder(name, data_dir=root, file_format="array_record")
    if manual_dir is not None:
        _check_originals(manual_dir, builder.url_infos)
    else:
        _check_network(name, root, next(iter(builder.url_infos)))
    # The three sets' files have the same names, and TFDS would take an unpacked file of
    # another set for this one's: unpack into a folder of its own.
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root) as unpacked:
        try:
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(
                    manual_dir=manual_dir, extract_dir=unpacked, try_download_gcs=False
                )
            )
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"--data={name}: could not be prepared in {root}: {reason}") from error


def _check_originals(folder: Path, url_infos: dict) -> None:
    """Checks original files against the sizes and SHA-256 sums that TFDS knows."""
    if not folder.is_dir():
        raise UserError(f"--tfds_manual_dir={folder}: no such folder")
    for known in url_infos.values():
        path = folder / known.filename
        if not path.is_file():
            names = ", ".join(sorted(info.filename for info in url_infos.values()))
            raise UserError(f"--tfds_manual_dir={folder}: needs the files {names}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != known.checksum:
            raise UserError(f"--tfds_manual_dir={folder}: {path} is damaged or of another data set")


def _check_network(name: str, root: Path, url: str) -> None:
    """Asks for the address once: TFDS itself tries for minutes before it gives up."""
    import requests

    try:
        requests.head(url, timeout=20)
    except requests.RequestException as error:
        raise UserError(
            f"--data={name}: not prepared in {root}, and {url} cannot be reached; with the "
            f"original files in FOLDER run: {_command(name, root, 'FOLDER')}"
        ) from error


@contextlib.contextmanager
def _locked(root: Path, name: str) -> Iterator[None]:
    """Holds a lock on one set in a folder, so that only one process at a time prepares it."""
    import fcntl

    try:
        root.mkdir(parents=True, exist_ok=True)
        file = open(root / f".{name}.lock", "w")  # noqa: SIM115, closed below
    except OSError as error:
        raise UserError(f"--tfds_data_dir={root}: cannot be written ({error.strerror})") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read_records(name: str, folder: Path) -> Arrays:
    """Decodes every record of a prepared set."""
    import tensorflow_datasets as tfds
    from PIL import Image

    arrays = {}
    for split, size in _SIZES.items():
        try:
            builder = tfds.builder_from_directory(folder)
            # Pillow on the raw bytes takes a third of the time of TFDS's own decoding.
            skip = {"image": tfds.decode.SkipDecoding()}
            records = builder.as_data_source(split, decoders=skip)
            images, labels = [], []
            for start in range(0, len(records), 10_000):
                stop = min(start + 10_000, len(records))
                for record in records.__getitems__(list(range(start, stop))):
                    images.append(np.asarray(Image.open(io.BytesIO(record["image"]))))
                    labels.append(record["label"])
            x, y = np.stack(images)[..., None], np.array(labels, np.uint8)
            if x.shape != (size, 28, 28, 1) or x.dtype != np.uint8:
                raise ValueError(f"{x.dtype}{x.shape} is not {size} images of 28 x 28 bytes")
        except NotImplementedError as error:
            raise UserError(
                f"--data={name}: {folder} is not in ArrayRecord format; "
                "give another --tfds_data_dir, where it will be prepared anew"
            ) from error
        except Exception as error:  # the readers raise what they please
            reason = " ".join(str(error).split())
            raise UserError(
                f"--data={name}: the {split} records in {folder} cannot be read ({reason}); "
                "if they are damaged, delete the folder and they will be prepared anew"
            ) from error
        arrays |= {f"{split}_x": x, f"{split}_y": y}
    return arrays


def _save_arrays(path: Path, arrays: Arrays) -> None:
    """Writes the arrays so that the file is whole or absent."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        try:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _load_arrays(path: Path) -> Arrays | None:
    """The saved arrays; None if there are none or they fail their CRC-32 (they are a copy)."""
    try:
        with np.load(path) as file:
            return {f"{split}_{part}": file[f"{split}_{part}"] for split in _SIZES for part in "xy"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
