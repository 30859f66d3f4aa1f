"""Records runs whose batch grows in mid-run, beside runs whose batch does not.

`python -m benchmarks.ramp TABLE` trains what `results/ramp.jsonl` does not hold yet,
one line per run, so that it can be stopped and started again. All ways see the base
run's examples, in the same order for the same seed.
"""

from collections.abc import Sequence

from rich.console import Console

from benchmarks import command
from benchmarks.ramp.run import Run, Trainer
from benchmarks.ramp.ways import WAYS
from benchmarks.records import files
from benchmarks.records.home import kept
from benchmarks.training import options, tables

TABLES = ("text", "bytecode", "gpt")


@command.program
def main(arguments: Sequence[str] | None = None) -> None:
    """Checks everything, then records the runs that are missing."""
    chosen = _parser().parse_args(arguments)
    command.all_different("--ways", chosen.ways)
    command.all_different("--seeds", chosen.seeds)
    path, console = chosen.out or kept("ramp"), Console(stderr=True)
    load = tables.loader(chosen.table, None)
    workload = load(validation=True) if chosen.validation else load()
    trainer = Trainer(workload)
    for seed in chosen.seeds:
        for name in chosen.ways:
            key = (workload.title, workload.split, name, seed)
            if key in {run.key for run in files.read_if_there(path, Run)}:
                continue
            run = trainer.run(name, WAYS[name], seed)
            files.append([run], path)
            console.print(
                f"{name} seed {seed}: {100 * run.accuracy[-1]:.2f} %, "
                f"{run.updates[-1]:,} updates, {run.seconds:.0f} s, S {run.changes}",
                highlight=False,
            )


def _parser() -> command.Parser:
    parser = command.Parser(__doc__)
    table = command.one_of(TABLES)
    parser.add_argument("table", type=table, metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument(
        "--ways",
        nargs="+",
        type=command.one_of(WAYS),
        default=list(WAYS),
        metavar="WAY",
        help=f"default: all of {', '.join(WAYS)}",
    )
    parser.add_argument(
        "--seeds", nargs="+", type=options.seed, default=[0, 1, 2], metavar="SEED"
    )
    parser.add_argument(
        "--validation", action="store_true", help="measure on validation data"
    )
    parser.add_argument("--out", type=command.new_file, help="the file of records")
    return parser


if __name__ == "__main__":
    main()
