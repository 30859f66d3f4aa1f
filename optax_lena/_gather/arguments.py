"""The arguments of a gatherer's call: what none of its ways could make sense of."""

import sys
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from optax_lena._checks import shown
from optax_lena._dtypes import is_key, is_kind
from optax_lena._types import PyTree

# The collection whose gradients replace it, in flax.linen.fp8_ops.
_OVERWRITTEN = "_overwrite_with_gradient"


def check_arrays(what: str, tree: PyTree) -> None:
    """Raises a `TypeError` that names a leaf of `tree` which is no array."""
    kinds = (np.number, np.bool_, jax.dtypes.extended)
    for path, leaf in tree_leaves_with_path(tree):
        dtype = getattr(leaf, "dtype", type(leaf))
        is_number = isinstance(leaf, (bool, int, float, complex))
        if not is_number and not is_kind(dtype, *kinds):
            got = f"an array of {dtype}" if hasattr(leaf, "dtype") else shown(leaf)
            raise TypeError(
                f"{what} must hold arrays of numbers, got {got} at "
                f"{keystr(path) or 'its root'}: leave it out, or make numbers of it."
            )


def check_dense(batch: PyTree) -> None:
    """Raises a `TypeError` that names a sparse array, whose leaves have no examples."""
    sparse = sys.modules.get("jax.experimental.sparse")
    if sparse is None:  # then there is none
        return
    is_sparse = lambda x: isinstance(x, sparse.JAXSparse)  # noqa: E731
    for path, leaf in tree_leaves_with_path(batch, is_leaf=is_sparse):
        if is_sparse(leaf):
            raise TypeError(
                f"`batch` must hold dense arrays, got {type(leaf).__name__} at "
                f"{keystr(path) or 'its root'}, which would be cut along what it "
                "stores and not along its rows: pass x.todense(), or arrays of indices "
                "and values with a row for each example."
            )


def check_averaged(params: PyTree) -> None:
    """Raises a `ValueError` for flax's fp8 layers, some of whose gradients are none."""
    if isinstance(params, Mapping) and _OVERWRITTEN in params:
        raise ValueError(
            "`params` must hold what can be averaged over microbatches, got "
            f"{_OVERWRITTEN!r}, the maxima of flax's fp8 layers, which would come out "
            "too small: use optax_lena.from_successive_gradients with gradients of the "
            "whole batch, or layers in bfloat16."
        )


def check_some_examples(batch: Any, further: Any) -> None:
    """Raises a `ValueError` where nothing differs between microbatches.

    Such as a batch without arrays, for a loss that closes over it: every gain is 1.

    Args:
      batch: the batch.
      further: whatever else may hold keys, which differ between microbatches.
    """
    if not jax.tree.leaves(batch) and not any(map(is_key, jax.tree.leaves(further))):
        raise ValueError(
            f"`batch` must hold the examples, got {batch!r} and no typed PRNG key, so "
            "that all microbatches would be the same and every gain 1: let the loss "
            "take as an argument what it closes over. A loss that draws its examples "
            "takes a key as a further argument, such as jax.random.key(0), or as `key`."
        )


def check_further(batch: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Checks the arguments beside the batch for labels, and warns of raw keys.

    Args:
      batch: the batch.
      args: the arguments after it, which every microbatch gets whole.
      kwargs: the keyword arguments, likewise.

    Raises:
      ValueError: for `f(params, x, y)`, where y looks like the labels of x. Every
        microbatch would get all of y, and broadcast it or read wrong rows, silently.
    """
    if any(map(_may_be_raw_key, jax.tree.leaves((args, kwargs)))):
        warnings.warn(
            "A further argument looks like a PRNG key of jax.random.PRNGKey, which is "
            "an array like any other: every microbatch gets the same random numbers. "
            "Pass a typed key, such as jax.random.key(0) or "
            "jax.random.wrap_key_data(raw_key), or the raw one as `key=`.",
            RuntimeWarning,
            stacklevel=3,
        )
    rows: tuple[int, ...] = ()
    for leaf in jax.tree.leaves(batch):
        rows = jnp.shape(leaf)[:1] or rows
    for arg in args:
        if not _is_array(arg) or _may_be_raw_key(arg):
            continue
        if rows not in ((), (1,)) and arg.shape[:1] == rows:
            raise ValueError(
                f"`batch` must hold all that has an example per row, got {rows[0]} "
                f"examples and a further argument of shape {arg.shape}, which every "
                "microbatch would get whole: pass `(x, y)` as the batch, or by keyword "
                "what is no example."
            )


def _is_array(x: Any) -> bool:
    return isinstance(x, (jax.Array, np.ndarray))


def _may_be_raw_key(x: Any) -> bool:
    """Says whether an array has the dtype and the shape of a raw PRNG key."""
    return _is_array(x) and x.dtype == jnp.uint32 and x.shape in ((2,), (4,))


def check_key(key: Any) -> None:
    """Raises a `ValueError` unless `key` is None, or one PRNG key of either kind."""
    dtype, shape = (getattr(key, x, None) for x in ("dtype", "shape"))
    is_raw = dtype == jnp.uint32 and shape is not None and len(shape) == 1
    if key is not None and not (is_key(key) and shape == ()) and not is_raw:
        raise ValueError(
            f"`key` must be one PRNG key, such as jax.random.key(0), got {key!r}."
        )
