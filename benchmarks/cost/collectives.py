"""Collectives: how often a compiled program talks between devices, and how much.

In: the text of a compiled program. Out: counts in which a collective inside a loop
counts once for every pass.
"""

import math
import re
from collections.abc import Iterator

KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "f64": 8, "pred": 1}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_COLLECTIVE = re.compile(rf"= (.*?) ({KINDS})(?:-start)?\(")
_LOOP = re.compile(r" while\(.*body=%?([\w.\-]+)")
_CALLED = re.compile(
    r"(?:to_apply|calls|body|true_computation|branch_computations)="
    r"\{?%?([\w.\-]+)"
)


def collectives(text: str, passes: int) -> tuple[int, int]:
    """Counts collectives, and the bytes of their results.

    Args:
      text: of the compiled program, whose only loop that has collectives runs over the
        microbatches.
      passes: of that loop.

    Returns:
      How many are executed, and how many bytes they leave on every device.
    """
    computations = dict(_computations(text))
    inside = _reached(computations, _loops(computations))
    count, size = 0, 0
    for name, lines in computations.items():
        times = passes if name in inside else 1
        for line in lines:
            if found := _COLLECTIVE.search(line):
                count += times
                size += times * _bytes(found[1])
    return count, size


def _computations(text: str) -> Iterator[tuple[str, list[str]]]:
    name, lines = "", []
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            name, lines = found[1], []
        elif line == "}":
            yield name, lines
        else:
            lines.append(line)


def _loops(computations: dict[str, list[str]]) -> set[str]:
    lines = (line for own in computations.values() for line in own)
    return {found[1] for line in lines if (found := _LOOP.search(line))}


def _reached(computations: dict[str, list[str]], names: set[str]) -> set[str]:
    """Returns the computations that those of these names call, themselves included."""
    reached, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            for line in computations.get(name, []):
                waiting += _CALLED.findall(line)
    return reached


def _bytes(shapes: str) -> int:
    found = re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    return sum(
        _BYTES.get(dtype, 4) * math.prod(int(n) for n in size.split(",") if n)
        for dtype, size in found
    )
