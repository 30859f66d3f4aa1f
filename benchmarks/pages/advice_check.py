"""What `advise` predicts from a log, beside what runs at several S took to a target.

In: the runs of a task. Out: predicted and measured b, and examples at S = 64 over
those of the base run.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import stats

import optax_lena
from benchmarks import curve
from benchmarks.curve import Scored
from benchmarks.records.record import Record

METHOD, LOGGED, FAR = "amplified_first", 8, 64
FOREVER = 1e9
Pair = tuple[float, float]
Spread = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A task's logs, and its base batches to the target. All by seed.

    Attributes:
      label: the task.
      logs: metrics of the runs at S = 8.
      reached: base batches to the target by S, 1 being the base run.
      takes_median: whether the middle seed speaks for all, and not the mean. A run that
        never gets there is infinitely late then; else it counts with all it was
        allowed, which flatters the curve where there are many.
      warmup: base batches of the warm-up.
      failed: runs that never got there, of all large ones.
    """

    label: str
    logs: dict[int, dict[str, np.ndarray]]
    reached: dict[int, dict[int, float]]
    takes_median: bool
    warmup: float
    failed: tuple[int, int]

    def steps(self, scale: int, seeds: Sequence[int]) -> float:
        """Base batches to the target: of the middle seed, or the mean."""
        steps = sorted(self.reached[seed][scale] for seed in seeds)
        middle = steps[(len(steps) - 1) // 2 : len(steps) // 2 + 1]
        return float(np.mean(middle if self.takes_median else steps))

    def points(self, seeds: Sequence[int]) -> list[Pair]:
        """(S, base batches to the target), where most of these seeds got there."""
        scales = sorted(s for s in self.reached[seeds[0]] if s > 1)
        points = [(s, self.steps(s, seeds)) for s in scales]
        return [point for point in points if point[1] < math.inf]

    def noise_scale(self, seeds: Sequence[int]) -> float:
        """b of the curve through the points of these seeds."""
        return optax_lena.fit_curve(self.points(seeds)).noise_scale


def of_records(label: str, runs: Sequence[Record], target: float) -> Subject:
    """Of a table's runs.

    Args:
      label: the task.
      runs: of it.
      target: the accuracy to reach.
    """
    own = [run for run in runs if run.method in ("base", METHOD)]

    def steps(run: Record) -> float:
        found = run.updates_to(target)
        return run.batch_scale * (run.updates[-1] if found is None else found)

    large = [run for run in own if run.method == METHOD]
    warmup = own[0].recipe["warmup_share"] * own[0].base_steps
    failed = sum(run.updates_to(target) is None for run in large)
    return Subject(
        label,
        {run.seed: _metrics(run) for run in large if run.batch_scale == LOGGED},
        _by_seed([(run.seed, run.batch_scale, steps(run)) for run in own]),
        False,
        warmup,
        (failed, len(large)),
    )


def of_scored(label: str, runs: Sequence[Scored]) -> Subject:
    """Of runs of `benchmarks.curve`.

    Args:
      label: the task.
      runs: of it.
    """
    target = curve.target_of([run for run in runs if run.batch_scale == 1])

    def steps(run: Scored) -> float:
        found = run.steps_to(target)
        return math.inf if found is None else found

    logs = {
        run.seed: {
            "model/base_steps": np.asarray(run.base_steps, float),
            "model/noise_scale": np.array(
                [np.inf if x is None else x for x in run.noise_scale]
            ),
        }
        for run in runs
        if run.batch_scale == LOGGED
    }
    large = [run for run in runs if run.batch_scale > 1]
    failed = sum(run.steps_to(target) is None for run in large)
    rows = [(run.seed, run.batch_scale, steps(run)) for run in runs]
    warmup = 0.05 * curve.BASE_STEPS
    return Subject(label, logs, _by_seed(rows), True, warmup, (failed, len(large)))


def _metrics(run: Record) -> dict[str, np.ndarray]:
    """Records leave out S, which they hold once."""
    scale = np.full(len(run.updates), float(run.batch_scale))
    layers = {key: np.asarray(values) for key, values in run.layers.items()}
    return layers | {"model/batch_scale": scale}


def _by_seed(rows: Sequence[tuple[int, int, float]]) -> dict[int, dict[int, float]]:
    seeds = dict.fromkeys(seed for seed, _, _ in rows)
    return {k: {s: steps for seed, s, steps in rows if seed == k} for k in seeds}


@dataclasses.dataclass(frozen=True)
class Checked:
    """One task. Measurements are a value, and its ends without one seed each.

    Attributes:
      subject: the task.
      predicted: b, from every seed's log.
      intervals: of them.
      chances: the intervals of chance alone.
      measured: b.
      predicted_examples: E(64) / E(1), from every seed's log.
      measured_examples: E(64) / E(1).
      largest: noise scale in the middle seed's log.
    """

    subject: Subject
    predicted: list[float]
    intervals: list[Pair]
    chances: list[Pair]
    measured: Spread
    predicted_examples: list[float]
    measured_examples: Spread
    largest: float

    @property
    def factor(self) -> float:
        """Measured b over the predicted, of the middle seed."""
        return self.measured[0] / float(np.median(self.predicted))

    @property
    def excess(self) -> float:
        """Predicted examples over the measured, minus 1, of the middle seed."""
        return float(np.median(self.predicted_examples)) / self.measured_examples[0] - 1

    def covered_with(self, low: float, high: float) -> int:
        """In how many seeds an interval with another factor would hold it."""
        measured, count = self.measured[0], 0
        for b, (least, most) in zip(self.predicted, self.chances, strict=True):
            below = (
                math.hypot(math.log(b / least), math.log(low))
                if least > 0
                else math.inf
            )
            above = math.hypot(math.log(most / b), math.log(high))
            count += -below <= math.log(measured / b) <= above
        return count

    @property
    def covered(self) -> int:
        """In how many seeds the interval of b holds the measured one."""
        return sum(low <= self.measured[0] <= high for low, high in self.intervals)


def check(subject: Subject, *, is_whole: bool) -> Checked:
    """Compares one task's logs with its runs.

    Args:
      subject: the task.
      is_whole: whether the prediction reads the whole log, or that until the target.
    """
    seeds = sorted(subject.logs)
    ends = [min(subject.reached[seed][LOGGED], FOREVER) for seed in seeds]
    advice = [
        optax_lena.advise(subject.logs[seed], until=None if is_whole else end)
        for seed, end in zip(seeds, ends, strict=True)
    ]

    def examples(some: Sequence[int]) -> float:
        return subject.steps(FAR, some) / subject.steps(1, some)

    return Checked(
        subject,
        predicted=[one.curve.noise_scale for one in advice],
        intervals=[one.noise_scale_interval for one in advice],
        chances=[_of_b(one, one.chance_interval) for one in advice],
        measured=left_out(subject.noise_scale, seeds),
        predicted_examples=[float(one.curve.examples(FAR)) for one in advice],
        measured_examples=left_out(examples, seeds),
        largest=float(np.median([one.history.noise_scale.max() for one in advice])),
    )


def _of_b(advice: optax_lena.Advice, interval: Pair) -> Pair:
    """An interval of the critical scale as one of the noise scale."""
    per_scale = 1 / advice.efficiency - 1
    return interval[0] / per_scale, interval[1] / per_scale


def left_out(
    estimate: Callable[[Sequence[int]], float], seeds: Sequence[int]
) -> Spread:
    """An estimate from all seeds, and its ends where each seed is left out once."""
    without = [estimate([s for s in seeds if s != seed]) for seed in seeds]
    return estimate(seeds), min(without), max(without)


def model_error(found: Sequence[Checked], share: float = 0.8) -> Pair:
    """Where the measured b of another task lies over the predicted, by Student's t.

    Args:
      found: tasks.
      share: of such tasks that lie within.
    """
    logs = np.log([one.factor for one in found])
    quantile = stats.t.ppf((1 + share) / 2, len(logs) - 1)
    reach = float(quantile * logs.std(ddof=1) * math.sqrt(1 + 1 / len(logs)))
    return math.exp(logs.mean() - reach), math.exp(logs.mean() + reach)


def left_out_coverage(found: Mapping[str, Checked]) -> tuple[int, int]:
    """How many logs are covered with the factor that the other tasks give; of all.

    Args:
      found: tasks by name.
    """
    covered = 0
    for name, one in found.items():
        _, high = model_error([x for other, x in found.items() if other != name])
        covered += one.covered_with(1.0, high)
    return covered, sum(len(one.predicted) for one in found.values())
