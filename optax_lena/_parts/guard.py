r"""Guards: what cuts trust ratios that come too soon, or when a gradient spikes.

In: trust ratios, and what this update measured. Out: the ratios to train at.
`GrowthLimit` holds every row to its own last ratio. `SpikeLimit` multiplies what the
gain has added to the rate by

$$\text{factor} = \min\Bigl(1, \sqrt{\text{limit} \cdot
  \frac{\bar{\sigma}^2 / S + \lVert\bar{\mu}\rVert^2}{\lVert\bar g\rVert^2}}\Bigr)$$

A rate that is too large for the loss's curvature shows in the gradient first: it grows
from update to update, faster than the averages that the gain is made of forget. Such a
rate would come back as soon as the spike is over. So a spike can be remembered: the
ratios are then worked out with a share of the noise, which it halves.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_lena._checks import check_number
from optax_lena._parts.averages import AveragesState
from optax_lena._parts.estimate import Estimate, Measured

# Per update, not per base batch: instability takes updates, whatever their batch. As
# long a memory as a momentum of 0.9 has.
STEP = 0.1
# What a spike leaves of the noise's share, and how the share grows back: it doubles in
# seven updates. Chosen on small tasks and validation data (docs/benchmarks.md).
SHRINK, GROWTH = 0.5, 1.1


class SpikeState(NamedTuple):
    """State of `SpikeLimit`.

    Attributes:
      usual: `()` each, what the whole model's gradients were of late.
      share: float32 `()`, of the noise, that the ratios are worked out with.
    """

    usual: AveragesState
    share: jax.Array


@dataclasses.dataclass(frozen=True)
class SpikeLimit:
    """Cuts the trust ratios, though not below 1, when a gradient spikes.

    A spike is a gradient of the whole model whose squared norm is more than `limit`
    times what the last ten or so updates had. The ratios are cut to what brings it back
    there; to 1, if the norm is too large for float32. For a place before the momentum
    buffer, which else would keep the spike.

    With a `floor` below 1 a spike is remembered. The ratios of the updates after it are
    those of half the noise, and of half of that after the next one; the share grows
    back by a tenth in every update without a spike. This asks for a rule that is a
    gain, as `amplified_gain` is: with a floor of 1/4 its ratios do not fall below the
    plain gain.

    Attributes:
      limit: on the squared norm, over the usual one; at least 1.
      floor: the least share of the noise that spikes may leave, in (0, 1]; of 1: they
        are not remembered.

    Raises:
      ValueError: if the limit is below 1, or the floor is no share.

    Example:
      >>> import dataclasses, optax_lena
      >>> optax_lena.LayerRate(guard=optax_lena.SpikeLimit(4.0)).guard
      SpikeLimit(limit=4.0, floor=1.0)
    """

    limit: ArrayLike = 2.0
    floor: ArrayLike = 1.0

    def __post_init__(self) -> None:
        """Checks the limit and the floor."""
        meaning = "a squared norm over the usual one"
        check_number("limit", self.limit, meaning, at_least=1)
        check_number("floor", self.floor, "a share of the noise", above=0, at_most=1)

    def init(self, num_rows: int) -> SpikeState:
        """Returns the state before the first update: the whole model's, `()` each."""
        del num_rows
        return SpikeState(AveragesState.zeros(), jnp.ones(()))

    def update(
        self, state: SpikeState, trust_ratio: jax.Array, measured: Measured
    ) -> tuple[jax.Array, SpikeState, jax.Array]:
        """Cuts the ratios of one update.

        Args:
          state: what the previous update returned.
          trust_ratio: `[rows]`; one that is below 1 anyway is left alone.
          measured: what this update measured.

        Returns:
          The ratios to train at, the new state, and the factor `()` in [0, 1].
        """
        model = Estimate(*(x[-1] for x in measured.estimate))
        factor = self.factor(state.usual, model, measured)
        ratio = with_less_noise(trust_ratio, state.share, measured.batch_scale)
        cut = jnp.minimum(ratio, jnp.maximum(factor * ratio, 1))
        usual = self.remember(state.usual, model, factor, measured)
        return cut, SpikeState(usual, self.share_after(state, factor, measured)), factor

    def factor(
        self, state: AveragesState, model: Estimate, measured: Measured
    ) -> jax.Array:
        """Returns what brings the gradient back to the limit; 1 before the first."""
        batch_scale = measured.batch_scale
        allowed = self.limit * state.unbiased().sq_norm(batch_scale)
        sq_norm = model.noise / batch_scale + model.signal
        is_spike = (allowed > 0) & (sq_norm > allowed)
        cut = jnp.sqrt(allowed / jnp.where(is_spike, sq_norm, 1))
        return jnp.where(measured.overflows, 0, jnp.where(is_spike, cut, 1))

    def remember(
        self,
        state: AveragesState,
        model: Estimate,
        factor: jax.Array,
        measured: Measured,
    ) -> AveragesState:
        """Moves toward this update's values, a spike's as far as it was cut."""
        seen = Estimate(*(factor**2 * x for x in model))
        return state.move(seen, STEP, _is_remembered(measured))

    def share_after(
        self, state: SpikeState, factor: jax.Array, measured: Measured
    ) -> jax.Array:
        """Halves the noise's share after a spike, and else lets it grow back."""
        moved = jnp.where(factor < 1, SHRINK, GROWTH) * state.share
        moved = jnp.clip(moved, self.floor, 1)
        return jnp.where(_is_remembered(measured), moved, state.share)


def _is_remembered(measured: Measured) -> jax.Array:
    """Not what overflows, which is as likely a bad batch or a loss scale."""
    return measured.is_usable[-1] & ~measured.overflows


def with_less_noise(
    trust_ratio: jax.Array, share: jax.Array, batch_scale: jax.Array
) -> jax.Array:
    r"""Returns what a gain would be of a share of the noise.

    A gain r is that of noise over signal $x = (r - 1) / (1 - r / S)$, and
    $(c x + 1) / (c x / S + 1)$ is that of a share c of it.

    Args:
      trust_ratio: `[rows]`; what is outside 1 and S, which no gain is, keeps its
        proportion to the nearer of them.
      share: `()`, c; 1 leaves every ratio as it is, to the last bit.
      batch_scale: `()`, S.

    Returns:
      `[rows]`.
    """
    low, high = jnp.minimum(batch_scale, 1), jnp.maximum(batch_scale, 1)
    gain = jnp.clip(trust_ratio, low, high)
    noise, signal = share * (gain - 1), 1 - gain / batch_scale
    below = noise / batch_scale + signal
    is_known = (below != 0) & (share < 1)
    less = (noise + signal) / jnp.where(is_known, below, 1) / gain
    return trust_ratio * jnp.where(is_known, less, 1)


@dataclasses.dataclass(frozen=True)
class GrowthLimit:
    r"""Lets a row's trust ratio grow by no more than a factor from update to update.

    $$\text{ratio}(t) \le \text{growth} \cdot \text{ratio}(t - 1), \qquad
      \text{ratio}(0) = 1$$

    The first estimates of noise come from few gradients, and in Adam's metric from one
    that has seen few gradients itself. A rate that jumps to them at once can throw a
    network out (docs/adamw.md). This is a warm-up that ends by itself, later where the
    ratio is higher, and it also holds where S grows in mid-run.

    Attributes:
      growth: at least 1. Of 1.1: 22 updates from a ratio of 1 to one of 8.

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

    def init(self, num_rows: int) -> jax.Array:
        """Returns the ratios before the first update, `[rows]`."""
        return jnp.ones(num_rows)

    def update(
        self, last: jax.Array, trust_ratio: jax.Array, measured: Measured
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Limits the ratios of one update.

        Args:
          last: `[rows]`, what the previous update returned.
          trust_ratio: `[rows]`.
          measured: what this update measured; rows that are not finite do not grow.

        Returns:
          The ratios to train at, the same as the new state, and 1: no spike.
        """
        most = jnp.where(measured.is_finite, self.growth * last, last)
        ratio = jnp.minimum(trust_ratio, most)
        return ratio, ratio, jnp.ones(())
