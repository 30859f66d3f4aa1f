r"""Guard: what cuts the trust ratios when a gradient is much longer than the last ones.

In: trust ratios, and what this update measured. Out: the ratios to train at. The factor
on what the gain has added to the rate is

$$\text{factor} = \min\Bigl(1, \sqrt{\text{limit} \cdot
  \frac{\bar{\sigma}^2 / S + \lVert\bar{\mu}\rVert^2}{\lVert\bar g\rVert^2}}\Bigr)$$

A rate that is too large for the loss's curvature shows in the gradient first: it grows
from update to update, faster than the averages that the gain is made of forget.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_lena._checks import check_number
from optax_lena._parts.averages import AveragesState
from optax_lena._parts.estimate import Estimate, Measured

# Per update, not per base batch: instability takes updates, whatever their batch. As
# long a memory as a momentum of 0.9 has.
STEP = 0.1


@dataclasses.dataclass(frozen=True)
class SpikeLimit:
    """Cuts the trust ratios, though not below 1, when a gradient spikes.

    A spike is a gradient of the whole model whose squared norm is more than `limit`
    times what the last ten or so updates had. The ratios are cut to what brings it back
    there; to 1, if the norm is too large for float32. For a place before the momentum
    buffer, which else would keep the spike.

    Attributes:
      limit: on the squared norm, over the usual one; at least 1.

    Raises:
      ValueError: if the limit is below 1.

    Example:
      >>> import dataclasses, optax_lena
      >>> optax_lena.LayerRate(guard=optax_lena.SpikeLimit(4.0)).guard
      SpikeLimit(limit=4.0)
    """

    limit: ArrayLike = 2.0

    def __post_init__(self) -> None:
        """Checks the limit."""
        meaning = "a squared norm over the usual one"
        check_number("limit", self.limit, meaning, at_least=1)

    def init(self, num_rows: int) -> AveragesState:
        """Returns the state before the first update: the whole model's, `()` each."""
        del num_rows
        return AveragesState.zeros()

    def update(
        self, state: AveragesState, trust_ratio: jax.Array, measured: Measured
    ) -> tuple[jax.Array, AveragesState, jax.Array]:
        """Cuts the ratios of one update.

        Args:
          state: what the previous update returned.
          trust_ratio: `[rows]`; one that is below 1 anyway is left alone.
          measured: what this update measured.

        Returns:
          The ratios to train at, the new state, and the factor `()` in [0, 1].
        """
        model = Estimate(*(x[-1] for x in measured.estimate))
        factor = self.factor(state, model, measured)
        cut = jnp.minimum(trust_ratio, jnp.maximum(factor * trust_ratio, 1))
        return cut, self.remember(state, model, factor, measured), factor

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
        return state.move(seen, STEP, measured.is_usable[-1] & ~measured.overflows)
