"""S, of what counts examples: given, or as many base batches as microbatches."""

from typing import Any

from jax.typing import ArrayLike

from optax_lena._checks import check_given
from optax_lena._measure.moments import check_count, check_moments


def scale_of(
    batch_scale: ArrayLike | None,
    *,
    moments: Any = None,
    is_half: bool = False,
    **extra_args: Any,
) -> ArrayLike:
    """Returns S: the number of microbatches, if it is not given."""
    del extra_args
    if is_half:  # the microbatches are two batches, and do not say what S is
        check_given("batch_scale", batch_scale, "from_successive_gradients")
    if batch_scale is not None:
        return batch_scale
    check_moments(moments)
    check_count(moments.num_microbatches)
    return moments.num_microbatches
