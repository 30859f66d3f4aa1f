"""Conclusions: what the demo's runs say, in sentences made from the numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.methods.registry import METHODS
from benchmarks.pages.outcomes import Key, Outcome, is_level
from benchmarks.records.record import Record, by_method

# The method that is compared with the others, and the one whose layers are shown:
# the paper's, for its warm-up.
OURS, SHOWN_BY_LAYER = "lena_amplified", "lena"


def sentences(records: Sequence[Record], found: Mapping[Key, Outcome]) -> list[str]:
    """What happened, in sentences made from the numbers."""
    base = found["base", 1]
    scales = sorted({scale for method, scale in found if method != "base"})
    result = []
    for scale in scales:
        rows = [r for r in found.values() if r.batch_scale == scale and r is not base]
        result.append(_comparison(scale, rows, base))
    runs = by_method(records).get((SHOWN_BY_LAYER, scales[-1]))
    return result + ([_layers(runs)] if runs else [])


def _comparison(scale: int, rows: Sequence[Outcome], base: Outcome) -> str:
    best = max(rows, key=lambda row: row.mean)
    ours = next((row for row in rows if row.method == OURS), None)
    text = f"S = {scale}: {best.label} is best with {_percent(best)}"
    text += _level_with(best, rows) + _behind(best, ours)
    for row in (row for row in rows if row.final.min() < base.mean / 2):
        worst = f"{100 * row.final.min():.1f} %"
        text += f"; {row.label} failed to train (worst seed {worst})"
    return text + _beside_base(ours, base, rows) + "."


def _level_with(best: Outcome, rows: Sequence[Outcome]) -> str:
    level = [r for r in rows if r is not best and is_level(r.final, best.final)]
    names = " and ".join(f"{r.label} ({_percent(r)})" for r in level)
    return f"; level with it, within the standard error: {names}" if level else ""


def _behind(best: Outcome, ours: Outcome | None) -> str:
    if ours is None or ours is best or is_level(ours.final, best.final):
        return ""
    return f"; {ours.label} is {_points(best.mean - ours.mean)} behind"


def _beside_base(ours: Outcome | None, base: Outcome, rows: Sequence[Outcome]) -> str:
    if ours is None:
        return ""
    text = (
        f". There {ours.label} ends {_against(ours, base)} the base run "
        f"({_percent(base)}), in {ours.updates.mean():,.0f} updates instead of "
        f"{base.updates.mean():,.0f}"
    )
    clock = next((row for row in rows if METHODS[row.method].own_clock), None)
    if clock:
        updates = f"{clock.updates.mean():,.0f}"
        text += f" ({clock.label}, on its own clock, takes {updates})"
    return text


def _against(row: Outcome, base: Outcome) -> str:
    """Says how far a method ends from the base run."""
    if is_level(row.final, base.final):
        return "level with"
    side = "below" if row.mean < base.mean else "above"
    return f"{_points(abs(base.mean - row.mean))} {side}"


def _percent(row: Outcome) -> str:
    return f"{100 * row.mean:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _layers(runs: Sequence[Record]) -> str:
    """Which layers got the highest and the lowest rate, and when warm-ups ended."""
    ratios = _per_layer(runs, "trust_ratio", np.mean)
    high, low = max(ratios, key=ratios.__getitem__), min(ratios, key=ratios.__getitem__)
    return (
        f"At S = {runs[0].batch_scale}, LENA's mean trust ratio over the run was "
        f"highest in {high} ({ratios[high]:.1f}) and lowest in {low} "
        f"({ratios[low]:.1f}){_warmups(runs)}."
    )


def _warmups(runs: Sequence[Record]) -> str:
    ends = _per_layer(runs, "warmup_end", lambda values: values[-1])
    ended = {layer: end for layer, end in ends.items() if end >= 0}
    text = ""
    if ended:
        first, last = (pick(ended, key=ended.__getitem__) for pick in (min, max))
        text += (
            f"; warm-ups ended between base-batch steps {ended[first]:,.0f} ({first}) "
            f"and {ended[last]:,.0f} ({last}) of {runs[0].base_steps:,}"
        )
    if len(ended) < len(ends):
        text += f"; {len(ends) - len(ended)} of {len(ends)} layers had not ended theirs"
        text += " in every run"
    return text


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
