"""What validation data said: rates that were tuned at S, and ablations."""

import statistics
from collections.abc import Iterable, Sequence

from benchmarks.methods.registry import METHODS
from benchmarks.pages import layout
from benchmarks.pages.result_block import seeds
from benchmarks.records.record import Record


def parts(runs: Iterable[Record], ablations: Sequence[str]) -> list[str]:
    """Paragraphs and tables, as far as there are records.

    Args:
      runs: on validation data.
      ablations: the methods of the ablation.
    """
    at_scale = [run for run in runs if run.batch_scale > 1]
    tuned = [run for run in at_scale if run.method not in ablations]
    ablated = [run for run in at_scale if run.method in ablations]
    found = []
    if tuned:
        found += [
            "By the rate: validation accuracy (%) after the base run's "
            f"examples, {_seeds(tuned)}. Bold: the best at this S.",
            layout.markdown(_grid(tuned), left=2),
        ]
    if ablated:
        found += [
            "What counts examples, not updates: validation accuracy (%), "
            f"{_seeds(ablated)}.",
            layout.markdown(_ablation(ablated, ablations)),
        ]
    return found


def _seeds(runs: Sequence[Record]) -> str:
    """How many seeds stand behind a cell, at least."""
    cells: dict[tuple[str, int, float], set[int]] = {}
    for run in runs:
        key = run.method, run.batch_scale, run.learning_rate
        cells.setdefault(key, set()).add(run.seed)
    least, most = (f(len(own) for own in cells.values()) for f in (min, max))
    if most == 1:
        return seeds(most)
    return (
        f"means of {seeds(most)}"
        if least == most
        else f"means of {least} to {seeds(most)}"
    )


def _mean(runs: Iterable[Record]) -> float | None:
    found = [run.accuracy_at_equal_examples for run in runs]
    return 100 * statistics.mean(found) if found else None


def _grid(runs: Sequence[Record]) -> list[list[str]]:
    """A row for each S and method, a column for each rate."""
    rates = sorted({run.learning_rate for run in runs})
    table = [["S", "method", *(f"{rate:g}" for rate in rates)]]
    for scale in sorted({run.batch_scale for run in runs}):
        own = [run for run in runs if run.batch_scale == scale]
        means = {
            method: [
                _mean(r for r in own if (r.method, r.learning_rate) == (method, rate))
                for rate in rates
            ]
            for method in dict.fromkeys(run.method for run in own)
        }
        best = max(x for row in means.values() for x in row if x is not None)
        for method, row in sorted(means.items()):
            cells = [_cell(x, is_best=x == best) for x in row]
            table.append([str(scale), METHODS[method].label, *cells])
    return table


def _ablation(runs: Sequence[Record], methods: Sequence[str]) -> list[list[str]]:
    """A row for each method, a column for each S."""
    scales = sorted({run.batch_scale for run in runs})
    table = [["method", *(f"S = {scale}" for scale in scales)]]
    for method in methods:
        own = [run for run in runs if run.method == method]
        if own:
            means = [_mean(r for r in own if r.batch_scale == s) for s in scales]
            cells = [_cell(mean, is_best=False) for mean in means]
            table.append([METHODS[method].label, *cells])
    return table


def _cell(value: float | None, *, is_best: bool) -> str:
    if value is None:
        return ""
    return f"**{value:.1f}**" if is_best else f"{value:.1f}"
