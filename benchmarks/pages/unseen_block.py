"""The block of the tasks that nothing was tuned on."""

import math
from collections.abc import Sequence
from statistics import mean, stdev

from benchmarks.pages import layout
from benchmarks.unseen.__main__ import METHODS, SCALES, SEEDS, TASKS
from benchmarks.unseen.run import Score

# By row: what one layer is made of, with one gain each and with one for the model.
PAIRS = {
    "LENA": ("lena", "lena_model"),
    "amplified": ("lena_amplified", "amplified_model"),
}

Scores = dict[tuple[str, str, int], list[float]]


def block(recorded: Sequence[Score]) -> str:
    """Scores of every method, and what one gain for each layer adds.

    Args:
      recorded: runs of `python -m benchmarks.unseen`, of which those that tuned the
        base rates are left out.
    """
    scores: Scores = {}
    for one in recorded:
        if one.seed in SEEDS:
            key = one.task, one.method, one.batch_scale
            score = math.nan if one.score is None else one.score
            scores.setdefault(key, []).append(score)
    commits = ", ".join(sorted({one.environment["commit"] for one in recorded}))
    where = layout.recorded_on(
        recorded[0].environment, commits, "python -m benchmarks.unseen"
    )
    return layout.block(
        [
            layout.markdown(_table(scores), left=2),
            LEGEND,
            "**One gain for each layer, less one for the whole model**",
            layout.markdown(_differences(scores)),
            f"Paired by seeds. {where}",
        ]
    )


LEGEND = (
    "Score in percent (accuracy, or explained variance) when a run has seen the base "
    "run's examples: mean ± standard error of three seeds. Bold: the best without "
    "re-tuning, and those within a standard error of the difference. Lost: so many "
    "seeds are not finite, or score below half of the base run."
)


def _table(scores: Scores) -> list[list[str]]:
    rows = [["task", "S", "base run", *(label for label, _ in METHODS.values())]]
    for task in TASKS:
        base = scores.get((task, "base", 1))
        for scale in SCALES:
            own = [scores.get((task, method, scale)) for method in METHODS]
            is_whole = all(one is not None and len(one) == len(SEEDS) for one in own)
            if base is not None and is_whole:
                cells = [_cell(one, own, mean(base)) for one in own]
                name = TASKS[task].__name__.replace("_", " ")
                rows.append([name, str(scale), _text(base), *cells])
    return rows


def _cell(
    one: list[float] | None, others: Sequence[list[float] | None], base: float
) -> str:
    if one is None:
        return ""
    if lost := sum(not score > base / 2 for score in one):
        return f"{lost} of {len(one)} lost"
    whole = [own for own in others if own and all(s > base / 2 for s in own)]
    best = max(whole, key=mean)
    is_level = mean(best) - mean(one) <= math.hypot(_error(best), _error(one))
    return f"**{_text(one)}**" if is_level else _text(one)


def _differences(scores: Scores) -> list[list[str]]:
    rows = [["task", *(f"{label}, S = {s}" for label in PAIRS for s in SCALES)]]
    for task in TASKS:
        cells = []
        for layers, model in PAIRS.values():
            for scale in SCALES:
                pair = [scores.get((task, m, scale), []) for m in (layers, model)]
                gained = [a - b for a, b in zip(*pair, strict=False)]
                is_whole = gained and all(map(math.isfinite, gained))
                cells.append(
                    f"{mean(gained):+.1f} ± {_error(gained):.1f}" if is_whole else ""
                )
        if any(cells):
            rows.append([TASKS[task].__name__.replace("_", " "), *cells])
    return rows


def _text(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ± {_error(values):.1f}"


def _error(values: Sequence[float]) -> float:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
