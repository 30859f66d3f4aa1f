r"""The ramp: a controller on the host that says when to double the batch.

In: the metrics of a run, now and then. Out: a batch scale, by the noise scale $b_t$,

$$S = \max \{ 2^k \le b_t / \theta^2 \}, \text{ at most twice the last, never less}$$
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from optax_lena._advice.history import read_last
from optax_lena._advice.schedule import BatchSchedule
from optax_lena._checks import check_number


@dataclasses.dataclass(frozen=True)
class BatchRamp:
    r"""Doubles the batch when the noise scale allows it.

    It never shrinks the batch: noise scales rise in training, and each new size costs a
    compilation. It does nothing where the noise scale is infinite or NaN. The object
    holds options only; `init` returns its state, a small dictionary of Python numbers
    whose structure never changes, for the checkpoint.

    Attributes:
      batch_scale: the S to start with, a power of two.
      max_scale: the S to end with at most, a power of two.
      theta: $\theta$. The batch doubles only while the gradient of the larger one is
        still this noisy: its standard deviation is at least $\theta$ times the length
        of the true gradient. A larger $\theta$ waits longer.
      start: the base step before which nothing doubles. Give half of the run's steps:
        by the noise scale alone, doublings come too early for the final accuracy
        (docs/batch_size.md), and a late start costs the fewest examples (Functional
        Scaling Laws, 2602.14208).

    Raises:
      ValueError: if a scale is not a power of two, or an option is out of its range.

    Example:
      >>> from optax_lena import BatchRamp
      >>> ramp = BatchRamp(batch_scale=8, max_scale=64)
      >>> state = ramp.init()
      >>> for base_steps, noise_scale in [(80, 2.0), (160, 6.0), (240, 30.0)]:
      ...     now = {"model/noise_scale": noise_scale, "model/base_steps": base_steps}
      ...     state = ramp.update(state, now)
      ...     print(state["batch_scale"])
      8
      16
      32
      >>> ramp.schedule(state).changes
      ((0, 8), (160.0, 16), (240.0, 32))

    References:
      Naganuma et al., 2026, 2602.03001 (noise over $\theta^2$ times the signal, with
      $\theta = 0.6$); Gray et al., 2024, 2411.00999.
    """

    batch_scale: int = 1
    max_scale: int = 64
    theta: float = 0.6
    start: float = 0.0

    def __post_init__(self) -> None:
        for name in ("batch_scale", "max_scale"):
            scale = getattr(self, name)
            meaning = "a batch in base batches"
            check_number(name, scale, meaning, at_least=1, integer=True)
            if scale != 2 ** round(math.log2(scale)):
                raise ValueError(
                    f"`{name}` must be a power of two from 1, got {scale}: every "
                    "change is a doubling."
                )
        if self.max_scale < self.batch_scale:
            raise ValueError(
                f"`max_scale` must be at least `batch_scale` ({self.batch_scale}), got "
                f"{self.max_scale}."
            )
        meaning = "the deviation of a batch's gradient over its length"
        check_number("theta", self.theta, meaning, above=0)
        check_number("start", self.start, "a base step", at_least=0)

    def init(self) -> dict[str, Any]:
        """Returns the state before the first update.

        It holds `batch_scale`, the scale to use now, and `doubled_at`, the base step
        of every possible doubling; -1 for those still to come.
        """
        doublings = round(math.log2(self.max_scale / self.batch_scale))
        return {"batch_scale": self.batch_scale, "doubled_at": [-1.0] * doublings}

    def update(self, state: dict[str, Any], metrics: Any) -> dict[str, Any]:
        """Returns the state to go on with; doubles the batch at most once.

        Call it as often as a new batch size is acceptable: each doubling compiles the
        step again. Nothing doubles while a layer is still warming up, nor at or before
        the base step of the last doubling, where the noise scale is not new.

        Args:
          state: from `init`, from the last call, or from a checkpoint.
          metrics: what `optax_lena.metrics` returns, or the optax state itself.

        Returns:
          A new state; the old one is left as it was.

        Raises:
          ValueError: if there are no noise and signal in `metrics`, or no base steps,
            or the state is that of another ramp.
        """
        self._check_state(state)
        noise_scale, base_steps, warming_up = read_last(metrics, "metrics")
        scale = int(state["batch_scale"])
        doubled_at = [float(step) for step in state["doubled_at"]]
        allowed = noise_scale / self.theta**2
        is_time = base_steps >= self.start and base_steps > max([0.0, *doubled_at])
        ready = is_time and warming_up == 0 and math.isfinite(allowed)
        if ready and 2 * scale <= min(allowed, self.max_scale):
            doubled_at[round(math.log2(scale / self.batch_scale))] = base_steps
            scale *= 2
        return {"batch_scale": scale, "doubled_at": doubled_at}

    def schedule(self, state: dict[str, Any]) -> BatchSchedule:
        """Returns the ramp so far, to repeat it or to write it as a configuration.

        Args:
          state: from `update`.

        Returns:
          The scales that were used, over base steps.

        Raises:
          ValueError: if the state is that of another ramp.
        """
        self._check_state(state)
        steps = [float(step) for step in state["doubled_at"] if step >= 0]
        scales = [self.batch_scale * 2 ** (k + 1) for k in range(len(steps))]
        pairs = zip(steps, scales, strict=True)
        return BatchSchedule(((0, self.batch_scale), *pairs))

    def _check_state(self, state: Any) -> None:
        expected = self.init()
        is_ours = isinstance(state, Mapping) and set(state) >= set(expected)
        if not is_ours or len(state["doubled_at"]) != len(expected["doubled_at"]):
            raise ValueError(
                f"`state` must be like that of `init`, {expected}, got {state!r}: "
                "restore it into a ramp with the options that it was saved with."
            )
