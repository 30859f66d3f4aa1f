"""Input: bytes, cut into windows, in an order that the seed fixes.

In: a folder, or Python's own source. Out: for every process its part of every batch.
The batch of an update has the same examples in the same order on any number of
processes, so a position in the input is one number, the examples seen, and survives any
change of devices or batch.
"""

import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np

from examples.pod_training.errors import JobError, one_line

Batch = dict[str, np.ndarray]


class Windows:
    """A text as random-access examples: bytes, and the byte that follows each."""

    def __init__(self, text: np.ndarray, context: int):
        """Keeps the text, which may be on disk, and cuts nothing yet."""
        self.text, self.context = text, context

    def __len__(self) -> int:
        """Returns how many windows do not overlap."""
        return (len(self.text) - 1) // self.context

    def take(self, rows: np.ndarray) -> Batch:
        """Returns some windows: a batch in one call is far faster than one by one."""
        places = rows[:, None] * self.context + np.arange(self.context + 1)
        found = self.text[places].astype(np.int32)
        return {"x": found[:, :-1], "y": found[:, 1:]}


def read(folder: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bytes to train on and to test on; files stay on disk."""
    if folder is None:
        files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        parts = files[::10], [file for i, file in enumerate(files) if i % 10]
        test, train = (b"".join(file.read_bytes() for file in part) for part in parts)
        return np.frombuffer(train, np.uint8), np.frombuffer(test, np.uint8)
    return _mapped(folder / "train.bin"), _mapped(folder / "test.bin")


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.memmap(path, np.uint8, mode="r")
    except (OSError, ValueError) as error:  # ValueError: the file is empty
        raise JobError(
            f"--data must hold train.bin and test.bin, got {path}: {one_line(error)}."
        ) from None


def windows(text: np.ndarray, context: int, at_least: int, name: str) -> Windows:
    """Returns the windows of a text, which must be enough for a batch."""
    found = Windows(text, context)
    if len(found) < at_least:
        raise JobError(
            f"{name} must hold a batch of {at_least} windows of {context} bytes, got "
            f"{len(found)}: use more data, or a smaller --batch or --model.context."
        )
    return found


def digest(*texts: np.ndarray) -> str:
    """Returns what tells other or damaged data: lengths, and a mebibyte of each end."""
    found = hashlib.sha256()
    for text in texts:
        found.update(str(len(text)).encode())
        for end in (text[: 1 << 20], text[-(1 << 20) :]):
            found.update(end.tobytes())
    return found.hexdigest()[:16]


class Part(NamedTuple):
    """Which part of every batch is this process's.

    Attributes:
      batch: examples of it on all processes.
      process: the number of this one.
      processes: how many there are.
    """

    batch: int
    process: int
    processes: int


class Order:
    """The order of the examples: every epoch has a permutation of its own.

    grain's `shuffle` needs no memory, and a millisecond of Python for a hundred rows. A
    permutation needs eight bytes a window, and looks up the rows of a batch in a call.
    """

    def __init__(self, examples: int, seed: int):
        """Keeps two permutations: of an epoch that ends, and of the one that begins."""
        self.examples, self.seed = examples, seed
        self.permutation = functools.lru_cache(2)(self._permutation)

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.examples)

    def rows(self, seen: int, count: int) -> np.ndarray:
        """Returns which examples come after those seen."""
        epochs, places = np.divmod(np.arange(seen, seen + count), self.examples)
        parts = [
            self.permutation(int(e))[places[epochs == e]] for e in np.unique(epochs)
        ]
        return np.concatenate(parts)


def batches(source: Any, seed: int, part: Part, seen: int) -> Iterator[Batch]:
    """Yields this process's part of every batch, from the examples seen on.

    grain's iterators can be saved too, but one per process: a slice of the global order
    needs no more than a number.
    """
    order, own = Order(len(source), seed), part.batch // part.processes
    first = seen + part.process * own
    updates = grain.MapDataset.range(sys.maxsize // part.batch)
    own_batches = updates.map(
        lambda update: source.take(order.rows(first + update * part.batch, own))
    )
    return iter(
        own_batches.to_iter_dataset(grain.ReadOptions(2, prefetch_buffer_size=4))
    )
