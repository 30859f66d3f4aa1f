"""Tables: every method at every S on one workload, as the protocol in README says.

`python -m benchmarks.suite TABLE` records what `results/TABLE.jsonl` does not hold yet,
so that it can be stopped and started again; `--part 0/2` and `--part 1/2` share the
rows between two processes. With `--methods` and `--scales` it reruns single rows.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import records, report, train
from benchmarks.ablations import EVERY
from benchmarks.plan import Config
from benchmarks.progress import progress_bars, run_with_bar
from benchmarks.records import Record
from benchmarks.tables import TABLES, Load, loader
from benchmarks.workloads import Workload

RESULTS = Path(__file__).parent.parent / "results"
# Rates are tuned with a seed that no table has.
TUNING_SEED = 100
# Whose curves are kept for every layer, of seed 0; of the others only the model's.
LAYERS_OF = ("lena", "lena_amplified")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
      method: a key of `EVERY`.
      batch_scale: S.
    """

    method: str
    batch_scale: int


def rows(methods: Sequence[str], scales: Sequence[int]) -> Iterator[Row]:
    """The rows of a table, in their order.

    Args:
      methods: keys of `EVERY`; the base recipe has S = 1 only.
      scales: the other methods' S.
    """
    if "base" in methods:
        yield Row("base", 1)
    for scale in scales:
        for method in (name for name in methods if name != "base"):
            yield Row(method, scale)


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
      on_progress: as in `train.run`.
    """
    workload, method, rate = load(), EVERY[row.method], None
    if method.rates or method.tuned_as:
        tuned = Row(method.tuned_as, 1) if method.tuned_as else row
        rate = _tune(tuned, load, path, on_progress)
    target = None if row.method == "base" else _target(path, workload, seeds)
    config = Config(row.method, row.batch_scale, seeds, rate=rate)
    return _append(train.run(workload, config, on_progress, target), path)


def _tune(
    row: Row, load: Load, path: Path, on_progress: Callable[[float], None]
) -> float:
    """Returns the rate of the grid with the best validation accuracy at this S."""
    workload = load(validation=True)
    tried = {}
    for rate in EVERY[row.method].rates:
        config = Config(row.method, row.batch_scale, (TUNING_SEED,), rate=rate)
        (record,) = _find(path, config) or _append(
            train.run(workload, config, on_progress), path
        )
        tried[rate] = record.final_accuracy
    return max(tried, key=tried.__getitem__)


def _find(path: Path, config: Config) -> list[Record]:
    """The records of a run, if the file holds them all; without a rate, at any."""
    found = records.one_per_seed(
        record
        for record in (records.read(path) if path.exists() else [])
        if (record.method, record.batch_scale) == (config.method, config.batch_scale)
        and record.seed in config.seeds
        and config.rate in (None, record.recipe["learning_rate"])
    )
    return found if len(found) == len(config.seeds) else []


def _append(runs: Sequence[Record], path: Path) -> list[Record]:
    path.parent.mkdir(parents=True, exist_ok=True)
    slim = [dataclasses.replace(run, layers=_kept(run)) for run in runs]
    records.write(slim, path, append=True)
    return slim


def _kept(record: Record) -> dict[str, list[float]]:
    everything = record.method in LAYERS_OF and record.seed == 0
    return {
        key: values
        for key, values in record.layers.items()
        if everything or key.startswith("model/")
    }


def _target(path: Path, workload: Workload, seeds: tuple[int, ...]) -> float:
    base = _find(path, Config("base", 1, seeds))
    if not base:
        raise SystemExit(
            f"error: {path} must hold the base run first, got none: run this table "
            "with --methods base."
        )
    return report.target_accuracy(base, workload.target_drop)


def main(arguments: Sequence[str] | None = None) -> None:
    """Records the rows that are missing."""
    options = _parser().parse_args(arguments)
    path = options.out or RESULTS / f"{options.table}.jsonl"
    try:
        load = loader(options.table, options.data)
        load()
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    table = TABLES[options.table]
    methods = options.methods or table.methods
    scales = options.scales or table.scales
    part, parts = map(int, options.part.split("/"))
    everything = list(rows(methods, scales))[part::parts]
    with progress_bars(Console()) as progress:
        for row in everything:
            config = Config(row.method, row.batch_scale, table.seeds)
            if not _find(path, config):
                record = functools.partial(run_row, row, load, table.seeds, path)
                run_with_bar(progress, config, record)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--data", type=Path, help="folder of IDX or CIFAR files")
    parser.add_argument("--methods", nargs="+", choices=EVERY, help="default: all")
    parser.add_argument("--scales", nargs="+", type=int, help="default: the table's")
    parser.add_argument("--part", default="0/1", help="i/n: every n-th row from i")
    parser.add_argument("--out", type=Path, help="the file of records")
    return parser


if __name__ == "__main__":
    main()
