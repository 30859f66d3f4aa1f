"""The block of AdamW at another batch: what a transferred recipe keeps, and which part.

One measure, accuracy at the base run's examples: these runs end there.
"""

from collections.abc import Sequence

from benchmarks.methods.adamw import ADAMW_ABLATIONS, ADAMW_METHODS
from benchmarks.methods.registry import METHODS
from benchmarks.pages import layout
from benchmarks.pages.outcomes import Outcome, gap, outcomes
from benchmarks.pages.result_block import percent
from benchmarks.pages.verdicts import Found, accuracy, is_bold
from benchmarks.records.record import Record, one_per_seed

# Of the points that the first loses against the base run, the second wins back a share.
LOSES, WINS = "adamw_square_root", "lena_adamw"


def block(table: Sequence[Record], transfer: Sequence[Record]) -> str:
    """The table of the methods, what is won back, and the ablation.

    Args:
      table: runs of the GPT's table, whose base run and opponents these are.
      transfer: runs of `python -m benchmarks.train gpt`, of both splits.
    """
    tested = [one for one in transfer if one.split == "test"]
    found = outcomes(one_per_seed([*table, *tested]), target=1.0)
    base = found["base", 1]
    parts = [
        f"{table[0].workload}: test accuracy (%) after the base run's examples, "
        f"mean ± standard error. The base run, S = 1: {percent(base.accuracy)} "
        f"({base.seeds} seeds).",
        layout.markdown(_table(found)),
        "Bold: the best, and those level with it.",
    ]
    if won_back := _won_back(found):
        parts.append(layout.bullets(won_back))
    if ablated := [one for one in transfer if one.method in ADAMW_ABLATIONS]:
        parts += _ablation(outcomes(one_per_seed(ablated), target=1.0))
    commits = ", ".join(
        sorted({one.environment["commit"] for one in (*table, *transfer)})
    )
    by = "python -m benchmarks.train gpt METHOD S --seeds SEED --out FILE"
    parts.append(layout.recorded_on(table[0].environment, commits, by))
    return layout.block(parts)


def _table(found: Found) -> list[list[str]]:
    scales = sorted({scale for _, scale in found} - {1})
    rows = [["method", *(f"S = {scale}" for scale in scales)]]
    for method in ADAMW_METHODS:
        if any((method, scale) in found for scale in scales):
            cells = [_cell(found, (method, scale)) for scale in scales]
            rows.append([METHODS[method].label, *cells])
    return rows


def _cell(found: Found, key: tuple[str, int]) -> str:
    if key not in found:
        return "not recorded"
    own = found[key]
    is_one = own.seeds == 1
    text = f"{100 * own.mean:.1f}" if is_one else percent(own.accuracy)
    text = f"**{text}**" if is_bold(found, key, accuracy) else text
    if own.seeds == found["base", 1].seeds:
        return text
    return f"{text} (1 seed)" if is_one else f"{text} ({own.seeds} seeds)"


def _won_back(found: Found) -> list[str]:
    """How far the recommended method is from the base run, at every S."""
    sentences, base = [], found["base", 1]
    for (method, scale), own in found.items():
        if method != WINS:
            continue
        text = f"S = {scale}: {own.label} ends {_points(own, base)} below the base run"
        if other := found.get((LOSES, scale)):
            lost, left = (
                gap(other.accuracy, base.accuracy),
                gap(own.accuracy, base.accuracy),
            )
            text += (
                f", {other.label} {_points(other, base)}: {100 * (1 - left / lost):.0f}"
                " % of what that loses is won back"
            )
        sentences.append(f"{text}.")
    return sentences


def _points(own: Outcome, base: Outcome) -> str:
    return f"{100 * gap(own.accuracy, base.accuracy):.1f} points"


def _ablation(found: Found) -> list[str]:
    rows = [["what counts examples", "S", "validation accuracy (%)", "seeds"]]
    for method in ADAMW_ABLATIONS:
        for (name, scale), one in found.items():
            if name == method:
                label = one.label.removeprefix("by examples: ")
                mean = f"{100 * one.accuracy.mean():.1f}"
                rows.append([label, str(scale), mean, str(one.seeds)])
    return [
        "What of `lena_adamw` counts examples, and what updates, on validation data:",
        layout.markdown(rows),
    ]
