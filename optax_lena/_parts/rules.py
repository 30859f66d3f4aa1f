"""Rules: from noise and signal to a trust ratio, which multiplies the learning rate.

In: an `Estimate`, and S. Out: a ratio for every row. A rule of your own is
`Rule(function)`: see docs/extending.md.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optax_lena._checks import check_callable, check_flag
from optax_lena._parts.estimate import Estimate

# Chosen on validation data (docs/choices.md). The gain weighs all directions alike;
# weighted by curvature, which is what limits a rate, the noise scale differs by a
# factor (McCandlish et al., 2018, Section 2.2). With eight, which is better on some
# tasks, a deep regression is lost without the limit on the loss.
AMPLIFICATION = 4.0


@dataclasses.dataclass(frozen=True)
class Rule:
    """How an estimate becomes a trust ratio: what multiplies the base learning rate.

    Not callable, for the same reason as `Layers`.

    Attributes:
      trust_ratio: a function of an `Estimate` with vectors `[rows]`, and of S `()`,
        that returns `[rows]`.
      needs_moments: whether it reads the estimate, and updates therefore need moments.

    Raises:
      ValueError: if there is no function.

    Example:
      >>> import jax.numpy as jnp, optax_lena
      >>> half_way = optax_lena.Rule(
      ...     lambda estimate, scale: (1 + estimate.gain(scale)) / 2
      ... )
      >>> noise_only = optax_lena.Estimate(noise=jnp.ones(1), signal=jnp.zeros(1))
      >>> print(half_way.trust_ratio(noise_only, 8.0))
      [4.5]
    """

    trust_ratio: Callable[[Estimate, jax.Array], jax.Array]
    needs_moments: bool = True

    def __post_init__(self) -> None:
        """Checks that there is a function."""
        call = "trust_ratio(estimate, batch_scale)"
        check_callable("trust_ratio", self.trust_ratio, call)
        check_flag("needs_moments", self.needs_moments)


def check_rule(rule: Any) -> None:
    """Raises a `ValueError` unless `rule` is a `Rule`."""
    if not isinstance(rule, Rule):
        raise ValueError(
            "`rule` must be optax_lena.capped_gain, amplified_gain, square_root_gain, "
            f"normalised_gain, linear or a Rule(function), got {rule!r}."
        )


def _gain(estimate: Estimate, batch_scale: jax.Array) -> jax.Array:
    # The gain in the authors' code has no cap of its own.
    return jnp.minimum(estimate.gain(batch_scale), jnp.maximum(batch_scale, 1))


def _square_root(estimate: Estimate, batch_scale: jax.Array) -> jax.Array:
    return jnp.sqrt(_gain(estimate, batch_scale))


def _amplified(estimate: Estimate, batch_scale: jax.Array) -> jax.Array:
    return _gain(estimate.amplified(AMPLIFICATION), batch_scale)


def _linear(estimate: Estimate, batch_scale: jax.Array) -> jax.Array:
    return jnp.full_like(estimate.noise, batch_scale)


capped_gain = Rule(_gain)
"""The gain itself, at most S: LENA's and AdaScale's rule."""

square_root_gain = Rule(_square_root)
"""The square root of the gain, for updates whose length does not grow with the
gradient (Adam): their noise adds up as the square root (AdaptDL's AdamScale)."""

amplified_gain = Rule(_amplified)
"""The gain for four times the noise: at most four times the gain, and at most S; 1
where there is no noise."""

linear = Rule(_linear, needs_moments=False)
"""S itself: linear learning-rate scaling (Goyal et al., 2017)."""
