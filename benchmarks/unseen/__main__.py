"""Records the tasks that nothing was tuned on, method by method.

`python -m benchmarks.unseen` adds what `results/unseen.jsonl` lacks. The rule, written
down before the first record: no constant of the library is chosen on these tasks. Only
the base rate is, at S = 1, over the grid that each task names, by seeds 100 and 101.
Since the recommended optimizer was seen to fail on the first two, `DEVELOPED` names
them: rules may be chosen on those, by seeds of `DEVELOPMENT_SEEDS`, together with the
validation data of text, digits and images. That too was written down before any rule
was tried on them so. The other tasks stay unseen until a rule is fixed.
Momentum SGD (0.9) at a base batch of 16, a cosine over 8,192 base steps, and
warm-ups of 5 %.
Scores are taken when a run has seen the base run's examples.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import optax

import optax_lena
from benchmarks import command
from benchmarks.methods.rates import (
    AMPLIFIED,
    FIRST_AMPLIFIED,
    LENA,
    ROOT_OF_SCALE,
)
from benchmarks.records import files
from benchmarks.records.environment import environment
from benchmarks.records.home import kept
from benchmarks.unseen.catalogue import TASKS
from benchmarks.unseen.run import BASE_STEPS, Score, scores
from benchmarks.unseen.task import Task

SCALES, SEEDS, TUNING_SEEDS = (16, 32, 64), (0, 1, 2), (100, 101)
DEVELOPED, DEVELOPMENT_SEEDS = ("deep_regression", "words"), (200, 201, 202)
WARMUP = 0.05 * BASE_STEPS

# A rate, whether it enters the momentum buffer, and what one layer is.
Parts = tuple[optax_lena.LayerRate, bool, optax_lena.Layers]
_LAYERS, _MODEL = optax_lena.per_parameter, optax_lena.whole_model
_lena = dataclasses.replace(LENA, warmup=optax_lena.StateAwareWarmup(WARMUP))
_amplified = dataclasses.replace(AMPLIFIED, warmup=optax_lena.FixedWarmup(WARMUP))
_first = dataclasses.replace(FIRST_AMPLIFIED, warmup=optax_lena.FixedWarmup(WARMUP))
_adascale = dataclasses.replace(LENA, clock="gain_steps")
_linear = dataclasses.replace(
    LENA, rule=optax_lena.linear, warmup=optax_lena.FixedWarmup(WARMUP)
)
METHODS: dict[str, tuple[str, Parts]] = {
    "linear": ("linear scaling", (_linear, False, _MODEL)),
    "square_root": (
        "square-root scaling",
        (dataclasses.replace(_linear, rule=ROOT_OF_SCALE), False, _MODEL),
    ),
    "adascale": ("AdaScale", (_adascale, False, _MODEL)),
    "lena_model": ("LENA, one layer: the model", (_lena, False, _MODEL)),
    "lena": ("LENA", (_lena, False, _LAYERS)),
    "lena_no_warmup": ("LENA, no warm-up", (LENA, False, _LAYERS)),
    "amplified_model": ("amplified, one layer: the model", (_amplified, True, _MODEL)),
    "lena_amplified": ("amplified LENA", (_amplified, True, _LAYERS)),
    "amplified_first_model": (
        "first amplified, one layer: the model",
        (_first, True, _MODEL),
    ),
    "amplified_first": ("first amplified LENA", (_first, True, _LAYERS)),
}


def optimizer(
    method: str, rate: float, batch_scale: int
) -> optax.GradientTransformation:
    """Momentum SGD with a cosine, at S base batches by a method."""
    schedule = optax.cosine_decay_schedule(rate, BASE_STEPS)
    if method == "base":
        return optax.sgd(schedule, 0.9)
    _, (parts, enters_buffer, layers) = METHODS[method]
    parts = dataclasses.replace(parts, learning_rate=schedule)
    scale = optax_lena.scale_by_layer_rate(parts, batch_scale, layers=layers)
    links = [scale, optax.trace(0.9)] if enters_buffer else [optax.trace(0.9), scale]
    return optax.chain(*links, optax.scale(-1.0))


def _rows(
    task: Task, methods: Sequence[str], tunes: bool
) -> Iterator[tuple[str, int, float]]:
    """Method, S and rate of every row."""
    for rate in task.rates if tunes else (task.rate,):
        yield "base", 1, rate
    for scale, method in itertools.product(() if tunes else SCALES, methods):
        yield method, scale, task.rate


@command.program
def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what has no record yet."""
    options = _parser().parse_args(arguments)
    path = kept("unseen")
    done = {one.key for one in files.read_if_there(path, Score)}
    seeds = TUNING_SEEDS if options.tune else SEEDS
    for name in options.tasks:
        task = TASKS[name]()
        for method, scale, rate in _rows(task, options.methods, options.tune):
            left = [s for s in seeds if (name, method, scale, s, rate) not in done]
            if left:
                found = scores(task, optimizer(method, rate, scale), scale, left)
                rows = [
                    Score(name, method, scale, seed, rate, score, environment())
                    for seed, score in zip(left, found, strict=True)
                ]
                files.append(rows, path)
                print(name, method, scale, rate, *found, flush=True)


def _parser() -> command.Parser:
    parser = command.Parser(__doc__)
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=list(TASKS),
        type=command.one_of(TASKS),
        metavar="TASK",
        help=", ".join(TASKS),
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(METHODS),
        type=command.one_of(METHODS),
        metavar="METHOD",
        help=", ".join(METHODS),
    )
    parser.add_argument(
        "--tune", action="store_true", help="the base runs that chose the rates"
    )
    return parser


if __name__ == "__main__":
    main()
