"""Molecules: read from a wheel or a folder, and split as MOSES is."""

import gzip
import zipfile

import numpy as np
import pytest

from benchmarks.tasks.molecules import TEST, TRAIN, molecules
from tests.helpers import says

FILES = {TRAIN: ["CCO", "c1cc1N"] * 30, TEST: ["CCBr"] * 30}


def packed(lines, header="SMILES"):
    # Without the time, which would make the name of a test another in every process.
    return gzip.compress("\n".join([header, *lines]).encode(), mtime=0)


def in_folder(path, **changed):
    for name, lines in FILES.items():
        (path / name).write_bytes(changed.get(name.split(".")[0], packed(lines)))
    return path


def in_wheel(path):
    wheel = path / "molsets-0.3.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as files:
        for name, lines in FILES.items():
            files.writestr(f"moses/dataset/data/{name}", packed(lines))
    return wheel


@pytest.mark.parametrize("kind", ["folder", "wheel", "folder of the wheel"])
def test_what_is_read(kind, tmp_path):
    path = in_folder(tmp_path) if kind == "folder" else in_wheel(tmp_path)
    path = tmp_path if kind == "folder of the wheel" else path
    data = molecules(path, 5, num_train=50, num_test=20)
    assert data.num_classes == len(set("\nCOc1N")) + 1
    assert data.x_train.shape == data.y_train.shape == (50, 5)
    np.testing.assert_array_equal(data.x_train[:, 1:], data.y_train[:, :-1])
    assert data.x_train.min() == 1 and data.x_test.min() == 0  # Br is in the test only


def test_validation_is_of_the_training_set(tmp_path):
    data = molecules(in_wheel(tmp_path), 5, validation=True, num_train=9, num_test=9)
    assert data.x_test.min() == 1


@pytest.mark.parametrize(
    ("train", "says_so"),
    [
        (b"CCO", "gzipped"),
        (packed(["CCO"], "smiles"), "header"),
        (packed([]), "header"),
        (gzip.compress(b"", mtime=0), "gzipped"),
    ],
)
def test_what_is_refused(train, says_so, tmp_path):
    with pytest.raises(ValueError, match=says(TRAIN, says_so)):
        molecules(in_folder(tmp_path, train=train), 5)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match=says("must hold", "molsets", "neither")):
        molecules(tmp_path, 5)


def test_a_wheel_without_the_files_is_refused(tmp_path):
    wheel = tmp_path / "molsets-0.wheel.whl"
    with zipfile.ZipFile(wheel, "w") as files:
        files.writestr("moses/x", b"")
    with pytest.raises(ValueError, match="once"):
        molecules(wheel, 5)
