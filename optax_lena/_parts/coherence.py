r"""Coherence: whether the last steps went the same way, or each undid the one before.

In: the squared lengths of every step and of the momentum buffer that adds them up. Out:
how much longer the buffer is than steps in independent directions would have made it,

$$\text{coherence} = \frac{\lVert m \rVert^2}{\text{apart}}, \qquad
  m \leftarrow \beta m + u, \qquad
  \text{apart} \leftarrow \beta^2 \, \text{apart} + \lVert u \rVert^2$$

for steps u as they enter the buffer m. Equal steps have $(1 + \beta) / (1 - \beta)$,
which is 9 for a β of 0.8; steps along an axis on which a rate is too large, each of
which overshoots, have as little as one over that.
"""

from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


class Coherence(NamedTuple):
    """Squared lengths of the momentum buffer: what it has, and what it might have.

    Attributes:
      together: float32 `()`, of the buffer.
      apart: float32 `()`, of the same steps in independent directions.
    """

    together: jax.Array
    apart: jax.Array

    @classmethod
    def zeros(cls) -> Self:
        """Returns what stands before the first step."""
        # Two arrays, as JAX does not donate one buffer twice; float32 with x64, too.
        return cls(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))

    def read(self) -> jax.Array:
        """Returns the coherence, `()`; 1 where nothing is known, or too large."""
        is_known = (self.apart > 0) & jnp.isfinite(self.together)
        apart = jnp.where(is_known, self.apart, 1)
        return jnp.where(is_known, self.together / apart, 1)

    def add(
        self, kept: ArrayLike, step_sq_norm: jax.Array, buffer_sq_norm: jax.Array
    ) -> Self:
        """Returns it after one more step.

        Args:
          kept: β, the share of the buffer that the step keeps.
          step_sq_norm: `()`, of u; one that is not finite counts as 0.
          buffer_sq_norm: `()`, of m with the step.

        Returns:
          Both squared lengths, moved on.
        """
        kept, step_sq_norm, together = (
            jnp.asarray(x, jnp.float32) for x in (kept, step_sq_norm, buffer_sq_norm)
        )
        apart = kept**2 * self.apart + step_sq_norm
        return type(self)(together, jnp.where(jnp.isfinite(apart), apart, self.apart))
