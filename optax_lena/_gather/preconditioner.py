"""What gatherers around an optimizer make the multipliers of gradients with.

They hold the optimizer's state, and take a function of it. The other gatherers take the
multipliers themselves.
"""

from collections.abc import Callable
from typing import Any

import optax

from optax_lena._checks import check_callable
from optax_lena._measure.layout import PyTree

# A function of the wrapped optimizer's state and a pytree like the parameters.
Preconditioner = Callable[[optax.OptState, PyTree], PyTree] | None


def check_preconditioner(preconditioner: Any) -> None:
    """Raises a `ValueError` for multipliers in the place of what makes them."""
    if preconditioner is not None:
        call = "preconditioner(opt_state, params)"
        check_callable("preconditioner", preconditioner, call)
