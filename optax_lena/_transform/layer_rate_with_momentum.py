"""Layers' rates and the momentum buffer behind them, which says whether steps agree.

In: gradients with their moments. Out: the buffer. In `optax.chain` no link can pass
anything back to an earlier one. Here the guard of the next update reads what has become
of the buffer.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_lena._dtypes import multiply, weight_dtype
from optax_lena._measure.layers import Layers
from optax_lena._measure.metric import sq_norm_of_whole
from optax_lena._measure.moments import GradMoments
from optax_lena._parts.coherence import Coherence
from optax_lena._parts.layer_rate import LayerRate
from optax_lena._parts.state import Applied
from optax_lena._transform.momentum import factors, trace_of_examples
from optax_lena._transform.scale_by_lena import scale_by_layer_rate
from optax_lena._transform.state import ScaleByLenaState
from optax_lena._transformation import transformation
from optax_lena._types import PyTree

# A schedule in steps falls to a tenth or a fifth at once. A cosine of many updates
# falls to a quarter in its last one, and no other smooth schedule falls faster.
_STEP = 0.22


class LayerRateWithMomentumState(NamedTuple):
    """State of `layer_rate_with_momentum`.

    Attributes:
      rates: what the `LayerRate` remembers.
      buffer: the momentum buffer, as in `optax.trace`.
      last_steps: squared lengths of the steps that made the buffer.
    """

    rates: ScaleByLenaState
    buffer: optax.TraceState
    last_steps: Coherence


def layer_rate_with_momentum(
    rate: LayerRate,
    batch_scale: ArrayLike | None,
    layers: Layers,
    momentum: ArrayLike | None,
    nesterov: bool,
    accumulator_dtype: Any,
) -> optax.GradientTransformationExtraArgs:
    """Chains `scale_by_layer_rate` and `trace_of_examples`; the guard reads coherence.

    Where the schedule falls at once, the buffer falls with it. Its steps were made at
    the old rate, and new ones take several updates to replace them. The recipe of the
    small batch multiplies what leaves the buffer, so that old steps shrink too. This is
    the momentum correction of Goyal et al. (2017), section 3. At the base batch itself
    the buffer follows every change of the schedule, as in that recipe.

    Args:
      rate: the parts.
      batch_scale: S; None: the number of microbatches.
      layers: which parameters are one layer.
      momentum: β at the base batch, in [0, 1); None: no buffer, and no coherence.
      nesterov: whether to use Nesterov momentum.
      accumulator_dtype: the dtype of the buffer; None: the parameters' dtype.

    Returns:
      The transformation. Its updates are the buffer, with the sign of the gradient.
    """
    scale = scale_by_layer_rate(rate, batch_scale, layers=layers)
    if momentum is None:
        return scale
    buffer = trace_of_examples(batch_scale, momentum, nesterov, accumulator_dtype)
    return transformation(
        functools.partial(_init, scale, buffer),
        functools.partial(_update, scale, buffer, batch_scale, momentum),
        LayerRateWithMomentumState,
    )


# The links have the type Any: in optax's types a state is any tree; these are known.
def _init(scale: Any, buffer: Any, params: PyTree) -> LayerRateWithMomentumState:
    return LayerRateWithMomentumState(
        scale.init(params), buffer.init(params), Coherence.zeros()
    )


def _update(
    scale: Any,
    buffer: Any,
    batch_scale: ArrayLike | None,
    momentum: ArrayLike,
    updates: PyTree,
    state: LayerRateWithMomentumState,
    params: PyTree | None = None,
    *,
    moments: GradMoments | None = None,
    **extra_args: Any,
) -> tuple[PyTree, LayerRateWithMomentumState]:
    extra_args["moments"] = moments
    kept, longer = factors(momentum, batch_scale, **extra_args)
    known = {
        "coherence": state.last_steps.read(kept),
        "entered": state.last_steps.entered,
    }
    steps, rates = scale.update(updates, state.rates, params, **known, **extra_args)
    fall = _fall(state.rates.applied.schedule, rates.applied)
    updates, trace = buffer.update(steps, state.buffer, params, fall=fall, **extra_args)
    last_steps = state.last_steps.add(
        multiply(kept, fall),
        jnp.float32(longer**2) * rates.applied.step_sq_norm,
        sq_norm_of_whole(trace, moments),
    )
    return updates, LayerRateWithMomentumState(rates, trace, last_steps)


def _fall(before: jax.Array, applied: Applied) -> jax.Array:
    """Returns the share of the last rate that the buffer is to follow to; else 1."""
    share = applied.schedule / jnp.where(before > 0, before, 1)
    is_share = (before > 0) & (share >= 0) & jnp.isfinite(share)
    is_followed = is_share & ((share < _STEP) | (applied.base_batches <= 1))
    return jnp.where(is_followed, share, 1).astype(weight_dtype())
