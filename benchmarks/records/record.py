"""Runs: what one run of one seed was and what it measured."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.records import files


@dataclasses.dataclass(frozen=True)
class Record:
    """One run of one seed.

    Attributes:
      workload: name of the data set.
      method: a key of `registry.METHODS`.
      batch_scale: S.
      num_microbatches: n, or None where no moments were taken.
      seed: of the initial parameters and the order of the data.
      recipe: the fields of `Recipe`.
      split: what `test_accuracy` was measured on, `"test"` or `"validation"`.
      base_steps: length of the base run.
      updates: number of updates at each evaluation.
      train_loss: mean since the evaluation before.
      test_accuracy: at each evaluation, in [0, 1].
      layers: `optax_lena.metrics` at each evaluation.
      seconds: wall time of the run, without compilation.
      environment: versions, device and commit.
    """

    workload: str
    method: str
    batch_scale: int
    num_microbatches: int | None
    seed: int
    recipe: dict[str, Any]
    base_steps: int
    updates: list[int]
    train_loss: list[float]
    test_accuracy: list[float]
    layers: dict[str, list[float]]
    seconds: float
    environment: dict[str, str]
    split: str = "test"

    def __post_init__(self) -> None:
        # A line of JSON has null where a number was not finite.
        object.__setattr__(self, "train_loss", _numbers(self.train_loss))
        curves = {key: _numbers(values) for key, values in self.layers.items()}
        object.__setattr__(self, "layers", curves)
        length = len(self.updates)
        for name in ("train_loss", "test_accuracy"):
            if len(getattr(self, name)) != length or not length:
                raise ValueError(
                    f"{len(getattr(self, name))} values of {name} at {length} "
                    "evaluations"
                )
        if not all(0 <= value <= 1 for value in self.test_accuracy):
            raise ValueError("a test accuracy outside [0, 1]")
        if self.base_updates not in self.updates:
            raise ValueError(f"no evaluation after {self.base_updates} updates")

    @property
    def learning_rate(self) -> float:
        """Of the recipe it was trained with."""
        return self.recipe["learning_rate"]

    @property
    def final_accuracy(self) -> float:
        """Test accuracy at the end of the run."""
        return self.test_accuracy[-1]

    @property
    def accuracy_at_equal_examples(self) -> float:
        """Test accuracy when the run had seen the base run's examples."""
        return self.test_accuracy[self.updates.index(self.base_updates)]

    @property
    def base_updates(self) -> int:
        """Updates in the base run's examples."""
        return self.base_steps // self.batch_scale

    def updates_to(self, target: float) -> int | None:
        """Updates at the first evaluation to reach the target; None if none does."""
        pairs = zip(self.updates, self.test_accuracy, strict=True)
        return next((updates for updates, value in pairs if value >= target), None)


def read_records(path: Path) -> list[Record]:
    """The runs of a file."""
    return files.read(path, Record)


def one_per_seed(records: Iterable[Record]) -> list[Record]:
    """One record for each method, S and seed: the last.

    Two processes may have trained the same run at the same time.
    """
    kept = {(run.method, run.batch_scale, run.seed): run for run in records}
    return list(kept.values())


def by_method(records: Iterable[Record]) -> dict[tuple[str, int], list[Record]]:
    """Groups runs by method and S, in their order."""
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record.method, record.batch_scale), []).append(record)
    return groups


def target_accuracy(records: Iterable[Record], drop: float) -> float:
    """The base run's mean accuracy minus `drop`."""
    finals = [run.final_accuracy for run in records if run.method == "base"]
    return float(np.mean(finals)) - drop


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
