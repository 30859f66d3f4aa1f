"""Rows: one method at one S for all seeds of a table, and the rates it is tuned to.

In: a table's workload and its file of records. Out: what the file did not hold yet.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.methods.registry import METHODS
from benchmarks.records import files
from benchmarks.records.record import Record, one_per_seed, target_accuracy
from benchmarks.tasks.recipe import Workload
from benchmarks.training import loop
from benchmarks.training.plan import Config
from benchmarks.training.tables import Load

# Whose curves are kept for every layer, of seed 0; of the others only the model's.
KEEPS_LAYERS = ("lena", "lena_amplified")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
      method: a key of `registry.METHODS`.
      batch_scale: S.
    """

    method: str
    batch_scale: int


def rows(methods: Sequence[str], scales: Sequence[int]) -> Iterator[Row]:
    """The rows of a table, in their order.

    Args:
      methods: keys of `registry.METHODS`; the base recipe has S = 1 only.
      scales: the other methods' S.
    """
    if "base" in methods:
        yield Row("base", 1)
    for scale in scales:
        for method in (name for name in methods if name != "base"):
            yield Row(method, scale)


def grid(method: str) -> tuple[float, ...]:
    """The rates that a method is tuned over; none if it takes the recipe's."""
    found = METHODS[method]
    return METHODS[found.tuned_as or method].rates


def find(
    runs: Iterable[Record], workload: Workload, config: Config, rate: float | None
) -> list[Record]:
    """The runs of a configuration that there are, one for each seed.

    Args:
      runs: of a file.
      workload: whose split they measured on.
      config: method, S and seeds.
      rate: of the recipe they had, to the digits that records keep; None: any.
    """
    return one_per_seed(
        run
        for run in runs
        if (run.method, run.batch_scale) == (config.method, config.batch_scale)
        and run.seed in config.seeds
        and run.split == workload.split
        and (rate is None or math.isclose(run.learning_rate, rate, rel_tol=1e-3))
    )


def is_complete(path: Path, workload: Workload, config: Config) -> bool:
    """Whether the file holds a run, at any rate, of every seed."""
    found = find(files.read_if_there(path, Record), workload, config, None)
    return len(found) == len(config.seeds)


def check_same_data(path: Path, workload: Workload) -> None:
    """Refuses a file whose records are of something else than the workload.

    Raises:
      ValueError: if there are such records, or a line that is none.
    """
    others = {run.workload for run in files.read_if_there(path, Record)}
    others.discard(workload.title)
    if others:
        raise ValueError(
            f"{path} must hold records of {workload.title!r}, got some of "
            f"{sorted(others)[0]!r}: give another file with `--out`."
        )


def run_row(
    row: Row,
    load: Load,
    seeds: tuple[int, ...],
    path: Path,
    on_progress: Callable[[float], None],
) -> list[Record]:
    """Trains what a row needs and appends its records to the file.

    Args:
      row: of the table.
      load: makes the workload; `load(validation=True)` the one to tune on.
      seeds: of the table.
      path: of the records.
      on_progress: as in `loop.run`.
    """
    workload, method, rate = load(), METHODS[row.method], None
    if grid(row.method):
        tuned = Row(method.tuned_as, 1) if method.tuned_as else row
        rate = _tune(tuned, load, path, on_progress)
    target = None if row.method == "base" else _target(path, workload, seeds)
    config = Config(row.method, row.batch_scale, seeds, rate=rate)
    return _append(loop.run(workload, config, on_progress, target), path)


def _tune(
    row: Row, load: Load, path: Path, on_progress: Callable[[float], None]
) -> float:
    """Returns the rate of the grid with the best validation accuracy at this S."""
    workload, method = load(validation=True), METHODS[row.method]
    tried = {}
    for rate in method.rates:
        config = Config(row.method, row.batch_scale, method.tuning_seeds, rate=rate)
        found = find(files.read_if_there(path, Record), workload, config, rate)
        left = set(config.seeds) - {record.seed for record in found}
        if left:
            config = dataclasses.replace(config, seeds=tuple(sorted(left)))
            found += _append(loop.run(workload, config, on_progress), path)
        tried[rate] = statistics.mean(record.final_accuracy for record in found)
    return max(tried, key=tried.__getitem__)


def _append(runs: Sequence[Record], path: Path) -> list[Record]:
    slim = [dataclasses.replace(run, layers=_slim(run)) for run in runs]
    files.append(slim, path)
    return slim


def _slim(record: Record) -> dict[str, list[float]]:
    everything = record.method in KEEPS_LAYERS and record.seed == 0
    return {
        key: values
        for key, values in record.layers.items()
        if everything or key.startswith("model/")
    }


def _target(path: Path, workload: Workload, seeds: tuple[int, ...]) -> float:
    base = Config("base", 1, seeds)
    runs = find(files.read_if_there(path, Record), workload, base, None)
    if len(runs) < len(seeds):
        raise ValueError(
            f"{path} must hold the base run first, got {len(runs)} of {len(seeds)} "
            "seeds: run this table with `--methods base`."
        )
    return target_accuracy(runs, workload.target_drop)
