"""Outcomes: what the seeds of one method at one S measured, and when two are level.

In: records. Out: arrays over seeds. What counts as better: the mean over seeds; two
means closer than the standard error of their difference are called level.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from benchmarks.methods.registry import METHODS
from benchmarks.records.record import Record, by_method
from benchmarks.training.plan import MAX_BUDGET

Key = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One method at one S. Arrays hold a number per seed.

    Attributes:
      method: a key of `registry.METHODS`.
      batch_scale: S.
      final: accuracy at the end of the run.
      accuracy: at equal examples.
      updates: of the whole run.
      to_target: updates until the target; NaN for a seed that never gets there.
      given: updates that a seed had to get there.
      seconds: of the run.
    """

    method: str
    batch_scale: int
    final: np.ndarray
    accuracy: np.ndarray
    updates: np.ndarray
    to_target: np.ndarray
    given: np.ndarray
    seconds: np.ndarray

    @property
    def label(self) -> str:
        """The method, for people."""
        return METHODS[self.method].label

    @property
    def seeds(self) -> int:
        """How many runs."""
        return len(self.final)

    @property
    def mean(self) -> float:
        """Of the accuracy at the end."""
        return float(self.final.mean())

    @property
    def error(self) -> float:
        """Standard error of that mean."""
        return standard_error(self.final)

    @property
    def reached(self) -> int:
        """How many seeds get to the target."""
        return int(np.isfinite(self.to_target).sum())

    @property
    def counted(self) -> np.ndarray:
        """Updates until the target, or all that a seed had if it does not get there."""
        return np.where(np.isnan(self.to_target), self.given, self.to_target)


def outcomes(runs: Iterable[Record], target: float) -> dict[Key, Outcome]:
    """By method and S, in the records' order.

    Args:
      runs: of one workload, without those that tuned a rate.
      target: the accuracy to reach.
    """
    return {key: _outcome(group, target) for key, group in by_method(runs).items()}


def _outcome(runs: Sequence[Record], target: float) -> Outcome:
    first, reached = runs[0], [run.updates_to(target) for run in runs]
    return Outcome(
        method=first.method,
        batch_scale=first.batch_scale,
        final=np.array([run.final_accuracy for run in runs]),
        accuracy=np.array([run.accuracy_at_equal_examples for run in runs]),
        updates=np.array([run.updates[-1] for run in runs]),
        to_target=np.array([math.nan if n is None else n for n in reached], float),
        given=np.array([_given(run, target) for run in runs]),
        seconds=np.array([run.seconds for run in runs]),
    )


def _given(run: Record, target: float) -> int:
    """All updates of a run that ended with the base run's examples, and could go on.

    Others are let on for a multiple of these examples; one that has failed by then is
    not, and counts as if it had been.
    """
    failed = run.final_accuracy < target / 2
    if run.updates[-1] == run.base_updates and not failed:
        return run.base_updates
    return round(MAX_BUDGET * run.base_updates)


def standard_error(values: np.ndarray) -> float:
    """The standard error of the mean; not a number for a single value."""
    if len(values) < 2:
        return math.nan
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def gap(one: np.ndarray, other: np.ndarray) -> float:
    """How far the mean of the one is below that of the other."""
    return float(other.mean() - one.mean())


def gap_error(one: np.ndarray, other: np.ndarray) -> float:
    """The standard error of the gap."""
    return math.hypot(standard_error(one), standard_error(other))


def is_level(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two means differ by at most the standard error of their difference.

    Of single values, which have none, only equal ones are level.
    """
    error = gap_error(one, other)
    return abs(gap(one, other)) <= (error if math.isfinite(error) else 0)
