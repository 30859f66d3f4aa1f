"""Pickles of plain values, read without unpickling: nothing is imported or called.

In: bytes. Out: a dictionary of bytes, text, numbers, lists and arrays of bytes. This
knows the opcodes that CIFAR's python batches hold, as Python 2 or Python 3 writes them,
and refuses every other. The four names that NumPy's arrays are pickled with are
symbols here; what they would build is built by hand.
"""

import dataclasses
import math
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

# What a pickle that breaks off, or that was written to do harm, ends in.
_BROKEN = (
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
)
# CIFAR-100's training set takes a fifth of it.
MAX_OPCODES = 1_000_000


class NotPlain(ValueError):
    """What was found where only plain values may be."""


@dataclasses.dataclass(frozen=True)
class _Symbol:
    """A name of the pickle, or what a call of it stands for."""

    name: str


_MARK, _BYTES_DTYPE = _Symbol("mark"), _Symbol("dtype('u1')")
_RECONSTRUCT, _NDARRAY, _DTYPE, _ENCODE, _FROMBUFFER = map(
    _Symbol, ("_reconstruct", "ndarray", "dtype", "encode", "_frombuffer")
)
_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _DTYPE,
    ("numpy.core.numeric", "_frombuffer"): _FROMBUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROMBUFFER,
    ("_codecs", "encode"): _ENCODE,
}


class _Array:
    """An array of bytes, of which the state comes after the object."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None


def parse(raw: bytes) -> dict[str, Any]:
    """Reads a pickled dictionary.

    Args:
      raw: the whole pickle.

    Raises:
      NotPlain: if it holds anything else, or is broken.
    """
    machine = _Machine()
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(raw)):
            if number >= MAX_OPCODES:
                raise NotPlain(f"more than {MAX_OPCODES:,} opcodes")
            machine.run(opcode.name, argument)
    except NotPlain:
        raise
    except _BROKEN as error:
        raise NotPlain(f"a broken pickle ({type(error).__name__}: {error})") from error
    return _finished(machine.stack)


def _finished(stack: list[Any]) -> dict[str, Any]:
    if len(stack) != 1 or not isinstance(stack[0], dict):
        raise NotPlain("something that is no dictionary")
    values = {_text(key): value for key, value in stack[0].items()}
    return {
        key: value.value if isinstance(value, _Array) else value
        for key, value in values.items()
    }


class _Machine:
    """The pickle machine's stack and memo, for the opcodes of plain values."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        """Does one opcode."""
        if name in _PUSHED:
            self.stack.append(argument)
        elif name in _TUPLES:
            self._tuple(_TUPLES[name])
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in _NOTHING:
            raise NotPlain(f"the opcode {name}")

    def pop(self) -> Any:
        """Takes the uppermost value, which is no mark."""
        value = self.stack.pop()
        if value is _MARK:
            raise NotPlain("a mark where a value must be")
        return value

    def pop_two(self) -> list[Any]:
        """Takes the two uppermost values, in the order they were put."""
        return [self.pop(), self.pop()][::-1]

    def pop_to_mark(self) -> list[Any]:
        """Takes everything above the last mark, and the mark."""
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _tuple(self, size: int) -> None:
        values = [self.pop() for _ in range(size)]
        self.stack.append(tuple(values[::-1]))

    def remember(self, key: Any) -> None:
        """Puts the uppermost value into the memo; without a key, as the next."""
        self.memo[len(self.memo) if key is None else key] = self.stack[-1]

    def set_items(self, values: list[Any]) -> None:
        """Fills the uppermost dictionary with keys and values in turn."""
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise NotPlain("items of something that is no dictionary")
        target.update(
            {_text(k): v for k, v in zip(values[::2], values[1::2], strict=True)}
        )

    def extend(self, values: list[Any]) -> None:
        """Appends to the uppermost list."""
        if not isinstance(self.stack[-1], list):
            raise NotPlain("an item of something that is no list")
        self.stack[-1].extend(values)

    def look_up(self, module: Any, name: Any) -> None:
        """Pushes the symbol of one of the names that arrays are pickled with."""
        if (module, name) not in _NAMES:
            raise NotPlain(f"the name {module}.{name}"[:200])
        self.stack.append(_NAMES[module, name])

    def call(self) -> None:
        """Builds by hand what a call of a symbol would return."""
        arguments, symbol = self.pop(), self.pop()
        if not isinstance(symbol, _Symbol) or not isinstance(arguments, tuple):
            raise NotPlain("a call of something that is no name")
        self.stack.append(_call(symbol, arguments))

    def build(self) -> None:
        """Gives an array its state; a dtype has none that matters here."""
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, in_columns, content = state
            if in_columns is not False:
                raise NotPlain("an array whose order is Fortran's")
            target.value = _array(shape, dtype, content)
        elif target is not _BYTES_DTYPE:
            raise NotPlain("the state of something that is no array")


def _call(symbol: _Symbol, arguments: tuple[Any, ...]) -> Any:
    if symbol is _RECONSTRUCT and arguments[:1] == (_NDARRAY,):
        return _Array()
    if symbol is _DTYPE and _text(arguments[0]) in ("u1", "|u1"):
        return _BYTES_DTYPE
    if symbol is _ENCODE and len(arguments) == 2 and arguments[1] == "latin1":
        return _text(arguments[0]).encode("latin-1")
    if symbol is _FROMBUFFER and len(arguments) == 4 and arguments[3] == "C":
        result = _Array()
        result.value = _array(arguments[2], arguments[1], arguments[0])
        return result
    if symbol is _DTYPE:
        raise NotPlain(f"an array of {arguments[0]!r}, not of bytes"[:200])
    raise NotPlain(f"a call of {symbol.name}")


def _array(shape: Any, dtype: Any, content: Any) -> np.ndarray:
    if dtype is not _BYTES_DTYPE:
        raise NotPlain("an array that is not of bytes")
    if not isinstance(shape, tuple) or not all(type(n) is int for n in shape):
        raise NotPlain("an array without a shape")
    if isinstance(content, str):
        content = content.encode("latin-1")
    if not isinstance(content, (bytes, bytearray)):
        raise NotPlain("an array without content")
    if min(shape, default=0) < 0 or math.prod(shape) != len(content):
        raise NotPlain(f"an array of shape {shape} with {len(content):,} bytes")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _text(value: Any) -> str:
    """Text, or bytes as the text that Python 2 wrote."""
    if isinstance(value, (bytes, bytearray)):
        return value.decode("latin-1")
    if not isinstance(value, str):
        raise NotPlain(f"a {type(value).__name__} where text must be")
    return value


_PUSHED = {
    *("BININT", "BININT1", "BININT2"),
    *("SHORT_BINSTRING", "BINSTRING"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING = {"PROTO", "FRAME", "STOP"}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "MARK": lambda machine, _: machine.stack.append(_MARK),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "BINPUT": lambda machine, key: machine.remember(key),
    "LONG_BINPUT": lambda machine, key: machine.remember(key),
    "MEMOIZE": lambda machine, _: machine.remember(None),
    "BINGET": lambda machine, key: machine.stack.append(machine.memo[key]),
    "LONG_BINGET": lambda machine, key: machine.stack.append(machine.memo[key]),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop_two()),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "GLOBAL": lambda machine, names: machine.look_up(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.look_up(*machine.pop_two()),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
}
