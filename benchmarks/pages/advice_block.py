"""The block of docs/batch_size.md on the advice: predicted beside measured.

In: tables of runs. Out: per task the noise scale b that one run's log at S = 8
predicts, and the b of the curve through the updates that S = 8 to 128 took to the
target; likewise for the examples at S = 64 over those of the base run.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

import optax_lena
from benchmarks.pages import layout
from benchmarks.ramp.run import Run
from benchmarks.records.record import Record
from benchmarks.training.plan import MAX_BUDGET

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
METHOD, LOGGED, FAR = "amplified_first", 8, 64
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


def block(kept: Kept, grown: Sequence[Run]) -> str:
    """The table, and what it says of the bars.

    Args:
      kept: by name, the runs of a task and its target.
      grown: of `python -m benchmarks.ramp`, where the GPT has a log at S = 8.
    """
    found = {
        (name, is_whole): checked(label, *kept[name], is_whole=is_whole)
        for name, label in TASKS.items()
        for is_whole in (True, False)
    }
    caption = (
        f"Predicted from the log of one run at S = {LOGGED}, whole or until it reached "
        "the target (lowest to highest of the seeds, and the middle one's interval); "
        "measured by what runs with amplified LENA's first version at S = 8 to 128 "
        "took to the target (the curve through the means over seeds, ± standard error "
        "by jackknife; a run that never gets there counts with all it was allowed). "
        "Covered: seeds whose interval of b holds the measured one."
    )
    rows = [_row(one, is_whole) for (_, is_whole), one in found.items()]
    shown = layout.markdown([_HEAD, *rows], left=2)
    sentences = [*_sentences(found), *_gpt(*kept["gpt"], grown)]
    return layout.block([shown, caption, layout.bullets(sentences)])


def checked(
    label: str, runs: Sequence[Record], target: float, *, is_whole: bool
) -> Checked:
    """Compares one task's logs with its runs.

    Args:
      label: the task.
      runs: of it.
      target: the accuracy to reach.
      is_whole: whether the prediction reads the whole log, or that until the target.
    """
    logs = [run for run in runs if (run.method, run.batch_scale) == (METHOD, LOGGED)]
    ends = [None if is_whole else _updates(run, target) for run in logs]
    advice = [
        optax_lena.advise(_history(run, end))
        for run, end in zip(logs, ends, strict=True)
    ]
    seeds = sorted({run.seed for run in logs})
    points = {seed: _points(runs, target, seed) for seed in seeds}
    base = {run.seed: _updates(run, target) for run in runs if run.method == "base"}

    def noise_scale(some: Sequence[int]) -> float:
        scales = [scale for scale, _ in points[some[0]]]
        means = np.mean([[e for _, e in points[seed]] for seed in some], axis=0)
        return optax_lena.fit_curve(zip(scales, means, strict=True)).noise_scale

    def examples(some: Sequence[int]) -> float:
        own = [e for seed in some for s, e in points[seed] if s == FAR]
        return float(np.mean(own) / np.mean([base[seed] for seed in some]))

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


def _history(run: Record, end: int | None) -> dict[str, np.ndarray]:
    """The log up to an update; records leave out S, which they hold once."""
    length = len(run.updates) if end is None else run.updates.index(end) + 1
    scale = np.full(length, float(run.batch_scale))
    layers = {key: np.asarray(values)[:length] for key, values in run.layers.items()}
    return layers | {"model/batch_scale": scale}


def _updates(run: Record, target: float) -> int:
    """Updates to the target; of a run that never gets there all that it was allowed.

    To leave such runs out would make the curve of the large S that of the lucky.
    """
    found = run.updates_to(target)
    return run.updates[-1] if found is None else found


def _points(
    runs: Sequence[Record], target: float, seed: int
) -> list[tuple[int, float]]:
    """Base batches to the target by S."""
    own = [run for run in runs if run.method == METHOD and run.seed == seed]
    reached = {run.batch_scale: _updates(run, target) for run in own}
    return [(scale, scale * reached[scale]) for scale in sorted(reached)]


_HEAD = [
    "",
    "log",
    "predicted b",
    "interval",
    "measured b",
    "covered",
    "predicted E(64) / E(1)",
    "interval",
    "measured",
]


def _row(one: Checked, is_whole: bool) -> list[str]:
    middle = int(np.argsort(one.predicted)[len(one.predicted) // 2])
    return [
        one.label if is_whole else "",
        "whole" if is_whole else "until the target",
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


def _sentences(found: Mapping[tuple[str, bool], Checked]) -> list[str]:
    sentences = []
    for is_whole, log in ((True, "the whole log"), (False, "the log until the target")):
        own = {name: one for (name, of), one in found.items() if of == is_whole}
        near = {k: max(x.factor, 1 / x.factor) <= FACTOR for k, x in own.items()}
        cheap = {k: abs(one.excess) <= SHARE for k, one in own.items()}
        covered = sum(one.covered for one in own.values())
        logs = sum(len(one.intervals) for one in own.values())
        too_low = sum(one.factor > 1 for one in own.values())
        sentences.append(
            f"From {log}, b is within {FACTOR:g} times on {_tally(near)}, E(64) / E(1) "
            f"within {100 * SHARE:.0f} % on {_tally(cheap)}. The predicted b is too "
            f"low on {too_low}; its interval holds the measured one for {covered} of "
            f"{logs} logs."
        )
    new = found[UNSEEN, True]
    side, times = (
        "below" if new.factor > 1 else "above",
        max(new.factor, 1 / new.factor),
    )
    sentences.append(
        f"{new.label.capitalize()}, was added when everything else stood, and nothing "
        f"was chosen on it: the prediction is {times:.1f} times {side} the measured b, "
        f"and E(64) / E(1) comes out {100 * new.excess:+.0f} %."
    )
    return sentences


def _gpt(runs: Sequence[Record], target: float, grown: Sequence[Run]) -> Iterator[str]:
    """What is known of the GPT, on which no curve was measured."""
    logs = [
        {
            "model/noise_scale": np.asarray(run.noise_scale),
            "model/base_steps": np.asarray(run.evaluated_at, float),
        }
        for run in grown
        if (run.workload, run.way) == (runs[0].workload, f"constant_{LOGGED}")
    ]
    if not logs:
        return
    advice = [
        optax_lena.advise(
            {key: np.asarray(values, float) for key, values in log.items()}
        )
        for log in logs
    ]
    b = _range([one.curve.noise_scale for one in advice], 3)
    examples = _range([float(one.curve.examples(FAR)) for one in advice], 2)
    far = [run for run in runs if (run.method, run.batch_scale) == ("lena_adamw", FAR)]
    reached = sum(run.updates_to(target) is not None for run in far)
    yield (
        f"On the GPT with AdamW no curve was measured. A log at S = {LOGGED} predicts "
        f"b = {b} and E({FAR}) / E(1) = {examples} ({len(logs)} seeds); at S = {FAR} "
        f"{reached} of {len(far)} runs of LENA + AdamW reached the target within "
        f"{MAX_BUDGET:g} times the base run's examples."
    )


def _tally(holds: Mapping[str, bool]) -> str:
    """How many hold, and the names of those that do."""
    held = [TASKS[name].split(",")[0] for name, one in holds.items() if one]
    text = f"{len(held)} of {len(holds)} tasks"
    return f"{text} ({', '.join(held)})" if held else text
