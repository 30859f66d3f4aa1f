"""Data sets: arrays in memory that are checked when they are made, and their splits.

In: arrays. Out: a `Dataset`, and parts of it. The same seed gives the same part.
"""

import dataclasses
from typing import Any

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]


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

    Raises:
      ValueError: if examples and labels do not match, a label is no class, or an
        example is not finite.
    """

    name: str
    num_classes: int
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    def __post_init__(self) -> None:
        _check(f"{self.name}, training", self.x_train, self.y_train, self.num_classes)
        _check(f"{self.name}, test", self.x_test, self.y_test, self.num_classes)


def _check(name: str, x: np.ndarray, y: np.ndarray, num_classes: int) -> None:
    if len(x) != len(y) or not len(x):
        raise ValueError(
            f"{name}: there must be one label for each example, and at least one "
            f"example, got {len(x)} examples and {len(y)} labels."
        )
    if y.min() < 0 or y.max() >= num_classes:
        raise ValueError(
            f"{name}: labels must be 0 to {num_classes - 1}, got {y.min()} to "
            f"{y.max()}."
        )
    if not np.isfinite(x).all():
        raise ValueError(f"{name}: examples must be finite, got NaN or infinity.")


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


def subset(arrays: Arrays, size: int | None, seed: int) -> Arrays:
    """At most so many examples, drawn with a fixed seed; None: all."""
    images, labels = arrays
    if size is None or size >= len(labels):
        return arrays
    chosen = np.random.default_rng(seed).permutation(len(labels))[:size]
    return images[chosen], labels[chosen]


def standardised(name: str, num_classes: int, train: Arrays, test: Arrays) -> Dataset:
    """Scales each channel of byte images to mean 0 and deviation 1 over the training.

    Args:
      name: of the data set.
      num_classes: of its labels.
      train: images and labels.
      test: likewise.
    """
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
