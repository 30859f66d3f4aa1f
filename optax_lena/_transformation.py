"""Optax transformations whose updates take keyword arguments that they name."""

from collections.abc import Callable
from typing import Any

import optax


def transformation(
    init: Callable[..., Any], update: Callable[..., Any]
) -> optax.GradientTransformationExtraArgs:
    """Makes one of `init(params)` and `update(updates, state, params, **extra_args)`.

    Optax types every update as free of keyword arguments that it names, and every state
    as any tree; here they are known, and checked where they are defined.
    """
    return optax.GradientTransformationExtraArgs(init, update)
