"""What optimizers share: weight decay, a momentum buffer, the sign, Adam's rate.

The order is torch SGD's, which the paper and its code use: weight decay joins the
gradient, both enter the momentum buffer, and the layer's rate multiplies what leaves
the buffer. Only in `lena_amplified` the rate enters the buffer too, as in `optax.lars`.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import optax

from optax_lena._checks import (
    check_dtype,
    check_flag,
    check_momentum,
    check_warmup_steps,
    check_weight_decay,
)
from optax_lena._masks import masked
from optax_lena._measure.layers import Layers
from optax_lena._measure.moments import GradMoments
from optax_lena._parts.layer_rate import LayerRate
from optax_lena._parts.loss_limit import LossLimit
from optax_lena._parts.normalised import normalised_gain
from optax_lena._parts.warmup import StateAwareWarmup
from optax_lena._transform.momentum import trace_of_examples
from optax_lena._transform.scale_by_lena import scale_by_layer_rate
from optax_lena._transformation import transformation
from optax_lena._types import PyTree

descent = optax.scale(-1.0)
"""Turns scaled gradients into updates."""


def normalised_rate(learning_rate: Any, warmup_steps: Any, guard: Any) -> LayerRate:
    """The rate of updates of normalised length (Adam, Muon).

    Args:
      learning_rate: η, of the base batch, or its schedule over base batches.
      warmup_steps: θ, in base-batch steps.
      guard: what limits the growth of a layer's rate.

    Returns:
      The rate, with its limits.
    """
    check_warmup_steps(warmup_steps, stacklevel=4)
    return LayerRate(
        learning_rate,
        rule=normalised_gain,
        warmup=StateAwareWarmup(warmup_steps),
        guard=guard,
        loss_limit=LossLimit(),
    )


def scale_by_normalised_rate(
    rate: LayerRate,
    batch_scale: Any,
    layers: Layers,
    is_divided: Callable[[PyTree], bool] = lambda updates: True,
) -> optax.GradientTransformationExtraArgs:
    """`scale_by_layer_rate`, which tells of moments without Adam's preconditioner.

    Args:
      rate: the parts.
      batch_scale: S; None: the number of microbatches.
      layers: which parameters are one layer.
      is_divided: says of the updates whether Adam has divided any of them, whose noise
        is that of the divided gradient.

    Returns:
      The transformation.
    """
    scale = scale_by_layer_rate(rate, batch_scale, layers=layers)
    if isinstance(batch_scale, (int, float)) and batch_scale == 1:
        return scale  # every gain is 1 then, whatever the moments are
    update = functools.partial(_scale_divided, scale, is_divided)
    return transformation(scale.init, update)


# The link is of any type, as optax's updates take no keyword that they do not name.
def _scale_divided(
    scale: Any,
    is_divided: Callable[[PyTree], bool],
    updates: PyTree,
    state: Any,
    params: PyTree | None = None,
    *,
    moments: GradMoments | None = None,
    **extra_args: Any,
) -> tuple[PyTree, Any]:
    if type(moments) is GradMoments and is_divided(updates):
        warnings.warn(
            "`moments` must be taken with Adam's preconditioner, got those of the "
            "plain gradient: the gain would be that of a few large entries. Give the "
            "gatherer preconditioner=optax_lena.adam_preconditioner(opt_state, "
            "params), and accumulate or from_successive_gradients the function itself.",
            RuntimeWarning,
            stacklevel=3,  # who called the chain
        )
    return scale.update(updates, state, params, moments=moments, **extra_args)


def decay(weight_decay: Any, mask: Any) -> optax.GradientTransformation:
    """Adds `weight_decay` times the parameters; its state is the same for none.

    Args:
      weight_decay: λ, a number or an array.
      mask: what decays; None: everything.

    Returns:
      The transformation.
    """
    check_weight_decay(weight_decay)
    # Only a plain 0 is known to be none; optax.inject_hyperparams passes arrays.
    is_none = isinstance(weight_decay, (int, float)) and weight_decay == 0
    added = optax.identity() if is_none else optax.add_decayed_weights(weight_decay)
    return masked(added, "weight_decay_mask", mask)


def buffer(
    momentum: Any, nesterov: bool, accumulator_dtype: Any
) -> optax.GradientTransformation:
    """The momentum buffer of `optax.sgd`; none if `momentum` is None.

    It keeps its dtype; `optax.trace` takes the dtype of wider gradients.

    Args:
      momentum: β, in [0, 1), or None.
      nesterov: whether to look ahead.
      accumulator_dtype: the dtype of the buffer; None: the parameters' dtype.

    Returns:
      The transformation.
    """
    check_buffer(momentum, nesterov, accumulator_dtype)
    if momentum is None:
        return optax.identity()
    return trace_of_examples(1, momentum, nesterov, accumulator_dtype)


def check_buffer(momentum: Any, nesterov: Any, accumulator_dtype: Any) -> None:
    """Raises a `ValueError` for an option that no momentum buffer has."""
    check_momentum(momentum)
    check_flag("nesterov", nesterov)
    check_dtype("accumulator_dtype", accumulator_dtype)
