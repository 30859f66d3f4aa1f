"""Checks of what a user gives: one helper for numbers, one wording for all.

A check refuses what is certainly wrong. Traced values pass: they are not known yet, and
`optax.inject_hyperparams` changes them from update to update.
"""

import numbers
from typing import Any

import jax
import numpy as np

_FLOAT32_MAX = float(np.finfo(np.float32).max)


def check_number(
    name: str,
    value: Any,
    meaning: str,
    *,
    at_least: float = -_FLOAT32_MAX,
    below: float = np.inf,
    integer: bool = False,
) -> None:
    """Raises unless `value` is a number in the range, or an array not known yet.

    Args:
      name: of the argument.
      value: a Python number, or a scalar array of NumPy or JAX.
      meaning: of the argument, as the end of "it is ...".
      at_least: the least value allowed.
      below: what the value must stay below.
      integer: whether it must be a whole number.

    Raises:
      ValueError: that names the argument, what is allowed, and what was got.
    """
    known = _known(value)
    if known is _UNKNOWN:
        return
    if (
        known is None
        or not abs(known) <= _FLOAT32_MAX
        or not at_least <= known < below
        or (integer and known != int(known))
    ):
        raise ValueError(
            f"`{name}` must be {_allowed(at_least, below, integer)}, got {value!r}: "
            f"it is {meaning}."
        )


def check_given(name: str, value: Any, by: str) -> None:
    """Raises a `ValueError` if `value` is None where `by` cannot do without."""
    if value is None:
        raise ValueError(f"`{name}` must be given with `{by}`, got None.")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises a `ValueError` unless `value` is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}, got {value!r}.")


def check_momentum(value: Any) -> None:
    """Raises a `ValueError` unless `value` is in [0, 1), or None for no momentum."""
    if value is not None:
        meaning = "the share of the momentum buffer that is kept"
        check_number("momentum", value, meaning, at_least=0, below=1)


def check_weight_decay(value: Any, mask: Any) -> None:
    """Raises a `ValueError` for a negative decay, or a mask that is no mask."""
    meaning = "what multiplies the parameters to decay them"
    check_number("weight_decay", value, meaning, at_least=0)
    if isinstance(mask, (bool, np.bool_, np.ndarray, jax.Array)):
        raise ValueError(
            "`weight_decay_mask` must be a pytree of booleans like the parameters, or "
            f"a function of them, got {mask!r}: optax.inject_hyperparams calls every "
            "function with the number of updates. Name it in its `static_args`: "
            "optax.inject_hyperparams(optimizer, static_args=('weight_decay_mask',))."
        )


def check_rate(value: Any) -> None:
    """Raises a `ValueError` unless `value` is a schedule, or a rate of at least 0."""
    if not callable(value):
        meaning = "the rate of the small batch, or its schedule"
        check_number("learning_rate", value, meaning, at_least=0)


_UNKNOWN = object()


def _known(value: Any) -> Any:
    """Returns a float; None for what is no real number; `_UNKNOWN` for tracers."""
    if isinstance(value, jax.core.Tracer):
        return _UNKNOWN if value.shape == () else None
    if isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_)):
        return _to_float(value)
    if isinstance(value, jax.ShapeDtypeStruct) or (
        isinstance(value, jax.Array) and not value.is_fully_addressable
    ):
        return _UNKNOWN if value.shape == () else None
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        is_scalar = np.shape(value) == ()
        is_real = jax.dtypes.issubdtype(value.dtype, np.floating) or (
            jax.dtypes.issubdtype(value.dtype, np.integer)
        )
        return _to_float(np.asarray(value)) if is_scalar and is_real else None
    return None


def _to_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond all floats
        return np.inf


def _allowed(at_least: float, below: float, integer: bool) -> str:
    kind = "an integer" if integer else "a finite number"
    if below < np.inf:
        return f"{kind} in [{at_least:g}, {below:g})"
    return f"{kind} of at least {at_least:g}" if at_least > -_FLOAT32_MAX else kind
