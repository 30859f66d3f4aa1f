"""Optax transformations whose updates take keyword arguments that they name."""

import functools
from collections.abc import Callable
from typing import Any

import optax

from optax_lena._checks import check_is


def transformation(
    init: Callable[..., Any],
    update: Callable[..., Any],
    state_class: type | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Makes one of `init(params)` and `update(updates, state, params, **extra_args)`.

    Optax types every update as free of keyword arguments that it names, and every state
    as any tree; here they are known, and checked where they are defined.

    Args:
      init: makes the state.
      update: makes the updates, and the next state.
      state_class: the class of the state. An update refuses a state of another class,
        such as that of another optimizer. None: it refuses none.

    Returns:
      The transformation.
    """
    if state_class is not None:
        update = functools.partial(_update, update, state_class)
    return optax.GradientTransformationExtraArgs(init, update)


def _update(
    update: Callable[..., Any],
    state_class: type,
    updates: Any,
    state: Any,
    params: Any = None,
    **extra_args: Any,
) -> tuple[Any, Any]:
    check_is("state", state, state_class, "tx.init(params)")
    return update(updates, state, params, **extra_args)
