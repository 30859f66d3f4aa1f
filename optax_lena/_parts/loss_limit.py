r"""The loss limit: how much of the noise counts, while the loss is above its start.

In: the loss of every update, where the loop gives it. Out: the share of the noise that
the rule sees. A rate that is too large for the loss's curvature can throw a network
out without a spike of the gradient; then the loss rises above what it was at first.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_lena._checks import check_number

# What a loss above the limit leaves of the share, how the share grows back with every
# other one, and the least of it, with which four times the noise is a quarter of it.
# Chosen on three of the small tasks of docs/benchmarks.md.
_SHRINK, _GROWTH, _LEAST = 0.5, 1.02, 1 / 16


class LossLimitState(NamedTuple):
    """State of a `LossLimit`.

    Attributes:
      start: float32 `()`, the first loss that was finite; 0 before.
      has_started: int32 `()`, 1 if there was one.
      noise_share: float32 `()`, in (0, 1], of the noise that counts.
    """

    start: jax.Array
    has_started: jax.Array
    noise_share: jax.Array


@dataclasses.dataclass(frozen=True)
class LossLimit:
    r"""Lets noise count for less after a loss that is above the first one.

    $$\text{share} \leftarrow \begin{cases}
        \max(\text{share} / 2,\, 1 / 16)
          & \text{if loss} > \text{start} + (\text{limit} - 1) \, |\text{start}| \\
        \min(1.02 \cdot \text{share},\, 1) & \text{otherwise} \end{cases}$$

    The rule then sees that share of the noise, so that the trust ratio falls toward 1,
    and comes back when the loss does. A loss that is not finite, or not given, changes
    nothing. A task that grows harder while it is trained keeps the share low: the rates
    are careful then, as those of LENA's own rule are.

    Attributes:
      limit: on the loss, over the first one; at least 1.

    Raises:
      ValueError: if the limit is below 1.

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

    def __post_init__(self) -> None:
        """Checks the limit."""
        check_number("limit", self.limit, "a loss over the first one", at_least=1)

    def init(self) -> LossLimitState:
        """Returns the state before the first update."""
        return LossLimitState(jnp.zeros(()), jnp.zeros((), jnp.int32), jnp.ones(()))

    def update(self, state: LossLimitState, loss: ArrayLike) -> LossLimitState:
        """Moves the share by one update's loss, `()`."""
        loss = jnp.asarray(loss, jnp.float32)
        is_finite = jnp.isfinite(loss)
        is_first = is_finite & (state.has_started == 0)
        start = jnp.where(is_first, loss, state.start)
        is_above = loss > start + (self.limit - 1) * jnp.abs(start)
        moved = jnp.where(
            is_above,
            jnp.maximum(_SHRINK * state.noise_share, _LEAST),
            jnp.minimum(_GROWTH * state.noise_share, 1),
        )
        return LossLimitState(
            start,
            state.has_started + is_first.astype(jnp.int32),
            jnp.where(is_finite, moved, state.noise_share),
        )

    def read(self, state: LossLimitState) -> jax.Array:
        """Returns the share of the noise that counts, `()`."""
        return state.noise_share
