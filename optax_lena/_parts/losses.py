"""The last losses: their average, and how far single ones are from it.

In: the loss of every update. Out: both, over the last ten losses or so.
"""

from typing import NamedTuple, Self

import jax
import jax.numpy as jnp

# The weight of each new loss in both averages.
STEP = 0.1
# A loss up to so many mean distances from the average says nothing.
SCATTERS = 2.0
# The mean distance at the first loss, as a share of it.
_FIRST_SCATTER = 0.1
# A single loss counts as so many mean distances from the average at most. Without that
# one of a million hides a rise for a hundred updates, and with it for some ten.
_FARTHEST = 100.0


class LastLosses(NamedTuple):
    """Two averages over the last losses.

    Attributes:
      mean: float32 `()`, the average of the last ten losses or so; 0 before any.
      scatter: float32 `()`, their mean distance from it.
      has_started: int32 `()`, 1 if there was a loss.
    """

    mean: jax.Array
    scatter: jax.Array
    has_started: jax.Array

    @classmethod
    def zeros(cls) -> Self:
        """Returns the averages before the first loss."""
        return cls(jnp.float32(0), jnp.float32(0), jnp.int32(0))

    def start(self, loss: jax.Array) -> Self:
        """Returns what to compare a loss with: itself, if it is the first.

        Args:
          loss: float32 `()`, finite.

        Returns:
          The averages before it, or those that it starts.
        """
        is_first = self.has_started == 0
        return type(self)(
            jnp.where(is_first, loss, self.mean),
            jnp.where(is_first, _FIRST_SCATTER * jnp.abs(loss), self.scatter),
            jnp.int32(1),
        )

    def brought_near(self, loss: jax.Array) -> jax.Array:
        """Returns the loss, at most a hundred mean distances from the average."""
        far = _FARTHEST * self.scatter
        near = jnp.clip(loss, self.mean - far, self.mean + far)
        # Without any scatter the average would never move again.
        return jnp.where(far > 0, near, loss)

    def add(self, loss: jax.Array) -> Self:
        """Returns the averages, once started, after one more loss."""
        distance = jnp.abs(loss - self.mean)
        return self._replace(
            mean=self.mean + STEP * (loss - self.mean),
            scatter=self.scatter + STEP * (distance - self.scatter),
        )

    def is_finite(self) -> jax.Array:
        """Whether both are finite: sums of losses near the largest float32 are not."""
        return jnp.isfinite(self.mean) & jnp.isfinite(self.scatter)
