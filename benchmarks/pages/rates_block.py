"""The block of the base rate: its grid, and how methods compare at a rate beside it."""

import statistics
from collections.abc import Sequence

import numpy as np

from benchmarks.methods.registry import METHODS
from benchmarks.pages import layout
from benchmarks.pages.result_block import percent
from benchmarks.records.record import Record, by_method

Runs = dict[tuple[str, int], list[Record]]


def block(name: str, table: Sequence[Record], others: Sequence[Record]) -> str:
    """The grid on validation data, and methods at the table's rate and at another.

    Args:
      name: of the table.
      table: its runs, at the recipe's rate.
      others: of the same task: the base run on validation data at every rate of the
        grid, and methods at one other rate, if any.
    """
    grid = [run for run in others if run.split == "validation"]
    tested = by_method(run for run in others if run.split == "test")
    parts = [
        "Validation accuracy (%) of the base run, mean ± standard error of "
        f"{len(_at(grid, table[0].learning_rate))} seeds, by its rate:",
        layout.markdown(_grid(grid)),
    ]
    if tested:
        title = "Test accuracy (%) after equal examples, at the table's rate and at "
        parts += [title + "another:", layout.markdown(_beside(table, tested))]
    where = layout.recorded_on(
        others[0].environment,
        ", ".join(sorted({run.environment["commit"] for run in others})),
        f"python -m benchmarks.train {name} METHOD S --rate RATE",
    )
    return layout.block([*parts, where])


def _grid(runs: Sequence[Record]) -> list[list[str]]:
    rates = sorted({run.learning_rate for run in runs})
    cells = [percent(np.array(_at(runs, rate))) for rate in rates]
    return [["rate", *(f"{rate:g}" for rate in rates)], ["base run", *cells]]


def _at(runs: Sequence[Record], rate: float) -> list[float]:
    return [run.final_accuracy for run in runs if run.learning_rate == rate]


def _beside(table: Sequence[Record], other: Runs) -> list[list[str]]:
    """A row for each method and S, the highest mean of an S first."""
    own, rate = by_method(table), next(iter(other.values()))[0].learning_rate
    first = own["base", 1][0].learning_rate
    rows = [["method", "S", f"rate {first:g}", f"rate {rate:g}"]]
    keys = [key for key in other if key in own]
    keys.sort(key=lambda key: (key[1], -statistics.mean(_equal(other[key]))))
    for method, scale in keys:
        pair = (own[method, scale], other[method, scale])
        cells = [percent(np.array(_equal(runs))) for runs in pair]
        rows.append([METHODS[method].label, str(scale), *cells])
    return rows


def _equal(runs: Sequence[Record]) -> list[float]:
    return [run.accuracy_at_equal_examples for run in runs]
