"""Records the small tasks, method by method.

`python -m benchmarks.unseen [--recipe sgd]` adds what `results/unseen.jsonl` lacks. The
rule, written down before the first record: nothing is chosen on a task but its base
rate, at S = 1, over the grid that the task names, by seeds 100 and 101. Where a
recommended optimizer was seen to fail on one, a rule may be chosen on it from then on,
by seeds of 200 and more, together with the validation data of text, digits and images:
each family names such tasks as `developed`. The other tasks stay unseen until a rule is
fixed, and new ones are added when one is.
A cosine over 8,192 base steps of 16 examples, and warm-ups of 5 %. Scores are taken
when a run has seen the base run's examples. `--scales` takes other S than those of the
tables, each a divisor of 8,192, and `--rate` another rate, for records in a file of
their own, `results/unseen_rates.jsonl`. Three seeds say little where a row misses the
bar, or holds it by less than a standard error: `--again` runs the methods of such rows
with six other seeds.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean

from benchmarks import command
from benchmarks.records import files
from benchmarks.records.environment import environment
from benchmarks.records.home import kept
from benchmarks.records.lines import four_digits
from benchmarks.unseen import bar, recipes
from benchmarks.unseen.adamw import ADAMW
from benchmarks.unseen.catalogue import TASKS
from benchmarks.unseen.family import Family
from benchmarks.unseen.muon import MUON
from benchmarks.unseen.run import BASE_STEPS, Score, scores
from benchmarks.unseen.sgd import SGD
from benchmarks.unseen.task import Task

FAMILIES = {"sgd": SGD, "adamw": ADAMW, "muon": MUON, **recipes.FAMILIES}
SCALES, SEEDS, TUNING_SEEDS = (16, 32, 64), (0, 1, 2), (100, 101)
AGAIN_SEEDS = (10, 11, 12, 13, 14, 15)


def rates_file(family: Family) -> str:
    """The name of the records at other base rates than the tasks' own."""
    return f"{family.records}_rates"


def _rows(
    family: Family,
    task: Task,
    rate: float | None,
    methods: Sequence[str],
    scales: Sequence[int],
    tunes: bool,
) -> Iterator[tuple[str, int, float]]:
    """Method, S and rate of every row."""
    if tunes:
        for one in family.grid(task):
            yield "base", 1, one
    elif rate is not None:
        yield "base", 1, rate
        able = [method for method in methods if family.trains(method, task)]
        for scale, method in itertools.product(scales, able):
            yield method, scale, rate


@command.program
def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what has no record yet."""
    options = _parser().parse_args(arguments)
    family = FAMILIES[options.recipe]
    with command.checking("argument --methods"):
        methods = _methods(family, options.methods)
    with command.checking("argument --scales"):
        scales = _scales(options.scales)
    path = kept(family.records if options.rate is None else rates_file(family))
    recorded = files.read_if_there(path, Score)
    done = {one.key for one in recorded}
    seeds, wanted = SEEDS, dict.fromkeys(options.tasks, scales)
    if options.tune:
        seeds = TUNING_SEEDS
    elif options.again:
        seeds = AGAIN_SEEDS
        methods = options.methods or family.compared
        wanted = _hanging(family, recorded, wanted)
    for name, own_scales in wanted.items():
        task = TASKS[name]()
        own = options.rate or family.rate(task)
        for method, scale, rate in _rows(
            family, task, own, methods, own_scales, options.tune
        ):
            kept_rate = four_digits(rate)
            left = [s for s in seeds if (name, method, scale, s, kept_rate) not in done]
            if left:
                tx = family.optimizer(method, rate, scale)
                found = scores(task, tx, scale, left, family.gradient(method))
                rows = [
                    Score(name, method, scale, seed, rate, score, environment())
                    for seed, score in zip(left, found, strict=True)
                ]
                files.append(rows, path)
                print(name, method, scale, rate, *found, flush=True)
        if options.tune and (grid := family.grid(task)):
            print(_tuned(name, grid, files.read(path, Score)))


def _hanging(
    family: Family, recorded: Sequence[Score], wanted: Mapping[str, Sequence[int]]
) -> dict[str, list[int]]:
    """Those of the wanted S of every task at which the bar hangs on the seeds."""
    hanging: dict[str, list[int]] = {}
    for one in bar.verdicts(family, bar.of_seeds(recorded, SEEDS)):
        if one.hangs and one.batch_scale in wanted.get(one.task, ()):
            hanging.setdefault(one.task, []).append(one.batch_scale)
    return hanging


def _tuned(name: str, grid: Sequence[float], recorded: Sequence[Score]) -> str:
    """Says which rate of the grid is the best, and whether a better one may be outside.

    Args:
      name: of the task.
      grid: the rates that were tried.
      recorded: all runs of the family.
    """
    runs = [one for one in recorded if one.task == name and one.seed in TUNING_SEEDS]
    by_rate: dict[float, list[float]] = {}
    for one in runs:
        by_rate.setdefault(four_digits(one.rate), []).append(one.score or 0)
    scores = {rate: mean(by_rate[four_digits(rate)]) for rate in grid}
    best = max(grid, key=lambda rate: (scores[rate], rate))
    edge = ", the edge of the grid" if best in (min(grid), max(grid)) else ""
    return f"{name}: best at {best:g}{edge}"


def _methods(family: Family, chosen: Sequence[str] | None) -> Sequence[str]:
    """Those that were asked for, or all."""
    for name in chosen or ():
        if name not in family.methods:
            allowed = ", ".join(family.methods)
            raise ValueError(
                f"a method for recipes of {family.label} must be one of {allowed}, "
                f"got {name!r}."
            )
    return chosen or tuple(family.methods)


def _scales(chosen: Sequence[int] | None) -> Sequence[int]:
    """Those that were asked for, or those of the tables."""
    for scale in chosen or ():
        if BASE_STEPS % scale:
            raise ValueError(f"S must divide {BASE_STEPS} base steps, got {scale}.")
    return chosen or SCALES


def _parser() -> command.Parser:
    parser = command.Parser(__doc__)
    parser.add_argument(
        "--recipe",
        default="sgd",
        type=command.one_of(FAMILIES),
        metavar="RECIPE",
        help=", ".join(FAMILIES),
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=list(TASKS),
        type=command.one_of(TASKS),
        metavar="TASK",
        help=", ".join(TASKS),
    )
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="default: all")
    parser.add_argument(
        "--scales",
        nargs="+",
        type=command.whole(2, 512),
        metavar="S",
        help=f"default: {', '.join(map(str, SCALES))}",
    )
    rates = parser.add_mutually_exclusive_group()
    rates.add_argument("--rate", type=command.rate, help="default: of the task")
    rates.add_argument(
        "--tune", action="store_true", help="the base runs that chose the rates"
    )
    rates.add_argument("--again", action="store_true", help="with six other seeds")
    return parser


if __name__ == "__main__":
    main()
