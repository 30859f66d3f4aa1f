"""Text: the Python standard library's own source files, cut into windows."""

import hashlib
import sysconfig
from pathlib import Path

import numpy as np

from benchmarks.tasks.dataset import Dataset

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
    rest, test, held_out = split_files(paths)
    train, digest = _codes(rest)
    tested, _ = _codes(held_out if validation else test)
    x_train, y_train = windows(train, context, num_train, sequences)
    x_test, y_test = windows(tested, context, num_test, sequences)
    name = f"Python source text ({digest})"
    return Dataset(name, len(CHARACTERS) + 1, x_train, y_train, x_test, y_test)


def split_files(paths: list[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """Those to train on, of ten files eight, then the test's and the validation's."""
    order = np.random.default_rng(0).permutation(len(paths))
    test, held_out, *rest = [[paths[i] for i in order[k::10]] for k in range(10)]
    return [path for part in rest for path in part], test, held_out


def _codes(paths: list[Path]) -> tuple[np.ndarray, str]:
    """Returns the files' characters as codes, and a digest of them."""
    raw = b"".join(path.read_bytes() for path in paths)
    table = np.zeros(256, np.uint8)
    table[[ord(character) for character in CHARACTERS]] = np.arange(len(CHARACTERS)) + 1
    return table[np.frombuffer(raw, np.uint8)], hashlib.sha256(raw).hexdigest()[:8]


def windows(
    codes: np.ndarray, context: int, number: int, sequences: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Windows at random places, and what comes next.

    Args:
      codes: of the whole text.
      context: length of a window.
      number: of windows.
      sequences: whether every place of a window has a label.
    """
    starts = np.random.default_rng(0).integers(0, len(codes) - context, number)
    cut = codes[starts[:, None] + np.arange(context + 1)].astype(np.int32)
    return cut[:, :-1], cut[:, 1:] if sequences else cut[:, -1]
