r"""The loss limit: how much of the noise counts, after the loss has risen.

In: the loss of every update, where the loop gives it. Out: the share of the noise that
the rule sees. A rate that is too large for the curvature of the loss can ruin a run
without a spike of the gradient; then the loss rises.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_lena._checks import check_number
from optax_lena._parts.losses import SCATTERS, LastLosses

# The factor on the share for a loss above the limit, the factor for any other loss, and
# the least share, which makes four times the noise a quarter of the noise. Chosen on
# small tasks, as is all that follows (docs/choices.md).
_SHRINK, _GROWTH, _LEAST = 0.5, 1.02, 1 / 16
# Losses that differ by less than this share of the highest average count as equal, even
# without scatter.
_MARGIN = 0.02
# After so many losses in a row above the limit their level is the usual one. The number
# was not tuned: of the small tasks hardly any comes so far (docs/choices.md).
LASTING = 50


class LossLimitState(NamedTuple):
    """State of a `LossLimit`.

    Attributes:
      losses: the last ten losses or so.
      highest: float32 `()`, the highest that their average has been.
      lowest: float32 `()`, the lowest that it has been.
      least_scatter: float32 `()`, the least that their scatter has been.
      noise_share: float32 `()`, in (0, 1], of the noise that counts.
      in_a_row: int32 `()`, how many losses in a row were above the limit.
    """

    losses: LastLosses
    highest: jax.Array
    lowest: jax.Array
    least_scatter: jax.Array
    noise_share: jax.Array
    in_a_row: jax.Array


@dataclasses.dataclass(frozen=True)
class LossLimit:
    r"""Lets noise count for less after the loss has risen.

    $$\text{margin} = \max(0.02 \, |\text{highest}|,\,
        2 \, \text{least\_scatter}), \qquad
      \text{most} = \text{lowest} + \text{rise} \cdot (\text{highest} - \text{lowest})
        + \text{margin}$$

    $$\text{share} \leftarrow \begin{cases}
        \max(\text{share} / 2,\, 1 / 16)
          & \text{if loss} > \text{highest} + \max(\text{margin},
              (\text{limit} - 1) \, |\text{highest}|), \\
          & \text{or if } \min(\text{loss}, \text{average}) > \text{most} \\
        \min(1.02 \cdot \text{share},\, 1) & \text{otherwise} \end{cases}$$

    The average is over the last ten losses or so, highest and lowest are the
    extremes that it has reached, and least_scatter is the smallest mean distance of ten
    losses or so from it. A loss far above the highest counts at once. A loss that has
    lost only part of what was gained counts once the average has, too: single losses
    rise where nothing is wrong. Within the margin nothing counts: on a plateau, where
    the loss does not fall yet, every other loss is above the first by chance.

    The rule sees that share of the noise, so that the trust ratio falls toward 1, and
    recovers when the loss does. After 50 losses in a row above the limit all but the
    share starts anew: where a loss has changed for good, as one whose terms are
    weighted more and more, its new level is the usual one. A loss that is not finite,
    or not given, changes nothing. A task that grows harder while it is trained keeps
    the share low: the rates are then as cautious as in `lena`.

    Attributes:
      limit: on a single loss over the highest average, at least 1. With 1.25 a loss may
        be up to 25 % above it.
      rise: the share of its fall by which the average may rise again, in [0, 1]. With 1
        it may rise to the highest.

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

    limit: ArrayLike = 1.25
    rise: ArrayLike = 0.1

    def __post_init__(self) -> None:
        """Checks the limit and the rise."""
        meaning = "a loss over the highest average"
        check_number("limit", self.limit, meaning, at_least=1)
        meaning = "a share of what the loss has fallen"
        check_number("rise", self.rise, meaning, at_least=0, at_most=1)

    def init(self) -> LossLimitState:
        """Returns the state before the first update."""
        zero, one = jnp.float32(0), jnp.float32(1)
        return LossLimitState(LastLosses.zeros(), zero, zero, zero, one, jnp.int32(0))

    def update(self, state: LossLimitState, loss: ArrayLike) -> LossLimitState:
        """Moves the share by one update's loss, `()`."""
        loss = jnp.asarray(loss, jnp.float32)
        is_finite = jnp.isfinite(loss)
        is_lasting = state.in_a_row >= LASTING
        before = jax.tree.map(lambda x: jnp.where(is_lasting, 0, x), state.losses)
        is_first = before.has_started == 0
        losses = before.start(loss)
        highest, lowest = (
            jnp.where(is_first, loss, x) for x in (state.highest, state.lowest)
        )
        least_scatter = jnp.where(is_first, losses.scatter, state.least_scatter)
        size = jnp.abs(highest)
        margin = jnp.maximum(_MARGIN * size, SCATTERS * least_scatter)
        # Capped: the losses of a run that diverges would hold up the average for long.
        losses = losses.add(jnp.minimum(loss, highest + margin))
        most = lowest + self.rise * (highest - lowest) + margin
        at_once = highest + jnp.maximum(margin, (self.limit - 1) * size)
        is_above = (loss > at_once) | (jnp.minimum(loss, losses.mean) > most)
        new = LossLimitState(
            losses,
            jnp.maximum(highest, losses.mean),
            jnp.minimum(lowest, losses.mean),
            jnp.minimum(least_scatter, losses.scatter),
            moved_share(state.noise_share, is_above),
            jnp.where(is_above, state.in_a_row + 1, 0),
        )
        # A state that is not finite would stay so.
        is_finite &= losses.is_finite()
        return jax.tree.map(functools.partial(jnp.where, is_finite), new, state)

    def read(self, state: LossLimitState) -> jax.Array:
        """Returns the share of the noise that counts, `()`."""
        return state.noise_share


def moved_share(noise_share: jax.Array, is_above: jax.Array) -> jax.Array:
    """Returns the share after a loss: half of it above the limit, otherwise more."""
    return jnp.where(
        is_above,
        jnp.maximum(_SHRINK * noise_share, _LEAST),
        jnp.minimum(_GROWTH * noise_share, 1),
    )
