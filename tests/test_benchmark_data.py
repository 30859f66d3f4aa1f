"""Benchmarks' data: loaders on tiny files, splits, and the stream of examples."""

import pickle

import numpy as np
import pytest

from benchmarks import data, demo
from tests.benchmark_helpers import write_mnist

RNG = np.random.default_rng(0)


def write_cifar(path, labels, key):
    images = RNG.integers(0, 256, (len(labels), 3072), np.uint8)
    path.write_bytes(pickle.dumps({b"data": images, key: list(labels)}, protocol=2))
    return images


@pytest.mark.parametrize("compress", [False, True])
def test_idx_files_load_gzipped_or_not_and_one_level_down(tmp_path, compress):
    images, labels, _, test_labels = write_mnist(tmp_path / "raw", compress)
    dataset = data.load(tmp_path)
    assert dataset.num_classes == 10
    assert dataset.x_train.shape == (20, 28, 28, 1)
    assert dataset.x_test.shape == (10, 28, 28, 1)
    np.testing.assert_array_equal(dataset.y_train, labels)
    np.testing.assert_array_equal(dataset.y_test, test_labels)
    np.testing.assert_allclose(dataset.x_train.mean(), 0, atol=1e-5)
    expected = (images - images.mean()) / images.std()
    np.testing.assert_allclose(dataset.x_train[..., 0], expected, rtol=1e-3, atol=1e-4)


def test_cifar10_batches_load(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*data.CIFAR10_TRAIN, "test_batch"):
        images = write_cifar(folder / name, range(4), b"labels")
    dataset = data.load(tmp_path)
    assert (dataset.name, dataset.num_classes) == ("CIFAR-10", 10)
    assert dataset.x_train.shape == (20, 32, 32, 3)
    # A row holds the red plane, then the green, then the blue one.
    red = images[0, :1024].reshape(32, 32).astype(float)
    np.testing.assert_allclose(np.corrcoef(dataset.x_test[0, ..., 0].flat, red.flat), 1)


def test_cifar100_loads_its_fine_labels(tmp_path):
    for name in ("train", "test"):
        write_cifar(tmp_path / name, [7, 99, 3], b"fine_labels")
    (tmp_path / "meta").touch()
    dataset = data.load(tmp_path)
    assert (dataset.name, dataset.num_classes) == ("CIFAR-100", 100)
    assert dataset.y_test.tolist() == [7, 99, 3]


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"must hold IDX files .*got .*notes\.txt"):
        data.load(tmp_path)
    with pytest.raises(ValueError, match="nothing in it"):
        data.load(tmp_path / "missing")
    with pytest.raises(SystemExit, match="error: The data folder must hold"):
        demo.main(["--data", str(tmp_path)])


def test_a_pickle_that_is_no_array_is_refused(tmp_path):
    for name in (*data.CIFAR10_TRAIN, "test_batch"):
        (tmp_path / name).write_bytes(pickle.dumps({b"data": print}))
    with pytest.raises(ValueError, match=r"must hold arrays only, got .*print"):
        data.load(tmp_path)


def test_broken_idx_files_are_refused(tmp_path):
    write_mnist(tmp_path / "a", compress=False)
    path = tmp_path / "a" / data.IDX_NAMES[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="must hold"):
        data.load(tmp_path)
    path.write_bytes(b"no IDX")
    with pytest.raises(ValueError, match="must be an IDX file"):
        data.load(tmp_path)


def test_subsets_are_the_same_every_time(tmp_path):
    write_mnist(tmp_path / "a", compress=False)
    first, second = (data.load(tmp_path, max_train=7, max_test=4) for _ in range(2))
    assert first.x_train.shape[0] == 7
    assert first.x_test.shape[0] == 4
    np.testing.assert_array_equal(first.y_train, second.y_train)


def test_digits_are_split_by_class_and_folds_leave_the_test_set_out():
    digits = data.load()
    shares = np.bincount(digits.y_test) / np.bincount(digits.y_train)
    np.testing.assert_allclose(shares, 0.25, atol=0.01)
    folds = data.folds(digits, 5)
    assert sum(len(fold.y_test) for fold in folds) == len(digits.y_train)


def test_the_index_stream_loses_nothing_and_starts_anywhere():
    stream = data.index_stream(10, seed=3, start=0, stop=35)
    for epoch in range(3):
        assert sorted(stream[10 * epoch : 10 * epoch + 10]) == list(range(10))
    np.testing.assert_array_equal(data.index_stream(10, 3, 17, 35), stream[17:])
    assert not np.array_equal(stream, data.index_stream(10, 4, 0, 35))
