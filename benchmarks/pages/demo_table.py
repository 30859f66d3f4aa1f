"""The demo's table: for a terminal, and as cells for README."""

from collections.abc import Mapping

import numpy as np
from rich.table import Table

from benchmarks.pages import layout
from benchmarks.pages.outcomes import Key, Outcome


def printed(found: Mapping[Key, Outcome], base_batch: int, target: float) -> Table:
    """The table that a newcomer reads, 78 columns wide.

    Args:
      found: one row each, ordered by S.
      base_batch: examples per base batch.
      target: the accuracy of which the table says when it was reached.
    """
    seeds = max(row.seeds for row in found.values())
    result = layout.terminal(
        f"Test accuracy (%), mean ± standard error of {seeds} seeds"
    )
    header, *others = cells(found, base_batch, target)
    for number, name in enumerate(header):
        justify = "left" if number < 2 else "right"
        result.add_column(name, justify=justify, no_wrap=True)
    for row in others:
        if row[0] and row is not others[0]:
            result.add_section()
        result.add_row(*row)
    return result


def cells(
    found: Mapping[Key, Outcome], base_batch: int, target: float
) -> list[list[str]]:
    """Header and rows as text; S stands in the first row of its group."""
    to_target = f"to {100 * target:.1f} %"
    result = [
        ["S (batch)", "method", "accuracy", "worst", "updates", to_target, "seconds"]
    ]
    scale = None
    for row in found.values():
        is_first, scale = row.batch_scale != scale, row.batch_scale
        first = f"{scale} ({scale * base_batch:,})" if is_first else ""
        result.append([first, *_numbers(row)])
    return result


def _numbers(row: Outcome) -> list[str]:
    return [
        row.label,
        f"{100 * row.mean:.1f} ± {100 * row.error:.1f}",
        f"{100 * row.final.min():.1f}",
        f"{row.updates.mean():,.0f}",
        _to_target(row),
        f"{row.seconds.mean():.1f}",
    ]


def _to_target(row: Outcome) -> str:
    if not row.reached:
        return "never"
    share = "" if row.reached == row.seeds else f" ({row.reached}/{row.seeds})"
    return f"{np.nanmean(row.to_target):,.0f}{share}"
