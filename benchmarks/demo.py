"""The demo: one recipe, tuned at a small batch, at 16 and 64 times that batch.

`make demo`, or `make demo DATA=<folder>` for a folder of IDX files or CIFAR python
batches. Under 3 minutes on two cores. It writes its records and figures to
`results/demo/` and prints what happened, whichever method that favours.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import command
from benchmarks.methods.registry import OF_DEMO
from benchmarks.pages import conclusions, demo_figures, demo_table
from benchmarks.pages.outcomes import outcomes
from benchmarks.records import files, home
from benchmarks.records.environment import environment
from benchmarks.records.record import Record, read_records, target_accuracy
from benchmarks.tasks import catalogue
from benchmarks.tasks import folder as folders
from benchmarks.tasks.dataset import digits
from benchmarks.tasks.recipe import Workload
from benchmarks.training import loop
from benchmarks.training.plan import MAX_BUDGET, Config
from benchmarks.training.progress import progress_bars, run_with_bar

MAX_TRAIN, MAX_TEST = 8000, 2000


@command.program
def main(arguments: Sequence[str] | None = None) -> None:
    """Trains every method at every S, then prints the table and what it says."""
    options = _parser().parse_args(arguments)
    console = Console()
    with command.checking("argument --data"):
        workload = load_workload(options.data)
    seeds = tuple(range(options.seeds))
    if options.quick:
        workload = _quick(workload)
    _print_header(console, workload, seeds)
    path = options.out / home.RUN_FILE
    files.rewrite(train_all(console, workload, seeds), path)
    _print_results(console, workload, path)


def _print_results(console: Console, workload: Workload, path: Path) -> None:
    """The table, the sentences and the figures, all made from the file."""
    runs = read_records(path)
    target = target_accuracy(runs, workload.target_drop)
    found = outcomes(runs, target)
    console.print()
    console.print(demo_table.printed(found, workload.recipe.base_batch, target))
    console.print()
    for sentence in conclusions.sentences(runs, found):
        console.print(f"• {sentence}", highlight=False, markup=False)
    paths = [path, *demo_figures.write(runs, target, path.parent)]
    names = ", ".join(each.name for each in paths)
    console.print(f"In {path.parent}: {names}", highlight=False, markup=False)


def load_workload(folder: str | Path | None) -> Workload:
    """The digits without a folder, else what the folder holds, subsampled."""
    if folder is None:
        return catalogue.digits(digits())
    return catalogue.images(
        folders.load(folder, max_train=MAX_TRAIN, max_test=MAX_TEST)
    )


def train_all(
    console: Console, workload: Workload, seeds: tuple[int, ...]
) -> list[Record]:
    """Runs the base recipe, then every other method at every S, with progress bars."""
    plan = [("base", 1)] + [(m, s) for s in workload.batch_scales for m in OF_DEMO]
    result = []
    with progress_bars(console) as progress:
        for method, scale in plan:
            config = Config(method, scale, seeds)
            train = functools.partial(loop.run, workload, config)
            result += run_with_bar(progress, config, train)
    return result


def _print_header(console: Console, workload: Workload, seeds: Sequence[int]) -> None:
    """Says what is compared, on what and under which rules, before it runs."""
    dataset, recipe = workload.dataset, workload.recipe
    base, where = recipe.base_batch, environment()
    warmup = recipe.warmup_steps(workload.base_steps)
    rows = {
        "data": f"{dataset.name}, {len(dataset.y_train):,} training and "
        f"{len(dataset.y_test):,} test images",
        "recipe": f"tuned at a batch of {base}: rate {recipe.learning_rate:g} "
        f"({recipe.schedule}), momentum {recipe.momentum:g}, "
        f"{workload.base_steps:,} updates ({recipe.epochs:g} epochs)",
        "at S": f"the same recipe at a batch of {base} S, for equal epochs; warm-up of "
        f"{warmup:,.0f} base-batch steps ({100 * recipe.warmup_share:g} %)",
        "AdaScale": "has no warm-up and trains until its own clock has run the base "
        f"run's steps, for at most {MAX_BUDGET:g} times its epochs",
        "moments": f"from n = S microbatches of {base}",
        "accuracy": f"on the test set, every {workload.eval_every} base batches",
        "seconds": f"wall time per seed ({len(seeds)} train side by side), with "
        "evaluation, without compilation",
        "machine": f"{where['device']}, {where['cpus']} cores, jax {where['jax']}, "
        f"commit {where['commit']}",
    }
    grid = Table.grid(padding=(0, 2))
    for name, text in rows.items():
        grid.add_row(f"[bold]{name}[/bold]", escape(text))
    console.print(grid, highlight=False)
    console.print()


def _quick(workload: Workload) -> Workload:
    """A few seconds of training, to see that everything runs."""
    recipe = dataclasses.replace(workload.recipe, epochs=4)
    return dataclasses.replace(workload, recipe=recipe, batch_scales=(16,))


def _parser() -> command.Parser:
    parser = command.Parser(__doc__)
    parser.add_argument(
        "--data", type=command.folder, help="of IDX files or CIFAR batches"
    )
    parser.add_argument("--out", type=command.new_folder, default=home.latest("demo"))
    parser.add_argument("--seeds", type=command.whole(1, 100), default=3)
    parser.add_argument("--quick", action="store_true", help="for tests: few updates")
    return parser


if __name__ == "__main__":
    main()
