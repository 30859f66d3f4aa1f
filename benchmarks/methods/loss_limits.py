"""A loss limit that was used before that of the library."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_lena._parts.loss_limit import moved_share
from optax_lena._parts.losses import STEP


class FirstLossState(NamedTuple):
    """State of a `FirstLossLimit`.

    Attributes:
      start: float32 `()`, the first loss that was finite; 0 before.
      recent: float32 `()`, the average of the last ten or so.
      lowest: float32 `()`, the lowest that this average has been.
      has_started: int32 `()`, 1 if there was a loss.
      noise_share: float32 `()`, in (0, 1], of the noise that counts.
    """

    start: jax.Array
    recent: jax.Array
    lowest: jax.Array
    has_started: jax.Array
    noise_share: jax.Array


@dataclasses.dataclass(frozen=True)
class FirstLossLimit:
    """A `LossLimit` that takes the first loss as exact.

    Noise counts for half after a loss above the first one, or once loss and average
    have lost a share of what was gained; both with a margin of a share of the first.

    Attributes:
      limit: on the loss, over the first one.
      rise: how much of what the average has fallen it may rise again.
    """

    limit: float = 1.02
    rise: float = 0.1

    def init(self) -> FirstLossState:
        """Returns the state before the first update."""
        start, recent, lowest = (jnp.zeros(()) for _ in range(3))
        has_started = jnp.zeros((), jnp.int32)
        return FirstLossState(start, recent, lowest, has_started, jnp.ones(()))

    def update(
        self, state: FirstLossState, loss: jax.typing.ArrayLike
    ) -> FirstLossState:
        """Moves the share by one update's loss, `()`."""
        loss = jnp.asarray(loss, jnp.float32)
        is_finite = jnp.isfinite(loss)
        is_first = is_finite & (state.has_started == 0)
        start, recent, lowest = (
            jnp.where(is_first, loss, x)
            for x in (state.start, state.recent, state.lowest)
        )
        margin = (self.limit - 1) * jnp.abs(start)
        # At most that: a network that is thrown out would hold the average up for long.
        seen = jnp.minimum(loss, start + margin)
        recent = jnp.where(is_finite, recent + STEP * (seen - recent), recent)
        most = lowest + self.rise * (start - lowest) + margin
        is_above = (loss > start + margin) | (jnp.minimum(loss, recent) > most)
        moved = moved_share(state.noise_share, is_above)
        return FirstLossState(
            start,
            recent,
            jnp.minimum(lowest, recent),
            state.has_started + is_first.astype(jnp.int32),
            jnp.where(is_finite, moved, state.noise_share),
        )

    def read(self, state: FirstLossState) -> jax.Array:
        """Returns the share of the noise that counts, `()`."""
        return state.noise_share
