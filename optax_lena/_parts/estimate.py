r"""Noise and signal of every layer: what all other parts are computed from.

In: the two moments of a gradient of n microbatches, S base batches, `[layers]` each.
Out: an `Estimate`, `[rows]` each, where rows are the layers and, last, the whole model.
Pure `jax.numpy`, elementwise.

$$\sigma^2 = \frac{S}{n-1} (\text{micro\_sq\_norm} - \text{batch\_sq\_norm}), \qquad
  \lVert\mu\rVert^2 = \text{batch\_sq\_norm} - \sigma^2 / S$$

`noise` is $\sigma^2$, the trace of the covariance of a base-batch gradient; `signal`
is $\lVert\mu\rVert^2$, the squared norm of the true gradient. Neither depends on S.
"""

from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_lena._checks import check_number

_LARGE = 2.0**120


class Estimate(NamedTuple):
    r"""Noise and signal, of one update or averaged over many.

    Attributes:
      noise: float32 `[rows]`, $\sigma^2$, the trace of the covariance of a base-batch
        gradient.
      signal: float32 `[rows]`, $\lVert\mu\rVert^2$, the squared norm of the true
        gradient; negative where noise hides it.

    Example:
      >>> import jax.numpy as jnp, optax_lena
      >>> noisy = optax_lena.Estimate(noise=jnp.array([3.0]), signal=jnp.array([1.0]))
      >>> print(noisy.sq_norm(1), noisy.gain(4))  # 4 / (3 / 4 + 1)
      [4.] [2.2857144]

    References:
      Johnson et al., *AdaScale SGD*, ICML 2020, Appendix B.3.
    """

    noise: jax.Array
    signal: jax.Array

    def sq_norm(self, batch_scale: ArrayLike) -> jax.Array:
        """Returns the squared norm that is expected of the gradient of a batch of S.

        Args:
          batch_scale: S, the batch in base batches; any S, not only the run's own.

        Returns:
          float32 `[rows]`.

        Raises:
          ValueError: for a plain number that is not positive.
        """
        return self.noise / _scale(batch_scale) + jnp.maximum(self.signal, 0)

    def gain(self, batch_scale: ArrayLike) -> jax.Array:
        r"""Returns how many base-batch steps one update with a batch of S is worth.

        $$\text{gain}(S) = \frac{\sigma^2 + \lVert\mu\rVert^2}
                                {\sigma^2 / S + \lVert\mu\rVert^2}$$

        1 where there is no noise, or no gradient at all; S where there is only noise.
        No epsilon: the gain does not change when the loss is multiplied by a constant.
        An update with less than a base batch (S below 1) is worth less than one step.

        Args:
          batch_scale: S, the batch in base batches; any S, not only the run's own.

        Returns:
          float32 `[rows]`, between 1 and S; where S is below 1, between S and 1.

        Raises:
          ValueError: for a plain number that is not positive.
        """
        scale = _scale(batch_scale)
        per_base_batch, per_batch = self.sq_norm(1), self.sq_norm(scale)
        was_seen = per_batch > 0
        ratio = per_base_batch / jnp.where(was_seen, per_batch, 1)
        low, high = jnp.minimum(scale, 1), jnp.maximum(scale, 1)
        return jnp.where(was_seen, jnp.clip(ratio, low, high), 1)

    def amplified(self, factor: float) -> Self:
        """Returns an estimate with more noise, up to a scale that no gain depends on.

        Args:
          factor: how many times the noise.

        Returns:
          `factor * noise` and the same signal, or both divided by the factor where they
          are so large that their sum would overflow.
        """
        scale = jnp.where(self.sq_norm(1) > _LARGE, 1 / factor, 1)
        noise, signal = factor * (scale * self.noise), scale * self.signal
        return self._replace(noise=noise, signal=signal)

    def noise_scale(self) -> jax.Array:
        """Returns noise / signal: the batch at which half of the squared norm is noise.

        McCandlish et al. (2018) call it the simple noise scale, in examples; here it
        counts base batches. Where no signal was seen it is the largest float32, so
        that logs stay finite, and 0 where neither was seen.
        """
        largest = jnp.finfo(jnp.float32).max
        has_signal = self.signal > 0
        ratio = self.noise / jnp.where(has_signal, self.signal, 1)
        unseen = jnp.where(self.noise > 0, largest, 0)
        return jnp.minimum(jnp.where(has_signal, ratio, unseen), largest)


def _scale(batch_scale: ArrayLike) -> jax.Array:
    """Returns S as an array, also an integer that overflows JAX's default dtype."""
    if isinstance(batch_scale, jax.Array):
        return batch_scale
    check_number("batch_scale", batch_scale, "a batch in base batches", above=0)
    return jnp.asarray(batch_scale, jnp.float32)


class Measured(NamedTuple):
    """What the moments of one update say, and in which rows they are valid.

    Attributes:
      estimate: noise and signal of this update alone, `[rows]` each.
      is_finite: bool `[rows]`; false where the moments are not finite, and everywhere
        if the whole batch is padding. The whole model is the sum of the layers that
        are finite, and finite if there is one.
      is_usable: bool `[rows]`; finite, and taken from at least two microbatches.
      overflows: bool `()`; whether a squared norm, or the noise computed from it, is
        too large for float32.
      batch_scale: float32 `()`, S.
      loss: `()`, of the batch; None where the loop does not give it.
      coherence: `()`, of the last steps; 1 without a momentum buffer.
      entered: `()`, in (0, 1], how much of the last step's squared length has reached
        the momentum buffer, at most; below 1 if it was clipped.
      gradient_sq_norm: `[rows]`, of this update's gradient, where the estimate is that
        of two batches; None: what the estimate says.
    """

    estimate: Estimate
    is_finite: jax.Array
    is_usable: jax.Array
    overflows: jax.Array
    batch_scale: jax.Array
    loss: jax.Array | None = None
    coherence: ArrayLike = 1.0
    entered: ArrayLike = 1.0
    gradient_sq_norm: jax.Array | None = None

    def of_two_batches(self, sq_norm: jax.Array, last_scale: jax.Array) -> Self:
        r"""Returns it for moments of this update's gradient and the one before.

        Their difference has the noise of both, $\sigma^2 (1 / S + 1 / S')$, of which
        the moments know this batch's S only.

        Args:
          sq_norm: `[layers]`, of this update's gradient alone.
          last_scale: `()`, S', of the batch before.

        Returns:
          The same for equal batches, but for the squared norms.
        """
        share = 2 / (1 + self.batch_scale / last_scale)
        estimate = self.estimate._replace(noise=share * self.estimate.noise)
        rows = _with_model(sq_norm, self.is_finite[:-1])
        return self._replace(estimate=estimate, gradient_sq_norm=rows)

    def sq_norms(self) -> jax.Array:
        """Returns the squared norm of the batch's gradient, `[rows]`."""
        if self.gradient_sq_norm is not None:
            return self.gradient_sq_norm
        return self.estimate.noise / self.batch_scale + self.estimate.signal


def measure(
    micro_sq_norm: jax.Array,
    batch_sq_norm: jax.Array,
    num_microbatches: ArrayLike,
    batch_scale: jax.Array,
) -> Measured:
    """Estimates noise and signal of a base-batch gradient, both without bias.

    A microbatch is S/n base batches, so its gradient has n/S times the noise; n/(n-1)
    is the correction of a sample variance (AdaScale, App. B.3, for n = S).

    Args:
      micro_sq_norm: `[layers]`, mean squared norm of the microbatches' gradients.
      batch_sq_norm: `[layers]`, squared norm of their mean.
      num_microbatches: n; below 2 nothing is measured.
      batch_scale: float32 `()`, S.

    Returns:
      The estimates, with noise never negative.
    """
    count = jnp.asarray(num_microbatches)
    spread = jnp.maximum(micro_sq_norm - batch_sq_norm, 0)
    # The barrier keeps XLA from contracting division and subtraction in one program and
    # not in another: the same microbatches give the same bits by every route.
    others = (jnp.maximum(count, 2) - 1).astype(spread.dtype)
    over_scale = jax.lax.optimization_barrier(spread / others)
    noise, signal = batch_scale * over_scale, batch_sq_norm - over_scale
    # Not finite if a norm is not, and also where S times a large norm overflows, or the
    # sum that every gain is made of.
    is_finite = jnp.isfinite(noise + signal)
    estimate = Estimate(*(_with_model(x, is_finite) for x in (noise, signal)))
    is_finite = jnp.append(is_finite, jnp.any(is_finite))
    sq_norm = estimate.noise + estimate.signal
    is_finite &= jnp.isfinite(sq_norm)
    overflows = jnp.any(jnp.isinf(micro_sq_norm) | jnp.isinf(batch_sq_norm))
    overflows |= jnp.any(jnp.isinf(sq_norm))
    is_finite &= count > 0
    is_usable = is_finite & (count >= 2)
    return Measured(estimate, is_finite, is_usable, overflows, batch_scale)


def not_measured(num_layers: int, batch_scale: jax.Array) -> Measured:
    """Returns what an update without moments says: no row is usable.

    Args:
      num_layers: rows, without the whole model's.
      batch_scale: float32 `()`, S.

    Returns:
      Zeros. All rows are finite, so that whatever counts S goes on.
    """
    zeros = jnp.zeros(num_layers + 1, jnp.float32)
    return Measured(
        estimate=Estimate(zeros, zeros),
        is_finite=jnp.ones(num_layers + 1, bool),
        is_usable=jnp.zeros(num_layers + 1, bool),
        overflows=jnp.zeros((), bool),
        batch_scale=batch_scale,
    )


def _with_model(values: jax.Array, is_finite: jax.Array) -> jax.Array:
    return jnp.append(values, jnp.sum(values, where=is_finite))
