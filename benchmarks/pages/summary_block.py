"""README's block: the tasks side by side, at one to three S, by the first measure."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from benchmarks.methods.registry import METHODS
from benchmarks.pages import again_block, layout, recipes_block, unseen_block
from benchmarks.pages.outcomes import Outcome, gap, gap_error, outcomes
from benchmarks.pages.result_block import cell, percent
from benchmarks.pages.verdicts import Found, accuracy
from benchmarks.records.record import Record
from benchmarks.unseen.run import Score

# By name of the records: what a reader who knows none of them calls the task, and S.
TASKS = {
    "fashion_long": ("images, long", (64, 128, 256)),
    "fashion_batchnorm": ("images", (16, 64)),
    "text": ("text", (16, 64)),
    "demo": ("digits", (64,)),
}
# The length of the paper's runs, where enough updates are left; AdaScale as it has it.
HEADLINE, OURS, PEER = "fashion_long", "lena_amplified", "adascale_warmup"
# Where a run that keeps the accuracy is to be expected, and updates can be counted.
COUNTED = (32, 64, 128)
SMALL, RECIPES = "docs/small_tasks.md", "docs/recipes.md"
# Points of accuracy that README names no S for.
_LITTLE = 0.5
SHOWN = (
    "linear",
    "adascale",
    "adascale_warmup",
    "lena",
    "lena_amplified",
    "sgd_tuned",
    "sgd_tuned_state_aware",
    "lars_tuned",
    "lamb_tuned",
)


def block(
    kept: Mapping[str, tuple[Sequence[Record], float]],
    gpt: Sequence[Record],
    unseen: Sequence[Score],
    recipes: Mapping[str, Sequence[Score]],
    adamw: Mapping[str, Sequence[Score]],
) -> str:
    """The table of README, and how to read it.

    Args:
      kept: by name, the runs of a task and its target.
      gpt: test runs with AdamW, ours and the square root of S with our memories.
      unseen: of momentum SGD on the small tasks.
      recipes: of other recipes of SGD on some of them, by recipe.
      adamw: of recipes of AdamW.
    """
    found = {name: outcomes(*kept[name]) for name in TASKS}
    head = [f"{label}, S = {s}" for label, scales in TASKS.values() for s in scales]
    rows = [["", *head], ["base run, S = 1", *_base(found)]]
    rows += [[METHODS[method].label, *_row(found, method)] for method in SHOWN]
    caption = (
        "Test accuracy in percent when a run has seen the base run's examples, mean ± "
        "standard error over seeds. Bold: the best of all methods without re-tuning, "
        "with those that only docs/benchmarks.md shows, and those *level* with it: "
        "closer than the standard error of the difference. "
        "Empty: not run. [docs/benchmarks.md](docs/benchmarks.md) has the other "
        "methods, the updates to a target, and the protocol."
    )
    text = " ".join([caption, *_headline(found[HEADLINE])])
    small = unseen_block.sentence(unseen, tasks=f"[small tasks]({SMALL})")
    small = f"{small} {again_block.sentence(unseen)}".strip()
    small = f"{small} {recipes_block.sentence(recipes, link=RECIPES)}".strip()
    with_adam = " ".join([*_adamw(gpt), recipes_block.sentence(adamw, link=RECIPES)])
    parts = [layout.markdown(rows), text, small, with_adam.strip()]
    return layout.block([part for part in parts if part])


def _base(found: Mapping[str, Found]) -> list[str]:
    return [percent(found[name]["base", 1].accuracy) for name, _ in _columns()]


def _row(found: Mapping[str, Found], method: str) -> list[str]:
    def text(outcome: Outcome) -> str:
        return percent(outcome.accuracy)

    return [
        cell(found[name], (method, scale), accuracy, text) for name, scale in _columns()
    ]


def _headline(found: Found) -> list[str]:
    """How many updates to the target are left, beside the best that could be."""
    keys = [(method, scale) for method in (OURS, PEER) for scale in COUNTED]
    if not all(key in found and found[key].reached for key in keys):
        return []
    ours, peer = (_updates(found, method) for method in (OURS, PEER))
    steps, text = found["base", 1].counted.mean(), ""
    if all(("linear", scale) in found for scale in COUNTED):
        linear = _updates(found, "linear")
        text = f" Linear scaling takes {linear}."
    perfect = _listed(f"{steps / scale:,.0f}" for scale in COUNTED)
    return [
        f"With as many base steps as in the paper (*{TASKS[HEADLINE][0]}*), "
        f"`{OURS}` is within half a point of the base run after {ours} updates at S = "
        f"{_listed(COUNTED)}. If each update were worth S updates of the base run, it "
        f"would take {perfect}. AdaScale with LENA's warm-up, as in the LENA paper, "
        f"takes {peer}.{text} Seeds that miss the target are not in these means "
        "(docs/benchmarks.md counts such seeds with all their updates)."
    ]


def _adamw(runs: Sequence[Record]) -> list[str]:
    """What gains add to the memories."""
    found = outcomes(runs, target=1.0)
    names = ("lena_adamw", "adamw_transferred")
    scales = sorted({scale for _, scale in found} - {1})
    added, rest = [], []
    for scale in scales:
        if all((name, scale) in found for name in names):
            ours, other = (100 * found[name, scale].accuracy for name in names)
            if len(ours) == len(other) > 1:
                points = -gap(ours, other)
                by = f"{points:+.1f} ± {gap_error(ours, other):.1f}"
                if abs(points) >= _LITTLE:
                    added.append(f"{by} points at S = {scale}")
                else:
                    rest.append(abs(points))
    if not added:
        return []
    little = f", and by {max(rest):.1f} at most elsewhere" if rest else ""
    return [
        "With AdamW, most of the benefit is that β1 and β2 count examples. Compared "
        "with √S scaling with such β1 and β2, `lena_adamw` changes accuracy by "
        f"{_listed(added)}{little}, on [a small GPT](docs/adamw_results.md)."
    ]


def _updates(found: Found, method: str) -> str:
    return _listed(_mean_updates(found[method, s]) for s in COUNTED)


def _mean_updates(own: Outcome) -> str:
    """Of the seeds that get there."""
    if not own.reached:
        return "more than it was given"
    text = f"{np.nanmean(own.to_target):,.0f}"
    is_whole = own.reached == own.seeds
    return text if is_whole else f"{text} in {own.reached} of {own.seeds} seeds"


def _listed(items: Iterable[object]) -> str:
    *others, last = map(str, items)
    return f"{', '.join(others)} and {last}" if others else last


def _columns() -> list[tuple[str, int]]:
    return [(name, scale) for name, (_, scales) in TASKS.items() for scale in scales]
