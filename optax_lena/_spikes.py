r"""Spikes: gradients much longer than the last ones, and how far they cut the rate.

In: noise and signal of the whole model at this update, and their averages over the last
updates. Out: a factor in (0, 1] on what the gain has added to the rate.

$$\text{factor} = \min\Bigl(1, \sqrt{\text{limit} \cdot
  \frac{\bar{\sigma}^2 / S + \lVert\bar{\mu}\rVert^2}{\lVert\bar g\rVert^2}}\Bigr)$$

A rate that is too large for the loss's curvature shows in the gradient first: it grows
from update to update, faster than the averages that the gain is made of forget.
"""

import jax
import jax.numpy as jnp

from optax_lena._noise import Averages

# Per update, not per base batch: instability takes updates, whatever their batch. As
# long a memory as a momentum of 0.9 has.
STEP = 0.1


def factor(
    recent: Averages,
    noise: jax.Array,
    signal: jax.Array,
    batch_scale: jax.typing.ArrayLike,
    limit: jax.typing.ArrayLike,
) -> jax.Array:
    """What brings the gradient back to `limit` times the squared norm expected of it.

    Args:
      recent: averages of noise and signal over the last updates, `()` each.
      noise: trace of the covariance of a base-batch gradient, now.
      signal: squared norm of the true gradient, now.
      batch_scale: S; the expectation follows a change of it.
      limit: on the squared norm, over what `recent` says.

    Returns:
      `()`, in (0, 1]; 1 as long as no gradient was seen.
    """
    usual_noise, usual_signal = recent.unbiased()
    allowed = limit * (usual_noise / batch_scale + jnp.maximum(usual_signal, 0))
    sq_norm = noise / batch_scale + signal
    is_spike = (allowed > 0) & (sq_norm > allowed)
    return jnp.where(is_spike, jnp.sqrt(allowed / jnp.where(is_spike, sq_norm, 1)), 1)


def remember(
    recent: Averages,
    noise: jax.Array,
    signal: jax.Array,
    cut: jax.Array,
    measured: jax.Array,
) -> Averages:
    """Moves the averages toward this update's values, a spike's as far as it was cut.

    Args:
      recent: what the previous call returned.
      noise: now, `()`.
      signal: now, `()`.
      cut: the factor of this update, on the gradient's norm.
      measured: whether this update counts.

    Returns:
      The averages after this update.
    """
    return recent.update(cut**2 * noise, cut**2 * signal, STEP, measured)


def cut_ratio(trust_ratio: jax.Array, cut: jax.Array) -> jax.Array:
    """Cuts a trust ratio, but not below the base batch's own, which is 1.

    Args:
      trust_ratio: of the layers or of the model.
      cut: the factor of this update.

    Returns:
      The ratio to train at; one that is below 1 anyway is left alone.
    """
    return jnp.minimum(trust_ratio, jnp.maximum(cut * trust_ratio, 1))
