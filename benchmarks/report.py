"""Reports: records in, a table and plain sentences out.

Everything printed is computed from the records. What counts as better: the mean test
accuracy over seeds at the end of a run; two means closer than the standard error of
their difference are called level.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.methods import METHODS
from benchmarks.records import Record

# The method that is compared with the others, and the one whose layers are shown:
# the paper's, for its warm-up.
OURS, LAYERS_OF = "lena_amplified", "lena"


@dataclasses.dataclass(frozen=True)
class Summary:
    """The runs of one method at one S.

    Attributes:
      method: a key of `METHODS`.
      batch_scale: S.
      seeds: how many runs.
      mean: test accuracy at the end.
      error: standard error of the mean.
      worst: accuracy of the worst seed.
      updates: mean number of updates.
      updates_to_target: mean over the seeds that reach the target; None without any.
      reached: how many do.
      seconds: mean wall time of a run.
    """

    method: str
    batch_scale: int
    seeds: int
    mean: float
    error: float
    worst: float
    updates: float
    updates_to_target: float | None
    reached: int
    seconds: float

    @property
    def label(self) -> str:
        """The method, for people."""
        return METHODS[self.method].label


def group(records: Sequence[Record]) -> dict[tuple[str, int], list[Record]]:
    """Groups records by method and S, in their order."""
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record.method, record.batch_scale), []).append(record)
    return groups


def target_accuracy(records: Sequence[Record], drop: float) -> float:
    """The base run's mean accuracy minus `drop`."""
    finals = [r.final_accuracy for r in records if r.method == "base"]
    return float(np.mean(finals)) - drop


def standard_error(values: np.ndarray) -> float:
    """The standard error of the mean; not a number for a single value."""
    if len(values) < 2:
        return math.nan
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def is_level(gap: float, first: float, second: float) -> bool:
    """Whether a gap between two means is within its own standard error.

    Args:
      gap: of the means.
      first: standard error of the one; if it is not a number, only no gap is level.
      second: standard error of the other.
    """
    error = math.hypot(first, second)
    return abs(gap) <= (error if math.isfinite(error) else 0)


def summarise(records: Sequence[Record], target: float) -> list[Summary]:
    """One summary per method and S, in the records' order."""
    return [_summary(runs, target) for runs in group(records).values()]


def _summary(runs: list[Record], target: float) -> Summary:
    finals = np.array([run.final_accuracy for run in runs])
    reached = [u for u in (run.updates_to(target) for run in runs) if u is not None]
    return Summary(
        method=runs[0].method,
        batch_scale=runs[0].batch_scale,
        seeds=len(runs),
        mean=float(finals.mean()),
        error=standard_error(finals),
        worst=float(finals.min()),
        updates=float(np.mean([run.updates[-1] for run in runs])),
        updates_to_target=float(np.mean(reached)) if reached else None,
        reached=len(reached),
        seconds=float(np.mean([run.seconds for run in runs])),
    )


def table(summaries: Sequence[Summary], base_batch: int, target: float) -> Table:
    """The table that a newcomer reads, 78 columns wide.

    Args:
      summaries: one row each, ordered by S.
      base_batch: examples per base batch.
      target: the accuracy of which the table says when it was reached.
    """
    seeds = max(row.seeds for row in summaries)
    result = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=f"Test accuracy (%), mean ± standard error of {seeds} seeds",
        title_justify="left",
    )
    header, *rows = cells(summaries, base_batch, target)
    for number, name in enumerate(header):
        justify = "left" if number < 2 else "right"
        result.add_column(name, justify=justify, no_wrap=True)
    for row in rows:
        if row[0] and row is not rows[0]:
            result.add_section()
        result.add_row(*row)
    return result


def cells(
    summaries: Sequence[Summary], base_batch: int, target: float
) -> list[list[str]]:
    """The table's header and rows as text; S stands in the first row of its group."""
    to_target = f"to {100 * target:.1f} %"
    rows = [
        ["S (batch)", "method", "accuracy", "worst", "updates", to_target, "seconds"]
    ]
    scale = None
    for row in summaries:
        is_first, scale = row.batch_scale != scale, row.batch_scale
        rows.append(
            [
                f"{scale} ({scale * base_batch:,})" if is_first else "",
                row.label,
                f"{100 * row.mean:.1f} ± {100 * row.error:.1f}",
                f"{100 * row.worst:.1f}",
                f"{row.updates:,.0f}",
                _to_target(row),
                f"{row.seconds:.1f}",
            ]
        )
    return rows


def _to_target(row: Summary) -> str:
    if row.updates_to_target is None:
        return "never"
    share = "" if row.reached == row.seeds else f" ({row.reached}/{row.seeds})"
    return f"{row.updates_to_target:,.0f}{share}"


def conclusions(records: Sequence[Record], summaries: Sequence[Summary]) -> list[str]:
    """What happened, in sentences made from the numbers."""
    base = next(row for row in summaries if row.method == "base")
    scales = sorted({row.batch_scale for row in summaries if row.method != "base"})
    sentences = []
    for scale in scales:
        rows = [r for r in summaries if r.batch_scale == scale and r is not base]
        sentences.append(_comparison(scale, rows, base))
    runs = group(records).get((LAYERS_OF, scales[-1]))
    return sentences + ([_layers(runs)] if runs else [])


def _comparison(scale: int, rows: Sequence[Summary], base: Summary) -> str:
    best = max(rows, key=lambda row: row.mean)
    text = f"S = {scale}: {best.label} is best with {_percent(best)}"
    level = [r for r in rows if r is not best and _level(r, best)]
    if level:
        names = " and ".join(f"{r.label} ({_percent(r)})" for r in level)
        text += f"; level with it, within the standard error: {names}"
    ours = next((row for row in rows if row.method == OURS), None)
    if ours and ours is not best and ours not in level:
        text += f"; {ours.label} is {_points(best.mean - ours.mean)} behind"
    failed = [r for r in rows if r.worst < base.mean / 2]
    for row in failed:
        text += f"; {row.label} failed to train (worst seed {100 * row.worst:.1f} %)"
    if ours:
        text += (
            f". There {ours.label} ends {_against(ours, base)} the base run "
            f"({_percent(base)}), in {ours.updates:,.0f} updates instead of "
            f"{base.updates:,.0f}"
        )
    clock = next((r for r in rows if METHODS[r.method].own_clock), None)
    if ours and clock:
        text += f" ({clock.label}, on its own clock, takes {clock.updates:,.0f})"
    return text + "."


def _level(row: Summary, best: Summary) -> bool:
    return is_level(best.mean - row.mean, row.error, best.error)


def _against(row: Summary, base: Summary) -> str:
    """Says how far a method ends from the base run."""
    first, second = sorted((row, base), key=lambda each: each.mean)
    if _level(first, second):
        return "level with"
    side = "below" if first is row else "above"
    return f"{_points(second.mean - first.mean)} {side}"


def _percent(row: Summary) -> str:
    return f"{100 * row.mean:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _layers(runs: Sequence[Record]) -> str:
    """Which layers got the highest and the lowest rate, and when warm-ups ended."""
    scale, base_steps = runs[0].batch_scale, runs[0].base_steps
    ratios = _per_layer(runs, "trust_ratio", np.mean)
    ends = _per_layer(runs, "warmup_end", lambda values: values[-1])
    high, low = max(ratios, key=ratios.__getitem__), min(ratios, key=ratios.__getitem__)
    text = (
        f"At S = {scale}, LENA's mean trust ratio over the run was highest in {high} "
        f"({ratios[high]:.1f}) and lowest in {low} ({ratios[low]:.1f})"
    )
    ended = {layer: end for layer, end in ends.items() if end >= 0}
    if ended:
        first, last = (
            min(ended, key=ended.__getitem__),
            max(ended, key=ended.__getitem__),
        )
        text += (
            f"; warm-ups ended between base-batch steps {ended[first]:,.0f} ({first}) "
            f"and {ended[last]:,.0f} ({last}) of {base_steps:,}"
        )
    if len(ended) < len(ends):
        text += f"; {len(ends) - len(ended)} of {len(ends)} layers had not ended theirs"
        text += " in every run"
    return text + "."


def _per_layer(
    runs: Sequence[Record], field: str, reduce: Callable[[list[float]], Any]
) -> dict[str, float]:
    """Reduces a field over time, then averages it over runs; -1 if any run has -1."""
    prefix = f"{field}/"
    result = {}
    for key in (key for key in runs[0].layers if key.startswith(prefix)):
        values = [float(reduce(run.layers[key])) for run in runs]
        unfinished = any(value < 0 for value in values)
        result[key.removeprefix(prefix)] = -1 if unfinished else float(np.mean(values))
    return result
