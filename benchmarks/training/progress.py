"""Progress bars: one per row that trains, from `compiling` to its accuracy."""

from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.methods.registry import METHODS
from benchmarks.records.record import Record
from benchmarks.training.plan import MAX_BUDGET, Config


def progress_bars(console: Console) -> Progress:
    """A bar per row, for tasks with the fields `scale` and `status`."""
    return Progress(
        TextColumn("S = {task.fields[scale]:>3}  {task.description:<30}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[status]}"),
        console=console,
    )


def run_with_bar(
    progress: Progress,
    config: Config,
    train: Callable[[Callable[[float], None]], list[Record]],
) -> list[Record]:
    """Trains one row behind a bar, which ends with its accuracy.

    How long a run takes that has a target or a clock of its own, no one knows
    beforehand, so the bar is that of the longest.

    Args:
      progress: of `progress_bars`.
      config: what is trained.
      train: trains it, given `on_progress` of `run`.
    """
    label, scale = METHODS[config.method].label, config.batch_scale
    task = progress.add_task(label, total=MAX_BUDGET, scale=scale, status="compiling")
    runs = train(lambda share: progress.update(task, completed=share, status=""))
    equal = np.mean([run.accuracy_at_equal_examples for run in runs])
    progress.update(task, completed=MAX_BUDGET, status=f"{100 * equal:.1f} %")
    return runs
