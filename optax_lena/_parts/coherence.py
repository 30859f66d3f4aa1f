r"""Coherence: whether the last steps went the same way, or each undid the one before.

In: the squared lengths of every step and of the momentum buffer that adds them up. Out:
whether steps agree, and whether they were shortened before they reached the buffer.
Coherence is the squared length of the buffer over what steps in independent directions
would give,

$$\text{coherence} = \frac{\lVert m \rVert^2}{\text{apart}}, \qquad
  m \leftarrow \beta m + u, \qquad
  \text{apart} \leftarrow \beta^2 \, \text{apart} + \lVert u \rVert^2$$

for steps u as they enter the buffer m, which keeps the share β of itself. For equal
steps it is $(1 + \beta) / (1 - \beta)$, 9 for a β of 0.8, and counts as no more than
that; for steps along an axis on which the rate is too large, each of which overshoots,
it is as little as the inverse.

The lengths of the steps are the gradient's, from its moments. What joins it on
its way to the buffer, such as weight decay, is in m alone, and looks like steps that
agree. What is clipped on the way is known, too, though not how much: by the triangle
inequality the step that entered was no longer than both buffers together,

$$\lVert u_t \rVert \le \lVert m_t \rVert + \beta \lVert m_{t-1} \rVert$$
"""

from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

# Of the squared length: rounding of a buffer in bfloat16 is no clipping.
_CLIPPED = 0.5


class Coherence(NamedTuple):
    """Squared lengths of the momentum buffer: its own, and for independent steps.

    Attributes:
      together: float32 `()`, of the buffer.
      apart: float32 `()`, of the same steps in independent directions.
      entered: float32 `()`, in (0, 1], the share of the last step's squared length that
        has entered the buffer, at most; 1 where it is not known to be clipped.
    """

    together: jax.Array
    apart: jax.Array
    entered: jax.Array

    @classmethod
    def zeros(cls) -> Self:
        """Returns the squared lengths before the first step."""
        # Arrays of their own, as JAX does not donate one buffer twice; float32 with
        # x64, too.
        together, apart = (jnp.zeros((), jnp.float32) for _ in range(2))
        return cls(together, apart, jnp.ones((), jnp.float32))

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
          The squared lengths, and what has entered of the step.
        """
        kept, step_sq_norm, together = (
            jnp.asarray(x, jnp.float32) for x in (kept, step_sq_norm, buffer_sq_norm)
        )
        apart = kept**2 * self.apart + step_sq_norm
        longest = jnp.sqrt(together) + kept * jnp.sqrt(self.together)
        is_clipped = longest**2 < _CLIPPED * step_sq_norm
        entered = longest**2 / jnp.where(is_clipped, step_sq_norm, 1)
        return type(self)(
            together,
            jnp.where(jnp.isfinite(apart), apart, self.apart),
            jnp.where(is_clipped & (longest > 0), entered, 1),
        )
