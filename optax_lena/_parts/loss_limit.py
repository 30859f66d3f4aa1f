r"""The loss limit: how much of the noise counts, after the loss has risen.

In: the loss of every update, where the loop gives it. Out: the share of the noise that
the rule sees. A rate that is too large for the loss's curvature can throw a network
out without a spike of the gradient; then the loss rises.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_lena._checks import check_number

# What a loss above the limit leaves of the share, how every loss that is not above it
# lets the share grow back, and the least of it, with which four times the noise is a
# quarter of it. Chosen on three small tasks (docs/choices.md).
_SHRINK, _GROWTH, _LEAST = 0.5, 1.02, 1 / 16
# How far the average loss moves toward each new one: it is that of the last ten or so.
_STEP = 0.1


class LossLimitState(NamedTuple):
    """State of a `LossLimit`.

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
class LossLimit:
    r"""Lets noise count for less after a loss that has risen.

    $$\text{margin} = (\text{limit} - 1) \, |\text{start}|, \qquad
      \text{most} = \text{lowest} + \text{rise} \cdot (\text{start} - \text{lowest})
        + \text{margin}$$

    $$\text{share} \leftarrow \begin{cases}
        \max(\text{share} / 2,\, 1 / 16)
          & \text{if loss} > \text{start} + \text{margin}, \text{ or if }
            \min(\text{loss}, \text{average}) > \text{most} \\
        \min(1.02 \cdot \text{share},\, 1) & \text{otherwise} \end{cases}$$

    The start is the first loss, the average that of the last ten or so, and lowest the
    least that this average has been. A loss above the first one counts at once. One
    that has only lost some of what was gained counts once the average has, too: single
    losses rise where nothing is wrong. The rule then sees that share of the noise, so
    that the trust ratio falls toward 1, and comes back when the loss does. A loss that
    is not finite, or not given, changes nothing. A task that grows harder while it is
    trained keeps the share low: the rates are careful then, as those of LENA's own rule
    are.

    Attributes:
      limit: on the loss, over the first one; at least 1. With 1.02 a loss up to 2 %
        above the first is allowed.
      rise: how much of what the average has fallen it may rise again, in [0, 1]. With 1
        it may rise to the first loss, and nothing else is a limit.

    Raises:
      ValueError: if the limit is below 1, or the rise not in [0, 1].

    Example:
      >>> import optax_lena
      >>> limit = optax_lena.LossLimit()
      >>> state = limit.init()
      >>> for loss in (2.0, 1.0, 3.0, 3.0):
      ...     state = limit.update(state, loss)
      ...     print(limit.read(state))
      1.0
      1.0
      0.5
      0.25
    """

    limit: ArrayLike = 1.02
    rise: ArrayLike = 0.1

    def __post_init__(self) -> None:
        """Checks the limit and the rise."""
        check_number("limit", self.limit, "a loss over the first one", at_least=1)
        meaning = "a share of what the loss has fallen"
        check_number("rise", self.rise, meaning, at_least=0, at_most=1)

    def init(self) -> LossLimitState:
        """Returns the state before the first update."""
        # Each is an array of its own: JAX does not donate one buffer twice.
        start, recent, lowest = (jnp.zeros(()) for _ in range(3))
        has_started = jnp.zeros((), jnp.int32)
        return LossLimitState(start, recent, lowest, has_started, jnp.ones(()))

    def update(self, state: LossLimitState, loss: ArrayLike) -> LossLimitState:
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
        recent = jnp.where(is_finite, recent + _STEP * (seen - recent), recent)
        most = lowest + self.rise * (start - lowest) + margin
        is_above = (loss > start + margin) | (jnp.minimum(loss, recent) > most)
        moved = jnp.where(
            is_above,
            jnp.maximum(_SHRINK * state.noise_share, _LEAST),
            jnp.minimum(_GROWTH * state.noise_share, 1),
        )
        return LossLimitState(
            start,
            recent,
            jnp.minimum(lowest, recent),
            state.has_started + is_first.astype(jnp.int32),
            jnp.where(is_finite, moved, state.noise_share),
        )

    def read(self, state: LossLimitState) -> jax.Array:
        """Returns the share of the noise that counts, `()`."""
        return state.noise_share
