r"""The advice: how large a batch may be, from the noise scale that a run logged.

In: a `History`. Out: the curve E of examples over batch scales S, with its interval.

$$b = \operatorname{median}_t
        \frac{\sum_\text{layers} \text{noise}_t}{\sum_\text{layers} \text{signal}_t},
  \qquad \frac{E(S)}{E(1)} = \frac{b + S}{b + 1}, \qquad
  S_\text{crit} = b \, (1 / \text{efficiency} - 1)$$
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from optax_lena._advice import text
from optax_lena._advice.branch import BranchTest
from optax_lena._advice.curve import EFFICIENCY, Curve, checked_efficiency, fit_curve
from optax_lena._advice.history import History, read_history
from optax_lena._advice.interval import (
    Interval,
    median,
    median_interval,
    with_model_error,
)
from optax_lena._advice.phases import Phase, thirds
from optax_lena._checks import check_is, check_number


@dataclasses.dataclass(frozen=True, eq=False)
class Advice:
    """How large a batch may be; `print` it. All scales are in base batches.

    Attributes:
      critical_scale: the S at which an example is worth `efficiency` of what it is
        worth in ever smaller batches, see `Curve.critical_scale`.
      interval: (low, high) of `critical_scale`: 95 % for chance, and factors of 1.5
        downward and 17 upward for what a noise scale does not say (see `advise`);
        (0, inf) if the history is too short to say anything: a single state, or fewer
        than eight entries.
      chance_interval: the interval for chance within the log alone, by a block
        bootstrap.
      curve: predicted examples over those of the base batch: `curve.examples(1)` is 1,
        and `curve.noise_scale` is b.
      per_layer: critical scale by layer.
      phases: the run's thirds, if it has at least three entries.
      efficiency: in (0, 1), the default 1/1.2: 20 % more examples.
      base_batch: examples in a base batch; None if not given.
      step_seconds: seconds per update, linear in S (its `base_examples` is what an
        update costs at any batch); None if not given.
      branch: a branch test's result, to show beside the prediction; None without one.
      history: what it was computed from.

    Example:
      >>> import numpy as np, optax_lena
      >>> history = {"model/noise": np.full(20, 50.0), "model/signal": np.ones(20)}
      >>> advice = optax_lena.advise(history)
      >>> round(advice.critical_scale, 2), round(advice.curve.examples(10), 2)
      (10.0, 1.18)
    """

    critical_scale: float
    interval: Interval
    chance_interval: Interval
    curve: Curve
    per_layer: dict[str, float]
    phases: tuple[Phase, ...]
    efficiency: float
    base_batch: int | None
    step_seconds: Curve | None
    branch: BranchTest | None
    history: History = dataclasses.field(repr=False)

    @property
    def noise_scale_interval(self) -> Interval:
        """The `interval` of `curve.noise_scale`."""
        per_scale = 1 / self.efficiency - 1
        return self.interval[0] / per_scale, self.interval[1] / per_scale

    def examples_interval(self, batch_scale: float) -> Interval:
        """Returns the interval of `curve.examples(batch_scale)`.

        Args:
          batch_scale: S, positive.

        Returns:
          Low and high, over the base batch's examples.

        Raises:
          ValueError: if S is not a positive number.
        """
        ends = [
            relative_curve(b).examples(batch_scale) for b in self.noise_scale_interval
        ]
        return float(min(ends)), float(max(ends))

    def time(self, batch_scale: float, base_updates: float = 1.0) -> float:
        r"""Returns the seconds to a target: updates times seconds per update.

        $$\frac{E(S)}{E(1)} \, \frac{\text{base\_updates}}{S} \, (c_0 + c_1 S)$$

        Args:
          batch_scale: S, positive.
          base_updates: updates with the base batch to that target.

        Returns:
          Seconds; with the default `base_updates`, per update of the base batch.

        Raises:
          ValueError: if `advise` was not given `seconds`.
        """
        meaning = "the updates that the base batch takes"
        check_number("base_updates", base_updates, meaning, at_least=0)
        examples = self.curve.examples(batch_scale)
        per_update = self._timed().examples(batch_scale)
        return base_updates * examples / batch_scale * per_update

    @property
    def fastest_scale(self) -> float:
        r"""The S of the shortest time: $\sqrt{b \, c_0 / c_1}$; infinite if $c_1 = 0$.

        Raises:
          ValueError: if `advise` was not given `seconds`.
        """
        timed = self._timed()
        if timed.least_updates == 0 or self.curve.least_updates == 0:
            return math.inf if timed.base_examples > 0 else 1.0
        return math.sqrt(self.curve.noise_scale * timed.noise_scale)

    def __str__(self) -> str:
        return text.describe(self)

    def _timed(self) -> Curve:
        if self.step_seconds is None:
            raise ValueError(
                "`seconds` must be given to `advise` for a time, got None: seconds per "
                "update at two batch scales or more, {1: 0.1, 8: 0.3}."
            )
        return self.step_seconds


def advise(
    state_or_history: Any,
    *,
    base_batch: int | None = None,
    efficiency: float = EFFICIENCY,
    seconds: Mapping[float, float] | None = None,
    branch: BranchTest | None = None,
    until: float | None = None,
) -> Advice:
    r"""Says how large a batch may be, from the noise and the signal that LENA logged.

    At the noise scale b an update is worth $\text{gain}(S) = (1 + b) / (1 + b/S)$
    base-batch updates, so that a target takes $S / \text{gain}(S) = (b + S) / (b + 1)$
    times the base batch's examples: the curve $E(S) = E_0 (1 + S/b)$. b is the median
    over the run of the model's noise scale, every entry weighted by the base batches
    since the one before.

    The prediction is cautious: a batch that is safe, not the largest that is. On nine
    tasks the examples that runs took to a target imply a b of 1.4 to 17 times that of
    the log until the target, about five in the geometric mean (docs/batch_size.md), so
    the interval reaches far up; `branch_test` measures it. A log that goes on long
    after the target predicts too much: give `until`. And it should be of a small S: a
    larger one is at an earlier stage of training after the same examples. On text the
    same median is 99 at S = 8, and 41 at S = 128.

    Args:
      state_or_history: an optax state with a LENA state at any depth; what
        `optax_lena.metrics` returns with arrays `[T]`, as `lax.scan` stacks it; a list
        of such dictionaries, of one time or of a stacked chunk each; or the path of a
        log of them, in JSON lines or, if its name ends in .csv or .tsv, as a table. A
        single state has no interval.
      base_batch: examples in a base batch, to report examples.
      efficiency: in (0, 1): what an example must still be worth; 1/1.2 asks for the
        batch that needs 20 % more examples.
      seconds: seconds per update by batch scale, at two or more, to report times.
      branch: what `branch_test` returned, to be shown beside it.
      until: the base step at which the run reached its target; later entries are left
        out. None: the whole history.

    Returns:
      The advice; `print` it, or read its fields.

    Raises:
      ValueError: if there are no noise and signal to read, or an option is not in its
        range.
      TypeError: if `branch` is no `BranchTest`.

    Warns:
      RuntimeWarning: if broken lines of a log were skipped.

    Example:
      >>> import numpy as np, optax_lena
      >>> rng = np.random.default_rng(0)
      >>> history = {
      ...     "model/base_steps": 8.0 * np.arange(1, 101),
      ...     "model/noise": np.exp(rng.normal(0, 0.3, 100)),
      ...     "model/signal": np.full(100, 0.01),
      ... }
      >>> advice = optax_lena.advise(history, base_batch=32, seconds={1: 0.1, 8: 0.2})
      >>> low, high = advice.interval
      >>> print(f"{low:.0f} < {advice.critical_scale:.0f} < {high:.0f}")
      13 < 20 < 348
      >>> print(f"{advice.fastest_scale:.0f}")
      25

    References:
      McCandlish et al., 2018, "An Empirical Model of Large-Batch Training", Section 2;
      Zhang et al., 2024, "How Does Critical Batch Size Scale in Pre-training?" (20 %).
    """
    per_scale = 1 / checked_efficiency(efficiency) - 1
    _check_base_batch(base_batch)
    if branch is not None:
        check_is("branch", branch, BranchTest, "optax_lena.branch_test")
    step_seconds = _step_seconds(seconds)
    history = read_history(state_or_history)
    if until is not None:
        history = _cut(history, until)
    noise_scale, chance = median_interval(history.noise_scale, history.weights)
    low, high = with_model_error(noise_scale, chance)
    return Advice(
        critical_scale=noise_scale * per_scale,
        interval=(low * per_scale, high * per_scale),
        chance_interval=(chance[0] * per_scale, chance[1] * per_scale),
        curve=relative_curve(noise_scale),
        per_layer={
            name: median(values, history.weights) * per_scale
            for name, values in history.layers.items()
        },
        phases=thirds(history, per_scale),
        efficiency=efficiency,
        base_batch=base_batch,
        step_seconds=step_seconds,
        branch=branch,
        history=history,
    )


def relative_curve(noise_scale: float) -> Curve:
    """Returns the curve with this b whose `examples(1)` is 1."""
    least_updates = 1 / (1 + noise_scale)
    return Curve(1 - least_updates, least_updates)


def _cut(history: History, until: float) -> History:
    meaning = "the base step at which the target was reached"
    check_number("until", until, meaning, above=0)
    first = float(history.base_steps[0])
    if until < first:
        raise ValueError(
            f"`until` must not be before the history's first base step, {first:g}, got "
            f"{until:g}."
        )
    return history.part(-math.inf, until)


def _step_seconds(seconds: Mapping[float, float] | None) -> Curve | None:
    if seconds is None:
        return None
    try:
        return fit_curve(seconds)
    except ValueError as error:
        raise ValueError(
            f"`seconds` must hold seconds per update at two batch scales or more, got "
            f"{seconds!r}: {error}"
        ) from error


def _check_base_batch(base_batch: int | None) -> None:
    if base_batch is not None:
        meaning = "the examples of the batch that S = 1 stands for"
        check_number("base_batch", base_batch, meaning, at_least=1, integer=True)
