"""What the parts of a `LayerRate` return, checked where it is used.

A user's own part that returns a vector of another shape would train by broadcasting,
and fail only where a report or a scan reads the state. In: what a part has returned.
Out: the same, or an error that names the part. The values themselves are not checked.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_lena._parts.clocks import Count
from optax_lena._parts.estimate import Estimate


def vector(name: str, what: str, value: Any, num_rows: int) -> jax.Array:
    """Returns `value`, which must be real numbers, one for each row.

    Args:
      name: the part's name.
      what: what each of the numbers is, such as `"one trust ratio"`.
      value: what the part returned.
      num_rows: the layers, and one for the whole model.

    Returns:
      An array of a floating-point dtype.

    Raises:
      ValueError: for anything else.
    """
    got = _shape(value)
    if got != (num_rows,):
        raise ValueError(
            f"`{name}` must return {what} for each of {num_rows} rows, the layers and "
            f"the whole model, shape ({num_rows},), got {got}."
        )
    return _as_float(value)


def scalar(name: str, what: str, value: Any) -> jax.Array:
    """Returns `value`, which must be a real number of shape `()`; see `vector`."""
    got = _shape(value)
    if got != ():
        raise ValueError(f"`{name}` must return {what}, shape (), got {got}.")
    return _as_float(value)


def members(name: str, returned: tuple[str, ...], value: Any) -> tuple[Any, ...]:
    """Returns `value`, which must be a tuple with these members."""
    if not isinstance(value, tuple) or len(value) != len(returned):
        raise ValueError(
            f"`{name}` must return ({', '.join(returned)}) from its `update`, got "
            f"{value!r}."
        )
    return value


def estimate(value: Any, num_rows: int) -> Estimate:
    """Returns `value`, which must be an `Estimate`."""
    if not isinstance(value, Estimate):
        raise ValueError(
            "`estimator` must return an optax_lena.Estimate, or one of a class derived "
            f"from it, from its `read`, got {value!r}."
        )
    vector("estimator", "one noise", value.noise, num_rows)
    vector("estimator", "one signal", value.signal, num_rows)
    return value


def progress(value: Any, num_rows: int) -> Count:
    """Returns `value`, which must be a warm-up's progress."""
    if not isinstance(value, Count):
        raise ValueError(
            "`warmup` must return the progress that it was given, once `add` has "
            f"counted the update, got {value!r}."
        )
    for part in value:
        vector("warmup", "one progress", part, num_rows)
    return value


def _shape(value: Any) -> Any:
    """Returns the shape of real numbers, and the `repr` of anything else."""
    is_array = isinstance(value, (int, float, np.ndarray, np.generic, jax.Array))
    is_real = is_array and jnp.result_type(value).kind not in "cmMOSU"
    return jnp.shape(value) if is_real else repr(value)


def _as_float(value: Any) -> jax.Array:
    is_float = jnp.issubdtype(jnp.result_type(value), jnp.floating)
    return jnp.asarray(value, None if is_float else jnp.float32)
