"""Records a table: every method at every S on one workload, by the protocol in README.

`python -m benchmarks.suite TABLE` records what `results/TABLE.jsonl` does not hold yet,
so that it can be stopped and started again; `--part 0/2` and `--part 1/2` share the
rows between two processes. With `--methods` and `--scales` it reruns single rows.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import command
from benchmarks.records.home import kept
from benchmarks.tasks.recipe import Workload
from benchmarks.training import options, plan, rows, tables
from benchmarks.training.plan import Config
from benchmarks.training.progress import progress_bars, run_with_bar
from benchmarks.training.rows import Row


@command.program
def main(arguments: Sequence[str] | None = None) -> None:
    """Checks everything, then records the rows that are missing."""
    chosen = _parser().parse_args(arguments)
    command.all_different("--methods", chosen.methods)
    command.all_different("--scales", chosen.scales)
    path = chosen.out or kept(chosen.table)
    with command.checking("argument --data"):
        load = tables.loader(chosen.table, chosen.data)
        workload = load()
    table = tables.TABLES[chosen.table]
    part, parts = chosen.part
    every = rows.rows(chosen.methods or table.methods, chosen.scales or table.scales)
    own = list(every)[part::parts]
    with command.checking("arguments --methods, --scales"):
        _check(own, workload)
    with command.checking("argument --out"):
        rows.check_same_data(path, workload)
        _check_base(own, workload, table.seeds, path)
    with progress_bars(Console()) as progress:
        for row in own:
            config = Config(row.method, row.batch_scale, table.seeds)
            if not rows.is_complete(path, workload, config):
                record = functools.partial(rows.run_row, row, load, table.seeds, path)
                run_with_bar(progress, config, record)


def _check(own: Sequence[Row], workload: Workload) -> None:
    """Whether every row can be trained; seeds and rates have no say."""
    for row in own:
        rate = next(iter(rows.grid(row.method)), None)
        plan.check(workload, Config(row.method, row.batch_scale, (0,), rate=rate))


def _check_base(
    own: Sequence[Row], workload: Workload, seeds: tuple[int, ...], path: Path
) -> None:
    """The base run sets the target of all others."""
    base = Config("base", 1, seeds)
    if Row("base", 1) not in own and not rows.is_complete(path, workload, base):
        raise ValueError(
            f"{path} must hold the base run of all {len(seeds)} seeds first, got less: "
            "run this table with `--methods base`."
        )


def _parser() -> command.Parser:
    parser = command.Parser(__doc__)
    options.add_table(parser)
    parser.add_argument(
        "--methods",
        nargs="+",
        type=options.method,
        metavar="METHOD",
        help="default: the table's",
    )
    parser.add_argument(
        "--scales",
        nargs="+",
        type=options.scale,
        metavar="S",
        help="default: the table's",
    )
    parser.add_argument(
        "--part", type=command.part, default=(0, 1), help="i/n: every n-th row from i"
    )
    parser.add_argument("--out", type=command.new_file, help="the file of records")
    return parser


if __name__ == "__main__":
    main()
