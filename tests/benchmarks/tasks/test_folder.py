"""Folders: data sets on tiny files, wherever they are and however they are packed."""

import numpy as np
import pytest

from benchmarks.tasks import cifar, folder
from tests.benchmarks.helpers import (
    write_batch,
    write_cifar10,
    write_cifar100,
    write_mnist,
)


@pytest.mark.parametrize("compress", [False, True])
def test_idx_files_load_gzipped_or_not_and_one_level_down(tmp_path, compress):
    images, labels, _, test_labels = write_mnist(tmp_path / "raw", compress)
    dataset = folder.load(tmp_path)
    assert (dataset.name, dataset.num_classes) == (tmp_path.name, 10)
    assert dataset.x_train.shape == (20, 28, 28, 1)
    assert dataset.x_test.shape == (10, 28, 28, 1)
    np.testing.assert_array_equal(dataset.y_train, labels)
    np.testing.assert_array_equal(dataset.y_test, test_labels)
    np.testing.assert_allclose(dataset.x_train.mean(), 0, atol=1e-5)
    expected = (images - images.mean()) / images.std()
    np.testing.assert_allclose(dataset.x_train[..., 0], expected, rtol=1e-3, atol=1e-4)


def test_cifar10_batches_load(tmp_path):
    images = write_cifar10(tmp_path / "cifar-10-batches-py")
    dataset = folder.load(tmp_path)
    assert (dataset.name, dataset.num_classes) == ("CIFAR-10", 10)
    assert dataset.x_train.shape == (20, 32, 32, 3)
    # A row holds the red plane, then the green, then the blue one.
    red = images[0, :1024].reshape(32, 32).astype(float)
    np.testing.assert_allclose(np.corrcoef(dataset.x_test[0, ..., 0].flat, red.flat), 1)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_cifar10_loads_from_every_protocol_that_numpy_is_pickled_with(
    tmp_path, protocol
):
    write_cifar10(tmp_path)
    before = folder.load(tmp_path)
    images = write_batch(tmp_path / "test_batch", range(4), protocol=protocol)
    dataset = folder.load(tmp_path)
    np.testing.assert_array_equal(dataset.x_train, before.x_train)
    one = dataset.x_test[..., 2].ravel()
    planes = images.reshape(4, 3, 1024)[:, 2].ravel().astype(float)
    np.testing.assert_allclose(np.corrcoef(one, planes), 1)


def test_cifar100_loads_its_fine_labels(tmp_path):
    write_cifar100(tmp_path)
    dataset = folder.load(tmp_path)
    assert (dataset.name, dataset.num_classes) == ("CIFAR-100", 100)
    assert dataset.y_test.tolist() == [7, 99, 3]


def test_batches_as_python_2_wrote_them_load(tmp_path):
    """Protocol 2 with byte strings, and the array's content among them."""
    pixels = bytes(range(256)) * 12
    head = b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03"
    labels = b"U\x06labelsq\x04]q\x05K\x06aU\x04dataq\x06"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85"
        b"U\x01b\x87Rq\t(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01"
        b"\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + len(pixels).to_bytes(4, "little") + pixels + b"tb"
    )
    tail = b"U\tfilenamesq\x0c]q\x0dU\x10some_image_1.pnga" + b"u."
    raw = head + labels + array + tail
    for name in cifar.NAMES10:
        (tmp_path / name).write_bytes(raw)
    dataset = folder.load(tmp_path)
    assert dataset.y_train.tolist() == [6] * 5
    red = np.arange(1024).reshape(32, 32) % 256
    np.testing.assert_allclose(np.corrcoef(dataset.x_test[0, ..., 0].flat, red.flat), 1)


def test_subsets_are_the_same_every_time(tmp_path):
    write_mnist(tmp_path / "a")
    first, second = (folder.load(tmp_path, max_train=7, max_test=4) for _ in range(2))
    assert first.x_train.shape[0] == 7
    assert first.x_test.shape[0] == 4
    np.testing.assert_array_equal(first.y_train, second.y_train)
