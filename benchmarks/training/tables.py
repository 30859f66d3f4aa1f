"""Tables: which methods are compared on which workload, by name.

`python -m benchmarks.suite` records a whole table, `python -m benchmarks.train` a row.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from benchmarks.methods import registry
from benchmarks.tasks import catalogue, paper
from benchmarks.tasks.dataset import digits, folds
from benchmarks.tasks.folder import EXPECTED
from benchmarks.tasks.recipe import Workload

Load = Callable[..., Workload]


@dataclasses.dataclass(frozen=True)
class Table:
    """Which methods are compared on what.

    Attributes:
      load: makes the workload, from a folder if it needs one, and `validation`.
      methods: keys of `registry.METHODS`.
      needs_folder: whether the data are in a folder, which `load` takes first.
      scales: the S of its rows.
      seeds: of its runs.
      recommended: the method whose verdicts are written.
    """

    load: Load
    methods: tuple[str, ...] = registry.OF_SGD
    needs_folder: bool = False
    scales: tuple[int, ...] = catalogue.BATCH_SCALES
    seeds: tuple[int, ...] = (0, 1, 2)
    recommended: str = "lena_amplified"


def _of_folder(load: Load, seeds: tuple[int, ...] = Table.seeds) -> Table:
    return Table(load, needs_folder=True, seeds=seeds)


def _digits_fold() -> Workload:
    """The demo's task, measured on a fifth of its training set."""
    workload = catalogue.digits(digits())
    fold = folds(workload.dataset, 5)[0]
    # Every third update at S = 64, which is close enough and keeps the records small.
    return dataclasses.replace(
        workload, dataset=fold, split="validation", eval_every=192
    )


def _digits_all_scales(*, validation: bool = False) -> Workload:
    """The demo's task, evaluated where every S of a table has made whole updates."""
    if validation:
        return _digits_fold()
    return dataclasses.replace(catalogue.digits(digits()), eval_every=128)


def _ablation(
    load: Load,
    methods: tuple[str, ...] = registry.OF_ABLATION,
    *,
    needs_folder: bool = False,
    seeds: tuple[int, ...] = Table.seeds,
) -> Table:
    return Table(load, methods, needs_folder, scales=(64,), seeds=seeds)


TABLES = {
    # Six seeds: methods differ by a few tenths of a point.
    "fashion_batchnorm": _of_folder(
        functools.partial(catalogue.resnet, norm="batch"), seeds=(0, 1, 2, 3, 4, 5)
    ),
    # As many steps as in LENA's paper, whose AdaScale has the base clock and LENA's
    # warm-up.
    "fashion_long": Table(
        functools.partial(
            catalogue.resnet, recipe=catalogue.FASHION_LONG, eval_every=1536
        ),
        registry.OF_LONG,
        needs_folder=True,
        scales=(16, 32, 64, 128, 256),
    ),
    "fashion_groupnorm": _of_folder(functools.partial(catalogue.resnet, norm="group")),
    "text": Table(catalogue.text),
    # What `advise` predicts, measured; the second was added after all that was tuned.
    "digits": Table(
        _digits_all_scales, ("base", "lena_amplified"), seeds=tuple(range(8))
    ),
    "bytecode": Table(catalogue.bytecode, ("base", "linear", "lena", "lena_amplified")),
    "text_ablation": _ablation(functools.partial(catalogue.text, validation=True)),
    # Eight seeds, which take no longer: some methods fail on one of them.
    "digits_ablation": _ablation(_digits_fold, seeds=tuple(range(8))),
    "fashion_ablation": _ablation(
        functools.partial(catalogue.resnet, validation=True),
        registry.OF_SHORT_ABLATION,
        needs_folder=True,
    ),
    # `lena_adamw` as it is stands in docs/adamw_results.md, which has one of the two
    # measures.
    "gpt": Table(
        catalogue.gpt,
        registry.OF_ADAMW,
        scales=(16, 64),
        recommended="adamw_root_gain_no_warmup",
    ),
    "gpt_muon": Table(
        functools.partial(catalogue.gpt, recipe=catalogue.MUON_CHARACTERS),
        registry.OF_MUON,
        recommended="lena_muon",
    ),
    "gpt_muon_twice": Table(
        functools.partial(catalogue.gpt, recipe=catalogue.MUON_CHARACTERS_TWICE),
        registry.OF_MUON,
        recommended="lena_muon",
    ),
    "molecules": Table(
        catalogue.molecule_gpt,
        registry.OF_ADAMW,
        needs_folder=True,
        recommended="lena_adamw",
    ),
    # Full size, for a GPU.
    "fashion_full": _of_folder(paper.resnet_full),
    "cifar10": _of_folder(paper.cifar10),
    "cifar100": _of_folder(paper.cifar100),
}


def loader(name: str, folder: Path | None) -> Load:
    """Returns what makes a table's workload: `load()` or `load(validation=True)`.

    Args:
      name: a key of `TABLES`.
      folder: of the data; None for tables that need none.

    Raises:
      ValueError: if the table needs a folder and there is none, or the reverse.
    """
    table = TABLES[name]
    if table.needs_folder and folder is None:
        raise ValueError(
            f"table {name!r} needs a folder of data, which must hold {EXPECTED}; "
            "got none: give it with `--data FOLDER`."
        )
    if folder is not None and not table.needs_folder:
        with_folder = ", ".join(key for key, one in TABLES.items() if one.needs_folder)
        raise ValueError(
            f"table {name!r} has its own data; of a folder are {with_folder}; got "
            f"{str(folder)!r}: leave `--data` out."
        )
    load = functools.partial(table.load, folder) if folder else table.load
    return functools.cache(load)
