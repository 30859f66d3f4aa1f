"""Tunes the base recipe at S = 1, by cross-validation inside the training set.

`python -m benchmarks.tune [FOLDER]`. Only S = 1 is ever tuned; the large batches get
what it finds, unchanged. The test set has no say.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from rich.console import Console

from benchmarks import command
from benchmarks.demo import load_workload
from benchmarks.tasks import dataset
from benchmarks.tasks.recipe import CONSTANT, COSINE, Recipe, Workload
from benchmarks.training import loop
from benchmarks.training.plan import Config

RATES = (0.0015625, 0.003125, 0.00625, 0.0125, 0.025, 0.05)
FOLDS = 5


def validate(
    workload: Workload, recipe: Recipe, config: Config, folds: int
) -> np.ndarray:
    """Returns validation accuracies, `(folds, seeds)`.

    Args:
      workload: of which the test set is not used.
      recipe: to try.
      config: of the base run.
      folds: of how many, 5, the accuracy is taken.
    """
    runs = [
        loop.run(dataclasses.replace(workload, recipe=recipe, dataset=part), config)
        for part in dataset.folds(workload.dataset, FOLDS)[:folds]
    ]
    return np.array([[record.final_accuracy for record in fold] for fold in runs])


@command.program
def main(arguments: Sequence[str] | None = None) -> None:
    """Prints validation accuracy over rates and schedules."""
    options = _parser().parse_args(arguments)
    console = Console()
    with command.checking("argument FOLDER"):
        workload = load_workload(options.folder)
    config = Config("base", 1, tuple(range(options.seeds)))
    for schedule in (CONSTANT, COSINE):
        for rate in RATES:
            recipe = dataclasses.replace(
                workload.recipe, learning_rate=rate, schedule=schedule
            )
            accuracy = 100 * validate(workload, recipe, config, options.folds)
            by_fold = " ".join(f"{value:.1f}" for value in accuracy.mean(1))
            console.print(
                f"{schedule:8} {rate:<8} {accuracy.mean():.2f} %  folds {by_fold}",
                highlight=False,
            )


def _parser() -> command.Parser:
    parser = command.Parser(__doc__)
    parser.add_argument(
        "folder",
        nargs="?",
        type=command.folder,
        metavar="FOLDER",
        help="as the demo's --data",
    )
    parser.add_argument("--seeds", type=command.whole(1, 100), default=3)
    parser.add_argument(
        "--folds", type=command.whole(1, FOLDS), default=FOLDS, help="of 5, how many"
    )
    return parser


if __name__ == "__main__":
    main()
