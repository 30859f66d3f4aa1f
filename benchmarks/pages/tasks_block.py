"""The block that says what every small task is."""

import inspect
from collections.abc import Mapping, Sequence

from benchmarks.pages import layout
from benchmarks.unseen.__main__ import FAMILIES, SEEDS
from benchmarks.unseen.catalogue import TASKS
from benchmarks.unseen.run import Score


def block(recorded: Mapping[str, Sequence[Score]]) -> str:
    """What each task is, and the base rates of its recipes.

    Args:
      recorded: runs of `python -m benchmarks.unseen`, by the recipe.
    """
    labels = (f"rate, {FAMILIES[recipe].label}" for recipe in recorded)
    rates = [_base_rates(scores) for scores in recorded.values()]
    rows = [["task", "what it is", *labels]]
    for task, make in TASKS.items():
        what = (inspect.getdoc(make) or "").partition(".\n")[0].removesuffix(".")
        own = [f"{found[task]:g}" if task in found else "" for found in rates]
        rows.append([task.replace("_", " "), what, *own])
    where = "Base rates are those of the records. Empty: not recorded."
    return layout.block([layout.markdown(rows, left=2), where])


def _base_rates(recorded: Sequence[Score]) -> dict[str, float]:
    """The rates of the tables' base runs, by the task."""
    runs = (one for one in recorded if one.method == "base" and one.seed in SEEDS)
    return {one.task: one.rate for one in runs}
