"""What optimizers share: weight decay, a momentum buffer, the sign, Adam's rate.

The order is torch SGD's, which the paper and its code use: weight decay joins the
gradient, both enter the momentum buffer, and the layer's rate multiplies what leaves
the buffer. Only in `lena_amplified` the rate enters the buffer too, as in `optax.lars`.
"""

from typing import Any

import optax

from optax_lena._checks import (
    check_dtype,
    check_flag,
    check_momentum,
    check_steps,
    check_weight_decay,
)
from optax_lena._parts.guard import GrowthLimit
from optax_lena._parts.layer_rate import LayerRate
from optax_lena._parts.loss_limit import LossLimit
from optax_lena._parts.normalised import normalised_gain
from optax_lena._parts.warmup import StateAwareWarmup

descent = optax.scale(-1.0)
"""Turns scaled gradients into updates."""


def normalised_rate(learning_rate: Any, warmup_steps: Any) -> LayerRate:
    """The rate of updates of normalised length, Adam's and Muon's.

    Args:
      learning_rate: η, of the base batch, or its schedule over base batches.
      warmup_steps: θ, in base-batch steps.

    Returns:
      The rate, with its limits.
    """
    check_steps(warmup_steps)
    return LayerRate(
        learning_rate,
        rule=normalised_gain,
        warmup=StateAwareWarmup(warmup_steps),
        guard=GrowthLimit(),
        loss_limit=LossLimit(),
    )


def decay(weight_decay: Any, mask: Any) -> optax.GradientTransformation:
    """Adds `weight_decay` times the parameters; its state is the same for none.

    Args:
      weight_decay: λ, a number or an array.
      mask: what decays; None: everything.

    Returns:
      The transformation.
    """
    check_weight_decay(weight_decay, mask)
    # Only a plain 0 is known to be none; optax.inject_hyperparams passes arrays.
    if not (isinstance(weight_decay, (int, float)) and weight_decay == 0):
        return optax.add_decayed_weights(weight_decay, mask)
    nothing = optax.identity()
    return nothing if mask is None else optax.masked(nothing, mask)


def buffer(
    momentum: Any, nesterov: bool, accumulator_dtype: Any
) -> optax.GradientTransformation:
    """The momentum buffer of `optax.sgd`; none if `momentum` is None."""
    check_buffer(momentum, nesterov, accumulator_dtype)
    if momentum is None:
        return optax.identity()
    return optax.trace(momentum, nesterov, accumulator_dtype)


def check_buffer(momentum: Any, nesterov: Any, accumulator_dtype: Any) -> None:
    """Raises a `ValueError` for an option that no momentum buffer has."""
    check_momentum(momentum)
    check_flag("nesterov", nesterov)
    check_dtype("accumulator_dtype", accumulator_dtype)
