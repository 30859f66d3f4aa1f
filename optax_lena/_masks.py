"""Masks: which parameters an Optax transformation applies to.

In: a pytree of booleans, or a function of the parameters that returns one. Out: the
transformation, applied to these parameters only.
"""

import functools
import numbers
from typing import Any

import jax
import numpy as np
import optax

from optax_lena._checks import shown


def masked(
    tx: optax.GradientTransformation, name: str, mask: Any
) -> optax.GradientTransformation:
    """Returns `optax.masked`, or the transformation itself if `mask` is None.

    Args:
      tx: the transformation.
      name: the name of the mask's argument, for errors.
      mask: which parameters it applies to; a pytree may be a prefix of the parameters.

    Returns:
      The transformation, which raises a `ValueError` for parameters of another tree.

    Raises:
      ValueError: if `mask` is not a mask.
    """
    _check_mask(name, mask)
    if mask is None:
        return tx
    return optax.masked(tx, functools.partial(_mask_of, name, mask))


def _check_mask(name: str, mask: Any) -> None:
    """Raises a `ValueError` unless `mask` is None, a tree of booleans or a function."""
    if mask is None or _is_function(mask):
        return
    leaves = jax.tree.leaves(mask, is_leaf=lambda x: x is None)
    # One boolean for all may be what a function has returned for the number of updates.
    is_single = isinstance(mask, (int, np.generic, np.ndarray, jax.Array))
    if is_single or not all(map(_is_boolean, leaves)):
        raise ValueError(
            f"`{name}` must be a pytree of booleans like the parameters, a function of "
            f"them, or None for all, got {mask!r}. Inside optax.inject_hyperparams, "
            "which calls functions with the number of updates, name it in "
            "`static_args`: optax.inject_hyperparams(optimizer, "
            f"static_args=({name!r},))."
        )


def _mask_of(name: str, mask: Any, tree: Any) -> Any:
    """Returns the booleans for a tree of parameters or updates."""
    given = mask(tree) if _is_function(mask) else mask
    try:
        jax.tree.map(lambda own, leaves: None, given, tree)
    except ValueError as error:
        raise ValueError(
            f"`{name}` must be a pytree of booleans like the parameters, or a prefix "
            f"of it, got {shown(given)} for {jax.tree.structure(tree)}: make it of "
            "them, such as jax.tree.map(lambda p: p.ndim > 1, params)."
        ) from error
    if not all(map(_is_truth, jax.tree.leaves(given))):
        raise ValueError(
            f"`{name}` must be a pytree of booleans like the parameters, or return "
            f"one, got {shown(given)}: such as jax.tree.map(lambda p: p.ndim > 1, "
            "params)."
        )
    return given


def _is_function(mask: Any) -> bool:
    """Says whether `mask` is a function; a callable pytree such as a module is not."""
    return callable(mask) and all(map(callable, jax.tree.leaves(mask)))


def _is_boolean(x: Any) -> bool:
    """Says whether it is a boolean, also in an array, or 0 or 1, which optax takes."""
    if isinstance(x, (np.ndarray, jax.Array)):
        return x.dtype == bool
    return isinstance(x, (bool, np.bool_, numbers.Integral)) and x in (0, 1)


def _is_truth(x: Any) -> bool:
    """Says whether it is true or false, as any number is, which is all optax asks."""
    if isinstance(x, (np.ndarray, jax.Array)):
        return x.ndim == 0
    return isinstance(x, (bool, np.bool_, numbers.Number))


def is_masked(node: Any) -> bool:
    """Says whether optax has put a placeholder in an array's place."""
    return isinstance(node, optax.MaskedNode)
