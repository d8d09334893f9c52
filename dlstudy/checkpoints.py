"""Files that are either whole or absent, and checkpoints that know when they are damaged.

A checkpoint is one line of text, then a NumPy `.npz` archive:

    dlstudy checkpoint 1 sha256=<64 hexadecimal digits> bytes=<length of the archive>

The archive holds the leaves of the state (`state/<path in the pytree>`), the rows stacked over
epochs (`rows/<name>`), and `meta`, a JSON object. Nothing is restored before the digest of the
archive has been compared: a flipped bit makes the file unusable instead of wrong.
"""

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAGIC = re.compile(rb"dlstudy checkpoint 1 sha256=([0-9a-f]{64}) bytes=(\d+)\n")
KEEP = 2


class DamagedError(RuntimeError):
    """Something in a run folder is missing, damaged or does not fit; one line says what."""


# ---------------------------------------------------------------------------- whole files


def sync_folder(folder: Path) -> None:
    """Makes renames and new names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, *chunks: bytes | memoryview | str) -> None:
    """Writes a file so that at any moment `path` is the old file or the whole new one.

    The temporary file `.<name>.tmp` beside it is left behind only by a process that was killed;
    see `remove_temporary`.

    Raises:
        OSError: the disk is full, or the folder cannot be written; `path` is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            for chunk in chunks:
                file.write(chunk.encode() if isinstance(chunk, str) else chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_temporary(folder: Path) -> None:
    """Removes what killed processes left half written anywhere in `folder`."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


# ---------------------------------------------------------------------------- one checkpoint


class Checkpoint(NamedTuple):
    meta: dict[str, Any]  # "stage", "next_epoch", "finished"
    leaves: dict[str, np.ndarray]  # state, by path in the pytree
    rows: list[dict[str, np.ndarray]]


def _named_leaves(tree: Any) -> dict[str, Any]:
    import jax

    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _is_key(leaf: Any) -> bool:
    import jax

    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def write_checkpoint(
    path: Path, meta: Mapping[str, Any], state: Any, rows: Sequence[Mapping[str, np.ndarray]]
) -> None:
    """Writes state and rows atomically, with their SHA-256.

    Args:
        path: the file.
        meta: JSON values that travel with it.
        state: pytree of numpy or jax arrays (typed random keys too), or None.
        rows: dictionaries of arrays, all with the same names, shapes and dtypes.

    Raises:
        ValueError: the rows differ in names or shapes.
        OSError: the file cannot be written.
    """
    import jax

    arrays, keys, dtypes = {}, {}, {}
    for name, leaf in _named_leaves(state).items():
        if _is_key(leaf):
            keys[name] = str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
        leaf = np.asarray(leaf)
        dtypes[name] = leaf.dtype.name  # .npz forgets the names of bfloat16 and its kin
        arrays[f"state/{name}"] = leaf
        if arrays[f"state/{name}"].dtype.hasobject:
            raise TypeError(f"the state's leaf {name} is not an array of numbers")
    names = rows[0].keys() if rows else ()
    if any(row.keys() != names for row in rows):
        raise ValueError("the rows of one stage must have the same names")
    for name in names:
        arrays[f"rows/{name}"] = np.stack([np.asarray(row[name]) for row in rows])
    meta = {**meta, "rows": len(rows), "keys": keys, "dtypes": dtypes}
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)

    archive = io.BytesIO()
    np.savez(archive, **arrays)
    body = archive.getbuffer()
    digest = hashlib.sha256(body).hexdigest()
    header = f"dlstudy checkpoint 1 sha256={digest} bytes={len(body)}\n"
    write_atomic(path, header, body)


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        DamagedError: the file is not the one that was written.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    header = MAGIC.match(content)
    if not header:
        raise DamagedError("its first line is damaged")
    body = memoryview(content)[header.end() :]
    if len(body) != int(header[2]):
        raise DamagedError(f"it holds {len(body)} bytes instead of {int(header[2])}")
    if hashlib.sha256(body).hexdigest() != header[1].decode():
        raise DamagedError("its SHA-256 is not the one written in it")
    with np.load(io.BytesIO(body), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    meta = json.loads(arrays.pop("meta").tobytes())
    leaves = {
        name.removeprefix("state/"): array
        for name, array in arrays.items()
        if name.startswith("state/")
    }
    stacked = {
        name.removeprefix("rows/"): array
        for name, array in arrays.items()
        if name.startswith("rows/")
    }
    rows = [{name: array[i, ...] for name, array in stacked.items()} for i in range(meta["rows"])]
    return Checkpoint(meta, leaves, rows)


def fill_template(template: Any, checkpoint: Checkpoint) -> Any:
    """The state of a checkpoint in the structure, dtypes and placement of a template.

    Args:
        template: pytree of numpy arrays, jax arrays or `jax.ShapeDtypeStruct`. Numpy arrays come
            back as numpy arrays, everything else as jax arrays; a jax array that was put on
            devices on purpose comes back on the same ones.
        checkpoint: what `read_checkpoint` returned.

    Raises:
        DamagedError: the state has other leaves, shapes or dtypes than the template.
    """
    import jax

    wanted = _named_leaves(template)
    if wanted.keys() != checkpoint.leaves.keys():
        odd = sorted(wanted.keys() ^ checkpoint.leaves.keys())
        raise DamagedError(f"it holds another kind of state (see {', '.join(odd[:3])})")
    leaves = []
    with jax.enable_x64(True):  # else float64 leaves would come back as float32
        for name, like in wanted.items():
            value = checkpoint.leaves[name].view(_dtype(checkpoint.meta["dtypes"][name]))
            if name in checkpoint.meta["keys"]:
                value = jax.random.wrap_key_data(value, impl=checkpoint.meta["keys"][name])
            if value.shape != np.shape(like) or value.dtype != _dtype_of(like):
                raise DamagedError(
                    f"its {name} is {value.dtype}{list(value.shape)} "
                    f"where this program has {_dtype_of(like)}{list(np.shape(like))}"
                )
            if isinstance(like, jax.Array) and like.committed:
                value = jax.device_put(value, like.sharding)
            elif not isinstance(like, np.ndarray | np.generic | int | float):
                value = jax.numpy.asarray(value)
            leaves.append(value)
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _dtype(name: str) -> np.dtype:
    import jax

    return jax.numpy.dtype(name)


def _dtype_of(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


# ---------------------------------------------------------------------------- one stage


class StageFiles:
    """The checkpoints of one stage: `epoch-<n>.ckpt`, the last two, or `finished.ckpt`.

    Args:
        folder: where they lie; made when the first one is written.
        epochs: how many epochs the stage has.
        log: is told of every damaged file.
    """

    def __init__(self, folder: Path, epochs: int, log: Callable[[str], None]):
        self.folder, self.epochs, self.log = folder, epochs, log

    def restore(self, template: Any) -> tuple[int, Any, list[dict[str, np.ndarray]]] | None:
        """See `dlstudy.host.StageHost.restore`.

        Damaged files are named in the log, removed, and passed over.

        Raises:
            DamagedError: a file is whole but does not fit the template.
        """
        finished = self.folder / "finished.ckpt"
        for path in [*([finished] if finished.exists() else []), *reversed(self._epoch_files())]:
            try:
                checkpoint = read_checkpoint(path)
            except DamagedError as error:
                self.log(f"{self._name(path)} is damaged ({error}); going back to the one before")
                path.unlink()
                continue
            try:
                state = None if path == finished else fill_template(template, checkpoint)
            except DamagedError as error:
                raise DamagedError(
                    f"{self._name(path)}: {error}; was the code changed? Start a new run"
                ) from error
            return checkpoint.meta["next_epoch"], state, checkpoint.rows
        return None

    def save(self, epoch: int, state: Any, rows: Sequence[Mapping[str, np.ndarray]]) -> None:
        """See `dlstudy.host.StageHost.save`."""
        self._write(f"epoch-{epoch + 1:06d}.ckpt", epoch + 1, state, rows)
        for path in self._epoch_files()[:-KEEP]:
            path.unlink()

    def finish(self, rows: Sequence[Mapping[str, np.ndarray]]) -> None:
        """See `dlstudy.host.StageHost.finish`."""
        self._write("finished.ckpt", self.epochs, None, rows)
        for path in self._epoch_files():
            path.unlink()

    def _write(self, name: str, next_epoch: int, state: Any, rows: Any) -> None:
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            sync_folder(self.folder.parent)
        meta = {"stage": self.folder.name, "next_epoch": next_epoch}
        write_checkpoint(self.folder / name, meta, state, rows)

    def _epoch_files(self) -> list[Path]:
        return sorted(self.folder.glob("epoch-*.ckpt"))

    def _name(self, path: Path) -> str:
        return "/".join(path.parts[-3:])
