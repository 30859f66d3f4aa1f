"""The table of one part of the cost: for a terminal, and as cells for docs/cost.md."""

from collections.abc import Sequence

from rich.table import Table

from benchmarks.cost.measure import Measurement
from benchmarks.pages import layout
from benchmarks.pages.bars import by_setting

TITLES = {
    "update": "One update of the parameters",
    "step": "A whole training step",
    "gather": "Microbatches spread over 8 devices, in space and in time",
    "growth": "Growth",
    "monitor": "Behind the monitor",
    "peer": "The peer: what each method adds to its own library's SGD",
}
# Before a method, below its setting.
INDENT = "  "


def printed(measured: Sequence[Measurement]) -> Table:
    """One part's table, for a terminal."""
    result = layout.terminal(TITLES[measured[0].part])
    header, *others = cells(measured)
    result.add_column(header[0])
    for number, name in enumerate(header[1:], 1):
        width = max(len(line[number]) for line in (header, *others))
        result.add_column(name, justify="right", no_wrap=True, min_width=width)
    for row in others:
        result.add_row(*row, style=None if row[0].startswith(INDENT) else "bold")
    return result


def cells(measured: Sequence[Measurement]) -> list[list[str]]:
    """Header and rows of one part's table, a row for each setting above its methods.

    Columns that nothing fills are left out.
    """
    header = [
        "method",
        "words",
        "temp. MB",
        "reduces",
        "collectives",
        "MB between devices",
        "compile s",
        "×",
        "time ms",
        "× (range)",
    ]
    result = []
    for (_, setting), group in by_setting(measured).items():
        result.append([setting, *[""] * (len(header) - 1)])
        for method, one in group.items():
            result.append([INDENT + method, *_numbers(one, group[one.baseline])])
    filled = [any(row[i] for row in result) for i in range(len(header))]
    return [
        [cell for cell, keep in zip(line, filled, strict=True) if keep]
        for line in (header, *result)
    ]


def _numbers(one: Measurement, base: Measurement) -> list[str]:
    result = []
    # Words and temporary memory of a whole step are the model's, not the optimizer's.
    alone = one.microbatches is None
    result.append(f"{one.words:.2f}" if alone and one.words is not None else "")
    temp = one.temp_bytes
    result.append("" if temp is None else f"{temp / 1e6:.2f}")
    several = one.devices > 1 and one.all_reduces is not None
    result.append(str(one.all_reduces) if several else "")
    moved = one.collective_bytes if one.part == "gather" else None
    result.append("" if moved is None else str(one.collectives))
    result.append("" if moved is None else f"{moved / 1e6:.2f}")
    result += ["", ""]
    if one.compile_cpu_seconds is not None and base.compile_cpu_seconds is not None:
        ratio = one.compile_cpu_seconds / base.compile_cpu_seconds
        result[-2:] = [f"{one.compile_cpu_seconds:.2f}", f"{ratio:.2f}"]
    result += ["", ""]
    if one.seconds is not None and one.ratio is not None:
        middle, least, most = one.ratio
        milliseconds = 1000 * one.seconds[0]
        digits = ",.0f" if milliseconds >= 100 else ".3g"
        result[-2] = f"{milliseconds:{digits}}"
        result[-1] = f"{middle:.2f} ({least:.2f}–{most:.2f})"
    return result
