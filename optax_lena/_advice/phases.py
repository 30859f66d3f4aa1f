"""The phases: the early, the middle and the late part of a run.

In: a `History`. Out: for each third of its base steps the noise scale, the critical
scale and its interval.
"""

import dataclasses

from optax_lena._advice.history import History
from optax_lena._advice.interval import Interval, median_interval, with_model_error

PHASES = 3


@dataclasses.dataclass(frozen=True)
class Phase:
    """One part of the run, with its noise scale and its critical scale.

    Attributes:
      start: the base step after which it starts.
      end: its last base step.
      noise_scale: b, in base batches.
      critical_scale: the S at which an example is worth `efficiency`.
      interval: (low, high) of `critical_scale`, as `Advice.interval`.
    """

    start: float
    end: float
    noise_scale: float
    critical_scale: float
    interval: Interval


def thirds(history: History, per_scale: float) -> tuple[Phase, ...]:
    """Returns the run's thirds by base steps; none for fewer than three entries.

    Args:
      history: of the whole run.
      per_scale: critical scale over noise scale.

    Returns:
      Up to three phases, in time.
    """
    if len(history.base_steps) < PHASES:
        return ()
    first, last = history.base_steps[0], history.base_steps[-1]
    start = max(first - history.weights[0], 0.0)
    phases = []
    for number in range(PHASES):
        begin = start + (last - start) * number / PHASES
        end = start + (last - start) * (number + 1) / PHASES
        part = history.part(begin, end if number < PHASES - 1 else last)
        if len(part.base_steps):
            b, chance = median_interval(part.noise_scale, part.weights)
            low, high = with_model_error(b, chance)
            between = low * per_scale, high * per_scale
            phases.append(Phase(begin, end, b, b * per_scale, between))
    return tuple(phases)
