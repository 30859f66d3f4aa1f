r"""Guards: what cuts trust ratios that grow too fast, or when a gradient spikes.

In: trust ratios, and what this update measured. Out: the ratios to train at.
`GrowthLimit` limits every row relative to its own last ratio, or that before a short
batch. `SpikeLimit` multiplies every ratio, though not below 1 / S, by

$$\text{factor} = \min\Bigl(1, \sqrt{\text{limit}
  \cdot \frac{\max(1, \text{coherence})}{\text{entered}}
  \cdot \frac{\text{usual}}{\lVert\bar g\rVert^2}}\Bigr), \qquad
  \log \text{usual} = \sum_{i \ge 1} 0.1 \cdot 0.9^{i - 1}
    \log \lVert\bar g_{t-i}\rVert^2$$

A rate that is too large for the curvature of the loss shows in the gradient first: it
grows from update to update, faster than the averages behind the gain can follow. Once
the run has diverged, even the base rate is too large for the next gradient, so a ratio
may fall below 1. At S = 1 nothing is ever cut.

A gradient also grows where a network leaves a plateau. The two cases differ in
direction: at a rate that is too large each step undoes the one before, and on the way
out of a plateau all steps agree. This coherence (`coherence.py`) lifts the limit. So
does what the last gradient has lost on its way to the momentum buffer, by clipping:
what has entered cannot spike.

The usual norm is a geometric mean. The first gradients of a run can be a hundred times
longer than those after a few updates, and would hold up an arithmetic mean until the
run has diverged (docs/choices.md).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_lena._checks import FLOAT32_MAX, check_number
from optax_lena._parts.estimate import Estimate, Measured
from optax_lena._parts.loss_limit import LASTING

# Per update, not per base batch: instability takes updates, whatever their batch. The
# memory is as long as that of a momentum of 0.9.
STEP = 0.1
# A squared norm counts as at least this share of the usual one. A batch with nothing to
# learn has a gradient of nearly zero, and says nothing about the next one.
_LEAST = 0.01


class SpikeLimitState(NamedTuple):
    """State of a `SpikeLimit`: noise and signal of the usual gradient.

    Attributes:
      noise: float32 `()`.
      signal: float32 `()`, never negative; noise / S + signal is the geometric mean of
        the squared norms, if all had this S.
      weight: float32 `()`, in [0, 1], the weight of the mean so far.
      in_a_row: int32 `()`, how many gradients were spikes, up to the last one.
    """

    noise: jax.Array
    signal: jax.Array
    weight: jax.Array
    in_a_row: jax.Array


@dataclasses.dataclass(frozen=True)
class SpikeLimit:
    """Cuts the trust ratios, though not below 1 / S, when a gradient spikes.

    A spike is a gradient of the whole model whose squared norm is more than `limit`
    times the geometric mean over the last ten or so updates. Where their steps went the
    same way, the limit is multiplied by their coherence, and where the last one was
    clipped, divided by the share that was left of it, if the optimizer knows these
    (`lena_amplified` does). The ratios are cut by the factor that brings the norm back
    to the limit; to 1 / S, if the norm is too large for float32. Put the guard before
    the momentum buffer, which would otherwise keep the spike.

    Attributes:
      limit: on the squared norm over the usual one, where steps do not agree; at least
        1.

    Raises:
      ValueError: if the limit is below 1.

    Example:
      >>> import optax_lena
      >>> optax_lena.LayerRate(guard=optax_lena.SpikeLimit(4.0)).guard
      SpikeLimit(limit=4.0)
    """

    limit: ArrayLike = 1.25

    def __post_init__(self) -> None:
        """Checks the limit."""
        meaning = "a squared norm over the usual one"
        check_number("limit", self.limit, meaning, at_least=1)

    def init(self, num_rows: int) -> SpikeLimitState:
        """Returns the state before the first update, of the whole model, `()` each."""
        del num_rows
        zero = jnp.float32(0)
        return SpikeLimitState(zero, zero, zero, jnp.int32(0))

    def update(
        self, state: SpikeLimitState, trust_ratio: jax.Array, measured: Measured
    ) -> tuple[jax.Array, SpikeLimitState, jax.Array]:
        """Cuts the ratios of one update.

        Args:
          state: what the previous update returned.
          trust_ratio: `[rows]`; one that is below 1 / S anyway is left alone.
          measured: what this update measured.

        Returns:
          The ratios to train at, the new state, and the factor `()` in [0, 1].
        """
        factor = self.factor(state, measured)
        least = jnp.minimum(1, 1 / measured.batch_scale)
        ratio = cut(trust_ratio, factor, least)
        return ratio, self.remember(state, factor, measured), factor

    def usual(self, state: SpikeLimitState, measured: Measured) -> jax.Array:
        """Returns the squared norm that the model's gradient usually has at this S."""
        sq_norm = Estimate(state.noise, state.signal).sq_norm(measured.batch_scale)
        return jnp.minimum(sq_norm, FLOAT32_MAX)

    def factor(self, state: SpikeLimitState, measured: Measured) -> jax.Array:
        """Returns what brings the gradient back to the limit; 1 before the first."""
        # A gradient that is clipped behind the gatherer cannot spike in the buffer. To
        # cut its rate as well would leave no step at all while it is long.
        lifted = jnp.maximum(measured.coherence, 1) / measured.entered
        allowed = self.limit * lifted * self.usual(state, measured)
        sq_norm = measured.sq_norms()[-1]
        is_spike = (allowed > 0) & (sq_norm > allowed)
        # No root of 0: its derivative by S, or by a rate, would not be finite.
        share = jnp.where(is_spike, allowed / jnp.where(is_spike, sq_norm, 1), 1)
        return jnp.where(measured.overflows, 0, jnp.sqrt(share))

    def remember(
        self, state: SpikeLimitState, factor: jax.Array, measured: Measured
    ) -> SpikeLimitState:
        """Moves toward this update's values; a spike counts as it was cut."""
        usual, sq_norm = self.usual(state, measured), measured.sq_norms()[-1]
        noise, scale = measured.estimate.noise[-1], measured.batch_scale
        is_seen = measured.is_usable[-1] & ~measured.overflows & (sq_norm > 0)
        spikes = jnp.where(factor < 1, state.in_a_row + 1, 0)
        # Only one of the small tasks has more than 25 in a row (docs/choices.md).
        is_lasting = spikes > LASTING
        is_first = (usual <= 0) | is_lasting
        weight = (1 - STEP) * state.weight + STEP
        # Divided by the weight: no bias from the start at zero.
        step = jnp.where(is_first, 1, STEP / weight)
        usual, seen = jnp.where(is_first, 1, usual), jnp.where(is_seen, sq_norm, 1)
        times = jnp.maximum(factor**2 * seen / usual, _LEAST)
        level = jnp.where(is_first, seen, usual * times**step)
        # Noise is averaged as its share of the squared norm. In single updates this may
        # exceed 1, with a signal below zero; if it were kept, the next mean would start
        # from more than this one.
        portion = (1 - step) * state.noise / usual + step * noise / seen
        portion = jnp.minimum(portion / scale, 1)
        # The noise of one base batch may overflow where that of S of them does not.
        noise = jnp.minimum(level * portion * scale, FLOAT32_MAX)
        return SpikeLimitState(
            jnp.where(is_seen, noise, state.noise),
            jnp.where(is_seen, level * (1 - portion), state.signal),
            jnp.where(is_seen, weight, state.weight),
            jnp.where(is_seen, jnp.where(is_lasting, 0, spikes), state.in_a_row),
        )


def cut(trust_ratio: jax.Array, factor: jax.Array, least: ArrayLike) -> jax.Array:
    """Returns ratios times the factor, though not below the least; lower ones stay.

    Args:
      trust_ratio: `[rows]`.
      factor: `()`, in [0, 1].
      least: `()`.

    Returns:
      `[rows]`.
    """
    return jnp.minimum(trust_ratio, jnp.maximum(factor * trust_ratio, least))


class GrowthState(NamedTuple):
    """State of `GrowthLimit`.

    Attributes:
      ratio: float32 `[rows]`, the ratios to grow from.
      last_scale: float32 `()`, S of the last update that was finite; 0 before.
    """

    ratio: jax.Array
    last_scale: jax.Array


@dataclasses.dataclass(frozen=True)
class GrowthLimit:
    r"""Lets a row's trust ratio grow by no more than a factor from update to update.

    $$\text{ratio}(t) \le \text{growth} \cdot \text{ratio}(t - 1), \qquad
      \text{ratio}(0) = 1$$

    The first estimates of noise come from few gradients, and Adam's preconditioner has
    seen few gradients itself. A rate that follows them at once can make a run diverge
    (docs/adamw_results.md). The limit is a warm-up that ends by itself, later where the
    ratio is higher, and it also applies where S grows in mid-run.

    An update with a smaller S than the last has a lower ratio for that reason alone, so
    it does not lower the remembered ratio: after one short batch, such as the last of
    an epoch, the ratio is at once what it was. A second batch in a row that is as short
    lowers it.

    Attributes:
      growth: the factor per update, at least 1. With 1.1 a ratio takes 22 updates from
        1 to 8.

    Raises:
      ValueError: if the growth is below 1.

    Example:
      >>> import optax_lena
      >>> optax_lena.LayerRate(guard=optax_lena.GrowthLimit(1.2)).guard
      GrowthLimit(growth=1.2)
    """

    growth: ArrayLike = 1.1

    def __post_init__(self) -> None:
        """Checks the growth."""
        meaning = "by which a trust ratio may grow in one update"
        check_number("growth", self.growth, meaning, at_least=1)

    def init(self, num_rows: int) -> GrowthState:
        """Returns the state before the first update."""
        return GrowthState(jnp.ones(num_rows, jnp.float32), jnp.float32(0))

    def update(
        self, state: GrowthState, trust_ratio: jax.Array, measured: Measured
    ) -> tuple[jax.Array, GrowthState, jax.Array]:
        """Limits the ratios of one update.

        Args:
          state: what the previous update returned.
          trust_ratio: `[rows]`.
          measured: what this update measured; rows that are not finite stay as they
            are.

        Returns:
          The ratios to train at, the new state, and 1: no spike.
        """
        last, scale = state.ratio, measured.batch_scale
        # A remembered ratio of 0, or one that is NaN, could not grow again.
        is_seen = measured.is_finite & (trust_ratio > 0)
        most = jnp.where(measured.is_finite, self.growth * last, last)
        ratio = jnp.minimum(trust_ratio, most)
        is_shorter = scale < state.last_scale
        remembered = jnp.where(is_shorter, jnp.maximum(ratio, last), ratio)
        remembered = jnp.where(is_seen, remembered, last)
        scale = jnp.where(jnp.any(measured.is_finite), scale, state.last_scale)
        return ratio, GrowthState(remembered, scale), jnp.float32(1)
