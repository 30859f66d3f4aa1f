"""CIFAR: the python batches of CIFAR-10 and CIFAR-100, checked as they are read."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tasks import files, pickles
from benchmarks.tasks.dataset import Arrays

TRAIN10 = tuple(f"data_batch_{i}" for i in range(1, 6))
NAMES10 = (*TRAIN10, "test_batch")
NAMES100 = ("train", "test", "meta")
# Red, green and blue planes of 32 x 32.
PIXELS = 3 * 32 * 32


def read_folder10(folder: Path) -> tuple[Arrays, Arrays, int]:
    """Training set, test set and number of classes of CIFAR-10."""
    train = [_read(folder / name, "labels", 10) for name in TRAIN10]
    images, labels = (np.concatenate(parts) for parts in zip(*train, strict=True))
    return (images, labels), _read(folder / "test_batch", "labels", 10), 10


def read_folder100(folder: Path) -> tuple[Arrays, Arrays, int]:
    """Training set, test set and number of fine classes of CIFAR-100."""
    train, test = (
        _read(folder / name, "fine_labels", 100) for name in ("train", "test")
    )
    return train, test, 100


def _read(path: Path, key: str, num_classes: int) -> Arrays:
    """Images `(examples, 32, 32, 3)` and labels of one batch."""
    try:
        batch = pickles.parse(files.read(path))
    except pickles.NotPlain as error:
        raise ValueError(
            f"{path} must be a pickled dictionary of bytes, numbers and one array of "
            f"bytes, as CIFAR's python batches are, got {error}."
        ) from error
    images, labels = batch.get("data"), batch.get(key)
    _check(path, images, key, labels, num_classes)
    planes = np.asarray(images).reshape(-1, 3, 32, 32)
    return planes.transpose(0, 2, 3, 1), np.array(labels, np.int64)


def _check(path: Path, images: Any, key: str, labels: Any, num_classes: int) -> None:
    shape = getattr(images, "shape", ())
    if len(shape) != 2 or shape[1] != PIXELS or not shape[0]:
        raise ValueError(
            f"{path} must hold an array of bytes of shape (images, {PIXELS}) under "
            f"'data', got {f'one of shape {shape}' if shape else 'none'}."
        )
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError(
            f"{path} must hold a list of whole numbers under {key!r}, got "
            f"{type(labels).__name__}."
        )
    if len(labels) != len(images):
        raise ValueError(
            f"{path} must hold a label for each of its {len(images):,} images, got "
            f"{len(labels):,} labels."
        )
    wrong = [label for label in labels if not 0 <= label < num_classes]
    if wrong:
        raise ValueError(
            f"{path} must hold labels from 0 to {num_classes - 1}, got {wrong[0]}."
        )
    if images.min() == images.max():
        raise ValueError(
            f"{path} must hold images that differ, got only pixels of {images.min()}."
        )
