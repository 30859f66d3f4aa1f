"""IDX: the files of MNIST and its relatives, checked before anything is allocated."""

import math
import struct
from pathlib import Path

import numpy as np

from benchmarks.tasks import files
from benchmarks.tasks.dataset import Arrays

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
# Sides that a network of this project can take, and pages of memory can hold.
SIDES = range(8, 513)


def read_folder(folder: Path) -> tuple[Arrays, Arrays, int]:
    """Reads the four files.

    Args:
      folder: that holds them, each with or without `.gz`.

    Returns:
      Training images and labels, those of the test, and the number of classes.

    Raises:
      ValueError: if a file is not what its name says, or does not fit the others.
    """
    paths = [path_of(folder, name) for name in NAMES]
    arrays = [read(path, 3 if "images" in path.name else 1) for path in paths]
    train, test = _pair(paths, arrays, 0), _pair(paths, arrays, 2)
    _check_images(paths[0], train[0], paths[2], test[0])
    return train, test, _num_classes(paths[1], train[1], paths[3], test[1])


def path_of(folder: Path, name: str) -> Path:
    """The file of that name, or the gzipped one."""
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"


def read(path: Path, ndim: int) -> np.ndarray:
    """Reads one file of unsigned bytes; images get a channel.

    Args:
      path: of the file.
      ndim: how many axes it must have: 3 for images, 1 for labels.
    """
    size = 4 + 4 * ndim
    header = files.read(path, size)
    if len(header) < size or header[:4] != bytes([0, 0, 8, ndim]):
        raise ValueError(
            f"{path} must be an IDX file of bytes with {ndim} axes, which begins with "
            f"{bytes([0, 0, 8, ndim])!r}, got {header[:4]!r} and {len(header)} bytes "
            "of a header."
        )
    shape = struct.unpack(f">{ndim}I", header[4:])
    expected = math.prod(shape)
    if expected == 0 or size + expected > files.MAX_BYTES:
        raise ValueError(
            f"{path} must hold 1 to {files.MAX_BYTES - size:,} bytes after its header, "
            f"got a header that says {_times(shape)} of them."
        )
    # One byte more than there should be, to see whether there are more.
    raw = files.read(path, size + expected + 1)
    if len(raw) != size + expected:
        got = "more" if len(raw) > size + expected else f"{len(raw) - size:,}"
        raise ValueError(
            f"{path} must hold the {_times(shape)} = {expected:,} bytes that its "
            f"header says, got {got}: copy it again."
        )
    array = np.frombuffer(raw, np.uint8, offset=size).reshape(shape)
    return array[..., None] if ndim == 3 else array


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{length:,}" for length in shape)


def _pair(paths: list[Path], arrays: list[np.ndarray], first: int) -> Arrays:
    images, labels = arrays[first : first + 2]
    if len(images) != len(labels):
        raise ValueError(
            f"{paths[first + 1]} must hold a label for each of the {len(images):,} "
            f"images of {paths[first].name}, got {len(labels):,} labels."
        )
    return images, labels


def _check_images(
    train_path: Path, train: np.ndarray, test_path: Path, test: np.ndarray
) -> None:
    sides = train.shape[1:3]
    if not all(side in SIDES for side in sides):
        raise ValueError(
            f"{train_path} must hold images of {SIDES.start} to {SIDES.stop - 1} "
            f"pixels a side, got {_times(sides)}."
        )
    if test.shape[1:3] != sides:
        raise ValueError(
            f"{test_path} must hold images of {_times(sides)} pixels, as "
            f"{train_path.name} does, got {_times(test.shape[1:3])}."
        )
    for path, images in ((train_path, train), (test_path, test)):
        if images.min() == images.max():
            raise ValueError(
                f"{path} must hold images that differ, got only pixels of "
                f"{images.min()}."
            )


def _num_classes(
    train_path: Path, train: np.ndarray, test_path: Path, test: np.ndarray
) -> int:
    """The number of classes, of which a label out of range would make too many."""
    found = np.unique(train)
    first, last = int(found[0]), int(found[-1])
    if first > 1 or len(found) < 2 or len(found) != last - first + 1:
        raise ValueError(
            f"{train_path} must hold at least two labels, every one from 0 or 1 up to "
            f"the last, got {_few(found)}."
        )
    unknown = np.setdiff1d(test, found)
    if len(unknown):
        raise ValueError(
            f"{test_path} must hold labels of {train_path.name}, {first} to {last}, "
            f"got {_few(unknown)} as well."
        )
    return last + 1


def _few(values: np.ndarray) -> str:
    shown = ", ".join(map(str, values[:12].tolist()))
    return f"{shown}, ..." if len(values) > 12 else shown
