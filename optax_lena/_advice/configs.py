r"""The configurations: a batch schedule as MaxText and Levanter read it.

In: a `BatchSchedule`, recorded by a `BatchRamp` or planned. Out: lines of YAML.
Levanter can follow every schedule, MaxText only a straight line from the first batch
$B_0$ over examples x, where a schedule changes to S at x(S),

$$B(x) = B_0 \, (1 + \lfloor x / x_1 \rfloor), \qquad
  x_1 = \max_k x(S_0 2^k) / 2^{k-1}$$
"""

import math
from typing import Any

from optax_lena._advice.schedule import BatchSchedule
from optax_lena._checks import check_is, check_number


def levanter_config(schedule: BatchSchedule, base_batch: int) -> str:
    """Writes a batch schedule as Levanter's `trainer.train_batch_size`.

    Args:
      schedule: from `BatchRamp.schedule`, `seesaw` or your own.
      base_batch: examples in a base batch.

    Returns:
      YAML. `start` counts updates.

    Raises:
      ValueError: if `base_batch` is not a whole number from 1.
      TypeError: if `schedule` is no `BatchSchedule`.

    Example:
      >>> from optax_lena import BatchSchedule, levanter_config
      >>> print(levanter_config(BatchSchedule(((0, 8), (800, 16))), base_batch=4))
      trainer:
        train_batch_size:
          - start: 0
            value: 32
          - start: 100
            value: 64

    References:
      Levanter's `levanter.schedule.ScheduleStep(start, value)` and `TrainerConfig`.
    """
    _check(schedule, base_batch=base_batch)
    lines = ["trainer:", "  train_batch_size:"]
    for update, scale in schedule.updates():
        batch = round(scale * base_batch)  # either may be a float that is whole
        lines += [f"    - start: {update}", f"      value: {batch}"]
    return "\n".join(lines)


def maxtext_config(schedule: BatchSchedule, base_batch: int, num_devices: int) -> str:
    """Writes a batch schedule as MaxText's linear ramp, which never runs ahead of it.

    MaxText adds the same number of examples to the batch after equal numbers of
    examples: here the first batch, at steps so long that no batch is larger than the
    schedule's at that time. The ramp lags behind early doublings.

    Args:
      schedule: with at least one change; every scale is a multiple of the first.
      base_batch: examples in a base batch.
      num_devices: devices that share a batch.

    Returns:
      YAML.

    Raises:
      ValueError: if the batch never grows, falls, or is no multiple of the first, or a
        count is not a whole number from 1.
      TypeError: if `schedule` is no `BatchSchedule`.

    Example:
      >>> from optax_lena import BatchSchedule, maxtext_config
      >>> ramp = BatchSchedule(((0, 8), (800, 16), (2400, 32)))
      >>> print(maxtext_config(ramp, base_batch=4, num_devices=16))
      enable_rampup_batch_size: true
      per_device_batch_size_start: 2.0
      per_device_batch_size_increment: 2.0
      per_device_batch_size: 8.0
      global_rampup_samples: 14400

    References:
      MaxText's `rampup_batch.py`, `RampupBatchManager`.
    """
    _check(schedule, base_batch=base_batch, num_devices=num_devices)
    (_, first), *later = schedule.changes
    scales = [first, *(scale for _, scale in later)]
    if (
        len(scales) < 2
        or sorted(set(scales)) != scales
        or any(s % first for s in scales)
    ):
        raise ValueError(
            "`schedule` must grow by multiples of its first batch scale, got scales "
            f"{scales}: MaxText's ramp adds equal steps."
        )
    # The ramp leaves the scale before a change after (that scale / first) steps.
    stage = max(
        step * base_batch * first / before
        for (step, _), before in zip(later, scales, strict=False)
    )
    increments = scales[-1] // first - 1
    per_device = first * base_batch / num_devices
    return "\n".join(
        [
            "enable_rampup_batch_size: true",
            f"per_device_batch_size_start: {per_device}",
            f"per_device_batch_size_increment: {per_device}",
            f"per_device_batch_size: {per_device * scales[-1] / first}",
            f"global_rampup_samples: {math.ceil(stage * increments)}",
        ]
    )


def _check(schedule: Any, **counts: Any) -> None:
    check_is("schedule", schedule, BatchSchedule, "BatchRamp.schedule or seesaw")
    for name, value in counts.items():
        meaning = "a number of examples or devices"
        check_number(name, value, meaning, at_least=1, integer=True)
