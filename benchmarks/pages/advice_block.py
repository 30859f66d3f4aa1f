"""The block of docs/batch_size.md on the advice: predicted beside measured.

In: tables of runs. Out: per task the noise scale b that one run's log at S = 8
predicts, and the b of the curve through the updates that S = 8 to 128 took to the
target; likewise for the examples at S = 64 over those of the base run.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

import optax_lena
from benchmarks.pages import layout
from benchmarks.records.record import Record

# By name of the records: what a reader who knows none of them calls the task.
TASKS = {
    "text": "characters, perceptron",
    "fashion_batchnorm": "Fashion-MNIST, residual network",
    "digits": "digits, perceptron",
    "bytecode": "byte code, perceptron",
}
# The tasks on whose records the factor of the interval was chosen, and that on which
# nothing was.
UNSEEN = "bytecode"
METHOD, LOGGED, FAR = "lena_amplified", 8, 64
FACTOR, SHARE = 1.5, 0.15
Kept = Mapping[str, tuple[Sequence[Record], float]]


@dataclasses.dataclass(frozen=True)
class Checked:
    """One task. Pairs are a value and its standard error over seeds.

    Attributes:
      label: the task.
      predicted: b, from every seed's log.
      intervals: of them.
      measured: b.
      predicted_examples: E(64) / E(1), from every seed's log.
      examples_intervals: of them.
      measured_examples: E(64) / E(1).
    """

    label: str
    predicted: list[float]
    intervals: list[tuple[float, float]]
    measured: tuple[float, float]
    predicted_examples: list[float]
    examples_intervals: list[tuple[float, float]]
    measured_examples: tuple[float, float]

    @property
    def factor(self) -> float:
        """Measured b over the predicted, of the middle seed."""
        return self.measured[0] / float(np.median(self.predicted))

    @property
    def excess(self) -> float:
        """Predicted examples over the measured, minus 1, of the middle seed."""
        return float(np.median(self.predicted_examples)) / self.measured_examples[0] - 1

    @property
    def covered(self) -> int:
        """In how many seeds the interval of b holds the measured one."""
        return sum(low <= self.measured[0] <= high for low, high in self.intervals)


def block(kept: Kept) -> str:
    """The table, and what it says of the bars.

    Args:
      kept: by name, the runs of a task and its target.
    """
    found = {name: checked(label, *kept[name]) for name, label in TASKS.items()}
    caption = (
        f"Predicted from the log of one run at S = {LOGGED} (lowest to highest of the "
        "seeds, and the middle one's interval), measured by what runs with amplified "
        "LENA at S = 8 to 128 took until the target (± standard error, jackknife over "
        f"seeds). Covered: seeds whose interval of b holds the measured one."
    )
    shown = layout.markdown([_HEAD, *map(_row, found.values())])
    return layout.block([shown, caption, layout.bullets(_sentences(found))])


def checked(label: str, runs: Sequence[Record], target: float) -> Checked:
    """Compares one task's logs with its runs.

    Args:
      label: the task.
      runs: of it.
      target: the accuracy to reach.
    """
    logs = [run for run in runs if (run.method, run.batch_scale) == (METHOD, LOGGED)]
    advice = [optax_lena.advise(_history(run)) for run in logs]
    seeds = sorted({run.seed for run in logs})
    points = {seed: _points(runs, target, seed) for seed in seeds}
    reached = [(r.seed, r.updates_to(target)) for r in runs if r.method == "base"]
    base = {seed: updates for seed, updates in reached if updates is not None}

    def noise_scale(some: Sequence[int]) -> float:
        every = [point for seed in some for point in points[seed]]
        return optax_lena.fit_curve(every).noise_scale

    def examples(some: Sequence[int]) -> float:
        own = [e for seed in some for s, e in points[seed] if s == FAR]
        return float(np.mean(own) / np.mean([base[k] for k in some if k in base]))

    return Checked(
        label=label,
        predicted=[one.curve.noise_scale for one in advice],
        intervals=[one.noise_scale_interval for one in advice],
        measured=jackknife(noise_scale, seeds),
        predicted_examples=[float(one.curve.examples(FAR)) for one in advice],
        examples_intervals=[one.examples_interval(FAR) for one in advice],
        measured_examples=jackknife(examples, seeds),
    )


def jackknife(
    estimate: Callable[[Sequence[int]], float], seeds: Sequence[int]
) -> tuple[float, float]:
    """An estimate from all seeds, and its standard error from leaving out one each."""
    without = [estimate([s for s in seeds if s != seed]) for seed in seeds]
    spread = (len(seeds) - 1) * float(np.var(without))
    return estimate(seeds), math.sqrt(spread)


def _history(run: Record) -> dict[str, np.ndarray]:
    """The log as `advise` reads it; records leave out S, which they hold once."""
    scale = np.full(len(run.updates), float(run.batch_scale))
    layers = {key: np.asarray(values) for key, values in run.layers.items()}
    return layers | {"model/batch_scale": scale}


def _points(
    runs: Sequence[Record], target: float, seed: int
) -> list[tuple[int, float]]:
    """Base batches to the target by S; a run that never gets there has no point."""
    own = [run for run in runs if run.method == METHOD and run.seed == seed]
    reached = [(run.batch_scale, run.updates_to(target)) for run in own]
    return [(scale, scale * n) for scale, n in reached if n is not None]


_HEAD = [
    "",
    "predicted b",
    "interval",
    "measured b",
    "covered",
    "predicted E(64) / E(1)",
    "interval",
    "measured",
]


def _row(one: Checked) -> list[str]:
    middle = int(np.argsort(one.predicted)[len(one.predicted) // 2])
    return [
        one.label,
        _range(one.predicted, 3),
        _range(one.intervals[middle], 3),
        f"{one.measured[0]:.3g} ± {one.measured[1]:.2g}",
        f"{one.covered} of {len(one.intervals)}",
        _range(one.predicted_examples, 3),
        _range(one.examples_intervals[middle], 3),
        f"{one.measured_examples[0]:.3g} ± {one.measured_examples[1]:.1g}",
    ]


def _range(values: Sequence[float], digits: int) -> str:
    low, high = (f"{end:.{digits}g}" for end in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _sentences(found: Mapping[str, Checked]) -> list[str]:
    near = {k: max(one.factor, 1 / one.factor) <= FACTOR for k, one in found.items()}
    cheap = {k: abs(one.excess) <= SHARE for k, one in found.items()}
    new = found[UNSEEN]
    too_low = sum(one.factor > 1 for one in found.values())
    covered = sum(one.covered for one in found.values())
    logs = sum(len(one.intervals) for one in found.values())
    side = "below" if new.factor > 1 else "above"
    times = max(new.factor, 1 / new.factor)
    return [
        f"b within {FACTOR:g} times: {_tally(near)}. The prediction was too low on "
        f"{too_low} of {len(found)}, as Merrill et al. report of noise scales.",
        f"E(64) / E(1) within {100 * SHARE:.0f} %: {_tally(cheap)}.",
        f"The interval of b holds the measured one for {covered} of {logs} logs.",
        f"On {new.label}, where nothing was tuned or chosen, the prediction is "
        f"{times:.2f} times {side} the measured b, and E(64) / E(1) is "
        f"{100 * new.excess:+.0f} % off.",
    ]


def _tally(holds: Mapping[str, bool]) -> str:
    """How many hold, and the names of those that do not."""
    failed = [TASKS[name] for name, held in holds.items() if not held]
    text = f"{len(holds) - len(failed)} of {len(holds)} tasks"
    return f"{text} (not {'; '.join(failed)})" if failed else text
