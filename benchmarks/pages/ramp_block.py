"""The block of docs/batch_size.md on batches that grow: updates and accuracy."""

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.methods.registry import METHODS
from benchmarks.pages import layout
from benchmarks.pages.outcomes import gap, gap_error, is_level
from benchmarks.pages.result_block import percent
from benchmarks.ramp.run import Run
from benchmarks.ramp.ways import OURS, WAYS

REFERENCE = "constant_8"
# The default without a start; the setting that was chosen on the validation split of
# the text, before the test; and that which docs/batch_size.md recommends.
CHOSEN = ("ramp", "ramp_calmer", "ramp_late")
BAR = 40
FIGURE = "batch_size/ramp.png"
Group = Mapping[str, Sequence[Run]]


def by_workload(runs: Sequence[Run]) -> dict[tuple[str, str], dict[str, list[Run]]]:
    """By workload and split, tests first, then by way, in the order of `WAYS`."""
    recorded = dict.fromkeys((run.workload, run.split) for run in runs)
    keys = sorted(recorded, key=lambda key: key[1])
    return {
        key: {
            way: own
            for way in WAYS
            if (own := [r for r in runs if (r.workload, r.split, r.way) == (*key, way)])
        }
        for key in keys
    }


def block(runs: Sequence[Run]) -> str:
    """A table for each workload, what it says of the bar, the figure, and where.

    Args:
      runs: of `python -m benchmarks.ramp`.
    """
    groups = by_workload(runs)
    parts: list[str] = []
    for (workload, split), group in groups.items():
        parts += [_caption(workload, split, group), _table(group)]
    sentences = [
        _verdict(workload, split, group)
        for (workload, split), group in groups.items()
        if REFERENCE in group and any(way in group for way in CHOSEN)
    ]
    commits = ", ".join(sorted({run.environment["commit"] for run in runs}))
    by = "python -m benchmarks.ramp TABLE"
    recorded = layout.recorded_on(runs[0].environment, commits, by)
    picture = f"![Accuracy and batch over examples]({FIGURE})"
    return layout.block([*parts, layout.bullets(sentences), picture, recorded])


def final(runs: Sequence[Run]) -> np.ndarray:
    """Accuracies at the end."""
    return np.array([run.accuracy[-1] for run in runs])


def mean_updates(runs: Sequence[Run]) -> float:
    """Updates of a whole run."""
    return float(np.mean([run.updates[-1] for run in runs]))


def _caption(workload: str, split: str, group: Group) -> str:
    first = next(iter(group.values()))[0]
    ours = METHODS[OURS[first.recipe["optimizer"]]].label
    return (
        f"**{workload}**, {split} accuracy after {first.base_steps:,} base batches of "
        f"{first.recipe['base_batch']}, {ours} where no other optimizer is named:"
    )


def _table(group: Group) -> str:
    head = ["", "S, first seed (from base batch)", "updates", "fewer"]
    head += ["accuracy (%)", "seeds"]
    return layout.markdown([head, *(_row(way, group) for way in group)], left=2)


def _row(way: str, group: Group) -> list[str]:
    runs = group[way]
    fewer = "" if way == REFERENCE else f"{_fewer(group, way):.0f} %"
    return [
        WAYS[way].label,
        ", ".join(f"{scale} ({step:,})" for step, scale in runs[0].changes),
        f"{mean_updates(runs):,.0f}",
        fewer,
        percent(final(runs)),
        f"{len(runs)}",
    ]


def _fewer(group: Group, way: str) -> float:
    return 100 * (1 - mean_updates(group[way]) / mean_updates(group[REFERENCE]))


def _verdict(workload: str, split: str, group: Group) -> str:
    parts = [_against(group, way) for way in CHOSEN if way in group]
    others = [way for way in group if way not in (*CHOSEN, REFERENCE)]
    level = [WAYS[way].label for way in others if _holds(group, way)]
    also = f" It is also met by {'; '.join(level)}." if level else ""
    return (
        f"{workload}, {split}: {'; '.join(parts)}. The bar is {BAR} % fewer updates at "
        f"an accuracy within a standard error of the difference.{also}"
    )


def _holds(group: Group, way: str) -> bool:
    own, reference = final(group[way]), final(group[REFERENCE])
    kept = is_level(own, reference) or own.mean() > reference.mean()
    return _fewer(group, way) >= BAR and kept


def _against(group: Group, way: str) -> str:
    own, reference = final(group[way]), final(group[REFERENCE])
    below, error = 100 * gap(own, reference), 100 * gap_error(own, reference)
    side = "below" if below >= 0 else "above"
    verdict = "is met" if _holds(group, way) else "is missed"
    return (
        f"{WAYS[way].label} makes {_fewer(group, way):.0f} % fewer updates than "
        f"constant S = 8 and ends {abs(below):.3f} ± {error:.3f} points {side} it: the "
        f"bar {verdict}"
    )
