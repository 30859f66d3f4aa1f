r"""The rule for updates of normalised length, as in Adam and Muon.

Such an update does not shrink with the gradient, whose squared norm a batch of S
divides by the gain. So by itself it goes $\sqrt{\text{gain}}$ times as far along the
true gradient, and the rate has to supply the rest of what the update is worth:

$$\text{trust\_ratio} = \min\Bigl(\sqrt S, \frac{r}{\sqrt{\text{gain}}}\Bigr), \qquad
  r = \frac{8\sigma^2 + \lVert\mu\rVert^2}{8\sigma^2 / S + \lVert\mu\rVert^2}$$

It is $\sqrt S$ where there is only noise, 1 where there is none, and never above
$\sqrt S$, the value in the limit of pure noise (below $S = 1$: never below it).
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
"""For Adam and Muon: what an update is worth, the gain for eight times the noise, over
the square root of the gain, by which an update of normalised length grows by itself; at
most the square root of S."""
