"""Command lines: every bad value is one line on stderr and exit code 2.

A program is a function of its arguments under `@program`: an interruption is one line
and exit code 130, a file that cannot be read or written one line and exit code 1.
"""

import argparse
import contextlib
import functools
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Never, Protocol

from benchmarks import INTERRUPTED
from benchmarks.records.files import BrokenLine


class Main(Protocol):
    """A program as a function; without arguments it takes those of the command."""

    def __call__(self, arguments: Sequence[str] | None = None) -> None: ...


BAD_VALUE, FAILED = 2, 1


def fail(message: str, code: int = BAD_VALUE) -> Never:
    """Ends the program with one line."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def program(main: Main) -> Main:
    """Makes a program of a function of its arguments."""

    @functools.wraps(main)
    def run(arguments: Sequence[str] | None = None) -> None:
        try:
            main(arguments)
            sys.stdout.flush()
        except KeyboardInterrupt:
            fail("interrupted; what was recorded is kept.", INTERRUPTED)
        except BrokenPipeError:
            # Who reads has seen enough; nothing is left to flush.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(FAILED) from None
        except (BrokenLine, OSError, subprocess.CalledProcessError) as error:
            fail(str(error), FAILED)

    return run


@contextlib.contextmanager
def checking(option: str) -> Iterator[None]:
    """What goes wrong inside is a bad value of the option."""
    try:
        yield
    except (ValueError, OSError) as error:
        fail(f"{option}: {error}")


class Parser(argparse.ArgumentParser):
    """Refuses what it does not know in one line, without the usage above it.

    Args:
      description: of the program, printed as it stands.
    """

    def __init__(self, description: str | None):
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but an unknown option is told with those that there are."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            fail(f"the options are {self._options()}, got {' '.join(unknown)!r}.")
        return options

    def _options(self) -> str:
        names = [name for action in self._actions for name in action.option_strings]
        return ", ".join(name for name in names if name.startswith("--"))

    def error(self, message: str) -> Never:
        """One line; what argparse says of a missing value lacks what it got."""
        if "expected" in message or "required" in message:
            message += ", got none"
        fail(f"{message}; see --help.")


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """A name among these."""
    known = tuple(names)

    def parse(text: str) -> str:
        if text not in known:
            raise refused(f"must be one of {', '.join(known)}", text)
        return text

    return parse


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number, both ends included."""

    def parse(text: str) -> int:
        # int() takes " 3", "1_000" and digits of other scripts as well.
        is_plain = text.isascii() and text.isdigit() and len(text) < 19
        if not is_plain or not low <= int(text) <= high:
            raise refused(f"must be a whole number from {low} to {high}", text)
        return int(text)

    return parse


def rate(text: str) -> float:
    """A learning rate."""
    with contextlib.suppress(ValueError):
        value = float(text)
        if math.isfinite(value) and value > 0:
            return value
    raise refused("must be a finite number above 0", text)


def part(text: str) -> tuple[int, int]:
    """`i/n`: every n-th row from i."""
    first, _, second = text.partition("/")
    if all(n.isascii() and n.isdigit() and len(n) < 7 for n in (first, second)):
        if int(first) < int(second):
            return int(first), int(second)
    raise refused("must be i/n with 0 <= i < n, such as 0/2", text)


def folder(text: str) -> Path:
    """A folder that is there."""
    if not text or not Path(text).is_dir():
        raise refused("must be a folder that exists", text)
    return Path(text)


def new_folder(text: str) -> Path:
    """A folder to write to, which may have to be made."""
    path = Path(text)
    if not text or not _can_be_made(path) or (path.exists() and not path.is_dir()):
        raise refused("must be a folder, or the name of a new one", text)
    return path


def new_file(text: str) -> Path:
    """A file to write to, which may have to be made."""
    path = Path(text)
    if not text or not _can_be_made(path.parent) or path.is_dir():
        raise refused("must be a file, or the name of a new one", text)
    if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
        raise refused("must be a file that can be written", text)
    return path


def _can_be_made(folder: Path) -> bool:
    """Whether the nearest folder above that exists is one, and can be written to."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return there.is_dir() and os.access(there, os.W_OK)


def all_different(option: str, values: Sequence[Any] | None) -> None:
    """Refuses a list that names something twice."""
    twice = [value for value in values or () if list(values or ()).count(value) > 1]
    if twice:
        fail(f"argument {option}: each value must stand once, got {twice[0]} twice.")


def refused(allowed: str, got: str) -> argparse.ArgumentTypeError:
    """What the type of an option raises."""
    return argparse.ArgumentTypeError(f"{allowed}, got {got!r}")
