"""The block of a table of results: both measures, verdicts and a figure, as Markdown.

What counts as better was fixed in benchmarks/README.md before the tables were recorded.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.methods.registry import METHODS
from benchmarks.pages import layout
from benchmarks.pages.outcomes import Outcome, outcomes, standard_error
from benchmarks.pages.result_figure import has_figure
from benchmarks.pages.verdicts import Found, Measure, accuracy, is_bold, speed, verdicts
from benchmarks.records.record import (
    Record,
    one_per_seed,
    read_records,
    target_accuracy,
)
from benchmarks.tasks.recipe import (
    ADAMW,
    CONSTANT,
    EXPONENTIAL,
    MUON,
    SGD,
    TARGET_DROP,
)
from benchmarks.training.tables import Table

# From where the page stands.
FIGURES = "benchmarks"
SCHEDULES = {EXPONENTIAL: "exponential decay", CONSTANT: "constant"}
MEMORIES = {SGD: "momentum", ADAMW: "β1", MUON: "momentum"}
LEGEND = (
    "Bold: the best method without re-tuning, and those level with it. (2/3): two of "
    "three seeds reach the target in the updates that they were given; the others "
    "count with all of these. The first row is what it would take if each update were "
    "worth S updates of the base run. Re-tuned methods: the rate is tuned again at "
    "every S, on validation data."
)


def load(path: Path) -> tuple[list[Record], float]:
    """The runs of a table, without those that tuned a rate, and its target."""
    runs = read_records(path)
    seeds = {one.seed for one in runs if one.method == "base"}
    kept = one_per_seed(one for one in runs if one.seed in seeds)
    return kept, target_accuracy(kept, TARGET_DROP)


def block(
    name: str,
    runs: Sequence[Record],
    target: float,
    *,
    recommended: str = Table.recommended,
) -> str:
    """Tables of both measures, what they say, and where they were recorded.

    Args:
      name: of the table.
      runs: of the table.
      target: the accuracy to reach.
      recommended: the method whose verdicts are written.
    """
    found = outcomes(runs, target)
    kind = "Test" if runs[0].split == "test" else "Validation"
    head = _head(found, runs[0].recipe["base_batch"])
    parts = [
        _caption(runs[0], found["base", 1], target, kind),
        f"**{kind} accuracy after equal examples (%)**",
        matrix(found, head, accuracy, _accuracy_text),
        f"**Updates until {100 * target:.1f} %**",
        matrix(found, head, speed, updates_text, first=_perfect(found)),
        LEGEND,
        layout.bullets(verdicts(found, recommended)),
    ]
    if has_figure(runs):
        parts.append(f"![{name}]({FIGURES}/{name}.png)")
    commits = ", ".join(sorted({one.environment["commit"] for one in runs}))
    by = f"python -m benchmarks.suite {name}"
    parts.append(layout.recorded_on(runs[0].environment, commits, by))
    return layout.block(parts)


def _caption(first: Record, base: Outcome, target: float, kind: str) -> str:
    recipe = first.recipe
    return (
        f"{first.workload}: base batch {recipe['base_batch']}, "
        f"{first.base_steps:,} base steps, rate {recipe['learning_rate']:g} "
        f"({SCHEDULES[recipe['schedule']]}), "
        f"{MEMORIES[recipe['optimizer']]} {recipe['momentum']:g}. "
        f"{kind} accuracy of the base run {percent(base.accuracy)} % "
        f"({seeds(base.seeds)}), "
        f"target {100 * target:.1f} %."
    )


def scales_of(found: Found) -> list[int]:
    """Every S that has an outcome, without the base run's."""
    return sorted({scale for _, scale in found} - {1})


def _head(found: Found, base_batch: int) -> list[str]:
    columns = [f"S = {scale} ({scale * base_batch:,})" for scale in scales_of(found)]
    return ["method", *columns]


def matrix(
    found: Found,
    head: list[str],
    measure: Measure,
    text: Callable[[Outcome], str],
    *,
    first: Sequence[str] = (),
    methods: Iterable[str] = METHODS,
) -> str:
    """One measure, a row for each method and a column for each S.

    Args:
      found: outcomes by method and S.
      head: of the columns.
      measure: by which cells are judged.
      text: of an outcome.
      first: a row above the methods'; empty: none.
      methods: in the order of the rows.
    """
    scales, rows = scales_of(found), [head, *([first] if first else [])]
    for method in methods:
        keys = [(method, scale) for scale in scales]
        if any(key in found for key in keys):
            cells = [cell(found, key, measure, text) for key in keys]
            rows.append([METHODS[method].label, *cells])
    return layout.markdown(rows)


def _perfect(found: Found) -> list[str]:
    """The updates that are left if one at S is worth S of the base run."""
    base = found["base", 1]
    if base.reached < base.seeds:
        return []
    steps = base.counted.mean()
    cells = [f"{steps / scale:,.0f}" for scale in scales_of(found)]
    return ["*the base run's steps / S*", *cells]


def cell(
    found: Found,
    key: tuple[str, int],
    measure: Measure,
    text: Callable[[Outcome], str],
) -> str:
    """One cell, bold where the method is the best or level with it.

    Args:
      found: outcomes by method and S.
      key: method and S; where there is none, the cell is empty.
      measure: by which it is judged.
      text: of the outcome.
    """
    if key not in found:
        return ""
    own, base = found[key], found["base", 1]
    shown = f"**{text(own)}**" if is_bold(found, key, measure) else text(own)
    return shown if own.seeds >= base.seeds else f"{shown} ({seeds(own.seeds)})"


def seeds(count: int) -> str:
    """So many seeds, in words."""
    return f"{count} seed" if count == 1 else f"{count} seeds"


def percent(values: np.ndarray) -> str:
    """A mean and its standard error, of shares; of a single one no error."""
    mean = f"{100 * values.mean():.1f}"
    return f"{mean} ± {100 * standard_error(values):.1f}" if len(values) > 1 else mean


def _accuracy_text(outcome: Outcome) -> str:
    return percent(outcome.accuracy)


def updates_text(outcome: Outcome, never: str = "never") -> str:
    """Updates to the target, and how many seeds get there if not all do.

    Args:
      outcome: of one method at one S.
      never: of one of which no seed does.
    """
    if not outcome.reached:
        return never
    text = f"{outcome.counted.mean():,.0f}"
    if outcome.reached < outcome.seeds:
        text += f" ({outcome.reached}/{outcome.seeds})"
    return text
