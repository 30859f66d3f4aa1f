"""S, for transformations that count examples: given, or the number of microbatches."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_lena._checks import check_given
from optax_lena._measure.moments import check_count, check_moments


def scale_of(
    batch_scale: ArrayLike | None,
    *,
    moments: Any = None,
    gradient_sq_norm: Any = None,
    **extra_args: Any,
) -> ArrayLike:
    """Returns S, in the same way for all transformations of a chain.

    Args:
      batch_scale: S, as the user gave it; None: the number of microbatches.
      moments: the update's moments, or None.
      gradient_sq_norm: given where the moments come from two batches, and not from
        this one; see `scale_by_layer_rate`.
      **extra_args: other arguments of the update, which are not read.

    Returns:
      A Python number, or a float32 scalar array; above 0.

    Raises:
      ValueError: if S is not given where the microbatches do not imply it.
      TypeError: if it is not given and there are no moments.
    """
    del extra_args
    if gradient_sq_norm is not None:  # two batches do not say what S is
        check_given("batch_scale", batch_scale, "from_successive_gradients")
    if batch_scale is not None:
        is_plain = isinstance(batch_scale, (int, float))
        # In float32: 2**31 overflows JAX's default integer.
        return float(batch_scale) if is_plain else _finite(batch_scale)
    check_moments(moments)
    check_count(moments.num_microbatches)
    count = moments.num_microbatches
    if isinstance(count, numbers.Integral):
        return int(count)
    return _finite(count)


def _finite(batch_scale: ArrayLike) -> jax.Array:
    # A batch that is all padding has S = 0, and no rule is defined there. Divided by a
    # base batch of 0, S is infinite, and would end the schedule for good.
    scale = jnp.asarray(batch_scale, jnp.float32)
    return jnp.where((scale > 0) & (scale < jnp.inf), scale, 1)
