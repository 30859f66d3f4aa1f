r"""Coherence: whether the last steps went the same way, or each undid the one before.

In: the squared lengths of every step and of the momentum buffer that adds them up. Out:
the squared length of the buffer over what steps in independent directions would give,

$$\text{coherence} = \frac{\lVert m \rVert^2}{\text{apart}}, \qquad
  m \leftarrow \beta m + u, \qquad
  \text{apart} \leftarrow \beta^2 \, \text{apart} + \lVert u \rVert^2$$

for steps u as they enter the buffer m, which keeps the share β of itself. For equal
steps it is $(1 + \beta) / (1 - \beta)$, 9 for a β of 0.8, and counts as no more than
that; for steps along an axis on which the rate is too large, each of which overshoots,
it is as little as the inverse.

The lengths of the steps are those of the gradient, from its moments. What joins it on
its way to the buffer, such as weight decay, is in m alone, and looks like steps that
agree; what is clipped there looks like steps that overshoot.
"""

from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


class Coherence(NamedTuple):
    """Squared lengths of the momentum buffer: its own, and for independent steps.

    Attributes:
      together: float32 `()`, of the buffer.
      apart: float32 `()`, of the same steps in independent directions.
    """

    together: jax.Array
    apart: jax.Array

    @classmethod
    def zeros(cls) -> Self:
        """Returns the squared lengths before the first step."""
        # Two arrays, as JAX does not donate one buffer twice; float32 with x64, too.
        return cls(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))

    def read(self, kept: ArrayLike) -> jax.Array:
        """Divides the lengths, up to what equal steps would have.

        Args:
          kept: β, the share of the buffer that a step keeps.

        Returns:
          The coherence, `()`; 1 before any step, or if a length overflows.
        """
        is_known = (self.apart > 0) & jnp.isfinite(self.together)
        apart = jnp.where(is_known, self.apart, 1)
        kept = jnp.asarray(kept, jnp.float32)
        of_equal = (1 + kept) / (1 - kept)
        return jnp.where(is_known, jnp.minimum(self.together / apart, of_equal), 1)

    def add(
        self, kept: ArrayLike, step_sq_norm: jax.Array, buffer_sq_norm: jax.Array
    ) -> Self:
        """Returns the lengths after one more step.

        Args:
          kept: β, the share of the buffer that the step keeps.
          step_sq_norm: `()`, of u; if it is not finite, `apart` stays as it is.
          buffer_sq_norm: `()`, of m after the step.

        Returns:
          Both squared lengths.
        """
        kept, step_sq_norm, together = (
            jnp.asarray(x, jnp.float32) for x in (kept, step_sq_norm, buffer_sq_norm)
        )
        apart = kept**2 * self.apart + step_sq_norm
        return type(self)(together, jnp.where(jnp.isfinite(apart), apart, self.apart))
