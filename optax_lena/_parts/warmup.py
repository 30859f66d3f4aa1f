r"""Warm-ups: the progress of each layer, and the resulting factor on its rate.

In: what one update is worth to every row. Out: a factor in [0, 1] per row.

$$\text{factor}(t) = \min(1, \text{progress}(t) / \theta)$$

Progress is counted in base-batch steps, and so is $\theta$ (`steps`).
"""

import abc
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_lena._checks import check_steps
from optax_lena._parts.clocks import Count


class Worth(NamedTuple):
    """What one update is worth: what a warm-up may count.

    Attributes:
      gain: float32 `[rows]`, in base-batch steps.
      trust_ratio: float32 `[rows]`, what multiplies the rate.
      batch_scale: float32 `()`, S.
      is_finite: bool `[rows]`; other rows keep their progress.
    """

    gain: jax.Array
    trust_ratio: jax.Array
    batch_scale: jax.Array
    is_finite: jax.Array


@dataclasses.dataclass(frozen=True)
class _Warmup(abc.ABC):
    """A warm-up over θ (`steps`) of what `_counted` says of each update."""

    steps: ArrayLike

    def __post_init__(self) -> None:
        """Checks the length."""
        check_steps(self.steps, "steps")

    def init(self, num_rows: int) -> jax.Array:
        """Returns the factor before the first update."""
        return ramp(jnp.zeros(num_rows, jnp.float32), self.steps)

    def update(self, progress: Count, worth: Worth) -> tuple[Count, jax.Array]:
        """Counts one update.

        Args:
          progress: `[rows]`, before it.
          worth: what it is worth.

        Returns:
          The progress after it, and the factor `[rows]` on its rate.
        """
        progress = progress.add(jnp.where(worth.is_finite, self._counted(worth), 0))
        return progress, ramp(progress.read(), self.steps)

    @abc.abstractmethod
    def _counted(self, worth: Worth) -> jax.Array:
        """Returns what one update adds to the progress, `[rows]` or `()`."""


@dataclasses.dataclass(frozen=True)
class StateAwareWarmup(_Warmup):
    r"""A warm-up that ends by itself in each layer: it counts the layer's own gain.

    $$\text{progress}(t) = \sum_{t' \le t} \text{gain}(t')$$

    A layer whose gradient is noisy gains more per update and warms up sooner.

    Attributes:
      steps: θ, the length in base-batch steps, at least 0. The paper takes 5 % of those
        of the base run. 0: no warm-up.

    Raises:
      ValueError: if `steps` is negative or not finite.

    Example:
      >>> import optax_lena
      >>> optax_lena.LayerRate(warmup=optax_lena.StateAwareWarmup(320)).needs_moments
      True

    References:
      Ko, Lee, Kim, *Not All Layers Are Equal*, WWW 2022, Algorithm 1.
    """

    steps: ArrayLike = 0

    @property
    def needs_moments(self) -> bool:
        """Whether what it counts is read from moments."""
        return not is_zero(self.steps)

    def _counted(self, worth: Worth) -> jax.Array:
        return worth.gain


@dataclasses.dataclass(frozen=True)
class FixedWarmup(_Warmup):
    r"""The usual warm-up, which counts base batches: the same share of any run.

    $$\text{progress}(t) = \sum_{t' \le t} S(t')$$

    The sum leaves out updates in which the layer's gradient was not finite, as far as
    moments tell.

    Attributes:
      steps: θ, the length in base-batch steps, at least 0. 0: no warm-up.

    Raises:
      ValueError: if `steps` is negative or not finite.

    Example:
      >>> import optax_lena
      >>> rate = optax_lena.LayerRate(
      ...     rule=optax_lena.linear, warmup=optax_lena.FixedWarmup(320)
      ... )
      >>> rate.needs_moments
      False

    References:
      Goyal et al., *Accurate, Large Minibatch SGD*, 2017.
    """

    steps: ArrayLike = 0

    @property
    def needs_moments(self) -> bool:
        """Whether what it counts is read from moments: it is not."""
        return False

    def _counted(self, worth: Worth) -> jax.Array:
        return worth.batch_scale


def ramp(progress: jax.Array, steps: ArrayLike) -> jax.Array:
    """Returns min(1, progress / steps); 1 without a warm-up."""
    steps = jnp.asarray(steps, jnp.float32)  # 2**31 overflows int32
    warms_up = steps > 0
    factor = progress / jnp.where(warms_up, steps, 1)
    return jnp.where(warms_up, jnp.minimum(factor, 1), jnp.ones_like(progress))


def is_zero(steps: ArrayLike) -> bool:
    """Says whether `steps` is a Python 0, which cannot change."""
    return isinstance(steps, (int, float)) and steps == 0
