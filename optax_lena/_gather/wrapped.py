"""The wrapped optimizer: what gatherers around one ask of it, and of its state.

They hold the optimizer's state, and take a function of it that makes the multipliers of
gradients. The other gatherers take the multipliers themselves.
"""

from collections.abc import Callable
from typing import Any

import optax

from optax_lena._checks import check_callable, check_optimizer
from optax_lena._measure.layers import Layers, check_layers
from optax_lena._measure.layout import PyTree

# A function of the wrapped optimizer's state and a pytree like the parameters.
Preconditioner = Callable[[optax.OptState, PyTree], PyTree] | None


def wrapped(
    tx: Any, layers: Layers, preconditioner: Preconditioner
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer, once the arguments of its gatherer are checked.

    Args:
      tx: the optimizer that gets the moments.
      layers: which parameters stack several layers.
      preconditioner: what makes multipliers, or None.

    Returns:
      The optimizer, whose update takes any keyword argument.

    Raises:
      TypeError: if `tx` is no optimizer, or hands no moments on.
      ValueError: if another argument is not what its place takes.
    """
    check_optimizer("tx", tx)
    if _is_multi_steps(tx):
        raise TypeError(
            "`tx` must be an optimizer that gets the moments, got optax.MultiSteps, "
            "which drops them: pass the optimizer inside it, and let "
            "optax_lena.accumulate take its place."
        )
    check_layers(layers)
    if preconditioner is not None:  # and no multipliers in its place
        call = "preconditioner(opt_state, params)"
        check_callable("preconditioner", preconditioner, call)
    return optax.with_extra_args_support(tx)


def _is_multi_steps(tx: Any) -> bool:
    """Says whether it is one, or the transformation that one makes of itself."""
    candidates = tx, getattr(tx.update, "__self__", None)
    return any(isinstance(x, optax.MultiSteps) for x in candidates)


def multipliers_of(
    preconditioner: Preconditioner, inner_state: optax.OptState, grads: PyTree
) -> PyTree | None:
    """Returns what the gradients are multiplied by; None for their own norms."""
    return None if preconditioner is None else preconditioner(inner_state, grads)
