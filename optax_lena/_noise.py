r"""Noise, signal and gain: what a larger batch is worth to a layer.

In: the moments of a layer's gradient, as `[layers]` vectors. Out: its gain and trust
ratio. Pure `jax.numpy`, elementwise over layers.

$$\sigma^2 = \frac{S}{n-1} (\text{micro\_sq\_norm} - \text{batch\_sq\_norm}), \qquad
  \lVert\mu\rVert^2 = \text{batch\_sq\_norm} - \sigma^2 / S, \qquad
  \text{gain}(S) = \frac{\sigma^2 + \lVert\mu\rVert^2}
                        {\sigma^2 / S + \lVert\mu\rVert^2}$$

`noise` is $\sigma^2$, the trace of the covariance of a base-batch gradient; `signal`
is $\lVert\mu\rVert^2$, the squared norm of the true gradient. Neither depends on S.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

# The authors' code adds it to both moving averages (lr_scaling.py, commit a4c121c).
REFERENCE_EPS = 1e-6
# Chosen on validation data (docs/benchmarks.md). The gain weighs all directions alike;
# weighted by curvature, which is what limits a rate, the noise scale differs by a
# factor (McCandlish et al., 2018, Section 2.2).
AMPLIFICATION = 8.0


def noise_and_signal(
    micro_sq_norm: jax.Array,
    batch_sq_norm: jax.Array,
    num_microbatches: jax.typing.ArrayLike,
    batch_scale: jax.typing.ArrayLike,
) -> tuple[jax.Array, jax.Array]:
    """Estimates noise and signal of a base-batch gradient, both without bias.

    A microbatch is S/n base batches, so its gradient has n/S times the noise; n/(n-1)
    is the sample variance's correction (AdaScale, App. B.3, for n = S).

    Args:
      micro_sq_norm: mean squared norm of the microbatches' gradients.
      batch_sq_norm: squared norm of their mean.
      num_microbatches: n, at least 2.
      batch_scale: S, the batch in base batches.

    Returns:
      noise (never negative) and signal (negative when noise hides it).
    """
    spread = jnp.maximum(micro_sq_norm - batch_sq_norm, 0)
    over_scale = spread / (num_microbatches - 1)
    return jnp.asarray(batch_scale * over_scale), batch_sq_norm - over_scale


def gain_ratio(
    noise: jax.Array, signal: jax.Array, batch_scale: jax.typing.ArrayLike
) -> jax.Array:
    """How many base-batch steps one update is worth.

    1 where there is no noise, or no gradient at all; S where there is only noise. No
    epsilon: the gain does not change when the loss is multiplied by a constant.

    Args:
      noise: trace of the covariance of a base-batch gradient, or its average.
      signal: squared norm of the true gradient, or its average.
      batch_scale: S; any S', for the gain that another batch size would have.

    Returns:
      The gain, in [1, S].
    """
    signal = jnp.maximum(signal, 0)
    per_base_batch, per_batch = noise + signal, noise / batch_scale + signal
    measured = per_batch > 0
    ratio = per_base_batch / jnp.where(measured, per_batch, 1)
    return jnp.where(measured, jnp.clip(ratio, 1, batch_scale), 1)


def reference_gain_ratio(
    noise: jax.Array, signal: jax.Array, batch_scale: jax.typing.ArrayLike
) -> jax.Array:
    """The gain of the authors' code: not capped, with an absolute epsilon.

    Args:
      noise: moving average of the noise, from zero and without bias correction.
      signal: moving average of the signal, likewise.
      batch_scale: S.

    Returns:
      The gain, which may exceed S.
    """
    top = noise + signal + REFERENCE_EPS
    return top / (noise / batch_scale + signal + REFERENCE_EPS)


def noise_scale(noise: jax.Array, signal: jax.Array) -> jax.Array:
    """Returns noise / signal: the batch, in base batches, where noise equals signal.

    McCandlish et al. (2018) call it the simple noise scale, in examples. It is
    infinite where no signal was seen, and 0 where nothing was.
    """
    has_signal = signal > 0
    ratio = noise / jnp.where(has_signal, signal, 1)
    return jnp.where(has_signal, ratio, jnp.where(noise > 0, jnp.inf, 0))


class Averages(NamedTuple):
    """Moving averages from zero, with the weight they have gathered so far.

    Attributes:
      noise: float32, `[layers]`, or `()` for the whole model.
      signal: of the same shape.
      weight: of the same shape, in [0, 1]; average / weight has no bias from the
        start at zero. The gain needs no correction: it cancels.
    """

    noise: jax.Array
    signal: jax.Array
    weight: jax.Array

    def update(
        self,
        noise: jax.Array,
        signal: jax.Array,
        step: jax.typing.ArrayLike,
        measured: jax.Array,
    ) -> "Averages":
        """Moves by `step` toward new values where `measured`; stays elsewhere."""

        def move(old: jax.Array, new: jax.typing.ArrayLike) -> jax.Array:
            return jnp.where(measured, (1 - step) * old + step * new, old)

        return Averages(
            move(self.noise, noise), move(self.signal, signal), move(self.weight, 1.0)
        )

    def unbiased(self) -> tuple[jax.Array, jax.Array]:
        """Returns noise and signal, corrected for the start at zero."""
        weight = jnp.where(self.weight > 0, self.weight, 1)
        return self.noise / weight, self.signal / weight


def relative_to_model(
    noise: jax.Array, signal: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Divides both by the model's squared norm, so that every update counts alike.

    Moving averages of the plain values forget late what early or spiky gradients were,
    because those are the largest. A layer that is not finite does not count.

    Args:
      noise: trace of the covariance of a base-batch gradient, `[layers]`.
      signal: squared norm of the true gradient, `[layers]`.

    Returns:
      Noise and signal, which sum to 1 over the model.
    """
    sq_norms = noise + signal
    total = jnp.sum(sq_norms, where=jnp.isfinite(sq_norms))
    over = 1 / jnp.where(total > 0, total, 1)
    return noise * over, signal * over


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a gain becomes a trust ratio: what multiplies the base learning rate.

    Not callable, for the reason that `Layers` is not.

    Attributes:
      trust_ratio: a function of the gain `[layers]`, in [1, S], and S `()`.
      needs_gain: whether it reads the gain, and the update therefore needs moments.
    """

    trust_ratio: Callable[[jax.Array, jax.Array], jax.Array]
    needs_gain: bool = True


def _gain(gain: jax.Array, batch_scale: jax.Array) -> jax.Array:
    return jnp.minimum(gain, batch_scale)


def _square_root(gain: jax.Array, batch_scale: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.minimum(gain, batch_scale))


def _amplified(gain: jax.Array, batch_scale: jax.Array) -> jax.Array:
    # The noise and the signal that have this gain, up to a common factor.
    noise, signal = gain - 1, 1 - gain / batch_scale
    return gain_ratio(AMPLIFICATION * noise, signal, batch_scale)


def _linear(gain: jax.Array, batch_scale: jax.Array) -> jax.Array:
    return jnp.full_like(gain, batch_scale)


capped_gain = Rule(_gain)
"""The gain itself, at most S: LENA's and AdaScale's rule."""

square_root_gain = Rule(_square_root)
"""The square root of the gain, for updates whose length does not grow with the
gradient's (Adam): their noise adds up as the square root (AdaptDL's AdamScale)."""

amplified_gain = Rule(_amplified)
"""The gain that eight times the noise would have: at most eight times the gain, and at
most S; 1 where there is no noise."""

linear = Rule(_linear, needs_gain=False)
"""S itself: linear learning-rate scaling (Goyal et al., 2017)."""
