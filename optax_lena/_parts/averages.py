r"""Estimator: moving averages of noise and signal over the last base batches.

In: what each update, of S base batches, measured. Out: the average, an `Estimate`.

$$\bar x \leftarrow (1 - \alpha) \bar x + \alpha x, \qquad
  \alpha = \min(1, S / \text{horizon})$$
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_lena._checks import check_flag, check_number
from optax_lena._parts.estimate import Estimate, Measured


class AveragesState(NamedTuple):
    """Moving averages that start at zero, with the weight gathered so far.

    Attributes:
      noise: float32 `[rows]`.
      signal: float32 `[rows]`.
      weight: float32 `[rows]`, in [0, 1].
    """

    noise: jax.Array
    signal: jax.Array
    weight: jax.Array

    @classmethod
    def zeros(cls, *shape: int) -> "AveragesState":
        """Returns the averages before the first update."""
        zeros = jnp.zeros(shape, jnp.float32)
        return cls(zeros, zeros, zeros)

    def move(
        self, estimate: Estimate, step: ArrayLike, is_usable: jax.Array
    ) -> "AveragesState":
        """Moves by `step` toward the estimate where it is usable; stays elsewhere."""

        def moved(old: jax.Array, new: ArrayLike) -> jax.Array:
            return jnp.where(is_usable, (1 - step) * old + step * new, old)

        return AveragesState(
            moved(self.noise, estimate.noise),
            moved(self.signal, estimate.signal),
            moved(self.weight, 1.0),
        )

    def unbiased(self) -> Estimate:
        """Returns the averages over their weight, without the bias of their start."""
        weight = jnp.where(self.weight > 0, self.weight, 1)
        return Estimate(self.noise / weight, self.signal / weight)


@dataclasses.dataclass(frozen=True)
class Averages:
    """Moving averages of noise and signal: the estimator of a `LayerRate`.

    A row that is not usable in an update (not finite, or from one microbatch) keeps its
    averages.

    Attributes:
      horizon: how many base batches the averages look back on, at least 1.
      relative: whether noise and signal are averaged as shares of the model's squared
        norm at each update, so that every update counts alike. Averages of the plain
        values, which the paper takes, are slow to forget early or spiking gradients,
        because those are the largest.

    Raises:
      ValueError: if the horizon is below 1.

    Example:
      >>> import optax_lena
      >>> optax_lena.LayerRate(estimator=optax_lena.Averages(horizon=300)).estimator
      Averages(horizon=300, relative=False)
    """

    horizon: ArrayLike = 1000.0
    relative: bool = False

    def __post_init__(self) -> None:
        """Checks the options."""
        check_number("horizon", self.horizon, "a number of base batches", at_least=1)
        check_flag("relative", self.relative)

    def init(self, num_rows: int) -> AveragesState:
        """Returns the state before the first update."""
        return AveragesState.zeros(num_rows)

    def update(self, state: AveragesState, measured: Measured) -> AveragesState:
        """Returns the state after one update."""
        # In float32: 2**31 overflows JAX's default integer.
        horizon = jnp.asarray(self.horizon, jnp.float32)
        step = jnp.minimum(measured.batch_scale / horizon, 1)
        estimate, is_usable = measured.estimate, measured.is_usable
        if self.relative:
            estimate = relative_to_model(estimate, measured.batch_scale)
            is_usable &= is_usable[-1]  # without the model's norm there are no shares
        return state.move(estimate, step, is_usable)

    def read(self, state: AveragesState) -> Estimate:
        """Returns the averages as an estimate."""
        return state.unbiased()


def relative_to_model(estimate: Estimate, batch_scale: jax.Array) -> Estimate:
    """Returns noise and signal as shares of the model's squared norm."""
    noise, signal = (x[-1] for x in estimate)
    # Below S = 1, by that of the batch: noise + signal may be negative there.
    sq_norm = noise / jnp.minimum(batch_scale, 1) + signal
    # A subnormal norm, which GPUs do not flush to 0, has no reciprocal in float32.
    has_reciprocal = sq_norm >= jnp.finfo(jnp.float32).tiny
    over = 1 / jnp.where(has_reciprocal, sq_norm, 1)
    return Estimate(estimate.noise * over, estimate.signal * over)
