"""The authors' code, where it differs from their paper: all that `reference=True` does.

In: a `LayerRate` that follows the paper. Out: one that follows lr_scaling.py of
yy-ko/lena-www22 (commit a4c121c): progress is counted after it is used, a layer at its
cap progresses by the whole model's gain, and 1e-6 is added to both moving averages,
which then depend on the scale of the loss.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_lena._checks import known_number
from optax_lena._parts.averages import AveragesState
from optax_lena._parts.clocks import Count
from optax_lena._parts.estimate import Estimate, Measured
from optax_lena._parts.layer_rate import LayerRate
from optax_lena._parts.warmup import StateAwareWarmup, Worth, ramp

_EPS = 1e-6
_HORIZON = 1000


def follow_authors(rate: LayerRate, batch_scale: Any) -> LayerRate:
    """Returns the same rate with the authors' estimator and warm-up.

    Args:
      rate: the rate that follows the paper.
      batch_scale: S, to reject what their code cannot handle.

    Returns:
      The rate that follows their code.

    Raises:
      ValueError: if S is above 1000.
    """
    if (known_number(batch_scale) or 0) > _HORIZON:
        raise ValueError(
            f"`reference=True` needs a `batch_scale` of at most {_HORIZON}, got "
            f"{batch_scale}: the authors' moving averages have weight S / {_HORIZON} "
            "and diverge beyond. The default mode has no such limit."
        )
    warmup = rate.warmup
    if isinstance(warmup, StateAwareWarmup):
        warmup = _ModelGainAtTheCap(warmup.steps)
    return dataclasses.replace(
        rate, estimator=AuthorsAverages(), warmup=_UsedBeforeCounted(warmup)
    )


class AuthorsEstimate(Estimate):
    """Noise and signal whose gain has an absolute epsilon, and no cap.

    Its two moving averages start at zero, and are not corrected for that bias.
    """

    def sq_norm(self, batch_scale: ArrayLike) -> jax.Array:
        """Returns the squared norm expected of a batch of S, plus the epsilon."""
        # After S has grown, a signal that noise hid may be below -noise / S.
        return jnp.maximum(self.noise / batch_scale + self.signal, 0) + _EPS

    def gain(self, batch_scale: ArrayLike) -> jax.Array:
        """Returns the gain, which may exceed S."""
        return self.sq_norm(1) / self.sq_norm(batch_scale)


@dataclasses.dataclass(frozen=True)
class AuthorsAverages:
    """Moving averages with weight S / 1000 and without bias correction."""

    def init(self, num_rows: int) -> AveragesState:
        """Returns the state before the first update."""
        return AveragesState.zeros(num_rows)

    def update(self, state: AveragesState, measured: Measured) -> AveragesState:
        """Returns the state after one update."""
        step = jnp.minimum(measured.batch_scale / _HORIZON, 1)
        return state.move(measured.estimate, step, measured.is_usable)

    def read(self, state: AveragesState) -> AuthorsEstimate:
        """Returns the averages as they are."""
        return AuthorsEstimate(state.noise, state.signal)


class _ModelGainAtTheCap(StateAwareWarmup):
    """Counts the whole model's gain where a layer's trust ratio has reached the cap."""

    def update(self, progress: Count, worth: Worth) -> tuple[Count, jax.Array]:
        is_capped = worth.trust_ratio >= worth.batch_scale
        gain = jnp.where(is_capped, worth.gain[-1], worth.gain)
        return super().update(progress, worth._replace(gain=gain))


@dataclasses.dataclass(frozen=True)
class _UsedBeforeCounted:
    """A warm-up whose factor does not count the update that it multiplies."""

    warmup: Any

    @property
    def needs_moments(self) -> bool:
        return self.warmup.needs_moments

    @property
    def steps(self) -> ArrayLike:
        return self.warmup.steps

    def init(self, num_rows: int) -> jax.Array:
        return self.warmup.init(num_rows)

    def update(self, progress: Count, worth: Worth) -> tuple[Count, jax.Array]:
        counted, _ = self.warmup.update(progress, worth)
        return counted, ramp(progress.read(), self.steps)
