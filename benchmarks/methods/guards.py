"""Guards that were tried, and that the library does not have."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import optax_lena
from optax_lena._parts.averages import AveragesState
from optax_lena._parts.guard import STEP

# What a spike leaves of the noise's share, and how the share grows back.
SHRINK, GROWTH = 0.5, 1.1


class RememberedState(NamedTuple):
    """State of `RememberedSpikes`.

    Attributes:
      usual: of the `LimitToBase`.
      share: float32 `()`, of the noise, that the ratios are worked out with.
    """

    usual: Any
    share: jax.Array


@dataclasses.dataclass(frozen=True)
class ArithmeticLimit(optax_lena.SpikeLimit):
    """A `SpikeLimit` that compares with the arithmetic mean of the last ten or so.

    Its state is an `AveragesState`.
    """

    def init(self, num_rows: int) -> Any:
        """Returns the state before the first update."""
        del num_rows
        return AveragesState.zeros()

    def usual(self, state: Any, measured: Any) -> jax.Array:
        """Returns the squared norm that is expected of the model's gradient."""
        return state.unbiased().sq_norm(measured.batch_scale)

    def remember(self, state: Any, factor: jax.Array, measured: Any) -> Any:
        """Moves toward this update's values, a spike's as far as it was cut."""
        seen = optax_lena.Estimate(*(factor**2 * x[-1] for x in measured.estimate))
        return state.move(seen, STEP, measured.is_usable[-1] & ~measured.overflows)


@dataclasses.dataclass(frozen=True)
class LimitToBase(ArithmeticLimit):
    """One that cuts no ratio below 1, the base batch's own."""

    limit: float = 2.0

    def update(
        self, state: Any, trust_ratio: jax.Array, measured: Any
    ) -> tuple[jax.Array, Any, jax.Array]:
        """Cuts the ratios of one update."""
        cut, state, factor = super().update(state, trust_ratio, measured)
        return jnp.maximum(cut, jnp.minimum(trust_ratio, 1)), state, factor


@dataclasses.dataclass(frozen=True)
class RememberedSpikes:
    """A `LimitToBase` after whose spikes the noise counts less.

    The ratios of the updates after a spike are those of half the noise, and of half of
    that after the next one; the share grows back by a tenth in every other update.

    Attributes:
      limit: of the `LimitToBase`.
      floor: the least share of the noise that spikes leave. With a quarter of four
        times the noise, ratios do not fall below the plain gain.
    """

    limit: float = 2.0
    floor: float = 0.25

    def init(self, num_rows: int) -> RememberedState:
        """Returns the state before the first update."""
        usual = LimitToBase(self.limit).init(num_rows)
        return RememberedState(usual, jnp.ones(()))

    def update(
        self, state: RememberedState, trust_ratio: jax.Array, measured: Any
    ) -> tuple[jax.Array, RememberedState, jax.Array]:
        """Weakens the ratios of one update, and cuts them if it is a spike."""
        ratio = with_less_noise(trust_ratio, state.share, measured.batch_scale)
        limit = LimitToBase(self.limit)
        cut, usual, factor = limit.update(state.usual, ratio, measured)
        moved = jnp.where(factor < 1, SHRINK, GROWTH) * state.share
        is_seen = measured.is_usable[-1] & ~measured.overflows
        share = jnp.where(is_seen, jnp.clip(moved, self.floor, 1), state.share)
        return cut, RememberedState(usual, share), factor


def with_less_noise(
    trust_ratio: jax.Array, share: jax.Array, batch_scale: jax.Array
) -> jax.Array:
    """Returns what a gain would be of a share of the noise.

    A gain r is that of noise over signal x = (r - 1) / (1 - r / S), and
    (c x + 1) / (c x / S + 1) is that of a share c of it.

    Args:
      trust_ratio: `[rows]`, a gain, between 1 and S.
      share: `()`, c.
      batch_scale: `()`, S, at least 1.
    """
    noise, signal = share * (trust_ratio - 1), 1 - trust_ratio / batch_scale
    below = noise / batch_scale + signal
    is_known = (below > 0) & (share < 1)
    less = (noise + signal) / jnp.where(is_known, below, 1)
    return jnp.where(is_known, less, trust_ratio)
