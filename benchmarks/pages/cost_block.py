"""The block of docs/cost.md: a table per part, the bars, and where it was measured."""

from collections.abc import Sequence

from benchmarks.cost.measure import Measurement
from benchmarks.pages import bars, cost_table, layout
from benchmarks.pages.cost_table import INDENT, TITLES


def block(measured: Sequence[Measurement]) -> str:
    """What the page shows of the kept measurements."""
    parts = []
    for part, title in TITLES.items():
        own = [one for one in measured if one.part == part]
        if own:
            parts += [f"**{title}**", _table(own)]
    where = measured[0].environment
    parts.append(layout.bullets(bars.sentences(measured)))
    commits = ", ".join(sorted({one.environment["commit"] for one in measured}))
    recorded = layout.recorded_on(where, commits)
    parts.append(f"{_legend(measured)} {recorded}")
    return layout.block(parts)


def _table(own: Sequence[Measurement]) -> str:
    header, *others = cost_table.cells(own)
    settings = [
        row if row[0].startswith(INDENT) else [f"*{row[0]}*", *row[1:]]
        for row in others
    ]
    return layout.markdown(
        [[text.strip() for text in row] for row in (header, *settings)]
    )


def _legend(measured: Sequence[Measurement]) -> str:
    return (
        "words: bytes that an update moves, by XLA's count, over 4 bytes × parameters. "
        "reduces: all-reduces in the program of a step on several devices. "
        "collectives: those of any kind that one step executes, and the bytes that "
        "they leave on each device. "
        "compile s: CPU time of tracing, lowering and compiling. ×: over the first "
        "SGD of the setting (for numbers of tensors: over Adam), medians of "
        f"{max(one.rounds for one in measured)} rounds in which methods take turns."
    )
