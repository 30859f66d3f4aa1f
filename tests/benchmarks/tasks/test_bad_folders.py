"""Folders of data that must be refused, each in one line that names what is wrong."""

import gzip
import io
import pickle
import re

import numpy as np
import pytest

from benchmarks import demo
from benchmarks.tasks import cifar, folder, idx
from tests.benchmarks.helpers import (
    errors_of,
    idx_bytes,
    write_batch,
    write_cifar10,
    write_cifar100,
    write_mnist,
)

TRAIN, TRAIN_LABELS, TEST, TEST_LABELS = idx.NAMES
IMAGES = np.arange(20 * 28 * 28).reshape(20, 28, 28) % 256


def replaced(name, content):
    """A tiny MNIST in which one file holds something else."""

    def write(path):
        write_mnist(path)
        (path / name).write_bytes(content)

    return write


def with_array(name, array):
    return replaced(name, idx_bytes(np.asarray(array)))


def gzipped(name, content):
    """As `replaced`, in a gzipped tiny MNIST."""

    def write(path):
        write_mnist(path, compress=True)
        (path / f"{name}.gz").write_bytes(content)

    return write


def with_header(name, lengths, content=b""):
    header = bytes([0, 0, 8, len(lengths)]) + np.array(lengths, ">u4").tobytes()
    return replaced(name, header + content)


def batch(values, name="test_batch"):
    """A tiny CIFAR-10 in which one batch is a pickle of something else."""

    def write(path):
        write_cifar10(path)
        raw = values if isinstance(values, bytes) else pickle.dumps(values, protocol=2)
        (path / name).write_bytes(raw)

    return write


def pixels(number, dtype=np.uint8, width=3072):
    return (np.arange(number * width).reshape(number, width) % 256).astype(dtype)


def labels100(path):
    write_cifar100(path)
    write_batch(path / "train", [7, 100, 3], "fine_labels")


def coarse_only(path):
    write_cifar100(path)
    write_batch(path / "test", [1, 2], "coarse_labels")


def missing(path):
    path.rmdir()


def only(*names):
    def write(path):
        for name in names:
            (path / name).touch()

    return write


def without(name):
    def write(path):
        write_mnist(path)
        (path / name).unlink()

    return write


def two_below(path):
    write_mnist(path / "one")
    write_mnist(path / "two")


def two_kinds(path):
    write_mnist(path)
    write_cifar10(path)


def a_folder_as_file(path):
    write_mnist(path)
    (path / TRAIN).unlink()
    (path / TRAIN).mkdir()


def bomb():
    """A header that promises what a gzip file of 20 kB then exceeds."""
    raw = io.BytesIO()
    with gzip.GzipFile(fileobj=raw, mode="wb") as file:
        file.write(bytes([0, 0, 8, 3]) + np.array([20, 28, 28], ">u4").tobytes())
        file.write(bytes(20_000_000))
    return raw.getvalue()


GZIP = gzip.compress(idx_bytes(IMAGES), mtime=0)
LABELS = np.arange(20) % 10
BAD = {
    "missing": (missing, "must be a folder that exists"),
    "empty": (only(), "nothing in it"),
    "something else": (only("notes.txt"), "got .*notes.txt"),
    "only one file": (only(TRAIN), f"got .*{TRAIN}"),
    "no test labels": (without(TEST_LABELS), "must hold IDX files"),
    "only four batches": (only(*cifar.TRAIN10[:4], "test_batch"), "must hold IDX"),
    "gzipped batches": (only(*(f"{n}.gz" for n in cifar.NAMES10)), "must hold IDX"),
    "two data sets below": (two_below, "must hold one data set, got 2"),
    "two kinds": (two_kinds, "must hold one data set, got 2"),
    "a folder as a file": (a_folder_as_file, f"{TRAIN} must be a file"),
    "empty images": (replaced(TRAIN, b""), "3 axes.*got b'' and 0 bytes"),
    "no IDX": (replaced(TRAIN, b"no IDX but some text"), "must be an IDX file"),
    "half a header": (replaced(TRAIN, b"\0\0\x08\3\0\0"), "and 6 bytes of a header"),
    "floats": (replaced(TRAIN, b"\0\0\x0d\3" + bytes(12)), "must be an IDX file"),
    "labels as images": (with_array(TRAIN, LABELS), "with 3 axes"),
    "images as labels": (with_array(TRAIN_LABELS, IMAGES), "with 1 axes"),
    "no images": (with_header(TRAIN, [0, 28, 28]), "0 x 28 x 28"),
    "a byte too few": (replaced(TRAIN, idx_bytes(IMAGES)[:-1]), "15,680 .*got 15,679"),
    "a byte too many": (replaced(TRAIN, idx_bytes(IMAGES) + b"\0"), "got more"),
    "a huge header": (with_header(TRAIN, [2**32 - 1] * 3), "4,294,967,295 x"),
    "a large header": (with_header(TRAIN, [300_000, 28, 28]), "300,000 x 28 x 28"),
    "a header that lies": (with_header(TEST, [50_000, 28, 28], bytes(9)), "got 9"),
    "too many labels": (with_array(TRAIN_LABELS, [*LABELS, 0]), "got 21 labels"),
    "too few test labels": (with_array(TEST_LABELS, LABELS[:9]), "got 9 labels"),
    "a label out of range": (with_array(TRAIN_LABELS, [*LABELS[:-1], 255]), "got 0, 1"),
    "one class": (with_array(TRAIN_LABELS, np.zeros(20)), "two labels.*got 0"),
    "a class missing": (with_array(TRAIN_LABELS, LABELS // 2 * 2), "got 0, 2, 4, 6, 8"),
    "a class of the test": (with_array(TEST_LABELS, [*LABELS[:9], 11]), "got 11"),
    "other test images": (with_array(TEST, IMAGES[:10, :, :27]), "28 x 28.*28 x 27"),
    "tiny images": (with_array(TRAIN, IMAGES[:, :4, :4]), "8 to 512 .*got 4 x 4"),
    "huge images": (with_array(TRAIN, np.ones((20, 8, 600))), "got 8 x 600"),
    "black images": (with_array(TRAIN, 0 * IMAGES), "only pixels of 0"),
    "white test images": (with_array(TEST, 0 * IMAGES[:10] + 255), "pixels of 255"),
    "half a gzip file": (gzipped(TRAIN, GZIP[: len(GZIP) // 2]), "ends early"),
    "no end of a gzip file": (gzipped(TRAIN, GZIP[:-4]), "ends early"),
    "a gzip file that is broken": (
        gzipped(TRAIN, GZIP[:40] + bytes([GZIP[40] ^ 255]) + GZIP[41:]),
        "broken one|ends early|header",
    ),
    "a wrong checksum": (
        gzipped(TRAIN, GZIP[:-8] + b"\1\2\3\4" + GZIP[-4:]),
        "broken one",
    ),
    "a gzip bomb": (gzipped(TRAIN, bomb()), "15,680 bytes .*got more"),
    "two gzip files": (gzipped(TRAIN, GZIP + GZIP), "after its end"),
    "an empty batch": (batch(b""), "test_batch must be a pickled dictionary"),
    "half a batch": (batch(pickle.dumps({b"data": pixels(2)})[:99]), "broken pickle"),
    "a list": (batch([1, 2]), "no dictionary"),
    "no images in it": (batch({"labels": [1]}), "under 'data', got none"),
    "no labels in it": (batch({"data": pixels(2)}), "under 'labels', got NoneType"),
    "labels as text": (batch({"data": pixels(2), "labels": "12"}), "got str"),
    "labels of text": (batch({"data": pixels(1), "labels": ["1"]}), "whole numbers"),
    "yes and no": (batch({"data": pixels(1), "labels": [True]}), "whole numbers"),
    "a label less": (batch({"data": pixels(2), "labels": [1]}), "got 1 labels"),
    "label 10 of 10": (batch({"data": pixels(1), "labels": [10]}), "0 to 9, got 10"),
    "label -1": (batch({"data": pixels(1), "labels": [-1]}), "0 to 9, got -1"),
    "grey images": (
        batch({"data": pixels(2, width=1024), "labels": [1, 2]}),
        r"\(images, 3072\) under 'data', got one of shape \(2, 1024\)",
    ),
    "no pictures at all": (
        batch({"data": pixels(0), "labels": []}),
        "the name __builtin__.bytes",
    ),
    "black pictures": (batch({"data": 0 * pixels(1), "labels": [1]}), "pixels of 0"),
    "floats with NaN": (
        batch({"data": pixels(1, np.float32) * np.nan, "labels": [1]}),
        "an array of 'f4', not of bytes",
    ),
    "label 100 of 100": (labels100, "train must hold labels from 0 to 99, got 100"),
    "coarse labels only": (coarse_only, "under 'fine_labels', got NoneType"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_folder_is_refused_in_one_line(name, tmp_path, capsys):
    write, message = BAD[name]
    path, out = tmp_path / "data", tmp_path / "out"
    path.mkdir()
    write(path)
    line, code = errors_of(demo.main, ["--data", path, "--out", out], capsys)
    assert code == 2
    assert line.startswith("error: argument --data: ")
    assert not out.exists()
    assert re.search(message, line), line


def test_there_are_enough_bad_folders():
    print(f"{len(BAD)} bad folders of data")
    assert len(BAD) >= 40


def test_the_tiny_folders_are_good(tmp_path):
    for write in (write_mnist, write_cifar10, write_cifar100):
        write(tmp_path / write.__name__)
        assert len(folder.load(tmp_path / write.__name__).y_test)
