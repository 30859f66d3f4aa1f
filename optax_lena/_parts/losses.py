"""The last losses: their average, and how far single ones are from it.

In: the loss of every update. Out: both, of the last ten or so.
"""

from typing import NamedTuple, Self

import jax
import jax.numpy as jnp

# How far both move toward each new loss.
STEP = 0.1
# A loss may be so many times as far from the average as others are, without a meaning.
SCATTERS = 2.0
# What losses differ by before any was seen to: this share of the first.
_FIRST_SCATTER = 0.1


class LastLosses(NamedTuple):
    """What is remembered of the losses.

    Attributes:
      mean: float32 `()`, the average of the last ten losses or so; 0 before any.
      scatter: float32 `()`, how far they were from it, on average.
      has_started: int32 `()`, 1 if there was a loss.
    """

    mean: jax.Array
    scatter: jax.Array
    has_started: jax.Array

    @classmethod
    def zeros(cls) -> Self:
        """Returns what stands before the first loss."""
        # Each is an array of its own: JAX does not donate one buffer twice.
        return cls(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32))

    def start(self, loss: jax.Array) -> Self:
        """Returns what to compare a loss with: with itself, if it is the first.

        Args:
          loss: float32 `()`, finite.

        Returns:
          The losses before it, or what it starts.
        """
        is_first = self.has_started == 0
        return type(self)(
            jnp.where(is_first, loss, self.mean),
            jnp.where(is_first, _FIRST_SCATTER * jnp.abs(loss), self.scatter),
            jnp.ones((), jnp.int32),
        )

    def add(self, loss: jax.Array) -> Self:
        """Returns them, once started, after one more loss."""
        distance = jnp.abs(loss - self.mean)
        return self._replace(
            mean=self.mean + STEP * (loss - self.mean),
            scatter=self.scatter + STEP * (distance - self.scatter),
        )

    def is_finite(self) -> jax.Array:
        """Whether all is: sums of losses near the largest float32 are not."""
        return jnp.isfinite(self.mean) & jnp.isfinite(self.scatter)
