"""Optax transformations whose `update` names its keyword arguments."""

import functools
from collections.abc import Callable
from typing import Any

import optax

from optax_lena._checks import check_is
from optax_lena._types import vary_like


def transformation(
    init: Callable[..., Any],
    update: Callable[..., Any],
    state_class: type | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Makes a transformation of its `init` and its `update`.

    In Optax's types an update names no keyword arguments, and a state is any tree. Here
    both are more specific, and are type-checked where they are defined.

    Args:
      init: `init(params)`, which makes the state.
      update: `update(updates, state, params, **extra_args)`, for updates and state.
      state_class: the class of the state. An update rejects a state of another class,
        such as that of another optimizer. None: no check.

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
    updates, new_state = update(updates, state, params, **extra_args)
    return updates, vary_like(new_state, state)
