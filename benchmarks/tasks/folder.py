"""Folders: what data set a folder holds. Nothing is downloaded.

In: a folder, or none. Out: a `Dataset`, standardised.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from benchmarks.tasks import cifar, idx
from benchmarks.tasks.dataset import Arrays, Dataset, standardised, subset

EXPECTED = (
    f"IDX files ({', '.join(idx.NAMES)}, each with or without .gz), CIFAR-10's python "
    "batches (data_batch_1 to data_batch_5, test_batch) or CIFAR-100's (train, test, "
    "meta)"
)


@dataclasses.dataclass(frozen=True)
class Format:
    """One way to keep a data set in a folder.

    Attributes:
      names: of the files that tell it.
      read: returns the training set, the test set and the number of classes.
      name: of the data set; empty: that of the folder which was asked for.
      gzips: whether each file may have `.gz` after its name.
    """

    names: tuple[str, ...]
    read: Callable[[Path], tuple[Arrays, Arrays, int]]
    name: str = ""
    gzips: bool = False

    def is_in(self, folder: Path) -> bool:
        """Whether the folder holds all the files."""
        found = {path.name for path in folder.iterdir()}
        if self.gzips:
            found = {name.removesuffix(".gz") for name in found}
        return set(self.names) <= found


FORMATS = (
    Format(idx.NAMES, idx.read_folder, gzips=True),
    Format(cifar.NAMES10, cifar.read_folder10, "CIFAR-10"),
    Format(cifar.NAMES100, cifar.read_folder100, "CIFAR-100"),
)


def load(
    folder: str | Path, *, max_train: int | None = None, max_test: int | None = None
) -> Dataset:
    """Loads what the folder holds, standardised.

    Args:
      folder: one with IDX files or CIFAR python batches, or up to two levels above it.
      max_train: at most so many training images, drawn with a fixed seed; None: all.
      max_test: at most so many test images, likewise.

    Raises:
      ValueError: if the folder holds neither, or files that are not what they seem.
    """
    folder = Path(folder)
    inner, form = _find(folder)
    train, test, num_classes = form.read(inner)
    train, test = subset(train, max_train, seed=0), subset(test, max_test, seed=1)
    return standardised(form.name or folder.name, num_classes, train, test)


def _find(folder: Path) -> tuple[Path, Format]:
    """The one data set that is nearest: in the folder, or one or two levels below."""
    for pattern in ("", "*/", "*/*/"):
        candidates = sorted(folder.glob(pattern)) if pattern else [folder]
        found = [
            (path, form)
            for path in candidates
            if path.is_dir()
            for form in FORMATS
            if form.is_in(path)
        ]
        if len(found) > 1:
            raise ValueError(
                f"The data folder must hold one data set, got {len(found)} in "
                f"{str(folder)!r}: give one of "
                f"{', '.join(sorted({str(path) for path, _ in found}))}."
            )
        if found:
            return found[0]
    raise ValueError(
        f"The data folder must hold {EXPECTED}; got {str(folder)!r} with "
        f"{_content(folder)}."
    )


def _content(folder: Path) -> str:
    if not folder.is_dir():
        return "nothing in it" if not folder.exists() else "a file's content"
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:8]) or "nothing in it"
