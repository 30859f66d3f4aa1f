r"""The warm-up: how far each layer is into it, and what that does to its rate.

In: the gain of every layer at every update. Out: a factor in (0, 1] per layer.

$$\text{progress}(t) = \sum_{t' \le t} \text{gain}(t'), \qquad
  \text{factor}(t) = \min(1, \text{progress}(t) / \theta)$$

Progress is counted in base-batch steps, and so is $\theta$ (`warmup_steps`): a layer
whose gradient is noisy gains more per update and is through sooner.
"""

import jax
import jax.numpy as jnp

STATE_AWARE, FIXED = "state_aware", "fixed"
KINDS = (STATE_AWARE, FIXED)


def increment(
    kind: str, gain: jax.Array, batch_scale: jax.typing.ArrayLike
) -> jax.Array:
    """What one update adds to every layer's progress.

    Args:
      kind: `"state_aware"`: the layer's gain (the paper, Algorithm 1); `"fixed"`: S,
        whatever the gain (Goyal et al., 2017).
      gain: `[layers]`.
      batch_scale: S.

    Returns:
      `[layers]`, in base-batch steps.
    """
    return gain if kind == STATE_AWARE else jnp.full_like(gain, batch_scale)


def factor(progress: jax.Array, warmup_steps: jax.typing.ArrayLike) -> jax.Array:
    """What multiplies every layer's rate: min(1, progress / warmup_steps).

    Args:
      progress: `[layers]`, in base-batch steps.
      warmup_steps: θ, in base-batch steps; 0 for none.

    Returns:
      `[layers]`, in [0, 1]; 1 without a warm-up.
    """
    warms_up = jnp.asarray(warmup_steps) > 0
    ramp = progress / jnp.where(warms_up, warmup_steps, 1)
    return jnp.where(warms_up, jnp.minimum(ramp, 1), jnp.ones_like(progress))


def end(
    ended: jax.Array,
    progress: jax.Array,
    warmup_steps: jax.typing.ArrayLike,
    base_steps: jax.Array,
) -> jax.Array:
    """Notes the base-batch step at which each layer's warm-up ends.

    Args:
      ended: `[layers]`, what the previous call returned; -1 at first.
      progress: `[layers]`.
      warmup_steps: θ.
      base_steps: `()`, the base-batch steps taken so far, this update included.

    Returns:
      `[layers]`, the step, or -1 before.
    """
    just_ended = (ended < 0) & (progress >= warmup_steps)
    return jnp.where(just_ended, base_steps, ended)
