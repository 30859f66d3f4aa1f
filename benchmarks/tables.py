"""Tables: which methods are compared on which workload, by name.

`python -m benchmarks.suite` records a whole table, `python -m benchmarks.train` a row.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from benchmarks import adam_methods, data, workloads
from benchmarks.ablations import EVERY_PART, MAIN_PARTS
from benchmarks.methods import METHODS
from benchmarks.workloads import Workload

Load = Callable[..., Workload]


@dataclasses.dataclass(frozen=True)
class Table:
    """Which methods are compared on what.

    Attributes:
      load: makes the workload, from a folder if it needs one, and `validation`.
      methods: keys of `EVERY`.
      needs_folder: whether the data are in a folder, which `load` takes first.
      scales: the S of its rows.
      seeds: of its runs.
      recommended: the method whose verdicts are written.
    """

    load: Load
    methods: tuple[str, ...] = tuple(METHODS)
    needs_folder: bool = False
    scales: tuple[int, ...] = workloads.BATCH_SCALES
    seeds: tuple[int, ...] = (0, 1, 2)
    recommended: str = "lena_amplified"


def _of_folder(load: Load, seeds: tuple[int, ...] = Table.seeds) -> Table:
    return Table(load, needs_folder=True, seeds=seeds)


def _digits_fold() -> Workload:
    """The demo's task, measured on a fifth of its training set."""
    workload = workloads.digits(data.load())
    fold = data.folds(workload.dataset, 5)[0]
    # Every third update at S = 64, which is close enough and keeps the records small.
    return dataclasses.replace(
        workload, dataset=fold, split="validation", eval_every=192
    )


def _ablation(
    load: Load,
    methods: tuple[str, ...] = EVERY_PART,
    *,
    needs_folder: bool = False,
    seeds: tuple[int, ...] = Table.seeds,
) -> Table:
    return Table(load, ("base", *methods), needs_folder, scales=(64,), seeds=seeds)


TABLES = {
    # Six seeds: methods differ by a few tenths of a point.
    "fashion_batchnorm": _of_folder(
        functools.partial(workloads.resnet, norm="batch"), seeds=(0, 1, 2, 3, 4, 5)
    ),
    "fashion_groupnorm": _of_folder(functools.partial(workloads.resnet, norm="group")),
    "text": Table(workloads.text),
    "text_ablation": _ablation(functools.partial(workloads.text, validation=True)),
    # Eight seeds, which take no longer: some methods fail on one of them.
    "digits_ablation": _ablation(_digits_fold, seeds=tuple(range(8))),
    "fashion_ablation": _ablation(
        functools.partial(workloads.resnet, validation=True),
        MAIN_PARTS,
        needs_folder=True,
    ),
    "gpt": Table(
        workloads.gpt, adam_methods.COMPARED, scales=(16, 64), recommended="lena_adamw"
    ),
    # Full size, for a GPU.
    "fashion_full": _of_folder(workloads.resnet_full),
    "cifar10": _of_folder(workloads.cifar10),
    "cifar100": _of_folder(workloads.cifar100),
}


def loader(name: str, folder: Path | None) -> Load:
    """Returns what makes a table's workload: `load()` or `load(validation=True)`.

    Args:
      name: a key of `TABLES`.
      folder: of the data; None for tables that need none.

    Raises:
      ValueError: if the table needs a folder and there is none.
    """
    table = TABLES[name]
    if not table.needs_folder:
        return functools.cache(table.load)
    if folder is None:
        raise ValueError(
            f"Table {name!r} needs a folder of data, which must hold {data.EXPECTED}; "
            "got none: give it with `--data FOLDER`."
        )
    return functools.cache(functools.partial(table.load, folder))
