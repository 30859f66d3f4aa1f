r"""Backing off: rates grow slowly, and fall when gradient and loss rise together.

In: trust ratios, and what this update measured, with its loss. Out: the ratios to train
at. Computer networks find their sending rate the same way: a little faster all the time
until something is lost, then much slower at once, and a little faster again.

Updates of a fixed length, such as those of Adam, do not grow with the gradient. So one
long gradient does no harm, and none is a reason to go slower than the base batch. A run
diverges through many updates at too large a rate, and this shows where the gradient and
the loss rise together (docs/adamw_results.md).
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_lena._parts.estimate import Measured
from optax_lena._parts.guard import (
    GrowthLimit,
    GrowthState,
    SpikeLimit,
    SpikeLimitState,
    cut,
)
from optax_lena._parts.losses import SCATTERS, LastLosses


class BackoffState(NamedTuple):
    """State of a `Backoff`.

    Attributes:
      growth: the state of a `GrowthLimit`.
      usual: the state of a `SpikeLimit`.
      losses: the last ten losses or so.
    """

    growth: GrowthState
    usual: SpikeLimitState
    losses: LastLosses


@dataclasses.dataclass(frozen=True)
class Backoff:
    r"""Lets trust ratios grow slowly, and cuts them at a spike with a higher loss.

    $$\text{ratio}_k(t) \le \text{growth} \cdot \text{ratio}_k(t - 1), \qquad
      \text{ratio}_k \leftarrow \max(\text{factor} \cdot \text{ratio}_k, 1)
      \quad \text{if loss} > \text{average} + 2 \, \text{scatter}$$

    The factor is that of a `SpikeLimit`, below 1 if the gradient is longer than usual.
    It applies only if the loss is above the average of the last ten losses or so by
    more than twice their mean distance from it (`scatter`): a gradient also grows where
    a network learns. No ratio is cut below 1, the base batch's, and a ratio that
    was cut grows again. Without the loss this is a `GrowthLimit`.

    Attributes:
      growth: the factor by which a ratio may grow per update, at least 1.
      limit: on the gradient's squared norm over the usual one, at least 1.

    Raises:
      ValueError: if one of them is below 1.

    Example:
      >>> import optax_lena
      >>> optax_lena.LayerRate(guard=optax_lena.Backoff(growth=1.2)).guard
      Backoff(growth=1.2, limit=1.25)
    """

    growth: ArrayLike = 1.1
    limit: ArrayLike = 1.25

    def __post_init__(self) -> None:
        """Checks the growth and the limit."""
        GrowthLimit(self.growth)
        SpikeLimit(self.limit)

    def init(self, num_rows: int) -> BackoffState:
        """Returns the state before the first update."""
        return BackoffState(
            GrowthLimit(self.growth).init(num_rows),
            SpikeLimit(self.limit).init(num_rows),
            LastLosses.zeros(),
        )

    def update(
        self, state: BackoffState, trust_ratio: jax.Array, measured: Measured
    ) -> tuple[jax.Array, BackoffState, jax.Array]:
        """Limits and cuts the ratios of one update.

        Args:
          state: what the previous update returned.
          trust_ratio: `[rows]`.
          measured: what this update measured; rows that are not finite stay as they
            are.

        Returns:
          The ratios to train at, the new state, and the factor `()` in [0, 1].
        """
        ratio, growth, _ = GrowthLimit(self.growth).update(
            state.growth, trust_ratio, measured
        )
        spikes = SpikeLimit(self.limit)
        factor = spikes.factor(state.usual, measured)
        usual = spikes.remember(state.usual, factor, measured)
        is_higher, losses = _compare(state.losses, measured.loss)
        factor = jnp.where(is_higher, factor, 1)
        kept = cut(growth.ratio, factor, 1)
        kept = jnp.where(measured.is_finite, kept, growth.ratio)
        growth = growth._replace(ratio=kept)
        return cut(ratio, factor, 1), BackoffState(growth, usual, losses), factor


def _compare(
    losses: LastLosses, loss: jax.Array | None
) -> tuple[jax.Array, LastLosses]:
    """Returns whether a loss is higher than usual, and the losses with it."""
    if loss is None:
        return jnp.zeros((), bool), losses
    loss = jnp.asarray(loss, jnp.float32)
    usual = losses.start(loss)
    is_higher = jnp.isfinite(loss) & (loss > usual.mean + SCATTERS * usual.scatter)
    # A loss that is not finite would stay in the averages.
    new = usual.add(usual.brought_near(loss))
    keep = functools.partial(jnp.where, jnp.isfinite(loss) & new.is_finite())
    return is_higher, jax.tree.map(keep, new, losses)
