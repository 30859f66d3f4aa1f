"""Data sets: scikit-learn's digits, IDX files, CIFAR python batches, source text.

In: a folder or nothing. Out: a `Dataset` of inputs and int32 labels. Nothing is
downloaded, and the same seed gives the same subset and the same order.
"""

import dataclasses
import gzip
import hashlib
import io
import pickle
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR10_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
EXPECTED = (
    f"IDX files ({', '.join(IDX_NAMES)}, each with or without .gz), CIFAR-10's python "
    "batches (data_batch_1 to data_batch_5, test_batch) or CIFAR-100's (train, test, "
    "meta)"
)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A classification task in memory.

    Attributes:
      name: for reports.
      num_classes: labels are 0 to num_classes - 1.
      x_train: `(examples, ...)`, float32 images or int32 characters.
      y_train: int32, `(examples,)`, or `(examples, positions)` of sequences.
      x_test: like `x_train`.
      y_test: like `y_train`.
    """

    name: str
    num_classes: int
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load(
    folder: str | Path | None = None,
    *,
    max_train: int | None = None,
    max_test: int | None = None,
) -> Dataset:
    """Loads what the folder holds, standardised; without a folder, the digits.

    Args:
      folder: one with IDX files or CIFAR python batches, or up to two levels above it.
      max_train: at most so many training images, drawn with a fixed seed; None: all.
      max_test: at most so many test images, likewise.

    Raises:
      ValueError: if the folder holds neither, or files that are not what they seem.
    """
    if folder is None:
        return digits()
    train, test, num_classes, name = _read_folder(Path(folder))
    train, test = _subset(train, max_train, seed=0), _subset(test, max_test, seed=1)
    return _standardised(name, num_classes, train, test)


def digits(test_share: float = 0.2) -> Dataset:
    """The 1,797 handwritten 8 x 8 digits of scikit-learn, in a fixed stratified split.

    Args:
      test_share: the share of every class that is kept for testing.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch: Any = load_digits()
    x = np.asarray(bunch.data / 16, np.float32)
    y = np.asarray(bunch.target, np.int32)
    train, test = train_test_split(
        np.arange(len(y)), test_size=test_share, random_state=0, stratify=y
    )
    return Dataset("digits", 10, x[train], y[train], x[test], y[test])


# Printable ASCII and the newline have a class each, everything else shares class 0.
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))


def source_text(
    context: int,
    *,
    sequences: bool = False,
    validation: bool = False,
    num_train: int = 400_000,
    num_test: int = 10_000,
) -> Dataset:
    """The next character of the Python standard library's own source files.

    Files, not positions, are split: of ten files one tests and one validates. The name
    holds a digest of the text, which differs between versions of Python.

    Args:
      context: how many characters come before the one to predict.
      sequences: whether every character of the context has a label, its successor.
      validation: test on the validation files, to tune a recipe.
      num_train: how many training positions are drawn, with a fixed seed.
      num_test: likewise.
    """
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    order = np.random.default_rng(0).permutation(len(paths))
    tenths = [[paths[i] for i in order[start::10]] for start in range(10)]
    test, held_out, *rest = tenths
    train_files = [path for part in rest for path in part]
    train, digest = _codes(train_files)
    tested, _ = _codes(held_out if validation else test)
    x_train, y_train = _windows(train, context, num_train, sequences)
    x_test, y_test = _windows(tested, context, num_test, sequences)
    name = f"Python source text ({digest})"
    return Dataset(name, len(CHARACTERS) + 1, x_train, y_train, x_test, y_test)


def _codes(paths: list[Path]) -> tuple[np.ndarray, str]:
    """Returns the files' characters as codes, and a digest of them."""
    raw = b"".join(path.read_bytes() for path in paths)
    table = np.zeros(256, np.uint8)
    table[[ord(character) for character in CHARACTERS]] = np.arange(len(CHARACTERS)) + 1
    return table[np.frombuffer(raw, np.uint8)], hashlib.sha256(raw).hexdigest()[:8]


def _windows(
    codes: np.ndarray, context: int, number: int, sequences: bool
) -> tuple[np.ndarray, np.ndarray]:
    starts = np.random.default_rng(0).integers(0, len(codes) - context, number)
    windows = codes[starts[:, None] + np.arange(context + 1)].astype(np.int32)
    labels = windows[:, 1:] if sequences else windows[:, -1]
    return windows[:, :-1], labels


def hold_out(dataset: Dataset, *, validation: bool, share: float = 1 / 6) -> Dataset:
    """Takes the validation set out of the training set.

    Args:
      dataset: whose training set is cut, the same way every time.
      validation: test on what was taken out, and not on the test set.
      share: how much is taken out.
    """
    order = np.random.default_rng(2).permutation(len(dataset.y_train))
    size = round(share * len(order))
    held_out, rest = order[:size], order[size:]
    x, y = dataset.x_train, dataset.y_train
    cut = dataclasses.replace(dataset, x_train=x[rest], y_train=y[rest])
    if not validation:
        return cut
    return dataclasses.replace(cut, x_test=x[held_out], y_test=y[held_out])


def folds(dataset: Dataset, number: int) -> list[Dataset]:
    """Cuts the training set into folds, each validating what trained on the others.

    Recipes are tuned on them, so that the test set does not choose its recipe.

    Args:
      dataset: of which the test set is not used.
      number: of folds, stratified by class.
    """
    from sklearn.model_selection import StratifiedKFold

    x, y = dataset.x_train, dataset.y_train
    splitter = StratifiedKFold(number, shuffle=True, random_state=0)
    return [
        dataclasses.replace(
            dataset,
            x_train=x[rest],
            y_train=y[rest],
            x_test=x[validation],
            y_test=y[validation],
        )
        for rest, validation in splitter.split(x, y)
    ]


def index_stream(num_examples: int, seed: int, start: int, stop: int) -> np.ndarray:
    """Returns positions start to stop of an endless stream of permutations.

    One permutation of the examples follows the other, so that no example is lost at an
    epoch's end whatever the batch. Any stretch can be asked for at any time.

    Args:
      num_examples: the length of one permutation.
      seed: of the stream; methods compared with each other share it.
      start: the first position.
      stop: the last position, exclusive.
    """
    epochs = range(start // num_examples, -(-stop // num_examples))
    permutations = [
        np.random.default_rng([seed, epoch]).permutation(num_examples)
        for epoch in epochs
    ]
    offset = epochs.start * num_examples
    stream = np.concatenate(permutations)[start - offset : stop - offset]
    return stream.astype(np.int32)


Arrays = tuple[np.ndarray, np.ndarray]


def _read_folder(folder: Path) -> tuple[Arrays, Arrays, int, str]:
    for candidate in _folders(folder):
        names = {path.name.removesuffix(".gz") for path in candidate.iterdir()}
        if set(IDX_NAMES) <= names:
            parts = [_read_idx(_idx_path(candidate, name)) for name in IDX_NAMES]
            num_classes = int(max(parts[1].max(), parts[3].max())) + 1
            train, test = (parts[0], parts[1]), (parts[2], parts[3])
            return train, test, num_classes, folder.name
        if {*CIFAR10_TRAIN, "test_batch"} <= names:
            train = _read_cifar([candidate / n for n in CIFAR10_TRAIN], b"labels")
            return (
                train,
                _read_cifar([candidate / "test_batch"], b"labels"),
                10,
                ("CIFAR-10"),
            )
        if {"train", "test", "meta"} <= names:
            train, test = (
                _read_cifar([candidate / name], b"fine_labels")
                for name in ("train", "test")
            )
            return train, test, 100, "CIFAR-100"
    found = (
        sorted(path.name for path in folder.iterdir())[:8] if folder.is_dir() else []
    )
    raise ValueError(
        f"The data folder must hold {EXPECTED}; got {str(folder)!r} with "
        f"{found or 'nothing in it'}."
    )


def _folders(folder: Path) -> Iterator[Path]:
    """The folder itself, then up to two levels of folders below it."""
    for pattern in ("", "*/", "*/*/"):
        candidates = sorted(folder.glob(pattern)) if pattern else [folder]
        yield from (path for path in candidates if path.is_dir())


def _idx_path(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"


def _read_idx(path: Path) -> np.ndarray:
    """Reads one IDX file of unsigned bytes, gzipped or not whatever its name says."""
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} must be an IDX file of bytes, got {raw[:4]!r} first.")
    ndim = raw[3]
    shape = np.frombuffer(raw, ">u4", ndim, offset=4)
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim)
    if values.size != np.prod(shape):
        raise ValueError(f"{path} must hold {shape} bytes, got {values.size}.")
    array = values.reshape(shape)
    return array[..., None] if ndim == 3 else array


def _read_cifar(paths: list[Path], label_key: bytes) -> Arrays:
    batches = [_ArraysOnly(io.BytesIO(path.read_bytes())).load() for path in paths]
    images = np.concatenate([batch[b"data"] for batch in batches])
    labels = np.concatenate([np.asarray(batch[label_key]) for batch in batches])
    return images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


class _ArraysOnly(pickle.Unpickler):
    """Unpickles NumPy arrays and plain containers; a pickle could else run any code."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file, encoding="bytes")

    def find_class(self, module: str, name: str) -> Any:
        allowed = {"_reconstruct", "ndarray", "dtype", "_frombuffer", "encode"}
        if module.split(".")[0] in ("numpy", "_codecs") and name in allowed:
            return super().find_class(module, name)
        raise ValueError(
            f"A CIFAR batch must hold arrays only, got a pickle of {module}.{name}."
        )


def _subset(arrays: Arrays, size: int | None, seed: int) -> Arrays:
    images, labels = arrays
    if size is None or size >= len(labels):
        return arrays
    chosen = np.random.default_rng(seed).permutation(len(labels))[:size]
    return images[chosen], labels[chosen]


def _standardised(name: str, num_classes: int, train: Arrays, test: Arrays) -> Dataset:
    """Scales each channel to mean 0 and deviation 1 over the training images."""
    x_train, x_test = (x.astype(np.float32) / 255 for x in (train[0], test[0]))
    mean = x_train.mean((0, 1, 2))
    deviation = np.maximum(x_train.std((0, 1, 2)), 1e-3)
    y_train, y_test = (y.astype(np.int32) for y in (train[1], test[1]))
    return Dataset(
        name,
        num_classes,
        (x_train - mean) / deviation,
        y_train,
        (x_test - mean) / deviation,
        y_test,
    )
