"""Writes records until it is killed: `appends` one after the other, or `rewrites` all.

`python -m tests.benchmarks.records.writer_worker KIND FILE` prints the number of every
record, or of every rewrite, once it is in the file.
"""

import dataclasses
import itertools
import sys
from pathlib import Path

from benchmarks.records import files


@dataclasses.dataclass(frozen=True)
class Note:
    """A record of a test: who wrote it, its number, and much text."""

    writer: str
    number: int
    text: str = ""


# Of several pages, so that a write of it takes a while.
TEXT = "x" * 100_000


def main(kind, path, writer="a", end=None):
    for number in itertools.count() if end is None else range(int(end)):
        if kind == "appends":
            files.append([Note(writer, number, TEXT)], Path(path))
        else:
            notes = [Note(writer, number, TEXT) for _ in range(20)]
            files.rewrite(notes, Path(path))
        print(number, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
