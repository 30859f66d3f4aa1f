"""What the optimizers chain around LENA: weight decay, a momentum buffer, the sign.

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
    check_weight_decay,
)
from optax_lena._transform.momentum import trace_of_examples

descent = optax.scale(-1.0)
"""Turns scaled gradients into updates."""


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
    _check_buffer(momentum, nesterov, accumulator_dtype)
    if momentum is None:
        return optax.identity()
    return optax.trace(momentum, nesterov, accumulator_dtype)


def buffer_of_examples(
    batch_scale: Any, momentum: Any, nesterov: bool, accumulator_dtype: Any
) -> optax.GradientTransformation:
    """The same, whose momentum follows S."""
    _check_buffer(momentum, nesterov, accumulator_dtype)
    if momentum is None:
        return optax.identity()
    return trace_of_examples(batch_scale, momentum, nesterov, accumulator_dtype)


def _check_buffer(momentum: Any, nesterov: Any, accumulator_dtype: Any) -> None:
    check_momentum(momentum)
    check_flag("nesterov", nesterov)
    check_dtype("accumulator_dtype", accumulator_dtype)
