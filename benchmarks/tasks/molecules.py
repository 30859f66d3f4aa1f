"""Molecules: the strings of MOSES (Polykovskiy et al., 2020), cut into windows.

They are in the wheel `molsets` 0.3.1 of the package index, 52 MB, which is read and
never installed: `pip download --no-deps molsets==0.3.1`. Nothing is downloaded here.
"""

import gzip
import zipfile
from pathlib import Path

import numpy as np

from benchmarks.tasks.dataset import Dataset
from benchmarks.tasks.text import windows

TRAIN, TEST = "train.csv.gz", "test.csv.gz"
WHEEL = "molsets-*.whl"
EXPECTED = f"{TRAIN} and {TEST} of MOSES, or the wheel {WHEEL} that holds them"
HEADER = "SMILES"
# One molecule in so many is held out of the training set, to tune on.
HELD_OUT = 20


def molecules(
    path: str | Path,
    context: int,
    *,
    validation: bool = False,
    num_train: int = 400_000,
    num_test: int = 2000,
) -> Dataset:
    """The next character of molecules, written one after the other.

    Every character of the context has a label, its successor. The test split is that
    of MOSES; of its training set every 20th molecule validates.

    Args:
      path: the wheel, or a folder that holds it or the two files.
      context: how many characters a window has.
      validation: test on the molecules that are held out, to tune a recipe.
      num_train: how many training windows are drawn, with a fixed seed.
      num_test: likewise.

    Raises:
      ValueError: if the path holds neither, or files that are not what they seem.
    """
    files = _find(Path(path))
    every, tested = (_lines(files, name) for name in (TRAIN, TEST))
    held_out = every[::HELD_OUT]
    kept = [line for i, line in enumerate(every) if i % HELD_OUT]
    alphabet = np.unique(_characters(every))
    train, test = (
        _codes(lines, alphabet) for lines in (kept, held_out if validation else tested)
    )
    x_train, y_train = windows(train, context, num_train, sequences=True)
    x_test, y_test = windows(test, context, num_test, sequences=True)
    # Characters of which the training set has none share class 0.
    classes = len(alphabet) + 1
    return Dataset("MOSES molecules", classes, x_train, y_train, x_test, y_test)


def _find(path: Path) -> Path:
    """The wheel, or the folder of both files."""
    wheels = [path] if path.is_file() else sorted(path.glob(WHEEL))
    if path.is_dir() and all((path / name).is_file() for name in (TRAIN, TEST)):
        return path
    if not wheels or not zipfile.is_zipfile(wheels[-1]):
        raise ValueError(f"{path} must hold {EXPECTED}, got neither.")
    return wheels[-1]


def _lines(files: Path, name: str) -> list[bytes]:
    """The molecules of one file."""
    try:
        header, *lines = gzip.decompress(_read(files, name)).split()
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{files}: {name} must be a gzipped list: {error}.") from error
    if header != HEADER.encode() or not lines:
        raise ValueError(
            f"{files}: {name} must have the header {HEADER!r} and a molecule a line, "
            f"got the header {header[:20]!r} and {len(lines)} lines."
        )
    return lines


def _read(files: Path, name: str) -> bytes:
    if files.is_dir():
        return (files / name).read_bytes()
    with zipfile.ZipFile(files) as wheel:
        found = [each for each in wheel.namelist() if each.endswith(f"/{name}")]
        if len(found) != 1:
            raise ValueError(f"it must stand in the wheel once, got {len(found)}")
        return wheel.read(found[0])


def _characters(lines: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"\n".join(lines) + b"\n", np.uint8)


def _codes(lines: list[bytes], alphabet: np.ndarray) -> np.ndarray:
    """The characters as their places in the alphabet, from 1; 0 for others."""
    table = np.zeros(256, np.uint8)
    table[alphabet] = np.arange(len(alphabet)) + 1
    return table[_characters(lines)]
