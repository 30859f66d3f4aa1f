"""The block of docs/batch_size.md on the advice: predicted beside measured."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

import optax_lena
from benchmarks.curve import Scored
from benchmarks.methods.registry import METHODS
from benchmarks.pages import layout
from benchmarks.pages.advice_check import (
    FAR,
    LOGGED,
    Checked,
    Spread,
    check,
    left_out_coverage,
    model_error,
    of_records,
    of_scored,
)
from benchmarks.ramp.run import Run
from benchmarks.records.record import Record
from benchmarks.training.plan import MAX_BUDGET
from benchmarks.watch import Watched
from optax_lena.plotting import plot_advice

# By name of the records: what a reader who knows none of them calls the task.
TASKS = {
    "text": "characters, perceptron",
    "fashion_batchnorm": "Fashion-MNIST, residual network",
    "digits": "digits, perceptron",
    "bytecode": "byte code, perceptron",
}
# Of `benchmarks.curve`: added when these four stood.
NEW = {
    "deep_regression": "deep regression",
    "rare_heads": "rarely active heads",
    "adapters": "adapters and full layers",
    "heavy_tails": "heavy-tailed noise",
    "autoencoder": "autoencoder",
    "words": "words with an embedding",
}
FACTOR, SHARE, COVERED = 1.5, 0.15, 0.8
# The factors of the interval as they came out of the first four tasks.
EARLIER = (0.75, 9.3)
FIGURE = "batch_size/advice.png"
# What the figure shows: a table of `benchmarks.watch`, and of measured points.
SHOWN = "fashion_batchnorm"
_FIGURE_CAPTION = (
    "`plot_advice` on the log of one run of the residual network on Fashion-MNIST at "
    "S = 8 (`python -m benchmarks.watch fashion_batchnorm`), with what runs took to "
    "the target. The noise scale rises in every layer, first in the convolutions and "
    "last in the output."
)
Kept = Mapping[str, tuple[Sequence[Record], float]]
Found = Mapping[str, Checked]


def block(kept: Kept, grown: Sequence[Run], scored: Sequence[Scored]) -> str:
    """The tables, and what they say of the bars.

    Args:
      kept: by name, the runs of a task and its target.
      grown: of `python -m benchmarks.ramp`, where the GPT has a log at S = 8.
      scored: of `python -m benchmarks.curve`.
    """
    subjects = {name: of_records(TASKS[name], *kept[name]) for name in TASKS}
    new = {
        name: of_scored(label, own)
        for name, label in NEW.items()
        if (own := [run for run in scored if run.task == name])
    }
    until = {k: check(one, is_whole=False) for k, one in (subjects | new).items()}
    whole = {k: check(one, is_whole=True) for k, one in subjects.items()}
    old = {name: until[name] for name in TASKS}
    sentences = [
        _bars("From the log until the target", old),
        _bars("From the whole log", whole),
        *_reasons(until),
        *_interval(until, [until[name] for name in new]),
        *_gpt(*kept["gpt"], grown),
    ]
    parts = [
        f"![The curve of a log, and every layer's noise scale over time]({FIGURE})",
        _FIGURE_CAPTION,
        "From the log until the target:",
        layout.markdown([_HEAD, *map(_row, until.values())]),
        "From the whole log:",
        layout.markdown([_HEAD, *map(_row, whole.values())]),
        _CAPTION,
        layout.bullets(sentences),
    ]
    return layout.block(parts)


_HEAD = [
    "",
    "predicted b",
    "interval",
    "largest logged",
    "measured b",
    "times",
    "covered",
    "failed",
    "predicted E(64) / E(1)",
    "measured",
]
_CAPTION = (
    f"Predicted from the log of one run at S = {LOGGED} (lowest to highest of the "
    "seeds, and the interval of the median seed); largest logged: the maximum of the "
    "noise scale in that log. Measured from the examples that runs with the first "
    "version of amplified LENA at S = 8 to 128 took to the target: the curve through "
    "the means over seeds, where a run that never reaches it counts with all it was "
    "allowed; on the tasks below the first four, where many fail, through the medians, "
    "without the S where most fail. In parentheses: its range when each seed is left "
    "out once. Times: measured over predicted. Covered: seeds whose interval of b "
    "contains the measured one. Failed: large-batch runs that never reach the target. "
    "The first four tasks are those of docs/benchmarks.md. On the others, and on byte "
    "code, only the base rate was tuned."
)


def figure(watched: Watched, runs: Sequence[Record], target: float) -> Figure:
    """Of a whole log, with the points that the runs measured.

    Args:
      watched: the log.
      runs: of the same table.
      target: the accuracy to reach.
    """
    subject = of_records(TASKS[watched.table], runs, target)
    seeds = sorted(subject.logs)
    base = subject.steps(1, seeds)
    points = [(scale, steps / base) for scale, steps in subject.points(seeds)]
    log = {key: np.asarray(values) for key, values in watched.metrics.items()}
    return plot_advice(optax_lena.advise(log, base_batch=watched.base_batch), points)


def _row(one: Checked) -> list[str]:
    middle = int(np.argsort(one.predicted)[len(one.predicted) // 2])
    return [
        one.subject.label,
        _range(one.predicted, 3),
        _range(one.intervals[middle], 3),
        f"{one.largest:.3g}",
        _spread(one.measured),
        f"{one.factor:.2g}",
        f"{one.covered} of {len(one.intervals)}",
        f"{one.subject.failed[0]} of {one.subject.failed[1]}",
        _range(one.predicted_examples, 3),
        _spread(one.measured_examples),
    ]


def _range(values: Sequence[float], digits: int) -> str:
    low, high = (_number(end, digits) for end in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _number(value: float, digits: int) -> str:
    return f"{value:,.0f}" if 1000 <= value < math.inf else f"{value:.{digits}g}"


def _spread(measured: Spread) -> str:
    value, low, high = measured
    if math.isinf(value):
        return "not reached"
    return f"{value:.3g} ({_range([low, high], 3)})"


def _bars(log: str, found: Found) -> str:
    near = {k: max(x.factor, 1 / x.factor) <= FACTOR for k, x in found.items()}
    cheap = {k: abs(one.excess) <= SHARE for k, one in found.items()}
    too_low = sum(one.factor > 1 for one in found.values())
    return (
        f"{log}, b is within {FACTOR:g} times on {_tally(near)}, E(64) / E(1) within "
        f"{100 * SHARE:.0f} % on {_tally(cheap)}. The predicted b is too low on "
        f"{too_low}; {_coverage(list(found.values()))}."
    )


def _coverage(found: Sequence[Checked]) -> str:
    covered = sum(one.covered for one in found)
    logs = sum(len(one.intervals) for one in found)
    return f"the interval contains the measured b in {_share(covered, logs)}"


def _share(covered: int, logs: int) -> str:
    verdict = "is met" if covered >= COVERED * logs else "is not met"
    return f"{covered} of {logs} logs (the bar of {100 * COVERED:.0f} % {verdict})"


def _tally(holds: Mapping[str, bool]) -> str:
    """How many hold, and the names of those that do."""
    held = [_short(TASKS[name]) for name, one in holds.items() if one]
    text = f"{len(held)} of the first {len(holds)} tasks"
    return f"{text} ({', '.join(held)})" if held else text


def _short(label: str) -> str:
    return label.split(",")[0]


def _reasons(until: Found) -> Iterator[str]:
    """Why a prediction fails: no average of a log is above its largest entry."""
    beyond = [one for one in until.values() if one.measured[0] > one.largest]
    cases = "; ".join(
        f"{_short(one.subject.label)} {one.largest:.3g} and {one.measured[0]:.3g}"
        for one in beyond
    )
    yield (
        f"On {len(beyond)} of {len(until)} tasks no other average of the log would "
        "be right either: until the target the noise scale never reached the measured "
        f"b (largest logged and measured: {cases}). The noise scale weights all "
        "directions equally; the rate of a small batch is limited by the noise in the "
        "steep ones (McCandlish et al., 2018), which was not measured here."
    )
    one = until["digits"]
    first = float(np.mean([each[LOGGED] for each in one.subject.reached.values()]))
    log = next(iter(one.subject.logs.values()))
    yield (
        f"On digits the target comes after {first:,.0f} of "
        f"{log['model/base_steps'][-1]:,.0f} base batches, of which "
        f"{one.subject.warmup:,.0f} are the warm-up, and the averages are over 1,000: "
        "the log until then shows only the start, and the log after it a run with "
        "nothing left to learn. `until` cuts it there."
    )


def _interval(until: Found, new: Sequence[Checked]) -> Iterator[str]:
    """Where its factor comes from, and whether it holds where it was not chosen."""
    if not new:
        return
    low, high = model_error(list(until.values()))
    factors = [one.factor for one in until.values()]
    middle = math.exp(float(np.mean(np.log(factors))))
    yield (
        f"On all {len(until)} tasks the measured b is above the predicted one, by a "
        f"factor of {_range(factors, 2)}, with a geometric mean of {middle:.2g}. The "
        "interval of Student's t for one more task (80 %, of the logarithm) is "
        f"{low:.2g} to {high:.2g}. Its upper end is the upward factor in every "
        "interval, in addition to chance; the downward factor is 1.5, which no task "
        "needs."
    )
    low, high = EARLIER
    covered, logs = left_out_coverage(until)
    before = sum(one.covered_with(low, high) for one in new)
    total = sum(len(one.intervals) for one in new)
    yield (
        f"Computed from the first four tasks alone the factor was {low:g} to {high:g}. "
        f"On the {len(new)} others it covers {_share(before, total)}, so it was "
        "computed again, from all. With the factor of the other tasks alone, each task "
        f"left out once, the interval covers {_share(covered, logs)}."
    )


def _gpt(runs: Sequence[Record], target: float, grown: Sequence[Run]) -> Iterator[str]:
    """What is known of the GPT, on which no curve was measured."""
    own = [run for run in grown if run.workload == runs[0].workload]
    at_8 = [r for r in own if (r.way, r.split) == (f"constant_{LOGGED}", "test")]
    if not at_8:
        return
    advice = [
        optax_lena.advise(
            {
                "model/noise_scale": np.asarray(run.noise_scale, float),
                "model/base_steps": np.asarray(run.evaluated_at, float),
            }
        )
        for run in at_8
    ]
    b = _range([one.curve.noise_scale for one in advice], 3)
    examples = _range([float(one.curve.examples(FAR)) for one in advice], 2)
    key = "adamw_root_gain", FAR
    far = [run for run in runs if (run.method, run.batch_scale) == key]
    reached = sum(run.updates_to(target) is not None for run in far)
    yield (
        f"On the GPT with AdamW no curve was measured. A log at S = {LOGGED} predicts "
        f"b = {b} and E({FAR}) / E(1) = {examples} ({len(at_8)} seeds); at S = {FAR} "
        f"{reached} of {len(far)} runs of {METHODS[key[0]].label} reached the target "
        f"within {MAX_BUDGET:g} times the base run's examples."
    )
