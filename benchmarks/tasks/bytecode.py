"""Byte code: what CPython compiles its own standard library to, cut into windows.

A task that looks like none of the others, is in every installation, and was added
after every number and rule of the library was chosen: nothing was tuned on it but the
base recipe's rate.
"""

import hashlib
import sysconfig
import types
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.tasks.dataset import Dataset
from benchmarks.tasks.text import split_files, windows


def byte_code(
    context: int,
    *,
    validation: bool = False,
    num_train: int = 400_000,
    num_test: int = 10_000,
) -> Dataset:
    """The next operation in the byte code of the Python standard library.

    Files are split as those of the text are. The name holds a digest of the byte code,
    which differs between versions of Python.

    Args:
      context: how many operations come before the one to predict.
      validation: test on the validation files, to tune a recipe.
      num_train: how many training positions are drawn, with a fixed seed.
      num_test: likewise.
    """
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    train, test, held_out = map(_operations, split_files(paths))
    x_train, y_train = windows(train, context, num_train)
    x_test, y_test = windows(held_out if validation else test, context, num_test)
    name = f"Python byte code ({hashlib.sha256(train.tobytes()).hexdigest()[:8]})"
    return Dataset(name, 256, x_train, y_train, x_test, y_test)


def _operations(paths: Iterable[Path]) -> np.ndarray:
    """The operations of the files' functions, one after the other."""
    parts: list[bytes] = []
    for path in paths:
        with warnings.catch_warnings():
            # What a later version of Python says of the library's own escapes.
            warnings.simplefilter("ignore")
            code = compile(path.read_bytes(), path.name, "exec", dont_inherit=True)
        # An operation and its argument have a byte each; inline caches are code 0.
        parts += [each.co_code[::2] for each in _nested(code)]
    operations = np.frombuffer(b"".join(parts), np.uint8)
    return operations[operations > 0]


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code object and those of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)
