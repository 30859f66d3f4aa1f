r"""Seesaw: a decay of the rate becomes growth of the batch.

In: a schedule of the rate. Out: one of the rate and one of the batch. Where the first
has fallen to a share $a$ of its peak,

$$S(t) = \max \{ 2^k \le 1 / a \}, \qquad
  \text{rate}(t) = \text{schedule}(t) \sqrt{S(t)}$$
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from optax_lena._advice.schedule import BatchSchedule
from optax_lena._checks import check_callable, check_number

Rate = Callable[[jax.typing.ArrayLike], jax.Array]


def seesaw(
    schedule: Callable[[jax.typing.ArrayLike], jax.typing.ArrayLike],
    steps: int,
    *,
    max_scale: int = 64,
) -> tuple[Rate, BatchSchedule]:
    r"""Turns the decay of a learning-rate schedule into growth of the batch.

    Where the schedule multiplies the rate by $a$, the rate is multiplied by $\sqrt a$
    and the batch by $1 / a$: for updates of fixed length (Adam, sign, normalised SGD)
    $\text{rate}^2 / \text{batch}$, which sets what noise adds, falls as before, with
    fewer updates. Batches are powers of two. Between two doublings the rate follows
    the schedule down, so that rate over square root of batch is the schedule at every
    step, including the warm-up and the time after `max_scale`; at the doublings it
    equals the paper's staircase.

    For optimizers that do not know their batch. LENA multiplies the rate itself: give
    it the schedule as it was and use only the batches.

    Args:
      schedule: from base steps (base batches seen) to the rate. The warm-up before its
        peak is left alone.
      steps: length of the run in base steps.
      max_scale: the largest S; a schedule that ends at 0 would make it infinite.

    Returns:
      The rate, a function of base steps that `jit` may trace, and the batch schedule.

    Raises:
      ValueError: if the schedule is never positive, or an option is below 1.

    Example:
      >>> import optax, optax_lena
      >>> falls = optax.piecewise_constant_schedule(0.1, {100: 0.25, 400: 0.5})
      >>> rate, batch = optax_lena.seesaw(falls, 500)
      >>> batch.changes
      ((0, 1), (100, 4), (400, 8))
      >>> [round(float(rate(t)) / 0.1, 3) for t in (0, 100, 400)]
      [1.0, 0.5, 0.354]

    References:
      Meterez et al., 2025, "Seesaw: Accelerating Training by Balancing Learning Rate
      and Batch Size Scheduling", 2510.14717.
    """
    check_callable("schedule", schedule, "schedule(base_steps)")
    meaning = "the length of the run in base steps"
    check_number("steps", steps, meaning, at_least=1, integer=True)
    meaning = "the largest batch over the base batch"
    check_number("max_scale", max_scale, meaning, at_least=1)
    rates = np.asarray(jax.vmap(schedule)(jnp.arange(steps)), float)
    peak = int(np.argmax(rates))
    if not 0 < rates[peak] < np.inf:
        raise ValueError(
            f"`schedule` must be finite, and positive somewhere in {steps} steps, got "
            f"{rates[peak]} at step {peak}."
        )
    # float32 rates: 0.25 times 0.1 must count as a quarter.
    fallen = rates[peak] / np.maximum(rates, rates[peak] / max_scale) * (1 + 1e-5)
    fallen[:peak] = 1
    # Batches do not shrink where a schedule rises again.
    doublings = np.maximum.accumulate(np.floor(np.log2(np.maximum(fallen, 1))))
    starts = np.flatnonzero(np.diff(doublings, prepend=-1))
    scales = [int(2 ** doublings[start]) for start in starts]
    changes = tuple(zip(starts.tolist(), scales, strict=True))
    factors = jnp.sqrt(jnp.asarray(scales, jnp.float32))

    def rate(base_steps: jax.typing.ArrayLike) -> jax.Array:
        place = jnp.searchsorted(jnp.asarray(starts), base_steps, side="right") - 1
        return jnp.asarray(schedule(base_steps)) * factors[jnp.maximum(place, 0)]

    return rate, BatchSchedule(changes)
