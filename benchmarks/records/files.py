"""Files of records: an addition is whole or not there, and nothing finished is lost.

Every change goes to a file beside, which then takes the place of the earlier one, under
a lock that writers share. A write to the file itself, even a single one, may be cut
short by a signal or a full disk. Broken records are reported when they are read.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.records.lines import from_line, to_lines

T = TypeVar("T")
_SUFFIX = ".tmp"
DROP = "python -m benchmarks.records --drop-broken"


class BrokenLine(ValueError):
    """A file of records has a line that is none."""


def append(records: Iterable[Any], path: Path) -> None:
    """Adds one line per record, all of them or none.

    Args:
      records: dataclasses.
      path: of the file, which is made if it is not there.

    Raises:
      OSError: if there is no room; the file is then as it was.
    """
    with _locked(path) as file:
        earlier = _bytes_of(file)
        # Half a line that a crash left stays a line of its own, and is told as such.
        if earlier and not earlier.endswith(b"\n"):
            earlier += b"\n"
        _replace(path, earlier + _content(records))


def rewrite(records: Iterable[Any], path: Path) -> None:
    """Replaces a file by one line per record; the earlier one stays until all is there.

    Args:
      records: dataclasses.
      path: of the file, which need not be there.
    """
    with _locked(path):
        _replace(path, _content(records))


def _content(records: Iterable[Any]) -> bytes:
    return "".join(f"{line}\n" for line in to_lines(records)).encode()


def replace(text: str, path: Path) -> None:
    """Replaces a file of text as `rewrite` does one of records."""
    with _locked(path):
        _replace(path, text.encode())


def _bytes_of(file: int) -> bytes:
    with os.fdopen(os.dup(file), "rb") as again:
        return again.read()


def _replace(path: Path, content: bytes) -> None:
    """Writes beside, then puts the new file in the place of the locked one."""
    _remove_left_behind(path)
    handle, name = tempfile.mkstemp(_SUFFIX, f".{path.name}.", path.parent)
    try:
        with os.fdopen(handle, "wb") as new:
            new.write(content)
            new.flush()
            os.fchmod(new.fileno(), path.stat().st_mode & 0o777)
            os.fsync(new.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    _sync_folder(path.parent)


def _remove_left_behind(path: Path) -> None:
    """What killed processes left beside: who holds the lock is the only writer."""
    for other in path.parent.iterdir():
        if other.name.startswith(f".{path.name}.") and other.suffix == _SUFFIX:
            other.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes a new name last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The open file, which no other process of this project writes meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_still(file, path):
                yield file
                return
        finally:
            os.close(file)


def _is_still(file: int, path: Path) -> bool:
    """Whether the path leads to the open file: a rewrite puts another in its place."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def read(path: Path, kind: type[T], *, skip_broken: bool = False) -> list[T]:
    """Reads the records of a file.

    Args:
      path: of the file.
      kind: the dataclass of its lines.
      skip_broken: leave out the lines that are none, and do not tell.

    Raises:
      BrokenLine: if a line is none.
    """
    return [record for _, record in _numbered(path, kind, skip_broken)]


def read_if_there(path: Path, kind: type[T]) -> list[T]:
    """As `read`; nothing where there is no file."""
    return read(path, kind) if path.exists() else []


def drop_broken(path: Path, kind: type[Any]) -> int:
    """Rewrites a file without the lines that are none; all others stay as they are.

    Returns:
      How many lines were dropped.
    """
    with _locked(path) as file:
        lines = _bytes_of(file).split(b"\n")
        kept = [lines[number - 1] for number, _ in _numbered(path, kind, True)]
        if broken := len(lines) - bool(not lines[-1]) - len(kept):
            _replace(path, b"".join(line + b"\n" for line in kept))
    return broken


def _numbered(path: Path, kind: type[T], skip_broken: bool) -> Iterator[tuple[int, T]]:
    """Records with the numbers of their lines."""
    *lines, rest = path.read_bytes().split(b"\n")
    for number, line in enumerate([*lines, rest] if rest else lines, 1):
        try:
            record = from_line(line.decode(), kind)
        except (ValueError, TypeError) as error:
            if skip_broken:
                continue
            got = "half a line, without its end" if number > len(lines) else error
            raise BrokenLine(
                f"{path}, line {number}: must be one whole record, got {got}: "
                f"`{DROP} {path}` drops it and keeps the others."
            ) from error
        yield number, record
