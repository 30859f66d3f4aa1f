"""The text: an advice in words and a table, for people.

In: an `Advice`. Out: lines of at most 79 columns.
"""

import math
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optax_lena._advice.advice import Advice

_MOST_LAYERS, _WIDTH = 6, 79


def describe(advice: "Advice") -> str:
    """Returns the recommendation, the table, the phases, the layers and the check."""
    blocks = [
        recommendation(advice),
        _table(advice),
        _phases(advice),
        _layers(advice),
        _branch(advice),
    ]
    return "\n\n".join(block for block in blocks if block)


def recommendation(advice: "Advice") -> str:
    """Returns what to do, and how sure that is."""
    more = 100 * (1 / advice.efficiency - 1)
    critical, (low, high) = advice.critical_scale, advice.interval
    if math.isinf(critical):
        return "No signal was seen: all is noise, and any batch is too small for it."
    if critical == 0:
        return (
            "No noise was seen. Most likely the gradients were averaged before "
            "their\nnorms were taken; if they were not, larger batches are useless."
        )
    sure = (
        f"({_number(low)} to {_number(high)})"
        if math.isfinite(high)
        else "(too short a log to say how sure)"
    )
    lines = [
        f"Critical batch scale: S = {_number(critical)}{_examples(advice, critical)} "
        f"{sure}, "
        f"where {more:.0f} % more examples are needed than in ever smaller batches; "
        f"noise scale b = {_number(advice.curve.noise_scale)} base batches.",
    ]
    scale = 2.0 ** math.floor(math.log2(critical)) if critical >= 1 else 1.0
    if critical < 1 and math.isinf(high):
        lines.append(
            "The log is too short to say whether the base batch is past it: log more."
        )
    elif critical < 1:
        lines.append("The base batch is past it already: a smaller one saves examples.")
    elif scale == 1:
        lines.append(
            "By the noise scale alone, keep the base batch: twice of it is past the "
            "critical scale."
        )
    else:
        lines.append(_recommended(advice, scale))
    return "\n".join(map(wrapped, lines + _rise(advice) + _fastest(advice)))


def _recommended(advice: "Advice", scale: float) -> str:
    examples = advice.curve.examples(scale)
    return (
        f"Recommended: S = {scale:g}{_examples(advice, scale)}, "
        f"{100 * (examples - 1):.0f} % more examples and "
        f"{fitted(scale / examples, '.1f', 12)} times fewer updates than the base "
        "batch."
    )


def _rise(advice: "Advice") -> list[str]:
    scales = [phase.noise_scale for phase in advice.phases]
    if len(scales) < 2 or not 0 < scales[0] < scales[-1] < math.inf:
        return []
    rise = scales[-1] / scales[0]
    if rise < 2:
        return []
    return [
        f"It rises {rise:.1f} times from the first third to the last: a batch that "
        "grows with it (BatchRamp) saves examples early and updates late."
    ]


def _fastest(advice: "Advice") -> list[str]:
    if advice.step_seconds is None:
        return []
    fastest = advice.fastest_scale
    if math.isinf(fastest):
        return ["Time: an update costs the same at any batch; the largest is fastest."]
    fastest = max(fastest, 1.0)
    faster = advice.time(1) / advice.time(fastest)
    return [
        f"Time: shortest at S = {_number(fastest)}{_examples(advice, fastest)}, "
        f"{faster:.1f} times shorter than with the base batch."
    ]


def _table(advice: "Advice") -> str:
    """Returns one row per doubling, up to four times the critical scale."""
    most = 4 * advice.critical_scale
    if not math.isfinite(most):
        most = 64.0
    most = min(max(most, 8.0), 2.0**20)
    scales = [2**k for k in range(int(math.log2(most)) + 1)]
    head = f"{'S':>8}" + (f" {'batch':>10}" if advice.base_batch else "")
    head += f" {'examples':>9} {'between':>15} {'efficiency':>11} {'updates':>8}"
    head += f" {'time':>7}" if advice.step_seconds else ""
    rows = [_table_row(advice, scale) for scale in scales]
    foot = "Examples, updates" + (", time" if advice.step_seconds else "")
    return "\n".join(
        [head, *rows, f"{foot}: times the base batch's, to the same target."]
    )


def _table_row(advice: "Advice", scale: int) -> str:
    examples = advice.curve.examples(scale)
    low, high = advice.examples_interval(scale)
    between = f"{fitted(low, '.2f', 7)} - {fitted(high, '.2f', 7)}"
    row = f"{scale:>8,}"
    if advice.base_batch:
        row += f" {fitted(scale * advice.base_batch, ',', 10):>10}"
    row += f" {fitted(examples, '.2f', 9):>9}"
    row += f" {between if math.isfinite(advice.interval[1]) else '-':>15}"
    row += f" {advice.curve.efficiency(scale):>11.2f}"
    row += f" {examples / scale:>8.3f}"
    if advice.step_seconds:
        row += f" {fitted(advice.time(scale) / advice.time(1), '.3f', 7):>7}"
    return row


def _phases(advice: "Advice") -> str:
    if not advice.phases:
        return ""
    rows = []
    for phase in advice.phases:
        low, high = phase.interval
        ends = [fitted(step, ",.0f", 12) for step in (phase.start, phase.end)]
        span = " - ".join(ends)
        between = f"{_number(low)} - {_number(high)}" if math.isfinite(high) else "-"
        rows.append(
            f"{span:>22} {_number(phase.noise_scale):>12} "
            f"{_number(phase.critical_scale):>12} {between:>19}"
        )
    head = f"{'base steps':>22} {'noise scale':>12} {'critical S':>12} {'between':>19}"
    return "\n".join([head, *rows])


def _layers(advice: "Advice") -> str:
    """Returns the layers with the smallest and the largest critical scale."""
    ranked = sorted(
        (scale, name) for name, scale in advice.per_layer.items() if scale == scale
    )
    if not ranked:
        return ""
    half = _MOST_LAYERS // 2
    many = len(ranked) > _MOST_LAYERS
    shown = ranked[:half] + ranked[-half:] if many else ranked
    rows = [
        f"{_number(scale):>12}  {end_of(name, _WIDTH - 14)}" for scale, name in shown
    ]
    if many:
        rows.insert(half, f"{'...':>12}  {len(ranked) - len(shown)} layers between")
    return "\n".join([f"{'critical S':>12}  layer", *rows])


def _branch(advice: "Advice") -> str:
    branch = advice.branch
    if branch is None:
        return wrapped(
            "A cautious prediction: on nine tasks the noise scale that followed from "
            "the examples to a target was 1.4 to 17 times the logged one, in the "
            "middle five times. The intervals hold that, and 95 % of chance. "
            "optax_lena.branch_test measures from a checkpoint."
        )
    if math.isnan(branch.scale):  # no verdict on the prediction
        return str(branch)
    ratio = advice.critical_scale / branch.scale if branch.scale else math.inf
    if branch.is_bound and ratio >= 1:
        verdict = "It does not contradict the prediction: try larger scales."
    elif 0.5 <= ratio <= 2:
        verdict = "It agrees with the prediction within a factor of 2."
    else:
        side = "less" if ratio < 1 else "more"
        times = f"{max(ratio, 1 / ratio):.1f}" if 0 < ratio < math.inf else "infinitely"
        verdict = (
            f"The prediction allows {times} times {side}: believe the test, at this "
            "point of the run."
        )
        verdict = wrapped(verdict)
    return f"{branch}\n{verdict}"


def _examples(advice: "Advice", scale: float) -> str:
    if advice.base_batch is None:
        return ""
    return f" ({fitted(scale * advice.base_batch, ',.0f', 19)} examples)"


def wrapped(sentence: str) -> str:
    """Wraps a sentence into lines of at most 79 columns."""
    return textwrap.fill(sentence, _WIDTH)


def fitted(number: float, form: str, width: int) -> str:
    """Returns a number in the format, or with two digits if that is too wide."""
    text = f"{number:{form}}"
    return text if len(text) <= width else f"{number:.1e}"


def end_of(name: str, most: int) -> str:
    """Shortens a name of more than so many letters to its end, which tells more."""
    return name if len(name) <= most else "..." + name[3 - most :]


def _number(value: float) -> str:
    """Formats a number with three digits, or more to avoid an exponent."""
    if not math.isfinite(value):
        return "inf" if value > 0 else "?"
    if value >= 100:
        return f"{value:,.0f}" if value < 1e9 else f"{value:.1e}"
    return f"{value:.3g}"
