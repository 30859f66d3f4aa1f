"""Tunes the base recipe at S = 1, by cross-validation inside the training set.

`python -m benchmarks.tune [FOLDER]`. Only S = 1 is ever tuned; the large batches get
what it finds, unchanged. The test set has no say.
"""

import argparse
import dataclasses

import numpy as np
from rich.console import Console

from benchmarks import data, train, workloads
from benchmarks.demo import load_workload
from benchmarks.plan import Config
from benchmarks.workloads import Recipe, Workload

RATES = (0.0015625, 0.003125, 0.00625, 0.0125, 0.025, 0.05)


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
        train.run(dataclasses.replace(workload, recipe=recipe, dataset=part), config)
        for part in data.folds(workload.dataset, 5)[:folds]
    ]
    return np.array([[record.final_accuracy for record in fold] for fold in runs])


def main() -> None:
    """Prints validation accuracy over rates and schedules."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", help="as the demo's --data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=5, help="of 5, how many to run")
    arguments = parser.parse_args()
    console = Console()
    workload = load_workload(arguments.folder)
    config = Config("base", 1, tuple(range(arguments.seeds)))
    for schedule in (workloads.CONSTANT, workloads.COSINE):
        for rate in RATES:
            recipe = dataclasses.replace(
                workload.recipe, learning_rate=rate, schedule=schedule
            )
            accuracy = 100 * validate(workload, recipe, config, arguments.folds)
            by_fold = " ".join(f"{value:.1f}" for value in accuracy.mean(1))
            console.print(
                f"{schedule:8} {rate:<8} {accuracy.mean():.2f} %  folds {by_fold}",
                highlight=False,
            )


if __name__ == "__main__":
    main()
