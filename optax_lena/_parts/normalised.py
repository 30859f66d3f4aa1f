r"""The rule for updates of normalised length: Adam's, Muon's, LARS's.

Such an update does not shrink with the gradient, whose squared norm a batch of S brings
down by the gain. So it steps $\sqrt{\text{gain}}$ times as far along the true gradient
by itself, and the rate has to bring the rest of what the update is worth:

$$\text{trust\_ratio} = \min\Bigl(\sqrt S, \frac{r}{\sqrt{\text{gain}}}\Bigr), \qquad
  r = \frac{8\sigma^2 + \lVert\mu\rVert^2}{8\sigma^2 / S + \lVert\mu\rVert^2}$$

$\sqrt S$ where there is only noise, 1 where there is none; never above $\sqrt S$, the
rule of the limit in which noise is all there is (below $S = 1$: never below it).
"""

import jax
import jax.numpy as jnp

from optax_lena._parts.estimate import Estimate
from optax_lena._parts.rules import Rule

# A number of its own, not that of `amplified_gain`. On validation data of the GPT it is
# as good at S = 64 as the whole gain, and at S = 16 as the square root of S
# (docs/adamw_results.md).
_WORTH = 8.0


def _normalised(estimate: Estimate, batch_scale: jax.Array) -> jax.Array:
    worth = estimate.amplified(_WORTH).gain(batch_scale)
    ratio, root = worth / jnp.sqrt(estimate.gain(batch_scale)), jnp.sqrt(batch_scale)
    # With S = 64 and noise of eight times the signal the quotient is 11.5, and not 8.
    return jnp.clip(ratio, jnp.minimum(root, 1), jnp.maximum(root, 1))


normalised_gain = Rule(_normalised)
"""What an update is worth, the gain of eight times the noise, over the square root of
the gain, by which an update of normalised length grows by itself, and at most the
square root of S: for Adam and Muon."""
