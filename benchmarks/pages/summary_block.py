"""README's block: the tasks side by side, at two S, by the first measure."""

from collections.abc import Mapping, Sequence

from benchmarks.methods.registry import METHODS
from benchmarks.pages import layout
from benchmarks.pages.outcomes import outcomes
from benchmarks.pages.result_block import percent
from benchmarks.pages.verdicts import Found, accuracy, is_bold
from benchmarks.records.record import Record

# By name of the records: what a reader who knows none of them calls the task.
TASKS = {"demo": "digits", "fashion_batchnorm": "images", "text": "text"}
SCALES = (16, 64)
SHOWN = ("linear", "adascale", "lena", "lena_amplified", "sgd_tuned", "lars_tuned")


def block(kept: Mapping[str, tuple[Sequence[Record], float]]) -> str:
    """The table of README, and how to read it.

    Args:
      kept: by name, the runs of a task and its target.
    """
    found = {name: outcomes(*kept[name]) for name in TASKS}
    head = [f"{TASKS[name]}, S = {scale}" for name in TASKS for scale in SCALES]
    rows = [["", *head], ["base run, S = 1", *_base(found)]]
    rows += [[METHODS[method].label, *_row(found, method)] for method in SHOWN]
    caption = (
        "Test accuracy in percent when a run has seen the base run's examples, mean ± "
        "standard error over seeds. Bold: the best of all methods without re-tuning, "
        "and those level with it; [docs/benchmarks.md](docs/benchmarks.md) has the "
        "others, the updates to a target, and the protocol."
    )
    return layout.block([layout.markdown(rows), caption])


def _base(found: Mapping[str, Found]) -> list[str]:
    return [percent(one["base", 1].accuracy) for one in found.values() for _ in SCALES]


def _row(found: Mapping[str, Found], method: str) -> list[str]:
    keys = [(one, (method, scale)) for one in found.values() for scale in SCALES]
    return [_cell(one, key) for one, key in keys]


def _cell(found: Found, key: tuple[str, int]) -> str:
    if key not in found:
        return ""
    text = percent(found[key].accuracy)
    return f"**{text}**" if is_bold(found, key, accuracy) else text
