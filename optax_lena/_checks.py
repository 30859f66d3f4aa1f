"""Checks of what a user gives: one helper for each kind, one wording for all.

A check rejects what is certainly wrong, where it is given if possible, in one line that
names the argument, what is allowed, what was given and what it is for. Traced values
pass: they are not known yet, and `optax.inject_hyperparams` changes them from update to
update.
"""

import numbers
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_lena._dtypes import is_kind
from optax_lena._types import varying

FLOAT32_MAX = float(np.finfo(np.float32).max)


def check_number(
    name: str,
    value: Any,
    meaning: str,
    *,
    at_least: float = -FLOAT32_MAX,
    above: float = -np.inf,
    below: float = np.inf,
    at_most: float = FLOAT32_MAX,
    integer: bool = False,
) -> None:
    """Raises unless `value` is a number in the range, or an array not known yet.

    Args:
      name: the argument's name.
      value: a Python number, or a scalar array of NumPy or JAX.
      meaning: what the argument is, as the end of "it is ...".
      at_least: the least value allowed.
      above: what the value must exceed.
      below: what the value must stay below.
      at_most: the largest value allowed.
      integer: whether it must be a whole number.

    Raises:
      ValueError: that names the argument, what is allowed, and what was got.
    """
    number = _known(value)
    if number is _UNKNOWN:
        return
    if (
        number is None
        or not max(at_least, -FLOAT32_MAX) <= number <= min(at_most, FLOAT32_MAX)
        or not above < number < below
        or (integer and number != int(number))
    ):
        low = (above, "(") if above > -np.inf else (at_least, "[")
        high = (below, ")") if below < np.inf else (at_most, "]")
        allowed = _allowed(low, high, "an integer" if integer else "a finite number")
        raise ValueError(f"`{name}` must be {allowed}, got {value!r}: it is {meaning}.")


def check_loss(value: Any, like: Any) -> None:
    """Raises a `ValueError` unless `value` can be the loss of a batch.

    Args:
      value: what the user gave.
      like: arrays that are the same on all devices that must agree on the loss.
    """
    is_real = _is_loss(value)
    if not is_real or np.shape(value):
        got = f"shape {np.shape(value)}" if is_real else repr(value)
        raise ValueError(
            "`value` must be the loss of the whole batch, a real number of shape (), "
            f"got {got}: take its mean over the examples, and over the devices."
        )
    mean = "take jax.lax.pmean(value, {axes})"
    check_same_on_devices("value", jnp.asarray(value), like, mean)


def check_same_on_devices(name: str, value: Any, like: Any, remedy: str) -> None:
    """Raises a `ValueError` if `value` varies over axes that `like` does not vary over.

    Args:
      name: the argument's name.
      value: a number, or a pytree of arrays.
      like: arrays that are the same on all devices that must agree on it.
      remedy: how to get such a value; "{axes}" stands for the axes.

    Raises:
      ValueError: that names the argument and the axes.
    """
    arrays = [x for x in jax.tree.leaves(value) if isinstance(x, jax.Array)]
    others = jax.tree.leaves(like)
    own, shared = (frozenset().union(*map(varying, x)) for x in (arrays, others))
    axes = sorted(own - shared)
    if axes and others:
        raise ValueError(
            f"`{name}` must be the same on every device, got one that varies over the "
            f"axes {axes}, each device's own: {remedy.format(axes=tuple(axes))}."
        )


def _is_loss(value: Any) -> bool:
    """Whether it is a real number or an array of such, be it of booleans."""
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return is_kind(value.dtype, np.floating, np.integer, np.bool_)
    # Others, such as an nnx.Variable, say how they become an array.
    return isinstance(value, (int, float)) or hasattr(value, "__jax_array__")


def known_number(value: Any) -> float | None:
    """Returns a number as a float; None if it is no number, or not known yet."""
    number = _known(value)
    return None if number is _UNKNOWN else number


def check_given(name: str, value: Any, by: str) -> None:
    """Raises a `ValueError` if `value`, which `by` needs, is None."""
    if value is None:
        raise ValueError(
            f"`{name}` must be given with `{by}`, got None: the global batch over the "
            "base batch, which the moments do not tell here."
        )


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises a `ValueError` unless `value` is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}, got {value!r}.")


def check_flag(name: str, value: Any) -> None:
    """Raises a `ValueError` unless `value` is a boolean, which arrays are not."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"`{name}` must be True or False, got {value!r}.")


def check_callable(name: str, value: Any, call: str) -> None:
    """Raises a `ValueError` unless `value` can be called, in the way that `call` says.

    Args:
      name: the argument's name.
      value: the argument's value.
      call: how it is called, such as `"loss_fn(params, batch)"`.

    Raises:
      ValueError: that names the argument.
    """
    if not callable(value):
        raise ValueError(f"`{name}` must be a function, `{call}`, got {value!r}.")


def check_is(name: str, value: Any, kind: type, source: str) -> None:
    """Raises a `TypeError` unless `value` is of a class, and says where to get one.

    Args:
      name: the argument's name.
      value: the argument's value.
      kind: a class.
      source: where to get such an object.

    Raises:
      TypeError: that names the argument.
    """
    if not isinstance(value, kind):
        raise TypeError(
            f"`{name}` must be of the type {kind.__name__}, got {shown(value)}: get "
            f"it from {source}."
        )


def check_optimizer(name: str, value: Any) -> None:
    """Raises a `TypeError` unless `value` is a gradient transformation."""
    if not (callable(getattr(value, "init", None)) and hasattr(value, "update")):
        raise TypeError(
            f"`{name}` must be an optax.GradientTransformation, such as "
            f"optax_lena.lena(0.1, batch_scale=8), got {value!r}."
        )


def check_dtype(name: str, value: Any) -> None:
    """Raises a `ValueError` unless `value` is None or a floating-point dtype."""
    try:
        is_right = value is None or jnp.issubdtype(value, jnp.inexact)
    except TypeError:
        is_right = False
    if not is_right:
        raise ValueError(
            f"`{name}` must be a floating-point dtype such as 'bfloat16', or None for "
            f"that of the parameters, got {value!r}."
        )


def check_momentum(value: Any) -> None:
    """Raises a `ValueError` unless `value` is in [0, 1), or None for no momentum."""
    if value is not None:
        meaning = "the share of the momentum buffer that is kept"
        check_number("momentum", value, meaning, at_least=0, below=1)


def check_beta(name: str, value: Any) -> None:
    """Raises a `ValueError` unless a moving average can have this decay."""
    meaning = "the share of a moving average that a step keeps"
    check_number(name, value, meaning, at_least=0, below=1)


def check_eps(value: Any) -> None:
    """Raises a `ValueError` for an epsilon below 0."""
    check_number("eps", value, "what is added to a denominator", at_least=0)


def check_weight_decay(value: Any, name: str = "weight_decay") -> None:
    """Raises a `ValueError` for a negative decay."""
    meaning = "what multiplies the parameters to decay them"
    check_number(name, value, meaning, at_least=0)


def check_rate(value: Any, name: str = "learning_rate") -> None:
    """Raises a `ValueError` unless `value` is a schedule, or a rate of at least 0."""
    if not callable(value):
        meaning = "the rate of the small batch, or its schedule"
        check_number(name, value, meaning, at_least=0)


def check_batch_scale(value: Any) -> None:
    """Raises a `ValueError` unless S, the batch scale, is above 0 or None."""
    if value is not None:
        meaning = "the global batch over the base batch"
        check_number("batch_scale", value, meaning, above=0)


def check_steps(value: Any, name: str) -> None:
    """Raises a `ValueError` unless `value` can be the length of a warm-up."""
    check_number(name, value, "a number of base-batch steps", at_least=0)


def check_warmup_steps(value: Any, stacklevel: int = 3) -> None:
    """Does `check_steps` for an optimizer; warns of what looks like a share of a run.

    Args:
      value: its argument `warmup_steps`.
      stacklevel: of the user's line, as for `warnings.warn`.
    """
    check_steps(value, "warmup_steps")
    if 0 < (known_number(value) or 0) < 1:
        warnings.warn(
            f"`warmup_steps` is a number of base-batch steps, got {value!r}: less than "
            "one step is no warm-up. For 5 % of a run, give 0.05 times its base steps.",
            RuntimeWarning,
            stacklevel=stacklevel,
        )


def shown(value: Any) -> str:
    """Returns the text for a value in an error: its type, if its `repr` is too long."""
    text = repr(value)
    return text if len(text) <= 200 else f"an object of type {type(value).__name__}"


def short(text: str) -> str:
    """Returns the beginning of a long text, such as an error that shows a model."""
    return text if len(text) <= 500 else f"{text[:500]}..."


_UNKNOWN = object()


def _known(value: Any) -> Any:
    """Returns a float; None for what is no real number; `_UNKNOWN` for tracers."""
    if isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_)):
        return _to_float(value)
    is_unknown = isinstance(value, (jax.core.Tracer, jax.ShapeDtypeStruct))
    if not is_unknown and not isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return None
    if np.shape(value) != () or not is_kind(value.dtype, np.floating, np.integer):
        return None
    if is_unknown or not getattr(value, "is_fully_addressable", True):
        return _UNKNOWN
    return _to_float(np.asarray(value))


def _to_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond all floats
        return np.inf if value > 0 else -np.inf


def _allowed(low: tuple[float, str], high: tuple[float, str], kind: str) -> str:
    """Writes a range as people would: "of at least 1", "in [0, 1)"."""
    (start, opening), (end, closing) = low, high
    if end < FLOAT32_MAX:
        return f"{kind} in {opening}{start:g}, {end:g}{closing}"
    if start <= -FLOAT32_MAX:
        return kind
    return (
        f"{kind} above {start:g}" if opening == "(" else f"{kind} of at least {start:g}"
    )
