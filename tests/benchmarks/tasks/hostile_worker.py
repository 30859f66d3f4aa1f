"""Reads hostile files where 2 GB is all there is; they must import and call nothing.

`python -m tests.benchmarks.tasks.hostile_worker FOLDER GOOD` prints one line per file
of the folder: its name, and why it was refused.
"""

import resource
import sys
from pathlib import Path

from benchmarks.tasks import cifar, idx

LIMIT = 2_000_000_000
# What Python tells its auditors of before it does it.
FORBIDDEN = ("import", "exec", "compile", "os.", "subprocess.", "marshal.", "pickle.")


def forbid(event, arguments):
    if event.startswith(FORBIDDEN) and event not in ("os.listdir", "os.scandir"):
        sys.__stdout__.write(f"FORBIDDEN {event} {arguments!r}\n")
        sys.__stdout__.flush()


def read(path):
    if path.suffix == ".gz":
        return idx.read(path, 3)
    return cifar._read(path, "labels", 10)


def main(folder, good):
    read(Path(good))  # what Python imports by itself, the first time
    paths = sorted(Path(folder).iterdir())
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    sys.addaudithook(forbid)
    for path in paths:
        try:
            read(path)
            print(path.name, "ACCEPTED")
        except ValueError as error:
            print(path.name, f"refused: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
