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
    order = np.random.default_rng(0).permutation(len(paths))
    tenths = [[paths[i] for i in order[start::10]] for start in range(10)]
    test, held_out, *rest = tenths
    train, digest = _codes([path for part in rest for path in part])
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
