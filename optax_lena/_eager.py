"""Concrete values: what can be read, and decided, outside of `jax.jit`."""

from collections.abc import Callable
from typing import Any

import jax


def is_known(x: Any) -> bool:
    """Says whether this process can read the array now."""
    if isinstance(x, jax.core.Tracer):
        return False
    places = ("is_fully_addressable", "is_fully_replicated")
    return any(getattr(x, place, True) for place in places)


def choose(
    condition: jax.Array,
    on_true: Callable[[Any], Any],
    on_false: Callable[[Any], Any],
    operand: Any,
) -> Any:
    """Does `jax.lax.cond`, which outside of `jax.jit` would compile at every call."""
    if is_known(condition):
        return (on_true if condition else on_false)(operand)
    return jax.lax.cond(condition, on_true, on_false, operand)
