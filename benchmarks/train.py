"""Trains one row of a table, for as many examples as the base run sees.

`python -m benchmarks.train TABLE METHOD S` writes a record per seed to stdout; with
`--out FILE` it adds to the file those that the file does not hold yet.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import command
from benchmarks.records import files, lines
from benchmarks.records.record import Record
from benchmarks.tasks.recipe import Workload
from benchmarks.training import loop, options, plan, rows, tables
from benchmarks.training.plan import Config
from benchmarks.training.progress import progress_bars, run_with_bar


@command.program
def main(arguments: Sequence[str] | None = None) -> None:
    """Checks everything, then trains and writes."""
    chosen = _parser().parse_args(arguments)
    command.all_different("--seeds", chosen.seeds)
    config = Config(chosen.method, chosen.scale, tuple(chosen.seeds), rate=chosen.rate)
    with command.checking("argument --rate"):
        _check_rate(config)
    with command.checking("argument --data"):
        load = tables.loader(chosen.table, chosen.data)
        workload = load(validation=True) if chosen.validation else load()
    with command.checking("arguments METHOD, S"):
        plan.check(workload, config)
    if chosen.out:
        with command.checking("argument --out"):
            config = _missing(config, workload, chosen.out)
    if not config.seeds:
        print(f"{chosen.out} holds these runs already.", file=sys.stderr)
        return
    runs = _train(workload, config)
    if chosen.out:
        files.append(runs, chosen.out)
    else:
        sys.stdout.writelines(f"{line}\n" for line in lines.to_lines(runs))


def _check_rate(config: Config) -> None:
    """A method that is tuned anew has no rate of its own."""
    grid = rows.grid(config.method)
    if grid and config.rate is None:
        raise ValueError(
            f"{config.method!r} does not train at the recipe's rate: a rate must be "
            f"given, got none. Its grid is {', '.join(map(str, grid))}; "
            "`python -m benchmarks.suite` tunes it."
        )


def _missing(config: Config, workload: Workload, out: Path) -> Config:
    """The seeds that the file does not hold at this rate."""
    rows.check_same_data(out, workload)
    rate = config.rate or workload.recipe.learning_rate
    runs = files.read_if_there(out, Record)
    there = {run.seed for run in rows.find(runs, workload, config, rate)}
    seeds = tuple(seed for seed in config.seeds if seed not in there)
    return Config(config.method, config.batch_scale, seeds, rate=config.rate)


def _train(workload: Workload, config: Config) -> list[Record]:
    # Bars go to stderr, so that stdout holds records and nothing else.
    with progress_bars(Console(stderr=True)) as progress:
        return run_with_bar(
            progress, config, lambda tell: loop.run(workload, config, tell)
        )


def _parser() -> command.Parser:
    parser = command.Parser(__doc__)
    options.add_table(parser)
    parser.add_argument(
        "method", type=options.method, metavar="METHOD", help="of methods/registry.py"
    )
    parser.add_argument("scale", type=options.scale, metavar="S", help="at least 1")
    parser.add_argument(
        "--seeds", nargs="+", type=options.seed, default=[0], metavar="SEED"
    )
    parser.add_argument("--rate", type=command.rate, help="default: the recipe's")
    parser.add_argument("--out", type=command.new_file, help="default: stdout")
    parser.add_argument(
        "--validation", action="store_true", help="measure on validation data"
    )
    return parser


if __name__ == "__main__":
    main()
