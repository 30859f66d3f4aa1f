"""The wrapped optimizer: its checks and its preconditioner, for gatherers around it.

They hold the state of the optimizer, so they take a function of it that makes the
multipliers of gradients. The other gatherers take the multipliers themselves.
"""

from collections.abc import Callable
from typing import Any

import optax

from optax_lena._checks import check_callable, check_optimizer
from optax_lena._measure.layers import Layers, check_layers
from optax_lena._types import PyTree

# A function of the wrapped optimizer's state and a pytree like the parameters.
Preconditioner = Callable[[optax.OptState, PyTree], PyTree] | None


def wrapped(
    tx: Any, layers: Layers, preconditioner: Preconditioner
) -> optax.GradientTransformationExtraArgs:
    """Checks the arguments of a gatherer, and returns the optimizer that it wraps.

    Args:
      tx: the optimizer that gets the moments.
      layers: which parameters stack several layers.
      preconditioner: makes multipliers, or None.

    Returns:
      The optimizer, whose update takes any keyword argument.

    Raises:
      TypeError: if `tx` is no optimizer, or does not pass moments on.
      ValueError: if another argument is invalid.
    """
    check_optimizer("tx", tx)
    if _is_multi_steps(tx):
        raise TypeError(
            "`tx` must be an optimizer that gets the moments, got optax.MultiSteps, "
            "which drops them: pass the optimizer inside it, and let "
            "optax_lena.accumulate take its place."
        )
    check_layers(layers)
    if preconditioner is not None:  # a function, not multipliers
        call = "preconditioner(opt_state, params)"
        check_callable("preconditioner", preconditioner, call)
    return optax.with_extra_args_support(tx)


def _is_multi_steps(tx: Any) -> bool:
    """Says whether `tx` is a `MultiSteps`, or the transformation made from one."""
    candidates = tx, getattr(tx.update, "__self__", None)
    return any(isinstance(x, optax.MultiSteps) for x in candidates)


def multipliers_of(
    preconditioner: Preconditioner, inner_state: optax.OptState, grads: PyTree
) -> PyTree | None:
    """Returns what gradients are multiplied by for their norms; None for nothing."""
    return None if preconditioner is None else preconditioner(inner_state, grads)
